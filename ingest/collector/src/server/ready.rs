//! `/health`, `/ready` and `/metrics`.
//!
//! Anybody may ask whether the server lives and is ready; the answer is
//! `{"ok":true}` or `{"ok":false}`. Numbers, errors and metrics are for the
//! operator: on the address of `admin_listen`, or, where there is none, to a
//! process on this machine that no proxy speaks for ([`Local`]).
//!
//! `/health` is 200 as long as the process answers: a collector whose spool is
//! full must not be killed for it. `/ready` is 503 while a load balancer
//! should send elsewhere ([`NotReady`]). A disk that failed is ready again
//! with the next write that succeeds: heartbeats try it every
//! [`crate::HEARTBEAT_EVERY`], requests or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clickmill_schemas::Timestamp;

use super::gate::Local;
use super::reply;
use crate::collector::{Collector, CollectorStatus};
use crate::metrics::Readings;

/// Not ready once the spool is this full: what is left is for those who ask
/// all the same, until the sink takes more.
pub const NOT_READY_SPOOL_PERCENT: u64 = 90;

/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
const METRICS_TYPE: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4");

/// Why requests should go elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotReady {
    /// It was told to stop.
    Draining,
    /// The last write failed.
    DiskFails,
    /// [`NOT_READY_SPOOL_PERCENT`] is reached.
    SpoolNearlyFull,
}

/// What the routes of this module share.
#[derive(Clone, Debug)]
pub(super) struct Operator {
    pub collector: Collector,
    pub draining: Arc<AtomicBool>,
    /// Numbers are shown on another address only.
    pub elsewhere: bool,
}

/// Routes of the public listener.
pub(super) fn public(operator: Operator) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(operator)
}

/// Routes of a listener for the operator alone.
pub(super) fn admin(operator: Operator) -> Router {
    let all = |mut request: Request, next: axum::middleware::Next| async move {
        request.extensions_mut().insert(Local);
        next.run(request).await
    };
    public(Operator { elsewhere: false, ..operator }).layer(axum::middleware::from_fn(all))
}

impl Operator {
    fn shows_numbers(&self, request: &Request) -> bool {
        !self.elsewhere && request.extensions().get::<Local>().is_some()
    }

    fn judge(&self, status: &CollectorStatus) -> Option<NotReady> {
        judge(status, self.draining.load(Ordering::Relaxed))
    }
}

fn judge(status: &CollectorStatus, draining: bool) -> Option<NotReady> {
    let spool = &status.spool;
    let threshold = u128::from(spool.max_bytes) * u128::from(NOT_READY_SPOOL_PERCENT);
    if draining {
        Some(NotReady::Draining)
    } else if spool.write_error.is_some() {
        Some(NotReady::DiskFails)
    } else if u128::from(spool.bytes) * 100 >= threshold {
        Some(NotReady::SpoolNearlyFull)
    } else {
        None
    }
}

impl NotReady {
    const fn code(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::DiskFails => "disk_error",
            Self::SpoolNearlyFull => "spool_nearly_full",
        }
    }
}

async fn health(State(operator): State<Operator>, request: Request) -> Response {
    let details = operator.shows_numbers(&request).then(|| details(&operator.collector.status()));
    answer(StatusCode::OK, serde_json::json!({ "ok": true }), details)
}

async fn ready(State(operator): State<Operator>, request: Request) -> Response {
    let status = operator.collector.status();
    let details = operator.shows_numbers(&request).then(|| details(&status));
    match operator.judge(&status) {
        None => answer(StatusCode::OK, serde_json::json!({ "ok": true }), details),
        Some(reason) => {
            let body = serde_json::json!({ "ok": false, "code": reason.code() });
            answer(StatusCode::SERVICE_UNAVAILABLE, body, details)
        }
    }
}

async fn metrics(State(operator): State<Operator>, request: Request) -> Response {
    if !operator.shows_numbers(&request) {
        return reply::error(
            StatusCode::FORBIDDEN,
            "not_local",
            "metrics are shown to this machine, or on the address of --admin-listen",
        );
    }
    let status = operator.collector.status();
    let readings = Readings {
        spool_bytes: status.spool.bytes,
        spool_max_bytes: status.spool.max_bytes,
        backlog: status.spool.last_wal_seq - status.spool.shipped_wal_seq,
        ready: operator.judge(&status).is_none(),
        now_ms: Timestamp::now().micros() / 1_000,
    };
    let text = operator.collector.metrics().render(&readings);
    ([(CONTENT_TYPE, METRICS_TYPE)], text).into_response()
}

fn details(status: &CollectorStatus) -> serde_json::Value {
    let spool = &status.spool;
    serde_json::json!({
        "collector_id": status.collector_id,
        "spool_bytes": spool.bytes,
        "spool_max_bytes": spool.max_bytes,
        "last_wal_seq": spool.last_wal_seq,
        "shipped_wal_seq": spool.shipped_wal_seq,
        "backlog": spool.last_wal_seq - spool.shipped_wal_seq,
        "refused": spool.refused,
        "write_error": spool.write_error,
        "sink_error": status.sink_error,
    })
}

fn answer(
    status: StatusCode,
    mut body: serde_json::Value,
    details: Option<serde_json::Value>,
) -> Response {
    if let (Some(body), Some(serde_json::Value::Object(details))) = (body.as_object_mut(), details)
    {
        body.extend(details);
    }
    let mut response = reply::json(status, body.to_string());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::SpoolStatus;

    fn status(bytes: u64, write_error: Option<&str>) -> CollectorStatus {
        CollectorStatus {
            collector_id: "c".to_owned(),
            spool: SpoolStatus {
                bytes,
                max_bytes: 1_000,
                last_wal_seq: 9,
                shipped_wal_seq: 7,
                write_error: write_error.map(str::to_owned),
                refused: 0,
                dropped: 0,
            },
            sink_error: Some("an outage of the sink is what the spool is for".to_owned()),
        }
    }

    #[test]
    fn it_is_ready_below_the_threshold_on_a_good_disk_until_it_drains() {
        assert_eq!(judge(&status(899, None), false), None);
        assert_eq!(judge(&status(900, None), false), Some(NotReady::SpoolNearlyFull));
        assert_eq!(judge(&status(0, Some("EIO")), false), Some(NotReady::DiskFails));
        assert_eq!(judge(&status(0, None), true), Some(NotReady::Draining));
    }
}
