//! Browsers on other origins: preflights, credentials, and which headers show.
//!
//! The origin is echoed, since a wildcard does not go with credentials; any
//! header that a preflight asks for is allowed, since SDKs add headers of
//! their own on retries (`X-Retry-Count`, `rsa-*`). No answer of these routes
//! holds anything that is not the asking browser's own.
//!
//! A preflight for a site that no write key allows is refused. It does not say
//! which key will follow, so a site of another key passes here and gets its 403
//! from the request itself; that one the page can read, and its SDK stops
//! instead of trying again as after a broken connection.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ORIGIN, VARY,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use super::auth::NotAdmitted;
use super::{App, reply};

/// A preflight's answer holds for an hour.
const PREFLIGHT_MAX_AGE: HeaderValue = HeaderValue::from_static("3600");
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, OPTIONS");
/// Where a preflight does not say which headers it wants.
const USUAL_HEADERS: HeaderValue =
    HeaderValue::from_static("Authorization, Content-Type, SP-Anonymous");
/// Browsers ignore it otherwise.
const EXPOSED: HeaderValue = HeaderValue::from_static("Retry-After");
/// What the answer depends on, for caches in between.
const VARIES_ON: HeaderValue = HeaderValue::from_static("Origin");

/// Answers preflights itself, on any path, and adds its headers to all else.
pub(super) async fn layer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(ORIGIN).cloned();
    let preflight = request.method() == Method::OPTIONS;
    if preflight
        && let Some(origin) = &origin
        && !app.keys.any_allows(origin.to_str().unwrap_or_default())
    {
        let mut response = reply::not_admitted(NotAdmitted::Origin);
        response.headers_mut().append(VARY, VARIES_ON);
        return response;
    }
    let asked = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let mut response = if preflight {
        reply::json(StatusCode::OK, "{}".to_owned())
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(VARY, VARIES_ON);
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    if preflight {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.unwrap_or(USUAL_HEADERS));
    }
    response
}
