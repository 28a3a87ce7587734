//! Cuts each visitor's events into sessions, in one pass over sorted rows.
//!
//! Input: rows in [`SESSION_ORDER`], all rows of a visitor in one stream. New rows come mixed with rows of the table from
//! [`LOOKBACK_DAYS`] before the first new one: those carry the session that was
//! computed for them earlier. A table row in the middle of a session whose
//! start is not in sight belongs to one that began more than a day before
//! anything new, which nothing new can touch; it is passed over.
//!
//! A session ends where the next event comes [`SessionsConfig::gap`] or more after the last
//! one, or more than [`CAP`] after the first one. What is a bot's (`is_bot`) and what is
//! not have sessions of their own, even of one visitor. Rows without a visitor have no session.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int32Builder, RecordBatch, StringBuilder,
    UInt64Array,
};
use arrow::datatypes::{Date32Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use clickmill_schemas::Date;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest as _, Sha256};

use crate::decode::columns::{OLD_COLUMN, ROW_COLUMN};

/// The longest a session can be.
pub const CAP: Duration = Duration::from_secs(24 * 3_600);
const MINUTES_A_DAY: u16 = 24 * 60;

/// `[sessions]` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionsConfig {
    /// Silence that ends a session, in minutes: 1 to 1,440. It holds for the whole lake.
    #[serde(deserialize_with = "minutes")]
    pub gap_minutes: u16,
}

impl Default for SessionsConfig {
    fn default() -> Self {
        Self { gap_minutes: 30 }
    }
}

impl SessionsConfig {
    /// Silence that ends a session.
    #[must_use]
    pub fn gap(&self) -> Duration {
        Duration::from_secs(60 * u64::from(self.gap_minutes))
    }
}

fn minutes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let minutes = u16::deserialize(deserializer)?;
    if (1..=MINUTES_A_DAY).contains(&minutes) {
        return Ok(minutes);
    }
    Err(D::Error::custom(format!("a session's gap is 1 to {MINUTES_A_DAY} minutes, not {minutes}")))
}

/// The order of rows: total among those that stay, so that `session_seq` depends neither on
/// cores nor on batches. One visitor can have an id and a time in two apps, or in two copies
/// that were received over a week apart. It begins as files of `events` are sorted, so what comes
/// in this order is sorted as they claim.
pub const SESSION_ORDER: &[&str] = &["visitor_id", "event_ts", "event_id", "app_id", "received_ts"];

/// How many days before that of a new event rows of the table must be in sight: [`CAP`] in days.
pub const LOOKBACK_DAYS: i32 = 1;

/// A row of the table whose session came out other than it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Application.
    pub app_id: String,
    /// Event.
    pub event_id: String,
    /// When this copy of it was received: copies over a week apart are both in the table.
    pub received_ts: i64,
    /// Its partition.
    pub dt: Date,
    /// The session it belongs to now.
    pub session_id: String,
    /// Its place there.
    pub session_seq: i32,
}

/// What became of one input batch.
pub struct Sessionized {
    /// New rows, with `session_id` and `session_seq`.
    pub new_rows: RecordBatch,
    /// Table rows that moved.
    pub moved: Vec<Moved>,
}

/// The state between two batches of one stream.
pub struct Sessionizer {
    gap: i64,
    visitor: Option<String>,
    /// Of what is not a bot's and of what is.
    open: [Open; 2],
}

/// What is known of a visitor's sessions.
#[derive(Default)]
struct Open {
    session: Option<Session>,
    /// The start of a session of this visitor was seen, be it of a displaced row.
    start_seen: bool,
}

struct Session {
    id: String,
    started: i64,
    last: i64,
    seq: i32,
}

/// `session_id`: the first 128 bits of SHA-256 over visitor and first event, in hex.
#[must_use]
pub fn session_id(visitor_id: &str, first_event_id: &str) -> String {
    let digest = Sha256::new()
        .chain_update(visitor_id.as_bytes())
        .chain_update([0])
        .chain_update(first_event_id.as_bytes())
        .finalize();
    digest[..16].iter().fold(String::with_capacity(32), |mut hex, byte| {
        use std::fmt::Write as _;
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

impl Sessionizer {
    /// At the start of a stream.
    #[must_use]
    pub fn new(config: SessionsConfig) -> Self {
        let gap = i64::try_from(config.gap().as_micros()).unwrap_or(i64::MAX);
        Self { gap, visitor: None, open: Default::default() }
    }

    /// Takes the next rows of the stream. Rows for which `is_gone` answers true
    /// (extra copies, displaced rows) are not there.
    ///
    /// # Errors
    /// [`ArrowError`] where the batch lacks a column.
    pub fn push(
        &mut self,
        batch: &RecordBatch,
        is_gone: impl Fn(Row<'_>) -> bool,
    ) -> Result<Sessionized, ArrowError> {
        let column = |name: &str| -> Result<&ArrayRef, ArrowError> {
            batch
                .column_by_name(name)
                .ok_or_else(|| ArrowError::SchemaError(format!("there is no column {name}")))
        };
        let visitors = column("visitor_id")?.as_string::<i32>();
        let app_ids = column("app_id")?.as_string::<i32>();
        let event_ids = column("event_id")?.as_string::<i32>();
        let times = column("event_ts")?.as_primitive::<TimestampMicrosecondType>();
        let received = column("received_ts")?.as_primitive::<TimestampMicrosecondType>();
        let days = column("dt")?.as_primitive::<Date32Type>();
        let rows = column(ROW_COLUMN)?.as_primitive::<Int64Type>();
        let olds: &BooleanArray = column(OLD_COLUMN)?.as_boolean();
        let bots: &BooleanArray = column("is_bot")?.as_boolean();
        let stored_ids = column("session_id")?.as_string::<i32>();
        let stored_seqs: &Int32Array = column("session_seq")?.as_primitive::<Int32Type>();

        let mut ids = StringBuilder::new();
        let mut seqs = Int32Builder::new();
        let mut kept: Vec<u64> = Vec::with_capacity(batch.num_rows());
        let mut moved = Vec::new();
        for at in 0..batch.num_rows() {
            let is_old = olds.value(at);
            let (app_id, event_id) = (app_ids.value(at), event_ids.value(at));
            let row = if is_old {
                Row::Old { app_id, event_id, received_ts: received.value(at) }
            } else {
                Row::New { row: rows.value(at) }
            };
            let is_gone = is_gone(row);
            if visitors.is_null(at) {
                if !is_old && !is_gone {
                    kept.push(at as u64);
                    ids.append_null();
                    seqs.append_null();
                }
                continue;
            }
            let visitor = visitors.value(at);
            if self.visitor.as_deref() != Some(visitor) {
                self.visitor = Some(visitor.to_owned());
                self.open = Default::default();
            }
            let open = &mut self.open[usize::from(bots.value(at))];
            open.start_seen |= is_old && stored_seqs.value(at) == 1;
            let out_of_sight = is_old && open.session.is_none() && !open.start_seen;
            if is_gone || out_of_sight {
                continue;
            }
            let session = open.advance(visitor, event_id, times.value(at), self.gap);
            if !is_old {
                kept.push(at as u64);
                ids.append_value(&session.id);
                seqs.append_value(session.seq);
            } else if stored_ids.value(at) != session.id || stored_seqs.value(at) != session.seq {
                moved.push(Moved {
                    app_id: app_id.to_owned(),
                    event_id: event_id.to_owned(),
                    received_ts: received.value(at),
                    dt: Date::from_days(days.value(at)),
                    session_id: session.id.clone(),
                    session_seq: session.seq,
                });
            }
        }
        let new_rows = replace_session(batch, kept, ids, seqs)?;
        Ok(Sessionized { new_rows, moved })
    }
}

impl Open {
    fn advance(&mut self, visitor: &str, event_id: &str, at: i64, gap: i64) -> &Session {
        let cap = i64::try_from(CAP.as_micros()).unwrap_or(i64::MAX);
        let next = match self.session.take() {
            Some(session) if at - session.last < gap && at - session.started <= cap => {
                Session { last: at, seq: session.seq + 1, ..session }
            }
            _ => Session { id: session_id(visitor, event_id), started: at, last: at, seq: 1 },
        };
        self.session.insert(next)
    }
}

/// A row, as [`Sessionizer::push`] asks about it.
#[derive(Clone, Copy, Debug)]
pub enum Row<'a> {
    /// New in this batch.
    New {
        /// Its `__row`.
        row: i64,
    },
    /// In the table already.
    Old {
        /// Its application.
        app_id: &'a str,
        /// Its event.
        event_id: &'a str,
        /// When it was received, microseconds.
        received_ts: i64,
    },
}

/// The kept rows with their sessions, and without the working columns.
fn replace_session(
    batch: &RecordBatch,
    kept: Vec<u64>,
    mut ids: StringBuilder,
    mut seqs: Int32Builder,
) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let indices: Vec<usize> = (0..schema.fields().len())
        .filter(|at| !matches!(schema.field(*at).name().as_str(), ROW_COLUMN | OLD_COLUMN))
        .collect();
    let all_kept = kept.len() == batch.num_rows();
    let stored = batch.project(&indices)?;
    let rows = if all_kept {
        stored
    } else {
        arrow::compute::take_record_batch(&stored, &UInt64Array::from(kept))?
    };
    let schema = rows.schema();
    let mut columns = rows.columns().to_vec();
    columns[schema.index_of("session_id")?] = Arc::new(ids.finish());
    columns[schema.index_of("session_seq")?] = Arc::new(seqs.finish());
    RecordBatch::try_new(schema, columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    fn sessions(minutes: &[i64]) -> Vec<(String, i32)> {
        sessions_with(30, minutes)
    }

    fn sessions_with(gap: i64, minutes: &[i64]) -> Vec<(String, i32)> {
        let mut open = Open::default();
        let mut found = Vec::new();
        for (at, minute) in minutes.iter().enumerate() {
            let session = open.advance("v", &format!("e{at}"), minute * MINUTE, gap * MINUTE);
            found.push((session.id.clone(), session.seq));
        }
        found
    }

    #[test]
    fn rows_in_the_order_of_sessions_are_sorted_as_files_of_events_claim() {
        assert!(SESSION_ORDER.starts_with(clickmill_schemas::tables::EVENTS.sort));
    }

    #[test]
    fn half_an_hour_of_silence_ends_a_session_and_a_microsecond_less_does_not() {
        let found = sessions(&[0, 29, 59]);
        assert_eq!(
            found,
            [(session_id("v", "e0"), 1), (session_id("v", "e0"), 2), (session_id("v", "e2"), 1),]
        );
    }

    #[test]
    fn another_gap_is_configurable_within_its_limits() {
        let seqs = |gap| sessions_with(gap, &[0, 29, 59]).into_iter().map(|(_, seq)| seq);
        assert_eq!(seqs(29).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(seqs(31).collect::<Vec<_>>(), [1, 2, 3]);
        for (text, expected) in [
            ("", Some(30)),
            ("gap_minutes = 1440", Some(1440)),
            ("gap_minutes = 0", None),
            ("gap_minutes = 1441", None),
        ] {
            let config = toml::from_str::<SessionsConfig>(text).ok();
            assert_eq!(config.map(|config| config.gap_minutes), expected, "{text}");
        }
    }

    #[test]
    fn a_session_ends_after_a_day_without_silence() {
        let minutes: Vec<i64> = (0..200).map(|n| n * 20).collect();
        let found = sessions(&minutes);
        // Event 72 is exactly 24 hours after event 0 and still in its session.
        assert_eq!(found[72], (session_id("v", "e0"), 73));
        assert_eq!(found[73], (session_id("v", "e73"), 1));
        assert_eq!(found[146], (session_id("v", "e146"), 1));
    }
}
