//! What a User-Agent says: browser, operating system, device and whether it is a bot's.
//!
//! Names and versions are those of [uap-core](https://github.com/ua-parser/uap-core), whose
//! regular expressions many tools share; so are the crawlers, its devices `Spider`.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::thread;

use ua_parser::{Extractor, Regexes, device, os, user_agent};

/// Distinct user agents whose parse is kept; beyond it the cache starts anew.
const MAX_CACHED: usize = 100_000;
/// As much of a User-Agent as is read, in bytes.
const MAX_READ: usize = 1_024;

/// Browsers that no person looks at, in lower case.
const HEADLESS_MARKS: &[&str] = &["headlesschrome", "phantomjs", "puppeteer", "playwright"];
/// Clients that name themselves and that uap-core does not count among the crawlers: HTTP
/// libraries of scripts, tools that check pages.
const DECLARED_MARKS: &[&str] = &[
    "aiohttp/",
    "chrome-lighthouse",
    "curl/",
    "go-http-client",
    "google-inspectiontool",
    "libwww",
    "mediapartners-google",
    "node-fetch",
    "postmanruntime",
    "python-httpx",
    "python-requests",
    "wget/",
];
/// Televisions and consoles, some of which name a desktop's or a phone's system.
const OTHER_MARKS: &[&str] = &[
    "; aft",
    "android tv",
    "appletv",
    "bravia",
    "crkey",
    "googletv",
    "hbbtv",
    "nintendo",
    "playstation",
    "roku",
    "smart-tv",
    "smarttv",
    "web0s",
    "xbox",
];

/// What a User-Agent says.
#[derive(Debug, Default, PartialEq)]
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
    known: HashMap<String, Agent>,
    none: Agent,
}

impl Agents {
    /// What a User-Agent says; nothing where there is none.
    pub fn get(&mut self, user_agent: Option<&str>) -> &Agent {
        let Some(user_agent) = user_agent else { return &self.none };
        if self.known.len() >= MAX_CACHED {
            self.known.clear();
        }
        if !self.known.contains_key(user_agent) {
            self.known.insert(user_agent.to_owned(), parse(user_agent));
        }
        &self.known[user_agent]
    }
}

/// The regular expressions, compiled once a process: some 0.1 s and 26 MB.
static EXTRACTOR: LazyLock<Extractor<'static>> = LazyLock::new(|| {
    load().unwrap_or_else(|error| unreachable!("uap-core's regular expressions: {error}"))
});

fn load() -> Result<Extractor<'static>, Box<dyn std::error::Error + Send + Sync>> {
    let text = include_str!(concat!(env!("OUT_DIR"), "/uap-core.json"));
    let Regexes { user_agent_parsers, os_parsers, device_parsers } = serde_json::from_str(text)?;
    // The devices take as long as the two others.
    thread::scope(|scope| {
        let devices = scope.spawn(|| -> Result<_, ua_parser::Error> {
            Ok(device::Builder::new().push_all(device_parsers)?.build()?)
        });
        let ua = user_agent::Builder::new().push_all(user_agent_parsers)?.build()?;
        let os = os::Builder::new().push_all(os_parsers)?.build()?;
        let dev = devices.join().map_err(|_| "a panic")??;
        Ok(Extractor { ua, os, dev })
    })
}

fn parse(user_agent: &str) -> Agent {
    let user_agent = &user_agent[..user_agent.floor_char_boundary(MAX_READ)];
    let lower = user_agent.to_ascii_lowercase();
    let has_one_of = |marks: &[&str]| marks.iter().any(|mark| lower.contains(mark));
    let (browser, os, device) = EXTRACTOR.extract(user_agent);

    let bot_reason = if has_one_of(HEADLESS_MARKS) {
        Some("headless")
    } else if device.is_some_and(|device| device.device == "Spider") || has_one_of(DECLARED_MARKS) {
        Some("declared")
    } else {
        None
    };
    let device_class = match os.as_ref().map(|os| os.os.as_ref()) {
        _ if bot_reason.is_some() => "bot",
        _ if has_one_of(OTHER_MARKS) => "other",
        Some("Windows" | "Mac OS X" | "Chrome OS") => "desktop",
        _ if has_one_of(&["ipad", "tablet", "kindle", "playbook"]) => "tablet",
        Some("Android") if !lower.contains("mobile") => "tablet",
        Some("Android" | "iOS") => "mobile",
        _ if has_one_of(&["mobile", "phone"]) => "mobile",
        _ if has_one_of(&["x11", "linux", "windows", "macintosh"]) => "desktop",
        _ => "other",
    };
    let browser_version = browser.as_ref().and_then(|browser| {
        version([browser.major, browser.minor, browser.patch, browser.patch_minor])
    });
    let os_version = os.as_ref().and_then(|os| {
        let parts = [&os.major, &os.minor, &os.patch, &os.patch_minor];
        version(parts.map(|part| part.as_deref()))
    });
    Agent {
        browser: browser.map(|browser| browser.family.into_owned()),
        browser_version,
        os: os.map(|os| os.os.into_owned()),
        os_version,
        device_class: Some(device_class),
        bot_reason,
    }
}

/// `17.0.1` of its parts, up to the first that is not known.
fn version(parts: [Option<&str>; 4]) -> Option<String> {
    let known: Vec<&str> =
        parts.into_iter().map_while(|part| part.filter(|part| !part.is_empty())).collect();
    (!known.is_empty()).then(|| known.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// User agents as their makers document them; what they say by uap-core's own tests
    /// (tests/test_ua.yaml, test_os.yaml), the classes by what the devices are.
    #[test]
    fn agents_tell_browsers_systems_and_devices() {
        let mut agents = Agents::default();
        for (user_agent, browser, system, class) in [
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
                "Chrome 120.0.0.0",
                "Windows 10",
                "desktop",
            ),
            (
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36 Edg/120.0.2210.91",
                "Edge 120.0.2210.91",
                "Windows 10",
                "desktop",
            ),
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 Safari/605.1.15",
                "Safari 17.0",
                "Mac OS X 10.15.7",
                "desktop",
            ),
            (
                "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/119.0",
                "Firefox 119.0",
                "Ubuntu",
                "desktop",
            ),
            (
                "Mozilla/4.0 (compatible; MSIE 8.0; Windows NT 6.1; Trident/4.0; Tablet PC 2.0)",
                "IE 8.0",
                "Windows 7",
                "desktop",
            ),
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 Mobile/15E148 Safari/604.1",
                "Mobile Safari 17.0",
                "iOS 17.0.1",
                "mobile",
            ),
            (
                "Mozilla/5.0 (iPad; CPU OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/16.6 Mobile/15E148 Safari/604.1",
                "Mobile Safari 16.6",
                "iOS 16.6",
                "tablet",
            ),
            (
                "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Mobile Safari/537.36",
                "Chrome Mobile 124.0.0.0",
                "Android 10",
                "mobile",
            ),
            (
                "Mozilla/5.0 (Linux; Android 13; SM-X700) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
                "Chrome 120.0.0.0",
                "Android 13",
                "tablet",
            ),
            (
                "Mozilla/5.0 (SMART-TV; Linux; Tizen 6.0) AppleWebKit/538.1 (KHTML, like Gecko) Version/6.0 TV Safari/538.1",
                "Safari 6.0",
                "Tizen 6.0",
                "other",
            ),
            // A phone whose maker's name ends like a robot's.
            (
                "Mozilla/5.0 (Linux; Android 9; CUBOT X19) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/88.0.4324.93 Mobile Safari/537.36",
                "Chrome Mobile 88.0.4324.93",
                "Android 9",
                "mobile",
            ),
            ("", "", "", "other"),
        ] {
            let agent = agents.get(Some(user_agent));
            let told = |name: &Option<String>, version: &Option<String>| {
                [name.as_deref(), version.as_deref()]
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            assert_eq!(told(&agent.browser, &agent.browser_version), browser, "{user_agent}");
            assert_eq!(told(&agent.os, &agent.os_version), system, "{user_agent}");
            assert_eq!((agent.device_class, agent.bot_reason), (Some(class), None), "{user_agent}");
        }
        assert_eq!(*agents.get(None), Agent::default());
    }

    #[test]
    fn agents_tell_bots_and_why() {
        let mut agents = Agents::default();
        for (user_agent, reason) in [
            (
                "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
                "declared",
            ),
            (
                "Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X Build/MMB29P) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Mobile Safari/537.36 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
                "declared",
            ),
            (
                "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)",
                "declared",
            ),
            (
                "Mozilla/5.0 (compatible; Yahoo! Slurp; http://help.yahoo.com/help/us/ysearch/slurp)",
                "declared",
            ),
            (
                "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
                "declared",
            ),
            ("Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)", "declared"),
            ("Our-own-crawler/1.0", "declared"),
            ("Java/17.0.1", "declared"),
            ("curl/8.0", "declared"),
            ("python-requests/2.31", "declared"),
            (
                "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/120.0.0.0 Safari/537.36",
                "headless",
            ),
        ] {
            let agent = agents.get(Some(user_agent));
            assert_eq!(
                (agent.device_class, agent.bot_reason),
                (Some("bot"), Some(reason)),
                "{user_agent}"
            );
        }
    }

    #[test]
    fn an_agent_is_read_to_its_limit_whatever_it_holds() {
        let mut agents = Agents::default();
        let long = format!("Mozilla/5.0 (Windows NT 10.0) {} Googlebot/2.1", "é".repeat(MAX_READ));
        assert_eq!(agents.get(Some(&long)).device_class, Some("desktop"));
    }
}
