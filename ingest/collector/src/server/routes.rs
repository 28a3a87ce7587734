//! The routes: which dialect answers on which, and the few that take no events.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{CACHE_CONTROL, HOST};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware;
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};

use super::body::{self, BodyError};
use super::intake::ingest;
use super::{App, cors, reply, tracker};
use crate::protocol::{Dialect, segment};

pub(super) fn router(app: Arc<App>) -> Router {
    let mut router = Router::new().route("/health", get(health)).merge(tracker::router());
    for prefix in ["", "/v1"] {
        for (name, _) in segment::ROUTES {
            router = router.route(&format!("{prefix}/{name}"), by_post(&segment::DIALECT));
        }
        router = router
            .route(&format!("{prefix}/m"), post(discard))
            .route(&format!("{prefix}/projects/{{write_key}}/settings"), get(settings));
    }
    router
        .fallback(|| async {
            reply::error(StatusCode::NOT_FOUND, "not_found", "no such route; see docs/protocols.md")
        })
        .method_not_allowed_fallback(|| async {
            reply::error(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "events are sent with POST",
            )
        })
        .layer(middleware::from_fn(cors::layer))
        .with_state(app)
}

/// Takes events of `dialect` in the body.
fn by_post(dialect: &'static Dialect) -> MethodRouter<Arc<App>> {
    post(move |State(app): State<Arc<App>>, request: Request| async move {
        let (head, body) = request.into_parts();
        ingest(&app, dialect, &head, body).await
    })
}

/// SDKs send metrics of their own: read, and forgotten.
async fn discard(headers: HeaderMap, body: Body) -> Response {
    match body::read(&headers, body, segment::MAX_BODY_BYTES).await {
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
        return reply::unauthorised();
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
