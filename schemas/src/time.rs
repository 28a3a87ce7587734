//! Instants in microseconds since the Unix epoch, UTC, and civil dates.
//!
//! The wire form is RFC 3339 with exactly six fractional digits and `Z`
//! (`2026-11-23T17:40:00.123456Z`, 27 bytes), so that lines compare and sort as
//! text. Years 0001 to 9999.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
/// 0001-01-01T00:00:00Z.
const MIN_MICROS: i64 = -62_135_596_800 * MICROS_PER_SECOND;
/// 9999-12-31T23:59:59.999999Z.
const MAX_MICROS: i64 = 253_402_300_800 * MICROS_PER_SECOND - 1;

/// Bytes of the wire form.
const TEXT_LEN: usize = 27;

/// An instant: microseconds since 1970-01-01T00:00:00Z, year 0001 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// Why a text or number is not a [`Timestamp`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// Not an RFC 3339 date-time (`2026-11-23T17:40:00[.123456](Z|+01:00)`).
    #[error("`{0}` is not an RFC 3339 time such as 2026-11-23T17:40:00Z")]
    Syntax(String),
    /// A month, day, hour, minute or second that no calendar has.
    #[error("`{0}` has a field outside its range")]
    Field(String),
    /// Outside year 0001 to 9999.
    #[error("time outside the years 0001 to 9999")]
    Range,
}

/// A civil date in UTC: days since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(i32);

impl Timestamp {
    /// From microseconds since the epoch.
    ///
    /// # Errors
    /// [`TimestampError::Range`] outside year 0001 to 9999.
    pub fn from_micros(micros: i64) -> Result<Self, TimestampError> {
        if (MIN_MICROS..=MAX_MICROS).contains(&micros) {
            Ok(Self(micros))
        } else {
            Err(TimestampError::Range)
        }
    }

    /// The wall clock's now. A clock outside year 0001 to 9999 reads as the nearest end.
    #[must_use]
    pub fn now() -> Self {
        let micros = match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(MAX_MICROS),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(MIN_MICROS, |m| -m),
        };
        Self(micros.clamp(MIN_MICROS, MAX_MICROS))
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The UTC date it falls on.
    #[must_use]
    pub fn date(self) -> Date {
        let days = self.0.div_euclid(MICROS_PER_SECOND * SECONDS_PER_DAY);
        Date(i32::try_from(days).unwrap_or(i32::MAX))
    }

    /// The UTC hour of the day, 0 to 23.
    #[must_use]
    pub fn hour(self) -> u8 {
        let seconds = self.0.div_euclid(MICROS_PER_SECOND).rem_euclid(SECONDS_PER_DAY);
        u8::try_from(seconds / 3_600).unwrap_or(0)
    }

    /// `self + d`, held at year 9999.
    #[must_use]
    pub fn saturating_add(self, d: Duration) -> Self {
        let micros = i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros).min(MAX_MICROS))
    }

    /// `self - d`, held at year 0001.
    #[must_use]
    pub fn saturating_sub(self, d: Duration) -> Self {
        let micros = i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros).max(MIN_MICROS))
    }

    /// Parses RFC 3339. Digits past the microsecond are cut off; a missing zone is refused.
    ///
    /// # Errors
    /// [`TimestampError`] says whether syntax, a field or the range is at fault.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        let b = text.as_bytes();
        let syntax = || TimestampError::Syntax(text.chars().take(64).collect());
        let shape = b.len() >= 20
            && b[4] == b'-'
            && b[7] == b'-'
            && matches!(b[10], b'T' | b't' | b' ')
            && b[13] == b':'
            && b[16] == b':';
        if !shape {
            return Err(syntax());
        }
        let number = |from: usize, to: usize| -> Option<i64> {
            b[from..to]
                .iter()
                .try_fold(0_i64, |n, c| c.is_ascii_digit().then(|| n * 10 + i64::from(c - b'0')))
        };
        let field = |from, to| number(from, to).ok_or_else(syntax);
        let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
        let (hour, minute, second) = (field(11, 13)?, field(14, 16)?, field(17, 19)?);
        let mut at = 19;
        let mut micros = 0;
        if b[at] == b'.' {
            let digits = b[at + 1..].iter().take_while(|c| c.is_ascii_digit()).count();
            if digits == 0 {
                return Err(syntax());
            }
            let kept = digits.min(6);
            micros = field(at + 1, at + 1 + kept)? * 10_i64.pow(6 - kept as u32);
            at += 1 + digits;
        }
        let offset_seconds = match b.get(at) {
            Some(b'Z' | b'z') if b.len() == at + 1 => 0,
            Some(sign @ (b'+' | b'-')) if b.len() == at + 6 && b[at + 3] == b':' => {
                let (h, m) = (field(at + 1, at + 3)?, field(at + 4, at + 6)?);
                if h > 23 || m > 59 {
                    return Err(TimestampError::Field(text.to_owned()));
                }
                let seconds = h * 3_600 + m * 60;
                if *sign == b'-' { -seconds } else { seconds }
            }
            _ => return Err(syntax()),
        };
        // A leap second reads as the second before it, as POSIX clocks do.
        let second = if second == 60 { 59 } else { second };
        let valid = (1..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_in_month(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60;
        if !valid {
            return Err(TimestampError::Field(text.to_owned()));
        }
        let seconds = days_from_civil(year, month, day) * SECONDS_PER_DAY
            + hour * 3_600
            + minute * 60
            + second
            - offset_seconds;
        Self::from_micros(seconds * MICROS_PER_SECOND + micros)
    }
}

impl Date {
    /// From days since 1970-01-01.
    #[must_use]
    pub const fn from_days(days: i32) -> Self {
        Self(days)
    }

    /// Days since 1970-01-01, as Arrow's `Date32` counts.
    #[must_use]
    pub const fn days(self) -> i32 {
        self.0
    }

    /// Midnight UTC at its start, held inside the range of [`Timestamp`].
    #[must_use]
    pub fn midnight(self) -> Timestamp {
        let micros = i64::from(self.0) * SECONDS_PER_DAY * MICROS_PER_SECOND;
        Timestamp(micros.clamp(MIN_MICROS, MAX_MICROS))
    }

    /// Parses `YYYY-MM-DD`.
    ///
    /// # Errors
    /// [`TimestampError`] when it is no such date.
    pub fn parse(text: &str) -> Result<Self, TimestampError> {
        if text.len() != 10 || !text.is_ascii() {
            return Err(TimestampError::Syntax(text.chars().take(64).collect()));
        }
        Timestamp::parse(&format!("{text}T00:00:00Z")).map(Timestamp::date)
    }
}

impl Timestamp {
    /// The wire form. Written by hand: every event carries up to four of them,
    /// and the collector encodes in its callers' threads.
    pub(crate) fn text(self) -> [u8; TEXT_LEN] {
        let seconds = self.0.div_euclid(MICROS_PER_SECOND);
        let (year, month, day) = civil_from_days(seconds.div_euclid(SECONDS_PER_DAY));
        // Below 10,000 all of them: a year has four digits, a remainder less than its divisor.
        let of_day = seconds.rem_euclid(SECONDS_PER_DAY) as u32;
        let micros = self.0.rem_euclid(MICROS_PER_SECOND) as u32;
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let mut put = |at: usize, number: u32| {
            let pair = 2 * (number as usize % 100);
            text[at..at + 2].copy_from_slice(&DIGIT_PAIRS[pair..pair + 2]);
        };
        put(0, year as u32 / 100);
        put(2, year as u32);
        put(5, month as u32);
        put(8, day as u32);
        put(11, of_day / 3_600);
        put(14, of_day / 60 % 60);
        put(17, of_day % 60);
        put(20, micros / 10_000);
        put(22, micros / 100);
        put(24, micros);
        text
    }
}

/// `00` to `99`.
const DIGIT_PAIRS: [u8; 200] = {
    let mut pairs = [0; 200];
    let mut at = 0;
    while at < 100 {
        pairs[2 * at] = b'0' + (at / 10) as u8;
        pairs[2 * at + 1] = b'0' + (at % 10) as u8;
        at += 1;
    }
    pairs
};

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(i64::from(self.0));
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.text();
        serializer.serialize_str(std::str::from_utf8(&text).map_err(serde::ser::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Timestamp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                Timestamp::parse(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Date::parse(&text).map_err(de::Error::custom)
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a proleptic Gregorian date, counted in 400-year
/// eras whose years start in March so that the leap day comes last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants_parse_and_print() {
        // Expected values: GNU date -u -d ... +%s.
        for (text, seconds) in [
            ("1970-01-01T00:00:00.000000Z", 0),
            ("2000-02-29T12:34:56.000000Z", 951_827_696),
            ("2026-11-23T17:40:00.000000Z", 1_795_455_600),
            ("1969-12-31T23:59:59.000000Z", -1),
            ("0001-01-01T00:00:00.000000Z", -62_135_596_800),
            ("9999-12-31T23:59:59.000000Z", 253_402_300_799),
        ] {
            let parsed = Timestamp::parse(text).expect(text);
            assert_eq!(parsed.micros(), seconds * 1_000_000, "{text}");
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn zones_and_fractions_are_honoured() {
        let t = |s| Timestamp::parse(s).expect(s).to_string();
        assert_eq!(t("2026-11-23T18:40:00.1+01:00"), "2026-11-23T17:40:00.100000Z");
        assert_eq!(t("2026-11-23t17:40:00.123456789z"), "2026-11-23T17:40:00.123456Z");
        assert_eq!(t("2026-11-23 17:40:00-00:30"), "2026-11-23T18:10:00.000000Z");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "2026-11-23",
            "2026-11-23T17:40:00",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T17:40:00.Z",
            "2026-11-23T17:40:00+1:00",
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00+23:00",
            "２026-11-23T17:40:00Z",
        ] {
            assert!(Timestamp::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_day_of_eight_centuries_survives_the_round_trip() {
        for days in -150_000..150_000 {
            let (y, m, d) = civil_from_days(days);
            assert_eq!(days_from_civil(y, m, d), days);
        }
    }
}
