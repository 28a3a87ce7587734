//! The [`Event`]: one thing that a visitor, a customer or the shop did.
//!
//! It holds what the *client sent*, mapped to columns; enrichment (channel,
//! browser, session, ...) is the transform's, so that any day can be rebuilt.
//! Whatever has no column stays, verbatim, in `properties` or `context`. A
//! value leaves `properties` only where its column holds it exactly.

mod decode;
mod encode;
mod keys;

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

pub use keys::{EVENT_KEYS, WholeEvent, encode_whole};

use crate::json::cow;
use crate::{Money, RawJson, Timestamp};

/// Events older than this against `received_ts` are set to it ([`TimeReason::Past`]).
pub const MAX_PAST: Duration = Duration::from_secs(30 * 86_400);
/// Events further ahead of `received_ts` than this are set to it ([`TimeReason::Future`]).
pub const MAX_FUTURE: Duration = Duration::from_secs(3_600);

/// One event, as it stands on the wire and in the raw zone.
///
/// Valid by construction: times, amounts and raw JSON are types that cannot
/// hold anything else, and the clock fields come from [`EventTime`] only. Build
/// one with [`Event::new`] and set the public fields.
///
/// Text fields are `None` where the client sent nothing or an empty string.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct Event<'a> {
    /// The client's own id of the event (`messageId`, `eid`), the same across
    /// its retries; a UUIDv7 where the client sent none. Unique within an `app_id`.
    pub event_id: Cow<'a, str>,
    /// Canonical name, one of [`crate::names::EVENT_NAMES`].
    pub event_name: Cow<'a, str>,
    /// `segment`, `rudderstack`, `snowplow`, `ga4`, `native` or `import`.
    pub source_protocol: Cow<'a, str>,
    /// The name as the client sent it.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub source_event_name: Option<Cow<'a, str>>,
    /// The application (site, app, shop) that sent it.
    pub app_id: Cow<'a, str>,
    /// `web`, `mobile`, `server`, ...
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub platform: Option<Cow<'a, str>>,

    // The clock fields come from an [`EventTime`] only. They stand here one by
    // one because serde's `flatten` would buffer every other field.
    event_ts: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event_ts_reason: Option<TimeReason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_ts: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sent_ts: Option<Timestamp>,
    received_ts: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clock_skew_ms: Option<i64>,

    /// The shop's own id of a known customer.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub user_id: Option<Cow<'a, str>>,
    /// The tracker's id of a browser or device.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub anonymous_id: Option<Cow<'a, str>>,
    /// The id in the collector's own first-party cookie.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub network_id: Option<Cow<'a, str>>,
    /// A device or advertising id.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub device_id: Option<Cow<'a, str>>,
    /// The session as the client counts it. Ours is computed in transform.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub client_session_id: Option<Cow<'a, str>>,
    /// What the visitor consented to, as sent.
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub consent: Option<RawJson<'a>>,

    /// The full URL of the page.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub page_url: Option<Cow<'a, str>>,
    /// Its title.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub page_title: Option<Cow<'a, str>>,
    /// The URL of the page that led here.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub referrer_url: Option<Cow<'a, str>>,

    /// Campaign source, where the client sent one apart from the URL.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub utm_source: Option<Cow<'a, str>>,
    /// Campaign medium.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub utm_medium: Option<Cow<'a, str>>,
    /// Campaign name.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub utm_campaign: Option<Cow<'a, str>>,
    /// Campaign term.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub utm_term: Option<Cow<'a, str>>,
    /// Campaign content.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub utm_content: Option<Cow<'a, str>>,
    /// An advertising network's click id.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub click_id: Option<Cow<'a, str>>,
    /// Its parameter: `gclid`, `fbclid`, `msclkid`, ...
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub click_id_type: Option<Cow<'a, str>>,

    /// The client's User-Agent.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<Cow<'a, str>>,
    /// CSS pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub screen_width: Option<i32>,
    /// CSS pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub screen_height: Option<i32>,
    /// BCP 47 tag, as sent.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub language: Option<Cow<'a, str>>,
    /// IANA zone, as sent.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub timezone: Option<Cow<'a, str>>,
    /// Network part of the address (/24 or /48), where the shop asked to keep it.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub ip_truncated: Option<Cow<'a, str>>,
    /// ISO 3166-1 alpha-2, from the geo lookup before the address was dropped.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub country: Option<Cow<'a, str>>,
    /// Region, likewise.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub region: Option<Cow<'a, str>>,
    /// City, likewise.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub city: Option<Cow<'a, str>>,

    /// Outcome of the shop's tracking plan: absent or `ok`, or a reason code.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub validation: Option<Cow<'a, str>>,

    /// The shop's order number.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub order_id: Option<Cow<'a, str>>,
    /// The checkout's id.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub checkout_id: Option<Cow<'a, str>>,
    /// The cart's id.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub cart_id: Option<Cow<'a, str>>,
    /// ISO 4217, upper case.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub currency: Option<Cow<'a, str>>,
    /// Without shipping and tax.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revenue: Option<Money>,
    /// With shipping and tax.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<Money>,
    /// Tax.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tax: Option<Money>,
    /// Shipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shipping: Option<Money>,
    /// Discount, a positive amount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discount: Option<Money>,
    /// Coupon code.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub coupon: Option<Cow<'a, str>>,
    /// What was searched for.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub search_query: Option<Cow<'a, str>>,
    /// The product list's id.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub list_id: Option<Cow<'a, str>>,
    /// The promotion's id.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub promotion_id: Option<Cow<'a, str>>,
    /// The products it is about.
    #[serde(default, borrow, deserialize_with = "items", skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Item<'a>>,

    /// Everything the client sent about the event that has no column: a JSON object.
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub properties: Option<RawJson<'a>>,
    /// Everything it sent about its surroundings that has no column: a JSON object.
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub context: Option<RawJson<'a>>,

    /// Random id of the spool that first held it.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub collector_id: Option<Cow<'a, str>>,
    /// Its position in that spool, from 1, without gaps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_seq: Option<i64>,
    /// The Kinesis shard that carried it.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub shard_id: Option<Cow<'a, str>>,
    /// Its sequence number there, with the sub-sequence after a dot for an aggregated record.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub sequence_number: Option<Cow<'a, str>>,
}

/// A product in an event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct Item<'a> {
    /// The shop's product id.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub product_id: Option<Cow<'a, str>>,
    /// Stock keeping unit.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub sku: Option<Cow<'a, str>>,
    /// Name.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub name: Option<Cow<'a, str>>,
    /// Brand.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub brand: Option<Cow<'a, str>>,
    /// Category, as sent.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub category: Option<Cow<'a, str>>,
    /// Variant.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub variant: Option<Cow<'a, str>>,
    /// Price of one, in the event's currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Money>,
    /// How many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantity: Option<i64>,
    /// Coupon code on this product.
    #[serde(default, deserialize_with = "cow", skip_serializing_if = "Option::is_none")]
    pub coupon: Option<Cow<'a, str>>,
    /// Position in its list, as sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<i32>,
}

/// When an event happened, decided from what the clocks said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTime {
    event_ts: Timestamp,
    event_ts_reason: Option<TimeReason>,
    client_ts: Option<Timestamp>,
    sent_ts: Option<Timestamp>,
    received_ts: Timestamp,
    clock_skew_ms: Option<i64>,
}

/// Why `event_ts` is not the client's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeReason {
    /// The client sent no time.
    Missing,
    /// More than [`MAX_PAST`] before it was received.
    Past,
    /// More than [`MAX_FUTURE`] after it was received.
    Future,
}

impl EventTime {
    /// From a live client: `client_ts` by its clock, sent at `sent_ts` by the
    /// same clock, received at `received_ts` by ours. The event happened at
    /// `received_ts - (sent_ts - client_ts)`; `client_ts` is taken as it is
    /// where there is no `sent_ts`. Outside `received_ts` - [`MAX_PAST`] /
    /// + [`MAX_FUTURE`] it becomes `received_ts`, with a [`TimeReason`].
    #[must_use]
    pub fn resolve(
        client_ts: Option<Timestamp>,
        sent_ts: Option<Timestamp>,
        received_ts: Timestamp,
    ) -> Self {
        let skew_micros = sent_ts.map(|sent| sent.micros() - received_ts.micros());
        let corrected = client_ts.map(|client| {
            Timestamp::from_micros(client.micros() - skew_micros.unwrap_or(0)).unwrap_or(client)
        });
        let (event_ts, event_ts_reason) = match corrected {
            None => (received_ts, Some(TimeReason::Missing)),
            Some(t) if t < received_ts.saturating_sub(MAX_PAST) => {
                (received_ts, Some(TimeReason::Past))
            }
            Some(t) if t > received_ts.saturating_add(MAX_FUTURE) => {
                (received_ts, Some(TimeReason::Future))
            }
            Some(t) => (t, None),
        };
        Self {
            event_ts,
            event_ts_reason,
            client_ts,
            sent_ts,
            received_ts,
            clock_skew_ms: skew_micros.map(|s| s / 1_000),
        }
    }

    /// When it happened by the client's clock, where it said so.
    #[must_use]
    pub const fn client_ts(&self) -> Option<Timestamp> {
        self.client_ts
    }

    /// As it was decided before and stored, field by field.
    #[must_use]
    pub const fn stored(
        event_ts: Timestamp,
        event_ts_reason: Option<TimeReason>,
        client_ts: Option<Timestamp>,
        sent_ts: Option<Timestamp>,
        received_ts: Timestamp,
        clock_skew_ms: Option<i64>,
    ) -> Self {
        Self { event_ts, event_ts_reason, client_ts, sent_ts, received_ts, clock_skew_ms }
    }

    /// From history: `event_ts` is taken as it is, however old.
    #[must_use]
    pub fn historic(event_ts: Timestamp, received_ts: Timestamp) -> Self {
        Self {
            event_ts,
            event_ts_reason: None,
            client_ts: Some(event_ts),
            sent_ts: None,
            received_ts,
            clock_skew_ms: None,
        }
    }
}

impl<'a> Event<'a> {
    /// An event with the fields that every event has; the rest is empty.
    #[must_use]
    pub fn new(
        event_id: impl Into<Cow<'a, str>>,
        event_name: impl Into<Cow<'a, str>>,
        source_protocol: impl Into<Cow<'a, str>>,
        app_id: impl Into<Cow<'a, str>>,
        time: EventTime,
    ) -> Self {
        Self {
            event_id: event_id.into(),
            event_name: event_name.into(),
            source_protocol: source_protocol.into(),
            source_event_name: None,
            app_id: app_id.into(),
            platform: None,
            event_ts: time.event_ts,
            event_ts_reason: time.event_ts_reason,
            client_ts: time.client_ts,
            sent_ts: time.sent_ts,
            received_ts: time.received_ts,
            clock_skew_ms: time.clock_skew_ms,
            user_id: None,
            anonymous_id: None,
            network_id: None,
            device_id: None,
            client_session_id: None,
            consent: None,
            page_url: None,
            page_title: None,
            referrer_url: None,
            utm_source: None,
            utm_medium: None,
            utm_campaign: None,
            utm_term: None,
            utm_content: None,
            click_id: None,
            click_id_type: None,
            user_agent: None,
            screen_width: None,
            screen_height: None,
            language: None,
            timezone: None,
            ip_truncated: None,
            country: None,
            region: None,
            city: None,
            validation: None,
            order_id: None,
            checkout_id: None,
            cart_id: None,
            currency: None,
            revenue: None,
            total: None,
            tax: None,
            shipping: None,
            discount: None,
            coupon: None,
            search_query: None,
            list_id: None,
            promotion_id: None,
            items: Vec::new(),
            properties: None,
            context: None,
            collector_id: None,
            wal_seq: None,
            shard_id: None,
            sequence_number: None,
        }
    }

    /// Sets every clock field.
    pub fn set_time(&mut self, time: EventTime) {
        self.event_ts = time.event_ts;
        self.event_ts_reason = time.event_ts_reason;
        self.client_ts = time.client_ts;
        self.sent_ts = time.sent_ts;
        self.received_ts = time.received_ts;
        self.clock_skew_ms = time.clock_skew_ms;
    }

    /// When it happened: skew-corrected, UTC.
    #[must_use]
    pub const fn event_ts(&self) -> Timestamp {
        self.event_ts
    }

    /// Why `event_ts` is `received_ts`, where it was set so.
    #[must_use]
    pub const fn event_ts_reason(&self) -> Option<TimeReason> {
        self.event_ts_reason
    }

    /// The client's own clock at the event.
    #[must_use]
    pub const fn client_ts(&self) -> Option<Timestamp> {
        self.client_ts
    }

    /// The client's own clock at sending.
    #[must_use]
    pub const fn sent_ts(&self) -> Option<Timestamp> {
        self.sent_ts
    }

    /// The collector's clock at receipt.
    #[must_use]
    pub const fn received_ts(&self) -> Timestamp {
        self.received_ts
    }

    /// How far the client's clock was ahead of ours, in milliseconds.
    #[must_use]
    pub const fn clock_skew_ms(&self) -> Option<i64> {
        self.clock_skew_ms
    }

    /// The stitching key: the first of anonymous, network, device and user id.
    #[must_use]
    pub fn visitor_id(&self) -> Option<&str> {
        [&self.anonymous_id, &self.network_id, &self.device_id, &self.user_id]
            .into_iter()
            .find_map(Option::as_deref)
    }
}

impl TimeReason {
    /// The reason of a [`TimeReason::code`].
    #[must_use]
    pub fn of_code(code: &str) -> Option<Self> {
        [Self::Missing, Self::Past, Self::Future].into_iter().find(|one| one.code() == code)
    }

    /// Its code in tables and on the wire.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Past => "past",
            Self::Future => "future",
        }
    }
}

/// `deserialize_with` for lists: null is none.
fn items<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Item<'a>>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_as_good_as_a_key_that_is_not_there() {
        let start = r#"{"event_id":"a","event_name":"n","source_protocol":"native","app_id":"s","event_ts":"2026-11-23T12:00:00Z","received_ts":"2026-11-23T12:00:00Z""#;
        let line = format!("{start}}}");
        let plain: Event<'_> = serde_json::from_str(&line).expect("an event");
        for key in crate::EVENT_KEYS {
            let is_needed = start.contains(&format!("\"{key}\":"));
            let line = format!(r#"{start},"{key}":null}}"#);
            match serde_json::from_str::<Event<'_>>(&line) {
                Ok(event) if !is_needed => assert_eq!(event, plain, "{key}"),
                Ok(_) => panic!("{key} twice"),
                Err(error) => assert!(is_needed, "{key}: {error}"),
            }
        }
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).expect(text)
    }

    #[test]
    fn a_wrong_client_clock_is_corrected_by_its_own_difference() {
        let received = at("2026-11-23T12:00:00Z");
        // Its clock is two days ahead; the event happened ten seconds before sending.
        let time = EventTime::resolve(
            Some(at("2026-11-25T11:59:50Z")),
            Some(at("2026-11-25T12:00:00Z")),
            received,
        );
        assert_eq!(time.event_ts, at("2026-11-23T11:59:50Z"));
        assert_eq!(time.clock_skew_ms, Some(2 * 86_400_000));
        assert_eq!(time.event_ts_reason, None);
    }

    #[test]
    fn times_beyond_the_window_become_the_time_of_receipt() {
        let received = at("2026-11-23T12:00:00Z");
        let resolve = |client: &str| EventTime::resolve(Some(at(client)), None, received);
        assert_eq!(resolve("2026-10-24T12:00:00Z").event_ts_reason, None);
        assert_eq!(resolve("2026-10-24T11:59:59.999999Z").event_ts_reason, Some(TimeReason::Past));
        assert_eq!(resolve("2026-11-23T13:00:00Z").event_ts_reason, None);
        assert_eq!(
            resolve("2026-11-23T13:00:00.000001Z").event_ts_reason,
            Some(TimeReason::Future)
        );
        assert_eq!(resolve("2036-01-01T00:00:00Z").event_ts, received);
        let missing = EventTime::resolve(None, None, received);
        assert_eq!(
            (missing.event_ts, missing.event_ts_reason),
            (received, Some(TimeReason::Missing))
        );
    }

    #[test]
    fn history_keeps_its_age() {
        let time = EventTime::historic(at("2010-12-01T08:26:00Z"), at("2026-11-23T12:00:00Z"));
        assert_eq!((time.event_ts, time.event_ts_reason), (at("2010-12-01T08:26:00Z"), None));
    }
}
