//! Which channel an event came by: a shop's own rules, then GA4's default channel grouping.
//!
//! The default rules follow Google's description of the default channel group
//! (<https://support.google.com/analytics/answer/9756891>) in its order; which sites
//! are search engines, AI assistants, social networks, shops and video sites is our own list.
//! Source and medium are what GA4 would make of a visit: the campaign's marks, else
//! an advertising click's, else the referrer.
//!
//! Where GA4 says "paid other" or "unassigned" though the medium itself names a
//! channel (`paid_social`, `newsletter`), that channel is taken. `internal` is ours:
//! the visit goes on. A page of the shop led to this one, or one that the visit only
//! passed through, to pay or to sign in; where it came from was said before.

use std::fmt::Write as _;

use serde::Deserialize;

use super::known::{Found, Known};
use super::site_lists::{ASSISTANTS, SHOPPING, SOCIAL, VIDEO};
use super::sites::{self, Site, same_site};

/// Version of the default rules. A shop's own rules have the version that it gives them.
pub const CHANNEL_RULES_VERSION: i32 = 3;
/// Versions below are those of default rules.
const FIRST_OWN_VERSION: i32 = 1_000;
/// In a condition: where there is no value.
const NONE: &str = "(none)";
/// The medium of a visit that an AI assistant led here, as Google Analytics calls it.
const ASSISTANT: &str = "ai-assistant";

/// `[channels]` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Settings")]
pub struct ChannelRules {
    version: Option<i32>,
    rules: Vec<Rule>,
    /// Hosts beside the default ones through which a visit only passes.
    ignored_referrers: Vec<String>,
    /// Hosts of the shop's other sites.
    own_domains: Vec<String>,
    known: Known,
}

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    version: Option<i32>,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    ignored_referrers: Vec<String>,
    #[serde(default)]
    own_domains: Vec<String>,
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
        let Settings { version, rules, ignored_referrers, own_domains } = settings;
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
        let ignored_referrers = hosts("ignored_referrers", &ignored_referrers)?;
        let own_domains = hosts("own_domains", &own_domains)?;
        let is_default = rules.is_empty() && ignored_referrers.is_empty() && own_domains.is_empty();
        match version {
            None if !is_default => Err(format!(
                "[channels] has rules or hosts and no `version`: give one from {FIRST_OWN_VERSION} \
                 on, and another one whenever one of them changes; it stands in \
                 channel_rules_version"
            )),
            Some(version) if version < FIRST_OWN_VERSION => Err(format!(
                "version {version} of [channels] is kept for default rules: take one from \
                 {FIRST_OWN_VERSION} on"
            )),
            _ => {
                let known = Known::default();
                Ok(Self { version, rules, ignored_referrers, own_domains, known })
            }
        }
    }
}

fn hosts(key: &str, given: &[String]) -> Result<Vec<String>, String> {
    let hosts = given.iter().map(|text| sites::configured(text));
    hosts.collect::<Result<_, _>>().map_err(|error| format!("{key} of [channels]: {error}"))
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
        let hosts = traffic.page_host.zip(traffic.referrer_host);
        let is_same_site = hosts.is_some_and(|(page, referrer)| same_site(page, referrer));
        // Most events are of the visit's middle: nothing of them is looked up.
        if self.rules.is_empty() && !traffic.has_marks() {
            match traffic.referrer_host {
                None => return "direct",
                Some(_) if is_same_site => return "internal",
                Some(_) => {}
            }
        }
        let found = self.known.of(traffic.key(is_same_site), || self.decide(traffic, is_same_site));
        match found {
            Found::Own(at) => self.rules.get(at).map_or("unassigned", |rule| &rule.channel),
            Found::Default(channel) => channel,
        }
    }

    fn decide(&self, traffic: &Traffic<'_>, is_same_site: bool) -> Found {
        match self.rules.iter().position(|rule| rule.fits(traffic)) {
            Some(at) => Found::Own(at),
            None => Found::Default(self.by_default(traffic, is_same_site)),
        }
    }

    fn by_default(&self, traffic: &Traffic<'_>, is_same_site: bool) -> &'static str {
        let marked = Visit::marked(traffic);
        if !marked.is_unmarked() {
            return marked.channel();
        }
        let referrer = sites::normal(traffic.referrer_host.unwrap_or_default());
        if referrer.is_empty() {
            "direct"
        } else if is_same_site || self.goes_on_from(Site::new(&referrer)) {
            "internal"
        } else {
            Visit::referred(&referrer).channel()
        }
    }

    /// True for a site that is no source of visits.
    fn goes_on_from(&self, referrer: Site<'_>) -> bool {
        let mut own = self.own_domains.iter().chain(&self.ignored_referrers);
        own.any(|host| referrer.is_at(host)) || referrer.is_passed_through()
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
    /// the same site. Which hosts are ignored or the shop's own is the same for all that share
    /// a cache.
    fn key(&self, is_same_site: bool) -> String {
        let texts = self.asked();
        let bytes: usize = texts.iter().flatten().map(|text| text.len()).sum();
        let mut key = String::with_capacity(bytes + 20 * texts.len());
        key.push(if is_same_site { 's' } else { 'o' });
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
    /// As the campaign's marks say, else the click.
    fn marked(traffic: &Traffic<'_>) -> Self {
        let lower = |text: Option<&str>| text.unwrap_or_default().trim().to_lowercase();
        let mut visit = Self {
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
        // ChatGPT marks its links with utm_source=chatgpt.com and nothing else.
        if visit.medium.is_empty() && visit.is_of_assistant() {
            ASSISTANT.clone_into(&mut visit.medium);
        }
        visit
    }

    /// As the host says that led here.
    fn referred(referrer: &str) -> Self {
        let mut visit = Self {
            source: referrer.to_owned(),
            medium: "referral".to_owned(),
            campaign: String::new(),
        };
        if visit.is_of_assistant() {
            ASSISTANT.clone_into(&mut visit.medium);
        }
        visit
    }

    fn is_unmarked(&self) -> bool {
        [&self.source, &self.medium, &self.campaign].iter().all(|text| text.is_empty())
    }

    fn is_of_assistant(&self) -> bool {
        Site::new(&sites::normal(&self.source)).is_in(ASSISTANTS)
    }

    /// The first rule that fits: the order is GA4's.
    fn channel(&self) -> &'static str {
        let (source, medium) = (self.source.as_str(), self.medium.as_str());
        let host = sites::normal(source);
        let site = Site::new(&host);
        let medium_is = |names: &[&str]| names.contains(&medium);
        let of = |list: &[&str]| site.is_in(list);
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
        } else if site.is_search() && is_paid {
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
        } else if medium == ASSISTANT {
            "ai_assistant"
        } else if is_shopping {
            "organic_shopping"
        } else if of(SOCIAL) || medium_is(&social_media) {
            "social"
        } else if of(VIDEO) || medium.contains("video") {
            "organic_video"
        } else if site.is_search() || medium == "organic" {
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

#[cfg(test)]
#[path = "channels_tests.rs"]
mod tests;
