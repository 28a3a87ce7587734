//! File statistics: computed while writing, read back for pruning.
//!
//! The form is Delta's: `{"numRecords":..,"minValues":{..},"maxValues":{..},
//! "nullCount":{..}}` for the table's statistics columns, which are text or
//! instants. Long text is cut to [`MAX_TEXT_CHARS`]: a cut minimum is still a
//! lower bound, a cut maximum gets the last code point appended.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute;
use arrow::datatypes::{DataType, SchemaRef, TimestampMicrosecondType};
use clickmill_schemas::Timestamp;
use clickmill_schemas::tables::TableSpec;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use serde_json::{Map, Value, json};

const MAX_TEXT_CHARS: usize = 64;
/// Sorts after every text that starts with what it is appended to.
const LAST_CODE_POINT: char = '\u{10FFFF}';

/// Minimum, maximum and null count of the statistics columns of one file.
pub(super) struct Collector {
    columns: Vec<Range>,
    rows: u64,
}

struct Range {
    name: &'static str,
    bounds: Option<Bounds>,
    nulls: u64,
}

enum Bounds {
    Text(String, String),
    Instant(i64, i64),
}

impl Collector {
    pub(super) fn new(spec: &'static TableSpec) -> Self {
        let columns =
            spec.stats.iter().map(|name| Range { name, bounds: None, nulls: 0 }).collect();
        Self { columns, rows: 0 }
    }

    pub(super) fn update(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows() as u64;
        for range in &mut self.columns {
            let Some(column) = batch.column_by_name(range.name) else { continue };
            range.nulls += column.null_count() as u64;
            range.bounds = widen(range.bounds.take(), bounds(column));
        }
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn to_json(&self) -> String {
        let (mut min, mut max, mut nulls) = (Map::new(), Map::new(), Map::new());
        for range in &self.columns {
            nulls.insert(range.name.to_owned(), json!(range.nulls));
            match &range.bounds {
                Some(Bounds::Text(low, high)) => {
                    min.insert(range.name.to_owned(), json!(lower_bound(low)));
                    max.insert(range.name.to_owned(), json!(upper_bound(high)));
                }
                Some(Bounds::Instant(low, high)) => {
                    let text =
                        |micros: &i64| Timestamp::from_micros(*micros).map(|t| t.to_string());
                    if let (Ok(low), Ok(high)) = (text(low), text(high)) {
                        min.insert(range.name.to_owned(), json!(low));
                        max.insert(range.name.to_owned(), json!(high));
                    }
                }
                None => {}
            }
        }
        json!({"numRecords": self.rows, "minValues": min, "maxValues": max, "nullCount": nulls})
            .to_string()
    }
}

fn bounds(column: &dyn Array) -> Option<Bounds> {
    match column.data_type() {
        DataType::Utf8 => {
            let text = column.as_string::<i32>();
            let low = compute::min_string(text)?.to_owned();
            Some(Bounds::Text(low, compute::max_string(text)?.to_owned()))
        }
        DataType::Timestamp(..) => {
            let instants = column.as_primitive_opt::<TimestampMicrosecondType>()?;
            Some(Bounds::Instant(compute::min(instants)?, compute::max(instants)?))
        }
        _ => None,
    }
}

fn widen(a: Option<Bounds>, b: Option<Bounds>) -> Option<Bounds> {
    match (a, b) {
        (Some(Bounds::Text(a0, a1)), Some(Bounds::Text(b0, b1))) => {
            Some(Bounds::Text(a0.min(b0), a1.max(b1)))
        }
        (Some(Bounds::Instant(a0, a1)), Some(Bounds::Instant(b0, b1))) => {
            Some(Bounds::Instant(a0.min(b0), a1.max(b1)))
        }
        (a, b) => a.or(b),
    }
}

fn lower_bound(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).collect()
}

fn upper_bound(text: &str) -> String {
    let mut bound = lower_bound(text);
    if bound.len() < text.len() {
        bound.push(LAST_CODE_POINT);
    }
    bound
}

/// Delta's JSON statistics as DataFusion's, for every column of `schema`.
/// What is absent or does not parse is unknown, never guessed.
pub(super) fn parse(stats: &str, rows: u64, bytes: u64, schema: &SchemaRef) -> Statistics {
    let parsed: Value = serde_json::from_str(stats).unwrap_or(Value::Null);
    let column = |name: &str, data_type: &DataType| -> ColumnStatistics {
        let value = |part: &str| match (parsed[part].get(name), data_type) {
            (Some(Value::String(text)), DataType::Utf8) => {
                Precision::Exact(ScalarValue::Utf8(Some(text.clone())))
            }
            (Some(Value::String(text)), DataType::Timestamp(..)) => instant(part, text),
            _ => Precision::Absent,
        };
        let nulls = parsed["nullCount"].get(name).and_then(Value::as_u64);
        let mut statistics = ColumnStatistics::new_unknown();
        statistics.min_value = value("minValues");
        statistics.max_value = value("maxValues");
        statistics.null_count = match nulls.and_then(|n| usize::try_from(n).ok()) {
            Some(nulls) => Precision::Exact(nulls),
            None => Precision::Absent,
        };
        statistics
    };
    Statistics {
        num_rows: usize::try_from(rows).map_or(Precision::Absent, Precision::Exact),
        total_byte_size: usize::try_from(bytes).map_or(Precision::Absent, Precision::Inexact),
        column_statistics: schema
            .fields()
            .iter()
            .map(|field| column(field.name(), field.data_type()))
            .collect(),
    }
}

/// Other writers cut instants to milliseconds: a maximum is taken one further.
fn instant(part: &str, text: &str) -> Precision<ScalarValue> {
    let Ok(parsed) = Timestamp::parse(text) else { return Precision::Absent };
    let cut = part == "maxValues" && parsed.micros() % 1_000 == 0;
    let micros = parsed.micros() + if cut { 999 } else { 0 };
    Precision::Exact(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_maximum_still_bounds_what_it_was_cut_from() {
        let long = "x".repeat(80);
        assert!(upper_bound(&long).as_str() > long.as_str());
        assert!(lower_bound(&long).as_str() < long.as_str());
        assert_eq!(upper_bound("short"), "short");
    }
}
