//! A Kinesis record to lines of the raw zone.
//!
//! A record holds one wire line, or several: in the KPL's aggregation
//! (`clickmill_collector::sink::kpl`), separated by newlines, as JSON values run
//! together (`}{`) or spread over lines by some other producer. Every line gets
//! `shard_id` and `sequence_number`; where a record is an aggregate or holds
//! more than one, their index from 0 follows after a dot. A damaged aggregate
//! is taken for what it is then, bytes that do not decode. A line that brings these
//! keys along (a replay of another stream) loses its own: they tell of the
//! last carrier. What does not decode becomes a reject with its bytes; the rest
//! of the record goes on.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clickmill_collector::sink::kpl::{self, Aggregated};
use clickmill_lake::LakeError;
use clickmill_lake::raw::{RawFormat, RawKind, RawLine, RawWriter};
use clickmill_schemas::{
    Date, Lineage, RawJson, Reject, RejectReason, Timestamp, WholeEvent, WireError, WireRecord,
    append_lineage, compact,
};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use uuid::Uuid;

const CARRIER: [&str; 2] = ["shard_id", "sequence_number"];
/// What the two keys and their values usually take.
const CARRIER_BYTES: usize = 160;

/// A record of the stream, as far as decoding needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamRecord<'a> {
    pub stream: &'a str,
    pub shard_id: &'a str,
    pub sequence_number: &'a str,
    /// By Kinesis' clock.
    pub arrived: Timestamp,
    pub data: &'a [u8],
}

/// A line for the raw zone.
#[derive(Debug)]
pub(super) enum Line<'a> {
    Text {
        kind: RawKind,
        received_ts: Timestamp,
        event_date: Option<Date>,
        bytes: Vec<u8>,
    },
    /// For columns: it is decoded once.
    Event {
        whole: WholeEvent<'a>,
        bytes: usize,
    },
}

impl Line<'_> {
    /// What it is.
    pub fn kind(&self) -> RawKind {
        match self {
            Self::Text { kind, .. } => *kind,
            Self::Event { .. } => RawKind::Events,
        }
    }

    /// Hands it to the raw zone's writer.
    pub async fn push(&self, writer: &mut RawWriter, position: &str) -> Result<(), LakeError> {
        match self {
            Self::Text { kind, received_ts, event_date, bytes } => {
                let (kind, received_ts, event_date) = (*kind, *received_ts, *event_date);
                writer.push(RawLine { kind, received_ts, event_date, bytes }, position).await
            }
            Self::Event { whole, bytes } => writer.push_event(whole, *bytes, position).await,
        }
    }
}

/// A text that is to be one line, and what it holds where that is known already.
struct Part<'a> {
    text: Cow<'a, [u8]>,
    content: Option<Content<'a>>,
}

/// What a text decodes to.
enum Content<'a> {
    Event(WholeEvent<'a>),
    Other { kind: RawKind, received_ts: Timestamp, is_carried: bool },
}

impl<'a> Content<'a> {
    fn of(text: &'a [u8], format: RawFormat) -> Result<Self, WireError> {
        // The usual line of an event, for columns, with all that is in it.
        if format == RawFormat::Parquet && text.starts_with(b"{\"event_id\"") {
            return WholeEvent::decode(text).map(Self::Event);
        }
        Ok(match WireRecord::decode(text)? {
            WireRecord::Event(_) if format == RawFormat::Parquet => {
                Self::Event(WholeEvent::decode(text)?)
            }
            WireRecord::Event(event) => Self::Event(WholeEvent { event, other: None }),
            WireRecord::Reject(reject) => Self::Other {
                kind: RawKind::Rejects,
                received_ts: reject.received_ts,
                is_carried: reject.shard_id.is_some() || reject.sequence_number.is_some(),
            },
            WireRecord::Heartbeat(beat) => Self::Other {
                kind: RawKind::Heartbeats,
                received_ts: beat.heartbeat_ts,
                is_carried: false,
            },
        })
    }
}

/// Whether a record's lines are told apart by a sub-sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbering {
    Sub,
    Plain,
}

/// The texts of a record that are to be one line each: of an aggregate's user
/// records, or of itself.
///
/// The hashes of an aggregate's records are not held against the shard's range,
/// as the KCL does: a record that is here is here, whatever split it came through.
fn parts<'a>(
    data: &'a [u8],
    aggregate: Option<&Aggregated<'a>>,
    format: RawFormat,
) -> (Vec<Part<'a>>, Numbering) {
    if let Some(aggregate) = aggregate {
        let parts = aggregate.records().flat_map(|record| parts_of(record.data, format)).collect();
        return (parts, Numbering::Sub);
    }
    // A damaged aggregate holds bytes that look like newlines: it stays whole.
    let parts = match data.starts_with(&kpl::MAGIC) {
        true => vec![Part { text: Cow::Borrowed(data), content: None }],
        false => parts_of(data, format),
    };
    let numbering = if parts.len() > 1 { Numbering::Sub } else { Numbering::Plain };
    (parts, numbering)
}

/// Of a user record. The usual one holds lines of the wire, and is parsed once.
fn parts_of(data: &[u8], format: RawFormat) -> Vec<Part<'_>> {
    let usual = newline_parts(data).map(|text| {
        let content = Content::of(text, format).ok()?;
        Some(Part { text: Cow::Borrowed(text), content: Some(content) })
    });
    match usual.collect::<Option<Vec<_>>>() {
        Some(parts) if !parts.is_empty() => parts,
        _ => split(data).into_iter().map(|text| Part { text, content: None }).collect(),
    }
}

/// The lines of a record, at least one, events as `format` wants them; `aggregate`
/// is what its data decodes to.
pub(super) fn lines<'a>(
    record: &StreamRecord<'a>,
    aggregate: Option<&Aggregated<'a>>,
    format: RawFormat,
) -> Vec<Line<'a>> {
    let (parts, numbering) = parts(record.data, aggregate, format);
    let mut lines = Vec::with_capacity(parts.len());
    for (sub, part) in parts.into_iter().enumerate() {
        let sequence_number = match numbering {
            Numbering::Sub => format!("{}.{sub}", record.sequence_number),
            Numbering::Plain => record.sequence_number.to_owned(),
        };
        lines.push(line(record, sequence_number, part, format));
    }
    lines
}

fn newline_parts(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = memchr::memchr_iter(b'\n', data).chain(std::iter::once(data.len()));
    let lines = ends.scan(0, |start, end| {
        let line = &data[*start..end];
        *start = end + 1;
        Some(line)
    });
    lines.map(<[u8]>::trim_ascii).filter(|line| !line.is_empty())
}

/// The texts in a user record that are to be one line each.
fn split(data: &[u8]) -> Vec<Cow<'_, [u8]>> {
    let lines: Vec<&[u8]> = newline_parts(data).collect();
    if lines.iter().all(|line| serde_json::from_slice::<&RawValue>(line).is_ok()) {
        if lines.is_empty() {
            return vec![Cow::Borrowed(data)];
        }
        return lines.into_iter().map(Cow::Borrowed).collect();
    }
    // Not one value a line: perhaps several, or one over many lines.
    let values: Result<Vec<&RawValue>, _> =
        serde_json::Deserializer::from_slice(data).into_iter().collect();
    match values {
        Ok(values) => values
            .into_iter()
            .map(|value| match compact(value.get()) {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            })
            .collect(),
        Err(_) => lines.into_iter().map(Cow::Borrowed).collect(),
    }
}

fn line<'a>(
    record: &StreamRecord<'a>,
    sequence_number: String,
    part: Part<'a>,
    format: RawFormat,
) -> Line<'a> {
    let Part { text, content } = part;
    let content = match content {
        Some(content) => content,
        // What was put together here is not borrowed from the record: it stays a line.
        None => match Content::of(&text, RawFormat::Json) {
            Ok(content) => return with_carrier(record, &sequence_number, &text, &content),
            Err(error) => return reject(record, &sequence_number, &text, &error.to_string()),
        },
    };
    match content {
        Content::Event(mut whole) if format == RawFormat::Parquet => {
            let bytes = text.len() + record.shard_id.len() + sequence_number.len();
            whole.event.shard_id = Some(Cow::Borrowed(record.shard_id));
            whole.event.sequence_number = Some(Cow::Owned(sequence_number));
            Line::Event { whole, bytes }
        }
        content => with_carrier(record, &sequence_number, &text, &content),
    }
}

/// The text with the record's shard and number.
fn with_carrier<'a>(
    record: &StreamRecord<'_>,
    sequence_number: &str,
    text: &[u8],
    content: &Content<'_>,
) -> Line<'a> {
    let (kind, received_ts, event_date, is_carried) = match content {
        Content::Event(WholeEvent { event, .. }) => {
            let is_carried = event.shard_id.is_some() || event.sequence_number.is_some();
            (RawKind::Events, event.received_ts(), Some(event.event_ts().date()), is_carried)
        }
        Content::Other { kind, received_ts, is_carried } => {
            (*kind, *received_ts, None, *is_carried)
        }
    };
    let mut bytes = Vec::with_capacity(text.len() + CARRIER_BYTES);
    // A key that is there as null would be there twice.
    if is_carried || CARRIER.iter().any(|key| names(text, key)) {
        match without_carrier(text) {
            Ok(stripped) => bytes.extend_from_slice(&stripped),
            Err(error) => return reject(record, sequence_number, text, &error.to_string()),
        }
    } else {
        bytes.extend_from_slice(text);
    }
    append_lineage(
        &mut bytes,
        &[("shard_id", json(record.shard_id)), ("sequence_number", json(sequence_number))],
    );
    Line::Text { kind, received_ts, event_date, bytes }
}

/// True where the key may stand in the text.
fn names(text: &[u8], key: &str) -> bool {
    memchr::memmem::find(text, key.as_bytes()).is_some()
}

fn reject<'a>(
    record: &StreamRecord<'_>,
    sequence_number: &str,
    part: &[u8],
    detail: &str,
) -> Line<'a> {
    // The same record gives the same id, so that a second reading of the stream is recognised.
    let name = format!("{}/{}/{sequence_number}", record.stream, record.shard_id);
    // A number that a collector gave out is then accounted for.
    let lineage = Lineage::of(part);
    let reject = Reject {
        reject_id: Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).to_string().into(),
        received_ts: record.arrived,
        protocol: "kinesis".into(),
        reason: RejectReason::Undecodable,
        detail: detail.into(),
        origin: format!("stream {}", record.stream).into(),
        app_id: None,
        bytes_base64: BASE64.encode(part).into(),
        collector_id: lineage.collector_id.map(Cow::Owned),
        wal_seq: lineage.wal_seq,
        shard_id: Some(record.shard_id.into()),
        sequence_number: Some(sequence_number.into()),
    };
    Line::Text {
        kind: RawKind::Rejects,
        received_ts: reject.received_ts,
        event_date: None,
        bytes: WireRecord::Reject(reject).encode().into_bytes(),
    }
}

fn json(value: &str) -> RawJson<'static> {
    // Shard ids and sequence numbers are plain; any text serialises.
    RawJson::from_value(&value).unwrap_or_else(|_| RawJson::from_raw(RawValue::NULL).into_owned())
}

/// The line without the keys of [`CARRIER`]; every other byte between keys stays.
fn without_carrier(line: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    struct Entries<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);
    impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Collect;
            impl<'de> Visitor<'de> for Collect {
                type Value = Entries<'de>;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                    let mut entries = Vec::new();
                    while let Some(key) = map.next_key::<String>()? {
                        entries.push((Cow::Owned(key), map.next_value::<&'de RawValue>()?));
                    }
                    Ok(Entries(entries))
                }
            }
            deserializer.deserialize_map(Collect)
        }
    }
    let Entries(entries) = serde_json::from_slice(line)?;
    let mut out = b"{".to_vec();
    for (key, value) in entries.iter().filter(|(key, _)| !CARRIER.contains(&key.as_ref())) {
        if out.len() > 1 {
            out.push(b',');
        }
        serde_json::to_writer(&mut out, key)?;
        out.push(b':');
        out.extend_from_slice(value.get().as_bytes());
    }
    if out.len() == 1 {
        return Err(de::Error::custom("nothing but lineage"));
    }
    out.push(b'}');
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"event_id":"e1","event_name":"page_view","source_protocol":"segment","app_id":"shop","event_ts":"2026-11-23T17:40:00.000000Z","received_ts":"2026-11-23T17:40:01.000000Z","properties":{"n":1.10}}"#;

    fn decode(data: &[u8]) -> Vec<String> {
        let record = StreamRecord {
            stream: "clicks",
            shard_id: "shardId-000000000001",
            sequence_number: "4959",
            arrived: Timestamp::parse("2026-11-23T17:40:02Z").expect("time"),
            data,
        };
        let text = |line: Line<'_>| match line {
            Line::Text { bytes, .. } => String::from_utf8(bytes).expect("utf8"),
            Line::Event { .. } => panic!("not as text"),
        };
        let aggregate = kpl::decode(data);
        let lines = |format| lines(&record, aggregate.as_ref(), format).into_iter();
        let texts: Vec<String> = lines(RawFormat::Json).map(text).collect();
        // For columns it is the same, whatever the form.
        let decoded = |line: Line<'_>| match line {
            Line::Text { bytes, .. } => String::from_utf8(bytes).expect("utf8"),
            Line::Event { whole, .. } => {
                let mut line = Vec::new();
                whole.encode_to(&mut line);
                String::from_utf8(line).expect("utf8")
            }
        };
        let columns: Vec<String> = lines(RawFormat::Parquet).map(decoded).collect();
        assert_eq!(columns, texts);
        texts
    }

    fn expected(event: &str, sequence_number: &str) -> String {
        let start = event.strip_suffix('}').expect("object");
        format!(
            r#"{start},"shard_id":"shardId-000000000001","sequence_number":"{sequence_number}"}}"#
        )
    }

    #[test]
    fn a_record_of_one_line_gets_its_lineage() {
        assert_eq!(decode(EVENT.as_bytes()), [expected(EVENT, "4959")]);
        assert_eq!(decode(format!("{EVENT}\n").as_bytes()), [expected(EVENT, "4959")]);
    }

    #[test]
    fn several_lines_are_numbered_however_they_are_set_apart() {
        let other = EVENT.replace("e1", "e2");
        let both = [expected(EVENT, "4959.0"), expected(&other, "4959.1")];
        for between in ["\n", "", " ", "\n\n\r\n"] {
            assert_eq!(decode(format!("{EVENT}{between}{other}").as_bytes()), both, "{between:?}");
        }
        let pretty = EVENT.replace(",\"", ",\n  \"");
        assert_eq!(decode(pretty.as_bytes()), [expected(EVENT, "4959")]);
    }

    #[test]
    fn what_does_not_decode_is_kept_and_the_rest_goes_on() {
        let decoded = decode(format!("{EVENT}\n{{\"event_id\":1}}\nnonsense").as_bytes());
        assert_eq!(decoded[0], expected(EVENT, "4959.0"));
        for (line, bytes) in decoded[1..].iter().zip(["{\"event_id\":1}", "nonsense"]) {
            let WireRecord::Reject(reject) = WireRecord::decode(line.as_bytes()).expect("decodes")
            else {
                panic!("{line}")
            };
            assert_eq!(BASE64.decode(&*reject.bytes_base64).expect("base64"), bytes.as_bytes());
            assert_eq!(reject.reason, RejectReason::Undecodable);
            assert_eq!(reject.shard_id.as_deref(), Some("shardId-000000000001"));
        }
        assert!(decoded[2].contains(r#""sequence_number":"4959.2""#), "{}", decoded[2]);
    }

    #[test]
    fn a_reject_keeps_the_number_that_its_collector_gave() {
        let line = &decode(br#"{"event_id":7,"wal_seq":12,"collector_id":"c-1"}"#)[0];
        let Ok(WireRecord::Reject(reject)) = WireRecord::decode(line.as_bytes()) else {
            panic!("{line}")
        };
        assert_eq!((reject.collector_id.as_deref(), reject.wal_seq), (Some("c-1"), Some(12)));
    }

    #[test]
    fn an_aggregates_records_are_numbered_and_damaged_ones_kept_whole() {
        let other = EVENT.replace("e1", "e2");
        let mut aggregate = kpl::Aggregate::new(7);
        aggregate.push("v1", format!("{EVENT}\n").as_bytes());
        aggregate.push("v2", b"");
        aggregate.push("v2", format!("{other}\n").as_bytes());
        let data = aggregate.finish();
        let lines = decode(&data);
        assert_eq!(lines[0], expected(EVENT, "4959.0"));
        assert!(lines[1].starts_with("{\"reject_id\"") && lines[1].contains("\"4959.1\""));
        assert_eq!(lines[2..], [expected(&other, "4959.2")]);

        let mut one = kpl::Aggregate::new(7);
        one.push("v1", EVENT.as_bytes());
        assert_eq!(decode(&one.finish()), [expected(EVENT, "4959.0")]);

        for cut in [1, 16, 40] {
            let damaged = &data[..data.len() - cut];
            let [line] = &decode(damaged)[..] else { panic!("not kept whole") };
            let WireRecord::Reject(reject) = WireRecord::decode(line.as_bytes()).expect("decodes")
            else {
                panic!("{line}")
            };
            assert_eq!(BASE64.decode(&*reject.bytes_base64).expect("base64"), damaged);
            assert_eq!(reject.sequence_number.as_deref(), Some("4959"));
        }
    }

    #[test]
    fn bytes_that_are_no_text_and_empty_records_are_rejects_too() {
        for data in [&b"\xf3\x89\x9a\xc2\x00"[..], b"", b"\n", b"\xff\n\xfe"] {
            let lines = decode(data);
            assert!(!lines.is_empty());
            assert!(lines.iter().all(|line| line.starts_with("{\"reject_id\"")), "{lines:?}");
        }
    }

    #[test]
    fn the_lineage_of_an_earlier_carrier_is_replaced_and_numbers_stay_verbatim() {
        let replayed = expected(EVENT, "1").replace("000000000001\"", "000000000009\"");
        assert_eq!(decode(replayed.as_bytes()), [expected(EVENT, "4959")]);
        for null in [r#","shard_id":null}"#, r#","sequence_number" : null}"#] {
            let line = format!("{}{null}", EVENT.strip_suffix('}').expect("object"));
            assert_eq!(decode(line.as_bytes()), [expected(EVENT, "4959")]);
        }
    }
}
