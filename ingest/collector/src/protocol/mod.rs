//! What clients send, decoded to events: one module for each protocol.
//!
//! A protocol is a [`Dialect`]: its limits, how it is answered, and how a
//! [`Request`] is opened into parts, each of which decodes to one event or is
//! refused alone. A dialect is pure: it reads no clock, file or socket, and it
//! sees text whose IP addresses were taken out. What happens around it (body,
//! write key, spool, answer) is the server's, the same for all.

pub(crate) mod columns;
pub mod ga4;
pub(crate) mod json;
pub mod native;
pub(crate) mod privacy;
pub(crate) mod reference;
pub mod rudderstack;
pub mod segment;
pub mod snowplow;

#[cfg(test)]
mod hostile;

use std::borrow::Cow;

use clickmill_schemas::{Event, RejectReason, Timestamp};

/// JSON nested deeper than this is refused: the engines downstream have limits too.
pub const MAX_DEPTH: usize = 64;

/// What the server knows of a request.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// By its write key.
    pub app_id: &'a str,
    /// By our clock.
    pub at: Timestamp,
}

/// Why a part of a request is no event, or a request has no parts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// Its code.
    pub reason: RejectReason,
    /// What, where, and what to do.
    pub detail: String,
}

impl Refusal {
    pub(crate) fn new(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// A protocol, as the server drives it.
pub(crate) struct Dialect {
    /// `protocol` of the rejects that cannot be told more closely.
    pub name: &'static str,
    pub limits: Limits,
    pub form: Form,
    /// Parameters of the query string that may be the write key.
    pub query_keys: &'static [&'static str],
    /// Opens a request into its parts.
    pub open: for<'a> fn(&'a Request<'a>) -> Result<Box<dyn Opened + 'a>, Refusal>,
}

/// Over them: the body as a whole is refused, a part alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// A body as it arrives, and as it is once decompressed.
    pub body_bytes: usize,
    /// A part.
    pub event_bytes: usize,
    /// Parts in a request.
    pub events: usize,
}

/// What the events of a request share (a batch's context, the parameters of its
/// URL, a header) comes to at most, once each of them has it: of a body at its
/// limit the whole is then still one append to the spool.
pub(crate) const MAX_SHARED_BYTES: usize = 2 * 1024 * 1024;

/// Refuses what comes to more than [`MAX_SHARED_BYTES`]. To be asked before any of
/// it is copied: else a small request could take all memory.
pub(crate) fn check_shared(events: usize, bytes: usize) -> Result<(), Refusal> {
    if events.saturating_mul(bytes) <= MAX_SHARED_BYTES {
        return Ok(());
    }
    let detail = format!(
        "{events} events share {bytes} bytes: each of them gets these, and together at most \
         {MAX_SHARED_BYTES}; send smaller batches"
    );
    Err(Refusal::new(RejectReason::TooLarge, detail))
}

/// How a protocol's clients want to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// 200 `{"success":true}`; 400 with `code` and `message`.
    Segment,
    /// As `Segment`, but 413 for a body over its limit.
    RudderStack,
    /// 200 and a GIF for what was taken; errors as `Segment`.
    RudderStackPixel,
    /// POST: 200 `ok`; GET: 200 and a GIF. Refused input, too: it is a bad row.
    Snowplow,
    /// 204, also for refused input: Google's servers never say so either.
    Google,
    /// 200 with the outcome of every event that was refused.
    Native,
}

/// A request as a dialect sees it: addresses are out, half surrogate pairs too.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Request<'a> {
    /// The path, without the prefix that a host mounts the routes under.
    pub path: &'a str,
    /// The query string, still percent-encoded.
    pub query: &'a str,
    /// Empty for GET.
    pub body: &'a str,
    /// The header `AnonymousId` of RudderStack's SDKs.
    pub anonymous_id: Option<&'a str>,
    /// The header `User-Agent`: a browser's where the client is one.
    pub user_agent: Option<&'a str>,
    /// The header `Referer`.
    pub referer: Option<&'a str>,
}

impl Request<'_> {
    /// Bytes around the body that an event may get from it.
    pub fn around_bytes(&self) -> usize {
        let headers = [self.anonymous_id, self.user_agent, self.referer];
        self.query.len() + headers.into_iter().flatten().map(str::len).sum::<usize>()
    }
}

/// The parts of a request.
pub(crate) trait Opened {
    /// The protocol, where the request tells it more closely than its route.
    fn protocol(&self) -> &'static str;

    /// The body's own write key.
    fn write_key(&self) -> Option<&str> {
        None
    }

    /// How many parts there are.
    fn len(&self) -> usize;

    /// A part as it came, for its reject. `part` is below [`Opened::len`].
    fn bytes(&self, part: usize) -> Cow<'_, [u8]>;

    /// Decodes a part.
    fn decode<'e>(&'e self, part: usize, received: Received<'e>) -> Result<Event<'e>, Refusal>;
}
