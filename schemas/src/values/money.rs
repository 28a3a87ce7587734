//! Amounts of money as shops write them.

use serde::{Deserialize, Serialize};

use super::{FormatError, ValueError, replaced, shown};
use crate::{Money, MoneyError};

/// Signs of currency that are no single symbol, longest first.
const CURRENCY_WORDS: &[&str] =
    &["US$", "R$", "A$", "C$", "kr.", "kr", "zł", "Kč", "Ft", "lei", "Rs."];
/// Code points of Unicode's category Sc that shops use.
const CURRENCY_SYMBOLS: &[char] =
    &['$', '¢', '£', '¤', '¥', '֏', '؋', '৳', '฿', '៛', '﷼', '＄', '￠', '￡', '￥', '￦'];
/// Places after the point that [`Money`] holds.
const SCALE_DIGITS: i64 = 4;

/// How a shop writes amounts.
///
/// Currency signs (`$`, `€`, `R$`, `kr`, ...) and three-letter codes (`GBP`) at
/// either end go; `(12.30)`, `-12.30` and `12.30-` are negative. Then the number
/// is read exactly: an amount that needs more than four decimal places is
/// refused, or, with `round = true`, rounded half away from zero.
///
/// In configuration: `{ decimal = ",", thousands = ".", round = false, minor_units = 0 }`,
/// each of them optional.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "Table", into = "Table")]
pub struct MoneyFormat {
    decimal: char,
    thousands: Option<char>,
    round: bool,
    minor_units: u32,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default = "point", skip_serializing_if = "is_point")]
    decimal: char,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    thousands: Option<char>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    round: bool,
    #[serde(default, skip_serializing_if = "is_zero")]
    minor_units: u32,
}

impl Default for MoneyFormat {
    /// A decimal point, no thousands separator, no rounding.
    fn default() -> Self {
        Self { decimal: '.', thousands: None, round: false, minor_units: 0 }
    }
}

impl MoneyFormat {
    /// A format with these separators. A thousands separator of a space also
    /// stands for the no-break spaces that spreadsheets write.
    ///
    /// # Errors
    /// [`FormatError::Money`] where both separators are the same, or one is a
    /// digit, a sign or a letter.
    pub fn new(decimal: char, thousands: Option<char>) -> Result<Self, FormatError> {
        Self { decimal, thousands, ..Self::default() }.checked()
    }

    /// With more than four decimal places: round half away from zero, in place of refusing.
    #[must_use]
    pub fn rounding(self) -> Self {
        Self { round: true, ..self }
    }

    /// Amounts are counted in units of ten to the minus `minor_units`: 2 for cents.
    ///
    /// # Errors
    /// [`FormatError::Money`] above 4.
    pub fn with_minor_units(self, minor_units: u32) -> Result<Self, FormatError> {
        Self { minor_units, ..self }.checked()
    }

    /// The same format without rounding: what it refuses, [`MoneyFormat::rounding`] would round.
    #[must_use]
    pub fn exact(&self) -> Self {
        Self { round: false, ..self.clone() }
    }

    /// Whether amounts are rounded where they have to be.
    #[must_use]
    pub const fn rounds(&self) -> bool {
        self.round
    }

    fn checked(self) -> Result<Self, FormatError> {
        let usable = |c: char| !c.is_alphanumeric() && !matches!(c, '-' | '+' | '(' | ')');
        if !usable(self.decimal) || self.decimal.is_whitespace() {
            return Err(FormatError::Money(format!(
                "decimal = `{}` cannot separate",
                self.decimal
            )));
        }
        if let Some(thousands) = self.thousands {
            if !usable(thousands) {
                return Err(FormatError::Money(format!(
                    "thousands = `{thousands}` cannot separate"
                )));
            }
            if thousands == self.decimal {
                return Err(FormatError::Money("decimal and thousands are the same".to_owned()));
            }
        }
        if i64::from(self.minor_units) > SCALE_DIGITS {
            return Err(FormatError::Money("minor_units is 0 to 4".to_owned()));
        }
        Ok(self)
    }

    /// Reads one amount.
    ///
    /// # Errors
    /// [`ValueError`] where the text is no amount of this format or does not fit
    /// `Decimal(18,4)`.
    pub fn read(&self, text: &str) -> Result<Money, ValueError> {
        let syntax = || ValueError::Syntax { text: shown(text), expected: self.expected() };
        let (negative, number) = strip_signs(text).ok_or_else(syntax)?;
        let (body, exponent) = match number.find(['e', 'E']) {
            Some(at) => (&number[..at], number[at + 1..].parse::<i32>().map_err(|_| syntax())?),
            None => (number, 0),
        };
        let (whole, fraction) = body.split_once(self.decimal).unwrap_or((body, ""));
        let whole = self.ungrouped(whole).ok_or_else(syntax)?;
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(&whole) || !all_digits(fraction)
        {
            return Err(syntax());
        }
        let digits = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0');
        // The amount is `digits` times ten to the power of `power`.
        let power = i64::from(exponent) - fraction.len() as i64 - i64::from(self.minor_units);
        let sign = if negative { "-" } else { "" };
        if digits.is_empty() {
            return Money::parse("0").map_err(|_| syntax());
        }
        match Money::parse(&format!("{sign}{digits}e{power}")) {
            Ok(money) => Ok(money),
            Err(MoneyError::Precision(_)) if self.round => {
                let dropped = usize::try_from(-SCALE_DIGITS - power).unwrap_or(usize::MAX);
                let rounded = rounded(digits, dropped);
                Money::parse(&format!("{sign}{rounded}e-{SCALE_DIGITS}"))
                    .map_err(|_| self.range(text))
            }
            Err(MoneyError::Precision(_)) => Err(ValueError::Precision { text: shown(text) }),
            Err(MoneyError::Range(_)) => Err(self.range(text)),
            Err(MoneyError::Syntax(_)) => Err(syntax()),
        }
    }

    /// The digits before the point without their separators; `None` where the
    /// groups are not such as anybody writes (`12,34`), since then it is likely
    /// the other separator and the amount wrong by a hundred.
    fn ungrouped(&self, whole: &str) -> Option<String> {
        let Some(thousands) = self.thousands else { return Some(whole.to_owned()) };
        let spaces = replaced(whole, '\u{a0}', " ");
        let spaces = replaced(&spaces, '\u{202f}', " ").into_owned();
        let whole = if thousands.is_whitespace() { spaces.as_str() } else { whole };
        let separator = if thousands.is_whitespace() { ' ' } else { thousands };
        let groups: Vec<&str> = whole.split(separator).collect();
        let (first, rest) = groups.split_first()?;
        let Some((last, middle)) = rest.split_last() else { return Some(whole.to_owned()) };
        // Two digits between separators are India's lakh and crore.
        let regular = (1..=3).contains(&first.len())
            && last.len() == 3
            && middle.iter().all(|group| (2..=3).contains(&group.len()));
        regular.then(|| groups.concat())
    }

    fn expected(&self) -> String {
        let grouped = match self.thousands {
            Some(thousands) => format!("1{thousands}234{}56", self.decimal),
            None => format!("1234{}56", self.decimal),
        };
        format!("an amount such as {grouped}")
    }

    fn range(&self, text: &str) -> ValueError {
        ValueError::Range {
            text: shown(text),
            expected: "amounts with fourteen digits before the point".to_owned(),
        }
    }
}

/// Takes currency and sign off: whether it is negative, and the bare number.
fn strip_signs(text: &str) -> Option<(bool, &str)> {
    let mut rest = strip_currency(text.trim());
    let mut negative = None;
    if let Some(inner) = rest.strip_prefix('(') {
        rest = strip_currency(inner.strip_suffix(')')?.trim());
        negative = Some(true);
    }
    if let Some(inner) = rest.strip_prefix(['-', '\u{2212}', '+']) {
        if negative.is_some() {
            return None;
        }
        negative = Some(!rest.starts_with('+'));
        rest = strip_currency(inner.trim_start());
    } else if let Some(inner) = rest.strip_suffix(['-', '\u{2212}']) {
        if negative.is_some() {
            return None;
        }
        negative = Some(true);
        rest = strip_currency(inner.trim_end());
    }
    Some((negative.unwrap_or(false), rest))
}

/// Takes one sign of currency off either end.
fn strip_currency(text: &str) -> &str {
    let is_symbol =
        |c: char| CURRENCY_SYMBOLS.contains(&c) || ('\u{20a0}'..='\u{20cf}').contains(&c);
    let is_code = |s: &str| s.len() == 3 && s.bytes().all(|b| b.is_ascii_uppercase());
    for word in CURRENCY_WORDS {
        if let Some(rest) = text.strip_prefix(word).or_else(|| text.strip_suffix(word)) {
            return rest.trim();
        }
    }
    if let Some(rest) = text.strip_prefix(is_symbol).or_else(|| text.strip_suffix(is_symbol)) {
        return rest.trim();
    }
    if text.get(..3).is_some_and(is_code) {
        return text[3..].trim();
    }
    match text.len().checked_sub(3) {
        Some(at) if text.get(at..).is_some_and(is_code) => text[..at].trim(),
        _ => text,
    }
}

/// `digits` without its last `dropped` ones, rounded half away from zero.
fn rounded(digits: &str, dropped: usize) -> String {
    let Some(kept) = digits.len().checked_sub(dropped) else { return "0".to_owned() };
    let up = digits.as_bytes().get(kept).is_some_and(|b| *b >= b'5');
    let mut out: Vec<u8> = std::iter::once(b'0').chain(digits.bytes().take(kept)).collect();
    if up {
        for digit in out.iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                break;
            }
            *digit = b'0';
        }
    }
    out.into_iter().map(char::from).collect()
}

impl TryFrom<Table> for MoneyFormat {
    type Error = FormatError;
    fn try_from(t: Table) -> Result<Self, FormatError> {
        let Table { decimal, thousands, round, minor_units } = t;
        Self { decimal, thousands, round, minor_units }.checked()
    }
}

impl From<MoneyFormat> for Table {
    fn from(f: MoneyFormat) -> Self {
        let MoneyFormat { decimal, thousands, round, minor_units } = f;
        Self { decimal, thousands, round, minor_units }
    }
}

const fn point() -> char {
    '.'
}

const fn is_point(c: &char) -> bool {
    *c == '.'
}

const fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: &MoneyFormat, text: &str) -> Result<String, ValueError> {
        format.read(text).map(|m| m.to_string())
    }

    #[test]
    fn amounts_are_read_as_people_write_them() {
        let plain = MoneyFormat::default();
        let english = MoneyFormat::new('.', Some(',')).expect("format");
        let german = MoneyFormat::new(',', Some('.')).expect("format");
        let french = MoneyFormat::new(',', Some(' ')).expect("format");
        for (format, text, expected) in [
            (&plain, "35.79", "35.79"),
            (&plain, " -2.5 ", "-2.5"),
            (&plain, "$12.30", "12.3"),
            (&plain, "-$12.30", "-12.3"),
            (&plain, "$-12.30", "-12.3"),
            (&plain, "($12.30)", "-12.3"),
            (&plain, "(12.30)", "-12.3"),
            (&plain, "12.30-", "-12.3"),
            (&plain, "\u{2212}3", "-3"),
            (&plain, "GBP 4.10", "4.1"),
            (&plain, "4.10 €", "4.1"),
            (&plain, "R$ 7.00", "7"),
            (&plain, "1e3", "1000"),
            (&plain, "5E-2", "0.05"),
            (&plain, "0.00000", "0"),
            (&plain, ".5", "0.5"),
            (&english, "1,234,567.89", "1234567.89"),
            (&english, "12,34,567.89", "1234567.89"),
            (&english, "1234.5", "1234.5"),
            (&german, "1.234,5 EUR", "1234.5"),
            (&german, "-0,01", "-0.01"),
            (&french, "1\u{202f}234,50 €", "1234.5"),
            (&french, "1 234 567", "1234567"),
        ] {
            assert_eq!(read(format, text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn the_wrong_separator_is_refused_not_misread() {
        let plain = MoneyFormat::default();
        let english = MoneyFormat::new('.', Some(',')).expect("format");
        for text in [
            "12,34", "1,5", "", "-", "$", "(", "(1", "(-1)", "--1", "NaN", "nan", "inf", "1 2",
            "1.2.3", "1e", "GBP", "1-2",
        ] {
            assert!(matches!(read(&plain, text), Err(ValueError::Syntax { .. })), "{text}");
            assert!(matches!(read(&english, text), Err(ValueError::Syntax { .. })), "{text}");
        }
        assert_eq!(
            read(&plain, "12,34").unwrap_err().to_string(),
            "`12,34` is not an amount such as 1234.56"
        );
    }

    #[test]
    fn nothing_is_rounded_unless_asked_for() {
        let exact = MoneyFormat::default();
        assert!(matches!(read(&exact, "0.00005"), Err(ValueError::Precision { .. })));
        let rounding = MoneyFormat::default().rounding();
        for (text, expected) in [
            ("0.00005", "0.0001"),
            ("-0.00005", "-0.0001"),
            ("0.00004999999", "0"),
            ("1.00005", "1.0001"),
            ("9.99995", "10"),
            ("1e-30", "0"),
            ("0.30000000000000004", "0.3"),
            ("2.675", "2.675"),
        ] {
            assert_eq!(read(&rounding, text).as_deref(), Ok(expected), "{text}");
        }
        assert!(matches!(read(&rounding, "100000000000000"), Err(ValueError::Range { .. })));
        assert!(matches!(read(&rounding, "99999999999999.99999"), Err(ValueError::Range { .. })));
    }

    #[test]
    fn cents_become_units() {
        let cents = MoneyFormat::default().with_minor_units(2).expect("two");
        assert_eq!(read(&cents, "1230").as_deref(), Ok("12.3"));
        assert_eq!(read(&cents, "-5").as_deref(), Ok("-0.05"));
    }

    #[test]
    fn configuration_that_contradicts_itself_is_refused() {
        let from = |json| serde_json::from_str::<MoneyFormat>(json).map_err(|e| e.to_string());
        assert_eq!(from(r#"{"decimal":","}"#), Ok(MoneyFormat::new(',', None).expect("format")));
        assert!(from(r#"{"decimal":",","thousands":","}"#).is_err());
        assert!(from(r#"{"decimal":"5"}"#).is_err());
        assert!(from(r#"{"decmal":","}"#).is_err_and(|e| e.contains("decmal")));
        assert!(from(r#"{"minor_units":5}"#).is_err());
    }
}
