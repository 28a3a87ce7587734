//! JSON objects whose values are kept as the text that came.

use std::borrow::Cow;
use std::collections::HashSet;

use clickmill_schemas::{Json, JsonKind, Money, ObjectBuilder, RawJson};

/// An object: its keys in order, duplicates included, values verbatim.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

#[derive(Clone, Debug)]
enum Value<'a> {
    /// As it came.
    Sent(Json<'a>),
    /// What is left of an object, after some of its keys went to columns.
    Left(Object<'a>),
}

impl<'a> Object<'a> {
    /// `None` where `json` is no object (or has a key that is no text).
    pub fn of(json: &Json<'a>) -> Option<Self> {
        if json.kind() != JsonKind::Object {
            return None;
        }
        let mut entries = Vec::with_capacity(json.len());
        for (key, value) in json.entries() {
            entries.push((key.text()?, Value::Sent(value)));
        }
        Some(Self(entries))
    }

    /// `None` where `text` is no JSON, or no object.
    pub fn parse(text: &'a str) -> Option<Self> {
        Self::of(&Json::parse(text).ok()?)
    }

    /// The value of the last entry with this key, as JSON.parse takes it.
    pub fn get(&self, key: &str) -> Option<&Json<'a>> {
        match self.0.iter().rev().find(|(k, _)| k == key)? {
            (_, Value::Sent(json)) => Some(json),
            (_, Value::Left(_)) => None,
        }
    }

    /// Removes the last entry with this key.
    pub fn remove(&mut self, key: &str) {
        if let Some(at) = self.0.iter().rposition(|(k, _)| k == key) {
            self.0.remove(at);
        }
    }

    /// Takes out what `take` finds at `key`; left where it is if that is nothing.
    fn take<T>(&mut self, key: &str, take: impl FnOnce(&Json<'a>) -> Option<T>) -> Option<T> {
        let at = self.0.iter().rposition(|(k, _)| k == key)?;
        let Value::Sent(json) = &self.0[at].1 else { return None };
        let taken = take(json)?;
        self.0.remove(at);
        Some(taken)
    }

    /// The text at `key`, left where it is.
    pub fn text(&self, key: &str) -> Option<Cow<'a, str>> {
        text(self.get(key)?)
    }

    /// The object at `key`, taken out; left where it is if it is no object.
    pub fn take_object(&mut self, key: &str) -> Option<Object<'a>> {
        self.take(key, Object::of)
    }

    /// The text at `key`: taken out if it is a string, left and copied if it is
    /// a number (a number as text is not what was sent). Empty text stays.
    pub fn take_text(&mut self, key: &str) -> Option<Cow<'a, str>> {
        self.take(key, text).or_else(|| {
            let json = self.get(key)?;
            is_number(json).then(|| Cow::Borrowed(json.get()))
        })
    }

    /// The amount at `key`: taken out if it is a number that fits exactly; a
    /// string that says such a number is read and left.
    pub fn take_money(&mut self, key: &str) -> Option<Money> {
        let number = |json: &Json<'a>| is_number(json).then(|| Money::parse(json.get()).ok())?;
        self.take(key, number).or_else(|| Money::parse(self.text(key)?.trim()).ok())
    }

    /// The integer at `key`, likewise. `2.0` is 2.
    pub fn take_integer<T: TryFrom<i64>>(&mut self, key: &str) -> Option<T> {
        let parse = |text: &str| {
            let unscaled = Money::parse(text).ok()?.unscaled();
            (unscaled % 10_000 == 0).then(|| T::try_from(unscaled / 10_000).ok()).flatten()
        };
        let number = |json: &Json<'a>| is_number(json).then(|| parse(json.get()))?;
        self.take(key, number).or_else(|| parse(self.text(key)?.trim()))
    }

    pub fn put(&mut self, key: &'static str, value: Json<'a>) {
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
        if other.is_empty() {
            return;
        }
        let mut held: HashSet<&str> = self.keys().collect();
        let missing = other.0.iter().filter(|(key, _)| held.insert(key));
        let missing: Vec<_> = missing.cloned().collect();
        self.0.extend(missing);
    }

    /// Its entries, added to `out`.
    pub fn build(&self, out: &mut ObjectBuilder) {
        for (key, value) in &self.0 {
            match value {
                Value::Sent(json) => out.json(key, json),
                Value::Left(object) => out.raw(key, &object.to_raw()),
            }
        }
    }

    /// Its text, on one line.
    pub fn to_raw(&self) -> RawJson<'static> {
        let mut out = ObjectBuilder::default();
        self.build(&mut out);
        out.finish()
    }
}

/// An object of text values, from pairs whose keys are no more than once.
pub(crate) fn object_of_texts<'t>(
    pairs: impl IntoIterator<Item = (&'t str, &'t str)>,
) -> ObjectBuilder {
    let mut out = ObjectBuilder::default();
    for (key, value) in pairs {
        out.text(key, value);
    }
    out
}

/// Left of an object, as `properties` or `context`: nothing where it is empty.
pub(crate) fn left(object: &Object<'_>) -> Option<RawJson<'static>> {
    (!object.is_empty()).then(|| object.to_raw())
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

/// A string that is not empty.
pub(crate) fn text<'a>(json: &Json<'a>) -> Option<Cow<'a, str>> {
    json.text().filter(|text| !text.is_empty())
}

pub(crate) fn is_number(json: &Json<'_>) -> bool {
    json.kind() == JsonKind::Number
}

pub(crate) fn is_object(json: &Json<'_>) -> bool {
    json.kind() == JsonKind::Object
}

/// The elements of an array; `None` where `json` is none.
pub(crate) fn elements<'a>(json: &Json<'a>) -> Option<Vec<Json<'a>>> {
    (json.kind() == JsonKind::Array).then(|| json.elements().collect())
}

/// `json` with every escape of half a surrogate pair (`\ud800`) replaced by
/// that of U+FFFD: the grammar allows it, but no Unicode text can hold it, and
/// most readers of the line would refuse all of it.
pub(crate) fn without_lone_surrogates(json: &str) -> Cow<'_, str> {
    let bytes = json.as_bytes();
    let mut out: Option<Vec<u8>> = None;
    let mut at = 0;
    while let Some(step) = memchr::memchr(b'\\', &bytes[at..]) {
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
