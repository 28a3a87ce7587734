//! What a delivery is told: names, cuts, pace, retries.

use std::time::Duration;

use serde::Deserialize;

/// Wait between two GetRecords of one shard: the quota is 5 a second, shared with other readers.
/// Source: Kinesis Data Streams, Quotas and limits.
pub const MIN_POLL: Duration = Duration::from_millis(210);

/// Records that one GetRecords may ask for. Source: GetRecords, Kinesis API Reference.
pub const MAX_PAGE_RECORDS: i32 = 10_000;

/// The section `[deliver]` of `clickmill.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliverSettings {
    /// Commit at the latest this long after the first record of it was read.
    pub max_age_seconds: Option<u64>,
    /// Commit when nothing more has come for this long.
    pub idle_seconds: Option<u64>,
    /// Commit when this much is held, before compression.
    pub max_megabytes: Option<u64>,
    /// Wait between two reads of a shard that has nothing more.
    pub poll_milliseconds: Option<u64>,
}

/// One delivery.
#[derive(Clone, Debug)]
pub struct DeliverConfig {
    /// The stream's name.
    pub stream: String,
    /// When to end.
    pub until: Until,
    /// When to commit; looked at after each page.
    pub cut: CutPolicy,
    /// Records asked for at once, at most [`MAX_PAGE_RECORDS`].
    pub page_records: i32,
    /// Wait between two reads of a shard that has nothing more; at least [`MIN_POLL`].
    pub poll: Duration,
    /// Wait between two looks at the stream's shards.
    pub discover: Duration,
    /// How to go about failures.
    pub retry: RetryPolicy,
}

/// When a delivery ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// When it is cancelled.
    Cancelled,
    /// When every shard has been read to its end as of now.
    CaughtUp,
}

/// When what was read is committed. The clock may decide: the commit chain does not care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutPolicy {
    /// This many bytes of lines, before compression.
    pub max_bytes: u64,
    /// This long after the first record was read.
    pub max_age: Duration,
    /// This long after the last record was read.
    pub idle: Duration,
}

/// Exponential backoff with full jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Upper end of the first wait.
    pub base: Duration,
    /// Upper end of every wait.
    pub cap: Duration,
    /// Failures in a row before giving up; `None`: never.
    pub max_attempts: Option<u32>,
}

impl DeliverConfig {
    /// The defaults: a record is in the raw zone within 20 s, within 5 s of the last one.
    #[must_use]
    pub fn new(stream: impl Into<String>, until: Until) -> Self {
        let max_attempts = match until {
            Until::Cancelled => None,
            Until::CaughtUp => Some(10),
        };
        Self {
            stream: stream.into(),
            until,
            cut: CutPolicy {
                max_bytes: 64 << 20,
                max_age: Duration::from_secs(20),
                idle: Duration::from_secs(5),
            },
            page_records: MAX_PAGE_RECORDS,
            poll: Duration::from_secs(1),
            discover: Duration::from_secs(30),
            retry: RetryPolicy {
                base: Duration::from_millis(500),
                cap: Duration::from_secs(20),
                max_attempts,
            },
        }
    }

    /// Lays the file's section over it.
    #[must_use]
    pub fn with_settings(mut self, settings: &DeliverSettings) -> Self {
        let seconds = |value: Option<u64>, default| value.map_or(default, Duration::from_secs);
        self.cut.max_age = seconds(settings.max_age_seconds, self.cut.max_age);
        self.cut.idle = seconds(settings.idle_seconds, self.cut.idle);
        if let Some(megabytes) = settings.max_megabytes {
            self.cut.max_bytes = megabytes.saturating_mul(1 << 20);
        }
        if let Some(milliseconds) = settings.poll_milliseconds {
            self.poll = Duration::from_millis(milliseconds).max(MIN_POLL);
        }
        self
    }
}

impl CutPolicy {
    /// Decides, `now`, over `bytes` whose first and last record were read at those times.
    #[must_use]
    pub fn is_due(&self, bytes: u64, since_first: Duration, since_last: Duration) -> bool {
        bytes > 0
            && (bytes >= self.max_bytes || since_first >= self.max_age || since_last >= self.idle)
    }
}

impl RetryPolicy {
    /// The wait after the `attempt`th failure in a row (from 1), by a `random` number.
    #[must_use]
    pub fn wait(&self, attempt: u32, random: u64) -> Duration {
        let doubled = self.base.saturating_mul(1 << attempt.saturating_sub(1).min(16));
        let longest = u64::try_from(doubled.min(self.cap).as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(random % longest.max(1))
    }

    /// True where the `attempt`th failure in a row is the last allowed.
    #[must_use]
    pub fn is_exhausted(&self, attempt: u32) -> bool {
        self.max_attempts.is_some_and(|most| attempt >= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_due_by_size_age_or_idleness_and_never_when_empty() {
        let cut = DeliverConfig::new("s", Until::Cancelled).cut;
        let second = Duration::from_secs;
        assert!(!cut.is_due(0, second(3_600), second(3_600)));
        assert!(!cut.is_due(1, second(19), second(4)));
        assert!(cut.is_due(1, second(20), second(0)));
        assert!(cut.is_due(1, second(5), second(5)));
        assert!(cut.is_due(64 << 20, second(0), second(0)));
        assert!(!cut.is_due((64 << 20) - 1, second(0), second(0)));
    }

    #[test]
    fn waits_grow_to_the_cap_and_end_where_they_must() {
        let retry = DeliverConfig::new("s", Until::CaughtUp).retry;
        for (attempt, longest) in
            [(1, 500), (2, 1_000), (6, 16_000), (7, 20_000), (4_000_000, 20_000)]
        {
            assert_eq!(retry.wait(attempt, longest - 1).as_millis(), u128::from(longest - 1));
            assert_eq!(retry.wait(attempt, longest), Duration::ZERO);
        }
        assert!(!retry.is_exhausted(9) && retry.is_exhausted(10));
        assert!(!DeliverConfig::new("s", Until::Cancelled).retry.is_exhausted(u32::MAX));
    }
}
