//! Which channel an event came by: a shop's own rules, then GA4's default channel grouping.
//!
//! The default rules follow Google's description of the default channel group
//! (<https://support.google.com/analytics/answer/9756891>) in its order; which sites
//! are search engines, social networks, shops and video sites is our own list.
//! Source and medium are what GA4 would make of a visit: the campaign's marks, else
//! an advertising click's, else the referrer.
//!
//! Where GA4 says "paid other" or "unassigned" though the medium itself names a
//! channel (`paid_social`, `newsletter`), that channel is taken. `internal` is ours:
//! a page of the shop led to this one.

use std::fmt::Write as _;

use serde::Deserialize;

use super::known::{Found, Known};

/// Version of the default rules. A shop's own rules have the version that it gives them.
pub const CHANNEL_RULES_VERSION: i32 = 2;
/// Versions below are those of default rules.
const FIRST_OWN_VERSION: i32 = 1_000;
/// In a condition: where there is no value.
const NONE: &str = "(none)";

/// Search engines. `name.` is a label of the host anywhere, the rest is a host or above it.
const SEARCH: &[&str] = &[
    "360.cn",
    "aol.",
    "ask.",
    "avg.",
    "babylon.",
    "baidu.",
    "bing.",
    "centrum.",
    "cnn.",
    "daum.",
    "dogpile.",
    "duckduckgo.",
    "ecosia.",
    "ekolay.",
    "eniro.",
    "exalead.",
    "excite.",
    "google.",
    "goo.ne.jp",
    "haosou.",
    "incredimail.",
    "kvasir.",
    "lycos.",
    "mail.ru",
    "mojeek.",
    "msn.",
    "naver.",
    "onet.",
    "presearch.",
    "qwant.",
    "rakuten.co.jp",
    "rambler.",
    "search.brave.com",
    "searx.",
    "seznam.",
    "sm.cn",
    "so.com",
    "sogou.",
    "startpage.",
    "startsiden.",
    "swisscows.",
    "terra.",
    "tut.by",
    "ukr.",
    "virgilio.",
    "yahoo.",
    "yandex.",
    "ya.ru",
    "you.com",
    "zoznam.",
];
/// Social networks.
const SOCIAL: &[&str] = &[
    "badoo.",
    "bebo.",
    "blogger.",
    "blogspot.",
    "bsky.",
    "classmates.",
    "deviantart.",
    "discord.",
    "douban.",
    "facebook.",
    "fb.",
    "fb.me",
    "flickr.",
    "flipboard.",
    "foursquare.",
    "gab.",
    "goodreads.",
    "hootsuite.",
    "ig.",
    "imgur.",
    "instagram.",
    "kakao.",
    "l.wl.co",
    "line.me",
    "linkedin.",
    "linktr.ee",
    "livejournal.",
    "lnkd.in",
    "mastodon.",
    "medium.com",
    "meetup.",
    "messenger.",
    "meta.",
    "mixi.",
    "myspace.",
    "news.ycombinator.com",
    "nextdoor.",
    "odnoklassniki.",
    "ok.ru",
    "pinterest.",
    "plurk.",
    "quora.",
    "reddit.",
    "renren.",
    "skype.",
    "slashdot.",
    "snapchat.",
    "stackoverflow.",
    "t.co",
    "t.me",
    "taringa.",
    "telegram.",
    "threads.",
    "tiktok.",
    "tinder.",
    "truthsocial.",
    "tumblr.",
    "tripadvisor.",
    "twitter.",
    "viadeo.",
    "viber.",
    "vk.",
    "vk.com",
    "vkontakte.",
    "wechat.",
    "weibo.",
    "weixin.",
    "whatsapp.",
    "wordpress.",
    "x.com",
    "xing.",
    "yammer.",
    "yelp.",
    "zalo.",
];
/// Shops and price comparisons.
const SHOPPING: &[&str] = &[
    "alibaba.",
    "aliexpress.",
    "allegro.",
    "amazon.",
    "americanas.",
    "bol.com",
    "cdiscount.",
    "ebay.",
    "etsy.",
    "flipkart.",
    "fruugo.",
    "idealo.",
    "igshopping.",
    "jd.com",
    "kaufland.",
    "kelkoo.",
    "lazada.",
    "mercadolibre.",
    "mercadolivre.",
    "newegg.",
    "nextag.",
    "ozon.",
    "otto.de",
    "pricegrabber.",
    "pricerunner.",
    "pricespy.",
    "shein.",
    "shopee.",
    "shopify.",
    "shopping.",
    "shopzilla.",
    "taobao.",
    "temu.",
    "tmall.",
    "trendyol.",
    "walmart.",
    "wayfair.",
    "wish.",
    "zalando.",
];
/// Video sites.
const VIDEO: &[&str] = &[
    "bilibili.",
    "crackle.",
    "curiositystream.",
    "dailymotion.",
    "disneyplus.",
    "hulu.",
    "iqiyi.",
    "netflix.",
    "nicovideo.",
    "peertube.",
    "rumble.",
    "ted.",
    "twitch.",
    "utreon.",
    "veoh.",
    "vimeo.",
    "wistia.",
    "youku.",
    "youtu.be",
    "youtube.",
];

/// `[channels]` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Settings")]
pub struct ChannelRules {
    version: Option<i32>,
    rules: Vec<Rule>,
    known: Known,
}

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    version: Option<i32>,
    #[serde(default)]
    rules: Vec<Rule>,
}

/// A rule of the shop: every condition that it has must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rule {
    channel: String,
    source: Patterns,
    medium: Patterns,
    campaign: Patterns,
    /// The referrer's host.
    referrer: Patterns,
    /// The kind of the click id: gclid, fbclid, ...
    click_id: Patterns,
}

/// One pattern or several, of which one must fit. `*` stands for anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "OneOrMore")]
struct Patterns(Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// What the rules look at. Texts are as sent; the rules tell no cases apart.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic<'a> {
    /// `utm_source`.
    pub source: Option<&'a str>,
    /// `utm_medium`.
    pub medium: Option<&'a str>,
    /// `utm_campaign`.
    pub campaign: Option<&'a str>,
    /// The name of the click id's parameter.
    pub click_id_type: Option<&'a str>,
    /// Host of the page.
    pub page_host: Option<&'a str>,
    /// Host of the page before.
    pub referrer_host: Option<&'a str>,
}

impl From<OneOrMore> for Patterns {
    fn from(given: OneOrMore) -> Self {
        let all = match given {
            OneOrMore::One(one) => vec![one],
            OneOrMore::More(all) => all,
        };
        Self(all.into_iter().map(|pattern| pattern.to_lowercase()).collect())
    }
}

impl TryFrom<Settings> for ChannelRules {
    type Error = String;

    fn try_from(settings: Settings) -> Result<Self, String> {
        let Settings { version, rules } = settings;
        for (at, rule) in rules.iter().enumerate() {
            let nth = at + 1;
            if rule.channel.trim().is_empty() {
                return Err(format!("rule {nth} of [channels] lacks its `channel`"));
            }
            if rule.conditions().all(|patterns| patterns.0.is_empty()) {
                return Err(format!(
                    "rule {nth} of [channels], {}, has no condition: give source, medium, \
                     campaign, referrer or click_id",
                    rule.channel
                ));
            }
        }
        match version {
            None if !rules.is_empty() => Err(format!(
                "[channels] has rules and no `version`: give one from {FIRST_OWN_VERSION} on, and \
                 another one whenever a rule changes; it stands in channel_rules_version"
            )),
            Some(version) if version < FIRST_OWN_VERSION => Err(format!(
                "version {version} of [channels] is kept for default rules: take one from \
                 {FIRST_OWN_VERSION} on"
            )),
            _ => Ok(Self { version, rules, known: Known::default() }),
        }
    }
}

impl Rule {
    fn conditions(&self) -> impl Iterator<Item = &Patterns> {
        [&self.source, &self.medium, &self.campaign, &self.referrer, &self.click_id].into_iter()
    }

    fn fits(&self, traffic: &Traffic<'_>) -> bool {
        self.conditions().zip(traffic.asked()).all(|(patterns, value)| patterns.fit(value))
    }
}

impl Patterns {
    /// True where there is no pattern, too.
    fn fit(&self, value: Option<&str>) -> bool {
        let value = value.unwrap_or_default().to_lowercase();
        let fits = |pattern: &String| match value.is_empty() {
            true => pattern == NONE,
            false => fits(pattern, &value),
        };
        self.0.is_empty() || self.0.iter().any(fits)
    }
}

/// Both in lower case; `*` stands for any text, also none.
fn fits(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

impl ChannelRules {
    /// What stands in `channel_rules_version`.
    #[must_use]
    pub fn version(&self) -> i32 {
        self.version.unwrap_or(CHANNEL_RULES_VERSION)
    }

    /// The channel of an event.
    #[must_use]
    pub fn channel(&self, traffic: &Traffic<'_>) -> &str {
        let is_internal =
            || traffic.page_host.zip(traffic.referrer_host).is_some_and(|(a, b)| same_site(a, b));
        // Most events are of the visit's middle: nothing of them is looked up.
        if self.rules.is_empty() && !traffic.has_marks() {
            match traffic.referrer_host {
                None => return "direct",
                Some(_) if is_internal() => return "internal",
                Some(_) => {}
            }
        }
        let key = traffic.key(is_internal());
        let found = self.known.of(key, || self.decide(traffic));
        match found {
            Found::Own(at) => self.rules.get(at).map_or("unassigned", |rule| &rule.channel),
            Found::Default(channel) => channel,
        }
    }

    fn decide(&self, traffic: &Traffic<'_>) -> Found {
        match self.rules.iter().position(|rule| rule.fits(traffic)) {
            Some(at) => Found::Own(at),
            None => Found::Default(by_default(traffic)),
        }
    }
}

impl<'a> Traffic<'a> {
    /// What the shop's rules can ask for.
    fn asked(&self) -> [Option<&'a str>; 5] {
        [self.source, self.medium, self.campaign, self.referrer_host, self.click_id_type]
    }

    fn has_marks(&self) -> bool {
        [self.source, self.medium, self.campaign, self.click_id_type].iter().any(Option::is_some)
    }

    /// The same for traffic that no rule tells apart: each text with its length, so that no two
    /// lists of texts are alike. Of the page's host it matters only whether the referrer is of
    /// the same site.
    fn key(&self, is_internal: bool) -> String {
        let texts = self.asked();
        let bytes: usize = texts.iter().flatten().map(|text| text.len()).sum();
        let mut key = String::with_capacity(bytes + 20 * texts.len());
        key.push(if is_internal { 'i' } else { 'e' });
        for text in texts {
            match text {
                // Writing to a String does not fail.
                Some(text) => drop(write!(key, "{}:{text}", text.len())),
                None => key.push('-'),
            }
        }
        key
    }
}

/// A visit as GA4 would call it, in lower case.
struct Visit {
    source: String,
    medium: String,
    campaign: String,
}

fn by_default(traffic: &Traffic<'_>) -> &'static str {
    let lower = |text: Option<&str>| text.unwrap_or_default().trim().to_lowercase();
    let mut visit = Visit {
        source: lower(traffic.source),
        medium: lower(traffic.medium),
        campaign: lower(traffic.campaign),
    };
    if let Some((source, medium)) = traffic.click_id_type.and_then(of_click) {
        if visit.medium.is_empty() {
            medium.clone_into(&mut visit.medium);
        }
        if visit.source.is_empty() {
            source.clone_into(&mut visit.source);
        }
    }
    let has_marks = |visit: &Visit| {
        [&visit.source, &visit.medium, &visit.campaign].iter().any(|text| !text.is_empty())
    };
    if !has_marks(&visit) {
        let Some(referrer) = traffic.referrer_host else { return "direct" };
        if traffic.page_host.is_some_and(|page| same_site(page, referrer)) {
            return "internal";
        }
        visit.source = referrer.to_lowercase();
        visit.medium = match is_in(SEARCH, &visit.source) {
            true => "organic".to_owned(),
            false => "referral".to_owned(),
        };
    }
    visit.channel()
}

/// The source and medium of an advertising click.
fn of_click(click_id_type: &str) -> Option<(&'static str, &'static str)> {
    Some(match click_id_type {
        "gclid" | "wbraid" | "gbraid" => ("google", "cpc"),
        "msclkid" => ("bing", "cpc"),
        "dclid" => ("dv360", "display"),
        "ttclid" => ("tiktok", "cpc"),
        "twclid" => ("twitter", "cpc"),
        "li_fat_id" => ("linkedin", "cpc"),
        // It is on every outgoing link of Facebook, paid or not.
        "fbclid" => ("facebook", "social"),
        _ => return None,
    })
}

impl Visit {
    /// The first rule that fits: the order is GA4's.
    fn channel(&self) -> &'static str {
        let (source, medium) = (self.source.as_str(), self.medium.as_str());
        let medium_is = |names: &[&str]| names.contains(&medium);
        let of = |sites: &[&str]| is_in(sites, source);
        let is_paid = medium.contains("cp")
            || medium_is(&["ppc", "retargeting"])
            || medium.starts_with("paid");
        let is_shopping = of(SHOPPING) || names_a_shop(&self.campaign);
        let emails = ["email", "e-mail", "e_mail", "e mail"];
        let social_media = [
            "social",
            "social-network",
            "social-media",
            "social_media",
            "sm",
            "social network",
            "social media",
        ];
        if matches!(source, "(direct)" | "direct") && matches!(medium, "" | "(not set)" | "(none)")
        {
            "direct"
        } else if self.campaign.contains("cross-network") {
            "cross_network"
        } else if is_shopping && is_paid {
            "paid_shopping"
        } else if of(SEARCH) && is_paid {
            "paid_search"
        } else if of(SOCIAL) && is_paid {
            "paid_social"
        } else if of(VIDEO) && is_paid {
            "paid_video"
        } else if medium_is(&["display", "banner", "expandable", "interstitial", "cpm"]) {
            "display"
        } else if medium_is(&["paid_search", "paidsearch", "paid-search", "sem"]) {
            "paid_search"
        } else if medium_is(&["paid_social", "paidsocial", "paid-social", "cpm_social"]) {
            "paid_social"
        } else if is_paid {
            "paid_other"
        } else if is_shopping {
            "organic_shopping"
        } else if of(SOCIAL) || medium_is(&social_media) {
            "social"
        } else if of(VIDEO) || medium.contains("video") {
            "organic_video"
        } else if of(SEARCH) || medium == "organic" {
            "organic_search"
        } else if medium_is(&["referral", "app", "link"]) {
            "referral"
        } else if emails.contains(&source) || emails.contains(&medium) {
            "email"
        } else if medium_is(&["affiliate", "affiliates"]) {
            "affiliate"
        } else if medium == "audio" {
            "audio"
        } else if source == "sms" || medium == "sms" {
            "sms"
        } else if medium.ends_with("push")
            || medium.contains("mobile")
            || medium.contains("notification")
            || source == "firebase"
        {
            "push"
        } else if source == "newsletter" || medium == "newsletter" {
            "email"
        } else {
            "unassigned"
        }
    }
}

/// GA4's `^(.*(([^a-df-z]|^)shop|shopping).*)$`: "shop" at the beginning of a word, or after an e.
fn names_a_shop(campaign: &str) -> bool {
    campaign.contains("shopping")
        || campaign.match_indices("shop").any(|(at, _)| {
            let before = campaign[..at].chars().next_back();
            before.is_none_or(|c| c == 'e' || !c.is_ascii_lowercase())
        })
}

fn is_in(sites: &[&str], source: &str) -> bool {
    let host = source.strip_prefix("www.").unwrap_or(source);
    sites.iter().any(|site| match site.strip_suffix('.') {
        Some(name) => host.split('.').any(|label| label == name),
        None => {
            host.strip_suffix(site).is_some_and(|above| above.is_empty() || above.ends_with('.'))
        }
    })
}

/// True for `shop.example` and `www.shop.example`: equal, or one is below the other.
fn same_site(a: &str, b: &str) -> bool {
    let (a, b) = (a.trim_start_matches("www."), b.trim_start_matches("www."));
    let below = |long: &str, short: &str| {
        long.len() > short.len() && long.ends_with(short) && {
            long.as_bytes()[long.len() - short.len() - 1] == b'.'
        }
    };
    a == b || below(a, b) || below(b, a)
}

#[cfg(test)]
#[path = "channels_tests.rs"]
mod tests;
