//! How old a table is: the newest time in a column, held against the clock.
//!
//! A batch looks as of its planning. Where nothing is new there is no batch, and just then tables
//! grow old: an idle run looks as of now ([`stale`]). It writes nothing down, as results belong to
//! batches; what it says stays the same until something changes.

use std::collections::BTreeSet;

use arrow::array::{Array as _, AsArray};
use arrow::datatypes::{Date32Type, TimestampMicrosecondType};
use clickmill_lake::Lake;
use clickmill_lake::table::{DataFile, Table, spec_in_log};
use clickmill_schemas::tables::TableSpec;
use clickmill_schemas::{Date, Timestamp};
use datafusion::prelude::SessionContext;

use super::look::Found;
use super::{Check, JOB, Rule};
use crate::TransformError;
use crate::jobs::table_of;
use crate::run::RunOptions;
use crate::sources::config::Age;
use crate::status;

const MICROS_PER_SECOND: i64 = 1_000_000;

/// A table that is older than a check allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The table.
    pub table: String,
    /// How old it is, and how old it may be; the same at any time.
    pub problem: String,
}

/// Those of `tables` that are older than their freshness checks allow, as they are at `now`.
///
/// # Errors
/// [`TransformError`] where a table cannot be read.
pub(crate) async fn stale(
    lake: &Lake,
    options: &RunOptions,
    tables: &BTreeSet<String>,
    now: Timestamp,
) -> Result<Vec<Stale>, TransformError> {
    let mut stale = Vec::new();
    for name in options.quality.tables().filter(|name| tables.contains(*name)) {
        let bounds = bounds_of(options.quality.of(name));
        if bounds.is_empty() {
            continue;
        }
        let spec = match TableSpec::find(name) {
            Some(spec) => Some(spec),
            // A table of a shop's own job.
            None => spec_in_log(lake, name).await?,
        };
        let table = match spec {
            Some(spec) => Table::open(lake, spec).await?,
            None => None,
        };
        for (column, max_age) in bounds {
            let newest = match &table {
                Some(table) => {
                    let session = status::session(lake)?;
                    newest(&session, table.spec(), table.files(), column).await?
                }
                None => None,
            };
            let found = judge(column, newest, max_age, now);
            if !found.passed {
                stale.push(Stale { table: name.to_owned(), problem: found.detail });
            }
        }
    }
    Ok(stale)
}

/// Columns, and how old the newest time in each may be.
fn bounds_of<'a>(checks: &'a [Check]) -> Vec<(&'a str, Age)> {
    let bound = |check: &'a Check| match &check.rule {
        Rule::Freshness(column, max_age) => Some((column.as_str(), *max_age)),
        _ => None,
    };
    checks.iter().filter_map(bound).collect()
}

/// Holds the newest time of a column against the clock.
pub(super) fn judge(
    column: &str,
    newest: Option<Timestamp>,
    max_age: Age,
    now: Timestamp,
) -> Found {
    let age = newest.map(|newest| (now.micros() - newest.micros()) / MICROS_PER_SECOND);
    let allowed = max_age.seconds();
    // A clock that is behind makes nothing stale.
    let is_fresh = |age: i64| u64::try_from(age).map_or(true, |age| age <= allowed);
    Found {
        passed: age.is_some_and(is_fresh),
        observed: age.map(|age| age as f64),
        allowed: Some(allowed as f64),
        detail: match newest {
            Some(newest) => format!("the newest {column} is {newest}; it may be {allowed} s old"),
            None => format!("there is no {column}"),
        },
    }
}

/// The newest time in a column of these files; of a date its midnight. Only files of which the log
/// does not say it are read.
pub(super) async fn newest(
    session: &SessionContext,
    spec: &'static TableSpec,
    files: &[DataFile],
    column: &str,
) -> Result<Option<Timestamp>, TransformError> {
    // A column of the shop's own comes with the first batch that writes it.
    if spec.columns.iter().all(|known| known.name != column) {
        return Ok(None);
    }
    let in_log = files.iter().filter_map(|file| file.newest(column)).max();
    let mut untold = files.to_vec();
    untold.retain(|file| file.newest(column).is_none());
    if untold.is_empty() {
        return Ok(in_log);
    }
    let fail = TransformError::job(JOB);
    session.register_table("untold", table_of(spec, untold)).map_err(&fail)?;
    let sql = format!("SELECT max(\"{column}\") FROM untold");
    let batches = session.sql(&sql).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    let read = batches.iter().find(|batch| batch.num_rows() > 0).and_then(|batch| {
        let column = batch.column(0);
        if column.is_null(0) {
            return None;
        }
        if let Some(days) = column.as_primitive_opt::<Date32Type>() {
            return Some(Date::from_days(days.value(0)).midnight());
        }
        let times = column.as_primitive_opt::<TimestampMicrosecondType>()?;
        Timestamp::from_micros(times.value(0)).ok()
    });
    Ok(in_log.max(read))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_fresh_up_to_its_age_and_what_is_said_does_not_change_with_the_clock() {
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let newest = at("2026-03-10T10:00:00Z");
        let look = |now| judge("event_ts", Some(newest), Age::from_seconds(3_600), at(now));
        let (before, just, late) = (
            look("2026-03-10T09:00:00Z"),
            look("2026-03-10T11:00:00Z"),
            look("2026-03-10T11:00:01Z"),
        );
        assert_eq!((before.passed, just.passed, late.passed), (true, true, false));
        assert_eq!((late.observed, late.allowed), (Some(3_601.0), Some(3_600.0)));
        assert_eq!(late.detail, look("2026-03-11T00:00:00Z").detail);
        let none = judge("event_ts", None, Age::from_seconds(3_600), newest);
        assert_eq!((none.passed, none.detail.as_str()), (false, "there is no event_ts"));
    }
}
