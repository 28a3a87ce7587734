//! How a shop's text becomes a value: times, money, whole numbers, booleans.
//!
//! A format is parsed once from the configuration ([`TimeFormat`],
//! [`MoneyFormat`]) and then reads many texts. Reading never guesses and never
//! rounds unless the configuration says so; what does not fit is a
//! [`ValueError`] that names the text and what was expected.
//!
//! White space around a value is ignored, inside it never is.

mod money;
mod time;

use std::borrow::Cow;

pub use money::MoneyFormat;
pub use time::TimeFormat;

/// Longest piece of a shop's text that an error repeats, in characters.
const SHOWN_CHARS: usize = 64;

/// A text that is not what the format says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// It does not have the form.
    #[error("`{text}` is not {expected}")]
    Syntax {
        /// The text, its first 64 characters.
        text: String,
        /// What the format expects, in words.
        expected: String,
    },
    /// It has the form, but no value of the type is that large or small.
    #[error("`{text}` is outside the range of {expected}")]
    Range {
        /// The text, its first 64 characters.
        text: String,
        /// The range, in words.
        expected: String,
    },
    /// An amount with more than four decimal places.
    #[error("`{text}` has more than four decimal places; set round = true to round it")]
    Precision {
        /// The text, its first 64 characters.
        text: String,
    },
    /// A local time that the zone's clocks skipped.
    #[error(
        "`{text}` never was on a clock in {zone}: it was skipped when the clocks went forward; is the zone right?"
    )]
    SkippedLocalTime {
        /// The text, its first 64 characters.
        text: String,
        /// The IANA zone.
        zone: String,
    },
}

/// Configuration text that is no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Not a time format.
    #[error(
        "`{format}` is not a time format: {reason} (known: rfc3339, epoch_s, epoch_ms, epoch_us, or a pattern such as %Y-%m-%d %H:%M:%S)"
    )]
    Time {
        /// As configured.
        format: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A zone that the IANA database does not have.
    #[error("`{0}` is not a time zone of the IANA database, such as Europe/London or UTC")]
    Zone(String),
    /// A zone beside a format whose values carry their own.
    #[error("times in the format `{0}` carry their own zone: leave `zone` out")]
    ZoneNotNeeded(String),
    /// A money format that contradicts itself.
    #[error("not a money format: {0}")]
    Money(String),
}

/// Reads a whole number: `2`, `-7`, `+3`, and `2.0`, whose fraction is nothing.
///
/// # Errors
/// [`ValueError::Syntax`] for anything else, [`ValueError::Range`] beyond 64 bits.
pub fn parse_integer(text: &str) -> Result<i64, ValueError> {
    let trimmed = text.trim();
    let syntax = || ValueError::Syntax { text: shown(text), expected: "a whole number".to_owned() };
    let digits = strip_zero_fraction(trimmed);
    let unsigned = digits.strip_prefix(['-', '+']).unwrap_or(digits);
    if unsigned.is_empty() || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
        return Err(syntax());
    }
    digits.parse().map_err(|_| ValueError::Range {
        text: shown(text),
        expected: "whole numbers of 64 bits".to_owned(),
    })
}

/// Takes the `.0` off an id that a spreadsheet or pandas made a float: `17850.0`
/// becomes `17850`. Anything else, `17850.5` and `v1.0` included, stays as it is.
#[must_use]
pub fn strip_zero_fraction(text: &str) -> &str {
    match text.split_once('.') {
        Some((whole, fraction))
            if !fraction.is_empty()
                && fraction.bytes().all(|b| b == b'0')
                && whole
                    .strip_prefix(['-', '+'])
                    .unwrap_or(whole)
                    .bytes()
                    .all(|b| b.is_ascii_digit())
                && whole.ends_with(|c: char| c.is_ascii_digit()) =>
        {
            whole
        }
        _ => text,
    }
}

/// Reads true/false, t/f, yes/no, y/n, on/off, 1/0, whatever their case.
///
/// # Errors
/// [`ValueError::Syntax`] for anything else.
pub fn parse_boolean(text: &str) -> Result<bool, ValueError> {
    let lower = text.trim().to_ascii_lowercase();
    match lower.as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
        _ => Err(ValueError::Syntax {
            text: shown(text),
            expected: "true/false, yes/no, t/f, y/n, on/off or 1/0".to_owned(),
        }),
    }
}

/// The beginning of a text, for an error.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}

/// `text`, borrowed where there is nothing to replace.
fn replaced<'a>(text: &'a str, from: char, to: &str) -> Cow<'a, str> {
    if text.contains(from) { Cow::Owned(text.replace(from, to)) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_read_exactly() {
        for (text, value) in [
            ("2", 2),
            (" -7 ", -7),
            ("+3", 3),
            ("17850.0", 17850),
            ("9223372036854775807", i64::MAX),
        ] {
            assert_eq!(parse_integer(text), Ok(value), "{text}");
        }
        for text in ["", "-", "2.5", "1e3", "1,000", ".0", "0x1", "２"] {
            assert!(matches!(parse_integer(text), Err(ValueError::Syntax { .. })), "{text}");
        }
        assert!(matches!(parse_integer("9223372036854775808"), Err(ValueError::Range { .. })));
    }

    #[test]
    fn only_a_zero_fraction_of_digits_is_taken_off_an_id() {
        for (text, id) in [
            ("17850.0", "17850"),
            ("017850.000", "017850"),
            ("17850.5", "17850.5"),
            ("v1.0", "v1.0"),
            ("1.0.0", "1.0.0"),
            (".0", ".0"),
            ("17850.", "17850."),
        ] {
            assert_eq!(strip_zero_fraction(text), id);
        }
    }

    #[test]
    fn booleans_are_read_in_their_usual_spellings() {
        for text in ["true", "T", "YES", "y", "1", "On"] {
            assert_eq!(parse_boolean(text), Ok(true), "{text}");
        }
        for text in ["false", "F", "No", "n", "0", "off"] {
            assert_eq!(parse_boolean(text), Ok(false), "{text}");
        }
        assert!(parse_boolean("2").is_err() && parse_boolean("").is_err());
    }
}
