//! Answers in the form that SDKs need.

use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::spool::AppendError;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Room comes when the sink takes a batch.
const RETRY_WHEN_FULL: Duration = Duration::from_secs(30);
/// The queue empties with every fdatasync.
const RETRY_WHEN_BUSY: Duration = Duration::from_secs(2);
/// A disk that failed, or a server that stops: another one may be up by then.
const RETRY_LATER: Duration = Duration::from_secs(10);

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
        AppendError::NotShipped { .. } => {
            retry("sink_unavailable", "the event was not passed on in time; try again", RETRY_LATER)
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
