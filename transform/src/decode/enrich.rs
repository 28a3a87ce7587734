//! What an event's own fields say beyond themselves: the parts of its URLs,
//! its campaign, language, device and whether it is a bot's.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use clickmill_schemas::Event;
use url::form_urlencoded;

/// An event received later than this after it happened is late.
pub const LATE_AFTER: Duration = Duration::from_secs(3_600);
/// Distinct user agents whose parse is kept; beyond it the cache starts anew.
const MAX_CACHED_AGENTS: usize = 100_000;
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

/// What a User-Agent says.
#[derive(Clone, Default)]
pub struct Agent {
    pub browser: Option<String>,
    pub browser_version: Option<String>,
    pub os: Option<String>,
    pub os_version: Option<String>,
    pub device_class: Option<&'static str>,
    pub bot_reason: Option<&'static str>,
}

/// Parses user agents, each distinct one once.
#[derive(Default)]
pub struct Agents {
    parser: woothee::parser::Parser,
    known: HashMap<String, Agent>,
}

impl Agents {
    /// The agent of a User-Agent text.
    pub fn get(&mut self, user_agent: &str) -> &Agent {
        if self.known.len() >= MAX_CACHED_AGENTS {
            self.known.clear();
        }
        if !self.known.contains_key(user_agent) {
            let agent = parse_agent(&self.parser, user_agent);
            self.known.insert(user_agent.to_owned(), agent);
        }
        &self.known[user_agent]
    }
}

/// Marks of crawlers and scripts that name themselves.
const BOT_MARKS: &[&str] = &[
    "bot",
    "crawl",
    "spider",
    "slurp",
    "curl/",
    "wget/",
    "python-requests",
    "python-urllib",
    "go-http-client",
    "okhttp-monitor",
    "java/",
    "libwww",
    "scrapy",
    "facebookexternalhit",
    "lighthouse",
    "pingdom",
    "uptime",
];
const HEADLESS_MARKS: &[&str] = &["headlesschrome", "phantomjs", "puppeteer", "playwright"];

fn parse_agent(parser: &woothee::parser::Parser, user_agent: &str) -> Agent {
    let lower = user_agent.to_ascii_lowercase();
    let bot_reason = if HEADLESS_MARKS.iter().any(|mark| lower.contains(mark)) {
        Some("headless")
    } else if BOT_MARKS.iter().any(|mark| lower.contains(mark)) {
        Some("declared")
    } else {
        None
    };
    let known = |text: &str| (text != "UNKNOWN" && !text.is_empty()).then(|| text.to_owned());
    let parsed = parser.parse(user_agent);
    let is_crawler = parsed.as_ref().is_some_and(|agent| agent.category == "crawler");
    let bot_reason = bot_reason.or(is_crawler.then_some("declared"));
    let is_tablet = lower.contains("ipad")
        || lower.contains("tablet")
        || (lower.contains("android") && !lower.contains("mobile"));
    let device_class = match parsed.as_ref().map(|agent| agent.category) {
        _ if bot_reason.is_some() => "bot",
        _ if is_tablet => "tablet",
        Some("pc") => "desktop",
        Some("smartphone" | "mobilephone") => "mobile",
        _ => "other",
    };
    Agent {
        browser: parsed.as_ref().and_then(|agent| known(agent.name)),
        browser_version: parsed.as_ref().and_then(|agent| known(agent.version)),
        os: parsed.as_ref().and_then(|agent| known(agent.os)),
        os_version: parsed.as_ref().and_then(|agent| known(&agent.os_version)),
        device_class: Some(device_class),
        bot_reason,
    }
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

    #[test]
    fn agents_tell_devices_and_bots() {
        let mut agents = Agents::default();
        for (user_agent, class, bot) in [
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
                "desktop",
                None,
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 Mobile/15E148 Safari/604.1",
                "mobile",
                None,
            ),
            (
                "Mozilla/5.0 (iPad; CPU OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/16.6 Mobile/15E148 Safari/604.1",
                "tablet",
                None,
            ),
            (
                "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
                "bot",
                Some("declared"),
            ),
            (
                "Mozilla/5.0 (X11; Linux x64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/120.0.0.0 Safari/537.36",
                "bot",
                Some("headless"),
            ),
            ("curl/8.0", "bot", Some("declared")),
        ] {
            let agent = agents.get(user_agent);
            assert_eq!((agent.device_class, agent.bot_reason), (Some(class), bot), "{user_agent}");
        }
    }
}
