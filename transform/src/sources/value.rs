//! One cell's text as a value: what a column's mapping says, else the forms
//! that databases write.

use std::borrow::Cow;

use clickmill_schemas::tables::Kind;
use clickmill_schemas::values::{
    MoneyFormat, TimeFormat, ValueError, parse_boolean, parse_integer,
};
use clickmill_schemas::{Money, Timestamp};

use super::config::ColumnRule;

/// Longest value that a message repeats, in characters.
const SHOWN_CHARS: usize = 64;

/// How one column's text is read.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    kind: Kind,
    /// As configured; otherwise [`database_time`].
    time: Option<TimeFormat>,
    /// The zone of times that tell none.
    local: TimeFormat,
    money: MoneyFormat,
    money_is_plain: bool,
    strip: Option<String>,
    map: std::collections::BTreeMap<String, String>,
}

impl Rule {
    /// The rule of a column of this kind. The error is for the user's eyes.
    pub(super) fn new(kind: Kind, mapping: Option<&ColumnRule>) -> Result<Self, String> {
        let none = ColumnRule::default();
        let mapping = mapping.unwrap_or(&none);
        let is_time = matches!(kind, Kind::Timestamp);
        let is_money = matches!(kind, Kind::Money);
        if !is_time && (mapping.format.is_some() || mapping.zone.is_some()) {
            return Err("`format` and `zone` are for times; this is none".to_owned());
        }
        let money_is_plain = mapping.decimal.is_none()
            && mapping.thousands.is_none()
            && mapping.minor_units.is_none()
            && !mapping.round;
        if !is_money && !money_is_plain {
            return Err(
                "`decimal`, `thousands`, `minor_units` and `round` are for amounts; this is none"
                    .to_owned(),
            );
        }
        let words = |e: clickmill_schemas::values::FormatError| e.to_string();
        let zone = mapping.zone.as_deref();
        let time = match &mapping.format {
            Some(format) => Some(TimeFormat::new(format, zone).map_err(words)?),
            None => None,
        };
        let local_zone = if time.is_some() { None } else { zone };
        let mut money =
            MoneyFormat::new(mapping.decimal.unwrap_or('.'), mapping.thousands).map_err(words)?;
        if mapping.round {
            money = money.rounding();
        }
        if let Some(units) = mapping.minor_units {
            money = money.with_minor_units(units).map_err(words)?;
        }
        Ok(Self {
            kind,
            time,
            local: TimeFormat::new("%Y-%m-%d", local_zone).map_err(words)?,
            money,
            money_is_plain,
            strip: mapping.strip.clone(),
            map: mapping.map.clone(),
        })
    }

    pub(super) const fn kind(&self) -> Kind {
        self.kind
    }

    /// True where text passes through unchanged.
    pub(super) fn is_verbatim(&self) -> bool {
        self.strip.is_none() && self.map.is_empty()
    }

    /// Strips and maps, before anything else looks at the text.
    pub(super) fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let stripped = match &self.strip {
            Some(end) => text.strip_suffix(end.as_str()).unwrap_or(text),
            None => text,
        };
        match self.map.get(stripped) {
            Some(ours) => Cow::Owned(ours.clone()),
            None => Cow::Borrowed(stripped),
        }
    }

    pub(super) fn money(&self, text: &str) -> Result<Money, String> {
        if self.money_is_plain
            && let Ok(money) = Money::parse(text)
        {
            return Ok(money);
        }
        self.money.read(text).map_err(words)
    }

    pub(super) fn integer(&self, text: &str) -> Result<i64, String> {
        let value = parse_integer(text).map_err(words)?;
        if matches!(self.kind, Kind::Int32) && i32::try_from(value).is_err() {
            return Err(format!("`{}` does not fit 32 bits", shown(text)));
        }
        Ok(value)
    }

    pub(super) fn boolean(&self, text: &str) -> Result<bool, String> {
        parse_boolean(text).map_err(words)
    }

    pub(super) fn time(&self, text: &str) -> Result<Timestamp, String> {
        match &self.time {
            Some(format) => format.read(text).map_err(words),
            None => self.database_time(text.trim()),
        }
    }

    /// A civil time of a column type without a zone.
    pub(super) fn local_time(&self, micros: i64) -> Result<Timestamp, String> {
        self.local.local_micros(micros).map_err(words)
    }

    /// The forms in which Postgres, MySQL and most programs print a time:
    /// `2026-11-23`, `2026-11-23 17:40`, `2026-11-23T17:40:00.123456`, each followed
    /// by nothing (then it is a time in the mapping's zone, UTC by default), by
    /// `Z`, ` UTC`, or by an offset `+01`, `+0100`, `+01:00`.
    fn database_time(&self, text: &str) -> Result<Timestamp, String> {
        let wrong = || {
            format!(
                "`{}` is not a time such as 2026-11-23 17:40:00+01; give its `format`",
                shown(text)
            )
        };
        if !text.is_ascii() || text.len() < 10 {
            return Err(wrong());
        }
        let (date, rest) = text.split_at(10);
        let rest = rest.strip_prefix(['T', 't', ' ']).unwrap_or(rest);
        let (clock, offset) = match rest.find(['Z', 'z', 'U', '+', '-']) {
            Some(at) => (rest[..at].trim_end(), &rest[at..]),
            None => (rest, ""),
        };
        let clock = match clock.len() {
            0 if offset.is_empty() && text.len() == 10 => "00:00:00".to_owned(),
            5 => format!("{clock}:00"),
            8.. => clock.to_owned(),
            _ => return Err(wrong()),
        };
        let at =
            |zone: &str| Timestamp::parse(&format!("{date}T{clock}{zone}")).map_err(|_| wrong());
        match (offset, offset.len()) {
            ("", _) => self.local.local_micros(at("Z")?.micros()).map_err(words),
            ("Z" | "z" | "UTC", _) => at("Z"),
            (offset, 3) => at(&format!("{offset}:00")),
            (offset, 5) => at(&format!("{}:{}", &offset[..3], &offset[3..])),
            (offset, 6) => at(offset),
            _ => Err(wrong()),
        }
    }

    /// Whether a constant of the configuration is a value of the column.
    pub(super) fn check_constant(&self, text: &str) -> Result<(), String> {
        match self.kind {
            Kind::Money => self.money(text).map(drop),
            Kind::Int32 | Kind::Int64 => self.integer(text).map(drop),
            Kind::Bool => self.boolean(text).map(drop),
            Kind::Timestamp => self.time(text).map(drop),
            _ => Ok(()),
        }
    }
}

/// The beginning of a value, for a message.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}

#[allow(clippy::needless_pass_by_value, reason = "fits map_err")]
fn words(error: ValueError) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time_in(zone: Option<&str>, text: &str) -> Result<String, String> {
        let mapping = ColumnRule { zone: zone.map(str::to_owned), ..ColumnRule::default() };
        Rule::new(Kind::Timestamp, Some(&mapping))?.time(text).map(|t| t.to_string())
    }

    #[test]
    fn the_times_that_databases_print_are_read() {
        // Expected values: `date -u -d`.
        for (text, utc) in [
            ("2026-11-23", "2026-11-23T00:00:00.000000Z"),
            ("2026-11-23 17:40", "2026-11-23T17:40:00.000000Z"),
            ("2026-11-23 17:40:00", "2026-11-23T17:40:00.000000Z"),
            ("2026-11-23 17:40:00.5", "2026-11-23T17:40:00.500000Z"),
            ("2026-11-23 17:40:00.123456+00", "2026-11-23T17:40:00.123456Z"),
            ("2026-11-23 17:40:00+05:30", "2026-11-23T12:10:00.000000Z"),
            ("2026-11-23T17:40:00-0330", "2026-11-23T21:10:00.000000Z"),
            ("2026-11-23T17:40:00Z", "2026-11-23T17:40:00.000000Z"),
            ("2026-11-23 17:40:00 UTC", "2026-11-23T17:40:00.000000Z"),
        ] {
            assert_eq!(time_in(None, text).as_deref(), Ok(utc), "{text}");
        }
    }

    #[test]
    fn a_time_without_a_zone_is_one_of_the_mappings_zone() {
        let london = Some("Europe/London");
        assert_eq!(time_in(london, "2026-07-01 12:00:00").unwrap(), "2026-07-01T11:00:00.000000Z");
        assert_eq!(time_in(london, "2026-01-01 12:00:00").unwrap(), "2026-01-01T12:00:00.000000Z");
        // An offset in the text has the last word.
        assert_eq!(time_in(london, "2026-07-01 12:00+00").unwrap(), "2026-07-01T12:00:00.000000Z");
        // 01:30 never was on a clock in London that night.
        assert!(time_in(london, "2026-03-29 01:30:00").is_err());
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "infinity",
            "-infinity",
            "2026-13-01",
            "2026-02-30 00:00:00",
            "0044-03-15 BC",
            "1795455600",
            "2026-11-23 1",
            "2026-11-23 17:40:00+1",
            "2026-11-23 17:40:00+01:00:00",
            "0000-00-00 00:00:00",
            "2026-11-23Z",
            "２０２６-11-23",
        ] {
            assert!(time_in(None, text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_that_does_not_fit_its_column_is_refused() {
        let format = ColumnRule { format: Some("rfc3339".into()), ..ColumnRule::default() };
        assert!(Rule::new(Kind::Money, Some(&format)).is_err());
        let round = ColumnRule { round: true, ..ColumnRule::default() };
        assert!(Rule::new(Kind::Utf8, Some(&round)).is_err());
        let zone = ColumnRule { zone: Some("Mars/Olympus".into()), ..ColumnRule::default() };
        assert!(Rule::new(Kind::Timestamp, Some(&zone)).is_err());
    }

    #[test]
    fn text_is_stripped_then_mapped() {
        let mapping = ColumnRule {
            strip: Some(".0".into()),
            map: [("17850".to_owned(), "gold".to_owned())].into(),
            ..ColumnRule::default()
        };
        let rule = Rule::new(Kind::Utf8, Some(&mapping)).unwrap();
        assert_eq!(
            (&*rule.text("17850.0"), &*rule.text("1.0"), &*rule.text("x")),
            ("gold", "1", "x")
        );
    }
}
