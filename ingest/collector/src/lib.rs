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
//! - [`Collector`]: embed it, [`Collector::track`] or [`Collector::track_durable`].
//! - [`server`]: the HTTP API of tracker SDKs on a [`Collector`].
//! - [`spool`]: the durable queue; [`sink`]: where it goes; [`protocol`]: what
//!   clients send.

mod backoff;
mod collector;
mod config;
pub mod protocol;
pub mod server;
mod shipper;
pub mod sink;
pub mod spool;

pub use clickmill_schemas::{Event, EventTime, Item, Money, Timestamp};
pub use collector::{
    Collector, CollectorBuilder, CollectorError, CollectorStatus, Drained, HEARTBEAT_EVERY,
    MAX_LINE_BYTES, TrackError,
};
pub use config::{CollectorConfig, CookieConfig};
pub use shipper::BatchLimits;
