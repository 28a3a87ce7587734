//! JSON text, checked and indexed in one pass.
//!
//! [`Json::parse`] accepts exactly the grammar of RFC 8259 and notes where each
//! value stands. After that every value is at hand without being read again:
//! its text as it came, its kind, how deep it is nested, its entries or
//! elements. Nothing is converted, so numbers keep their digits and duplicate
//! keys stay.
//!
//! The index takes 16 bytes for each value and key, so at most eight times the
//! text (`[1,1,...`), and lives as long as any [`Json`] of the text does.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use crate::json::compact;
use crate::token::{number, string};

/// A value of a text that was checked as a whole. Cloning costs nothing much.
#[derive(Clone)]
pub struct Json<'a> {
    index: Rc<Index<'a>>,
    at: u32,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonKind {
    /// `{...}`
    Object,
    /// `[...]`
    Array,
    /// `"..."`
    String,
    /// Digits, as they came.
    Number,
    /// `true` or `false`.
    Boolean,
    /// `null`
    Null,
}

/// The text is not one JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} at byte {at}")]
pub struct ScanError {
    /// Bytes before the place.
    pub at: usize,
    /// What should stand there.
    pub expected: &'static str,
}

struct Index<'a> {
    text: &'a str,
    nodes: Vec<Node>,
    /// There is white space between tokens somewhere.
    spaced: bool,
}

#[derive(Clone, Copy)]
struct Node {
    start: u32,
    end: u32,
    /// The first node that is not inside of this one. A key's value is next to it.
    after: u32,
    /// Levels of containers, itself included; saturates.
    depth: u16,
    kind: JsonKind,
    /// A string with a backslash.
    escaped: bool,
}

impl<'a> Json<'a> {
    /// Checks and indexes `text`, white space around the value included.
    ///
    /// # Errors
    /// [`ScanError`] where it is not exactly one JSON value, or has 4 GiB or more.
    pub fn parse(text: &'a str) -> Result<Self, ScanError> {
        if u32::try_from(text.len()).is_err() {
            return Err(ScanError { at: u32::MAX as usize, expected: "less text" });
        }
        let mut scanner = Scanner {
            bytes: text.as_bytes(),
            at: 0,
            nodes: Vec::with_capacity(text.len() / 16 + 1),
            open: Vec::new(),
            spaced: false,
        };
        scanner.scan()?;
        let Scanner { nodes, spaced, .. } = scanner;
        Ok(Self { index: Rc::new(Index { text, nodes, spaced }), at: 0 })
    }

    /// Its text, as it came.
    #[must_use]
    pub fn get(&self) -> &'a str {
        let node = self.node();
        self.index.text.get(node.start as usize..node.end as usize).unwrap_or_default()
    }

    /// Its text, without white space between tokens.
    #[must_use]
    pub fn compact(&self) -> Cow<'a, str> {
        if self.index.spaced { compact(self.get()) } else { Cow::Borrowed(self.get()) }
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> JsonKind {
        self.node().kind
    }

    /// How many levels of objects and arrays it has: 0 for a scalar, 1 for `{}`.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.node().depth.into()
    }

    /// A string's text; `None` for anything else, and for a string that no
    /// Unicode text can hold (half a surrogate pair). Borrows without escapes.
    #[must_use]
    pub fn text(&self) -> Option<Cow<'a, str>> {
        let node = self.node();
        if node.kind != JsonKind::String {
            return None;
        }
        let quoted = self.get();
        if node.escaped {
            return serde_json::from_str(quoted).ok().map(Cow::Owned);
        }
        quoted.get(1..quoted.len() - 1).map(Cow::Borrowed)
    }

    /// An array's elements, in order; nothing for anything else.
    pub fn elements(&self) -> impl Iterator<Item = Json<'a>> {
        let children = if self.kind() == JsonKind::Array { self.children() } else { 0..0 };
        self.walk(children)
    }

    /// An object's keys and values, in order, duplicates included; nothing for anything else.
    pub fn entries(&self) -> impl Iterator<Item = (Json<'a>, Json<'a>)> {
        let children = if self.kind() == JsonKind::Object { self.children() } else { 0..0 };
        let mut walk = self.walk(children);
        std::iter::from_fn(move || Some((walk.next()?, walk.next()?)))
    }

    /// How many entries or elements it has.
    #[must_use]
    pub fn len(&self) -> usize {
        match self.kind() {
            JsonKind::Object => self.walk(self.children()).count() / 2,
            JsonKind::Array => self.walk(self.children()).count(),
            _ => 0,
        }
    }

    /// True where it has neither entries nor elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.children().is_empty()
    }

    /// The nodes inside of it.
    fn children(&self) -> std::ops::Range<u32> {
        self.at + 1..self.node().after
    }

    fn walk(&self, std::ops::Range { start, end }: std::ops::Range<u32>) -> Walk<'a> {
        Walk { index: Rc::clone(&self.index), at: start, end }
    }

    fn node(&self) -> Node {
        self.index.nodes[self.at as usize]
    }
}

impl fmt::Debug for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get())
    }
}

/// Values that stand side by side.
struct Walk<'a> {
    index: Rc<Index<'a>>,
    at: u32,
    end: u32,
}

impl<'a> Iterator for Walk<'a> {
    type Item = Json<'a>;

    fn next(&mut self) -> Option<Json<'a>> {
        if self.at >= self.end {
            return None;
        }
        let value = Json { index: Rc::clone(&self.index), at: self.at };
        self.at = value.node().after;
        Some(value)
    }
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    /// Containers that are open, by node.
    open: Vec<u32>,
    spaced: bool,
}

impl Scanner<'_> {
    fn scan(&mut self) -> Result<(), ScanError> {
        self.skip_space();
        self.values()?;
        self.skip_space();
        if self.at < self.bytes.len() { Err(self.expected("the end")) } else { Ok(()) }
    }

    /// One value with all that is in it, without recursion.
    fn values(&mut self) -> Result<(), ScanError> {
        loop {
            if self.begin()? {
                continue;
            }
            // A value has ended: so may the containers around it.
            loop {
                let Some(&container) = self.open.last() else { return Ok(()) };
                let in_object = self.nodes[container as usize].kind == JsonKind::Object;
                self.space();
                match (self.peek(), in_object) {
                    (Some(b','), _) => {
                        self.at += 1;
                        self.space();
                        if in_object {
                            self.key()?;
                        }
                        break;
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.at += 1;
                        self.open.pop();
                        self.end(container);
                    }
                    (_, true) => return Err(self.expected("`,` or `}`")),
                    (_, false) => return Err(self.expected("`,` or `]`")),
                }
            }
        }
    }

    /// Begins a value, and ends it unless it is a container that holds
    /// something: then it is open, and true comes back.
    fn begin(&mut self) -> Result<bool, ScanError> {
        let (kind, close) = match self.peek() {
            Some(b'{') => (JsonKind::Object, b'}'),
            Some(b'[') => (JsonKind::Array, b']'),
            Some(b'"') => return self.string().map(|()| false),
            Some(b'-' | b'0'..=b'9') => return self.number().map(|()| false),
            Some(b't') => return self.literal(b"true", JsonKind::Boolean),
            Some(b'f') => return self.literal(b"false", JsonKind::Boolean),
            Some(b'n') => return self.literal(b"null", JsonKind::Null),
            _ => return Err(self.expected("a value")),
        };
        let node = self.push(kind, 1);
        self.at += 1;
        self.space();
        if self.peek() == Some(close) {
            self.at += 1;
            self.end(node);
            return Ok(false);
        }
        self.open.push(node);
        if kind == JsonKind::Object {
            self.key()?;
        }
        Ok(true)
    }

    /// A key, its colon, and the space around that.
    fn key(&mut self) -> Result<(), ScanError> {
        if self.peek() != Some(b'"') {
            return Err(self.expected("a key"));
        }
        self.string()?;
        self.space();
        if self.peek() != Some(b':') {
            return Err(self.expected("`:`"));
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    fn string(&mut self) -> Result<(), ScanError> {
        let node = self.push(JsonKind::String, 0);
        (self.at, self.nodes[node as usize].escaped) = string(self.bytes, self.at)?;
        self.end(node);
        Ok(())
    }

    fn number(&mut self) -> Result<(), ScanError> {
        let node = self.push(JsonKind::Number, 0);
        self.at = number(self.bytes, self.at)?;
        self.end(node);
        Ok(())
    }

    fn literal(&mut self, word: &[u8], kind: JsonKind) -> Result<bool, ScanError> {
        if !self.bytes[self.at..].starts_with(word) {
            return Err(self.expected("a value"));
        }
        let node = self.push(kind, 0);
        self.at += word.len();
        self.end(node);
        Ok(false)
    }

    // Positions fit: the text is shorter than 4 GiB, and has no more values than bytes.
    fn push(&mut self, kind: JsonKind, depth: u16) -> u32 {
        let (node, start) = (self.nodes.len() as u32, self.at as u32);
        self.nodes.push(Node { start, end: start, after: node + 1, depth, kind, escaped: false });
        node
    }

    /// The value of `node` ends here; its container is as deep as it, and one.
    fn end(&mut self, node: u32) {
        let (after, end) = (self.nodes.len() as u32, self.at as u32);
        let node = &mut self.nodes[node as usize];
        node.end = end;
        node.after = after;
        let depth = node.depth;
        if let Some(&container) = self.open.last() {
            let container = &mut self.nodes[container as usize];
            container.depth = container.depth.max(depth.saturating_add(1));
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Space between tokens.
    fn space(&mut self) {
        if matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.spaced = true;
            self.skip_space();
        }
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expected(&self, expected: &'static str) -> ScanError {
        ScanError { at: self.at, expected }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;
    use serde_json::value::RawValue;

    use super::*;
    use crate::token::{compact_value, special};

    /// The same value, by way of the index alone.
    fn value(json: &Json<'_>) -> Value {
        match json.kind() {
            JsonKind::Object => {
                let text = |key: Json<'_>| key.text().expect("a key").into_owned();
                Value::Object(json.entries().map(|(k, v)| (text(k), value(&v))).collect())
            }
            JsonKind::Array => Value::Array(json.elements().map(|v| value(&v)).collect()),
            JsonKind::String => Value::String(json.text().expect("text").into_owned()),
            _ => serde_json::from_str(json.get()).expect("a scalar"),
        }
    }

    fn nesting(value: &Value) -> usize {
        match value {
            Value::Object(map) => 1 + map.values().map(nesting).max().unwrap_or(0),
            Value::Array(all) => 1 + all.iter().map(nesting).max().unwrap_or(0),
            _ => 0,
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..6)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_serde_json_reads_is_read_the_same(sent in any_json(), pretty: bool) {
            let text = match pretty {
                true => format!(" {}\n", serde_json::to_string_pretty(&sent).expect("text")),
                false => sent.to_string(),
            };
            let json = Json::parse(&text).expect("valid");
            let raw: &RawValue = serde_json::from_str(&text).expect("valid");
            prop_assert_eq!(json.get(), raw.get());
            // Of floats serde_json itself reads the shortest text as another than it wrote.
            let sent: Value = serde_json::from_str(&text).expect("valid");
            prop_assert_eq!(value(&json), sent.clone());
            prop_assert_eq!(json.depth(), nesting(&sent));
            prop_assert_eq!(json.compact(), compact(raw.get()));
            let is_compact = json.compact().len() == text.len();
            prop_assert_eq!(compact_value(text.as_bytes(), 0), is_compact.then_some(text.len()));
        }

        #[test]
        fn what_serde_json_refuses_is_refused(
            sent in any_json(), at: prop::sample::Index, with in r#"[ \\"{}\[\]:,0-9eE.+u\x00-\x1ftrfalsn-]{0,3}"#,
            cut in 0_usize..3,
        ) {
            let mut text: Vec<char> = sent.to_string().chars().collect();
            let at = at.index(text.len());
            text.splice(at..(at + cut).min(text.len()), with.chars());
            let text: String = text.into_iter().collect();
            let judged = serde_json::from_str::<&RawValue>(&text);
            let read = compact_value(text.as_bytes(), 0) == Some(text.len());
            let is_compact = judged.as_ref().is_ok_and(|_| compact(&text).len() == text.len());
            prop_assert_eq!(read, is_compact, "{}", text);
            prop_assert_eq!(Json::parse(&text).is_ok(), judged.is_ok(), "{}: {:?}", text, judged.err());
        }

        #[test]
        fn the_first_special_byte_is_found(bytes in prop::collection::vec(any::<u8>(), 0..40), from in 0_usize..40) {
            let from = from.min(bytes.len());
            let is_special = |b: &u8| *b < 0x20 || *b == b'"' || *b == b'\\';
            let expected = bytes[from..].iter().position(is_special).map_or(bytes.len(), |n| from + n);
            prop_assert_eq!(special(&bytes, from), expected);
        }
    }

    #[test]
    fn an_error_says_where_and_what() {
        for (text, at, expected) in [
            ("", 0, "a value"),
            ("{\"a\" 1}", 5, "`:`"),
            ("[1 2]", 3, "`,` or `]`"),
            ("{\"a\":1,}", 7, "a key"),
            ("01", 1, "the end"),
            ("\"a\nb\"", 2, "no control character inside of a string"),
            ("\"\\u12", 5, "four hexadecimal digits"),
            ("nul", 0, "a value"),
        ] {
            assert_eq!(Json::parse(text).expect_err(text), ScanError { at, expected }, "{text}");
        }
    }

    #[test]
    fn deep_nesting_needs_no_stack() {
        let text = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        assert_eq!(Json::parse(&text).expect("valid").depth(), usize::from(u16::MAX));
        assert!(Json::parse(&text[1..]).is_err());
        for (levels, end) in [(65, Some(130)), (66, None)] {
            let text = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            assert_eq!(compact_value(text.as_bytes(), 0), end);
        }
    }

    #[test]
    fn duplicates_and_digits_stay_and_half_a_pair_is_no_text() {
        let json =
            Json::parse(r#"{"a":1.10,"a":1E+02,"b":"\ud83d","c":"\ud83d\ude00"}"#).expect("valid");
        let entries: Vec<_> = json.entries().map(|(k, v)| (k.get(), v.get(), v.text())).collect();
        assert_eq!(
            entries,
            [
                ("\"a\"", "1.10", None),
                ("\"a\"", "1E+02", None),
                ("\"b\"", "\"\\ud83d\"", None),
                ("\"c\"", "\"\\ud83d\\ude00\"", Some("😀".into())),
            ]
        );
        assert_eq!(json.len(), 4);
    }
}
