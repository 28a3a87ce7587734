//! Rows of Parquet that Firehose's format conversion made, back to lines of the wire.
//!
//! Columns are named as the wire's keys, or mapped to them. What the schema said of
//! types is undone: times of any unit (without a zone they are UTC; whole numbers are
//! milliseconds, text is `yyyy-MM-dd HH:mm:ss[.f]` or RFC 3339), decimals to their
//! digits, JSON in text columns to JSON. A floating-point amount is taken by its
//! shortest decimal form, and refused where that has more than four places. Columns
//! that are no keys of the wire go into `properties`.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, make_encoder};
use clickmill_schemas::{EVENT_KEYS, Timestamp};

/// Keys of the wire whose values are times.
const TIMES: &[&str] = &["event_ts", "client_ts", "sent_ts", "received_ts", "heartbeat_ts"];
/// Keys whose values are JSON of any form.
const JSON: &[&str] = &["properties", "context", "consent", "items"];
/// Keys of rejects and heartbeats that are no keys of an event.
const OTHERS: &[&str] = &[
    "reject_id",
    "protocol",
    "reason",
    "detail",
    "origin",
    "bytes_base64",
    "heartbeat_ts",
    "last_wal_seq",
    "closing",
];
/// True for a key of an event, a reject or a heartbeat.
#[must_use]
pub fn is_wire_key(key: &str) -> bool {
    [EVENT_KEYS, OTHERS].iter().any(|keys| keys.contains(&key))
}

/// A line is told by its first key.
const FIRST: &[&str] = &["reject_id", "heartbeat_ts", "event_id"];

/// One JSON object a row.
///
/// # Errors
/// [`ArrowError`] where a column is of a type that has no JSON form.
pub(super) fn objects(
    batch: &RecordBatch,
    mapping: &BTreeMap<String, String>,
) -> Result<Vec<String>, ArrowError> {
    let schema = batch.schema();
    let mut columns: Vec<(String, Vec<Option<String>>)> = Vec::new();
    let mut extra: Vec<(String, Vec<Option<String>>)> = Vec::new();
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let ours = mapping.iter().find(|(_, theirs)| *theirs == field.name());
        let key = ours.map_or(field.name(), |(ours, _)| ours).as_str();
        let known = is_wire_key(key);
        let values = values(key, field, column)?;
        (if known { &mut columns } else { &mut extra }).push((key.to_owned(), values));
    }
    let rank = |key: &str| FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len());
    columns.sort_by_key(|(key, _)| rank(key));
    Ok((0..batch.num_rows()).map(|row| object(row, &columns, &extra)).collect())
}

fn object(
    row: usize,
    columns: &[(String, Vec<Option<String>>)],
    extra: &[(String, Vec<Option<String>>)],
) -> String {
    let mut text = String::from("{");
    let extra = members(row, extra);
    let mut with_properties = false;
    for (key, values) in columns {
        let Some(value) = &values[row] else { continue };
        let merged = (key == "properties" && !extra.is_empty()).then(|| merged(value, &extra));
        with_properties |= key == "properties";
        push(&mut text, key, merged.as_ref().unwrap_or(value));
    }
    if !with_properties && !extra.is_empty() {
        push(&mut text, "properties", &format!("{{{extra}}}"));
    }
    text.push('}');
    text
}

/// `"a":1,"b":2`, of what is not null.
fn members(row: usize, columns: &[(String, Vec<Option<String>>)]) -> String {
    let mut text = String::from("{");
    for (key, values) in columns {
        if let Some(value) = &values[row] {
            push(&mut text, key, value);
        }
    }
    text.split_off(1)
}

/// The properties that were sent, and the other columns after them.
fn merged(properties: &str, extra: &str) -> String {
    match properties.trim_end().strip_suffix('}').filter(|_| properties.starts_with('{')) {
        Some(start) if start.trim_end().ends_with('{') => format!("{start}{extra}}}"),
        Some(start) => format!("{start},{extra}}}"),
        None => properties.to_owned(),
    }
}

fn push(text: &mut String, key: &str, value: &str) {
    if text.len() > 1 {
        text.push(',');
    }
    text.push_str(&json_text(key));
    text.push(':');
    text.push_str(value);
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A column's values as JSON.
fn values(
    key: &str,
    field: &FieldRef,
    column: &ArrayRef,
) -> Result<Vec<Option<String>>, ArrowError> {
    match column.data_type() {
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
            let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
            let column = cast(column, &micros)?;
            let times = column.as_primitive::<TimestampMicrosecondType>();
            Ok(times.iter().map(|micros| micros.map(instant)).collect())
        }
        DataType::Int64 if TIMES.contains(&key) => {
            let times = column.as_primitive::<Int64Type>();
            Ok(times.iter().map(|ms| ms.map(|ms| instant(ms.saturating_mul(1_000)))).collect())
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let column = cast(column, &DataType::Utf8)?;
            let texts = column.as_string::<i32>();
            Ok(texts.iter().map(|text| text.map(|text| of_text(key, text))).collect())
        }
        _ => {
            let options = EncoderOptions::default();
            let mut encoder = make_encoder(field, column.as_ref(), &options)?;
            let of_row = |row| {
                if encoder.is_null(row) {
                    return None;
                }
                let mut json = Vec::new();
                encoder.encode(row, &mut json);
                Some(String::from_utf8_lossy(&json).into_owned())
            };
            Ok((0..column.len()).map(of_row).collect())
        }
    }
}

/// A time beyond what the wire takes stays a number, so that the row is rejected with it.
fn instant(micros: i64) -> String {
    Timestamp::from_micros(micros).map_or_else(|_| micros.to_string(), |at| format!("\"{at}\""))
}

fn of_text(key: &str, text: &str) -> String {
    if JSON.contains(&key) && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
        return text.to_owned();
    }
    if TIMES.contains(&key) && Timestamp::parse(text).is_err() {
        // As Hive and Athena write it.
        if let Ok(at) = Timestamp::parse(&format!("{}Z", text.trim().replacen(' ', "T", 1))) {
            return format!("\"{at}\"");
        }
    }
    json_text(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Decimal128Array, Float64Array, Int64Array, ListBuilder, StringArray, StringBuilder,
        StructBuilder, TimestampMillisecondArray, TimestampNanosecondArray,
    };
    use arrow::datatypes::{Field, Schema};
    use clickmill_schemas::WireRecord;

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        let fields: Vec<Field> = columns
            .iter()
            .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
            .collect();
        let arrays = columns.into_iter().map(|(_, column)| column).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).expect("a batch")
    }

    fn array(array: impl Array + 'static) -> ArrayRef {
        Arc::new(array)
    }

    fn text(values: &[Option<&str>]) -> ArrayRef {
        array(values.iter().copied().collect::<StringArray>())
    }

    fn required() -> Vec<(&'static str, ArrayRef)> {
        vec![
            ("event_name", text(&[Some("purchase")])),
            ("source_protocol", text(&[Some("native")])),
            ("app_id", text(&[Some("shop")])),
            ("event_ts", array(TimestampNanosecondArray::from(vec![1_795_455_600_123_456_789]))),
            ("received_ts", array(TimestampMillisecondArray::from(vec![1_795_455_601_000]))),
        ]
    }

    fn decode(batch: &RecordBatch, mapping: &[(&str, &str)]) -> clickmill_schemas::Event<'static> {
        let mapping = mapping.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let text = objects(batch, &mapping).expect("encodes").remove(0);
        let leaked: &'static str = Box::leak(text.into_boxed_str());
        match WireRecord::decode(leaked.as_bytes()).expect(leaked) {
            WireRecord::Event(event) => *event,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn typed_and_nested_values_become_the_event_that_was_sent() {
        let fields = vec![
            Field::new("product_id", DataType::Utf8, true),
            Field::new("name", DataType::Utf8, true),
        ];
        let structs = StructBuilder::from_fields(fields, 1);
        let mut items = ListBuilder::new(structs);
        for part in ["P1", "P\"2"] {
            let item = items.values();
            item.field_builder::<StringBuilder>(0).expect("text").append_value(part);
            item.field_builder::<StringBuilder>(1).expect("text").append_null();
            item.append(true);
        }
        items.append(true);
        let total = Decimal128Array::from(vec![123_450_i128]).with_precision_and_scale(18, 4);
        let mut columns = vec![("messageid", text(&[Some("e\"1")]))];
        columns.extend(required());
        columns.push(("items", array(items.finish())));
        columns.push(("total", array(total.expect("decimal"))));
        columns.push(("revenue", array(Float64Array::from(vec![12.3]))));
        columns.push(("wal_seq", array(Int64Array::from(vec![7]))));
        columns.push(("properties", text(&[Some(r#"{"a": 1.10}"#)])));
        columns.push(("shop_column", text(&[Some("x")])));
        columns.push(("coupon", text(&[None])));
        let event = decode(&batch(columns), &[("event_id", "messageid")]);
        assert_eq!(event.event_id, "e\"1");
        assert_eq!(event.event_ts().to_string(), "2026-11-23T17:40:00.123456Z");
        assert_eq!(event.received_ts().to_string(), "2026-11-23T17:40:01.000000Z");
        let products: Vec<_> = event.items.iter().map(|item| item.product_id.as_deref()).collect();
        assert_eq!(products, [Some("P1"), Some("P\"2")]);
        assert_eq!(event.total.map(|m| m.to_string()).as_deref(), Some("12.345"));
        assert_eq!(event.revenue.map(|m| m.to_string()).as_deref(), Some("12.3"));
        assert_eq!((event.wal_seq, event.coupon), (Some(7), None));
        let properties = event.properties.expect("properties");
        assert_eq!(properties.get(), r#"{"a":1.10,"shop_column":"x"}"#);
    }

    #[test]
    fn times_may_be_text_or_milliseconds() {
        let mut columns = vec![("event_id", text(&[Some("e")]))];
        columns.extend(required().into_iter().filter(|(name, _)| !name.ends_with("_ts")));
        columns.push(("event_ts", text(&[Some("2026-11-23 17:40:00.5")])));
        columns.push(("received_ts", array(Int64Array::from(vec![1_795_455_601_000]))));
        columns.push(("sent_ts", text(&[Some("2026-11-23T18:40:00+01:00")])));
        columns.push(("other", text(&[Some("kept")])));
        let event = decode(&batch(columns), &[]);
        assert_eq!(event.event_ts().to_string(), "2026-11-23T17:40:00.500000Z");
        assert_eq!(event.received_ts().to_string(), "2026-11-23T17:40:01.000000Z");
        assert_eq!(
            event.sent_ts().map(|at| at.to_string()).as_deref(),
            Some("2026-11-23T17:40:00.000000Z")
        );
        assert_eq!(event.properties.expect("properties").get(), r#"{"other":"kept"}"#);
    }

    #[test]
    fn an_inexact_amount_is_refused_and_not_rounded() {
        let mut columns = vec![("event_id", text(&[Some("e")]))];
        columns.extend(required());
        columns.push(("revenue", array(Float64Array::from(vec![0.1 + 0.2]))));
        let text = objects(&batch(columns), &BTreeMap::new()).expect("encodes").remove(0);
        assert!(WireRecord::decode(text.as_bytes()).is_err(), "{text}");
    }
}
