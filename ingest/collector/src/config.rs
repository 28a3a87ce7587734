//! The `[collector]` section of `clickmill.toml`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

use crate::server::{
    ConnectionLimits, CookieError, DEFAULT_COOKIE_MAX_AGE, DEFAULT_COOKIE_NAME, KeySettings,
    Options, RateLimit, RespectDnt, SameSite, Secure, TrustedProxies, VisitorCookie, WriteKeys,
};
#[cfg(feature = "aws")]
use crate::sink::{FirehoseSettings, KinesisSettings};
use crate::spool::SpoolOptions;
use crate::{BatchLimits, Durability};

/// Segments that a full spool has at least.
const LEAST_SEGMENTS: u64 = 8;

/// Every key is optional; flags win over them.
///
/// ```toml
/// [collector]
/// listen = "127.0.0.1:8080"
/// spool = "./clickmill-spool"
/// sink = "lake"                    # or "kinesis=STREAM", "firehose=STREAM"
/// spool_max_bytes = 4294967296
/// durability = "fsync"             # or "stream", "memory"
/// batch_max_events = 20000
/// batch_max_bytes = 16777216
/// batch_max_wait_ms = 5000
/// plan = "tracking-plan.toml"      # see docs/tracking-plan.md
///
/// admin_listen = "127.0.0.1:9090"  # /metrics, and numbers in /health and /ready
/// max_connections = 8192
/// stop_delay_ms = 0
/// trusted_proxies = ["10.0.0.0/8"] # whose X-Forwarded-For is believed
/// geoip = "/var/lib/GeoIP/GeoLite2-City.mmdb"
/// keep_truncated_ip = false        # store 192.0.2.0/24 or 2001:db8::/48
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
/// [collector.tls]                  # PEM files, read again when they change
/// cert = "/etc/clickmill/fullchain.pem"
/// key = "/etc/clickmill/privkey.pem"
///
/// [collector.address_limit]        # requests from one address
/// per_second = 100
/// burst = 1000                     # ten seconds' worth where it is not given
///
/// [collector.write_keys]           # write key = app_id, or with limits
/// "9hbkJNpR" = "shop-de"
/// "Q2dWmz0c" = { app_id = "shop-fr", events_per_second = 500, burst = 5000, allowed_origins = ["https://shop.example", "https://*.shop.example"] }
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
    /// What an answer promises.
    pub durability: Option<Durability>,
    /// A batch for the sink: records at most.
    pub batch_max_events: Option<usize>,
    /// A batch for the sink: bytes at most.
    pub batch_max_bytes: Option<usize>,
    /// A batch for the sink: how long its first record waits.
    pub batch_max_wait_ms: Option<u64>,
    /// The tracking plan's file.
    pub plan: Option<PathBuf>,
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
    pub write_keys: BTreeMap<String, WriteKeyConfig>,
    /// Where `/metrics` is shown.
    pub admin_listen: Option<SocketAddr>,
    /// Connections that are open at once.
    pub max_connections: Option<usize>,
    /// How long requests are taken after the signal to stop, `/ready` being 503.
    pub stop_delay_ms: Option<u64>,
    /// Networks whose `X-Forwarded-For` is believed.
    #[serde(default)]
    pub trusted_proxies: Vec<String>,
    /// A MaxMind database.
    pub geoip: Option<PathBuf>,
    /// Whether the network part of addresses is stored.
    #[serde(default)]
    pub keep_truncated_ip: bool,
    /// TLS.
    pub tls: Option<TlsConfig>,
    /// Requests from one address.
    pub address_limit: Option<RateConfig>,
    /// Caps of the Kinesis sink.
    #[cfg(feature = "aws")]
    #[serde(default)]
    pub kinesis: KinesisSettings,
    /// Caps of the Firehose sink.
    #[cfg(feature = "aws")]
    #[serde(default)]
    pub firehose: FirehoseSettings,
}

/// `[collector.tls]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate chain, in PEM form.
    pub cert: PathBuf,
    /// Its private key, in PEM form.
    pub key: PathBuf,
}

/// `[collector.address_limit]`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateConfig {
    /// In the long run.
    pub per_second: u32,
    /// At once.
    pub burst: Option<u32>,
}

/// A write key: a text is its `app_id`, a table has limits beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteKeyConfig(KeySettings);

/// A setting that is of the right type and still cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct SettingError {
    name: &'static str,
    reason: String,
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
            ..Options::default()
        })
    }

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
        let settings = self.write_keys.iter();
        settings.fold(keys, |keys, (key, held)| keys.with_settings(key, held.0.clone()))
    }

    /// Whose `X-Forwarded-For` is believed: the file's networks and those of
    /// the command line.
    ///
    /// # Errors
    /// [`SettingError`] with the one that is no network.
    pub fn trusted<'a>(
        &'a self,
        flags: impl IntoIterator<Item = &'a str>,
    ) -> Result<TrustedProxies, SettingError> {
        TrustedProxies::parse(self.trusted_proxies.iter().map(String::as_str).chain(flags)).map_err(
            |text| SettingError {
                name: "trusted_proxies",
                reason: format!("`{text}` is neither an address nor a network such as 10.0.0.0/8"),
            },
        )
    }

    /// What one address may send.
    ///
    /// # Errors
    /// [`SettingError`] where it is no rate.
    pub fn address_limit(&self) -> Result<Option<RateLimit>, SettingError> {
        let Some(RateConfig { per_second, burst }) = self.address_limit else { return Ok(None) };
        RateLimit::new(per_second, burst)
            .map(Some)
            .map_err(|error| SettingError { name: "address_limit", reason: error.to_string() })
    }

    /// How many connections.
    #[must_use]
    pub fn connection_limits(&self) -> ConnectionLimits {
        let defaults = ConnectionLimits::default();
        let max_connections = self.max_connections.unwrap_or(defaults.max_connections).max(1);
        ConnectionLimits { max_connections, ..defaults }
    }
}

impl<'de> Deserialize<'de> for WriteKeyConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WriteKeyVisitor)
    }
}

/// By hand, so that a wrong key of the table is named.
struct WriteKeyVisitor;

impl<'de> Visitor<'de> for WriteKeyVisitor {
    type Value = WriteKeyConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an app_id, or a table with app_id")
    }

    fn visit_str<E: de::Error>(self, app_id: &str) -> Result<Self::Value, E> {
        Ok(WriteKeyConfig(KeySettings::new(app_id)))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            app_id: String,
            events_per_second: Option<u32>,
            burst: Option<u32>,
            #[serde(default)]
            allowed_origins: Vec<String>,
        }
        let table = Table::deserialize(de::value::MapAccessDeserializer::new(map))?;
        let origins = table.allowed_origins.iter().map(|text| text.parse());
        let origins = origins.collect::<Result<_, _>>().map_err(de::Error::custom)?;
        let mut key = KeySettings::new(table.app_id).with_origins(origins);
        key = match (table.events_per_second, table.burst) {
            (Some(rate), burst) => {
                key.with_rate(RateLimit::new(rate, burst).map_err(de::Error::custom)?)
            }
            (None, Some(_)) => return Err(de::Error::missing_field("events_per_second")),
            (None, None) => key,
        };
        Ok(WriteKeyConfig(key))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(value: serde_json::Value) -> Result<KeySettings, String> {
        let parsed = serde_json::from_value::<WriteKeyConfig>(value);
        parsed.map(|key| key.0).map_err(|error| error.to_string())
    }

    #[test]
    fn a_write_key_is_an_app_id_or_a_table() {
        assert_eq!(key(json!("shop")), Ok(KeySettings::new("shop")));
        let table = json!({"app_id": "shop", "events_per_second": 5, "burst": 9,
            "allowed_origins": ["https://shop.example"]});
        let expected = KeySettings::new("shop")
            .with_rate(RateLimit::new(5, Some(9)).expect("rate"))
            .with_origins(vec!["https://shop.example".parse().expect("origin")]);
        assert_eq!(key(table), Ok(expected));
        for (wrong, named) in [
            (json!({"app_id": "a", "rate": 5}), "`rate`"),
            (json!({"events_per_second": 5}), "`app_id`"),
            (json!({"app_id": "a", "burst": 5}), "`events_per_second`"),
            (json!({"app_id": "a", "events_per_second": 0}), "rate limit"),
            (json!({"app_id": "a", "allowed_origins": ["shop.example"]}), "`shop.example`"),
            (json!(7), "app_id"),
        ] {
            let error = key(wrong).expect_err("refused");
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_network_that_is_none_is_named() {
        let config = CollectorConfig {
            trusted_proxies: vec!["10.0.0.0/8".to_owned()],
            ..CollectorConfig::default()
        };
        assert!(config.trusted(["::1"]).is_ok());
        let error = config.trusted(["lan"]).expect_err("refused").to_string();
        assert!(error.contains("trusted_proxies") && error.contains("`lan`"), "{error}");
    }

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
}
