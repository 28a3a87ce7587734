//! What a line says of its way, whatever else is wrong with it.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::Timestamp;

/// The lineage of a line that need not be a record of the wire. A key whose value
/// has another type than it should is as good as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Random id of the spool that first held it.
    pub collector_id: Option<String>,
    /// Its position in that spool.
    pub wal_seq: Option<i64>,
    /// When it was received.
    pub received_ts: Option<Timestamp>,
    /// The shard that carried it.
    pub shard_id: Option<String>,
    /// Its sequence number there.
    pub sequence_number: Option<String>,
}

#[derive(Default, Deserialize)]
struct Keys<'a> {
    #[serde(borrow)]
    collector_id: Option<&'a RawValue>,
    #[serde(borrow)]
    wal_seq: Option<&'a RawValue>,
    #[serde(borrow)]
    received_ts: Option<&'a RawValue>,
    #[serde(borrow)]
    shard_id: Option<&'a RawValue>,
    #[serde(borrow)]
    sequence_number: Option<&'a RawValue>,
}

impl Lineage {
    /// Of a line. One that is no JSON object has none.
    #[must_use]
    pub fn of(line: &[u8]) -> Self {
        let keys: Keys<'_> = serde_json::from_slice(line).unwrap_or_default();
        Self {
            collector_id: value(keys.collector_id),
            wal_seq: value(keys.wal_seq),
            received_ts: value(keys.received_ts),
            shard_id: value(keys.shard_id),
            sequence_number: value(keys.sequence_number),
        }
    }
}

fn value<T: DeserializeOwned>(raw: Option<&RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_read_for_itself() {
        let line = br#"{"event_id":1,"collector_id":"c","wal_seq":7,"received_ts":"never","shard_id":2,"sequence_number":"49"}"#;
        let expected = Lineage {
            collector_id: Some("c".to_owned()),
            wal_seq: Some(7),
            sequence_number: Some("49".to_owned()),
            ..Lineage::default()
        };
        assert_eq!(Lineage::of(line), expected);
        for nothing in [&b""[..], b"[]", b"null", b"{\"wal_seq\":7", b"\xff"] {
            assert_eq!(Lineage::of(nothing), Lineage::default());
        }
    }
}
