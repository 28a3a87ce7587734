//! What a host is: of which site, and in which list. Sites are told apart by the
//! [public suffix list](https://publicsuffix.org), compiled in by the crate `psl`.

use std::borrow::Cow;

use super::site_lists::{PAYMENT, SEARCH, SEARCH_PAGES, SECURE_LABELS, SIGN_IN};

/// A host, or a word that names a site (`utm_source=google`).
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// As [`normal`] makes it.
    host: &'a str,
    /// The host without its public suffix; a bare word as it is.
    stem: &'a str,
}

/// In lower case, without space around it and the root's dot at its end.
#[must_use]
pub fn normal(host: &str) -> Cow<'_, str> {
    let host = host.trim().trim_end_matches('.');
    match host.chars().any(char::is_uppercase) {
        true => Cow::Owned(host.to_lowercase()),
        false => Cow::Borrowed(host),
    }
}

/// True for equal hosts, and for two of one registrable domain: `shop.brand.com` and
/// `checkout.brand.com`, but not `a.github.io` and `b.github.io`.
#[must_use]
pub fn same_site(a: &str, b: &str) -> bool {
    // So it is for most events.
    if a == b {
        return true;
    }
    let (a, b) = (normal(a), normal(b));
    a == b || registrable(&a).is_some_and(|domain| registrable(&b) == Some(domain))
}

/// `None` for an address, `localhost`, a public suffix, and what is no host.
fn registrable(host: &str) -> Option<&str> {
    let last = host.rsplit('.').next()?;
    let is_address = host.contains(':') || last.bytes().all(|byte| byte.is_ascii_digit());
    let is_host = !is_address && host.split('.').all(|label| !label.is_empty());
    is_host.then(|| psl::domain_str(host)).flatten()
}

/// The host's public suffix, of those that registries have. Suffixes of companies are names here:
/// `blogspot.com` is Blogspot, whoever writes there.
fn suffix(host: &str) -> Option<&str> {
    let mut rest = host;
    loop {
        let suffix = psl::suffix(rest.as_bytes())?;
        rest = rest.get(rest.len() - suffix.as_bytes().len()..)?;
        if suffix.typ() != Some(psl::Type::Private) {
            return Some(rest);
        }
        rest = rest.split_once('.')?.1;
    }
}

/// What stands before `name`, without the dot between them: nothing where they are equal.
fn before<'a>(host: &'a str, name: &str) -> Option<&'a str> {
    match host.strip_suffix(name)? {
        "" => Some(""),
        rest => rest.strip_suffix('.').filter(|rest| !rest.is_empty()),
    }
}

impl<'a> Site<'a> {
    /// Of a host as [`normal`] makes it.
    #[must_use]
    pub fn new(host: &'a str) -> Self {
        let stem = suffix(host).and_then(|suffix| before(host, suffix));
        Self { host, stem: stem.filter(|stem| !stem.is_empty()).unwrap_or(host) }
    }

    /// True for a site of the list, and all that is below it.
    #[must_use]
    pub fn is_in(&self, list: &[&str]) -> bool {
        list.iter().any(|entry| self.before(entry).is_some())
    }

    /// True for a page of results, not for all that a search engine's company has.
    #[must_use]
    pub fn is_search(&self) -> bool {
        let is_page = |before: &str| SEARCH_PAGES.contains(&before) || before.ends_with(".search");
        let mut found = SEARCH.iter().filter_map(|entry| self.before(entry));
        found.any(|before| before.is_empty() || is_page(before))
    }

    /// True where a visit only passes through, to pay or to sign in.
    #[must_use]
    pub fn is_passed_through(&self) -> bool {
        let is_secure = || self.host.split('.').any(|label| SECURE_LABELS.contains(&label));
        self.is_in(PAYMENT) || self.is_in(SIGN_IN) || is_secure()
    }

    /// True for the host, and all below it.
    #[must_use]
    pub fn is_at(&self, host: &str) -> bool {
        before(self.host, host).is_some()
    }

    /// What of the host stands before an entry of a list.
    fn before(&self, entry: &str) -> Option<&'a str> {
        match entry.strip_suffix('.') {
            Some(name) => before(self.stem, name),
            None => before(self.host, entry),
        }
    }
}

/// A host of the configuration, as hosts of events are written: lower case, Punycode.
///
/// # Errors
/// Says what is wrong where it is none, or a public suffix, which would be everybody's.
pub fn configured(text: &str) -> Result<String, String> {
    let wrong =
        |why: &str| format!("{text:?} is {why}: give a host such as pay.example, without *");
    let host = url::Host::parse(text.trim()).map_err(|_| wrong("no host"))?.to_string();
    let host = normal(&host).into_owned();
    if host.contains('*') || host.split('.').any(str::is_empty) {
        return Err(wrong("no host"));
    }
    if suffix(&host) == Some(host.as_str()) {
        return Err(wrong("a public suffix"));
    }
    Ok(host)
}

#[cfg(test)]
#[path = "sites_tests.rs"]
mod tests;
