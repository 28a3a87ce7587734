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

use clickmill_schemas::{Event, EventTime, Json, ObjectBuilder, RawJson, RejectReason, Timestamp};
use uuid::Uuid;

use super::columns::{
    Column, Fields, ItemColumn, ItemFields, Numbers, take, take_items, take_screen,
};
use super::json::{Object, elements, is_number, is_object, left, parameters, text};
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

/// One event, its parts as JSON objects.
struct Part<'a> {
    sent: Cow<'a, str>,
    name: Option<String>,
    params: RawJson<'a>,
    request: RawJson<'static>,
    user: Option<RawJson<'a>>,
    consent: Option<RawJson<'a>>,
    timestamp: Option<Timestamp>,
    request_fields: Fields,
}

struct Parts<'a> {
    parts: Vec<Part<'a>>,
    user_agent: Option<&'a str>,
}

fn open_measurement<'a>(request: &'a Request<'a>) -> Result<Box<dyn Opened + 'a>, Refusal> {
    let body = Json::parse(request.body).map_err(|error| {
        Refusal::new(RejectReason::Malformed, format!("the body is not JSON: {error}"))
    })?;
    if body.depth() > MAX_DEPTH {
        let detail = format!("nested deeper than {MAX_DEPTH} levels");
        return Err(Refusal::new(RejectReason::InvalidField, detail));
    }
    let mut whole = Object::of(&body)
        .ok_or_else(|| Refusal::new(RejectReason::Malformed, "the body is no JSON object"))?;
    let events = whole.get("events").and_then(elements).ok_or_else(|| {
        Refusal::new(RejectReason::MissingField, "the body needs an array `events`")
    })?;
    whole.remove("events");
    let shared_time = take_micros(&mut whole);
    let user = take_object(&mut whole, "user_properties");
    let consent = take_object(&mut whole, "consent");
    let of_all: usize = [&user, &consent].into_iter().flatten().map(|json| json.get().len()).sum();
    check_shared(events.len(), whole.to_raw().get().len() + of_all)?;
    let parts = events
        .into_iter()
        .map(|raw| {
            let mut event = Object::of(&raw).unwrap_or_default();
            let name = event.take_text("name").map(Cow::into_owned);
            let params = take_object(&mut event, "params");
            let own_time = take_micros(&mut event);
            // What stands beside an event's parameters joins the request's.
            event.merge_missing(&whole);
            Part {
                sent: Cow::Borrowed(raw.get()),
                name,
                params: params.as_ref().map_or_else(empty, RawJson::from_json),
                request: event.to_raw(),
                user: user.as_ref().map(RawJson::from_json),
                consent: consent.as_ref().map(RawJson::from_json),
                timestamp: own_time.or(shared_time),
                request_fields: REQUEST,
            }
        })
        .collect();
    // The header is that of the shop's own server.
    Ok(Box::new(Parts { parts, user_agent: None }))
}

/// The object at `key`, as it came.
fn take_object<'a>(from: &mut Object<'a>, key: &str) -> Option<Json<'a>> {
    let taken = from.get(key).filter(|json| is_object(json)).cloned();
    if taken.is_some() {
        from.remove(key);
    }
    taken
}

fn empty<'a>() -> RawJson<'a> {
    ObjectBuilder::default().finish()
}

fn take_micros(from: &mut Object<'_>) -> Option<Timestamp> {
    let micros: i64 = {
        let json = from.get("timestamp_micros")?;
        if is_number(json) { json.get().parse().ok()? } else { text(json)?.parse().ok()? }
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
    let mut params = ObjectBuilder::default();
    let (mut user, mut hit, mut consent) =
        (ObjectBuilder::default(), ObjectBuilder::default(), ObjectBuilder::default());
    let mut name = None;
    let mut items: Vec<(usize, RawJson<'static>)> = Vec::new();
    for (key, value) in &pairs {
        if key == "en" {
            name = Some(value.clone().into_owned()).filter(|name| !name.is_empty());
        } else if key == "gcs" || key == "gcd" {
            consent.text(key, value);
        } else if let Some(key) = key.strip_prefix("epn.") {
            number(&mut params, key, value);
        } else if let Some(key) = key.strip_prefix("ep.") {
            params.text(key, value);
        } else if let Some(key) = key.strip_prefix("upn.") {
            number(&mut user, key, value);
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
        params.array("items", items.iter().map(|(_, item)| item));
    }
    Part {
        name,
        params: params.finish(),
        request: hit.finish(),
        user: (!user.is_empty()).then(|| user.finish()),
        consent: (!consent.is_empty()).then(|| consent.finish()),
        timestamp: None,
        request_fields: HIT,
        sent,
    }
}

/// Verbatim where it is a JSON number.
fn number(object: &mut ObjectBuilder, key: &str, value: &str) {
    match Json::parse(value) {
        Ok(json) if is_number(&json) && json.get() == value => object.json(key, &json),
        _ => object.text(key, value),
    }
}

/// `pr7` is 7.
fn item_number(key: &str) -> Option<usize> {
    let number: usize = key.strip_prefix("pr")?.parse().ok()?;
    (1..=MAX_ITEMS).contains(&number).then_some(number)
}

/// `None` where a part has a code that is not known: then it stays as it is.
fn item_json(value: &str) -> Option<RawJson<'static>> {
    let mut item = ObjectBuilder::default();
    // Keys and values of the shop's own parameters: k0name~v0value.
    let mut own: Vec<(&str, &str)> = Vec::new();
    for part in value.split('~').filter(|part| !part.is_empty()) {
        let (code, value) = part.split_at_checked(2)?;
        if let Some((_, name)) = ITEM_CODES.iter().find(|(known, _)| *known == code) {
            if NUMBER_CODES.contains(&code) {
                number(&mut item, name, value);
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
    own.is_empty().then(|| item.finish())
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
        let malformed = || Refusal::new(RejectReason::Malformed, "an event is no JSON object");
        let mut params = Object::parse(part.params.get()).ok_or_else(malformed)?;
        let mut request = Object::parse(part.request.get()).ok_or_else(malformed)?;
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
        event.consent = part.consent.clone();
        event.properties = left(&params);
        event.context = context(&request, part.user.as_ref());
        Ok(event)
    }
}

fn context(request: &Object<'_>, user: Option<&RawJson<'_>>) -> Option<RawJson<'static>> {
    let Some(user) = user.filter(|_| !request.contains("user_properties")) else {
        return left(request);
    };
    let mut out = ObjectBuilder::default();
    request.build(&mut out);
    out.raw("user_properties", user);
    Some(out.finish())
}

#[cfg(test)]
#[path = "ga4_tests.rs"]
mod tests;
