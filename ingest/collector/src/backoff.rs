//! How long to wait before trying again: decorrelated jitter, which spreads
//! many clients out and remembers nothing but the last wait.

use std::time::Duration;

/// Waits between `base` and `cap`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    base: Duration,
    cap: Duration,
    last: Duration,
}

impl Backoff {
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, last: base }
    }

    /// The next wait.
    pub fn next(&mut self) -> Duration {
        self.next_with(random_unit())
    }

    /// Uniform between `base` and three times the last wait; `unit` is in `0.0..1.0`.
    fn next_with(&mut self, unit: f64) -> Duration {
        let above = self.last.saturating_mul(3).saturating_sub(self.base);
        self.last = (self.base + above.mul_f64(unit)).min(self.cap);
        self.last
    }
}

/// Random enough to spread retries: 53 bits of a UUIDv4.
fn random_unit() -> f64 {
    let bits = uuid::Uuid::new_v4().as_u64_pair().1 & ((1 << 53) - 1);
    bits as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_between_base_and_cap() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for unit in [0.0, 0.999, 0.999, 0.999, 0.999, 0.999, 0.999] {
            let wait = backoff.next_with(unit);
            assert!((100..=5_000).contains(&wait.as_millis()), "{wait:?}");
        }
        assert_eq!(backoff.last, Duration::from_secs(5));
        let random = backoff.next().as_millis();
        assert!((100..=5_000).contains(&random), "{random}");
    }
}
