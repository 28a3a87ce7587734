//! The sinks' sections of `clickmill.toml`.

use std::time::Duration;

use serde::Deserialize;

use super::{FirehoseLimits, KinesisLimits};

/// The section `[collector.kinesis]`. What is not given is
/// [`KinesisLimits::default`]'s.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KinesisSettings {
    /// Bytes up to which events share a record; 0: every event is a record of its own.
    pub aggregate_bytes: Option<usize>,
    /// Bytes of a record with its partition key.
    pub max_record_bytes: Option<usize>,
    /// Records in a call.
    pub max_call_records: Option<usize>,
    /// Bytes in a call, partition keys included.
    pub max_call_bytes: Option<usize>,
    /// Milliseconds after which a call without an answer is made again.
    pub call_timeout_ms: Option<u64>,
}

/// The section `[collector.firehose]`. What is not given is
/// [`FirehoseLimits::default`]'s.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirehoseSettings {
    /// Bytes up to which events share a record; 0: every event is a record of its own.
    pub record_bytes: Option<usize>,
    /// Milliseconds after which a call without an answer is made again.
    pub call_timeout_ms: Option<u64>,
}

/// The least room for a record that a cap may leave: a reject with a few of its bytes.
const LEAST_RECORD_BYTES: usize = 4 * 1024;

impl KinesisSettings {
    /// The limits with these laid over the defaults.
    #[must_use]
    pub fn limits(&self) -> KinesisLimits {
        let defaults = KinesisLimits::default();
        let record_bytes = self.max_record_bytes.unwrap_or(defaults.record_bytes);
        let bytes_a_call = self.max_call_bytes.unwrap_or(defaults.bytes_a_call);
        KinesisLimits {
            records_a_call: self.max_call_records.unwrap_or(defaults.records_a_call).max(1),
            bytes_a_call: bytes_a_call.max(LEAST_RECORD_BYTES),
            record_bytes: record_bytes.max(LEAST_RECORD_BYTES),
            aggregate_bytes: self.aggregate_bytes.unwrap_or(defaults.aggregate_bytes),
            call_timeout: timeout(self.call_timeout_ms, defaults.call_timeout),
        }
    }
}

impl FirehoseSettings {
    /// The limits with these laid over the defaults.
    #[must_use]
    pub fn limits(&self) -> FirehoseLimits {
        let defaults = FirehoseLimits::default();
        FirehoseLimits {
            record_target_bytes: self.record_bytes.unwrap_or(defaults.record_target_bytes),
            call_timeout: timeout(self.call_timeout_ms, defaults.call_timeout),
            ..defaults
        }
    }
}

fn timeout(milliseconds: Option<u64>, default: Duration) -> Duration {
    milliseconds.map_or(default, |given| Duration::from_millis(given.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_are_laid_over_the_defaults_and_leave_room_for_a_reject() {
        let settings = KinesisSettings {
            aggregate_bytes: Some(0),
            max_record_bytes: Some(1),
            max_call_records: Some(0),
            call_timeout_ms: Some(0),
            ..KinesisSettings::default()
        };
        let limits = settings.limits();
        assert_eq!(limits.aggregate_bytes, 0);
        assert_eq!(limits.record_bytes, LEAST_RECORD_BYTES);
        assert_eq!((limits.records_a_call, limits.call_timeout.as_millis()), (1, 1));
        assert_eq!(limits.bytes_a_call, KinesisLimits::default().bytes_a_call);
        assert_eq!(FirehoseSettings::default().limits(), FirehoseLimits::default());
    }
}
