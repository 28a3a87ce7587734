//! The routes, and what a request goes through.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, CACHE_CONTROL, HOST, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clickmill_schemas::{Reject, RejectReason, Timestamp};
use uuid::Uuid;

use super::auth::{DEFAULT_APP_ID, header_key};
use super::body::{self, BodyError};
use super::{
    App, BODY_READ_TIMEOUT, MAX_BATCH_EVENTS, MAX_BODY_BYTES, MAX_EVENT_BYTES, reply, tracker,
};
use crate::collector::Encoded;
use crate::protocol::json::without_lone_surrogates;
use crate::protocol::privacy::without_addresses;
use crate::protocol::segment::{self, Call, Received, Refusal};

/// A preflight's answer holds for an hour.
const PREFLIGHT_MAX_AGE: HeaderValue = HeaderValue::from_static("3600");

const ROUTES: &[(&str, Option<Call>)] = &[
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

pub(super) fn router(app: Arc<App>) -> Router {
    let mut router = Router::new().route("/health", get(health)).merge(tracker::router());
    for prefix in ["", "/v1"] {
        for &(name, call) in ROUTES {
            let take = move |State(app): State<Arc<App>>, uri: Uri, headers, body| async move {
                ingest(&app, call, uri.path(), headers, body).await
            };
            router = router.route(&format!("{prefix}/{name}"), post(take));
        }
        router = router
            .route(&format!("{prefix}/m"), post(discard))
            .route(&format!("{prefix}/projects/{{write_key}}/settings"), get(settings));
    }
    router
        .fallback(|| async {
            reply::error(StatusCode::NOT_FOUND, "not_found", "no such route; see docs/collector.md")
        })
        .method_not_allowed_fallback(|| async {
            reply::error(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "events are sent with POST",
            )
        })
        .layer(middleware::from_fn(cors))
        .with_state(app)
}

/// One request: read, open, authorise, decode, store, answer.
async fn ingest(
    app: &App,
    call: Option<Call>,
    route: &str,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Ok(_permit) = app.requests.try_acquire() else { return reply::overloaded() };
    let at = Timestamp::now();
    let header_key = header_key(&headers);
    let request = Incoming { app, route, at, header_key: header_key.as_deref() };
    let bytes = match body::read(&headers, body).await {
        Ok(bytes) => bytes,
        Err(error) => return request.refuse_unread(error).await,
    };
    let bytes = without_addresses(&bytes);
    let Ok(text) = std::str::from_utf8(&bytes) else {
        return request.refuse(RejectReason::Malformed, "the body is not UTF-8", &bytes).await;
    };
    let text = without_lone_surrogates(text);
    let opened = match segment::Body::open(&text, call) {
        Ok(opened) => opened,
        Err(Refusal { reason, detail }) => return request.refuse(reason, &detail, &bytes).await,
    };
    let Some(app_id) = app.keys.app_id(request.header_key.into_iter().chain(opened.write_key()))
    else {
        return unauthorised();
    };
    if opened.messages().len() > MAX_BATCH_EVENTS {
        let detail = format!("a batch holds at most {MAX_BATCH_EVENTS} events; send smaller ones");
        return request.refuse(RejectReason::TooLarge, &detail, &bytes).await;
    }
    let mut input = Vec::with_capacity(opened.messages().len());
    for message in opened.messages() {
        let sent = message.get().as_bytes();
        let encoded = if sent.len() > MAX_EVENT_BYTES {
            Err(Refusal {
                reason: RejectReason::TooLarge,
                detail: format!("{} bytes; an event has at most {MAX_EVENT_BYTES}", sent.len()),
            })
        } else {
            opened.decode(message, Received { app_id, at }).and_then(|event| {
                Encoded::event(&event).map_err(|error| Refusal {
                    reason: RejectReason::TooLarge,
                    detail: error.to_string(),
                })
            })
        };
        input.push(encoded.unwrap_or_else(|Refusal { reason, detail }| {
            request.reject(reason, &detail, Some(app_id), sent)
        }));
    }
    if input.is_empty() {
        return reply::success();
    }
    match app.collector.append(input).await {
        Ok(_) => reply::success(),
        Err(error) => reply::not_stored(&error),
    }
}

/// What all parts of a request share.
struct Incoming<'a> {
    app: &'a App,
    route: &'a str,
    at: Timestamp,
    header_key: Option<&'a str>,
}

impl Incoming<'_> {
    fn reject(
        &self,
        reason: RejectReason,
        detail: &str,
        app_id: Option<&str>,
        bytes: &[u8],
    ) -> Encoded {
        Encoded::reject(Reject {
            reject_id: Uuid::now_v7().to_string().into(),
            received_ts: self.at,
            protocol: segment::PROTOCOL.into(),
            reason,
            detail: detail.into(),
            origin: self.route.into(),
            app_id: app_id.map(Into::into),
            bytes_base64: STANDARD.encode(bytes).into(),
            collector_id: None,
            wal_seq: None,
            shard_id: None,
            sequence_number: None,
        })
    }

    /// Answers 400, after the bytes are kept as a reject, if the sender could
    /// be told: nobody else may fill the disk.
    async fn refuse(&self, reason: RejectReason, detail: &str, bytes: &[u8]) -> Response {
        let known = self.app.keys.app_id(self.header_key);
        if let Some(app_id) = known {
            let app_id = (app_id != DEFAULT_APP_ID).then_some(app_id);
            let reject = self.reject(reason, detail, app_id, bytes);
            if let Err(error) = self.app.collector.append(vec![reject]).await {
                return reply::not_stored(&error);
            }
        }
        reply::error(StatusCode::BAD_REQUEST, reason.code(), detail)
    }

    async fn refuse_unread(&self, error: BodyError) -> Response {
        let (reason, detail, bytes) = match error {
            BodyError::Slow => {
                let message = format!("the body took longer than {BODY_READ_TIMEOUT:?}");
                return reply::error(StatusCode::REQUEST_TIMEOUT, "timeout", &message);
            }
            BodyError::Broken => {
                let message = "the connection broke while the body was read";
                return reply::error(StatusCode::REQUEST_TIMEOUT, "incomplete", message);
            }
            BodyError::TooLarge(bytes) => (
                RejectReason::TooLarge,
                format!("a body has at most {MAX_BODY_BYTES} bytes, also decompressed"),
                bytes,
            ),
            BodyError::BadGzip(bytes) => {
                (RejectReason::Malformed, "the body is not valid gzip".to_owned(), bytes)
            }
            BodyError::UnknownEncoding(bytes) => (
                RejectReason::Malformed,
                "a Content-Encoding other than gzip is not understood".to_owned(),
                bytes,
            ),
        };
        self.refuse(reason, &detail, &without_addresses(&bytes)).await
    }
}

fn unauthorised() -> Response {
    reply::error(
        StatusCode::UNAUTHORIZED,
        "invalid_write_key",
        "the write key is missing or not one of this collector's (--write-key)",
    )
}

/// SDKs send metrics of their own: read, and forgotten.
async fn discard(headers: HeaderMap, body: Body) -> Response {
    match body::read(&headers, body).await {
        Ok(_) | Err(BodyError::TooLarge(_) | BodyError::BadGzip(_)) => reply::success(),
        Err(_) => reply::error(StatusCode::BAD_REQUEST, "malformed", "the body cannot be read"),
    }
}

/// What analytics.js asks for before it starts.
async fn settings(
    State(app): State<Arc<App>>,
    Path(write_key): Path<String>,
    headers: HeaderMap,
) -> Response {
    if app.keys.app_id([write_key.as_str()]).is_none() {
        return unauthorised();
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let host = header(HOST.as_str()).unwrap_or("localhost");
    let protocol = match header("x-forwarded-proto") {
        Some("https") => "https",
        _ => "http",
    };
    let body = serde_json::json!({
        "integrations": { "Segment.io": {
            "apiKey": write_key,
            "apiHost": format!("{host}/v1"),
            "protocol": protocol,
        } }
    });
    reply::json(StatusCode::OK, body.to_string())
}

async fn health(State(app): State<Arc<App>>) -> Response {
    let status = app.collector.status();
    let spool = &status.spool;
    let ok = spool.write_error.is_none() && spool.bytes < spool.max_bytes;
    let body = serde_json::json!({
        "ok": ok,
        "collector_id": status.collector_id,
        "spool_bytes": spool.bytes,
        "spool_max_bytes": spool.max_bytes,
        "last_wal_seq": spool.last_wal_seq,
        "shipped_wal_seq": spool.shipped_wal_seq,
        "backlog": spool.last_wal_seq - spool.shipped_wal_seq,
        "refused": spool.refused,
        "write_error": spool.write_error,
        "sink_error": status.sink_error,
    });
    let code = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = reply::json(code, body.to_string());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Browsers: the origin is echoed (a wildcard does not go with credentials),
/// the headers that a preflight asks for are allowed, and Retry-After is shown.
async fn cors(request: Request, next: Next) -> Response {
    let origin = request.headers().get(ORIGIN).cloned();
    let preflight = request.method() == Method::OPTIONS;
    let asked = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let mut response = if preflight {
        reply::json(StatusCode::OK, "{}".to_owned())
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Retry-After"));
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    if preflight {
        headers
            .insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
        headers.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE);
        if let Some(asked) = asked {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked);
        }
    }
    response
}
