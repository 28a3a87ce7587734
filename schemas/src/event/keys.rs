//! The keys of an event's line, and what stands beside them.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::value::{CowStrDeserializer, MapAccessDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer as _, IntoDeserializer as _, MapAccess};
use serde_json::value::RawValue;

use super::Event;
use crate::{ObjectBuilder, RawJson, WireError};

/// Every key of an event, in the order in which lines are written. Each is a
/// column of the table `events`, too, of the kind that holds it exactly.
pub const EVENT_KEYS: &[&str] = &[
    "event_id",
    "event_name",
    "source_protocol",
    "source_event_name",
    "app_id",
    "platform",
    "event_ts",
    "event_ts_reason",
    "client_ts",
    "sent_ts",
    "received_ts",
    "clock_skew_ms",
    "user_id",
    "anonymous_id",
    "network_id",
    "device_id",
    "client_session_id",
    "consent",
    "page_url",
    "page_title",
    "referrer_url",
    "utm_source",
    "utm_medium",
    "utm_campaign",
    "utm_term",
    "utm_content",
    "click_id",
    "click_id_type",
    "user_agent",
    "screen_width",
    "screen_height",
    "language",
    "timezone",
    "ip_truncated",
    "country",
    "region",
    "city",
    "validation",
    "order_id",
    "checkout_id",
    "cart_id",
    "currency",
    "revenue",
    "total",
    "tax",
    "shipping",
    "discount",
    "coupon",
    "search_query",
    "list_id",
    "promotion_id",
    "items",
    "properties",
    "context",
    "collector_id",
    "wal_seq",
    "shard_id",
    "sequence_number",
];

/// An event with what its line holds beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct WholeEvent<'a> {
    /// The event.
    pub event: Box<Event<'a>>,
    /// The keys that are none of [`EVENT_KEYS`], with their values: an object.
    /// `None` where there are none.
    pub other: Option<RawJson<'static>>,
}

impl<'a> WholeEvent<'a> {
    /// Decodes an event's line as [`crate::WireRecord::decode`] does, and keeps the
    /// keys that it ignores.
    ///
    /// # Errors
    /// [`WireError`] where the line is no event.
    pub fn decode(line: &'a [u8]) -> Result<Self, WireError> {
        let text = std::str::from_utf8(line)?.trim();
        if let Some(event) = Event::decode_canonical(text) {
            return Ok(Self { event, other: None });
        }
        if !text.starts_with('{')
            || text.starts_with("{\"reject_id\"")
            || text.starts_with("{\"heartbeat_ts\"")
        {
            return Err(WireError::UnknownKind);
        }
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let whole = deserializer.deserialize_map(Visitor)?;
        deserializer.end()?;
        Ok(whole)
    }

    /// The line again: the event's keys in their order, then the others.
    pub fn encode_to(&self, line: &mut Vec<u8>) {
        encode_whole(&self.event, self.other.as_ref().map(RawJson::get), line);
    }
}

/// Appends the line of an event and of an object of other keys.
pub fn encode_whole(event: &Event<'_>, other: Option<&str>, line: &mut Vec<u8>) {
    event.encode_to(line);
    if let Some(entries) = other.and_then(|other| other.strip_prefix('{'))
        && entries != "}"
    {
        line.pop();
        line.push(b',');
        line.extend_from_slice(entries.as_bytes());
    }
}

struct Visitor;

impl<'de> de::Visitor<'de> for Visitor {
    type Value = WholeEvent<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
        let mut other = ObjectBuilder::default();
        let known = Known { map, other: &mut other, at: 0 };
        let event = Box::new(Event::deserialize(MapAccessDeserializer::new(known))?);
        Ok(WholeEvent { event, other: (!other.is_empty()).then(|| other.finish()) })
    }
}

/// Hands on the keys of an event, and keeps the others.
struct Known<'o, M> {
    map: M,
    other: &'o mut ObjectBuilder,
    /// Where the next key stands, in a line that is in order.
    at: usize,
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<M> Known<'_, M> {
    fn knows(&mut self, key: &str) -> bool {
        let ahead = EVENT_KEYS[self.at..].iter().position(|known| *known == key);
        let found = ahead
            .map(|n| self.at + n)
            .or_else(|| EVENT_KEYS[..self.at].iter().position(|known| *known == key));
        if let Some(found) = found {
            self.at = found + 1;
        }
        found.is_some()
    }
}

impl<'de, M: MapAccess<'de>> MapAccess<'de> for Known<'_, M> {
    type Error = M::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, M::Error> {
        while let Some(Key(key)) = self.map.next_key::<Key<'de>>()? {
            if self.knows(&key) {
                let key: CowStrDeserializer<'_, M::Error> = key.into_deserializer();
                return seed.deserialize(key).map(Some);
            }
            let value: &'de RawValue = self.map.next_value()?;
            self.other.raw(&key, &RawJson::from_raw(value));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, M::Error> {
        self.map.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WireRecord;

    const LINE: &str = r#"{"event_id":"e","event_name":"n","source_protocol":"p","app_id":"a","event_ts":"2026-11-23T17:40:00.000000Z","received_ts":"2026-11-23T17:40:01.000000Z","properties":{"n":1.10}}"#;

    #[test]
    fn what_no_key_is_known_for_is_kept_verbatim_and_stands_at_the_end() {
        let start = LINE.strip_suffix('}').expect("an object");
        let line =
            format!(r#"{start},"a\"b": 1.10 ,"new":[1, {{"x":null}}],"wal_seq":7,"new":0}}"#);
        let whole = WholeEvent::decode(line.as_bytes()).expect("decodes");
        let other = r#""a\"b":1.10,"new":[1,{"x":null}],"new":0"#;
        assert_eq!(whole.other.as_ref().map(RawJson::get), Some(format!("{{{other}}}").as_str()));
        let WireRecord::Event(event) = WireRecord::decode(line.as_bytes()).expect("decodes") else {
            panic!("{line}")
        };
        assert_eq!(whole.event, event);
        let mut again = Vec::new();
        whole.encode_to(&mut again);
        let again = String::from_utf8(again).expect("UTF-8");
        assert_eq!(again, format!(r#"{start},"wal_seq":7,{other}}}"#));
    }

    #[test]
    fn a_line_of_known_keys_in_any_order_has_no_others() {
        let turned = LINE.replacen("\"event_id\":\"e\",", "", 1);
        let turned = format!("{},\"event_id\":\"e\"}}", turned.strip_suffix('}').expect("object"));
        for line in [LINE, &turned] {
            let whole = WholeEvent::decode(line.as_bytes()).expect("decodes");
            assert_eq!((&*whole.event.event_id, whole.other), ("e", None), "{line}");
        }
    }

    #[test]
    fn what_the_wire_refuses_is_refused() {
        for line in [
            "",
            "[]",
            "{}",
            "null",
            r#"{"event_id":1}"#,
            r#"{"reject_id":"r"}"#,
            &format!("{LINE} {LINE}"),
            &LINE.replacen("\"event_id\":\"e\"", "\"event_id\":\"e\",\"event_id\":\"f\"", 1),
        ] {
            assert!(WholeEvent::decode(line.as_bytes()).is_err(), "{line}");
        }
    }
}
