//! `GET /clickmill/v1/tail`: events and rejects as they are taken, as NDJSON.
//!
//! - It shows visitors' data, so it needs a token of its own
//!   (`Authorization: Bearer TOKEN`); without one configured there is no such
//!   route. The peer's address proves nothing: behind a proxy on the same
//!   machine everybody comes from 127.0.0.1.
//! - [`TailToken::create`] makes a new token at each start and leaves it in the
//!   spool's folder, readable for the owner alone: who may read the spool may
//!   read the events in it anyway.
//! - The query string is a [`TailFilter`]. Lines are those of the wire, but for
//!   `{"tail_start":{...}}` at the beginning, `{"tail_lost":N}` where the reader
//!   was too slow, and an empty line every 15 seconds without another.

use std::convert::Infallible;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::{StreamExt, stream};
use uuid::Uuid;

use super::activity::InWork;
use super::{App, reply};
use crate::Collector;
use crate::tail::{TailError, TailFilter, TailItem, TailReader};

/// Where it is, below the collector's own URL.
pub const TAIL_PATH: &str = "/clickmill/v1/tail";
/// The token's file in the spool's folder.
pub const TAIL_TOKEN_FILE: &str = "tail.token";
/// An empty line this often, so that both sides notice when the other is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Who has it may see every event.
#[derive(Clone, PartialEq, Eq)]
pub struct TailToken(String);

impl TailToken {
    /// A new one, written into `folder` with mode 0600 in place of the last.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn create(folder: impl AsRef<Path>) -> io::Result<Self> {
        let folder = folder.as_ref();
        // 244 random bits.
        let token = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let new = folder.join(format!("{TAIL_TOKEN_FILE}.new"));
        // What a crash left might have another mode.
        if let Err(error) = fs::remove_file(&new)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(token.as_bytes())?;
        drop(file);
        fs::rename(&new, folder.join(TAIL_TOKEN_FILE))?;
        Ok(Self(token))
    }

    /// The one that a collector on this machine left in its spool's folder.
    ///
    /// # Errors
    /// Where there is none, or it is not yours to read.
    pub fn read(folder: impl AsRef<Path>) -> io::Result<Self> {
        let text = fs::read_to_string(folder.as_ref().join(TAIL_TOKEN_FILE))?;
        Ok(Self(text.trim().to_owned()))
    }

    /// From its text.
    #[must_use]
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// The value of the Authorization header.
    #[must_use]
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Takes the same time wherever the first difference is.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let Some(sent) = headers.get(AUTHORIZATION) else { return false };
        let (sent, own) = (sent.as_bytes(), self.bearer());
        !self.0.is_empty()
            && sent.len() == own.len()
            && sent.iter().zip(own.as_bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
    }
}

/// It is a credential.
impl std::fmt::Debug for TailToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TailToken(..)")
    }
}

/// The route, of the public listener and of the operator's.
pub(super) fn routes(app: &App) -> Router {
    let shown = Shown { collector: app.collector.clone(), token: app.options.tail_token.clone() };
    Router::new().route(TAIL_PATH, get(answer)).with_state(shown)
}

/// What the route knows.
#[derive(Clone)]
struct Shown {
    collector: Collector,
    token: Option<TailToken>,
}

async fn answer(State(Shown { collector, token }): State<Shown>, mut request: Request) -> Response {
    let Some(token) = token else {
        return reply::error(StatusCode::NOT_FOUND, "not_found", "this collector shows no events");
    };
    if !token.is_in(request.headers()) {
        return reply::error(
            StatusCode::UNAUTHORIZED,
            "invalid_tail_token",
            "the tail's token is missing or another; it is in the file tail.token of the spool",
        );
    }
    let Ok(Query(filter)) = Query::<TailFilter>::try_from_uri(request.uri()) else {
        return reply::error(
            StatusCode::BAD_REQUEST,
            "invalid_filter",
            "a tail is filtered by visitor, event, protocol, rejects=true or violations=true",
        );
    };
    // Nothing from a host's own listener.
    let in_work = request.extensions_mut().remove::<Arc<InWork>>();
    let reader = match collector.tail(filter) {
        Ok(reader) => reader,
        Err(error @ TailError::TooMany) => {
            return reply::error(StatusCode::TOO_MANY_REQUESTS, "too_many", &error.to_string());
        }
        Err(error @ TailError::Closed) => {
            return reply::error(StatusCode::SERVICE_UNAVAILABLE, "stopping", &error.to_string());
        }
    };
    let start = serde_json::json!({ "tail_start": {
        "collector_id": collector.status().collector_id,
        "plan": collector.plan().map(|plan| plan.version().to_owned()),
    } });
    let start = Bytes::from(format!("{start}\n"));
    let lines =
        stream::once(std::future::ready(start)).chain(stream::unfold((reader, in_work), next));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, Body::from_stream(lines.map(Ok::<_, Infallible>))).into_response()
}

/// A reader, and the connection that does not idle while it reads.
type Reading = (TailReader, Option<Arc<InWork>>);

async fn next((mut reader, in_work): Reading) -> Option<(Bytes, Reading)> {
    let text = match tokio::time::timeout(KEEP_ALIVE, reader.next()).await {
        Err(_) => Bytes::from_static(b"\n"),
        Ok(None) => return None,
        Ok(Some(TailItem::Line(line))) => {
            let mut text = Vec::with_capacity(line.len() + 1);
            text.extend_from_slice(&line);
            text.push(b'\n');
            text.into()
        }
        Ok(Some(TailItem::Lost(lines))) => format!("{{\"tail_lost\":{lines}}}\n").into(),
    };
    Some((text, (reader, in_work)))
}
