//! The routes: which dialect answers on which, and the few that take no events.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{OriginalUri, Path, Request, State};
use axum::http::header::HOST;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};

use super::body::{self, BodyError};
use super::intake::ingest;
use super::{App, reply, tracker};
use crate::protocol::{Dialect, segment};

pub(super) fn router(app: Arc<App>) -> Router {
    let mut router = Router::new().merge(tracker::router());
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
async fn discard(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    let metrics = app.collector.metrics();
    match body::read(&headers, body, segment::MAX_BODY_BYTES, metrics).await {
        Ok(_) | Err(BodyError::TooLarge(_) | BodyError::BadGzip(_)) => reply::success(),
        Err(_) => reply::error(StatusCode::BAD_REQUEST, "malformed", "the body cannot be read"),
    }
}

/// What analytics.js asks for before it starts.
async fn settings(
    State(app): State<Arc<App>>,
    Path(write_key): Path<String>,
    OriginalUri(asked): OriginalUri,
    uri: Uri,
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
            "apiHost": format!("{host}{}/v1", mounted_at(&asked, &uri)),
            "protocol": protocol,
        } }
    });
    reply::json(StatusCode::OK, body.to_string())
}

/// The path that a host nested the routes under; empty where there is none.
fn mounted_at<'a>(asked: &'a Uri, own: &Uri) -> &'a str {
    asked.path().strip_suffix(own.path()).unwrap_or_default()
}
