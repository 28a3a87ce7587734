//! An event's line, written by hand.
//!
//! It is byte for byte what serde writes (the test below holds it to that), and
//! quicker (benches/spool.rs of the collector says by how much): the collector
//! encodes in its callers' threads. A new field does not compile until it stands
//! here too, since both structs are taken apart without `..`.

use super::{Event, Item, TimeReason};
use crate::token::special;
use crate::{Money, RawJson, Timestamp};

/// A key with the comma before and the colon (and quote) behind it: one copy.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
    ($name:literal, $open:literal) => {
        concat!(",\"", $name, "\":", $open)
    };
}

/// Of a browser's event.
const TYPICAL_BYTES: usize = 1_024;

impl Event<'_> {
    /// As [`Event::encode`], appended to `line`.
    pub fn encode_to(&self, line: &mut Vec<u8>) {
        let Event {
            event_id,
            event_name,
            source_protocol,
            source_event_name,
            app_id,
            platform,
            event_ts,
            event_ts_reason,
            client_ts,
            sent_ts,
            received_ts,
            clock_skew_ms,
            user_id,
            anonymous_id,
            network_id,
            device_id,
            client_session_id,
            consent,
            page_url,
            page_title,
            referrer_url,
            utm_source,
            utm_medium,
            utm_campaign,
            utm_term,
            utm_content,
            click_id,
            click_id_type,
            user_agent,
            screen_width,
            screen_height,
            language,
            timezone,
            ip_truncated,
            country,
            region,
            city,
            validation,
            order_id,
            checkout_id,
            cart_id,
            currency,
            revenue,
            total,
            tax,
            shipping,
            discount,
            coupon,
            search_query,
            list_id,
            promotion_id,
            items,
            properties,
            context,
            collector_id,
            wal_seq,
            shard_id,
            sequence_number,
        } = self;
        line.reserve(TYPICAL_BYTES);
        let mut object = Object::begin(line);
        object.text(key!("event_id", "\""), Some(event_id));
        object.text(key!("event_name", "\""), Some(event_name));
        object.text(key!("source_protocol", "\""), Some(source_protocol));
        object.text(key!("source_event_name", "\""), source_event_name.as_deref());
        object.text(key!("app_id", "\""), Some(app_id));
        object.text(key!("platform", "\""), platform.as_deref());
        object.time(key!("event_ts", "\""), Some(*event_ts));
        object.text(key!("event_ts_reason", "\""), event_ts_reason.map(TimeReason::code));
        object.time(key!("client_ts", "\""), *client_ts);
        object.time(key!("sent_ts", "\""), *sent_ts);
        object.time(key!("received_ts", "\""), Some(*received_ts));
        object.number(key!("clock_skew_ms"), *clock_skew_ms);
        object.text(key!("user_id", "\""), user_id.as_deref());
        object.text(key!("anonymous_id", "\""), anonymous_id.as_deref());
        object.text(key!("network_id", "\""), network_id.as_deref());
        object.text(key!("device_id", "\""), device_id.as_deref());
        object.text(key!("client_session_id", "\""), client_session_id.as_deref());
        object.raw(key!("consent"), consent.as_ref());
        object.text(key!("page_url", "\""), page_url.as_deref());
        object.text(key!("page_title", "\""), page_title.as_deref());
        object.text(key!("referrer_url", "\""), referrer_url.as_deref());
        object.text(key!("utm_source", "\""), utm_source.as_deref());
        object.text(key!("utm_medium", "\""), utm_medium.as_deref());
        object.text(key!("utm_campaign", "\""), utm_campaign.as_deref());
        object.text(key!("utm_term", "\""), utm_term.as_deref());
        object.text(key!("utm_content", "\""), utm_content.as_deref());
        object.text(key!("click_id", "\""), click_id.as_deref());
        object.text(key!("click_id_type", "\""), click_id_type.as_deref());
        object.text(key!("user_agent", "\""), user_agent.as_deref());
        object.number(key!("screen_width"), screen_width.map(i64::from));
        object.number(key!("screen_height"), screen_height.map(i64::from));
        object.text(key!("language", "\""), language.as_deref());
        object.text(key!("timezone", "\""), timezone.as_deref());
        object.text(key!("ip_truncated", "\""), ip_truncated.as_deref());
        object.text(key!("country", "\""), country.as_deref());
        object.text(key!("region", "\""), region.as_deref());
        object.text(key!("city", "\""), city.as_deref());
        object.text(key!("validation", "\""), validation.as_deref());
        object.text(key!("order_id", "\""), order_id.as_deref());
        object.text(key!("checkout_id", "\""), checkout_id.as_deref());
        object.text(key!("cart_id", "\""), cart_id.as_deref());
        object.text(key!("currency", "\""), currency.as_deref());
        object.money(key!("revenue"), revenue.as_ref());
        object.money(key!("total"), total.as_ref());
        object.money(key!("tax"), tax.as_ref());
        object.money(key!("shipping"), shipping.as_ref());
        object.money(key!("discount"), discount.as_ref());
        object.text(key!("coupon", "\""), coupon.as_deref());
        object.text(key!("search_query", "\""), search_query.as_deref());
        object.text(key!("list_id", "\""), list_id.as_deref());
        object.text(key!("promotion_id", "\""), promotion_id.as_deref());
        if !items.is_empty() {
            object.line.extend_from_slice(key!("items").as_bytes());
            for (n, item) in items.iter().enumerate() {
                object.line.push(if n == 0 { b'[' } else { b',' });
                item.encode_to(object.line);
            }
            object.line.push(b']');
        }
        object.raw(key!("properties"), properties.as_ref());
        object.raw(key!("context"), context.as_ref());
        object.text(key!("collector_id", "\""), collector_id.as_deref());
        object.number(key!("wal_seq"), *wal_seq);
        object.text(key!("shard_id", "\""), shard_id.as_deref());
        object.text(key!("sequence_number", "\""), sequence_number.as_deref());
        object.end();
    }
}

impl Item<'_> {
    fn encode_to(&self, line: &mut Vec<u8>) {
        let Item {
            product_id,
            sku,
            name,
            brand,
            category,
            variant,
            price,
            quantity,
            coupon,
            position,
        } = self;
        let mut object = Object::begin(line);
        object.text(key!("product_id", "\""), product_id.as_deref());
        object.text(key!("sku", "\""), sku.as_deref());
        object.text(key!("name", "\""), name.as_deref());
        object.text(key!("brand", "\""), brand.as_deref());
        object.text(key!("category", "\""), category.as_deref());
        object.text(key!("variant", "\""), variant.as_deref());
        object.money(key!("price"), price.as_ref());
        object.number(key!("quantity"), *quantity);
        object.text(key!("coupon", "\""), coupon.as_deref());
        object.number(key!("position"), position.map(i64::from));
        object.end();
    }
}

/// A JSON object that is being written; what is `None` is left out.
struct Object<'a> {
    line: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Object<'a> {
    fn begin(line: &'a mut Vec<u8>) -> Self {
        Self { start: line.len(), line }
    }

    /// The comma before the first key becomes the opening brace.
    fn end(self) {
        match self.line.get_mut(self.start) {
            Some(first) => *first = b'{',
            None => self.line.push(b'{'),
        }
        self.line.push(b'}');
    }

    #[inline]
    fn text(&mut self, key: &str, value: Option<&str>) {
        let Some(value) = value else { return };
        self.line.extend_from_slice(key.as_bytes());
        if special(value.as_bytes(), 0) == value.len() {
            self.line.extend_from_slice(value.as_bytes());
        } else {
            escape(value, self.line);
        }
        self.line.push(b'"');
    }

    #[inline]
    fn time(&mut self, key: &str, value: Option<Timestamp>) {
        let Some(value) = value else { return };
        self.line.extend_from_slice(key.as_bytes());
        self.line.extend_from_slice(&value.text());
        self.line.push(b'"');
    }

    #[inline]
    fn money(&mut self, key: &str, value: Option<&Money>) {
        let Some(value) = value else { return };
        self.line.extend_from_slice(key.as_bytes());
        value.encode_to(self.line);
    }

    #[inline]
    fn number(&mut self, key: &str, value: Option<i64>) {
        let Some(value) = value else { return };
        self.line.extend_from_slice(key.as_bytes());
        self.line.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    #[inline]
    fn raw(&mut self, key: &str, value: Option<&RawJson<'_>>) {
        let Some(value) = value else { return };
        self.line.extend_from_slice(key.as_bytes());
        self.line.extend_from_slice(value.get().as_bytes());
    }
}

/// Escapes as serde_json does: what JSON demands, and nothing else.
fn escape(text: &str, line: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        line.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        let short = match byte {
            b'"' | b'\\' => byte,
            0x08 => b'b',
            b'\t' => b't',
            b'\n' => b'n',
            0x0c => b'f',
            b'\r' => b'r',
            _ => {
                let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
                line.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[high], HEX[low]]);
                continue;
            }
        };
        line.extend_from_slice(&[b'\\', short]);
    }
    line.extend_from_slice(&bytes[from..]);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::EventTime;

    /// Every field set, so that one that is forgotten, misspelt or out of its
    /// place shows.
    pub(in super::super) fn full(text: &str) -> Event<'static> {
        let at = |text| Timestamp::parse(text).expect(text);
        let time = EventTime::resolve(
            Some(at("2020-01-02T03:04:05.000006Z")),
            Some(at("2026-11-23T17:40:01Z")),
            at("2026-11-23T17:40:00.123456Z"),
        );
        let json = |value: serde_json::Value| RawJson::from_value(&value).expect("json");
        // From a map of every key serde knows: numbers where it wants them.
        let mut event = Event::new("id", "name", "protocol", "app", time);
        let encoded = serde_json::to_value(&event).expect("value");
        let mut map = encoded.as_object().expect("object").clone();
        for key in [
            "source_event_name",
            "platform",
            "user_id",
            "anonymous_id",
            "network_id",
            "device_id",
            "client_session_id",
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
            "coupon",
            "search_query",
            "list_id",
            "promotion_id",
            "collector_id",
            "shard_id",
            "sequence_number",
        ] {
            map.insert(key.to_owned(), format!("{key} {text}").into());
        }
        map.insert("screen_width".to_owned(), (-5).into());
        map.insert("screen_height".to_owned(), 0.into());
        map.insert("wal_seq".to_owned(), i64::MAX.into());
        let line = serde_json::to_string(&map).expect("line");
        let decoded: Event<'_> = serde_json::from_str(&line).expect(&line);
        event = decoded;
        let money = |text| Some(Money::parse(text).expect(text));
        event.revenue = money("12.30");
        event.total = money("-0.01");
        event.tax = money("0");
        event.shipping = money("123456789012.3456");
        event.discount = money("1");
        event.consent = Some(json(serde_json::json!({"ads": false})));
        event.properties = Some(json(serde_json::json!({"a": [1, 2], "t": text})));
        event.context = Some(json(serde_json::json!({"c": null})));
        let item = |n: i64| Item {
            product_id: Some(format!("p{n} {text}").into()),
            sku: Some("s".into()),
            name: Some(text.to_owned().into()),
            brand: Some("b".into()),
            category: Some("c".into()),
            variant: Some("v".into()),
            price: money("9.99"),
            quantity: Some(n),
            coupon: Some("k".into()),
            position: Some(-1),
        };
        event.items = vec![item(1), Item::default(), item(2)];
        owned(&event)
    }

    fn owned(event: &Event<'_>) -> Event<'static> {
        let line: &'static str = Box::leak(event.encode().into_boxed_str());
        serde_json::from_str(line).expect(line)
    }

    fn assert_same(event: &Event<'_>) {
        let mut line = b"before".to_vec();
        event.encode_to(&mut line);
        let line = String::from_utf8(line).expect("UTF-8");
        assert_eq!(line.strip_prefix("before"), Some(event.encode().as_str()));
    }

    #[test]
    fn every_key_is_listed_in_its_order_and_is_a_column() {
        // serde_json's map sorts, so the keys are read off the text by their place.
        let line = full("x").encode();
        let map: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&line).expect("an object");
        let mut keys: Vec<&str> = map.keys().map(String::as_str).collect();
        keys.sort_by_key(|key| line.find(&format!("\"{key}\":")));
        // `full` sets every field, but for items' own keys: those are no keys of the line.
        assert_eq!(keys, crate::EVENT_KEYS);
        let columns = crate::tables::EVENTS.columns;
        for key in crate::EVENT_KEYS {
            assert!(columns.iter().any(|column| column.name == *key), "{key}");
        }
    }

    #[test]
    fn it_is_byte_for_byte_what_serde_writes() {
        let every_byte: String = (0..=0x7f_u8).map(char::from).collect();
        for at in 0..20 {
            for special in ["\u{1f}", "\"", "\\", "\u{0}"] {
                let (before, after) = ("é".repeat(at), "\u{7f} !#[]".repeat(2));
                assert_same(&full(&format!("{before}{special}{after}")));
            }
        }
        for text in ["", "plain", "ünï 日本 😀 \u{2028}", "\"\\/\u{7f}", &every_byte] {
            assert_same(&full(text));
        }
        let at = Timestamp::parse("0001-01-01T00:00:00Z").expect("time");
        let bare = Event::new("", "n", "p", "a", EventTime::resolve(None, None, at));
        assert_same(&bare);
        let keys = full("x").encode().matches("\":").count();
        assert!(keys > 58 + 2 * 10, "{keys} keys: a field is not set by this test");
    }
}
