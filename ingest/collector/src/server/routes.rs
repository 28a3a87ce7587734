//! The routes: which dialect answers on which, and the few that take no events.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{OriginalUri, Path, Request, State};
use axum::http::header::{CONTENT_TYPE, HOST, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};

use super::auth::header_key;
use super::body::{self, BodyError};
use super::intake::ingest;
use super::{App, reply, tracker};
use crate::protocol::json::parameters;
use crate::protocol::{Dialect, ga4, native, rudderstack, segment, snowplow};

pub(super) fn router(app: Arc<App>) -> Router {
    let mut router = Router::new().merge(tracker::router());
    for prefix in ["", "/v1"] {
        for (name, _) in segment::ROUTES {
            router = router.route(&format!("{prefix}/{name}"), by_post(&segment::DIALECT));
        }
        router = router
            .route(&format!("{prefix}/merge"), by_post(&rudderstack::DIALECT))
            .route(&format!("{prefix}/import"), by_post(&rudderstack::DIALECT))
            .route(&format!("{prefix}/m"), post(discard))
            .route(&format!("{prefix}/projects/{{write_key}}/settings"), get(settings));
    }
    let redirects = !app.options.redirect_hosts.is_empty();
    router = router
        .route("/beacon/v1/batch", by_post(&rudderstack::DIALECT))
        .route("/pixel/v1/track", by_get(&rudderstack::PIXEL))
        .route("/pixel/v1/page", by_get(&rudderstack::PIXEL))
        .route("/sourceConfig", get(source_config))
        .route("/sourceConfig/", get(source_config))
        .route("/i", by_get(&snowplow::DIALECT))
        .route("/ice.png", by_get(&snowplow::DIALECT))
        .route("/{vendor}/{version}", by_both(&snowplow::DIALECT))
        .route("/mp/collect", by_post(&ga4::MEASUREMENT))
        .route("/g/collect", by_both(&ga4::GTAG))
        .route("/clickmill/v1/events", by_post(&native::DIALECT))
        .route("/robots.txt", get(robots));
    if redirects {
        router = router.route("/r/tp2", get(redirect));
    }
    router
        .fallback(|| async { not_found() })
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
        take(&app, dialect, request).await
    })
}

/// Takes an event of `dialect` in the query string.
fn by_get(dialect: &'static Dialect) -> MethodRouter<Arc<App>> {
    get(move |State(app): State<Arc<App>>, request: Request| async move {
        take(&app, dialect, request).await
    })
}

/// Takes events of `dialect` in the body or the query string. Of a path that is
/// only a pattern, `/{vendor}/{version}`, the vendor has a dot, as Snowplow's
/// (`com.acme`): else every mistyped path would be a tracker's.
fn by_both(dialect: &'static Dialect) -> MethodRouter<Arc<App>> {
    by_get(dialect).merge(by_post(dialect))
}

async fn take(app: &App, dialect: &'static Dialect, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let vendor = head.uri.path().trim_start_matches('/').split('/').next().unwrap_or_default();
    let by_vendor = head.uri.path().matches('/').count() >= 2;
    if dialect.name == snowplow::PROTOCOL && by_vendor && !vendor.contains('.') {
        return not_found();
    }
    ingest(app, dialect, &head, body).await
}

fn not_found() -> Response {
    reply::error(StatusCode::NOT_FOUND, "not_found", "no such route; see docs/protocols.md")
}

/// SDKs send metrics of their own: read, and forgotten.
async fn discard(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Response {
    let metrics = app.collector.metrics();
    let mut share = app.bodies.share();
    let most = segment::MAX_BODY_BYTES;
    match body::read(&headers, body, most, app.body_timeout, &mut share, metrics).await {
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

/// What RudderStack's browser SDK asks for before it starts: a source with no
/// destinations of its own, and nothing to report elsewhere.
async fn source_config(State(app): State<Arc<App>>, headers: HeaderMap, uri: Uri) -> Response {
    let in_query = parameters(uri.query().unwrap_or_default())
        .into_iter()
        .find_map(|(key, value)| (key == "writeKey").then(|| value.into_owned()));
    let keys: Vec<String> = header_key(&headers).into_iter().chain(in_query).collect();
    let Some(app_id) = app.keys.app_id(keys.iter().map(String::as_str)) else {
        return reply::unauthorised();
    };
    let off = serde_json::json!({ "enabled": false });
    let body = serde_json::json!({
        "source": {
            "id": app_id,
            "name": app_id,
            "enabled": true,
            "workspaceId": "clickmill",
            "config": { "statsCollection": { "errors": off, "metrics": off } },
            "destinations": [],
            "dataplanes": {},
        },
    });
    reply::json(StatusCode::OK, body.to_string())
}

/// Nothing here is for search engines.
async fn robots() -> Response {
    let text = HeaderValue::from_static("text/plain");
    (StatusCode::OK, [(CONTENT_TYPE, text)], "User-agent: *\nDisallow: /\n").into_response()
}

/// Snowplow's click redirect, `?u=`: to hosts of the configuration only, or it
/// would lend the collector's name to anybody's link.
async fn redirect(State(app): State<Arc<App>>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let to = parameters(query).into_iter().find(|(key, _)| key == "u").map(|(_, u)| u.into_owned());
    let allowed = to.filter(|to| {
        let Ok(uri) = to.parse::<Uri>() else { return false };
        let web = matches!(uri.scheme_str(), Some("http" | "https"));
        let plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        let host = uri.host().unwrap_or_default();
        let hosts = &app.options.redirect_hosts;
        web && plain && hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
    });
    let Some(location) = allowed.and_then(|to| HeaderValue::from_str(&to).ok()) else {
        return reply::error(
            StatusCode::BAD_REQUEST,
            "redirect_not_allowed",
            "`u` is no http(s) URL of a host in redirect_hosts",
        );
    };
    let (head, body) = request.into_parts();
    let mut response = ingest(&app, &snowplow::REDIRECT, &head, body).await;
    // The visitor is taken along whatever became of the event.
    *response.status_mut() = StatusCode::FOUND;
    *response.body_mut() = Body::empty();
    response.headers_mut().remove(CONTENT_TYPE);
    response.headers_mut().insert(LOCATION, location);
    response
}
