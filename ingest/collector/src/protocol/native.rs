//! Clickmill's own JSON (`POST /clickmill/v1/events`): an event's fields have
//! the names of its columns.
//!
//! The body is one event, an array of them, one a line (NDJSON), or
//! `{"sent_ts":...,"write_key":...,"events":[...]}`. Its Content-Type does not
//! matter: as `text/plain` a browser sends it without a preflight.
//!
//! # What goes where
//! - `event_name` is needed. One that is not canonical is read as a name of
//!   Segment's vocabulary, or is `custom`; it stays in `source_event_name`.
//! - `event_id` is the client's own, the same when it sends again; without one
//!   it is a UUIDv7.
//! - `client_ts` (or `event_ts`) is when it happened by the client's clock, and
//!   `sent_ts`, also of the whole request, when it was sent by the same clock:
//!   RFC 3339. The difference to our clock is taken out.
//! - [`FIELDS`] go to the columns of the same name, `items` as [`ITEMS`] says,
//!   `properties`, `context` and `consent` as they are. A field with no column,
//!   or with a value that its column does not hold, goes to `properties`.

use std::borrow::Cow;

use clickmill_schemas::{Event, EventTime, Json, RawJson, RejectReason, Timestamp};
use uuid::Uuid;

use super::columns::{Column, Fields, ItemColumn, ItemFields, Numbers, take, take_items};
use super::json::{Object, elements, is_object, left};
use super::segment::event_name;
use super::{Dialect, Form, Limits, MAX_DEPTH, Opened, Received, Refusal, Request, check_shared};

/// `source_protocol` of its events.
pub const PROTOCOL: &str = "native";
/// A body, compressed and not.
pub const MAX_BODY_BYTES: usize = 4_000 * 1024;
/// An event.
pub const MAX_EVENT_BYTES: usize = 40 * 1024;
/// Events in a request.
pub const MAX_EVENTS: usize = 2_500;

/// `/clickmill/v1/events`.
pub(crate) static DIALECT: Dialect = Dialect {
    name: PROTOCOL,
    limits: Limits { body_bytes: MAX_BODY_BYTES, event_bytes: MAX_EVENT_BYTES, events: MAX_EVENTS },
    form: Form::Native,
    query_keys: &["key", "write_key"],
    open,
};

/// Fields with a column of their own name.
pub(crate) const FIELDS: Fields = &[
    ("platform", Column::Platform),
    ("user_id", Column::UserId),
    ("anonymous_id", Column::AnonymousId),
    ("network_id", Column::NetworkId),
    ("device_id", Column::DeviceId),
    ("client_session_id", Column::ClientSessionId),
    ("page_url", Column::PageUrl),
    ("page_title", Column::PageTitle),
    ("referrer_url", Column::ReferrerUrl),
    ("utm_source", Column::UtmSource),
    ("utm_medium", Column::UtmMedium),
    ("utm_campaign", Column::UtmCampaign),
    ("utm_term", Column::UtmTerm),
    ("utm_content", Column::UtmContent),
    ("click_id", Column::ClickId),
    ("click_id_type", Column::ClickIdType),
    ("user_agent", Column::UserAgent),
    ("screen_width", Column::ScreenWidth),
    ("screen_height", Column::ScreenHeight),
    ("language", Column::Language),
    ("timezone", Column::Timezone),
    ("order_id", Column::OrderId),
    ("checkout_id", Column::CheckoutId),
    ("cart_id", Column::CartId),
    ("currency", Column::Currency),
    ("revenue", Column::Revenue),
    ("total", Column::Total),
    ("tax", Column::Tax),
    ("shipping", Column::Shipping),
    ("discount", Column::Discount),
    ("coupon", Column::Coupon),
    ("search_query", Column::SearchQuery),
    ("list_id", Column::ListId),
    ("promotion_id", Column::PromotionId),
];

/// Fields of an element of `items`.
pub(crate) const ITEMS: ItemFields = &[
    ("product_id", ItemColumn::ProductId),
    ("sku", ItemColumn::Sku),
    ("name", ItemColumn::Name),
    ("brand", ItemColumn::Brand),
    ("category", ItemColumn::Category),
    ("variant", ItemColumn::Variant),
    ("price", ItemColumn::Price),
    ("quantity", ItemColumn::Quantity),
    ("coupon", ItemColumn::Coupon),
    ("position", ItemColumn::Position),
];

/// What becomes an event: read already, but for a line among lines.
enum Part<'a> {
    Json(Json<'a>),
    Line(&'a str),
}

struct Parts<'a> {
    parts: Vec<Part<'a>>,
    write_key: Option<Cow<'a, str>>,
    sent: Option<Timestamp>,
    /// A browser's, where the request is one's.
    user_agent: Option<&'a str>,
}

fn open<'a>(request: &'a Request<'a>) -> Result<Box<dyn Opened + 'a>, Refusal> {
    let malformed = |detail: String| Refusal::new(RejectReason::Malformed, detail);
    let user_agent = request.user_agent.filter(|agent| agent.starts_with("Mozilla/"));
    let check = |events: usize| check_shared(events, user_agent.map_or(0, str::len));
    let alone = |parts: Vec<Part<'a>>| {
        check(parts.len())?;
        Ok(Box::new(Parts { parts, write_key: None, sent: None, user_agent }) as Box<dyn Opened>)
    };
    let body = request.body.trim();
    if body.is_empty() {
        return Err(malformed("the body is empty".to_owned()));
    }
    let whole = match Json::parse(body) {
        Ok(whole) => whole,
        // A line that is no JSON is refused alone, when it is decoded.
        Err(_) if body.contains('\n') && body.starts_with('{') => {
            let lines = body.lines().map(str::trim).filter(|line| !line.is_empty());
            return alone(lines.map(Part::Line).collect());
        }
        Err(error) => return Err(malformed(format!("the body is not JSON: {error}"))),
    };
    if let Some(events) = elements(&whole) {
        return alone(events.into_iter().map(Part::Json).collect());
    }
    let object = Object::of(&whole).ok_or_else(|| {
        malformed("the body is no event, no array of events and no lines of them".to_owned())
    })?;
    let write_key = object.text("write_key");
    let sent = object.text("sent_ts").and_then(|text| Timestamp::parse(&text).ok());
    let parts: Vec<Part<'a>> = match object.get("events") {
        None => vec![Part::Json(whole)],
        Some(events) => elements(events)
            .ok_or_else(|| Refusal::new(RejectReason::InvalidField, "`events` is no array"))?
            .into_iter()
            .map(Part::Json)
            .collect(),
    };
    check(parts.len())?;
    Ok(Box::new(Parts { parts, write_key, sent, user_agent }))
}

impl Opened for Parts<'_> {
    fn protocol(&self) -> &'static str {
        PROTOCOL
    }

    fn write_key(&self) -> Option<&str> {
        self.write_key.as_deref()
    }

    fn len(&self) -> usize {
        self.parts.len()
    }

    fn bytes(&self, part: usize) -> Cow<'_, [u8]> {
        Cow::Borrowed(match &self.parts[part] {
            Part::Json(json) => json.get().as_bytes(),
            Part::Line(line) => line.as_bytes(),
        })
    }

    fn decode<'e>(&'e self, part: usize, received: Received<'e>) -> Result<Event<'e>, Refusal> {
        let no_object =
            || Refusal::new(RejectReason::Malformed, "an event is no JSON object with text keys");
        let json = match &self.parts[part] {
            Part::Json(json) => json.clone(),
            Part::Line(line) => Json::parse(line).map_err(|_| no_object())?,
        };
        if json.depth() > MAX_DEPTH {
            let detail = format!("nested deeper than {MAX_DEPTH} levels");
            return Err(Refusal::new(RejectReason::InvalidField, detail));
        }
        let mut sent = Object::of(&json).ok_or_else(no_object)?;
        let name = sent.take_text("event_name").ok_or_else(|| {
            Refusal::new(RejectReason::MissingField, "an event needs a text `event_name`")
        })?;
        let id = sent.take_text("event_id").unwrap_or_else(|| Uuid::now_v7().to_string().into());
        let mut time = |key: &str| {
            let time = Timestamp::parse(&sent.text(key)?).ok()?;
            sent.remove(key);
            Some(time)
        };
        let client = time("client_ts").or_else(|| time("event_ts"));
        let clocks = EventTime::resolve(client, time("sent_ts").or(self.sent), received.at);
        let mut event = Event::new(id, event_name(&name), PROTOCOL, received.app_id, clocks);
        let own_name = sent.take_text("source_event_name");
        event.source_event_name = Some(own_name.unwrap_or(name));
        sent.remove("write_key");
        for key in ["app_id", "source_protocol"] {
            let same = match key {
                "app_id" => sent.text(key).is_some_and(|id| id == received.app_id),
                _ => sent.text(key).is_some_and(|name| name == PROTOCOL),
            };
            if same {
                sent.remove(key);
            }
        }
        take(&mut event, FIELDS, &mut sent, Numbers::Json);
        take_items(&mut event, "items", ITEMS, &mut sent);
        if event.user_agent.is_none() {
            event.user_agent = self.user_agent.map(Cow::Borrowed);
        }
        if let Some(consent) = sent.get("consent").filter(|json| is_object(json)) {
            event.consent = Some(RawJson::from_json(consent));
            sent.remove("consent");
        }
        let context = sent.get("context").filter(|json| is_object(json));
        if let Some(context) = context {
            event.context = (!context.is_empty()).then(|| RawJson::from_json(context));
            sent.remove("context");
        }
        // The rest joins the properties; a name that is in both stays as it is there.
        let mut properties = sent.take_object("properties").unwrap_or_default();
        let clashes = sent.split_off(|key| properties.contains(key));
        properties.merge_missing(&sent);
        properties.put_object("event", clashes);
        event.properties = left(&properties);
        Ok(event)
    }
}

#[cfg(test)]
#[path = "native_tests.rs"]
mod tests;
