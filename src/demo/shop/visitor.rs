//! Who comes: places, devices, habits, and the ways they arrive.
//!
//! A visitor follows from (seed, number) alone, so nothing about visitors has
//! to be kept between two runs.

use serde::{Deserialize, Serialize};

use super::rng::Rng;

/// Someone with one or two devices.
#[derive(Clone, Debug)]
pub struct Visitor {
    pub number: u64,
    pub place: &'static Place,
    pub devices: Vec<Device>,
    /// Blocks the tracker: buys, but never appears in the clicks.
    pub blocks_tracker: bool,
    /// How far the device's clock is off, in milliseconds.
    pub skew_ms: i64,
    /// How readily they buy, in thousandths of the usual.
    pub buys: u32,
    pub marketing_consent: bool,
}

/// A browser or an app on a device.
#[derive(Clone, Debug)]
pub struct Device {
    pub anonymous_id: String,
    pub kind: &'static DeviceKind,
    pub client: Client,
}

/// How a device talks to the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Client {
    /// analytics.js, a request for each event, JSON as text/plain.
    BrowserSingle,
    /// analytics.js in batch mode.
    BrowserBatch,
    /// A mobile app's SDK: gzip batches.
    App,
    /// A server-side SDK (analytics-node).
    Server,
}

#[derive(Debug)]
pub struct DeviceKind {
    pub class: &'static str,
    pub user_agent: &'static str,
    pub screen: (i32, i32),
    pub app: bool,
}

#[derive(Debug)]
pub struct Place {
    pub country: &'static str,
    pub region: &'static str,
    pub city: &'static str,
    pub locale: &'static str,
    pub timezone: &'static str,
    /// Hours ahead of UTC, for the time of day people shop at.
    pub offset_hours: i64,
}

/// How a session began.
#[derive(Debug)]
pub struct Arrival {
    pub name: &'static str,
    pub referrer: &'static str,
    /// (source, medium, campaign)
    pub utm: Option<(&'static str, &'static str, &'static str)>,
    /// Parameter name and prefix of an advertising click id.
    pub click: Option<(&'static str, &'static str)>,
    /// How readily such a session buys, in thousandths of the usual.
    pub buys: u32,
}

const PLACES: &[(Place, u32)] = &[
    (place("DE", "Berlin", "Berlin", "de-DE", "Europe/Berlin", 1), 18),
    (place("DE", "Bavaria", "Munich", "de-DE", "Europe/Berlin", 1), 14),
    (place("DE", "Hamburg", "Hamburg", "de-DE", "Europe/Berlin", 1), 9),
    (place("DE", "North Rhine-Westphalia", "Cologne", "de-DE", "Europe/Berlin", 1), 13),
    (place("FR", "Île-de-France", "Paris", "fr-FR", "Europe/Paris", 1), 13),
    (place("FR", "Auvergne-Rhône-Alpes", "Lyon", "fr-FR", "Europe/Paris", 1), 6),
    (place("NL", "North Holland", "Amsterdam", "nl-NL", "Europe/Amsterdam", 1), 10),
    (place("AT", "Vienna", "Vienna", "de-AT", "Europe/Vienna", 1), 6),
    (place("ES", "Catalonia", "Barcelona", "es-ES", "Europe/Madrid", 1), 6),
    (place("IE", "Leinster", "Dublin", "en-IE", "Europe/Dublin", 0), 5),
];

const fn place(
    country: &'static str,
    region: &'static str,
    city: &'static str,
    locale: &'static str,
    timezone: &'static str,
    offset_hours: i64,
) -> Place {
    Place { country, region, city, locale, timezone, offset_hours }
}

const DEVICES: &[(DeviceKind, u32)] = &[
    (
        device(
            "desktop",
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
            (1920, 1080),
        ),
        22,
    ),
    (
        device(
            "desktop",
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Safari/605.1.15",
            (1512, 982),
        ),
        9,
    ),
    (
        device(
            "desktop",
            "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
            (2560, 1440),
        ),
        5,
    ),
    (
        device(
            "desktop",
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0",
            (1536, 864),
        ),
        6,
    ),
    (
        device(
            "mobile",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
            (393, 852),
        ),
        22,
    ),
    (
        device(
            "mobile",
            "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36",
            (412, 915),
        ),
        20,
    ),
    (
        device(
            "mobile",
            "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36",
            (384, 854),
        ),
        5,
    ),
    (
        device(
            "tablet",
            "Mozilla/5.0 (iPad; CPU OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
            (820, 1180),
        ),
        6,
    ),
    (
        DeviceKind {
            class: "mobile",
            user_agent: "HouseholdShop/3.4.1 (iPhone; iOS 18.6; Scale/3.00)",
            screen: (393, 852),
            app: true,
        },
        5,
    ),
];

const fn device(class: &'static str, user_agent: &'static str, screen: (i32, i32)) -> DeviceKind {
    DeviceKind { class, user_agent, screen, app: false }
}

/// The ways into the shop, by how common they are.
pub const ARRIVALS: &[(Arrival, u32)] = &[
    (Arrival { name: "direct", referrer: "", utm: None, click: None, buys: 1_300 }, 24),
    (
        Arrival {
            name: "organic_search",
            referrer: "https://www.google.com/",
            utm: None,
            click: None,
            buys: 1_000,
        },
        22,
    ),
    (
        Arrival {
            name: "organic_search",
            referrer: "https://duckduckgo.com/",
            utm: None,
            click: None,
            buys: 950,
        },
        4,
    ),
    (
        Arrival {
            name: "paid_search",
            referrer: "https://www.google.com/",
            utm: Some(("google", "cpc", "brand_autumn")),
            click: Some(("gclid", "Cj0KCQiA")),
            buys: 1_250,
        },
        9,
    ),
    (
        Arrival {
            name: "paid_search",
            referrer: "https://www.bing.com/",
            utm: Some(("bing", "cpc", "kitchen_autumn")),
            click: Some(("msclkid", "f1e2d3")),
            buys: 1_050,
        },
        4,
    ),
    (
        Arrival {
            name: "paid_social",
            referrer: "https://l.facebook.com/",
            utm: Some(("facebook", "paid_social", "retarget_november")),
            click: Some(("fbclid", "IwAR0")),
            buys: 420,
        },
        12,
    ),
    (
        Arrival {
            name: "social",
            referrer: "https://www.pinterest.com/",
            utm: None,
            click: None,
            buys: 380,
        },
        6,
    ),
    (
        Arrival {
            name: "email",
            referrer: "",
            utm: Some(("newsletter", "email", "november_week")),
            click: None,
            buys: 1_900,
        },
        8,
    ),
    (
        Arrival {
            name: "affiliate",
            referrer: "https://coupons.example/",
            utm: Some(("coupons_example", "affiliate", "always_on")),
            click: None,
            buys: 1_100,
        },
        3,
    ),
    (
        Arrival {
            name: "referral",
            referrer: "https://homestead-notes.example/best-pans",
            utm: None,
            click: None,
            buys: 800,
        },
        4,
    ),
    (
        Arrival {
            name: "display",
            referrer: "https://news.example/",
            utm: Some(("adnet", "display", "autumn_banner")),
            click: None,
            buys: 180,
        },
        4,
    ),
];

/// What declared crawlers call themselves.
pub const BOTS: &[&str] = &[
    "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; Googlebot/2.1; +http://www.google.com/bot.html) Chrome/142.0.0.0 Safari/537.36",
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
    "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)",
];

impl Visitor {
    /// The visitor of this number in the world of this seed.
    pub fn of(seed: u64, number: u64) -> Self {
        let mut rng = Rng::of(&[seed, 0x0715_1708, number]);
        let count = if rng.chance(0.15) { 2 } else { 1 };
        let devices = (0..count).map(|_| Device::some(&mut rng)).collect();
        Self {
            number,
            place: rng.weighted(PLACES),
            devices,
            blocks_tracker: rng.chance(0.09),
            skew_ms: if rng.chance(0.05) { rng.range(-5_400_000, 5_400_000) } else { 0 },
            buys: *rng.weighted(&[(350, 50), (1_000, 30), (2_600, 20)]),
            marketing_consent: rng.chance(0.46),
        }
    }
}

impl Device {
    fn some(rng: &mut Rng) -> Self {
        let kind = rng.weighted(DEVICES);
        let client = if kind.app {
            Client::App
        } else {
            *rng.weighted(&[(Client::BrowserSingle, 1), (Client::BrowserBatch, 3)])
        };
        Self { anonymous_id: rng.uuid(), kind, client }
    }
}
