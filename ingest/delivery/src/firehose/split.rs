//! Cuts a stream of bytes into JSON values, however they are set apart.
//!
//! Firehose concatenates records as they came: with newlines where the producer
//! or `AppendDelimiterToRecord` adds them, else run together (`}{`). A value is
//! followed from its first `{` to the `}` that closes it, whatever stands in its
//! strings. What is no value is cut where it must have ended, so that damage
//! costs as little as it can: at a line break inside of a string, which JSON does
//! not allow, or before a `{` that cannot follow what precedes it.

use std::io::{self, BufRead};

/// A piece of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// From a `{` to its `}`; whether it is valid JSON is for who parses it.
    Value(Vec<u8>),
    /// Anything else, without white space around it.
    Other(Vec<u8>),
}

/// Reads pieces off `reader`.
pub struct Splitter<R> {
    reader: R,
    /// A longer piece is cut into parts of this length, which are no values.
    max_bytes: usize,
    /// A byte that was read and belongs to the next piece.
    pushed_back: Option<u8>,
}

impl<R: BufRead> Splitter<R> {
    /// Pieces of at most `max_bytes`.
    pub fn new(reader: R, max_bytes: usize) -> Self {
        Self { reader, max_bytes, pushed_back: None }
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// What the reader says, damaged compression included.
    pub fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        let Some(first) = self.skip_white_space()? else { return Ok(None) };
        match first {
            b'{' => self.value().map(Some),
            _ => self.other(first).map(Some),
        }
    }

    fn byte(&mut self) -> io::Result<Option<u8>> {
        if let Some(byte) = self.pushed_back.take() {
            return Ok(Some(byte));
        }
        let buffer = self.reader.fill_buf()?;
        let byte = buffer.first().copied();
        if byte.is_some() {
            self.reader.consume(1);
        }
        Ok(byte)
    }

    fn skip_white_space(&mut self) -> io::Result<Option<u8>> {
        while let Some(byte) = self.byte()? {
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
        }
        Ok(None)
    }

    /// After a `{`.
    fn value(&mut self) -> io::Result<Piece> {
        let mut scan = Scan { depth: 1, in_string: false, escaped: false, before: b'{' };
        let mut bytes = vec![b'{'];
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(other(bytes));
            }
            let room = self.max_bytes.saturating_sub(bytes.len()).max(1);
            let (step, used) = scan.run(&buffer[..buffer.len().min(room)]);
            bytes.extend_from_slice(&buffer[..used - usize::from(step == Step::Begins)]);
            self.reader.consume(used);
            match step {
                Step::Ends => return Ok(Piece::Value(bytes)),
                Step::Begins => {
                    self.pushed_back = Some(b'{');
                    return Ok(other(bytes));
                }
                Step::Breaks => return Ok(other(bytes)),
                Step::GoesOn if bytes.len() >= self.max_bytes => return Ok(other(bytes)),
                Step::GoesOn => {}
            }
        }
    }

    /// Up to the next line break or `{` at the start of a record.
    fn other(&mut self, first: u8) -> io::Result<Piece> {
        let mut bytes = vec![first];
        while bytes.len() < self.max_bytes {
            match self.byte()? {
                None | Some(b'\n') => break,
                Some(b'{') => {
                    self.pushed_back = Some(b'{');
                    break;
                }
                Some(byte) => bytes.push(byte),
            }
        }
        Ok(other(bytes))
    }
}

fn other(mut bytes: Vec<u8>) -> Piece {
    bytes.truncate(bytes.trim_ascii_end().len());
    Piece::Other(bytes)
}

/// Where a scan got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// All bytes belong to the value, and more are needed.
    GoesOn,
    /// The last byte used closes it.
    Ends,
    /// The last byte used begins another value: this one is damaged.
    Begins,
    /// A line break inside of a string: this one is damaged.
    Breaks,
}

struct Scan {
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// The last byte that is no white space, outside of strings.
    before: u8,
}

impl Scan {
    /// Looks at bytes; answers what was found and how many were used for it.
    fn run(&mut self, bytes: &[u8]) -> (Step, usize) {
        for (at, &byte) in bytes.iter().enumerate() {
            if self.in_string {
                match byte {
                    b'\n' => return (Step::Breaks, at + 1),
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' if !matches!(self.before, b':' | b'[' | b',') => {
                    return (Step::Begins, at + 1);
                }
                b'{' => self.depth += 1,
                b'}' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return (Step::Ends, at + 1);
                    }
                }
                _ => {}
            }
            if !byte.is_ascii_whitespace() {
                self.before = byte;
            }
        }
        (Step::GoesOn, bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use proptest::prelude::*;

    use super::*;

    fn pieces(bytes: &[u8], buffer: usize) -> Vec<Piece> {
        let mut splitter = Splitter::new(BufReader::with_capacity(buffer, bytes), 1 << 20);
        std::iter::from_fn(|| splitter.next_piece().expect("reads")).collect()
    }

    fn value(text: &str) -> Piece {
        Piece::Value(text.as_bytes().to_vec())
    }

    fn rest(text: &str) -> Piece {
        Piece::Other(text.as_bytes().to_vec())
    }

    #[test]
    fn values_run_together_or_apart_are_the_same() {
        let (a, b) = (r#"{"a":"}{\"\\","b":[{},{"c":{}}]}"#, "{}");
        for between in ["", "\n", " ", "\r\n\n\t"] {
            let text = format!("{a}{between}{b}{between}{a}{between}");
            for buffer in [1, 2, 7, 4_096] {
                let found = pieces(text.as_bytes(), buffer);
                assert_eq!(found, [value(a), value(b), value(a)], "{between:?} {buffer}");
            }
        }
        let pretty = "{\n  \"a\": {\n    \"b\": [\n      {}\n    ]\n  }\n}";
        assert_eq!(pieces(format!("{pretty}\n{b}").as_bytes(), 16), [value(pretty), value(b)]);
    }

    #[test]
    fn damage_costs_its_own_record() {
        let good = r#"{"event_id":"e","n":{"m":1}}"#;
        for (damaged, cost) in [
            (r#"{"event_id":"e","#, 2),
            (r#"{"event_id":"e"#, 1),
            (r#"{"event_id":"e","n":{"m":1}"#, 1),
            ("garbage", 1),
            (r#""event_id":"e"}"#, 1),
        ] {
            let text = format!("{good}\n{damaged}\n{good}\n{good}\n{good}\n");
            let found = pieces(text.as_bytes(), 5);
            let values = found.iter().filter(|piece| **piece == value(good)).count();
            assert!(values >= 5 - cost, "{damaged}: {found:?}");
            let kept: usize = found
                .iter()
                .map(|piece| match piece {
                    Piece::Value(bytes) | Piece::Other(bytes) => {
                        bytes.iter().filter(|byte| !byte.is_ascii_whitespace()).count()
                    }
                })
                .sum();
            let sent = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).count();
            assert_eq!(kept, sent, "{damaged}: every byte is in some piece");
        }
        assert_eq!(pieces(b"{\"a\":\"b\n{}", 3), [rest("{\"a\":\"b"), value("{}")]);
        assert_eq!(pieces(b"{\"a\":1 {}", 3), [rest("{\"a\":1"), value("{}")]);
        assert_eq!(pieces(b"x{}y\n", 3), [rest("x"), value("{}"), rest("y")]);
        assert_eq!(pieces(b"{\"a\"", 3), [rest("{\"a\"")]);
        assert_eq!(pieces(b" \n", 3), []);
    }

    #[test]
    fn a_piece_is_never_longer_than_allowed() {
        let text = format!("{{\"a\":\"{}\"}}\n{{}}", "x".repeat(100));
        let mut splitter = Splitter::new(text.as_bytes(), 40);
        let mut total = 0;
        while let Some(piece) = splitter.next_piece().expect("reads") {
            let (Piece::Value(bytes) | Piece::Other(bytes)) = piece;
            assert!(bytes.len() <= 40, "{}", bytes.len());
            total += bytes.len();
        }
        assert_eq!(total, text.len() - 1);
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<i32>().prop_map(Into::into),
            "[ -~\n\"\\\\{}]{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map("[a-z{}\"]{1,3}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_the_values_they_come_out_as_they_went_in(
            values in prop::collection::vec(
                (prop::collection::btree_map("[a-z]{1,3}", json(), 0..3), 0..4_usize, any::<bool>()),
                0..6,
            ),
            buffer in 1..64_usize,
        ) {
            let (mut text, mut expected) = (String::new(), Vec::new());
            for (map, separator, pretty) in values {
                let one = serde_json::Value::Object(map.into_iter().collect());
                let one = if pretty {
                    serde_json::to_string_pretty(&one).expect("serialises")
                } else {
                    one.to_string()
                };
                text.push_str(&one);
                text.push_str(["", "\n", "  ", "\r\n"][separator]);
                expected.push(Piece::Value(one.into_bytes()));
            }
            prop_assert_eq!(pieces(text.as_bytes(), buffer), expected);
        }
    }
}
