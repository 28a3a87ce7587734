//! An event's line, read by hand.
//!
//! Lines that [`Event::encode`] wrote, and that got their lineage by
//! [`crate::append_lineage`], are read in one pass from key to key. In any other form
//! (another order, white space, keys of a newer version, null) the same event is
//! serde's to read: here it is `None`, as what is no event at all is. What both read is
//! the same; the tests below and the fuzzers hold them to that.

use std::borrow::Cow;
use std::str::FromStr;

use super::{Event, Item, TimeReason};
use crate::token::{compact_value, number, special, string};
use crate::{Money, RawJson, Timestamp};

/// A key as it stands behind a brace or comma.
macro_rules! key {
    ($name:literal) => {
        concat!("\"", $name, "\":")
    };
}

impl<'a> Event<'a> {
    /// Reads a line as [`Event::encode`] writes it. `None` where it is not in that form,
    /// which does not mean that it is no event.
    pub(crate) fn decode_canonical(text: &'a str) -> Option<Box<Self>> {
        let mut line = Line { text, at: 0, separator: b'{' };
        let event = Box::new(Self {
            event_id: line.string(key!("event_id"))??,
            event_name: line.string(key!("event_name"))??,
            source_protocol: line.string(key!("source_protocol"))??,
            source_event_name: line.text(key!("source_event_name"))?,
            app_id: line.string(key!("app_id"))??,
            platform: line.text(key!("platform"))?,
            event_ts: line.time(key!("event_ts"))??,
            event_ts_reason: line.reason(key!("event_ts_reason"))?,
            client_ts: line.time(key!("client_ts"))?,
            sent_ts: line.time(key!("sent_ts"))?,
            received_ts: line.time(key!("received_ts"))??,
            clock_skew_ms: line.integer(key!("clock_skew_ms"))?,
            user_id: line.text(key!("user_id"))?,
            anonymous_id: line.text(key!("anonymous_id"))?,
            network_id: line.text(key!("network_id"))?,
            device_id: line.text(key!("device_id"))?,
            client_session_id: line.text(key!("client_session_id"))?,
            consent: line.raw(key!("consent"))?,
            page_url: line.text(key!("page_url"))?,
            page_title: line.text(key!("page_title"))?,
            referrer_url: line.text(key!("referrer_url"))?,
            utm_source: line.text(key!("utm_source"))?,
            utm_medium: line.text(key!("utm_medium"))?,
            utm_campaign: line.text(key!("utm_campaign"))?,
            utm_term: line.text(key!("utm_term"))?,
            utm_content: line.text(key!("utm_content"))?,
            click_id: line.text(key!("click_id"))?,
            click_id_type: line.text(key!("click_id_type"))?,
            user_agent: line.text(key!("user_agent"))?,
            screen_width: line.integer(key!("screen_width"))?,
            screen_height: line.integer(key!("screen_height"))?,
            language: line.text(key!("language"))?,
            timezone: line.text(key!("timezone"))?,
            ip_truncated: line.text(key!("ip_truncated"))?,
            country: line.text(key!("country"))?,
            region: line.text(key!("region"))?,
            city: line.text(key!("city"))?,
            validation: line.text(key!("validation"))?,
            order_id: line.text(key!("order_id"))?,
            checkout_id: line.text(key!("checkout_id"))?,
            cart_id: line.text(key!("cart_id"))?,
            currency: line.text(key!("currency"))?,
            revenue: line.money(key!("revenue"))?,
            total: line.money(key!("total"))?,
            tax: line.money(key!("tax"))?,
            shipping: line.money(key!("shipping"))?,
            discount: line.money(key!("discount"))?,
            coupon: line.text(key!("coupon"))?,
            search_query: line.text(key!("search_query"))?,
            list_id: line.text(key!("list_id"))?,
            promotion_id: line.text(key!("promotion_id"))?,
            items: line.items(key!("items"))?,
            properties: line.raw(key!("properties"))?,
            context: line.raw(key!("context"))?,
            collector_id: line.text(key!("collector_id"))?,
            wal_seq: line.integer(key!("wal_seq"))?,
            shard_id: line.text(key!("shard_id"))?,
            sequence_number: line.text(key!("sequence_number"))?,
        });
        line.end()?;
        (line.at == text.len()).then_some(event)
    }
}

/// A line that is being read. Its methods hand on the value of the next key where that
/// is the one named, `Some(None)` where it is another, and `None` where the value is
/// not in canonical form.
struct Line<'a> {
    text: &'a str,
    at: usize,
    /// What stands before the next key: a brace, later commas.
    separator: u8,
}

impl<'a> Line<'a> {
    /// Passes the next key, where it is this one. Inlined, so that its length is known.
    #[inline(always)]
    fn key(&mut self, key: &str) -> bool {
        let rest = &self.text.as_bytes()[self.at..];
        let found = rest.first() == Some(&self.separator) && rest[1..].starts_with(key.as_bytes());
        if found {
            self.at += 1 + key.len();
            self.separator = b',';
        }
        found
    }

    /// Passes the closing brace.
    fn end(&mut self) -> Option<()> {
        if self.separator == b'{' {
            self.pass(b'{')?;
        }
        self.pass(b'}')
    }

    fn pass(&mut self, byte: u8) -> Option<()> {
        let found = self.text.as_bytes().get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found.then_some(())
    }

    /// The text up to `end`.
    fn until(&mut self, end: usize) -> Option<&'a str> {
        let text = self.text.get(self.at..end);
        self.at = end;
        text
    }

    /// A string between its quotes, where it has no escapes; `None` where it has.
    fn plain(&mut self) -> Option<&'a str> {
        self.pass(b'"')?;
        let text = self.until(special(self.text.as_bytes(), self.at))?;
        self.pass(b'"')?;
        Some(text)
    }

    #[inline(always)]
    fn string(&mut self, key: &str) -> Option<Option<Cow<'a, str>>> {
        if self.key(key) { self.string_value().map(Some) } else { Some(None) }
    }

    fn string_value(&mut self) -> Option<Cow<'a, str>> {
        let start = self.at;
        if let Some(text) = self.plain() {
            return Some(Cow::Borrowed(text));
        }
        self.at = start;
        let quoted = self.until(self.string_end()?)?;
        Some(Cow::Owned(serde_json::from_str(quoted).ok()?))
    }

    fn string_end(&self) -> Option<usize> {
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) != Some(&b'"') {
            return None;
        }
        string(bytes, self.at).ok().map(|(end, _)| end)
    }

    /// An empty one is none.
    #[inline(always)]
    fn text(&mut self, key: &str) -> Option<Option<Cow<'a, str>>> {
        if self.key(key) { self.text_value() } else { Some(None) }
    }

    fn text_value(&mut self) -> Option<Option<Cow<'a, str>>> {
        Some(Some(self.string_value()?).filter(|text| !text.is_empty()))
    }

    #[inline(always)]
    fn time(&mut self, key: &str) -> Option<Option<Timestamp>> {
        if self.key(key) { self.time_value().map(Some) } else { Some(None) }
    }

    fn time_value(&mut self) -> Option<Timestamp> {
        Timestamp::parse(self.plain()?).ok()
    }

    fn reason(&mut self, key: &str) -> Option<Option<TimeReason>> {
        if !self.key(key) {
            return Some(None);
        }
        TimeReason::of_code(self.plain()?).map(Some)
    }

    /// A number's text.
    fn number(&mut self) -> Option<&'a str> {
        let end = number(self.text.as_bytes(), self.at).ok()?;
        self.until(end)
    }

    #[inline(always)]
    fn integer<N: FromStr>(&mut self, key: &str) -> Option<Option<N>> {
        if self.key(key) { self.integer_value().map(Some) } else { Some(None) }
    }

    fn integer_value<N: FromStr>(&mut self) -> Option<N> {
        // serde reads a minus and a zero as a float.
        self.number().filter(|text| *text != "-0")?.parse().ok()
    }

    #[inline(always)]
    fn money(&mut self, key: &str) -> Option<Option<Money>> {
        if self.key(key) { self.money_value().map(Some) } else { Some(None) }
    }

    fn money_value(&mut self) -> Option<Money> {
        Money::parse(self.number()?).ok()
    }

    #[inline(always)]
    fn raw(&mut self, key: &str) -> Option<Option<RawJson<'a>>> {
        if self.key(key) { self.raw_value().map(Some) } else { Some(None) }
    }

    fn raw_value(&mut self) -> Option<RawJson<'a>> {
        let end = compact_value(self.text.as_bytes(), self.at)?;
        let text = self.until(end)?;
        // serde reads it as no value.
        (text != "null").then(|| RawJson::of_compact(text))
    }

    fn items(&mut self, key: &str) -> Option<Vec<Item<'a>>> {
        let mut items = Vec::new();
        if !self.key(key) {
            return Some(items);
        }
        self.pass(b'[')?;
        loop {
            items.push(self.item()?);
            if self.pass(b',').is_none() {
                break;
            }
        }
        self.pass(b']')?;
        Some(items)
    }

    fn item(&mut self) -> Option<Item<'a>> {
        self.separator = b'{';
        let item = Item {
            product_id: self.text(key!("product_id"))?,
            sku: self.text(key!("sku"))?,
            name: self.text(key!("name"))?,
            brand: self.text(key!("brand"))?,
            category: self.text(key!("category"))?,
            variant: self.text(key!("variant"))?,
            price: self.money(key!("price"))?,
            quantity: self.integer(key!("quantity"))?,
            coupon: self.text(key!("coupon"))?,
            position: self.integer(key!("position"))?,
        };
        self.end()?;
        self.separator = b',';
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::encode::tests::full;
    use super::*;
    use crate::{WholeEvent, WireRecord, append_lineage};

    fn by_serde(line: &str) -> Result<Event<'_>, serde_json::Error> {
        serde_json::from_str(line)
    }

    #[test]
    fn what_encode_writes_is_read_as_serde_reads_it() {
        let every_byte: String = (0..=0x7f_u8).map(char::from).collect();
        for text in ["plain", "", "ünï 日本 😀 \u{2028}", "\"\\/\u{7f}", &every_byte] {
            let line = full(text).encode();
            let event = Event::decode_canonical(&line);
            assert_eq!(event, Some(Box::new(by_serde(&line).expect("an event"))), "{line}");
        }
    }

    #[test]
    fn lineage_that_was_appended_is_read() {
        let mut event = full("x");
        event.shard_id = None;
        event.sequence_number = None;
        let mut line = event.encode().into_bytes();
        let number = RawJson::from_value(&"4959.1").expect("json");
        append_lineage(&mut line, &[("shard_id", number.clone()), ("sequence_number", number)]);
        let line = String::from_utf8(line).expect("UTF-8");
        let event = Event::decode_canonical(&line).expect("canonical");
        assert_eq!(event.sequence_number.as_deref(), Some("4959.1"));
        assert_eq!(*event, by_serde(&line).expect("an event"));
    }

    #[test]
    fn text_is_borrowed_where_it_has_no_escapes() {
        let line = full("x").encode();
        let event = Event::decode_canonical(&line).expect("canonical");
        assert!(matches!(event.event_id, Cow::Borrowed(_)));
        assert!(matches!(event.page_url, Some(Cow::Borrowed(_))));
        assert!(matches!(event.items[0].sku, Some(Cow::Borrowed(_))));
    }

    /// Every form that serde reads and this does not reaches serde, through the wire.
    #[test]
    fn any_other_form_is_serdes() {
        let line = full("x").encode();
        for (canonical, other) in [
            (",\"app_id\"", " ,\"app_id\""),
            ("\"app_id\":\"app\",", "\"app_id\": \"app\","),
            ("\"app_id\":\"app\",", "\"hologram\":[1],\"app_id\":\"app\","),
            (
                "\"event_id\":\"id\",\"event_name\":\"name\",",
                "\"event_name\":\"name\",\"event_id\":\"id\",",
            ),
            ("\"consent\":{\"ads\":false},", "\"consent\":null,"),
            ("{\"ads\":false}", "{ \"ads\" : false }"),
            ("\"screen_height\":0,", "\"screen_height\":null,"),
            ("\"revenue\":12.3,", "\"revenue\":\"12.3\","),
        ] {
            let other = line.replacen(canonical, other, 1);
            assert_ne!(line, other, "{canonical}");
            assert_eq!(Event::decode_canonical(&other), None, "{other}");
            let expected = Box::new(by_serde(&other).expect("an event"));
            assert_eq!(
                WireRecord::decode(other.as_bytes()).expect("decodes"),
                WireRecord::Event(expected.clone())
            );
            assert_eq!(WholeEvent::decode(other.as_bytes()).expect("decodes").event, expected);
        }
    }

    /// What is wrong with these no JSON reader may overlook.
    #[test]
    fn what_is_no_event_is_none() {
        let line = full("x").encode();
        for (right, wrong) in [
            ("\"revenue\":12.3,", "\"revenue\":012.3,"),
            ("\"revenue\":12.3,", "\"revenue\":12.,"),
            ("\"screen_height\":0,", "\"screen_height\":-0,"),
            ("\"screen_height\":0,", "\"screen_height\":00,"),
            ("\"screen_height\":0,", "\"screen_height\":2147483648,"),
            ("{\"ads\":false}", "{\"ads\":false,}"),
            ("{\"ads\":false}", "{\"ads\":fals}"),
            ("{\"ads\":false}", "[1,2"),
            ("\"app_id\":\"app\"", "\"app_id\":\"a\u{1}\""),
            ("\"app_id\":\"app\"", "\"app_id\":\"\\ud800\""),
            ("\"app_id\":\"app\",", "\"app_id\":\"app\",\"app_id\":\"app\","),
            ("\"app_id\":\"app\",", ""),
        ] {
            let wrong = line.replacen(right, wrong, 1);
            assert_ne!(line, wrong, "{right}");
            assert_eq!(Event::decode_canonical(&wrong), None, "{wrong}");
            assert!(by_serde(&wrong).is_err(), "{wrong}");
        }
        assert_eq!(Event::decode_canonical(&format!("{line} ")), None);
        assert_eq!(Event::decode_canonical(&format!("{line}{line}")), None);
        for end in (0..line.len()).filter(|end| line.is_char_boundary(*end)) {
            assert_eq!(Event::decode_canonical(&line[..end]), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_096))]

        /// A line with a few pieces changed is what serde says, or left to it.
        #[test]
        fn a_changed_line_is_never_read_otherwise(
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0..4_usize, "[{}\\[\\],:\"\\\\0-9.eEuntrl -]{0,3}"), 1..4),
        ) {
            let mut line = full("a\"b").encode();
            for (at, remove, insert) in changes {
                let at = at.index(line.len());
                let end = (at + remove).min(line.len());
                line.replace_range(at..end, &insert);
            }
            if let Some(event) = Event::decode_canonical(&line) {
                prop_assert_eq!(*event, by_serde(&line).expect("serde reads it, too"));
            }
        }
    }
}
