//! What a collector counts, and its form for Prometheus.
//!
//! [`Metrics`] is a plain struct of atomics. Its owner hands an `Arc` of it to
//! the collector, the sinks and the server; each adds to what is its own, and
//! nobody waits for anybody. [`Metrics::render`] writes all of it in the text
//! exposition format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>), in the
//! order of the struct.
//!
//! # Limits
//! Labels hold what the code or the operator names (a protocol, a reason, a
//! shard), never what a client sent, and a [`Family`] has at most
//! [`MAX_SERIES`] series: what comes after those is counted under `other`.

mod kinds;
mod text;

pub use kinds::{Counter, Family, Gauge, Histogram, MAX_SERIES, OTHER};
use text::Text;

/// Bounds of an fdatasync, in seconds: from an NVMe drive with a cache to a
/// network volume whose credits are used up.
pub const SYNC_BOUNDS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0,
    2.0, 5.0,
];
/// Bounds of a batch's way into a sink, in seconds: its own retries included.
pub const SINK_BOUNDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Bounds of a request, from its headers to its answer, in seconds.
pub const REQUEST_BOUNDS: &[f64] =
    &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0];

/// Everything that is counted since the start. One per collector.
#[derive(Debug)]
pub struct Metrics {
    /// Events stored, by `protocol`.
    pub events_accepted: Family<Counter, 1>,
    /// Parts of requests stored as rejects, by `protocol` and `reason`
    /// ([`clickmill_schemas::RejectReason::code`]).
    pub events_rejected: Family<Counter, 2>,
    /// Requests answered, by HTTP `status`.
    pub requests: Family<Counter, 1>,
    /// Requests refused before anything of them was stored, by `reason`: the
    /// `code` of the answer.
    pub requests_refused: Family<Counter, 1>,
    /// From a request's headers to its answer.
    pub request_seconds: Histogram,
    /// Bytes of bodies as they arrived.
    pub body_bytes: Counter,
    /// Connections that are open.
    pub connections: Gauge,
    /// Connections accepted.
    pub connections_accepted: Counter,
    /// Connections that the server ended, by `reason`: `handshake` (TLS did not
    /// come about), `header_timeout`, `idle`, `drain` (still in work when the
    /// grace ended).
    pub connections_closed: Family<Counter, 1>,
    /// Accepts that failed: no file descriptors, no memory.
    pub accept_errors: Counter,
    /// Reloads of files, by `file` (`tls`, `geoip`) and `outcome` (`ok`, `failed`).
    pub reloads: Family<Counter, 2>,

    /// Events and rejects committed to the spool.
    pub spool_records: Counter,
    /// Bytes committed to the spool, as they stand on disk.
    pub spool_bytes_written: Counter,
    /// One group's fdatasync.
    pub spool_sync_seconds: Histogram,
    /// Writes or syncs of the spool that failed.
    pub spool_write_errors: Counter,
    /// When the oldest record that is not shipped was received, in milliseconds
    /// since 1970; 0 where all is shipped. Shown as an age.
    pub oldest_unshipped_ms: Gauge,

    /// One batch's way into the sink.
    pub sink_send_seconds: Histogram,
    /// Records that the sink took.
    pub sink_records: Counter,
    /// Bytes of their lines.
    pub sink_bytes: Counter,
    /// Tries after the first one, of batches or single records, by `reason`.
    pub sink_retries: Family<Counter, 1>,
    /// Records that the sink refused as too many.
    pub sink_throttles: Counter,
    /// Records put, by `shard`.
    pub shard_records: Family<Counter, 1>,
    /// Bytes put, by `shard`.
    pub shard_bytes: Family<Counter, 1>,
    /// Records throttled, by `shard`.
    pub shard_throttles: Family<Counter, 1>,
}

/// What is not counted but read when somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readings {
    /// Bytes of the spool's segments.
    pub spool_bytes: u64,
    /// Its limit.
    pub spool_max_bytes: u64,
    /// Events and rejects that are not shipped.
    pub backlog: i64,
    /// Whether the server is ready for requests.
    pub ready: bool,
    /// The time, in milliseconds since 1970.
    pub now_ms: i64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            events_accepted: Family::new(["protocol"]),
            events_rejected: Family::new(["protocol", "reason"]),
            requests: Family::new(["status"]),
            requests_refused: Family::new(["reason"]),
            request_seconds: Histogram::new(REQUEST_BOUNDS),
            body_bytes: Counter::default(),
            connections: Gauge::default(),
            connections_accepted: Counter::default(),
            connections_closed: Family::new(["reason"]),
            accept_errors: Counter::default(),
            reloads: Family::new(["file", "outcome"]),
            spool_records: Counter::default(),
            spool_bytes_written: Counter::default(),
            spool_sync_seconds: Histogram::new(SYNC_BOUNDS),
            spool_write_errors: Counter::default(),
            oldest_unshipped_ms: Gauge::default(),
            sink_send_seconds: Histogram::new(SINK_BOUNDS),
            sink_records: Counter::default(),
            sink_bytes: Counter::default(),
            sink_retries: Family::new(["reason"]),
            sink_throttles: Counter::default(),
            shard_records: Family::new(["shard"]),
            shard_bytes: Family::new(["shard"]),
            shard_throttles: Family::new(["shard"]),
        }
    }
}

impl Metrics {
    /// The text exposition format 0.0.4. A name stands here and nowhere else.
    #[must_use]
    pub fn render(&self, now: &Readings) -> String {
        let mut text = Text::default();
        text.family(
            "clickmill_events_accepted_total",
            "Events stored, by protocol.",
            &self.events_accepted,
        );
        text.family(
            "clickmill_events_rejected_total",
            "Parts of requests stored as rejects, by protocol and reason.",
            &self.events_rejected,
        );
        text.family(
            "clickmill_http_requests_total",
            "Requests answered, by status.",
            &self.requests,
        );
        text.family(
            "clickmill_http_requests_refused_total",
            "Requests of which nothing was stored, by the code of their answer.",
            &self.requests_refused,
        );
        text.histogram(
            "clickmill_http_request_seconds",
            "From a request's headers to its answer.",
            &self.request_seconds,
        );
        text.counter(
            "clickmill_http_body_bytes_total",
            "Bytes of bodies as they arrived.",
            self.body_bytes.get(),
        );
        text.gauge("clickmill_connections", "Open connections.", self.connections.get());
        text.counter(
            "clickmill_connections_accepted_total",
            "Connections accepted.",
            self.connections_accepted.get(),
        );
        text.family(
            "clickmill_connections_closed_total",
            "Connections that the server ended, by reason.",
            &self.connections_closed,
        );
        text.counter(
            "clickmill_accept_errors_total",
            "Connections that could not be accepted.",
            self.accept_errors.get(),
        );
        text.family("clickmill_reloads_total", "Changed files that were read.", &self.reloads);
        text.gauge("clickmill_ready", "1 where the server is ready.", i64::from(now.ready));
        self.render_spool(&mut text, now);
        self.render_sink(&mut text);
        text.finish()
    }

    fn render_spool(&self, text: &mut Text, now: &Readings) {
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        text.gauge("clickmill_spool_bytes", "Bytes of the spool.", bytes(now.spool_bytes));
        text.gauge(
            "clickmill_spool_max_bytes",
            "The spool refuses what would make it larger.",
            bytes(now.spool_max_bytes),
        );
        text.gauge(
            "clickmill_spool_backlog_records",
            "Events and rejects that are not shipped.",
            now.backlog,
        );
        let age_ms = match self.oldest_unshipped_ms.get() {
            0 => 0,
            received => now.now_ms.saturating_sub(received).max(0),
        };
        text.seconds_gauge(
            "clickmill_spool_oldest_unshipped_seconds",
            "Age of the oldest record that is not shipped.",
            age_ms,
        );
        text.counter(
            "clickmill_spool_records_total",
            "Events and rejects committed.",
            self.spool_records.get(),
        );
        text.counter(
            "clickmill_spool_written_bytes_total",
            "Bytes committed.",
            self.spool_bytes_written.get(),
        );
        text.histogram(
            "clickmill_spool_sync_seconds",
            "One group's fdatasync.",
            &self.spool_sync_seconds,
        );
        text.counter(
            "clickmill_spool_write_errors_total",
            "Writes or syncs that failed.",
            self.spool_write_errors.get(),
        );
    }

    fn render_sink(&self, text: &mut Text) {
        text.histogram(
            "clickmill_sink_send_seconds",
            "One batch's way into the sink.",
            &self.sink_send_seconds,
        );
        text.counter(
            "clickmill_sink_records_total",
            "Records that the sink took.",
            self.sink_records.get(),
        );
        text.counter(
            "clickmill_sink_bytes_total",
            "Bytes that the sink took.",
            self.sink_bytes.get(),
        );
        text.family(
            "clickmill_sink_retries_total",
            "Tries after the first one, by reason.",
            &self.sink_retries,
        );
        text.counter(
            "clickmill_sink_throttles_total",
            "Records that the sink refused as too many.",
            self.sink_throttles.get(),
        );
        text.family(
            "clickmill_sink_shard_records_total",
            "Records put, by shard.",
            &self.shard_records,
        );
        text.family("clickmill_sink_shard_bytes_total", "Bytes put, by shard.", &self.shard_bytes);
        text.family(
            "clickmill_sink_shard_throttles_total",
            "Records throttled, by shard.",
            &self.shard_throttles,
        );
    }
}
