//! What an event's own fields say beyond themselves: the parts of its URLs,
//! its campaign and language.

use std::borrow::Cow;
use std::time::Duration;

use clickmill_schemas::Event;
use url::form_urlencoded;

/// An event received later than this after it happened is late.
pub const LATE_AFTER: Duration = Duration::from_secs(3_600);
/// The longest language tag that is kept.
const MAX_LANGUAGE_CHARS: usize = 35;
/// Query parameters that carry an advertising click id.
const CLICK_ID_PARAMETERS: &[&str] =
    &["gclid", "wbraid", "gbraid", "dclid", "msclkid", "fbclid", "ttclid", "twclid", "li_fat_id"];
/// The parts of a URL that have columns.
#[derive(Default)]
pub struct Parts<'a> {
    pub host: Option<Cow<'a, str>>,
    pub path: Option<&'a str>,
    pub query: Option<&'a str>,
}

/// Splits an absolute or relative URL without judging it: whatever a page said
/// about itself is kept as far as it can be read.
#[must_use]
pub fn split_url(url: &str) -> Parts<'_> {
    let without_fragment = url.split('#').next().unwrap_or(url);
    let (before_query, query) = match without_fragment.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (without_fragment, None),
    };
    let after_scheme = before_query
        .split_once("://")
        .filter(|(scheme, _)| {
            scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        })
        .map(|(_, rest)| rest)
        .or_else(|| before_query.strip_prefix("//"));
    let (host, path) = match after_scheme {
        Some(rest) => {
            let (authority, path) = match rest.find('/') {
                Some(at) => (&rest[..at], &rest[at..]),
                None => (rest, "/"),
            };
            (host_of(authority), Some(path))
        }
        None => (None, Some(before_query).filter(|path| path.starts_with('/'))),
    };
    Parts { host, path, query: query.filter(|query| !query.is_empty()) }
}

/// The host of an authority: without user, port, and in lower case.
fn host_of(authority: &str) -> Option<Cow<'_, str>> {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = if host.starts_with('[') {
        host.split_inclusive(']').next().unwrap_or(host)
    } else {
        host.split(':').next().unwrap_or(host)
    };
    if host.is_empty() {
        None
    } else if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Some(Cow::Owned(host.to_ascii_lowercase()))
    } else {
        Some(Cow::Borrowed(host))
    }
}

/// The decoded parameters of a query, the first of equal names, in order.
#[must_use]
pub fn parameters(query: &str) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    let mut found: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if !name.is_empty() && !found.iter().any(|(known, _)| *known == name) {
            found.push((name, value));
        }
    }
    found
}

/// Where a visit came from: what the client sent, else what its URL says.
#[derive(Default)]
pub struct Campaign<'a> {
    pub source: Option<&'a str>,
    pub medium: Option<&'a str>,
    pub campaign: Option<&'a str>,
    pub term: Option<&'a str>,
    pub content: Option<&'a str>,
    pub click_id: Option<&'a str>,
    pub click_id_type: Option<&'a str>,
}

impl<'a> Campaign<'a> {
    /// Reads it from an event and the parameters of its page.
    #[must_use]
    pub fn of(event: &'a Event<'_>, query: &'a [(Cow<'_, str>, Cow<'_, str>)]) -> Self {
        let parameter = |name: &str| {
            let found = query.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.as_ref()).filter(|value| !value.is_empty())
        };
        let either =
            |sent: &'a Option<Cow<'_, str>>, name| sent.as_deref().or_else(|| parameter(name));
        let sent_click = event.click_id.as_deref();
        let in_url = CLICK_ID_PARAMETERS.iter().find_map(|name| Some((*name, parameter(name)?)));
        Self {
            source: either(&event.utm_source, "utm_source"),
            medium: either(&event.utm_medium, "utm_medium"),
            campaign: either(&event.utm_campaign, "utm_campaign"),
            term: either(&event.utm_term, "utm_term"),
            content: either(&event.utm_content, "utm_content"),
            click_id: sent_click.or(in_url.map(|(_, value)| value)),
            click_id_type: match sent_click {
                Some(_) => event.click_id_type.as_deref(),
                None => in_url.map(|(name, _)| name),
            },
        }
    }
}

/// A language as a BCP 47 tag in its usual case: `en-GB`, `zh-Hans-CN`. Reads what browsers,
/// apps and servers send: `EN_gb`, `en_US.UTF-8`, `de-DE,de;q=0.9`. `None` where it is no tag.
#[must_use]
pub fn language(sent: &str) -> Option<Cow<'_, str>> {
    let first = sent.split([',', ';']).next().unwrap_or(sent).trim();
    // Of a POSIX locale: encoding and variant.
    let tag = first.split(['.', '@']).next().unwrap_or(first);
    let mut subtags = tag.split(['-', '_']);
    let letters = |part: &str| part.bytes().all(|b| b.is_ascii_alphabetic());
    let is_language = |part: &str| (2..=3).contains(&part.len()) && letters(part);
    if tag.len() > MAX_LANGUAGE_CHARS || !subtags.next().is_some_and(is_language) {
        return None;
    }
    let is_subtag = |part: &str| {
        (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    if !tag.split(['-', '_']).all(is_subtag) {
        return None;
    }
    let mut made = String::with_capacity(tag.len());
    for (at, part) in tag.split(['-', '_']).enumerate() {
        if at > 0 {
            made.push('-');
        }
        // After a singleton (`x-`, `u-`) everything is in lower case.
        let is_extension = made.split('-').any(|before| before.len() == 1);
        match (at, part.len()) {
            (1.., 2) if letters(part) && !is_extension => made.push_str(&part.to_ascii_uppercase()),
            (1.., 4) if letters(part) && !is_extension => {
                made.push_str(&part[..1].to_ascii_uppercase());
                made.push_str(&part[1..].to_ascii_lowercase());
            }
            _ => made.push_str(&part.to_ascii_lowercase()),
        }
    }
    Some(if made == sent { Cow::Borrowed(sent) } else { Cow::Owned(made) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_split_whatever_a_page_says_of_itself() {
        for (url, host, path, query) in [
            (
                "https://User:pw@WWW.Shop.example:8443/a/b?x=1#top",
                Some("www.shop.example"),
                Some("/a/b"),
                Some("x=1"),
            ),
            ("https://shop.example", Some("shop.example"), Some("/"), None),
            ("/cart?x", None, Some("/cart"), Some("x")),
            ("//cdn.example/x", Some("cdn.example"), Some("/x"), None),
            ("http://[::1]:80/", Some("[::1]"), Some("/"), None),
            ("about:blank", None, None, None),
            ("", None, None, None),
            ("https:///nohost", None, Some("/nohost"), None),
        ] {
            let parts = split_url(url);
            assert_eq!(
                (parts.host.as_deref(), parts.path, parts.query),
                (host, path, query),
                "{url}"
            );
        }
    }

    #[test]
    fn languages_are_tags_in_their_usual_case() {
        // Cases by RFC 5646, section 2.1.1.
        for (sent, expected) in [
            ("en-GB", Some("en-GB")),
            ("EN_us", Some("en-US")),
            ("de", Some("de")),
            ("zh-hANS-cn", Some("zh-Hans-CN")),
            ("es-419", Some("es-419")),
            ("en_US.UTF-8", Some("en-US")),
            ("de_DE@euro", Some("de-DE")),
            ("fr-CH, fr;q=0.9, en;q=0.8", Some("fr-CH")),
            ("sl-IT-nedis", Some("sl-IT-nedis")),
            ("en-a-BB-x-LATN", Some("en-a-bb-x-latn")),
            ("", None),
            ("C", None),
            ("*", None),
            ("undefined", None),
            ("(not set)", None),
            ("en--GB", None),
            ("12-GB", None),
        ] {
            assert_eq!(language(sent).as_deref(), expected, "{sent}");
        }
    }
}
