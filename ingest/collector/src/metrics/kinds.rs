//! The kinds of a metric: atomics that are added to without waiting.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// A family has no more series than this; the next ones share [`OTHER`].
/// A stream of a thousand shards is as wide as our users' get.
pub const MAX_SERIES: usize = 1_000;
/// The label values of what did not fit.
pub const OTHER: &str = "other";

/// Goes up only.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// Goes up and down, or is set.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

/// How durations are distributed over fixed bounds.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds in seconds, ascending; one more bucket is above the last.
    bounds: &'static [f64],
    buckets: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
}

/// One metric per combination of `N` label values.
#[derive(Debug)]
pub struct Family<T, const N: usize> {
    labels: [&'static str; N],
    /// Sorted by label values.
    series: RwLock<Vec<Series<T, N>>>,
}

type Series<T, const N: usize> = ([Box<str>; N], Arc<T>);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Histogram {
    /// An empty one with upper `bounds` in seconds, ascending.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        debug_assert!(bounds.is_sorted(), "bounds ascend");
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, sum_nanos: AtomicU64::new(0) }
    }

    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// The upper bounds, each with how many durations are not above it; last
    /// the number of all, whose bound is `None`.
    pub(super) fn cumulative(&self) -> Vec<(Option<f64>, u64)> {
        let bounds = self.bounds.iter().copied().map(Some).chain([None]);
        let mut total = 0;
        bounds
            .zip(&self.buckets)
            .map(|(bound, bucket)| {
                total += bucket.load(Ordering::Relaxed);
                (bound, total)
            })
            .collect()
    }

    pub(super) fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed))
    }
}

impl<T: Default, const N: usize> Family<T, N> {
    /// An empty one.
    #[must_use]
    pub const fn new(labels: [&'static str; N]) -> Self {
        Self { labels, series: RwLock::new(Vec::new()) }
    }

    /// The metric for these label values. Who adds to it often keeps the `Arc`.
    #[must_use]
    pub fn with(&self, values: [&str; N]) -> Arc<T> {
        let find = |series: &[Series<T, N>]| {
            series.binary_search_by(|(have, _)| {
                have.iter().map(AsRef::as_ref).cmp(values.iter().copied())
            })
        };
        {
            let series = self.series.read().unwrap_or_else(PoisonError::into_inner);
            if let Ok(at) = find(&series) {
                return Arc::clone(&series[at].1);
            }
        }
        let mut series = self.series.write().unwrap_or_else(PoisonError::into_inner);
        match find(&series) {
            Ok(at) => Arc::clone(&series[at].1),
            Err(_) if series.len() >= MAX_SERIES && values != [OTHER; N] => {
                drop(series);
                self.with([OTHER; N])
            }
            Err(at) => {
                let new = Arc::new(T::default());
                series.insert(at, (values.map(Into::into), Arc::clone(&new)));
                new
            }
        }
    }

    pub(super) const fn labels(&self) -> &[&'static str; N] {
        &self.labels
    }

    pub(super) fn each(&self, mut show: impl FnMut(&[Box<str>; N], &T)) {
        let series = self.series.read().unwrap_or_else(PoisonError::into_inner);
        for (values, metric) in &*series {
            show(values, metric);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_on_a_bound_counts_below_it() {
        let histogram = Histogram::new(&[0.001, 0.01]);
        for micros in [0, 1_000, 1_001, 10_000, 10_001, 5_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        assert_eq!(histogram.cumulative(), [(Some(0.001), 2), (Some(0.01), 4), (None, 6)]);
        assert_eq!(histogram.sum(), Duration::from_micros(5_022_002));
        assert_eq!(histogram.count(), 6);
    }

    #[test]
    fn the_same_labels_are_the_same_counter() {
        let family: Family<Counter, 2> = Family::new(["a", "b"]);
        family.with(["x", "y"]).inc();
        family.with(["x", "z"]).add(5);
        family.with(["x", "y"]).inc();
        assert_eq!(family.with(["x", "y"]).get(), 2);
        assert_eq!(family.with(["x", "z"]).get(), 5);
    }

    #[test]
    fn a_family_is_bounded_and_counts_the_rest_as_other() {
        let family: Family<Counter, 1> = Family::new(["shard"]);
        for n in 0..=MAX_SERIES {
            family.with([&format!("shard-{n}")]).inc();
        }
        family.with(["one more"]).inc();
        family.with(["shard-7"]).inc();
        let (mut series, mut total) = (0, 0);
        family.each(|_, counter| {
            series += 1;
            total += counter.get();
        });
        // The last one is `other` itself.
        assert_eq!((series, total), (MAX_SERIES + 1, MAX_SERIES as u64 + 3));
        assert_eq!(family.with([OTHER]).get(), 2);
    }
}
