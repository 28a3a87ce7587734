//! Segment's HTTP tracking API: a message (`track`, `page`, ...) to an [`Event`].
//!
//! # What goes where
//! - A value leaves `properties` or `context` only where its column holds it
//!   exactly. A number sent as a string, an amount with five decimals, an item
//!   with keys of its own: the column is filled as far as it can, and the
//!   original stays where it was.
//! - `traits` of identify and group calls, `groupId`, `previousId`, and `name`
//!   and `category` of page calls go to `properties` under these names.
//! - What else stands beside them (`integrations`, times that do not parse,
//!   ...) goes to `context.message`. The write key and IP addresses go nowhere.
//! - The keys of a batch's `context` and `integrations` count for each of its
//!   messages that does not have them itself.
//! - An event happened at `received - (sentAt - originalTimestamp)`, with
//!   `timestamp` where there is no `originalTimestamp`.
//!
//! # What is refused
//! A message that is no object, has no known `type`, is a `track` without
//! `event`, or is nested deeper than [`MAX_DEPTH`]. Nothing else: an event
//! without ids or with a time of nonsense is kept, and says so.

mod commerce;
mod names;

use std::borrow::Cow;

use clickmill_schemas::{Event, EventTime, Json, ObjectBuilder, RawJson, RejectReason, Timestamp};
use uuid::Uuid;

use super::json::{Object, elements, is_number, is_object, left, text};
use super::{Dialect, Form, Limits, MAX_DEPTH, Opened, Received, Refusal, Request, check_shared};

pub use names::event_name;

/// `source_protocol` of its events.
pub const PROTOCOL: &str = "segment";

/// A message, in a batch or alone. Segment's limit is 32 KB; this leaves room
/// for what clients count differently.
pub const MAX_EVENT_BYTES: usize = 40 * 1024;
/// Messages in a batch (Segment's limit).
pub const MAX_BATCH_EVENTS: usize = 2_500;
/// A body, compressed and not. Segment's limit is 500 KB a batch, RudderStack's
/// (`Gateway.maxReqSizeInKB`), whose SDKs use the same routes, 4,000 KB.
pub const MAX_BODY_BYTES: usize = 4_000 * 1024;

/// The routes below `/` and `/v1/`, and the call each takes; `None` is a batch.
pub(crate) const ROUTES: &[(&str, Option<Call>)] = &[
    ("track", Some(Call::Track)),
    ("page", Some(Call::Page)),
    ("screen", Some(Call::Screen)),
    ("identify", Some(Call::Identify)),
    ("group", Some(Call::Group)),
    ("alias", Some(Call::Alias)),
    ("batch", None),
    ("t", Some(Call::Track)),
    ("p", Some(Call::Page)),
    ("s", Some(Call::Screen)),
    ("i", Some(Call::Identify)),
    ("g", Some(Call::Group)),
    ("a", Some(Call::Alias)),
    ("b", None),
];

pub(crate) static DIALECT: Dialect = Dialect {
    name: PROTOCOL,
    limits: Limits {
        body_bytes: MAX_BODY_BYTES,
        event_bytes: MAX_EVENT_BYTES,
        events: MAX_BATCH_EVENTS,
    },
    form: Form::Segment,
    query_keys: &["writeKey"],
    open,
};

/// Opens a request to one of [`ROUTES`].
fn open<'a>(request: &'a Request<'a>) -> Result<Box<dyn Opened + 'a>, Refusal> {
    let name = request.path.rsplit('/').next().unwrap_or_default();
    let call = ROUTES.iter().find(|(route, _)| *route == name).and_then(|(_, call)| *call);
    let mut body = Body::open(request.body, call)?;
    if super::rudderstack::sent(request, &body) {
        body.protocol = super::rudderstack::PROTOCOL;
    }
    Ok(Box::new(body))
}

impl Opened for Body<'_> {
    fn protocol(&self) -> &'static str {
        self.protocol
    }

    fn write_key(&self) -> Option<&str> {
        self.write_key.as_deref()
    }

    fn len(&self) -> usize {
        self.messages.len()
    }

    fn bytes(&self, part: usize) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.messages[part].get().as_bytes())
    }

    fn decode<'e>(&'e self, part: usize, received: Received<'e>) -> Result<Event<'e>, Refusal> {
        Body::decode(self, &self.messages[part], received)
    }
}

/// The kinds of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Something happened, with a name.
    Track,
    /// A web page was seen.
    Page,
    /// A screen of an app was seen.
    Screen,
    /// Who the visitor is.
    Identify,
    /// What group the visitor belongs to.
    Group,
    /// Two ids are one visitor.
    Alias,
    /// RudderStack's: several ids are one visitor.
    Merge,
}

/// A request's body, opened: its messages, and what they share.
pub struct Body<'a> {
    /// `source_protocol` of its events.
    pub(super) protocol: &'static str,
    /// RudderStack's import: the times are history, however old.
    pub(super) historic: bool,
    call: Option<Call>,
    messages: Vec<Json<'a>>,
    shared: Shared<'a>,
    write_key: Option<Cow<'a, str>>,
}

/// What a batch says for all of its messages.
#[derive(Default)]
struct Shared<'a> {
    context: Object<'a>,
    integrations: Option<Json<'a>>,
    sent_at: Option<Json<'a>>,
}

impl Call {
    /// From a message's `type`.
    #[must_use]
    pub fn from_type(name: &str) -> Option<Self> {
        Some(match name {
            "track" => Self::Track,
            "page" => Self::Page,
            "screen" => Self::Screen,
            "identify" => Self::Identify,
            "group" => Self::Group,
            "alias" => Self::Alias,
            "merge" => Self::Merge,
            _ => return None,
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Track => "track",
            Self::Page => "page",
            Self::Screen => "screen",
            Self::Identify => "identify",
            Self::Group => "group",
            Self::Alias => "alias",
            Self::Merge => "merge",
        }
    }
}

impl<'a> Body<'a> {
    /// Opens a body: one message of `call`, or with `None` a batch. One message
    /// is taken for a batch if it has a `batch`, and the other way round, since
    /// clients send either to either route.
    ///
    /// # Errors
    /// [`Refusal`] where it is not JSON, no object, or a batch without messages.
    pub fn open(body: &'a str, call: Option<Call>) -> Result<Self, Refusal> {
        let malformed = |detail: String| Refusal { reason: RejectReason::Malformed, detail };
        let whole = Json::parse(body)
            .map_err(|error| malformed(format!("the body is not JSON: {error}")))?;
        let object = Object::of(&whole)
            .ok_or_else(|| malformed("the body is no JSON object with text keys".to_owned()))?;
        let write_key = object.text("writeKey");
        let Some(batch) = object.get("batch") else {
            if call.is_none() && object.get("type").is_none() {
                return Err(Refusal {
                    reason: RejectReason::MissingField,
                    detail: "a batch needs an array `batch`".to_owned(),
                });
            }
            let shared = Shared::default();
            let (protocol, historic) = (PROTOCOL, false);
            return Ok(Self { protocol, historic, call, messages: vec![whole], shared, write_key });
        };
        let messages = elements(batch).ok_or_else(|| Refusal {
            reason: RejectReason::InvalidField,
            detail: "`batch` is no array".to_owned(),
        })?;
        let both = [object.get("context"), object.get("integrations")];
        let shared_bytes = both.into_iter().flatten().map(|raw| raw.get().len()).sum();
        check_shared(messages.len(), shared_bytes)?;
        let shared = Shared {
            context: object.get("context").and_then(Object::of).unwrap_or_default(),
            integrations: object.get("integrations").cloned(),
            sent_at: object.get("sentAt").cloned(),
        };
        Ok(Self { protocol: PROTOCOL, historic: false, call: None, messages, shared, write_key })
    }

    /// The body's own `writeKey`.
    #[must_use]
    pub fn write_key(&self) -> Option<&str> {
        self.write_key.as_deref()
    }

    /// The messages as they came.
    #[must_use]
    pub fn messages(&self) -> &[Json<'a>] {
        &self.messages
    }

    /// Decodes one of [`Body::messages`].
    ///
    /// # Errors
    /// [`Refusal`]: see the module's description.
    pub fn decode(&self, message: &Json<'a>, received: Received<'a>) -> Result<Event<'a>, Refusal> {
        decode(message, self, received)
    }
}

fn decode<'a>(
    message: &Json<'a>,
    body: &Body<'a>,
    received: Received<'a>,
) -> Result<Event<'a>, Refusal> {
    let (call, shared) = (body.call, &body.shared);
    let refuse = |reason, detail: String| Refusal { reason, detail };
    if message.depth() > MAX_DEPTH {
        return Err(refuse(
            RejectReason::InvalidField,
            format!("nested deeper than {MAX_DEPTH} levels"),
        ));
    }
    let mut message = Object::of(message).ok_or_else(|| {
        refuse(RejectReason::Malformed, "a message is no JSON object with text keys".to_owned())
    })?;
    let call = match (message.take_text("type"), call) {
        (Some(name), _) => Call::from_type(&name).ok_or_else(|| {
            let shown: String = name.chars().take(40).collect();
            refuse(RejectReason::UnknownType, format!("`{shown}` is no type of message"))
        })?,
        (None, Some(call)) => call,
        (None, None) => {
            return Err(refuse(RejectReason::MissingField, "`type` is missing".to_owned()));
        }
    };
    message.remove("writeKey");

    let sent_name = if call == Call::Track { message.take_text("event") } else { None };
    let name = match (call, &sent_name) {
        (Call::Track, Some(sent)) => event_name(sent),
        (Call::Track, None) => {
            return Err(refuse(
                RejectReason::MissingField,
                "a track call needs a text `event`".to_owned(),
            ));
        }
        (Call::Page, _) => "page_view",
        (Call::Screen, _) => "screen_view",
        (Call::Identify, _) => "identify",
        (Call::Group, _) => "group",
        (Call::Alias | Call::Merge, _) => "alias",
    };
    let id = message.take_text("messageId").unwrap_or_else(|| Uuid::now_v7().to_string().into());
    let mut time = take_time(&mut message, shared, received.at);
    if body.historic
        && let Some(client_ts) = time.client_ts()
    {
        time = EventTime::historic(client_ts, received.at);
    }
    let mut event = Event::new(id, name, body.protocol, received.app_id, time);
    event.source_event_name = Some(sent_name.unwrap_or_else(|| call.name().into()));
    event.user_id = message.take_text("userId");
    event.anonymous_id = message.take_text("anonymousId");

    let mut properties = Properties::take(call, &mut message);
    let mut context = message.take_object("context").unwrap_or_default();
    context.merge_missing(&shared.context);
    // What is left of an address that was taken out.
    if context.get("ip").is_some_and(|raw| raw.get() == "null") {
        context.remove("ip");
    }
    if let Some(integrations) = &shared.integrations
        && !message.contains("integrations")
    {
        message.put("integrations", integrations.clone());
    }
    if message.get("integrations").is_some_and(|raw| raw.get() == "{}" || raw.get() == "null") {
        message.remove("integrations");
    }

    take_page(&mut event, call, &mut properties.sent, &mut context);
    take_context(&mut event, &mut context, &message);
    commerce::take(&mut event, &mut properties.sent);
    event.properties = properties.finish();
    event.context = finish_context(&context, &message);
    Ok(event)
}

/// What becomes the event's `properties`.
struct Properties<'a> {
    sent: Object<'a>,
    /// Message fields that stand among the properties, under their own names.
    added: Vec<(&'static str, Json<'a>)>,
}

impl<'a> Properties<'a> {
    fn take(call: Call, message: &mut Object<'a>) -> Self {
        let sent = message.take_object("properties").unwrap_or_default();
        let mut added = Vec::new();
        let own: &[&'static str] = match call {
            Call::Track | Call::Alias => &["traits", "groupId", "previousId"],
            Call::Merge => &["traits", "mergeProperties"],
            Call::Page | Call::Screen => &["name", "category", "traits", "groupId"],
            Call::Identify | Call::Group => &["traits", "groupId"],
        };
        for key in own {
            match (message.get(key), sent.get(key)) {
                (Some(value), None) => added.push((*key, value.clone())),
                (Some(value), Some(same)) if value.get() == same.get() => {}
                // The same name with another value stays in the message.
                _ => continue,
            }
            message.remove(key);
        }
        Self { sent, added }
    }

    fn finish(mut self) -> Option<RawJson<'static>> {
        for (key, value) in self.added {
            self.sent.put(key, value);
        }
        left(&self.sent)
    }
}

/// Takes the clock fields that are exact; the others stay in the message.
fn take_time(message: &mut Object<'_>, shared: &Shared<'_>, received: Timestamp) -> EventTime {
    let mut take = |key: &str| {
        let (time, exact) = instant(message.get(key)?)?;
        if exact {
            message.remove(key);
        }
        Some(time)
    };
    let sent =
        take("sentAt").or_else(|| shared.sent_at.as_ref().and_then(instant).map(|(time, _)| time));
    let client = match take("originalTimestamp") {
        Some(original) => Some(original),
        None => take("timestamp"),
    };
    EventTime::resolve(client, sent, received)
}

/// An RFC 3339 time; else, as some clients send it, one without a zone (taken
/// as UTC) or a number of seconds, milliseconds or microseconds. The second
/// part says whether the instant is all that the text says.
fn instant(json: &Json<'_>) -> Option<(Timestamp, bool)> {
    if is_number(json) {
        let number: i64 = json.get().parse().ok()?;
        let micros = match number.unsigned_abs() {
            0..100_000_000_000 => number.checked_mul(1_000_000)?,
            100_000_000_000..100_000_000_000_000 => number.checked_mul(1_000)?,
            _ => number,
        };
        return Some((Timestamp::from_micros(micros).ok()?, false));
    }
    let text = text(json)?;
    match Timestamp::parse(&text) {
        Ok(time) => Some((time, true)),
        Err(_) => Timestamp::parse(&format!("{text}Z")).ok().map(|time| (time, false)),
    }
}

/// Page columns: from the properties of a page call, else from `context.page`.
/// Where both say the same, neither keeps it.
fn take_page<'a>(
    event: &mut Event<'a>,
    call: Call,
    properties: &mut Object<'a>,
    context: &mut Object<'a>,
) {
    let of_call = matches!(call, Call::Page);
    let mut page = context.take_object("page").unwrap_or_default();
    let mut take = |key: &str| {
        let own = if of_call { properties.take_text(key) } else { None };
        match (own, page.text(key)) {
            (Some(own), Some(same)) if own == same => {
                page.take_text(key);
                Some(own)
            }
            (Some(own), _) => Some(own),
            (None, _) => page.take_text(key),
        }
    };
    event.page_url = take("url");
    event.page_title = take("title");
    event.referrer_url = take("referrer");
    context.put_object("page", page);
}

fn take_context<'a>(event: &mut Event<'a>, context: &mut Object<'a>, message: &Object<'a>) {
    if let Some(mut campaign) = context.take_object("campaign") {
        event.utm_source = campaign.take_text("source");
        event.utm_medium = campaign.take_text("medium");
        event.utm_campaign = campaign.take_text("name");
        event.utm_term = campaign.take_text("term");
        event.utm_content = campaign.take_text("content");
        context.put_object("campaign", campaign);
    }
    if let Some(mut screen) = context.take_object("screen") {
        event.screen_width = screen.take_integer("width");
        event.screen_height = screen.take_integer("height");
        context.put_object("screen", screen);
    }
    if let Some(mut device) = context.take_object("device") {
        event.device_id = device.take_text("id");
        context.put_object("device", device);
    }
    event.user_agent = context.take_text("userAgent");
    event.language = context.take_text("locale");
    event.timezone = context.take_text("timezone");
    event.client_session_id = context.take_text("sessionId");
    if let Some(consent) = context.get("consent")
        && is_object(consent)
    {
        event.consent = Some(RawJson::from_json(consent));
        context.remove("consent");
    }
    event.platform = platform(context, message);
}

/// From the library's name or the message's channel.
fn platform<'a>(context: &Object<'a>, message: &Object<'a>) -> Option<Cow<'a, str>> {
    const LIBRARIES: &[(&str, &str)] = &[
        ("analytics.js", "web"),
        ("analytics-next", "web"),
        ("ios", "mobile"),
        ("swift", "mobile"),
        ("android", "mobile"),
        ("kotlin", "mobile"),
        ("react-native", "mobile"),
        ("flutter", "mobile"),
        ("node", "server"),
        ("python", "server"),
        ("ruby", "server"),
        ("java", "server"),
        ("go", "server"),
        ("php", "server"),
        (".net", "server"),
        ("csharp", "server"),
        ("rust", "server"),
    ];
    let library = context.get("library").and_then(Object::of).and_then(|l| l.text("name"));
    if let Some(library) = library {
        let library = library.to_ascii_lowercase();
        if let Some((_, platform)) = LIBRARIES.iter().find(|(part, _)| library.contains(part)) {
            return Some((*platform).into());
        }
    }
    match message.text("channel").as_deref() {
        Some("browser" | "web") => Some("web".into()),
        Some("mobile") => Some("mobile".into()),
        Some("server") => Some("server".into()),
        _ => None,
    }
}

/// The context that is left, with the rest of the message under `message`.
fn finish_context(context: &Object<'_>, message: &Object<'_>) -> Option<RawJson<'static>> {
    if context.is_empty() && message.is_empty() {
        return None;
    }
    let mut out = ObjectBuilder::default();
    context.build(&mut out);
    if !message.is_empty() {
        let mut key = "message".to_owned();
        while context.contains(&key) {
            key.push('_');
        }
        out.raw(&key, &message.to_raw());
    }
    Some(out.finish())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
