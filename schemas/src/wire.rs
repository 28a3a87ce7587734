//! The records that travel on the wire, one JSON object a line.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{Event, RawJson, Timestamp};

/// Version of the encoding that this crate writes. Golden files pin it.
pub const WIRE_VERSION: u32 = 1;

/// One line of the wire.
#[derive(Clone, Debug, PartialEq)]
pub enum WireRecord<'a> {
    /// A decoded event.
    Event(Box<Event<'a>>),
    /// Input that could not be decoded.
    Reject(Reject<'a>),
    /// A collector's sign of life.
    Heartbeat(Heartbeat<'a>),
}

/// Input that could not become an event, with its bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct Reject<'a> {
    /// Unique id of this reject.
    pub reject_id: Cow<'a, str>,
    /// When it was received.
    pub received_ts: Timestamp,
    /// What it was sent as: a protocol of the collector, `import`, or a source's name.
    pub protocol: Cow<'a, str>,
    /// Why it is here.
    pub reason: RejectReason,
    /// The decoder's own words: what, where, and what to do.
    pub detail: Cow<'a, str>,
    /// Where it came from: the route, or the file and row.
    pub origin: Cow<'a, str>,
    /// The application it was sent for, where that could be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_id: Option<Cow<'a, str>>,
    /// The bytes, in standard base64.
    pub bytes_base64: Cow<'a, str>,
    /// Random id of the spool that first held it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collector_id: Option<Cow<'a, str>>,
    /// Its position in that spool: rejects and events count together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_seq: Option<i64>,
    /// The Kinesis shard that carried it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard_id: Option<Cow<'a, str>>,
    /// Its sequence number there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence_number: Option<Cow<'a, str>>,
}

/// Why something was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// Not JSON (or whatever the protocol demands), or cut short.
    Malformed,
    /// A field is missing without which there is no event.
    MissingField,
    /// A field has a type or value that the protocol does not allow.
    InvalidField,
    /// Over a size limit.
    TooLarge,
    /// A kind of message that is not known.
    UnknownType,
    /// An export's value that does not cast to its column's type.
    BadValue,
    /// A line of the raw zone that no reader of ours can decode.
    Undecodable,
}

/// What a collector says of itself, so that an audit can tell "nothing
/// happened" from "we do not know".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct Heartbeat<'a> {
    /// When it was written.
    pub heartbeat_ts: Timestamp,
    /// The collector.
    pub collector_id: Cow<'a, str>,
    /// The highest `wal_seq` it has given out; 0 before the first.
    pub last_wal_seq: i64,
    /// True in the last one before an orderly end.
    #[serde(default)]
    pub closing: bool,
}

/// A line that is no [`WireRecord`].
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Its first key is none of `event_id`, `reject_id`, `heartbeat_ts`.
    #[error("the line does not start with one of the keys event_id, reject_id, heartbeat_ts")]
    UnknownKind,
    /// The line is not valid JSON, or a field has the wrong type.
    #[error("the line does not decode: {0}")]
    Decode(#[from] serde_json::Error),
    /// The bytes are not UTF-8.
    #[error("the line is not UTF-8: {0}")]
    Utf8(#[from] std::str::Utf8Error),
}

impl RejectReason {
    /// Its code in tables and on the wire.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::MissingField => "missing_field",
            Self::InvalidField => "invalid_field",
            Self::TooLarge => "too_large",
            Self::UnknownType => "unknown_type",
            Self::BadValue => "bad_value",
            Self::Undecodable => "undecodable",
        }
    }
}

impl<'a> WireRecord<'a> {
    /// Decodes one line (without its newline). Text is borrowed where it has no escapes.
    ///
    /// Events may have their keys in any order: only rejects and heartbeats are
    /// told by their first key.
    ///
    /// # Errors
    /// [`WireError`] where the line is no record of this wire.
    pub fn decode(line: &'a [u8]) -> Result<Self, WireError> {
        let text = std::str::from_utf8(line)?.trim();
        if text.starts_with("{\"reject_id\"") {
            Ok(Self::Reject(serde_json::from_str(text)?))
        } else if text.starts_with("{\"heartbeat_ts\"") {
            Ok(Self::Heartbeat(serde_json::from_str(text)?))
        } else if let Some(event) = Event::decode_canonical(text) {
            Ok(Self::Event(event))
        } else if text.starts_with('{') {
            Ok(Self::Event(Box::new(serde_json::from_str(text)?)))
        } else {
            Err(WireError::UnknownKind)
        }
    }

    /// Encodes to one line, without a newline at its end.
    #[must_use]
    pub fn encode(&self) -> String {
        let encoded = match self {
            Self::Event(event) => serde_json::to_string(event),
            Self::Reject(reject) => serde_json::to_string(reject),
            Self::Heartbeat(heartbeat) => serde_json::to_string(heartbeat),
        };
        // These types have string keys only and every RawJson is valid: it cannot fail.
        encoded.unwrap_or_default()
    }
}

impl Event<'_> {
    /// Encodes to one canonical line, without a newline at its end.
    #[must_use]
    pub fn encode(&self) -> String {
        // String keys only, and every RawJson is valid by construction: it cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Appends string or number keys to an encoded line, in place of parsing it again.
///
/// `line` must be an encoded [`WireRecord`] without newline; it ends up with
/// `,"key":value` for each pair before its closing brace. A value is JSON text:
/// see [`RawJson::from_value`]. The keys must not be in the line already: each
/// stage adds only what is its own.
pub fn append_lineage(line: &mut Vec<u8>, pairs: &[(&str, RawJson<'_>)]) {
    debug_assert_eq!(line.last(), Some(&b'}'), "not an encoded record");
    line.pop();
    for (key, value) in pairs {
        line.extend_from_slice(b",\"");
        line.extend_from_slice(key.as_bytes());
        line.extend_from_slice(b"\":");
        line.extend_from_slice(value.get().as_bytes());
    }
    line.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EventTime;

    fn event() -> Event<'static> {
        let at = |text| Timestamp::parse(text).expect(text);
        let time = EventTime::resolve(
            Some(at("2026-11-23T17:39:59.5Z")),
            None,
            at("2026-11-23T17:40:00Z"),
        );
        Event::new("e1", "page_view", "segment", "shop", time)
    }

    #[test]
    fn lineage_is_appended_without_parsing() {
        let mut line = event().encode().into_bytes();
        append_lineage(
            &mut line,
            &[
                ("collector_id", RawJson::from_value(&"c\"1").expect("json")),
                ("wal_seq", RawJson::from_value(&7).expect("json")),
            ],
        );
        let mut expected = event();
        expected.collector_id = Some("c\"1".into());
        expected.wal_seq = Some(7);
        assert_eq!(
            WireRecord::decode(&line).expect("decodes"),
            WireRecord::Event(Box::new(expected.clone()))
        );
        assert_eq!(String::from_utf8(line).expect("utf8"), expected.encode());
    }

    #[test]
    fn the_numbers_of_properties_stay_verbatim() {
        let mut sent = event();
        sent.properties =
            Some(RawJson::parse(r#"{"a":1.10,"b":12345678901234567890123}"#).expect("json"));
        let line = sent.encode();
        assert!(line.contains(r#""properties":{"a":1.10,"b":12345678901234567890123}"#), "{line}");
        assert_eq!(
            WireRecord::decode(line.as_bytes()).expect("decodes"),
            WireRecord::Event(Box::new(sent))
        );
    }

    #[test]
    fn keys_of_a_newer_version_are_ignored() {
        let line = event().encode().replace("\"app_id\"", "\"hologram\":[1],\"app_id\"");
        assert_eq!(
            WireRecord::decode(line.as_bytes()).expect("decodes"),
            WireRecord::Event(Box::new(event()))
        );
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for line in ["", "[]", "{}", "{\"event_id\":1}", "null", "{\"event_id\":\"a\""] {
            assert!(WireRecord::decode(line.as_bytes()).is_err(), "{line}");
        }
        assert!(WireRecord::decode(b"{\"event_id\":\"\xff\"}").is_err());
    }
}
