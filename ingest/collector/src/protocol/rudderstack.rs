//! RudderStack's HTTP API: Segment's messages, and some routes of its own.
//!
//! - Its SDKs use Segment's routes as well. A request there is RudderStack's
//!   ([`sent`]) by its `AnonymousId` header, or by its first message: a library
//!   whose name has `rudder` in it, the User-Agent `rudder...`, or, of
//!   rudder-sdk-node and rudder-sdk-python, which call themselves
//!   `analytics-node` and `analytics-python`, a batch without `writeKey`
//!   (Segment's own libraries send one) whose messages name a `channel`.
//! - `/v1/import` is a batch of history: its times are taken as they are.
//! - `/pixel/v1/{track,page}` is one message in a query string; a dot in a
//!   parameter's name goes one level down (`properties.price=9.90`).
//! - `merge` becomes an `alias`, its `mergeProperties` stay in `properties`.
//!
//! What a message becomes is [`super::segment`]'s.

use std::borrow::Cow;

use clickmill_schemas::{Event, RejectReason};
use serde_json::{Map, Value};

use super::json::{Object, parameters};
use super::segment::{self, Body, Call};
use super::{Dialect, Form, Limits, Opened, Received, Refusal, Request};

/// `source_protocol` of its events.
pub const PROTOCOL: &str = "rudderstack";
/// Levels that the name of a pixel's parameter may go down.
const MAX_PIXEL_DEPTH: usize = 8;

const LIMITS: Limits = Limits {
    body_bytes: segment::MAX_BODY_BYTES,
    event_bytes: segment::MAX_EVENT_BYTES,
    events: segment::MAX_BATCH_EVENTS,
};

/// `/v1/merge`, `/v1/import`, `/beacon/v1/batch`.
pub(crate) static DIALECT: Dialect = Dialect {
    name: PROTOCOL,
    limits: LIMITS,
    form: Form::RudderStack,
    query_keys: &["writeKey"],
    open,
};

/// `/pixel/v1/{track,page}`.
pub(crate) static PIXEL: Dialect = Dialect {
    name: PROTOCOL,
    limits: LIMITS,
    form: Form::RudderStackPixel,
    query_keys: &["writeKey"],
    open: open_pixel,
};

/// True for a request to one of Segment's routes from an SDK of RudderStack's.
pub(super) fn sent(request: &Request<'_>, body: &Body<'_>) -> bool {
    let rudder = |name: &str| name.to_ascii_lowercase().contains("rudder");
    if request.anonymous_id.is_some() || request.user_agent.is_some_and(rudder) {
        return true;
    }
    let Some(message) = body.messages().first().and_then(Object::of) else {
        return false;
    };
    let library = message
        .get("context")
        .and_then(Object::of)
        .and_then(|context| context.get("library").and_then(Object::of))
        .and_then(|library| library.text("name"));
    match library.as_deref() {
        Some("analytics-node" | "analytics-python") => {
            body.write_key().is_none() && message.contains("channel")
        }
        Some(name) => rudder(name),
        None => false,
    }
}

fn open<'a>(request: &'a Request<'a>) -> Result<Box<dyn Opened + 'a>, Refusal> {
    let call = request.path.ends_with("/merge").then_some(Call::Merge);
    let mut body = Body::open(request.body, call)?;
    body.protocol = PROTOCOL;
    body.historic = request.path.ends_with("/import");
    Ok(Box::new(body))
}

/// One message, built from a query string.
struct Pixel {
    query: String,
    call: Call,
    message: String,
}

fn open_pixel<'a>(request: &'a Request<'a>) -> Result<Box<dyn Opened + 'a>, Refusal> {
    let call = if request.path.ends_with("/page") { Call::Page } else { Call::Track };
    let mut message = Map::new();
    message.insert("channel".to_owned(), "web".into());
    for (key, value) in parameters(request.query) {
        if key != "writeKey" && key != "type" {
            insert(&mut message, &key, &value)?;
        }
    }
    if let Some(agent) = request.user_agent {
        let context = message.entry("context").or_insert_with(|| Map::new().into());
        if let Value::Object(context) = context {
            context.entry("userAgent").or_insert_with(|| agent.into());
        }
    }
    let message = Value::Object(message).to_string();
    Ok(Box::new(Pixel { query: request.query.to_owned(), call, message }))
}

/// `a.b=value`: `{"a":{"b":"value"}}`; where `a` is no object, the name stays whole.
fn insert(into: &mut Map<String, Value>, key: &str, value: &str) -> Result<(), Refusal> {
    let path: Vec<&str> = key.split('.').collect();
    if path.len() > MAX_PIXEL_DEPTH {
        let detail = format!("a parameter goes at most {MAX_PIXEL_DEPTH} levels down");
        return Err(Refusal::new(RejectReason::InvalidField, detail));
    }
    if !insert_below(into, &path, value) {
        into.insert(key.to_owned(), value.into());
    }
    Ok(())
}

fn insert_below(into: &mut Map<String, Value>, path: &[&str], value: &str) -> bool {
    match path {
        [] => false,
        [last] => into.insert((*last).to_owned(), value.into()).is_none(),
        [level, below @ ..] => {
            let next = into.entry(*level).or_insert_with(|| Map::new().into());
            next.as_object_mut().is_some_and(|next| insert_below(next, below, value))
        }
    }
}

impl Opened for Pixel {
    fn protocol(&self) -> &'static str {
        PROTOCOL
    }

    fn len(&self) -> usize {
        1
    }

    fn bytes(&self, _: usize) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.query.as_bytes())
    }

    fn decode<'e>(&'e self, _: usize, received: Received<'e>) -> Result<Event<'e>, Refusal> {
        let mut body = Body::open(&self.message, Some(self.call))?;
        body.protocol = PROTOCOL;
        body.decode(&body.messages()[0], received)
    }
}
