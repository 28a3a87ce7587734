//! The one path of every event, whatever protocol it came by:
//!
//! ```text
//! read within limits -> scrub -> open -> authorise -> decode each part
//!   -> finish(event) -> store all -> answer in the protocol's form
//! ```
//!
//! - Good parts go on; a bad part becomes a reject with its bytes, without its
//!   addresses. A request that cannot be opened becomes one reject, if its
//!   sender shows a known write key: nobody else may fill the disk.
//! - Judging a request ([`Incoming::judge`]) is pure; reading and storing stand
//!   around it in [`ingest`].
//! - Nothing is answered as taken before it is on disk.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::ORIGIN;
use axum::http::request::Parts;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clickmill_schemas::{Event, Reject, RejectReason, Timestamp};
use uuid::Uuid;

use super::auth::{DEFAULT_APP_ID, NotAdmitted, header_key};
use super::body::{self, BodyError};
use super::geo::Place;
use super::visitor::Visitor;
use super::{App, reply};
use crate::collector::Encoded;
use crate::metrics::Metrics;
use crate::protocol::json::without_lone_surrogates;
use crate::protocol::privacy::{query_without_addresses, without_addresses};
use crate::protocol::{Dialect, Opened, Received, Refusal, Request};

/// A reject keeps this much of its bytes: with base64 and its fields it stays
/// below [`crate::MAX_LINE_BYTES`].
pub const MAX_REJECT_BYTES: usize = 700 * 1024;

/// What came of a request.
pub(super) struct Verdict {
    /// What it came by.
    pub protocol: &'static str,
    /// What is stored before it is answered: events and rejects.
    pub store: Vec<Encoded>,
    pub outcome: Outcome,
}

/// What the client is told, once everything is stored.
pub(super) enum Outcome {
    /// All parts were judged, and these refused: their numbers and reasons.
    Taken { parts: usize, refused: Vec<(usize, Refusal)> },
    /// The request has no parts.
    Refused(Refusal),
    /// Over the body's limit.
    TooLarge(Refusal),
    /// No known write key.
    Unauthorised,
    /// A known one that does not write this.
    NotAdmitted(NotAdmitted),
    /// The body did not arrive; a retry may do better.
    NotReceived { code: &'static str, message: String },
}

impl Outcome {
    /// Once what came of the request is on disk.
    fn count(&self, protocol: &'static str, metrics: &Metrics) {
        let rejected =
            |reason: RejectReason| metrics.events_rejected.with([protocol, reason.code()]).inc();
        match self {
            Self::Taken { parts, refused } => {
                let accepted = parts.saturating_sub(refused.len());
                if accepted > 0 {
                    metrics.events_accepted.with([protocol]).add(accepted as u64);
                }
                for (_, refusal) in refused {
                    rejected(refusal.reason);
                }
            }
            Self::Refused(refusal) | Self::TooLarge(refusal) => rejected(refusal.reason),
            Self::Unauthorised | Self::NotAdmitted(_) | Self::NotReceived { .. } => {}
        }
    }
}

/// One request of `dialect`.
pub(super) async fn ingest(
    app: &App,
    dialect: &'static Dialect,
    head: &Parts,
    body: Body,
) -> Response {
    let Ok(_permit) = app.requests.try_acquire() else { return reply::overloaded() };
    let at = Timestamp::now();
    let metrics = app.collector.metrics();
    let mut share = app.bodies.share();
    let most = dialect.limits.body_bytes;
    let read = body::read(&head.headers, body, most, app.body_timeout, &mut share, metrics).await;
    if matches!(read, Err(BodyError::Crowded)) {
        return reply::overloaded();
    }
    let incoming = Incoming::new(app, dialect, head, at);
    let Verdict { protocol, store, outcome } = match read {
        Ok(bytes) => incoming.judge(&bytes),
        Err(error) => incoming.unread(error),
    };
    if !store.is_empty() {
        if let Err(error) = app.collector.append(store).await {
            return reply::not_stored(&error);
        }
        outcome.count(protocol, metrics);
    }
    let mut response = reply::outcome(dialect.form, &head.method, &outcome);
    if !matches!(
        outcome,
        Outcome::Unauthorised | Outcome::NotAdmitted(_) | Outcome::NotReceived { .. }
    ) {
        incoming.visitor.answer(&mut response);
    }
    response
}

/// What all parts of a request share.
struct Incoming<'a> {
    app: &'a App,
    dialect: &'static Dialect,
    at: Timestamp,
    path: &'a str,
    /// Without addresses.
    query: Cow<'a, str>,
    headers: &'a HeaderMap,
    /// Outside of the body: in the Authorization header, in the query.
    keys: Vec<Cow<'a, str>>,
    visitor: Visitor,
    /// Of its address; nothing where the visitor asked to be anonymous.
    place: Option<&'a Place>,
}

impl<'a> Incoming<'a> {
    fn new(app: &'a App, dialect: &'static Dialect, head: &'a Parts, at: Timestamp) -> Self {
        let query = query_without_addresses(head.uri.query().unwrap_or_default());
        let mut keys: Vec<Cow<'a, str>> =
            header_key(&head.headers).map(Cow::Owned).into_iter().collect();
        let raw_query = head.uri.query().unwrap_or_default().as_bytes();
        for name in dialect.query_keys {
            let found = form_urlencoded::parse(raw_query).find(|(key, _)| key == name);
            keys.extend(found.map(|(_, value)| value).filter(|value| !value.is_empty()));
        }
        let nuid = form_urlencoded::parse(raw_query)
            .find(|(key, _)| key == "nuid")
            .and_then(|(_, id)| Uuid::parse_str(&id).ok())
            .filter(|id| !id.is_nil());
        let visitor = Visitor::of(&app.options, &head.headers, nuid);
        let anonymous = head.headers.contains_key("sp-anonymous");
        let place = head.extensions.get::<Place>().filter(|_| !anonymous);
        Self {
            app,
            dialect,
            at,
            path: head.uri.path(),
            query,
            headers: &head.headers,
            keys,
            visitor,
            place,
        }
    }

    /// Opens, authorises and decodes.
    fn judge(&self, bytes: &[u8]) -> Verdict {
        let bytes = without_addresses(bytes);
        let Ok(text) = std::str::from_utf8(&bytes) else {
            return self.refuse(malformed("the body is not UTF-8"), &bytes);
        };
        let text = without_lone_surrogates(text);
        let header = |name: &str| self.headers.get(name).and_then(|value| value.to_str().ok());
        let request = Request {
            path: self.path,
            query: &self.query,
            body: &text,
            anonymous_id: header("anonymousid"),
            user_agent: header("user-agent"),
            referer: header("referer"),
        };
        let opened = match (self.dialect.open)(&request) {
            Ok(opened) => opened,
            Err(refusal) => return self.refuse(refusal, &bytes),
        };
        let keys = self.keys.iter().map(|key| &**key).chain(opened.write_key());
        let Some(key) = self.app.keys.find(keys) else {
            return self.nothing(Outcome::Unauthorised);
        };
        let app_id = key.app_id;
        let most = self.dialect.limits.events;
        if opened.len() > most {
            let detail = format!("a batch holds at most {most} events; send smaller ones");
            return self.refuse(Refusal::new(RejectReason::TooLarge, detail), &bytes);
        }
        if let Err(reason) = key.admit(self.origin(), opened.len()) {
            return self.nothing(Outcome::NotAdmitted(reason));
        }
        let mut store = Vec::with_capacity(opened.len());
        let mut refused = Vec::new();
        for part in 0..opened.len() {
            match self.decode(&*opened, part, app_id) {
                Ok(event) => store.push(event),
                Err(refusal) => {
                    let sent = opened.bytes(part);
                    store.push(self.reject(opened.protocol(), &refusal, Some(app_id), &sent));
                    refused.push((part, refusal));
                }
            }
        }
        let outcome = Outcome::Taken { parts: opened.len(), refused };
        Verdict { protocol: opened.protocol(), store, outcome }
    }

    fn decode(&self, opened: &dyn Opened, part: usize, app_id: &str) -> Result<Encoded, Refusal> {
        let (bytes, most) = (opened.bytes(part).len(), self.dialect.limits.event_bytes);
        if bytes > most {
            let detail = format!("{bytes} bytes; an event has at most {most}");
            return Err(Refusal::new(RejectReason::TooLarge, detail));
        }
        let mut event = opened.decode(part, Received { app_id, at: self.at })?;
        self.finish(&mut event);
        self.app
            .collector
            .encode(&event)
            .map_err(|error| Refusal::new(RejectReason::TooLarge, error.to_string()))
    }

    /// What every event gets, whatever protocol it came by: the one place
    /// between a decoder and the spool.
    fn finish(&self, event: &mut Event<'_>) {
        self.visitor.finish(event);
        if let Some(place) = self.place {
            place.finish(event);
        }
    }

    /// The one place where a reject is made.
    fn reject(
        &self,
        protocol: &'static str,
        refusal: &Refusal,
        app_id: Option<&str>,
        bytes: &[u8],
    ) -> Encoded {
        let mut detail = refusal.detail.clone();
        let kept = &bytes[..bytes.len().min(MAX_REJECT_BYTES)];
        if kept.len() < bytes.len() {
            detail.push_str(&format!(
                " (the first {} of {} bytes are kept)",
                kept.len(),
                bytes.len()
            ));
        }
        Encoded::reject(Reject {
            reject_id: Uuid::now_v7().to_string().into(),
            received_ts: self.at,
            protocol: protocol.into(),
            reason: refusal.reason,
            detail: detail.into(),
            origin: self.path.into(),
            app_id: app_id.map(Into::into),
            bytes_base64: STANDARD.encode(kept).into(),
            collector_id: None,
            wal_seq: None,
            shard_id: None,
            sequence_number: None,
        })
    }

    /// A request without parts. Of a request without a body the query string
    /// is what came.
    fn refuse(&self, refusal: Refusal, bytes: &[u8]) -> Verdict {
        let sent = if bytes.is_empty() { self.query.as_bytes() } else { bytes };
        let Some(key) = self.app.keys.find(self.keys.iter().map(|key| &**key)) else {
            return self.nothing(Outcome::Refused(refusal));
        };
        // It takes room on the disk like an event, and counts as one.
        if let Err(reason) = key.admit(self.origin(), 1) {
            return self.nothing(Outcome::NotAdmitted(reason));
        }
        let app_id = (key.app_id != DEFAULT_APP_ID).then_some(key.app_id);
        let store = vec![self.reject(self.dialect.name, &refusal, app_id, sent)];
        Verdict { store, ..self.nothing(Outcome::Refused(refusal)) }
    }

    /// The site whose page sends it.
    fn origin(&self) -> Option<&str> {
        self.headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or_default())
    }

    /// Stores nothing.
    fn nothing(&self, outcome: Outcome) -> Verdict {
        Verdict { protocol: self.dialect.name, store: Vec::new(), outcome }
    }

    fn unread(&self, error: BodyError) -> Verdict {
        let not_received =
            |code, message: String| self.nothing(Outcome::NotReceived { code, message });
        match error {
            BodyError::Crowded => {
                not_received("overloaded", "too many requests at once".to_owned())
            }
            BodyError::Slow => not_received(
                "timeout",
                format!("the body took longer than {:?}", self.app.body_timeout),
            ),
            BodyError::Broken => not_received(
                "incomplete",
                "the connection broke while the body was read".to_owned(),
            ),
            BodyError::TooLarge(bytes) => {
                let most = self.dialect.limits.body_bytes;
                let detail = format!("a body has at most {most} bytes, also decompressed");
                let refusal = Refusal::new(RejectReason::TooLarge, detail);
                let verdict = self.refuse(refusal, &without_addresses(&bytes));
                match verdict.outcome {
                    Outcome::Refused(refusal) => {
                        Verdict { outcome: Outcome::TooLarge(refusal), ..verdict }
                    }
                    _ => verdict,
                }
            }
            BodyError::BadGzip(bytes) => {
                self.refuse(malformed("the body is not valid gzip"), &without_addresses(&bytes))
            }
            // What it holds cannot be read, so its addresses not be taken out: it is not kept.
            BodyError::UnknownEncoding => {
                self.refuse(malformed("a Content-Encoding other than gzip is not understood"), &[])
            }
        }
    }
}

fn malformed(detail: &str) -> Refusal {
    Refusal::new(RejectReason::Malformed, detail)
}
