//! Takes events in, keeps them on disk, and ships them: the library that a web
//! server embeds, and the HTTP server on top of it.
//!
//! ```text
//! request -> protocol (decode) -> Event -> spool (disk) -> shipper -> sink
//! ```
//!
//! An answer means that the event is in the [`spool`], written and synced.
//! The [`sink`] gets it from there, in order, at least once; exactly once
//! where the sink can tell what it has. See `docs/collector.md`.
//!
//! - [`Collector`]: embed it, [`Collector::track`] or [`Collector::track_durable`];
//!   [`commerce`]: the events of a shop as typed values; [`layer`]: page views
//!   and the visitor's id, from the server that serves the pages.
//! - [`plan`]: what events should look like; [`tail`]: what they look like.
//! - [`server`]: the HTTP API of tracker SDKs on a [`Collector`].
//! - [`metrics`]: what it counts, for Prometheus.
//! - [`spool`]: the durable queue; [`sink`]: where it goes; [`protocol`]: what
//!   clients send.
//!
//! # Features
//! `aws` (default): the sinks for Kinesis and Firehose, which bring AWS' SDKs.
//! Without it the crate has the server, the spool, the protocols and the
//! [`Sink`](sink::Sink) trait.

mod backoff;
mod collector;
pub mod commerce;
mod config;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod layer;
pub mod metrics;
mod observe;
pub mod plan;
pub mod protocol;
pub mod server;
mod shipper;
pub mod sink;
pub mod spool;
pub mod tail;

pub use clickmill_schemas::{
    Event, EventTime, Item, Money, MoneyError, RawJson, TimeReason, Timestamp,
};
pub use collector::{
    Collector, CollectorBuilder, CollectorError, CollectorStatus, Drained, Durability,
    HEARTBEAT_EVERY, MAX_LINE_BYTES, MEMORY_LOSS_WINDOW, STREAM_ANSWER_WITHIN, STREAM_MAX_WAIT,
    TrackError,
};
pub use config::{
    CollectorConfig, CookieConfig, RateConfig, SettingError, TlsConfig, WriteKeyConfig,
};
pub use metrics::Metrics;
pub use shipper::BatchLimits;
#[cfg(feature = "aws")]
pub use sink::{FirehoseSettings, KinesisSettings};
pub use spool::OverflowPolicy;
