//! Times as shops write them.

use std::fmt;
use std::str::FromStr;

use chrono::format::{Item, Numeric, Parsed, StrftimeItems};
use chrono::{DateTime, LocalResult, NaiveDateTime, NaiveTime, TimeZone, Timelike};
use chrono_tz::Tz;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{FormatError, ValueError, shown};
use crate::Timestamp;

/// How a shop writes its times.
///
/// - `rfc3339`: `2026-11-23T17:40:00.123Z`, `2026-11-23 18:40:00+01:00`.
/// - `epoch_s`, `epoch_ms`, `epoch_us`: seconds, milli- or microseconds since
///   1970-01-01 UTC; a decimal fraction is honoured.
/// - Anything with a `%` is a strftime pattern: `%Y-%m-%d %H:%M:%S UTC`,
///   `%d/%m/%Y %H:%M`, `%m/%d/%Y %I:%M %p`, `%Y-%m-%dT%H:%M:%S%.f%:z`. `%d`, `%m`
///   and `%H` take one digit or two. A pattern of a date alone reads as its
///   midnight. A fraction of a second is `%.f` (or `%3f`, `%6f` after another sign).
///
/// A pattern without `%z` is a local time in `zone`, UTC where none is given. A
/// local time that occurred twice, when clocks went back, is the first of the
/// two; one that was skipped, when they went forward, is refused. Digits past
/// the microsecond are cut off.
///
/// In configuration it is a text, or a table `{ format = "...", zone = "Europe/London" }`.
#[derive(Clone, Debug)]
pub struct TimeFormat {
    text: String,
    zone: Option<Tz>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Rfc3339,
    /// Digits after the point of a second that one unit stands for: 0, 3 or 6.
    Epoch {
        unit: &'static str,
        digits: u32,
    },
    Pattern {
        items: Vec<Item<'static>>,
        date_only: bool,
        has_offset: bool,
    },
}

impl TimeFormat {
    /// Parses a format and an IANA zone as configured.
    ///
    /// # Errors
    /// [`FormatError`] for an unknown format or zone, a pattern that does not
    /// tell a whole date, or a zone where the values carry their own.
    pub fn new(format: &str, zone: Option<&str>) -> Result<Self, FormatError> {
        let kind = match format {
            "rfc3339" => Kind::Rfc3339,
            "epoch_s" => Kind::Epoch { unit: "seconds", digits: 0 },
            "epoch_ms" => Kind::Epoch { unit: "milliseconds", digits: 3 },
            "epoch_us" => Kind::Epoch { unit: "microseconds", digits: 6 },
            pattern => Kind::pattern(pattern)?,
        };
        let zone = match zone {
            None => None,
            Some(name) => {
                if !matches!(kind, Kind::Pattern { has_offset: false, .. }) {
                    return Err(FormatError::ZoneNotNeeded(format.to_owned()));
                }
                Some(Tz::from_str(name).map_err(|_| FormatError::Zone(name.to_owned()))?)
            }
        };
        Ok(Self { text: format.to_owned(), zone, kind })
    }

    /// The format as configured.
    #[must_use]
    pub fn format(&self) -> &str {
        &self.text
    }

    /// The zone as configured.
    #[must_use]
    pub fn zone(&self) -> Option<&'static str> {
        self.zone.map(Tz::name)
    }

    /// Reads one time.
    ///
    /// # Errors
    /// [`ValueError`] where the text is no such time, lies outside the years 0001
    /// to 9999, or was skipped by the zone's clocks.
    pub fn read(&self, text: &str) -> Result<Timestamp, ValueError> {
        let trimmed = text.trim();
        match &self.kind {
            Kind::Rfc3339 => Timestamp::parse(trimmed).map_err(|_| self.syntax(text)),
            Kind::Epoch { digits, .. } => self.read_epoch(trimmed, *digits),
            Kind::Pattern { items, date_only, has_offset } => {
                self.read_pattern(trimmed, items, *date_only, *has_offset)
            }
        }
    }

    fn read_epoch(&self, text: &str, digits: u32) -> Result<Timestamp, ValueError> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
            return Err(self.syntax(text));
        }
        let kept_digits = 6 - digits;
        let fraction_micros = fraction
            .bytes()
            .chain(std::iter::repeat(b'0'))
            .take(kept_digits as usize)
            .fold(0_i64, |n, b| n * 10 + i64::from(b - b'0'));
        let micros = whole
            .parse::<i64>()
            .ok()
            .and_then(|units| units.checked_mul(10_i64.pow(kept_digits)))
            .and_then(|micros| micros.checked_add(fraction_micros))
            .map(|micros| if negative { -micros } else { micros });
        micros.and_then(|m| Timestamp::from_micros(m).ok()).ok_or_else(|| self.range(text))
    }

    fn read_pattern(
        &self,
        text: &str,
        items: &[Item<'static>],
        date_only: bool,
        has_offset: bool,
    ) -> Result<Timestamp, ValueError> {
        let mut parsed = Parsed::new();
        chrono::format::parse(&mut parsed, text, items.iter()).map_err(|_| self.syntax(text))?;
        let local = if date_only {
            parsed.to_naive_date().map(|date| date.and_time(NaiveTime::MIN))
        } else {
            parsed.to_naive_datetime_with_offset(0)
        }
        .map_err(|_| self.syntax(text))?;
        if has_offset {
            let offset = i64::from(parsed.offset().ok_or_else(|| self.syntax(text))?);
            let micros = micros_of(local) - offset * 1_000_000;
            return Timestamp::from_micros(micros).map_err(|_| self.range(text));
        }
        self.at_zone(local).map_err(|fault| match fault {
            LocalFault::Skipped(zone) => {
                ValueError::SkippedLocalTime { text: shown(text), zone: zone.to_owned() }
            }
            LocalFault::Range => self.range(text),
        })
    }

    /// A civil time (microseconds since 1970-01-01 *by the local clock*) in this
    /// format's zone: what a Parquet timestamp without a zone means.
    ///
    /// # Errors
    /// [`ValueError`] where the zone's clocks skipped it or it is out of range.
    pub fn local_micros(&self, micros: i64) -> Result<Timestamp, ValueError> {
        let local = DateTime::from_timestamp_micros(micros)
            .map(|utc| utc.naive_utc())
            .ok_or_else(|| self.range(&micros.to_string()))?;
        self.at_zone(local).map_err(|fault| match fault {
            LocalFault::Skipped(zone) => {
                ValueError::SkippedLocalTime { text: local.to_string(), zone: zone.to_owned() }
            }
            LocalFault::Range => self.range(&local.to_string()),
        })
    }

    fn at_zone(&self, local: NaiveDateTime) -> Result<Timestamp, LocalFault> {
        let utc = match self.zone {
            None => local,
            Some(zone) => match zone.from_local_datetime(&local) {
                LocalResult::Single(at) => at.naive_utc(),
                LocalResult::Ambiguous(first, _second) => first.naive_utc(),
                LocalResult::None => return Err(LocalFault::Skipped(zone.name())),
            },
        };
        Timestamp::from_micros(micros_of(utc)).map_err(|_| LocalFault::Range)
    }

    fn syntax(&self, text: &str) -> ValueError {
        let expected = match &self.kind {
            Kind::Rfc3339 => "an RFC 3339 time such as 2026-11-23T17:40:00Z".to_owned(),
            Kind::Epoch { unit, .. } => format!("a number of {unit} since 1970-01-01"),
            Kind::Pattern { .. } => format!("a time in the form {}", self.text),
        };
        ValueError::Syntax { text: shown(text), expected }
    }

    fn range(&self, text: &str) -> ValueError {
        let expected = match &self.kind {
            Kind::Epoch { unit, .. } => format!(
                "the years 0001 to 9999 as {unit} since 1970-01-01 (epoch_s, epoch_ms, epoch_us: is the unit right?)"
            ),
            _ => "the years 0001 to 9999".to_owned(),
        };
        ValueError::Range { text: shown(text), expected }
    }
}

enum LocalFault {
    Skipped(&'static str),
    Range,
}

impl Kind {
    fn pattern(text: &str) -> Result<Self, FormatError> {
        let refuse =
            |reason: &str| FormatError::Time { format: text.to_owned(), reason: reason.to_owned() };
        if !text.contains('%') {
            return Err(refuse("it has no % field"));
        }
        // `.%f` is how Python and others write what chrono calls `%.f`; alone, `%f`
        // would count nanoseconds and be wrong by thousands without a word.
        let text_for_chrono = text.replace(".%f", "%.f");
        let items = StrftimeItems::new(&text_for_chrono)
            .parse_to_owned()
            .map_err(|_| refuse("it has an unknown % field"))?;
        for item in &items {
            match item {
                Item::Numeric(Numeric::Nanosecond, _) => {
                    return Err(refuse("%f would count nanoseconds; write %.f, %3f, %6f or %9f"));
                }
                Item::Numeric(Numeric::Timestamp, _) => {
                    return Err(refuse("%s is the format epoch_s"));
                }
                Item::Fixed(chrono::format::Fixed::TimezoneName) => {
                    return Err(refuse(
                        "%Z does not tell an offset; write the letters themselves (UTC) and give a zone",
                    ));
                }
                _ => {}
            }
        }
        // Whether the pattern tells enough is found by reading back what it prints.
        let sample = DateTime::from_timestamp(1_795_455_601, 0)
            .ok_or_else(|| refuse("internal sample"))?
            .fixed_offset();
        let mut printed = String::new();
        fmt::write(&mut printed, format_args!("{}", sample.format_with_items(items.iter())))
            .map_err(|_| refuse("it does not print"))?;
        let mut parsed = Parsed::new();
        chrono::format::parse(&mut parsed, &printed, items.iter())
            .map_err(|_| refuse("it cannot be read back"))?;
        if parsed.to_naive_date().is_err() {
            return Err(refuse("it does not tell a year, month and day"));
        }
        let date_only = parsed.hour_mod_12().is_none()
            && parsed.hour_div_12().is_none()
            && parsed.minute().is_none()
            && parsed.second().is_none();
        if !date_only && parsed.to_naive_time().is_err() {
            return Err(refuse("its time of day needs hours and minutes (and %p with %I)"));
        }
        Ok(Self::Pattern { items, date_only, has_offset: parsed.offset().is_some() })
    }
}

/// Microseconds by this clock; a leap second reads as the second before it.
fn micros_of(at: NaiveDateTime) -> i64 {
    let micros_of_second = i64::from(at.nanosecond() % 1_000_000_000) / 1_000;
    at.and_utc().timestamp() * 1_000_000 + micros_of_second
}

impl PartialEq for TimeFormat {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, self.zone) == (&other.text, other.zone)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    format: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
}

impl Serialize for TimeFormat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.zone() {
            None => serializer.serialize_str(&self.text),
            Some(zone) => Table { format: self.text.clone(), zone: Some(zone.to_owned()) }
                .serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for TimeFormat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = TimeFormat;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time format, or a table { format = \"...\", zone = \"...\" }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<TimeFormat, E> {
                TimeFormat::new(text, None).map_err(E::custom)
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<TimeFormat, A::Error> {
                let table = Table::deserialize(de::value::MapAccessDeserializer::new(map))?;
                TimeFormat::new(&table.format, table.zone.as_deref()).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: &str, zone: Option<&str>, text: &str) -> Result<String, ValueError> {
        TimeFormat::new(format, zone).expect(format).read(text).map(|t| t.to_string())
    }

    #[test]
    fn every_form_reads_to_the_microsecond() {
        for (format, text, expected) in [
            ("rfc3339", "2026-11-23T18:40:00.5+01:00", "2026-11-23T17:40:00.500000Z"),
            ("epoch_s", "1511658000", "2017-11-26T01:00:00.000000Z"),
            ("epoch_s", "1511658000.0", "2017-11-26T01:00:00.000000Z"),
            ("epoch_s", "-1.25", "1969-12-31T23:59:58.750000Z"),
            ("epoch_ms", "1511658000123", "2017-11-26T01:00:00.123000Z"),
            ("epoch_ms", "1511658000123.4567", "2017-11-26T01:00:00.123456Z"),
            ("epoch_us", "1511658000123456", "2017-11-26T01:00:00.123456Z"),
            ("%Y-%m-%d %H:%M:%S UTC", " 2019-10-01 00:00:00 UTC ", "2019-10-01T00:00:00.000000Z"),
            ("%d/%m/%Y %H:%M", "1/12/2010 8:26", "2010-12-01T08:26:00.000000Z"),
            ("%m/%d/%Y %I:%M %p", "12/01/2010 08:26 PM", "2010-12-01T20:26:00.000000Z"),
            ("%Y-%m-%d", "2010-12-01", "2010-12-01T00:00:00.000000Z"),
            ("%Y%m%d%H%M%S", "20101201082600", "2010-12-01T08:26:00.000000Z"),
            ("%Y-%m-%d %H:%M:%S.%f", "2010-12-01 08:26:00.25", "2010-12-01T08:26:00.250000Z"),
            ("%Y-%m-%d %H:%M:%S%.f", "2010-12-01 08:26:00", "2010-12-01T08:26:00.000000Z"),
            ("%Y-%m-%dT%H:%M:%S%z", "2010-12-01T08:26:00+0530", "2010-12-01T02:56:00.000000Z"),
        ] {
            assert_eq!(read(format, None, text).as_deref(), Ok(expected), "{format} {text}");
        }
    }

    #[test]
    fn a_zone_follows_its_clocks_through_the_year() {
        // London, 2026: forward on 29 March 01:00, back on 25 October 02:00 BST.
        let london = |text| read("%d/%m/%Y %H:%M", Some("Europe/London"), text);
        assert_eq!(london("15/01/2026 12:00").as_deref(), Ok("2026-01-15T12:00:00.000000Z"));
        assert_eq!(london("15/07/2026 12:00").as_deref(), Ok("2026-07-15T11:00:00.000000Z"));
        assert_eq!(london("29/03/2026 00:59").as_deref(), Ok("2026-03-29T00:59:00.000000Z"));
        assert_eq!(london("29/03/2026 02:00").as_deref(), Ok("2026-03-29T01:00:00.000000Z"));
        assert!(matches!(london("29/03/2026 01:30"), Err(ValueError::SkippedLocalTime { .. })));
        // 01:30 was on the clock twice: at 00:30 and 01:30 UTC. The first is taken.
        assert_eq!(london("25/10/2026 01:30").as_deref(), Ok("2026-10-25T00:30:00.000000Z"));
        assert_eq!(london("25/10/2026 02:00").as_deref(), Ok("2026-10-25T02:00:00.000000Z"));
    }

    #[test]
    fn what_is_no_such_time_is_refused_with_what_was_expected() {
        let error = read("%Y-%m-%d %H:%M:%S UTC", None, "2019-10-01 00:00:00").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`2019-10-01 00:00:00` is not a time in the form %Y-%m-%d %H:%M:%S UTC"
        );
        for (format, text) in [
            ("rfc3339", "2019-10-01 00:00:00"),
            ("epoch_s", ""),
            ("epoch_s", "1e9"),
            ("epoch_s", "."),
            ("%d/%m/%Y", "31/02/2010"),
            ("%d/%m/%Y", "01/02/2010 10:00"),
            ("%Y-%m-%d %H:%M", "2010-12-01 24:00"),
        ] {
            assert!(matches!(read(format, None, text), Err(ValueError::Syntax { .. })), "{text}");
        }
        // Milliseconds read as seconds land far outside any shop's history.
        assert!(matches!(read("epoch_s", None, "1511658000123"), Err(ValueError::Range { .. })));
        assert!(matches!(
            read("epoch_us", None, "99999999999999999999"),
            Err(ValueError::Range { .. })
        ));
    }

    #[test]
    fn a_pattern_that_cannot_tell_the_time_is_refused_when_configured() {
        for format in [
            "",
            "iso",
            "%Q",
            "%H:%M",
            "%m-%d",
            "%Y-%m-%d %I:%M",
            "%Y-%m-%d %H",
            "%s",
            "%Y-%m-%d %Z",
            "%Y-%m-%d %H:%M:%S,%f",
        ] {
            assert!(
                matches!(TimeFormat::new(format, None), Err(FormatError::Time { .. })),
                "{format}"
            );
        }
        assert!(matches!(
            TimeFormat::new("%Y-%m-%d", Some("Europe/Lodnon")),
            Err(FormatError::Zone(_))
        ));
        assert!(matches!(
            TimeFormat::new("rfc3339", Some("UTC")),
            Err(FormatError::ZoneNotNeeded(_))
        ));
    }

    #[test]
    fn configuration_is_a_text_or_a_table() {
        let from = |json| serde_json::from_str::<TimeFormat>(json);
        assert_eq!(from("\"epoch_s\"").expect("text").format(), "epoch_s");
        let table = from(r#"{"format":"%Y-%m-%d","zone":"Europe/Paris"}"#).expect("table");
        assert_eq!(table.zone(), Some("Europe/Paris"));
        assert!(
            from(r#"{"format":"%Y-%m-%d","zne":"UTC"}"#).unwrap_err().to_string().contains("zne")
        );
    }
}
