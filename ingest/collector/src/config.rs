//! The `[collector]` section of `clickmill.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::BatchLimits;
use crate::server::WriteKeys;
use crate::sink::{FirehoseLimits, KinesisLimits};
use crate::spool::SpoolOptions;

/// Every key is optional; flags win over them.
///
/// ```toml
/// [collector]
/// listen = "127.0.0.1:8080"
/// spool = "./clickmill-spool"
/// sink = "lake"                    # or "kinesis=STREAM", "firehose=STREAM"
/// spool_max_bytes = 4294967296
/// batch_max_events = 20000
/// batch_max_bytes = 16777216
/// batch_max_wait_ms = 5000
///
/// [collector.write_keys]           # write key = app_id
/// "9hbkJNpR" = "shop-de"
///
/// [collector.kinesis]              # for the sink kinesis=STREAM
/// aggregate_bytes = 51200          # 0: every event is a record of its own
/// max_record_bytes = 1048576       # up to 10485760 where the stream allows it
/// max_call_records = 500
/// max_call_bytes = 10485760
/// call_timeout_ms = 30000
///
/// [collector.firehose]             # for the sink firehose=STREAM
/// record_bytes = 256000            # events share a record up to this; 0: one each
/// call_timeout_ms = 30000
/// ```
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectorConfig {
    /// The address to listen on.
    pub listen: Option<SocketAddr>,
    /// The spool's folder.
    pub spool: Option<PathBuf>,
    /// Where events go, as `--sink` says it.
    pub sink: Option<String>,
    /// The spool refuses what would make it larger.
    pub spool_max_bytes: Option<u64>,
    /// A batch for the sink: records at most.
    pub batch_max_events: Option<usize>,
    /// A batch for the sink: bytes at most.
    pub batch_max_bytes: Option<usize>,
    /// A batch for the sink: how long its first record waits.
    pub batch_max_wait_ms: Option<u64>,
    /// Write keys that are taken, each with the `app_id` of its events.
    #[serde(default)]
    pub write_keys: BTreeMap<String, String>,
    /// Caps of the Kinesis sink.
    #[serde(default)]
    pub kinesis: KinesisSettings,
    /// Caps of the Firehose sink.
    #[serde(default)]
    pub firehose: FirehoseSettings,
}

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

/// Segments that a full spool has at least.
const LEAST_SEGMENTS: u64 = 8;
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

impl CollectorConfig {
    /// The spool's sizes.
    #[must_use]
    pub fn spool_options(&self) -> SpoolOptions {
        let defaults = SpoolOptions::default();
        let mut options = defaults;
        options.max_bytes = self.spool_max_bytes.unwrap_or(defaults.max_bytes);
        // A segment makes room only once it is closed: a spool that is full
        // within its first one would stay full for good.
        options.segment_bytes = defaults.segment_bytes.min(options.max_bytes / LEAST_SEGMENTS);
        options
    }

    /// When a batch is sent, with `defaults` for the sink in use.
    #[must_use]
    pub fn batch_limits(&self, defaults: BatchLimits) -> BatchLimits {
        BatchLimits {
            max_events: self.batch_max_events.unwrap_or(defaults.max_events).max(1),
            max_bytes: self.batch_max_bytes.unwrap_or(defaults.max_bytes).max(1),
            max_wait: self.batch_max_wait_ms.map_or(defaults.max_wait, Duration::from_millis),
        }
    }

    /// The keys of the file and of the command line; an `app_id` from the file
    /// holds for a key that is given in both.
    #[must_use]
    pub fn keys<'a>(&self, flags: impl IntoIterator<Item = &'a str>) -> WriteKeys {
        let keys = flags
            .into_iter()
            .fold(WriteKeys::any(), |keys, key| keys.with(key, crate::server::DEFAULT_APP_ID));
        self.write_keys.iter().fold(keys, |keys, (key, app_id)| keys.with(key, app_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_spool_has_several_segments_all_the_same() {
        let options = |spool_max_bytes| {
            CollectorConfig { spool_max_bytes, ..CollectorConfig::default() }.spool_options()
        };
        let defaults = SpoolOptions::default();
        assert_eq!(options(None), defaults);
        assert_eq!(options(Some(1 << 20)).segment_bytes, 1 << 17);
        assert_eq!(options(Some(defaults.max_bytes)).segment_bytes, defaults.segment_bytes);
    }

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
