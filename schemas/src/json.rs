//! JSON text that is kept as it came: numbers verbatim, key order and
//! duplicates included, only the white space between tokens removed.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

use crate::scan::Json;
use crate::token::special;

/// A JSON value as text: valid, on one line, without white space between tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawJson<'a>(Cow<'a, str>);

/// The text is not one JSON value.
#[derive(Debug, thiserror::Error)]
#[error("not valid JSON: {0}")]
pub struct JsonError(#[from] serde_json::Error);

impl<'a> RawJson<'a> {
    /// Checks and compacts `text`. Borrows where there is nothing to remove.
    ///
    /// # Errors
    /// [`JsonError`] where the text is not exactly one JSON value, or is nested
    /// deeper than 128 levels.
    pub fn parse(text: &'a str) -> Result<Self, JsonError> {
        serde_json::from_str::<&RawValue>(text)?;
        Ok(Self(compact(text)))
    }

    /// From a raw value that serde_json has already checked.
    #[must_use]
    pub fn from_raw(raw: &'a RawValue) -> Self {
        Self(compact(raw.get()))
    }

    /// Of a text that is one value without white space between its tokens.
    pub(crate) fn of_compact(text: &'a str) -> Self {
        Self(Cow::Borrowed(text))
    }

    /// From a value of a text that was scanned.
    #[must_use]
    pub fn from_json(json: &Json<'a>) -> Self {
        Self(json.compact())
    }

    /// The value of anything that serialises.
    ///
    /// # Errors
    /// [`JsonError`] where serialisation fails (a map with keys that are no strings, ...).
    pub fn from_value<T: Serialize>(value: &T) -> Result<RawJson<'static>, JsonError> {
        Ok(RawJson(Cow::Owned(serde_json::to_string(value)?)))
    }

    /// The text.
    #[must_use]
    pub fn get(&self) -> &str {
        &self.0
    }

    /// Copies what is borrowed.
    #[must_use]
    pub fn into_owned(self) -> RawJson<'static> {
        RawJson(Cow::Owned(self.0.into_owned()))
    }
}

/// An object that is put together from valid pieces, so that it need not be
/// checked again.
#[derive(Clone, Debug, Default)]
pub struct ObjectBuilder {
    /// The entries with their opening brace; empty before the first.
    text: String,
}

impl ObjectBuilder {
    /// Adds a value as it came. Keys are not looked at: a second one of the same
    /// name makes a duplicate.
    pub fn json(&mut self, key: &str, value: &Json<'_>) {
        self.key(key);
        self.text.push_str(&value.compact());
    }

    /// Adds a value.
    pub fn raw(&mut self, key: &str, value: &RawJson<'_>) {
        self.key(key);
        self.text.push_str(value.get());
    }

    /// Adds an array of values.
    pub fn array<'v>(&mut self, key: &str, values: impl IntoIterator<Item = &'v RawJson<'v>>) {
        self.key(key);
        self.text.push('[');
        for (at, value) in values.into_iter().enumerate() {
            if at > 0 {
                self.text.push(',');
            }
            self.text.push_str(value.get());
        }
        self.text.push(']');
    }

    /// Adds a text.
    pub fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        push_text(&mut self.text, value);
    }

    /// True before the first entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The object.
    #[must_use]
    pub fn finish(self) -> RawJson<'static> {
        let mut text = self.text;
        text.push_str(if text.is_empty() { "{}" } else { "}" });
        RawJson(Cow::Owned(text))
    }

    fn key(&mut self, key: &str) {
        self.text.push(if self.text.is_empty() { '{' } else { ',' });
        push_text(&mut self.text, key);
        self.text.push(':');
    }
}

/// `text` in quotes, escaped where it must be.
fn push_text(out: &mut String, text: &str) {
    if special(text.as_bytes(), 0) == text.len() {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        // A string always serialises.
        out.push_str(&serde_json::to_string(text).unwrap_or_default());
    }
}

/// Removes the white space between the tokens of valid JSON, so that it stands on one line.
#[must_use]
pub fn compact(json: &str) -> Cow<'_, str> {
    let bytes = json.as_bytes();
    let mut out: Option<Vec<u8>> = None;
    let (mut in_string, mut escaped) = (false, false);
    for (at, &byte) in bytes.iter().enumerate() {
        let drop = !in_string && matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        if in_string {
            if escaped {
                escaped = false;
            } else if byte == b'\\' {
                escaped = true;
            } else if byte == b'"' {
                in_string = false;
            }
        } else if byte == b'"' {
            in_string = true;
        }
        match (&mut out, drop) {
            (None, true) => out = Some(bytes[..at].to_vec()),
            (Some(kept), false) => kept.push(byte),
            _ => {}
        }
    }
    match out {
        // Only ASCII bytes outside of strings were removed: what is left is UTF-8.
        Some(kept) => Cow::Owned(String::from_utf8(kept).unwrap_or_else(|_| json.to_owned())),
        None => Cow::Borrowed(json),
    }
}

impl fmt::Display for RawJson<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for RawJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for RawJson<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: &'de RawValue = Deserialize::deserialize(deserializer)?;
        Ok(RawJson::from_raw(raw))
    }
}

/// `deserialize_with` for `Option<Cow<str>>` that borrows where the text has no escapes
/// (serde's own `Option<Cow>` always copies). An empty string reads as `None`.
pub(crate) fn cow<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Cow<'a, str>>, D::Error> {
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Option<Cow<'de, str>>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string or null")
        }
        fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
            Ok((!text.is_empty()).then_some(Cow::Borrowed(text)))
        }
        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok((!text.is_empty()).then(|| Cow::Owned(text.to_owned())))
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
            d.deserialize_str(self)
        }
    }
    deserializer.deserialize_option(Visitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_goes_and_everything_else_stays_verbatim() {
        let text = "{ \"a\" : 1.10 ,\n\t\"a\": 1E+02, \"s\": \" \\\" \\n \u{1F600} \" }";
        let raw = RawJson::parse(text).expect("valid");
        assert_eq!(raw.get(), "{\"a\":1.10,\"a\":1E+02,\"s\":\" \\\" \\n \u{1F600} \"}");
        assert_eq!(serde_json::to_string(&raw).expect("serialises"), raw.get());
    }

    #[test]
    fn compact_text_is_borrowed() {
        assert!(matches!(RawJson::parse("{\"a\":[1,2]}").expect("valid").0, Cow::Borrowed(_)));
    }

    #[test]
    fn an_object_is_built_from_valid_pieces() {
        let mut object = ObjectBuilder::default();
        assert_eq!(object.clone().finish().get(), "{}");
        let sent = Json::parse("{ \"a\" : 1.10 }").expect("valid");
        object.json("sent", &sent);
        object.raw("k\"ey", &RawJson::from_json(&sent));
        object.text("text", "a\n\"b\"");
        let built = object.finish();
        assert_eq!(built.get(), r#"{"sent":{"a":1.10},"k\"ey":{"a":1.10},"text":"a\n\"b\""}"#);
        assert!(RawJson::parse(built.get()).is_ok());
    }

    #[test]
    fn what_is_not_one_value_is_refused() {
        for text in ["", "{", "{} {}", "[1,]", "'a'", "\"a\nb\""] {
            assert!(RawJson::parse(text).is_err(), "{text}");
        }
    }
}
