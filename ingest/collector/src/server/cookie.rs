//! The first-party visitor cookie: its settings, and its text.
//!
//! Off unless configured: in most of Europe it needs the visitor's consent,
//! and only the shop knows whether there is one. Switched on, it is
//! `sp=<uuid>; Path=/; Max-Age=31536000; Secure; HttpOnly; SameSite=None`, as
//! Snowplow's collector sets it, so that a shop that comes from there keeps its
//! visitors. `Secure` means that browsers keep it over https only (localhost
//! aside); for plain http, switch `secure` off and choose `same_site = "lax"`.

use std::time::Duration;

use axum::http::header::COOKIE;
use axum::http::{HeaderMap, HeaderValue};
use uuid::Uuid;

/// The name by default: what Snowplow's collector calls its own.
pub const DEFAULT_COOKIE_NAME: &str = "sp";
/// Its life by default, from the last request on.
pub const DEFAULT_COOKIE_MAX_AGE: Duration = Duration::from_secs(365 * 86_400);
/// Browsers keep none for longer (RFC 6265bis, section 5.5).
pub const MAX_COOKIE_MAX_AGE: Duration = Duration::from_secs(400 * 86_400);
/// A name is no longer than this; RFC 6265bis allows 4,096 with the value.
const MAX_NAME_CHARS: usize = 64;
/// Of a name of DNS (RFC 1035).
const MAX_DOMAIN_CHARS: usize = 253;

/// When a browser sends the cookie along from another site's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SameSite {
    /// Always. Needs `Secure`.
    #[default]
    None,
    /// Only when the visitor navigates. A collector on a subdomain of the
    /// shop's is the same site: it gets the cookie.
    Lax,
    /// Never.
    Strict,
}

/// A visitor cookie that browsers take: valid by construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VisitorCookie {
    name: String,
    /// `; Path=/; ...` up to the end, without Max-Age.
    attributes: String,
    max_age: Duration,
}

/// A setting with which no browser would keep the cookie.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CookieError {
    /// Not a token, or too long.
    #[error("`{0}` is no name for a cookie; use up to 64 letters, digits, `-` and `_`")]
    Name(String),
    /// Not a host name.
    #[error("`{0}` is no domain for a cookie; write it like shop.example")]
    Domain(String),
    /// Zero, or longer than browsers keep cookies.
    #[error("a cookie's max_age is between 1 second and 400 days")]
    MaxAge,
    /// `SameSite=None` without `Secure` is dropped by browsers.
    #[error("same_site = \"none\" needs secure = true; over plain http choose \"lax\"")]
    NoneNeedsSecure,
}

impl VisitorCookie {
    /// With `domain`, subdomains of it share the cookie; without, it is the
    /// collector's host's alone.
    ///
    /// # Errors
    /// [`CookieError`] where browsers would drop it.
    pub fn new(
        name: &str,
        domain: Option<&str>,
        max_age: Duration,
        same_site: SameSite,
        secure: Secure,
    ) -> Result<Self, CookieError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > MAX_NAME_CHARS || !name.chars().all(plain) {
            return Err(CookieError::Name(name.to_owned()));
        }
        if max_age < Duration::from_secs(1) || max_age > MAX_COOKIE_MAX_AGE {
            return Err(CookieError::MaxAge);
        }
        let mut attributes = "; Path=/".to_owned();
        if let Some(domain) = domain {
            let domain = domain.trim_start_matches('.');
            let host = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
            if domain.is_empty() || domain.len() > MAX_DOMAIN_CHARS || !domain.chars().all(host) {
                return Err(CookieError::Domain(domain.to_owned()));
            }
            attributes.push_str("; Domain=");
            attributes.push_str(domain);
        }
        match (secure, same_site) {
            (Secure::Https, _) => attributes.push_str("; Secure"),
            (Secure::AlsoHttp, SameSite::None) => return Err(CookieError::NoneNeedsSecure),
            (Secure::AlsoHttp, _) => {}
        }
        attributes.push_str("; HttpOnly; SameSite=");
        attributes.push_str(match same_site {
            SameSite::None => "None",
            SameSite::Lax => "Lax",
            SameSite::Strict => "Strict",
        });
        Ok(Self { name: name.to_owned(), attributes, max_age })
    }

    /// The id in a request's cookies; `None` where there is none, or it is none
    /// that a collector gave out.
    pub(super) fn read(&self, headers: &HeaderMap) -> Option<Uuid> {
        id_named(&self.name, headers)
    }

    /// Sets it, or renews its life.
    pub(super) fn set(&self, id: Uuid) -> Option<HeaderValue> {
        self.header(&id.to_string(), self.max_age)
    }

    /// Has the browser forget it.
    pub(super) fn expire(&self) -> Option<HeaderValue> {
        self.header("", Duration::ZERO)
    }

    fn header(&self, value: &str, max_age: Duration) -> Option<HeaderValue> {
        let Self { name, attributes, .. } = self;
        let text = format!("{name}={value}; Max-Age={}{attributes}", max_age.as_secs());
        HeaderValue::from_str(&text).ok()
    }
}

/// The UUID in the cookie `name` of a request.
pub(super) fn id_named(name: &str, headers: &HeaderMap) -> Option<Uuid> {
    let lines = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    lines.into_iter().find_map(|line| id_in(name, line))
}

/// The UUID in the cookie `name` of a `Cookie` header; the one of zeros is nobody's.
pub(crate) fn id_in(name: &str, line: &str) -> Option<Uuid> {
    let pairs = line.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs
        .filter(|(found, _)| *found == name)
        .find_map(|(_, value)| Uuid::parse_str(value).ok())
        .filter(|id| !id.is_nil())
}

/// Over what the cookie travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Secure {
    /// https only.
    #[default]
    Https,
    /// Plain http as well.
    AlsoHttp,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie(domain: Option<&str>, same_site: SameSite, secure: Secure) -> String {
        let cookie = VisitorCookie::new("sp", domain, DEFAULT_COOKIE_MAX_AGE, same_site, secure)
            .expect("valid");
        cookie.set(Uuid::nil()).expect("header").to_str().expect("text").to_owned()
    }

    #[test]
    fn the_text_is_what_browsers_keep() {
        assert_eq!(
            cookie(None, SameSite::None, Secure::Https),
            "sp=00000000-0000-0000-0000-000000000000; Max-Age=31536000; Path=/; Secure; HttpOnly; \
             SameSite=None"
        );
        assert_eq!(
            cookie(Some(".shop.example"), SameSite::Lax, Secure::AlsoHttp),
            "sp=00000000-0000-0000-0000-000000000000; Max-Age=31536000; Path=/; \
             Domain=shop.example; HttpOnly; SameSite=Lax"
        );
    }

    #[test]
    fn what_browsers_would_drop_is_refused() {
        let new = |name, domain, days: u64, same_site, secure| {
            VisitorCookie::new(name, domain, Duration::from_secs(days * 86_400), same_site, secure)
        };
        let (none, https) = (SameSite::None, Secure::Https);
        assert!(matches!(new("a;b", None, 1, none, https), Err(CookieError::Name(_))));
        assert!(matches!(new("", None, 1, none, https), Err(CookieError::Name(_))));
        assert!(matches!(new("a", Some("x; y"), 1, none, https), Err(CookieError::Domain(_))));
        assert!(new("a", None, 400, none, https).is_ok());
        assert_eq!(new("a", None, 401, none, https), Err(CookieError::MaxAge));
        assert_eq!(new("a", None, 0, none, https), Err(CookieError::MaxAge));
        assert_eq!(new("a", None, 1, none, Secure::AlsoHttp), Err(CookieError::NoneNeedsSecure));
    }

    #[test]
    fn only_an_id_of_ours_is_read() {
        let sp =
            VisitorCookie::new("sp", None, DEFAULT_COOKIE_MAX_AGE, SameSite::None, Secure::Https)
                .expect("valid");
        let read = |line: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, HeaderValue::from_static(line));
            sp.read(&headers).map(|id| id.to_string())
        };
        let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        assert_eq!(read("a=b; sp=67e55044-10b1-426f-9247-bb680e5fe0c8; c=d").as_deref(), Some(id));
        assert_eq!(read("xsp=67e55044-10b1-426f-9247-bb680e5fe0c8"), None);
        assert_eq!(read("sp=<script>"), None);
        assert_eq!(read("sp=00000000-0000-0000-0000-000000000000"), None);
    }
}
