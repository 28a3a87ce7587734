//! Amounts of money: exact decimals with four places, `Decimal(18,4)`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const SCALE_DIGITS: usize = 4;
const SCALE: i64 = 10_000;
const MAX_WHOLE_DIGITS: usize = 14;
/// The largest unscaled value of `Decimal(18,4)`.
const MAX_UNSCALED: i64 = 999_999_999_999_999_999;

/// An amount with four decimal places and at most fourteen before the point.
///
/// On the wire it is a JSON number without exponent and without trailing
/// zeros (`12.3`, `-0.0001`, `100`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(i64);

/// Why a text is not a [`Money`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not a decimal number (`-12.34`, `1e3`). Signs of currency and thousands
    /// separators are for an import mapping to remove.
    #[error("`{0}` is not a decimal number")]
    Syntax(String),
    /// More than four decimal places, which a `Decimal(18,4)` cannot hold exactly.
    #[error("`{0}` has more than four decimal places")]
    Precision(String),
    /// More than fourteen digits before the point.
    #[error("`{0}` has more than fourteen digits before the point")]
    Range(String),
}

impl Money {
    /// From ten-thousandths, the unscaled value of `Decimal(18,4)`.
    /// `None` when it has more than 18 digits.
    #[must_use]
    pub const fn from_unscaled(unscaled: i64) -> Option<Self> {
        if unscaled >= -MAX_UNSCALED && unscaled <= MAX_UNSCALED {
            Some(Self(unscaled))
        } else {
            None
        }
    }

    /// Ten-thousandths.
    #[must_use]
    pub const fn unscaled(self) -> i64 {
        self.0
    }

    /// Reads a decimal, exponent allowed, *exactly*: it never rounds.
    ///
    /// # Errors
    /// [`MoneyError`] where the text is no number or does not fit.
    pub fn parse(text: &str) -> Result<Self, MoneyError> {
        if let Some(money) = Self::plain(text.as_bytes()) {
            return Ok(money);
        }
        let shown = || text.chars().take(64).collect::<String>();
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            Some(at) => {
                let exponent =
                    i32::from_str(&text[at + 1..]).map_err(|_| MoneyError::Syntax(shown()))?;
                (&text[..at], exponent)
            }
            None => (text, 0),
        };
        let (negative, digits) = match mantissa.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction)
        {
            return Err(MoneyError::Syntax(shown()));
        }
        // The digits as one integer, times ten to the power of `shift`, are ten-thousandths.
        let mut significant: Vec<u8> =
            whole.bytes().chain(fraction.bytes()).skip_while(|b| *b == b'0').collect();
        let mut shift = SCALE_DIGITS as i64 + i64::from(exponent) - fraction.len() as i64;
        while shift < 0 && significant.last() == Some(&b'0') {
            significant.pop();
            shift += 1;
        }
        if significant.is_empty() {
            return Ok(Self(0));
        }
        if shift < 0 {
            return Err(MoneyError::Precision(shown()));
        }
        if significant.len() as i64 + shift > 18 {
            return Err(MoneyError::Range(shown()));
        }
        let value = significant.iter().fold(0_i64, |n, b| n * 10 + i64::from(b - b'0'))
            * 10_i64.pow(u32::try_from(shift).unwrap_or(0));
        Ok(Self(if negative { -value } else { value }))
    }

    /// What almost every amount looks like, `-12.34`, without a copy of its digits.
    fn plain(text: &[u8]) -> Option<Self> {
        let (negative, digits) = match text {
            [b'-', digits @ ..] => (true, digits),
            digits => (false, digits),
        };
        let whole = digits.iter().position(|byte| *byte == b'.').unwrap_or(digits.len());
        let fraction = digits.get(whole + 1..).unwrap_or_default();
        if !(1..=MAX_WHOLE_DIGITS).contains(&whole) || fraction.len() > SCALE_DIGITS {
            return None;
        }
        let mut value = 0_i64;
        for byte in digits[..whole].iter().chain(fraction) {
            if !byte.is_ascii_digit() {
                return None;
            }
            value = value * 10 + i64::from(byte - b'0');
        }
        value *= 10_i64.pow((SCALE_DIGITS - fraction.len()) as u32);
        Some(Self(if negative { -value } else { value }))
    }

    /// Its wire form, appended.
    pub(crate) fn encode_to(self, line: &mut Vec<u8>) {
        let magnitude = self.0.unsigned_abs();
        let (whole, fraction) = (magnitude / SCALE as u64, magnitude % SCALE as u64);
        if self.0 < 0 {
            line.push(b'-');
        }
        line.extend_from_slice(itoa::Buffer::new().format(whole).as_bytes());
        if fraction != 0 {
            line.push(b'.');
            let mut rest = fraction;
            let mut unit = SCALE as u64 / 10;
            while rest != 0 {
                line.push(b'0' + (rest / unit) as u8);
                rest %= unit;
                unit /= 10;
            }
        }
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(24);
        self.encode_to(&mut text);
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A raw number: a float could not carry 18 digits.
        let raw = serde_json::value::RawValue::from_string(self.to_string())
            .map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: &serde_json::value::RawValue = Deserialize::deserialize(deserializer)?;
        Money::parse(raw.get().trim_matches('"')).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_and_print_canonically() {
        for (text, unscaled, printed) in [
            ("12.30", 123_000, "12.3"),
            ("-0.0001", -1, "-0.0001"),
            ("100", 1_000_000, "100"),
            ("1e3", 10_000_000, "1000"),
            ("1.5E-3", 15, "0.0015"),
            ("+7.", 70_000, "7"),
            (".5", 5_000, "0.5"),
            ("0.00000000", 0, "0"),
            ("-0", 0, "0"),
            ("1.2340000", 12_340, "1.234"),
            ("99999999999999.9999", MAX_UNSCALED, "99999999999999.9999"),
            ("0e999999", 0, "0"),
        ] {
            let money = Money::parse(text).expect(text);
            assert_eq!(
                (money.unscaled(), money.to_string().as_str()),
                (unscaled, printed),
                "{text}"
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_not_rounded() {
        for text in ["", "-", ".", "1,5", "$1", "NaN", "inf", "0x10", "1e", "１"] {
            assert!(matches!(Money::parse(text), Err(MoneyError::Syntax(_))), "{text}");
        }
        assert!(matches!(Money::parse("0.00001"), Err(MoneyError::Precision(_))));
        assert!(matches!(Money::parse("1e-2147483648"), Err(MoneyError::Precision(_))));
        assert!(matches!(Money::parse("100000000000000"), Err(MoneyError::Range(_))));
        assert!(matches!(Money::parse("1e2147483647"), Err(MoneyError::Range(_))));
    }

    #[test]
    fn json_carries_all_eighteen_digits() {
        let money = Money::parse("99999999999999.9999").expect("fits");
        let json = serde_json::to_string(&money).expect("serialises");
        assert_eq!(json, "99999999999999.9999");
        assert_eq!(serde_json::from_str::<Money>(&json).expect("parses"), money);
    }
}
