//! What a sink needs to know of a spool's line: whose it is, and what goes in
//! its place where it is too large for a record.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clickmill_schemas::{Reject, RejectReason, Timestamp, WireRecord};
use serde::Deserialize;

use super::{RecordKind, SpoolRecord};

/// Characters of a partition key (Kinesis API Reference, `PartitionKey`).
pub const MAX_PARTITION_KEY_CHARS: usize = 256;
/// Of a line too large for a record, a reject keeps this much; base64 makes it
/// a third longer.
const KEPT_BYTES: usize = 512 * 1024;
/// The key of a line without any id; ours always have one.
const NO_ID: &str = "clickmill";

/// A line and its newline, as a record takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The visitor, else the event, else the collector: what keeps its order.
    pub partition_key: String,
    /// Within the sink's cap.
    pub data: Bytes,
}

/// What a record of a sink holds at most, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordCap {
    /// The data alone.
    Data(usize),
    /// The data and its partition key.
    DataAndKey(usize),
}

/// The parts of a line that its key and a reject of it need.
#[derive(Default, Deserialize)]
struct Ids<'a> {
    #[serde(borrow, default)]
    anonymous_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    network_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    device_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    user_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    event_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reject_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    app_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    collector_id: Option<Cow<'a, str>>,
    #[serde(default)]
    received_ts: Option<Timestamp>,
}

impl Line {
    /// The record's line, or the reject in its place where line and newline are
    /// over the cap. `sink` names the reject's protocol.
    pub fn new(record: &SpoolRecord, cap: RecordCap, sink: &'static str) -> Self {
        // A line of ours always decodes; one that does not still gets out.
        let ids: Ids<'_> = serde_json::from_slice(&record.line).unwrap_or_default();
        let partition_key = ids.partition_key();
        let (max_bytes, key) = match cap {
            RecordCap::Data(bytes) => (bytes, 0),
            RecordCap::DataAndKey(bytes) => (bytes, partition_key.len()),
        };
        let room = max_bytes.saturating_sub(key + 1);
        let mut data = if record.line.len() > room {
            tracing::warn!(
                wal_seq = record.wal_seq,
                bytes = record.line.len(),
                sink,
                "a record too large for the sink becomes a reject"
            );
            too_large(record, &ids, max_bytes, sink).into_bytes()
        } else {
            let mut data = Vec::with_capacity(record.line.len() + 1);
            data.extend_from_slice(&record.line);
            data
        };
        data.push(b'\n');
        Self { partition_key, data: data.into() }
    }
}

impl Ids<'_> {
    fn partition_key(&self) -> String {
        let ids = [
            &self.anonymous_id,
            &self.network_id,
            &self.device_id,
            &self.user_id,
            &self.event_id,
            &self.reject_id,
            &self.collector_id,
        ];
        let key = ids.into_iter().find_map(|id| id.as_deref().filter(|id| !id.is_empty()));
        key.unwrap_or(NO_ID).chars().take(MAX_PARTITION_KEY_CHARS).collect()
    }
}

/// The reject that goes in place of a line larger than `max_bytes`.
fn too_large(record: &SpoolRecord, ids: &Ids<'_>, max_bytes: usize, sink: &'static str) -> String {
    let kept = &record.line[..record.line.len().min(KEPT_BYTES).min(max_bytes / 2)];
    let id = ids.event_id.as_deref().or(ids.reject_id.as_deref()).unwrap_or("unknown");
    let id: String = id.chars().take(MAX_PARTITION_KEY_CHARS).collect();
    WireRecord::Reject(Reject {
        reject_id: format!("{id}-too-large").into(),
        received_ts: ids.received_ts.unwrap_or_else(Timestamp::now),
        protocol: sink.into(),
        reason: RejectReason::TooLarge,
        detail: format!(
            "{} bytes; a record of the sink has at most {max_bytes}. The first {} bytes are kept",
            record.line.len(),
            kept.len()
        )
        .into(),
        origin: "sink".into(),
        app_id: ids.app_id.as_deref().map(Into::into),
        bytes_base64: STANDARD.encode(kept).into(),
        collector_id: ids.collector_id.as_deref().map(Into::into),
        wal_seq: (record.kind != RecordKind::Heartbeat).then_some(record.wal_seq),
        shard_id: None,
        sequence_number: None,
    })
    .encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;
    const CAP: RecordCap = RecordCap::DataAndKey(MIB);

    fn record(line: impl Into<Bytes>) -> SpoolRecord {
        SpoolRecord { wal_seq: 9, kind: RecordKind::Event, line: line.into() }
    }

    #[test]
    fn a_line_that_just_fits_goes_and_one_more_byte_becomes_a_reject() {
        let line = |padding: usize| {
            let padding = "x".repeat(padding);
            record(format!(r#"{{"event_id":"e","app_id":"a","collector_id":"c","x":"{padding}"}}"#))
        };
        let size = |line: &Line| line.partition_key.len() + line.data.len();
        let empty = line(0).line.len();
        // The key "e" and the newline count, too.
        let fits = Line::new(&line(MIB - empty - 2), CAP, "kinesis");
        assert_eq!(size(&fits), MIB);
        let sent = Line::new(&line(MIB - empty - 1), CAP, "kinesis");
        assert!(size(&sent) <= MIB);
        let WireRecord::Reject(reject) = WireRecord::decode(&sent.data).expect("decodes") else {
            panic!("no reject");
        };
        assert_eq!((reject.reason, reject.wal_seq), (RejectReason::TooLarge, Some(9)));
        assert_eq!(reject.collector_id.as_deref(), Some("c"));
        assert_eq!(reject.app_id.as_deref(), Some("a"));
        assert!(line(MIB).line.starts_with(&STANDARD.decode(&*reject.bytes_base64).expect("b64")));
    }

    #[test]
    fn the_key_is_the_visitor_and_at_most_256_characters() {
        let key = |line: &str| Line::new(&record(line.to_owned()), CAP, "kinesis").partition_key;
        assert_eq!(key(r#"{"event_id":"e","user_id":"u","anonymous_id":"a\"b"}"#), "a\"b");
        assert_eq!(key(r#"{"event_id":"e","user_id":"u","device_id":"d"}"#), "d");
        assert_eq!(key(r#"{"event_id":"e"}"#), "e");
        assert_eq!(key(r#"{"reject_id":"r"}"#), "r");
        assert_eq!(key(r#"{"heartbeat_ts":"t","collector_id":"c"}"#), "c");
        assert_eq!(key(&format!("{{\"event_id\":\"{}\"}}", "ü".repeat(300))), "ü".repeat(256));
        assert_eq!(key("nonsense"), NO_ID);
    }
}
