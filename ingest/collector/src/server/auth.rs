//! Write keys: who may write, and for which application.

use std::collections::HashMap;
use std::fmt;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

/// The `app_id` of events whose write key is mapped to none.
pub const DEFAULT_APP_ID: &str = "default";

/// The write keys that are taken, each with its `app_id`.
#[derive(Clone, Default)]
pub struct WriteKeys(HashMap<String, String>);

impl WriteKeys {
    /// Every key, and none, is good. For loopback addresses only.
    #[must_use]
    pub fn any() -> Self {
        Self::default()
    }

    /// Adds a key for `app_id`; from the first one on, others are refused.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, app_id: impl Into<String>) -> Self {
        self.0.insert(key.into(), app_id.into());
        self
    }

    /// True where every key is good.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// The `app_id` for the first of `candidates` that is known.
    pub(super) fn app_id<'a>(&self, candidates: impl IntoIterator<Item = &'a str>) -> Option<&str> {
        if self.is_any() {
            return Some(DEFAULT_APP_ID);
        }
        candidates.into_iter().find_map(|key| self.0.get(key)).map(String::as_str)
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

    #[test]
    fn keys_do_not_show_in_debug_output() {
        assert_eq!(format!("{:?}", WriteKeys::any().with("secret", "shop")), "WriteKeys(1)");
    }
}
