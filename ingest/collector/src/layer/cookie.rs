//! The visitor's cookie: its settings, and its text.

use std::borrow::Cow;
use std::time::Duration;

/// The cookie's name unless another is given.
pub const DEFAULT_COOKIE: &str = "clickmill_id";
/// How long it lasts unless told otherwise: 13 months, not prolonged by later
/// visits, as the French authority (CNIL) recommends for audience measurement.
/// Browsers cap any cookie at 400 days (RFC 6265bis, section 5.5).
pub const DEFAULT_MAX_AGE: Duration = Duration::from_secs(395 * 86_400);
/// An id from a cookie is no longer than this.
pub const MAX_ID_BYTES: usize = 64;

/// Where the cookie is marked `Secure`, so that browsers send it by https only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secure {
    /// Where the visitor came by https: [`super::PageViews::public_url`] says
    /// so, or the request's own URL, or a proxy's `X-Forwarded-Proto`.
    Auto,
    /// Always.
    Always,
}

/// The cookie that carries the visitor's id. First-party, `SameSite=Lax`.
#[derive(Clone, Debug)]
#[must_use]
pub struct SiteCookie {
    name: String,
    domain: Option<String>,
    max_age: Duration,
    secure: Secure,
    script_readable: bool,
}

/// A cookie cannot be named or scoped so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CookieError {
    /// Its name has other characters than letters, digits, `-`, `_` and `.`.
    #[error("`{0}` is no name for a cookie; take letters, digits, `-`, `_` and `.`")]
    Name(String),
    /// Its domain is no host name.
    #[error("`{0}` is no domain for a cookie; give one such as shop.example")]
    Domain(String),
}

impl Default for SiteCookie {
    fn default() -> Self {
        Self {
            name: DEFAULT_COOKIE.to_owned(),
            domain: None,
            max_age: DEFAULT_MAX_AGE,
            secure: Secure::Auto,
            script_readable: false,
        }
    }
}

impl SiteCookie {
    /// Of this name. A tracker's own (`ajs_anonymous_id`) works too, together
    /// with [`SiteCookie::readable_by_scripts`]: page and server then have one id.
    ///
    /// # Errors
    /// [`CookieError::Name`].
    pub fn named(name: impl Into<String>) -> Result<Self, CookieError> {
        let name = name.into();
        if name.is_empty() || !name.bytes().all(is_plain) {
            return Err(CookieError::Name(name));
        }
        Ok(Self { name, ..Self::default() })
    }

    /// For all hosts of a domain (`shop.example`), in place of this host alone.
    ///
    /// # Errors
    /// [`CookieError::Domain`].
    pub fn domain(mut self, domain: impl Into<String>) -> Result<Self, CookieError> {
        let domain = domain.into();
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !domain.split('.').all(label) {
            return Err(CookieError::Domain(domain));
        }
        self.domain = Some(domain);
        Ok(self)
    }

    /// How long it lasts from the day it is set; [`DEFAULT_MAX_AGE`] by default.
    pub const fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// Where it is marked `Secure`; [`Secure::Auto`] by default.
    pub const fn secure(mut self, secure: Secure) -> Self {
        self.secure = secure;
        self
    }

    /// Without `HttpOnly`, so that a tracker in the page can share the id. A
    /// script that got into the page can then read it, too.
    pub const fn readable_by_scripts(mut self) -> Self {
        self.script_readable = true;
        self
    }

    /// The id in a `Cookie` header, if it is one that we could have set: the
    /// value goes into events, and a visitor can write anything there.
    pub(super) fn read<'h>(&self, header: &'h str) -> Option<&'h str> {
        let value = header.split(';').find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == self.name).then_some(value)
        })?;
        let value = value.trim_matches('"');
        let sound = !value.is_empty() && value.len() <= MAX_ID_BYTES && value.bytes().all(is_plain);
        sound.then_some(value)
    }

    /// The `Set-Cookie` header.
    pub(super) fn write(&self, id: &str, by_https: bool) -> String {
        let domain = match &self.domain {
            Some(domain) => Cow::Owned(format!("; Domain={domain}")),
            None => Cow::Borrowed(""),
        };
        let secure = by_https || self.secure == Secure::Always;
        format!(
            "{}={id}; Path=/{domain}; Max-Age={}; SameSite=Lax{}{}",
            self.name,
            self.max_age.as_secs(),
            if secure { "; Secure" } else { "" },
            if self.script_readable { "" } else { "; HttpOnly" },
        )
    }
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}
