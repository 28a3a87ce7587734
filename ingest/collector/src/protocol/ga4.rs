//! Google Analytics 4: the Measurement Protocol (`POST /mp/collect`) and what
//! gtag.js sends (`/g/collect`), to an [`Event`].
//!
//! # What goes where
//! - Parameters of the event (`params`; `ep.*`, `epn.*` without the prefix) go
//!   to columns as [`PARAMS`] says, `items` (`pr1` to `pr200`) as [`ITEMS`];
//!   the rest stays in `properties`.
//! - Parameters of the request go to columns as [`REQUEST`] and [`HIT`] say;
//!   the rest stays in `context`, those of the user (`up.*`, `upn.*`) in
//!   `context.user_properties`. `api_secret` goes nowhere.
//! - `gcs`, `gcd`, or the Measurement Protocol's `consent`, become `consent`.
//! - gtag.js sends no time and no id: an event happened when it was received,
//!   and its id is a UUIDv7. Google's library does not retry.
//!
//! # What is refused
//! An event without a name, or nested deeper than [`super::MAX_DEPTH`].

use std::borrow::Cow;

use clickmill_schemas::{Event, EventTime, RawJson, RejectReason, Timestamp};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::columns::{
    Column, Fields, ItemColumn, ItemFields, Numbers, take, take_items, take_screen,
};
use super::json::{Object, depth, elements, is_number, left, parameters, raw_object, write_key};
use super::segment::event_name;
use super::{Dialect, Form, Limits, MAX_DEPTH, Opened, Received, Refusal, Request, check_shared};

/// `source_protocol` of its events.
pub const PROTOCOL: &str = "ga4";
/// A body. Google's limit is 130 kB; this leaves room for what clients count
/// differently.
pub const MAX_BODY_BYTES: usize = 256 * 1024;
/// Events in a request. Google's limit is 25; what it would drop is kept here.
pub const MAX_EVENTS: usize = 250;
/// Items of a `/g/collect` event: `pr1` to `pr200`.
pub const MAX_ITEMS: usize = 200;

const LIMITS: Limits =
    Limits { body_bytes: MAX_BODY_BYTES, event_bytes: MAX_BODY_BYTES, events: MAX_EVENTS };

/// `/mp/collect`.
pub(crate) static MEASUREMENT: Dialect = Dialect {
    name: PROTOCOL,
    limits: LIMITS,
    form: Form::Google,
    query_keys: &["api_secret", "measurement_id", "firebase_app_id"],
    open: open_measurement,
};

/// `/g/collect`.
pub(crate) static GTAG: Dialect = Dialect {
    name: PROTOCOL,
    limits: LIMITS,
    form: Form::Google,
    query_keys: &["tid"],
    open: open_gtag,
};

/// Google's event names that are called otherwise here.
pub(crate) const EVENTS: &[(&str, &str)] = &[
    ("view_item", "product_view"),
    ("view_item_list", "product_list_view"),
    ("select_item", "product_click"),
    ("view_cart", "cart_view"),
    ("add_shipping_info", "shipping_info"),
    ("add_payment_info", "payment_info"),
    ("view_search_results", "search"),
    ("view_promotion", "promotion_view"),
    ("select_promotion", "promotion_click"),
];

/// The Measurement Protocol's request.
pub(crate) const REQUEST: Fields = &[
    ("client_id", Column::AnonymousId),
    ("app_instance_id", Column::DeviceId),
    ("user_id", Column::UserId),
    ("user_agent", Column::UserAgent),
];

/// A `/g/collect` hit.
pub(crate) const HIT: Fields = &[
    ("cid", Column::AnonymousId),
    ("uid", Column::UserId),
    ("sid", Column::ClientSessionId),
    ("dl", Column::PageUrl),
    ("dt", Column::PageTitle),
    ("dr", Column::ReferrerUrl),
    ("ul", Column::Language),
    ("cu", Column::Currency),
];

/// An event's own parameters.
pub(crate) const PARAMS: Fields = &[
    ("session_id", Column::ClientSessionId),
    ("page_location", Column::PageUrl),
    ("page_title", Column::PageTitle),
    ("page_referrer", Column::ReferrerUrl),
    ("language", Column::Language),
    ("transaction_id", Column::OrderId),
    ("currency", Column::Currency),
    ("value", Column::Revenue),
    ("tax", Column::Tax),
    ("shipping", Column::Shipping),
    ("coupon", Column::Coupon),
    ("search_term", Column::SearchQuery),
    ("item_list_id", Column::ListId),
    ("promotion_id", Column::PromotionId),
    ("campaign_source", Column::UtmSource),
    ("campaign_medium", Column::UtmMedium),
    ("campaign_term", Column::UtmTerm),
    ("campaign_content", Column::UtmContent),
];

/// Parameters of `campaign_details`, beside the others.
pub(crate) const CAMPAIGN: Fields = &[
    ("source", Column::UtmSource),
    ("medium", Column::UtmMedium),
    ("campaign", Column::UtmCampaign),
    ("term", Column::UtmTerm),
    ("content", Column::UtmContent),
];

/// An element of `items`.
pub(crate) const ITEMS: ItemFields = &[
    ("item_id", ItemColumn::ProductId),
    ("item_name", ItemColumn::Name),
    ("item_brand", ItemColumn::Brand),
    ("item_category", ItemColumn::Category),
    ("item_variant", ItemColumn::Variant),
    ("price", ItemColumn::Price),
    ("quantity", ItemColumn::Quantity),
    ("coupon", ItemColumn::Coupon),
    ("index", ItemColumn::Position),
];

/// The codes in `pr1=idSKU~nmName~...`, and what `items` calls them.
pub(crate) const ITEM_CODES: &[(&str, &str)] = &[
    ("id", "item_id"),
    ("nm", "item_name"),
    ("br", "item_brand"),
    ("ca", "item_category"),
    ("c2", "item_category2"),
    ("c3", "item_category3"),
    ("c4", "item_category4"),
    ("c5", "item_category5"),
    ("va", "item_variant"),
    ("pr", "price"),
    ("qt", "quantity"),
    ("cp", "coupon"),
    ("ds", "discount"),
    ("lp", "index"),
    ("ln", "item_list_name"),
    ("li", "item_list_id"),
    ("af", "affiliation"),
];
/// Codes whose values are numbers.
const NUMBER_CODES: &[&str] = &["pr", "qt", "ds", "lp"];
/// Own parameters of an item whose value has not come yet. Google takes 27 in all.
const MAX_OPEN_KEYS: usize = 100;

/// The canonical name of Google's `sent`.
fn canonical(sent: &str) -> &'static str {
    let known = EVENTS.iter().find(|(name, _)| *name == sent);
    known.map_or_else(|| event_name(sent), |(_, canonical)| *canonical)
}

/// One event, its parts as JSON objects' text.
struct Part<'a> {
    sent: Cow<'a, str>,
    name: Option<String>,
    params: Cow<'a, str>,
    request: Cow<'a, str>,
    user: Option<Cow<'a, str>>,
    consent: Option<String>,
    timestamp: Option<Timestamp>,
    request_fields: Fields,
}

struct Parts<'a> {
    parts: Vec<Part<'a>>,
    user_agent: Option<&'a str>,
}

fn open_measurement<'a>(request: &'a Request<'a>) -> Result<Box<dyn Opened + 'a>, Refusal> {
    let body: &RawValue = serde_json::from_str(request.body).map_err(|error| {
        Refusal::new(RejectReason::Malformed, format!("the body is not JSON: {error}"))
    })?;
    if depth(body.get()) > MAX_DEPTH {
        let detail = format!("nested deeper than {MAX_DEPTH} levels");
        return Err(Refusal::new(RejectReason::InvalidField, detail));
    }
    let mut whole = Object::parse(body)
        .ok_or_else(|| Refusal::new(RejectReason::Malformed, "the body is no JSON object"))?;
    let events = whole.get("events").and_then(elements).ok_or_else(|| {
        Refusal::new(RejectReason::MissingField, "the body needs an array `events`")
    })?;
    whole.remove("events");
    let shared_time = take_micros(&mut whole);
    let user = whole.get("user_properties").filter(|raw| raw.get().starts_with('{'));
    let consent = whole.get("consent").filter(|raw| raw.get().starts_with('{'));
    for (key, held) in [("user_properties", user), ("consent", consent)] {
        if held.is_some() {
            whole.remove(key);
        }
    }
    let mut shared = String::new();
    whole.write(&mut shared);
    let of_all = [user, consent].into_iter().flatten().map(|raw| raw.get().len()).sum::<usize>();
    check_shared(events.len(), shared.len() + of_all)?;
    let parts = events
        .into_iter()
        .map(|raw| {
            let mut event = Object::parse(raw).unwrap_or_default();
            let name = event.take_text("name").map(Cow::into_owned);
            let params = event.get("params").filter(|raw| raw.get().starts_with('{'));
            if params.is_some() {
                event.remove("params");
            }
            let own_time = take_micros(&mut event);
            // What stands beside an event's parameters joins the request's.
            event.merge_missing(&whole);
            let request = if event.is_empty() {
                Cow::Borrowed("{}")
            } else {
                let mut text = String::new();
                event.write(&mut text);
                Cow::Owned(text)
            };
            Part {
                sent: Cow::Borrowed(raw.get()),
                name,
                params: params.map_or(Cow::Borrowed("{}"), |raw| Cow::Borrowed(raw.get())),
                request,
                user: user.map(|raw| Cow::Borrowed(raw.get())),
                consent: consent.map(|raw| raw.get().to_owned()),
                timestamp: own_time.or(shared_time),
                request_fields: REQUEST,
            }
        })
        .collect();
    // The header is that of the shop's own server.
    Ok(Box::new(Parts { parts, user_agent: None }))
}

fn take_micros(from: &mut Object<'_>) -> Option<Timestamp> {
    let micros: i64 = {
        let raw = from.get("timestamp_micros")?;
        if is_number(raw) {
            raw.get().parse().ok()?
        } else {
            super::json::text(raw)?.parse().ok()?
        }
    };
    let time = Timestamp::from_micros(micros).ok()?;
    from.remove("timestamp_micros");
    Some(time)
}

fn open_gtag<'a>(request: &'a Request<'a>) -> Result<Box<dyn Opened + 'a>, Refusal> {
    let lines: Vec<&str> =
        request.body.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    check_shared(lines.len(), request.around_bytes())?;
    let hits: Vec<Cow<'a, str>> = if lines.is_empty() {
        vec![Cow::Borrowed(request.query)]
    } else {
        // A line's parameters come after, so they win over the request's.
        lines.iter().map(|line| Cow::Owned(format!("{}&{line}", request.query))).collect()
    };
    if request.query.is_empty() && lines.is_empty() {
        return Err(Refusal::new(RejectReason::MissingField, "the request has no parameters"));
    }
    let parts = hits.into_iter().map(gtag_part).collect();
    Ok(Box::new(Parts { parts, user_agent: request.user_agent }))
}

/// Sorts a hit's parameters.
fn gtag_part(sent: Cow<'_, str>) -> Part<'_> {
    let pairs = parameters(&sent);
    let mut params = Written::default();
    let (mut user, mut hit, mut consent) =
        (Written::default(), Written::default(), Written::default());
    let mut name = None;
    let mut items: Vec<(usize, String)> = Vec::new();
    for (key, value) in &pairs {
        if key == "en" {
            name = Some(value.clone().into_owned()).filter(|name| !name.is_empty());
        } else if key == "gcs" || key == "gcd" {
            consent.text(key, value);
        } else if let Some(key) = key.strip_prefix("epn.") {
            params.number(key, value);
        } else if let Some(key) = key.strip_prefix("ep.") {
            params.text(key, value);
        } else if let Some(key) = key.strip_prefix("upn.") {
            user.number(key, value);
        } else if let Some(key) = key.strip_prefix("up.") {
            user.text(key, value);
        } else if let Some((at, item)) = item_number(key).zip(item_json(value)) {
            items.push((at, item));
        } else {
            hit.text(key, value);
        }
    }
    if !items.is_empty() {
        items.sort_by_key(|(at, _)| *at);
        let items: Vec<String> = items.into_iter().map(|(_, item)| item).collect();
        params.raw("items", &format!("[{}]", items.join(",")));
    }
    let (params, hit) = (params.object(), hit.object());
    Part {
        name,
        params: Cow::Owned(params),
        request: Cow::Owned(hit),
        user: (!user.0.is_empty()).then(|| Cow::Owned(user.object())),
        consent: (!consent.0.is_empty()).then(|| consent.object()),
        timestamp: None,
        request_fields: HIT,
        sent,
    }
}

/// The text between an object's braces.
#[derive(Default)]
struct Written(String);

impl Written {
    fn raw(&mut self, key: &str, json: &str) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        write_key(&mut self.0, key);
        self.0.push_str(json);
    }

    fn text(&mut self, key: &str, value: &str) {
        // A string always serialises.
        self.raw(key, &serde_json::to_string(value).unwrap_or_default());
    }

    /// Verbatim where it is a JSON number.
    fn number(&mut self, key: &str, value: &str) {
        match serde_json::from_str::<&RawValue>(value) {
            Ok(raw) if is_number(raw) && raw.get() == value => self.raw(key, value),
            _ => self.text(key, value),
        }
    }

    fn object(self) -> String {
        format!("{{{}}}", self.0)
    }
}

/// `pr7` is 7.
fn item_number(key: &str) -> Option<usize> {
    let number: usize = key.strip_prefix("pr")?.parse().ok()?;
    (1..=MAX_ITEMS).contains(&number).then_some(number)
}

/// `None` where a part has a code that is not known: then it stays as it is.
fn item_json(value: &str) -> Option<String> {
    let mut item = Written::default();
    // Keys and values of the shop's own parameters: k0name~v0value.
    let mut own: Vec<(&str, &str)> = Vec::new();
    for part in value.split('~').filter(|part| !part.is_empty()) {
        let (code, value) = part.split_at_checked(2)?;
        if let Some((_, name)) = ITEM_CODES.iter().find(|(known, _)| *known == code) {
            if NUMBER_CODES.contains(&code) {
                item.number(name, value);
            } else {
                item.text(name, value);
            }
        } else if let Some(number) = code.strip_prefix('k') {
            if own.len() == MAX_OPEN_KEYS {
                return None;
            }
            own.push((number, value));
        } else if let Some(number) = code.strip_prefix('v') {
            let at = own.iter().rposition(|(known, _)| *known == number)?;
            item.text(own.remove(at).1, value);
        } else {
            return None;
        }
    }
    own.is_empty().then(|| item.object())
}

impl Opened for Parts<'_> {
    fn protocol(&self) -> &'static str {
        PROTOCOL
    }

    fn len(&self) -> usize {
        self.parts.len()
    }

    fn bytes(&self, part: usize) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.parts[part].sent.as_bytes())
    }

    fn decode<'e>(&'e self, part: usize, received: Received<'e>) -> Result<Event<'e>, Refusal> {
        let part = &self.parts[part];
        let sent_name = part.name.as_deref().ok_or_else(|| {
            Refusal::new(RejectReason::MissingField, "an event needs a name (`name`, `en`)")
        })?;
        let malformed = |_| Refusal::new(RejectReason::Malformed, "an event is no JSON object");
        let mut params = Object::parse_text(&part.params).map_err(malformed)?;
        let mut request = Object::parse_text(&part.request).map_err(malformed)?;
        let time = EventTime::resolve(part.timestamp, None, received.at);
        let id = Uuid::now_v7().to_string();
        let mut event = Event::new(id, canonical(sent_name), PROTOCOL, received.app_id, time);
        event.source_event_name = Some(sent_name.into());
        request.remove("api_secret");
        take(&mut event, part.request_fields, &mut request, Numbers::Json);
        take_screen(&mut event, "sr", &mut request);
        if sent_name == "campaign_details" {
            take(&mut event, CAMPAIGN, &mut params, Numbers::Json);
        }
        take(&mut event, PARAMS, &mut params, Numbers::Json);
        take_screen(&mut event, "screen_resolution", &mut params);
        take_items(&mut event, "items", ITEMS, &mut params);
        if event.user_agent.is_none() {
            event.user_agent = self.user_agent.map(Cow::Borrowed);
        }
        if part.request_fields == HIT {
            event.platform = Some("web".into());
        }
        event.consent = part.consent.as_deref().and_then(raw_object);
        event.properties = left(&params);
        event.context = context(&request, part.user.as_deref());
        Ok(event)
    }
}

fn context(request: &Object<'_>, user: Option<&str>) -> Option<RawJson<'static>> {
    let Some(user) = user.filter(|_| !request.contains("user_properties")) else {
        return left(request);
    };
    let mut out = String::new();
    request.write(&mut out);
    out.pop();
    if out.len() > 1 {
        out.push(',');
    }
    write_key(&mut out, "user_properties");
    out.push_str(user);
    out.push('}');
    raw_object(&out)
}

#[cfg(test)]
#[path = "ga4_tests.rs"]
mod tests;
