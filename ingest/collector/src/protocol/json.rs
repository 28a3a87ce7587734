//! JSON objects whose values are kept as the text that came.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use clickmill_schemas::{Money, RawJson};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// An object: its keys in order, duplicates included, values verbatim.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

#[derive(Clone, Debug)]
enum Value<'a> {
    /// As it came.
    Sent(&'a RawValue),
    /// What is left of an object, after some of its keys went to columns.
    Left(Object<'a>),
}

impl<'a> Object<'a> {
    /// `None` where `raw` is no object (or has a key that is no text).
    pub fn parse(raw: &'a RawValue) -> Option<Self> {
        Self::parse_text(raw.get()).ok()
    }

    pub fn parse_text(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The value of the last entry with this key, as JSON.parse takes it.
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        match self.0.iter().rev().find(|(k, _)| k == key)? {
            (_, Value::Sent(raw)) => Some(raw),
            (_, Value::Left(_)) => None,
        }
    }

    /// Removes the last entry with this key.
    pub fn remove(&mut self, key: &str) {
        if let Some(at) = self.0.iter().rposition(|(k, _)| k == key) {
            self.0.remove(at);
        }
    }

    /// The text at `key`, left where it is.
    pub fn text(&self, key: &str) -> Option<Cow<'a, str>> {
        text(self.get(key)?)
    }

    /// The object at `key`, taken out; left where it is if it is no object.
    pub fn take_object(&mut self, key: &str) -> Option<Object<'a>> {
        let object = Object::parse(self.get(key)?)?;
        self.remove(key);
        Some(object)
    }

    /// The text at `key`: taken out if it is a string, left and copied if it is
    /// a number (a number as text is not what was sent). Empty text stays.
    pub fn take_text(&mut self, key: &str) -> Option<Cow<'a, str>> {
        let raw = self.get(key)?;
        if let Some(text) = text(raw) {
            self.remove(key);
            return Some(text);
        }
        is_number(raw).then(|| Cow::Borrowed(raw.get()))
    }

    /// The amount at `key`: taken out if it is a number that fits exactly; a
    /// string that says such a number is read and left.
    pub fn take_money(&mut self, key: &str) -> Option<Money> {
        let raw = self.get(key)?;
        if is_number(raw) {
            let money = Money::parse(raw.get()).ok()?;
            self.remove(key);
            return Some(money);
        }
        Money::parse(text(raw)?.trim()).ok()
    }

    /// The integer at `key`, likewise. `2.0` is 2.
    pub fn take_integer<T: TryFrom<i64>>(&mut self, key: &str) -> Option<T> {
        let raw = self.get(key)?;
        let parse = |text: &str| {
            let unscaled = Money::parse(text).ok()?.unscaled();
            (unscaled % 10_000 == 0).then(|| T::try_from(unscaled / 10_000).ok()).flatten()
        };
        if is_number(raw) {
            let integer = parse(raw.get())?;
            self.remove(key);
            return Some(integer);
        }
        parse(text(raw)?.trim())
    }

    pub fn put(&mut self, key: &'static str, value: &'a RawValue) {
        self.0.push((Cow::Borrowed(key), Value::Sent(value)));
    }

    /// Puts back what is left of an object that was taken apart.
    pub fn put_object(&mut self, key: &'static str, left: Object<'a>) {
        if !left.is_empty() {
            self.0.push((Cow::Borrowed(key), Value::Left(left)));
        }
    }

    /// The keys that `wanted` picks, as an object of their own.
    pub fn split_off(&mut self, wanted: impl Fn(&str) -> bool) -> Object<'a> {
        let (taken, kept) = std::mem::take(&mut self.0).into_iter().partition(|(k, _)| wanted(k));
        self.0 = kept;
        Object(taken)
    }

    pub fn contains(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    /// Its keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_ref())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the entries of `other` whose keys are not here.
    pub fn merge_missing(&mut self, other: &Object<'a>) {
        let mut held: HashSet<&str> = self.keys().collect();
        let missing = other.0.iter().filter(|(key, _)| held.insert(key));
        let missing: Vec<_> = missing.cloned().collect();
        self.0.extend(missing);
    }

    /// Its text, on one line.
    pub fn write(&self, out: &mut String) {
        out.push('{');
        for (at, (key, value)) in self.0.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            write_key(out, key);
            match value {
                Value::Sent(raw) => out.push_str(&clickmill_schemas::compact(raw.get())),
                Value::Left(object) => object.write(out),
            }
        }
        out.push('}');
    }
}

/// An object of text values, from pairs whose keys are no more than once.
pub(crate) fn object_of_texts<'t>(pairs: impl IntoIterator<Item = (&'t str, &'t str)>) -> String {
    let mut out = "{".to_owned();
    for (key, value) in pairs {
        if out.len() > 1 {
            out.push(',');
        }
        write_key(&mut out, key);
        // A string always serialises.
        out.push_str(&serde_json::to_string(value).unwrap_or_default());
    }
    out.push('}');
    out
}

/// Left of an object, as `properties` or `context`: nothing where it is empty.
pub(crate) fn left(object: &Object<'_>) -> Option<RawJson<'static>> {
    if object.is_empty() {
        return None;
    }
    let mut out = String::new();
    object.write(&mut out);
    raw_object(&out)
}

/// The parameters of a query string; of one that comes twice the last counts.
pub(crate) fn parameters(query: &str) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    let mut pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
    let mut at: std::collections::HashMap<Cow<'_, str>, usize> = std::collections::HashMap::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if let Some(&held) = at.get(&key) {
            pairs[held].1 = value;
        } else {
            at.insert(key.clone(), pairs.len());
            pairs.push((key, value));
        }
    }
    pairs
}

/// `"key":`, escaped.
pub(crate) fn write_key(out: &mut String, key: &str) {
    // A string always serialises.
    out.push_str(&serde_json::to_string(key).unwrap_or_default());
    out.push(':');
}

/// An object's text as raw JSON.
pub(crate) fn raw_object(text: &str) -> Option<RawJson<'static>> {
    RawJson::parse(text).ok().map(RawJson::into_owned)
}

/// A string that is not empty.
pub(crate) fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    struct Text<'a>(PhantomData<&'a ()>);
    impl<'de> Visitor<'de> for Text<'de> {
        type Value = Cow<'de, str>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }
        fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
            Ok(Cow::Borrowed(text))
        }
        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Cow::Owned(text.to_owned()))
        }
    }
    if !raw.get().starts_with('"') {
        return None;
    }
    let mut deserializer = serde_json::Deserializer::from_str(raw.get());
    let text = deserializer.deserialize_str(Text(PhantomData)).ok()?;
    (!text.is_empty()).then_some(text)
}

pub(crate) fn is_number(raw: &RawValue) -> bool {
    raw.get().starts_with(|c: char| c == '-' || c.is_ascii_digit())
}

/// The elements of an array; `None` where `raw` is none.
pub(crate) fn elements(raw: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(raw.get()).ok()
}

/// `json` with every escape of half a surrogate pair (`\ud800`) replaced by
/// that of U+FFFD: the grammar allows it, but no Unicode text can hold it, and
/// most readers of the line would refuse all of it.
pub(crate) fn without_lone_surrogates(json: &str) -> Cow<'_, str> {
    let bytes = json.as_bytes();
    let mut out: Option<Vec<u8>> = None;
    let mut at = 0;
    while let Some(step) = bytes[at..].iter().position(|b| *b == b'\\') {
        at += step;
        match escaped_unit(bytes, at) {
            Some(0xD800..=0xDBFF)
                if matches!(escaped_unit(bytes, at + 6), Some(0xDC00..=0xDFFF)) =>
            {
                at += 12;
            }
            Some(0xD800..=0xDFFF) => {
                let out = out.get_or_insert_with(|| bytes.to_vec());
                out[at + 2..at + 6].copy_from_slice(b"fffd");
                at += 6;
            }
            // Another escape, or none: what follows the backslash begins no new one.
            _ => at = (at + 2).min(bytes.len()),
        }
    }
    match out.map(String::from_utf8) {
        Some(Ok(text)) => Cow::Owned(text),
        _ => Cow::Borrowed(json),
    }
}

/// The UTF-16 unit of the escape `\uXXXX` at `at`.
fn escaped_unit(bytes: &[u8], at: usize) -> Option<u32> {
    let escape = bytes.get(at..at + 6)?;
    if &escape[..2] != b"\\u" {
        return None;
    }
    escape[2..].iter().try_fold(0, |unit, b| Some(unit * 16 + char::from(*b).to_digit(16)?))
}

/// How deep `json` (valid) is nested.
pub(crate) fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

impl<'de: 'a, 'a> de::Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Entries<'a> {
            type Value = Object<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key_seed(Key(PhantomData))? {
                    entries.push((key, Value::Sent(map.next_value::<&'de RawValue>()?)));
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// A key, borrowed where it has no escapes.
struct Key<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> DeserializeSeed<'de> for Key<'a> {
    type Value = Cow<'a, str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de: 'a, 'a> Visitor<'de> for Key<'a> {
    type Value = Cow<'a, str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_surrogate_pair_is_replaced_and_nothing_else() {
        for (sent, expected) in [
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""\ude00\ud83d""#, r#""\ufffd\ufffd""#),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\\ud83d""#, r#""\\ud83d""#),
            (r#""\\\ud83dx""#, r#""\\\ufffdx""#),
            (r#""\u12"#, r#""\u12"#),
            ("\\", "\\"),
            ("ü", "ü"),
        ] {
            assert_eq!(without_lone_surrogates(sent), expected);
        }
    }
}
