//! Answers in the form that each protocol's SDKs need.

use std::time::Duration;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};

use super::intake::Outcome;
use crate::protocol::{Form, Refusal};
use crate::spool::AppendError;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Room comes when the sink takes a batch.
const RETRY_WHEN_FULL: Duration = Duration::from_secs(30);
/// The queue empties with every fdatasync.
const RETRY_WHEN_BUSY: Duration = Duration::from_secs(2);
/// A disk that failed, or a server that stops: another one may be up by then.
const RETRY_LATER: Duration = Duration::from_secs(10);

/// The answer to a request whose events and rejects are on disk.
pub(super) fn outcome(form: Form, method: &Method, outcome: &Outcome) -> Response {
    match outcome {
        Outcome::Unauthorised => unauthorised(),
        Outcome::NotReceived { code, message } => error(StatusCode::REQUEST_TIMEOUT, code, message),
        Outcome::Taken { parts, refused } => taken(form, method, *parts, refused),
        Outcome::Refused(refusal) => refused(form, method, refusal),
        Outcome::TooLarge(refusal) => too_large(form, refusal),
    }
}

fn taken(form: Form, method: &Method, parts: usize, refused: &[(usize, Refusal)]) -> Response {
    match form {
        Form::Segment | Form::RudderStack => success(),
        Form::RudderStackPixel => pixel(),
        Form::Snowplow => snowplow(method),
        Form::Google => StatusCode::NO_CONTENT.into_response(),
        Form::Native => {
            let rejected: Vec<_> = refused
                .iter()
                .map(|(index, refusal)| {
                    serde_json::json!({
                        "index": index,
                        "code": refusal.reason.code(),
                        "message": refusal.detail,
                    })
                })
                .collect();
            let accepted = parts - refused.len();
            let body = serde_json::json!({
                "success": refused.is_empty(),
                "accepted": accepted,
                "rejected": rejected,
            });
            json(StatusCode::OK, body.to_string())
        }
    }
}

fn refused(form: Form, method: &Method, refusal: &Refusal) -> Response {
    match form {
        Form::Segment | Form::RudderStack | Form::RudderStackPixel | Form::Native => {
            bad_request(refusal)
        }
        Form::Snowplow => snowplow(method),
        Form::Google => StatusCode::NO_CONTENT.into_response(),
    }
}

fn too_large(form: Form, refusal: &Refusal) -> Response {
    match form {
        Form::Segment => bad_request(refusal),
        Form::RudderStack
        | Form::RudderStackPixel
        | Form::Snowplow
        | Form::Google
        | Form::Native => {
            error(StatusCode::PAYLOAD_TOO_LARGE, refusal.reason.code(), &refusal.detail)
        }
    }
}

/// The smallest transparent GIF: one pixel, 43 bytes.
pub const PIXEL: &[u8; 43] = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;";

fn snowplow(method: &Method) -> Response {
    if method == Method::POST {
        (StatusCode::OK, [(CONTENT_TYPE, HeaderValue::from_static("text/plain"))], "ok")
            .into_response()
    } else {
        pixel()
    }
}

fn pixel() -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("image/gif")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate")),
    ];
    (StatusCode::OK, headers, PIXEL.as_slice()).into_response()
}

fn bad_request(refusal: &Refusal) -> Response {
    error(StatusCode::BAD_REQUEST, refusal.reason.code(), &refusal.detail)
}

pub(super) fn unauthorised() -> Response {
    error(
        StatusCode::UNAUTHORIZED,
        "invalid_write_key",
        "the write key is missing or not one of this collector's (--write-key)",
    )
}

/// Anything but exactly this makes some SDK send again.
pub(super) fn success() -> Response {
    json(StatusCode::OK, "{\"success\":true}".to_owned())
}

pub(super) fn json(status: StatusCode, body: String) -> Response {
    (status, [(CONTENT_TYPE, JSON)], body).into_response()
}

/// `{"code","message"}`: rudder-sdk-python retries for ever without both.
pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let body = serde_json::json!({ "code": code, "message": message });
    json(status, body.to_string())
}

pub(super) fn overloaded() -> Response {
    retry("overloaded", "too many requests at once; try again shortly", RETRY_WHEN_BUSY)
}

/// What the spool did not take. The operator's cause is in the log and in
/// `/health`, not in the answer.
pub(super) fn not_stored(reason: &AppendError) -> Response {
    match reason {
        AppendError::Full { .. } => {
            retry("spool_full", "the collector's spool is full; try again later", RETRY_WHEN_FULL)
        }
        AppendError::Busy => overloaded(),
        AppendError::Io(_) => {
            retry("disk_error", "the collector cannot write to its disk; try again", RETRY_LATER)
        }
        AppendError::Closed => {
            retry("stopping", "the collector is stopping; try again", RETRY_LATER)
        }
        AppendError::TooLarge { .. } => error(
            StatusCode::BAD_REQUEST,
            "too_large",
            "the batch is too large once decoded; send smaller ones",
        ),
    }
}

fn retry(code: &str, message: &str, after: Duration) -> Response {
    let mut response = error(StatusCode::SERVICE_UNAVAILABLE, code, message);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs()));
    response
}
