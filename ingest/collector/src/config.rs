//! The `[collector]` section of `clickmill.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::BatchLimits;
use crate::server::{
    CookieError, DEFAULT_COOKIE_MAX_AGE, DEFAULT_COOKIE_NAME, Options, RespectDnt, SameSite,
    Secure, VisitorCookie, WriteKeys,
};
use crate::spool::SpoolOptions;

/// Every key is optional; flags win over them.
///
/// ```toml
/// [collector]
/// listen = "127.0.0.1:8080"
/// spool = "./clickmill-spool"
/// sink = "lake"                    # or "kinesis=STREAM"
/// spool_max_bytes = 4294967296
/// batch_max_events = 20000
/// batch_max_bytes = 16777216
/// batch_max_wait_ms = 5000
/// respect_dnt = "no_cookie"        # or "record_only", "anonymous"
/// redirect_hosts = []              # hosts that /r/tp2?u= redirects to
///
/// [collector.cookie]               # no cookie without this section
/// name = "sp"
/// domain = "shop.example"
/// max_age_days = 365
/// same_site = "none"               # or "lax", "strict"
/// secure = true
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
    /// A batch for the sink: records at most.
    pub batch_max_events: Option<usize>,
    /// A batch for the sink: bytes at most.
    pub batch_max_bytes: Option<usize>,
    /// A batch for the sink: how long its first record waits.
    pub batch_max_wait_ms: Option<u64>,
    /// What a visitor's DNT and GPC cause.
    #[serde(default)]
    pub respect_dnt: RespectDnt,
    /// Hosts that `/r/tp2?u=` redirects to; without any there is no such route.
    #[serde(default)]
    pub redirect_hosts: Vec<String>,
    /// The visitor cookie; without it none is set.
    pub cookie: Option<CookieConfig>,
    /// Write keys that are taken, each with the `app_id` of its events.
    #[serde(default)]
    pub write_keys: BTreeMap<String, String>,
}

/// The `[collector.cookie]` section.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CookieConfig {
    /// [`DEFAULT_COOKIE_NAME`] where it is not given.
    pub name: Option<String>,
    /// Subdomains of it share the cookie; without it, it is the collector's host's alone.
    pub domain: Option<String>,
    /// How long it lives, from the last request on.
    pub max_age_days: Option<u64>,
    /// When it travels from another site's page; always by default.
    #[serde(default)]
    pub same_site: SameSite,
    /// False for plain http.
    pub secure: Option<bool>,
}

impl CookieConfig {
    /// The cookie that it describes.
    ///
    /// # Errors
    /// [`CookieError`] where browsers would drop it.
    pub fn cookie(&self) -> Result<VisitorCookie, CookieError> {
        let max_age = self.max_age_days.map_or(DEFAULT_COOKIE_MAX_AGE, |days| {
            Duration::from_secs(days.saturating_mul(86_400))
        });
        let secure = match self.secure {
            Some(false) => Secure::AlsoHttp,
            Some(true) | None => Secure::Https,
        };
        let name = self.name.as_deref().unwrap_or(DEFAULT_COOKIE_NAME);
        VisitorCookie::new(name, self.domain.as_deref(), max_age, self.same_site, secure)
    }
}

impl CollectorConfig {
    /// What the protocols do beyond taking events.
    ///
    /// # Errors
    /// [`CookieError`] where browsers would drop the cookie.
    pub fn protocol_options(&self) -> Result<Options, CookieError> {
        Ok(Options {
            cookie: self.cookie.as_ref().map(CookieConfig::cookie).transpose()?,
            respect_dnt: self.respect_dnt,
            redirect_hosts: self.redirect_hosts.clone(),
        })
    }

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
