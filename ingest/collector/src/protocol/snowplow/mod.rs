//! Snowplow's tracker protocol (tp2): parameters, by POST in `data` or by GET
//! in the query string, to an [`Event`].
//!
//! # What goes where
//! - Parameters go to columns as [`FIELDS`] says. All values are strings, so a
//!   number that is read is held exactly.
//! - The data of a self-describing event (`ue_pr`, `ue_px`) become
//!   `properties`, those of a struct event, ping or legacy transaction under
//!   the parameters' names (`se_ca`, `pp_mix`, `tr_af`, ...).
//! - What an entity (`co`, `cx`) says goes to columns as the tables of
//!   [`entities`] say; what is left of it stays in `context.entities`, with its
//!   schema. A self-describing event's schema stays in `context.schema`, all
//!   other parameters in `context` under their own names.
//! - An event happened at `ttm`, where there is one, else at
//!   `received - (stm - dtm)`.
//! - `ti`, an item of a legacy transaction, is a `custom` event with its item;
//!   the first `tr` of its order in the same request is a `purchase` with the items
//!   of its `ti`.
//!
//! # What is refused
//! A part that is no object, has no `e` (or one that is none of the protocol),
//! or whose embedded JSON does not parse, or is nested deeper than
//! [`super::MAX_DEPTH`].

pub(crate) mod entities;

use std::borrow::Cow;
use std::collections::HashMap;

use clickmill_schemas::{Event, EventTime, Json, ObjectBuilder, RawJson, RejectReason, Timestamp};
use uuid::Uuid;

use super::columns::{Column, Fields, Numbers, take, take_screen};
use super::json::{Object, elements, left, object_of_texts, parameters, without_lone_surrogates};
use super::privacy::decode_base64;
use super::segment::event_name;
use super::{Dialect, Form, Limits, MAX_DEPTH, Opened, Received, Refusal, Request, check_shared};

/// `source_protocol` of its events.
pub const PROTOCOL: &str = "snowplow";
/// A body: the protocol's clients are answered 413 above it.
pub const MAX_BODY_BYTES: usize = 2_000_000;
/// An event: above it, it is a bad row, and the answer 200, since trackers send
/// again what is answered otherwise, for ever and joined to newer events.
pub const MAX_EVENT_BYTES: usize = 1_000_000;
/// Events in a request. No tracker sends near as many.
pub const MAX_EVENTS: usize = 2_500;

const DIALECT_LIMITS: Limits =
    Limits { body_bytes: MAX_BODY_BYTES, event_bytes: MAX_EVENT_BYTES, events: MAX_EVENTS };

/// `/i`, `/com.snowplowanalytics.snowplow/tp2`, any `/{vendor}/{version}`.
pub(crate) static DIALECT: Dialect = Dialect {
    name: PROTOCOL,
    limits: DIALECT_LIMITS,
    form: Form::Snowplow,
    // Trackers send no key: their application's id (`appId`) is it.
    query_keys: &["aid", "writeKey"],
    open,
};

/// `/r/tp2?u=`: a click on a link, then a redirect to it.
pub(crate) static REDIRECT: Dialect = Dialect {
    name: PROTOCOL,
    limits: DIALECT_LIMITS,
    form: Form::Snowplow,
    query_keys: &["aid", "writeKey"],
    open: open_redirect,
};

/// Parameters of every event.
pub(crate) const FIELDS: Fields = &[
    ("uid", Column::UserId),
    ("duid", Column::AnonymousId),
    ("nuid", Column::NetworkId),
    ("tnuid", Column::NetworkId),
    ("sid", Column::ClientSessionId),
    ("url", Column::PageUrl),
    ("page", Column::PageTitle),
    ("refr", Column::ReferrerUrl),
    ("ua", Column::UserAgent),
    ("lang", Column::Language),
    ("tz", Column::Timezone),
];

/// Parameters of a legacy transaction (`e=tr`).
pub(crate) const TRANSACTION: Fields = &[
    ("tr_id", Column::OrderId),
    ("tr_tt", Column::Total),
    ("tr_tx", Column::Tax),
    ("tr_sh", Column::Shipping),
    ("tr_cu", Column::Currency),
];

/// Parameters of its item (`e=ti`), beside those of the item itself.
pub(crate) const TRANSACTION_ITEM: Fields =
    &[("ti_id", Column::OrderId), ("ti_cu", Column::Currency)];

/// Values of `p` and what `platform` is called.
pub(crate) const PLATFORMS: &[(&str, &str)] =
    &[("web", "web"), ("mob", "mobile"), ("srv", "server")];

/// What the other parameters of an event are about: they become properties.
const PROPERTY_PREFIXES: &[&str] = &["se_", "pp_", "tr_", "ti_"];
/// Values of `nuid` and `duid` that mean that there is none.
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

/// One event as it came, and its embedded JSON.
struct Part<'a> {
    sent: Cow<'a, str>,
    /// `sent`, where it was read already.
    json: Option<Json<'a>>,
    /// The reject's bytes, where they are not `sent`.
    query: Option<&'a str>,
    event: Option<String>,
    entities: Option<String>,
    /// Why it cannot be decoded, found when it was opened.
    refused: Option<Refusal>,
    legacy: Option<Legacy>,
    /// Of an item of a legacy transaction: the part that it is an item of.
    transaction: Option<usize>,
}

/// A legacy transaction or an item of one, with its order's id.
enum Legacy {
    Transaction(String),
    Item(String),
}

impl Legacy {
    fn of(params: &Object<'_>) -> Option<Self> {
        let id = |key: &str| params.text(key).map(Cow::into_owned);
        match &*params.text("e")? {
            "tr" => id("tr_id").map(Self::Transaction),
            "ti" => id("ti_id").map(Self::Item),
            _ => None,
        }
    }
}

struct Parts<'a> {
    parts: Vec<Part<'a>>,
    write_key: Option<String>,
    user_agent: Option<&'a str>,
    referer: Option<&'a str>,
    network_id: Option<String>,
    /// Of a page's own request, whose headers are the browser's.
    by_get: bool,
}

fn open<'a>(request: &'a Request<'a>) -> Result<Box<dyn Opened + 'a>, Refusal> {
    let malformed = |detail: String| Refusal::new(RejectReason::Malformed, detail);
    let by_get = request.body.trim().is_empty();
    let query = parameters(request.query);
    let of_query =
        |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| &**value);
    let mut parts = if by_get {
        if request.query.is_empty() {
            return Err(Refusal::new(RejectReason::MissingField, "the request has no parameters"));
        }
        let sent = match of_query("schema") {
            // A webhook of Iglu's: the parameters are the event's data.
            Some(schema) if of_query("e").is_none() => webhook(schema, None, &query),
            _ => object_of_texts(query.iter().map(|(key, value)| (&**key, &**value))).finish(),
        };
        vec![Part::made(&sent, Some(request.query))]
    } else {
        let body = Json::parse(request.body)
            .map_err(|error| malformed(format!("the body is not JSON: {error}")))?;
        let object = Object::of(&body);
        let data = object.as_ref().and_then(|object| object.get("data"));
        let schema = object.as_ref().and_then(|object| object.text("schema"));
        let is_payload = schema.as_deref().is_none_or(|schema| schema.contains("/payload_data/"));
        let events = elements(&body).or_else(|| data.and_then(elements));
        check_shared(events.as_ref().map_or(1, Vec::len), request.around_bytes())?;
        match (events, of_query("schema")) {
            (Some(events), None) if is_payload => events.into_iter().map(Part::sent).collect(),
            // Webhooks of Iglu's: the schema stands beside the data, or in the query string.
            (Some(events), Some(schema)) => events
                .into_iter()
                .map(|event| Part::made(&webhook(schema, Some(&event), &query), None))
                .collect(),
            (None, Some(schema)) => {
                vec![Part::made(&webhook(schema, Some(&body), &query), None)]
            }
            (_, None) if schema.is_some() && data.is_some() && !is_payload => {
                let schema = schema.unwrap_or_default();
                vec![Part::made(&webhook(&schema, data, &query), None)]
            }
            (None, None) if object.as_ref().is_some_and(|object| object.contains("e")) => {
                vec![Part::sent(body)]
            }
            _ => {
                let detail = "the body is no payload_data with an array `data`";
                return Err(Refusal::new(RejectReason::InvalidField, detail));
            }
        }
    };
    join_items(&mut parts);
    let write_key = of_query("aid")
        .map(str::to_owned)
        .or_else(|| parts.first()?.params()?.text("aid").map(Cow::into_owned));
    Ok(Box::new(Parts {
        parts,
        write_key,
        user_agent: request.user_agent,
        referer: request.referer,
        network_id: of_query("nuid").filter(|id| !id.is_empty()).map(str::to_owned),
        by_get,
    }))
}

/// A `uri_redirect` event of the URL in `u`, as Snowplow's enrichment makes it.
fn open_redirect<'a>(request: &'a Request<'a>) -> Result<Box<dyn Opened + 'a>, Refusal> {
    const SCHEMA: &str = "iglu:com.snowplowanalytics.snowplow/uri_redirect/jsonschema/1-0-0";
    let mut query = parameters(request.query);
    let target = query.iter().position(|(key, _)| key == "u").map(|at| query.remove(at).1);
    let target = target
        .ok_or_else(|| Refusal::new(RejectReason::MissingField, "a redirect needs a URL `u`"))?;
    let event = described(SCHEMA, &object_of_texts([("uri", &*target)]).finish());
    let mut sent = object_of_texts(
        query.iter().filter(|(key, _)| key != "e").map(|(key, value)| (&**key, &**value)),
    );
    append(&mut sent, &event);
    let sent = sent.finish();
    let write_key = query.iter().find(|(key, _)| key == "aid").map(|(_, id)| id.to_string());
    Ok(Box::new(Parts {
        parts: vec![Part::made(&sent, Some(request.query))],
        write_key,
        user_agent: request.user_agent,
        referer: request.referer,
        network_id: None,
        by_get: true,
    }))
}

/// The `ue_pr` of an event of `schema`.
fn described(schema: &str, data: &RawJson<'_>) -> RawJson<'static> {
    let (mut inner, mut outer) = (ObjectBuilder::default(), ObjectBuilder::default());
    inner.text("schema", schema);
    inner.raw("data", data);
    outer.text("schema", "");
    outer.raw("data", &inner.finish());
    outer.finish()
}

/// Adds `e` and `ue_pr`.
fn append(object: &mut ObjectBuilder, event: &RawJson<'_>) {
    object.text("e", "ue");
    object.text("ue_pr", event.get());
}

/// A self-describing event of `schema`, in the parameters that a tracker would
/// send. Of the query string `aid`, `p`, `eid` and `nuid` are the tracker's, and
/// the rest, where there is no `data`, is the data.
fn webhook(
    schema: &str,
    data: Option<&Json<'_>>,
    query: &[(Cow<'_, str>, Cow<'_, str>)],
) -> RawJson<'static> {
    const OF_TRACKER: &[&str] = &["aid", "p", "eid", "nuid"];
    let own = |(key, _): &&(Cow<'_, str>, Cow<'_, str>)| OF_TRACKER.contains(&&**key);
    let pairs = |wanted: &[&(Cow<'_, str>, Cow<'_, str>)]| {
        object_of_texts(wanted.iter().map(|(key, value)| (&**key, &**value)))
    };
    let data = data.map_or_else(
        || {
            let rest: Vec<_> = query
                .iter()
                .filter(|pair| !own(pair) && pair.0 != "schema" && pair.0 != "writeKey")
                .collect();
            pairs(&rest).finish()
        },
        |data| RawJson::from_json(data).into_owned(),
    );
    let tracker: Vec<_> = query.iter().filter(own).collect();
    let mut out = pairs(&tracker);
    append(&mut out, &described(schema, &data));
    out.finish()
}

impl<'a> Part<'a> {
    /// What stands in a body.
    fn sent(json: Json<'a>) -> Self {
        Self::open(Cow::Borrowed(json.get()), Some(json), None)
    }

    /// What was put together here, of a query string or a webhook's body.
    fn made(sent: &RawJson<'_>, query: Option<&'a str>) -> Self {
        Self::open(Cow::Owned(sent.get().to_owned()), None, query)
    }

    fn open(sent: Cow<'a, str>, json: Option<Json<'a>>, query: Option<&'a str>) -> Self {
        let mut part = Self {
            sent,
            json,
            query,
            event: None,
            entities: None,
            refused: None,
            legacy: None,
            transaction: None,
        };
        let found = part.params().ok_or_else(no_object).and_then(|params| {
            let event = embedded(&params, "ue_pr", "ue_px")?;
            Ok((event, embedded(&params, "co", "cx")?, Legacy::of(&params)))
        });
        match found {
            Ok(found) => (part.event, part.entities, part.legacy) = found,
            Err(refusal) => part.refused = Some(refusal),
        }
        part
    }

    fn params(&self) -> Option<Object<'_>> {
        Object::of(&self.json()?)
    }

    fn json(&self) -> Option<Json<'_>> {
        match &self.json {
            Some(json) => Some(json.clone()),
            None => Json::parse(&self.sent).ok(),
        }
    }
}

/// Says of each item of a legacy transaction whose it is: that of the first `tr`
/// of its order, so that what comes twice is not made more of.
fn join_items(parts: &mut [Part<'_>]) {
    let mut transactions: HashMap<String, usize> = HashMap::new();
    for (at, part) in parts.iter().enumerate() {
        if let Some(Legacy::Transaction(order)) = &part.legacy
            && !transactions.contains_key(order)
        {
            transactions.insert(order.clone(), at);
        }
    }
    for part in parts {
        if let Some(Legacy::Item(order)) = &part.legacy {
            part.transaction = transactions.get(order).copied();
        }
    }
}

fn no_object() -> Refusal {
    Refusal::new(RejectReason::Malformed, "an event is no JSON object")
}

/// The JSON text in `plain`, or in base64 in `coded`.
fn embedded(params: &Object<'_>, plain: &str, coded: &str) -> Result<Option<String>, Refusal> {
    let invalid = |key: &str, what: &str| {
        Refusal::new(RejectReason::InvalidField, format!("`{key}` is not {what}"))
    };
    let (key, text) = if let Some(text) = params.text(plain) {
        (plain, text.into_owned())
    } else if let Some(text) = params.text(coded) {
        let bytes = decode_base64(text.as_bytes()).ok_or_else(|| invalid(coded, "base64"))?;
        (coded, String::from_utf8(bytes).map_err(|_| invalid(coded, "UTF-8"))?)
    } else {
        return Ok(None);
    };
    if Json::parse(&text).map_err(|_| invalid(key, "JSON"))?.depth() > MAX_DEPTH {
        return Err(invalid(key, "flat enough: it is nested too deep"));
    }
    // Half surrogate pairs were replaced in the outer text only.
    Ok(Some(without_lone_surrogates(&text).into_owned()))
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
        let part = &self.parts[part];
        Cow::Borrowed(part.query.unwrap_or(&part.sent).as_bytes())
    }

    fn decode<'e>(&'e self, part: usize, received: Received<'e>) -> Result<Event<'e>, Refusal> {
        let opened = &self.parts[part];
        if let Some(refusal) = &opened.refused {
            return Err(refusal.clone());
        }
        let mut event = self.decode_part(opened, received)?;
        if event.source_event_name.as_deref() == Some("transaction") {
            self.add_legacy_items(&mut event, part);
        }
        Ok(event)
    }
}

impl Parts<'_> {
    fn decode_part<'e>(
        &'e self,
        part: &'e Part<'_>,
        received: Received<'e>,
    ) -> Result<Event<'e>, Refusal> {
        let json = part.json().ok_or_else(no_object)?;
        if json.depth() > MAX_DEPTH {
            let detail = format!("nested deeper than {MAX_DEPTH} levels");
            return Err(Refusal::new(RejectReason::InvalidField, detail));
        }
        let mut params = Object::of(&json).ok_or_else(no_object)?;
        let kind = params.take_text("e").ok_or_else(|| {
            Refusal::new(RejectReason::MissingField, "`e`, the kind of event, is missing")
        })?;
        let id = params.take_text("eid").unwrap_or_else(|| Uuid::now_v7().to_string().into());
        let time = take_time(&mut params, received.at);
        let mut event = Event::new(id, "custom", PROTOCOL, received.app_id, time);
        take(&mut event, FIELDS, &mut params, Numbers::Text);
        take_screen(&mut event, "res", &mut params);
        take_platform(&mut event, &mut params);
        if params.text("aid").is_some_and(|aid| aid == received.app_id) {
            params.remove("aid");
        }
        if event.network_id.is_none() {
            event.network_id = self.network_id.as_deref().map(Cow::Borrowed);
        }
        if event.network_id.as_deref() == Some(NOBODY) {
            event.network_id = None;
        }
        // As Snowplow's collector: a page's own request shows its page and browser.
        if event.user_agent.is_none() {
            event.user_agent = self.user_agent.map(Cow::Borrowed);
        }
        if self.by_get && event.page_url.is_none() && matches!(&*kind, "pv" | "pp") {
            event.page_url = self.referer.map(Cow::Borrowed);
        }

        let mut properties =
            params.split_off(|key| PROPERTY_PREFIXES.iter().any(|prefix| key.starts_with(prefix)));
        for key in ["ue_pr", "ue_px", "co", "cx"] {
            params.remove(key);
        }
        let mut schema = None;
        match &*kind {
            "pv" => name(&mut event, "page_view", "page_view"),
            "pp" => name(&mut event, "page_ping", "page_ping"),
            "se" => {
                let action = properties.take_text("se_ac");
                event.event_name = event_name(action.as_deref().unwrap_or_default()).into();
                event.source_event_name = Some(action.unwrap_or_else(|| "struct".into()));
            }
            "tr" => {
                name(&mut event, "purchase", "transaction");
                take(&mut event, TRANSACTION, &mut properties, Numbers::Text);
            }
            "ti" => {
                name(&mut event, "custom", "transaction_item");
                take(&mut event, TRANSACTION_ITEM, &mut properties, Numbers::Text);
                entities::take_legacy_item(&mut event, &mut properties);
            }
            "ue" => {
                let (sent_schema, data) = self_described(part.event.as_deref())?;
                properties = entities::take_event(&mut event, &sent_schema, data, properties);
                schema = Some(sent_schema);
            }
            other => {
                let shown: String = other.chars().take(40).collect();
                let detail = format!("`{shown}` is no kind of event");
                return Err(Refusal::new(RejectReason::UnknownType, detail));
            }
        }
        let kept = part
            .entities
            .as_deref()
            .map(|text| entities::take_all(&mut event, text, &kind))
            .unwrap_or_default();
        event.properties = left(&properties);
        event.context = finish_context(schema.as_deref(), &kept, &params);
        Ok(event)
    }

    /// The items of a legacy transaction that came along with it, those of the
    /// part `transaction`.
    fn add_legacy_items<'e>(&'e self, event: &mut Event<'e>, transaction: usize) {
        let items = self.parts.iter().filter(|part| part.transaction == Some(transaction));
        for part in items {
            if let Some(mut params) = part.params() {
                entities::take_legacy_item(event, &mut params);
            }
        }
    }
}

fn name(event: &mut Event<'_>, canonical: &'static str, sent: &'static str) {
    event.event_name = canonical.into();
    event.source_event_name = Some(sent.into());
}

/// `ttm` is the true time, to which no clock's skew applies.
fn take_time(params: &mut Object<'_>, received: Timestamp) -> EventTime {
    let mut millis = |key: &str| {
        let millis: i64 = params.text(key)?.trim().parse().ok()?;
        let time = Timestamp::from_micros(millis.checked_mul(1_000)?).ok()?;
        params.remove(key);
        Some(time)
    };
    match millis("ttm") {
        Some(true_time) => EventTime::resolve(Some(true_time), None, received),
        None => EventTime::resolve(millis("dtm"), millis("stm"), received),
    }
}

fn take_platform<'a>(event: &mut Event<'a>, params: &mut Object<'a>) {
    let Some(sent) = params.text("p") else { return };
    match PLATFORMS.iter().find(|(code, _)| *code == sent) {
        Some((code, platform)) => {
            event.platform = Some((*platform).into());
            if code == platform {
                params.remove("p");
            }
        }
        None => event.platform = params.take_text("p"),
    }
}

/// The schema and data inside of an `unstruct_event`.
fn self_described(event: Option<&str>) -> Result<(Cow<'_, str>, Object<'_>), Refusal> {
    let missing = || {
        Refusal::new(RejectReason::MissingField, "a self-describing event needs `ue_pr` or `ue_px`")
    };
    let invalid = || {
        let detail =
            "a self-describing event needs `data` with a text `schema` and an object `data`";
        Refusal::new(RejectReason::InvalidField, detail)
    };
    let outer = Object::parse(event.ok_or_else(missing)?).ok_or_else(invalid)?;
    let inner = outer.get("data").and_then(Object::of).ok_or_else(invalid)?;
    let schema = inner.text("schema").ok_or_else(invalid)?;
    let data = inner.get("data").and_then(Object::of).ok_or_else(invalid)?;
    Ok((schema, data))
}

fn finish_context(
    schema: Option<&str>,
    entities: &[RawJson<'_>],
    params: &Object<'_>,
) -> Option<RawJson<'static>> {
    let mut out = ObjectBuilder::default();
    if let Some(schema) = schema {
        out.text("schema", schema);
    }
    if !entities.is_empty() {
        out.array("entities", entities);
    }
    params.build(&mut out);
    (!out.is_empty()).then(|| out.finish())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
