//! `[[raw]]`: where somebody else's delivery lands.

use std::collections::BTreeMap;

use serde::Deserialize;
use uuid::Uuid;

use super::prefix::Prefix;

/// Characters of a location that its chain's name shows.
const NAMED: usize = 60;

/// One place that Firehose delivers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawLocation {
    /// `s3://bucket/prefix`, or a folder.
    pub location: String,
    /// The name of its landing chain.
    pub name: String,
    /// Its keys, below the location.
    pub prefix: Prefix,
    /// The same, as it is written.
    pub prefix_text: String,
    /// Those of records that Firehose could not deliver, below the same location.
    pub error_prefix: Option<Prefix>,
    /// Of Parquet: our column = theirs.
    pub columns: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    location: String,
    name: Option<String>,
    #[serde(default)]
    prefix: String,
    error_prefix: Option<String>,
    #[serde(default)]
    columns: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for RawLocation {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let section = Section::deserialize(deserializer)?;
        Self::new(section).map_err(serde::de::Error::custom)
    }
}

impl RawLocation {
    fn new(section: Section) -> Result<Self, String> {
        let Section { location, name, prefix, error_prefix, columns } = section;
        let name = match name {
            Some(name) => name,
            None => derived_name(&location),
        };
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if name.is_empty() || name.len() > 2 * NAMED || !name.bytes().all(known) {
            return Err(format!("name `{name}`: letters, digits, `_` and `-` only"));
        }
        let parse = |key: &str, text: &str| {
            Prefix::parse(text).map_err(|problem| format!("{key} `{text}`: {problem}"))
        };
        let error_prefix = error_prefix.map(|text| parse("error_prefix", &text)).transpose()?;
        let prefix_text = prefix;
        let prefix = parse("prefix", &prefix_text)?;
        Ok(Self { location, name, prefix, prefix_text, error_prefix, columns })
    }
}

/// Readable, and its own for each location: the end of the location, and a hash of it.
fn derived_name(location: &str) -> String {
    let location = location.trim_end_matches('/');
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_URL, location.as_bytes()).simple().to_string();
    let plain: String = location
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
        .collect();
    let start = plain.len().saturating_sub(NAMED);
    format!("{}-{}", plain[start..].trim_matches('_'), &hash[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RawLocation, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_location_is_enough_and_gives_its_chain_a_name() {
        let one = read("location = 's3://shop-clicks/firehose/'").expect("reads");
        assert!(one.name.starts_with("s3___shop-clicks_firehose-"), "{}", one.name);
        assert_eq!(one.name, read("location = 's3://shop-clicks/firehose'").expect("reads").name);
        assert_ne!(one.name, read("location = 's3://shop-clicks/firehos3'").expect("reads").name);
        assert_eq!(one.prefix, Prefix::parse("").expect("parses"));
        assert_eq!(one.error_prefix, None);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_name() {
        for (text, word) in [
            ("location = 'x'\nprefx = 'y'", "prefx"),
            ("location = 'x'\nprefix = '!{time:x}'", "time:x"),
            ("location = 'x'\nname = 'a/b'", "a/b"),
            ("name = 'x'", "location"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(word), "{error}");
        }
    }
}
