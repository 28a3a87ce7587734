//! What clickmill's data looks like, and nothing else: the [`Event`] and its
//! wire encoding, the other records that share the wire with it, and the
//! specification of every table.
//!
//! This crate is pure. It does no I/O and knows neither tokio, AWS, Arrow nor
//! DataFusion, so that the collector which web servers embed stays light. The
//! Arrow and Delta schemas and `docs/tables.md` are derived from [`tables`].
//!
//! # The wire
//!
//! Everything between the collector and the transform is *JSON lines*: one
//! [`WireRecord`] a line, UTF-8, no raw newline inside. The first key of a line
//! tells its kind (`event_id`, `reject_id`, `heartbeat_ts`). Lineage keys come
//! last, so each stage appends its own without parsing the line: see
//! [`append_lineage`].
//!
//! Version 1 is pinned by the files in `schemas/tests/golden/`. New keys may be
//! added; a reader ignores keys that it does not know. Renaming or removing
//! one needs a new version.

mod event;
mod json;
mod lineage;
mod money;
pub mod names;
mod scan;
pub mod tables;
mod time;
mod token;
pub mod values;
mod wire;

pub use event::{
    EVENT_KEYS, Event, EventTime, Item, MAX_FUTURE, MAX_PAST, TimeReason, WholeEvent, encode_whole,
};
pub use json::{JsonError, ObjectBuilder, RawJson, compact};
pub use lineage::Lineage;
pub use money::{Money, MoneyError};
pub use scan::{Json, JsonKind, ScanError};
pub use time::{Date, Timestamp, TimestampError};
pub use wire::{
    Heartbeat, Reject, RejectReason, WIRE_VERSION, WireError, WireRecord, append_lineage,
};
