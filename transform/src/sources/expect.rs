//! What is strange of a source: `[sources.NAME.expect]`.

use serde::{Deserialize, Serialize};

/// What is said where a source is not as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// A full export with fewer rows than this share of the one before it is said, percent,
    /// and one that says the very same; 0: neither. By default 50; of `kind = "files"` that is
    /// for a file that was written anew, and files beside each other are not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least_percent: Option<u8>,
    /// A newest export older than this is said: `26h`, `90m`, `2d`. Not said by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Age>,
}

/// An age in seconds, written `26h`, `90m`, `45s` or `2d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Age(u64);

impl Age {
    /// So many seconds.
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds)
    }

    /// In seconds.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0
    }
}

impl TryFrom<String> for Age {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(format!("`{text}` is no age such as 90m, 26h or 2d")),
        };
        let number: u64 =
            digits.parse().map_err(|_| format!("`{text}` is no age such as 90m, 26h or 2d"))?;
        number.checked_mul(unit).map(Self).ok_or_else(|| format!("`{text}` is too long"))
    }
}

impl From<Age> for String {
    fn from(age: Age) -> Self {
        format!("{}s", age.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_a_number_and_a_unit() {
        let seconds = |text: &str| Age::try_from(text.to_owned()).map(Age::seconds);
        for (text, expected) in [("45s", 45), ("90m", 5_400), ("26h", 93_600), ("2d", 172_800)] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in
            ["", "h", "26", "1.5h", "-1h", "2w", "99999999999999999999d", "300000000000000d"]
        {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
