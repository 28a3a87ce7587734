//! How messages travel: packed into the HTTP requests of real clients, with
//! the mishaps of real traffic: retries, lost responses, offline clients,
//! crawlers, test orders and requests that are simply wrong.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::journey::{Kind, Message, Tape, Visit, order_properties, rfc3339};
use super::orders::{Line, Order, Status};
use super::rng::Rng;
use super::visitor::{ARRIVALS, Arrival, BOTS, Client, Device, DeviceKind, Visitor};
use super::{DAY_MS, Shop};

/// Share of visits whose events are recorded offline and sent on a later day.
pub const OFFLINE: f64 = 0.012;
/// And how many days later at most.
pub const MAX_OFFLINE_DAYS: i64 = 3;
/// Share of requests whose response gets lost, so that the client sends all of it again.
const RESPONSE_LOST: f64 = 0.006;
/// Share of messages that a client sends a second time, in its next request.
const SENT_TWICE: f64 = 0.003;
/// Share of messages whose id a client gives to another message as well.
const ID_REUSED: f64 = 0.000_1;
/// analytics.js in batch mode sends after so many.
const BROWSER_BATCH: usize = 10;
/// analytics-node and the mobile SDKs send after so many.
const BATCH: usize = 15;
/// Over the collector's limit for one event (40 KiB; Segment's is 32 KB).
const OVERSIZE_BYTES: usize = 48 * 1_024;

/// One HTTP request of a client, but for `sentAt`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub client: Client,
    pub messages: Vec<Message>,
    /// How far the client's clock is ahead.
    pub skew_ms: i64,
    /// How often it is sent: more than once where the client saw no response.
    pub deliveries: u32,
    /// What is wrong with it. Exactly one part of a faulty request is.
    pub fault: Option<Fault>,
    /// Bytes that no collector can take, apart from `messages`: an item of the
    /// batch, or with [`Fault::BadJson`] the whole body.
    pub bad: Option<String>,
    /// Days between its events and its sending.
    pub late_days: i64,
    pub bot: bool,
}

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The body is cut short.
    BadJson,
    /// A message without `type`.
    MissingType,
    /// A `track` without an event's name.
    MissingEvent,
    /// A `type` that does not exist.
    UnknownType,
    /// A message over the limit for one.
    Oversize,
}

impl Fault {
    /// All of them.
    pub const ALL: &'static [Self] =
        &[Self::BadJson, Self::MissingType, Self::MissingEvent, Self::UnknownType, Self::Oversize];

    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::BadJson => "body cut short",
            Self::MissingType => "message without a type",
            Self::MissingEvent => "track without an event name",
            Self::UnknownType => "unknown message type",
            Self::Oversize => "message over the size limit",
        }
    }
}

/// A request as it goes over the wire.
pub struct Body {
    pub path: &'static str,
    pub content_type: &'static str,
    pub gzip: bool,
    pub bytes: Vec<u8>,
}

impl Request {
    /// The request that the client makes when its host's clock says `now_ms`.
    ///
    /// # Errors
    /// None in practice: writing to memory.
    pub fn body(&self, write_key: &str, now_ms: i64) -> std::io::Result<Body> {
        let sent_at = rfc3339(now_ms + self.skew_ms);
        let batch = || {
            let items: Vec<&str> = self
                .messages
                .iter()
                .map(|message| message.json.as_str())
                .chain(self.bad.as_deref())
                .collect();
            format!(
                r#"{{"batch":[{}],"writeKey":"{write_key}","sentAt":"{sent_at}"}}"#,
                items.join(",")
            )
        };
        if let (Some(Fault::BadJson), Some(bad)) = (self.fault, &self.bad) {
            return Ok(plain("/v1/batch", "application/json", bad.clone()));
        }
        match (self.client, self.messages.first()) {
            (Client::BrowserSingle, Some(message)) => {
                let path = match message.kind {
                    Kind::Track => "/v1/t",
                    Kind::Page => "/v1/p",
                    Kind::Identify => "/v1/i",
                };
                let open = message.json.trim_end_matches('}');
                let closing = &message.json[open.len()..];
                let inner = &closing[..closing.len().saturating_sub(1)];
                let text =
                    format!(r#"{open}{inner},"sentAt":"{sent_at}","writeKey":"{write_key}"}}"#);
                Ok(plain(path, "text/plain", text))
            }
            (Client::BrowserSingle | Client::BrowserBatch, _) => {
                Ok(plain("/v1/b", "text/plain", batch()))
            }
            (Client::App, _) => {
                let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
                gzip.write_all(batch().as_bytes())?;
                Ok(Body {
                    path: "/v1/batch",
                    content_type: "application/json",
                    gzip: true,
                    bytes: gzip.finish()?,
                })
            }
            (Client::Server, _) => Ok(plain("/v1/batch", "application/json", batch())),
        }
    }

    fn of(client: Client, skew_ms: i64, messages: Vec<Message>) -> Self {
        Self {
            client,
            messages,
            skew_ms,
            deliveries: 1,
            fault: None,
            bad: None,
            late_days: 0,
            bot: false,
        }
    }
}

fn plain(path: &'static str, content_type: &'static str, text: String) -> Body {
    Body { path, content_type, gzip: false, bytes: text.into_bytes() }
}

/// Packs the messages of a visit as its client does, with its mishaps.
pub fn pack(client: Client, skew_ms: i64, messages: Vec<Message>, rng: &mut Rng) -> Vec<Request> {
    let size = match client {
        Client::BrowserSingle => 1,
        Client::BrowserBatch => BROWSER_BATCH,
        Client::App | Client::Server => BATCH,
    };
    let mut requests: Vec<Request> = Vec::new();
    let mut again: Vec<Message> = Vec::new();
    for chunk in messages.chunks(size) {
        let mut carried = if size > 1 { std::mem::take(&mut again) } else { Vec::new() };
        carried.extend_from_slice(chunk);
        for message in chunk {
            if rng.chance(SENT_TWICE) {
                again.push(message.clone());
            }
            if rng.chance(ID_REUSED) {
                let mut other = message.clone();
                other.json = other.json.replacen("\"locale\":\"", "\"locale\":\"x-", 1);
                again.push(other);
            }
        }
        let mut request = Request::of(client, skew_ms, carried);
        if rng.chance(RESPONSE_LOST) {
            request.deliveries = 2;
        }
        requests.push(request);
    }
    if !again.is_empty() {
        let groups: Vec<Vec<Message>> =
            if size > 1 { vec![again] } else { again.into_iter().map(|m| vec![m]).collect() };
        requests.extend(groups.into_iter().map(|group| Request::of(client, skew_ms, group)));
    }
    requests
}

/// Crawlers: declared ones by their User-Agent, and one that pretends to be a browser.
pub fn crawlers(shop: &Shop, day: i64, visitors: u64, rng: &mut Rng) -> Vec<Request> {
    let mut requests = Vec::new();
    for nth in 0..=visitors / 1_500 {
        let declared = nth > 0 || day % 2 == 0;
        let agent = if declared { *rng.pick(BOTS) } else { UNDECLARED };
        let kind =
            DeviceKind { class: "desktop", user_agent: agent, screen: (1_024, 768), app: false };
        crawl(shop, day, &kind, rng, &mut requests);
    }
    requests
}

/// A browser's own words, sent by something that is none.
const UNDECLARED: &str = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/119.0.0.0 Safari/537.36";
const DIRECT: Arrival = Arrival { name: "direct", referrer: "", utm: None, click: None, buys: 0 };

fn crawl(shop: &Shop, day: i64, kind: &DeviceKind, rng: &mut Rng, requests: &mut Vec<Request>) {
    // The device table is static; a crawler's is not, so it borrows one and changes its words.
    let visitor = Visitor { skew_ms: 0, ..Visitor::of(shop.seed, u64::MAX) };
    let model = &visitor.devices[0];
    let device =
        Device { anonymous_id: rng.uuid(), kind: model.kind, client: Client::BrowserBatch };
    let start_ms = day * DAY_MS + rng.range(0, 20 * 3_600_000);
    let visit = Visit { visitor: &visitor, device: &device, arrival: &DIRECT, start_ms };
    let mut tape = Tape::new(visit, rng);
    for _ in 0..rng.range(40, 160) {
        let product = rng.pick(&shop.catalog.products);
        // About a page a second: no person reads that fast.
        tape.page_fast(&product.path(), &product.name);
        if rng.chance(0.6) {
            tape.track(
                "Product Viewed",
                json!({"product_id": product.id, "name": product.name, "category": product.category}),
                rng,
            );
        }
    }
    let mut messages = tape.messages;
    for message in &mut messages {
        message.json = message.json.replace(model.kind.user_agent, kind.user_agent);
        let declared = kind.user_agent != UNDECLARED;
        message.mark.device = if declared { "bot" } else { kind.class }.to_owned();
    }
    for mut request in pack(Client::BrowserBatch, 0, messages, rng) {
        request.bot = true;
        requests.push(request);
    }
}

/// The staff tries the checkout: purchases that no order row will ever match.
pub fn staff(shop: &Shop, day: i64, rng: &mut Rng) -> Vec<Request> {
    if !rng.chance(0.4) {
        return Vec::new();
    }
    let visitor = Visitor { skew_ms: 0, ..Visitor::of(shop.seed, u64::MAX - 1) };
    let device = Device { client: Client::BrowserBatch, ..visitor.devices[0].clone() };
    let start_ms = day * DAY_MS + rng.range(8 * 3_600_000, 15 * 3_600_000);
    let visit = Visit { visitor: &visitor, device: &device, arrival: &ARRIVALS[0].0, start_ms };
    let mut tape = Tape::new(visit, rng);
    tape.act_as("staff-1");
    tape.page("/checkout", "Checkout", rng);
    let at = rng.below(shop.catalog.products.len() as u64) as usize;
    let product = &shop.catalog.products[at];
    let order = Order {
        id: format!("TEST-{day}"),
        number: 0,
        customer_id: "staff-1".to_owned(),
        ordered_ms: start_ms,
        status: Status::Placed,
        lines: vec![Line {
            product_id: product.id.clone(),
            product: at,
            quantity: 1,
            unit_price: product.price,
            discount: 0,
        }],
        subtotal: product.price,
        discount: 0,
        tax: 0,
        shipping: 0,
        total: product.price,
        refunded: 0,
        coupon: None,
        country: String::new(),
        region: String::new(),
        city: String::new(),
        channel_hint: None,
        tracked: true,
    };
    let properties = order_properties(shop, &order, &order.id, "co-test");
    tape.track_order("Order Completed", properties, (order.id.clone(), order.total));
    pack(device.client, 0, tape.messages, rng)
}

/// What happened to orders today; the shop's server reports the refunds.
pub fn refunds(shop: &mut Shop, day: i64, rng: &mut Rng) -> Vec<Request> {
    let visitor = Visitor { skew_ms: 0, ..Visitor::of(shop.seed, u64::MAX - 2) };
    let device = Device { client: Client::Server, ..visitor.devices[0].clone() };
    let mut messages = Vec::new();
    for refund in shop.evening(day) {
        let visit =
            Visit { visitor: &visitor, device: &device, arrival: &DIRECT, start_ms: refund.at_ms };
        let order = &shop.orders[refund.order];
        let mut tape = Tape::new(visit, rng);
        tape.act_as(&order.customer_id);
        let amount = super::journey::number(refund.amount);
        tape.track_order(
            "Order Refunded",
            json!({"order_id": order.id, "total": amount, "currency": super::catalog::CURRENCY}),
            (order.id.clone(), refund.amount),
        );
        messages.extend(tape.messages);
    }
    pack(Client::Server, 0, messages, rng)
}

/// Requests that are wrong. Where only one message of a batch is, the others are fine.
pub fn malformed(day: i64, visitors: u64, rng: &mut Rng) -> Vec<Request> {
    let count = 5 + visitors / 1_000;
    (0..count)
        .map(|nth| {
            let fault = Fault::ALL[((day.unsigned_abs() + nth) % Fault::ALL.len() as u64) as usize];
            let at = rfc3339(day * DAY_MS + rng.range(0, DAY_MS));
            let (id, anonymous) = (format!("bad-{}", rng.uuid()), rng.uuid());
            let message = |kind: &str, rest: serde_json::Value| {
                let mut message = json!({"messageId": id, "anonymousId": anonymous, "timestamp": at, "properties": rest});
                if !kind.is_empty() {
                    message["type"] = json!(kind);
                }
                message.to_string()
            };
            let bad = match fault {
                Fault::BadJson => r#"{"batch":[{"type":"track","event":"Product Vie"#.to_owned(),
                Fault::MissingType => message("", json!({})),
                Fault::MissingEvent => message("track", json!({})),
                Fault::UnknownType => message("telepathy", json!({})),
                Fault::Oversize => message("page", json!({"blob": "x".repeat(OVERSIZE_BYTES)})),
            };
            let mut request = Request::of(Client::Server, 0, Vec::new());
            request.fault = Some(fault);
            request.bad = Some(bad);
            request
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str) -> Message {
        Message {
            id: id.to_owned(),
            kind: Kind::Page,
            name: "page".to_owned(),
            at_ms: 0,
            order: None,
            json: format!(r#"{{"messageId":"{id}","type":"page","properties":{{"a":{{}}}}}}"#),
            mark: crate::demo::shop::journey::Mark::default(),
        }
    }

    #[test]
    fn a_single_message_carries_the_time_it_was_sent_at() {
        let request = Request::of(Client::BrowserSingle, 1_000, vec![message("m1")]);
        let body = request.body("key", 0).expect("a body");
        assert_eq!((body.path, body.content_type), ("/v1/p", "text/plain"));
        assert_eq!(
            String::from_utf8(body.bytes).expect("text"),
            r#"{"messageId":"m1","type":"page","properties":{"a":{}},"sentAt":"1970-01-01T00:00:01.000Z","writeKey":"key"}"#
        );
    }

    #[test]
    fn an_app_sends_a_gzip_batch() {
        let request = Request::of(Client::App, 0, vec![message("m1"), message("m2")]);
        let body = request.body("key", 0).expect("a body");
        let mut text = String::new();
        std::io::Read::read_to_string(
            &mut flate2::read::GzDecoder::new(body.bytes.as_slice()),
            &mut text,
        )
        .expect("gzip");
        let sent: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(sent["batch"].as_array().map(Vec::len), Some(2));
        assert_eq!(sent["sentAt"], "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_body_cut_short_is_not_json() {
        let bad = malformed(5, 0, &mut Rng::of(&[1]));
        let request = bad.iter().find(|r| r.fault == Some(Fault::BadJson)).expect("one");
        let body = request.body("key", 0).expect("a body");
        assert!(serde_json::from_slice::<serde_json::Value>(&body.bytes).is_err());
    }
}
