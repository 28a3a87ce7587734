//! The `[collector]` section of `clickmill.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::server::WriteKeys;
use crate::spool::SpoolOptions;
use crate::{BatchLimits, Durability};

/// Every key is optional; flags win over them.
///
/// ```toml
/// [collector]
/// listen = "127.0.0.1:8080"
/// spool = "./clickmill-spool"
/// sink = "lake"                    # or "kinesis=STREAM"
/// spool_max_bytes = 4294967296
/// durability = "fsync"             # or "stream", "memory"
/// batch_max_events = 20000
/// batch_max_bytes = 16777216
/// batch_max_wait_ms = 5000
///
/// [collector.write_keys]           # write key = app_id
/// "9hbkJNpR" = "shop-de"
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
    /// What an answer promises.
    pub durability: Option<Durability>,
    /// A batch for the sink: records at most.
    pub batch_max_events: Option<usize>,
    /// A batch for the sink: bytes at most.
    pub batch_max_bytes: Option<usize>,
    /// A batch for the sink: how long its first record waits.
    pub batch_max_wait_ms: Option<u64>,
    /// Write keys that are taken, each with the `app_id` of its events.
    #[serde(default)]
    pub write_keys: BTreeMap<String, String>,
}

impl CollectorConfig {
    /// The spool's sizes.
    #[must_use]
    pub fn spool_options(&self) -> SpoolOptions {
        let defaults = SpoolOptions::default();
        SpoolOptions { max_bytes: self.spool_max_bytes.unwrap_or(defaults.max_bytes), ..defaults }
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
