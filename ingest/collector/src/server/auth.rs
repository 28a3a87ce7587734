//! Write keys: who may write, for which application, how much, and from which sites.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use super::limits::{Bucket, RateLimit};

/// The `app_id` of events whose write key is mapped to none.
pub const DEFAULT_APP_ID: &str = "default";

/// The write keys that are taken, each with what holds for it.
#[derive(Clone, Default)]
pub struct WriteKeys(HashMap<String, KeySettings>);

/// What holds for a write key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySettings {
    app_id: String,
    rate: Option<RateLimit>,
    origins: Vec<AllowedOrigin>,
}

/// A site whose pages may use a key: `https://shop.example`, with a port where
/// it is not the scheme's own, or `https://*.shop.example` for all below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedOrigin {
    scheme: String,
    /// Host and port; of a pattern, what follows the `*`.
    host: String,
    any_subdomain: bool,
}

/// A text that is no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no origin: give scheme and host without a path, as in https://shop.example or \
     https://*.shop.example"
)]
pub struct OriginError(String);

impl WriteKeys {
    /// Every key, and none, is good. For loopback addresses only.
    #[must_use]
    pub fn any() -> Self {
        Self::default()
    }

    /// Adds a key for `app_id`; from the first one on, others are refused.
    #[must_use]
    pub fn with(self, key: impl Into<String>, app_id: impl Into<String>) -> Self {
        self.with_settings(key, KeySettings::new(app_id))
    }

    /// As [`WriteKeys::with`], with limits.
    #[must_use]
    pub fn with_settings(mut self, key: impl Into<String>, settings: KeySettings) -> Self {
        self.0.insert(key.into(), settings);
        self
    }

    /// True where every key is good.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }
}

impl KeySettings {
    /// Events get this `app_id`; nothing is limited.
    #[must_use]
    pub fn new(app_id: impl Into<String>) -> Self {
        Self { app_id: app_id.into(), rate: None, origins: Vec::new() }
    }

    /// At most so many events; more are answered 429.
    #[must_use]
    pub const fn with_rate(mut self, rate: RateLimit) -> Self {
        self.rate = Some(rate);
        self
    }

    /// Pages of these sites only; others are answered 403. A request without
    /// an `Origin` header (a server, a pixel) is no page's and passes: whoever
    /// can choose the headers of a request can choose that one, too.
    #[must_use]
    pub fn with_origins(mut self, origins: Vec<AllowedOrigin>) -> Self {
        self.origins = origins;
        self
    }

    fn allows(&self, origin: &str) -> bool {
        self.origins.is_empty() || self.origins.iter().any(|allowed| allowed.matches(origin))
    }
}

impl FromStr for AllowedOrigin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let error = || OriginError(text.to_owned());
        let lower = text.to_ascii_lowercase();
        let (scheme, host) = lower.split_once("://").ok_or_else(error)?;
        let (any_subdomain, host) = match host.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, host),
        };
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        if scheme.is_empty() || host.is_empty() || !host.chars().all(good) {
            return Err(error());
        }
        Ok(Self { scheme: scheme.to_owned(), host: host.to_owned(), any_subdomain })
    }
}

impl AllowedOrigin {
    /// `origin` as a browser sends it (RFC 6454, section 6.2).
    fn matches(&self, origin: &str) -> bool {
        let Some((scheme, host)) = origin.split_once("://") else { return false };
        if !scheme.eq_ignore_ascii_case(&self.scheme) {
            return false;
        }
        let host = host.to_ascii_lowercase();
        match host.strip_suffix(&self.host) {
            Some(rest) if self.any_subdomain => rest.len() > 1 && rest.ends_with('.'),
            Some(rest) => rest.is_empty(),
            None => false,
        }
    }
}

/// The keys of a running server: with the state of their limits.
pub(super) struct KeyRing {
    keys: HashMap<String, (KeySettings, Bucket)>,
    started: Instant,
}

/// A key that was found.
#[derive(Clone, Copy)]
pub(super) struct KnownKey<'a> {
    /// Of its events.
    pub app_id: &'a str,
    held: Option<&'a (KeySettings, Bucket)>,
    started: Instant,
}

/// Why a known key does not write this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotAdmitted {
    /// The page's site is none of the key's.
    Origin,
    /// Too many events; some are taken again after this long.
    Rate(Duration),
}

impl KeyRing {
    pub fn new(keys: WriteKeys) -> Self {
        let keys = keys.0.into_iter().map(|(key, held)| (key, (held, Bucket::default())));
        Self { keys: keys.collect(), started: Instant::now() }
    }

    /// The first of `candidates` that is known.
    pub fn find<'a>(&self, candidates: impl IntoIterator<Item = &'a str>) -> Option<KnownKey<'_>> {
        let started = self.started;
        if self.keys.is_empty() {
            return Some(KnownKey { app_id: DEFAULT_APP_ID, held: None, started });
        }
        let held = candidates.into_iter().find_map(|key| self.keys.get(key))?;
        Some(KnownKey { app_id: &held.0.app_id, held: Some(held), started })
    }

    /// The `app_id` for the first of `candidates` that is known.
    pub fn app_id<'a>(&self, candidates: impl IntoIterator<Item = &'a str>) -> Option<&str> {
        self.find(candidates).map(|key| key.app_id)
    }

    /// Whether any key takes pages of this site: a preflight does not say which
    /// key will follow.
    pub fn any_allows(&self, origin: &str) -> bool {
        self.keys.is_empty() || self.keys.values().any(|(key, _)| key.allows(origin))
    }
}

impl KnownKey<'_> {
    /// Whether a page of `origin`, where it is a page, may write `events`.
    pub fn admit(&self, origin: Option<&str>, events: usize) -> Result<(), NotAdmitted> {
        let Some((settings, bucket)) = self.held else { return Ok(()) };
        if origin.is_some_and(|origin| !settings.allows(origin)) {
            return Err(NotAdmitted::Origin);
        }
        let Some(rate) = settings.rate else { return Ok(()) };
        bucket.take(rate, events as u64, self.started.elapsed()).map_err(NotAdmitted::Rate)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({})", self.keys.len())
    }
}

/// Keys are credentials: how many there are is all that may be shown.
impl fmt::Debug for WriteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriteKeys({})", self.0.len())
    }
}

/// The key in the Authorization header: `Basic base64(key[:password])` or `Bearer key`.
pub(super) fn header_key(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.trim().split_once(' ')?;
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(credentials.to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(credentials).or_else(|_| STANDARD_NO_PAD.decode(credentials));
    let text = String::from_utf8(decoded.ok()?).ok()?;
    Some(text.split_once(':').map_or(text.as_str(), |(key, _)| key).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().expect("header"));
        header_key(&headers)
    }

    #[test]
    fn the_key_is_found_in_every_form_that_sdks_send() {
        // Base64 from coreutils: printf 'wk1:' | base64, printf wk1 | base64.
        assert_eq!(key("Basic d2sxOg==").as_deref(), Some("wk1"));
        assert_eq!(key("basic d2sx").as_deref(), Some("wk1"));
        assert_eq!(key("Basic d2sxOg").as_deref(), Some("wk1"));
        assert_eq!(key("Bearer wk1").as_deref(), Some("wk1"));
        assert_eq!(key("Basic %%%"), None);
        assert_eq!(key("Digest wk1"), None);
        assert_eq!(key("Basic"), None);
    }

    fn origin(text: &str) -> AllowedOrigin {
        text.parse().expect("an origin")
    }

    #[test]
    fn an_origin_matches_itself_and_a_pattern_what_is_below_it() {
        let exact = origin("https://shop.example");
        assert!(exact.matches("https://shop.example"));
        assert!(exact.matches("HTTPS://Shop.Example"));
        for other in [
            "http://shop.example",
            "https://shop.example:8443",
            "https://www.shop.example",
            "https://shop.example.evil.test",
            "https://evilshop.example",
            "null",
            "",
        ] {
            assert!(!exact.matches(other), "{other}");
        }
        let below = origin("https://*.shop.example");
        assert!(below.matches("https://www.shop.example"));
        assert!(below.matches("https://a.b.shop.example"));
        for other in ["https://shop.example", "https://.shop.example", "https://evilshop.example"] {
            assert!(!below.matches(other), "{other}");
        }
        assert!(origin("http://[::1]:3000").matches("http://[::1]:3000"));
        for wrong in ["shop.example", "https://", "https://shop.example/", "https://*", "*", ""] {
            assert!(wrong.parse::<AllowedOrigin>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_admits_its_sites_and_its_rate() {
        let rate = RateLimit::new(1, Some(5)).expect("a limit");
        let shop = KeySettings::new("shop")
            .with_rate(rate)
            .with_origins(vec![origin("https://shop.example")]);
        let ring = KeyRing::new(WriteKeys::any().with_settings("k", shop));
        let key = ring.find(["x", "k"]).expect("known");
        assert_eq!(key.app_id, "shop");
        assert_eq!(key.admit(Some("https://evil.test"), 1), Err(NotAdmitted::Origin));
        assert_eq!(key.admit(None, 4), Ok(()));
        assert_eq!(key.admit(Some("https://shop.example"), 1), Ok(()));
        assert!(matches!(key.admit(None, 3), Err(NotAdmitted::Rate(_))));
        assert!(ring.find(["x"]).is_none());
        assert!(ring.any_allows("https://shop.example") && !ring.any_allows("https://evil.test"));
        let any = KeyRing::new(WriteKeys::any());
        assert!(any.any_allows("https://evil.test"));
        assert_eq!(any.find([]).expect("any").admit(Some("null"), 9), Ok(()));
    }

    #[test]
    fn keys_do_not_show_in_debug_output() {
        assert_eq!(format!("{:?}", WriteKeys::any().with("secret", "shop")), "WriteKeys(1)");
    }
}
