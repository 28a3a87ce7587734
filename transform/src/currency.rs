//! `[currency]` of the configuration: the currency that a shop reports in, and a file of rates.
//!
//! The file is CSV with a header: `date` (2026-11-23), `currency`, and `rate`, the units of
//! the reporting currency for one unit of that currency. A run copies it into the lake
//! (`_clickmill/rates/<sha256>.csv`) before the batch that takes it in is written down, so that
//! the batch has the same rates however often it is tried.

use std::collections::BTreeMap;

use bytes::Bytes;
use clickmill_lake::{Lake, LakeError, open_store};
use clickmill_schemas::Date;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::sources::{Notice, Severity};

/// Digits of a rate before and after the point.
const WHOLE_DIGITS: usize = 8;
/// Digits after the point of the table's rates.
pub const RATE_SCALE: usize = 10;
/// Digits of a rate in the table.
pub const RATE_DIGITS: u8 = 18;
/// A file of rates, at most.
const MAX_RATES_BYTES: u64 = 64 * 1024 * 1024;
/// Bad lines that are told one by one.
const MAX_LINES_TOLD: usize = 5;
const COPIES: &str = "_clickmill/rates";

/// `[currency]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Settings")]
pub struct CurrencyConfig {
    /// ISO 4217.
    pub reporting: String,
    /// A file: a path, `file:///...` or `s3://bucket/rates.csv`.
    pub rates: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    reporting: String,
    rates: String,
}

/// The rates that a batch takes in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// ISO 4217.
    pub reporting: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// The file itself, between planning and writing the plan down.
    #[serde(skip)]
    content: Bytes,
}

/// One rate as an integer of ten-billionths.
pub type UnscaledRate = i128;

impl TryFrom<Settings> for CurrencyConfig {
    type Error = String;

    fn try_from(settings: Settings) -> Result<Self, String> {
        let Settings { reporting, rates } = settings;
        if !is_currency(&reporting) {
            return Err(format!(
                "[currency] reporting = `{reporting}` is no ISO 4217 code such as EUR"
            ));
        }
        Ok(Self { reporting, rates })
    }
}

fn is_currency(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase())
}

/// Reads the rates file; the rates taken before where it does not answer.
pub async fn look(
    config: Option<&CurrencyConfig>,
    taken: Option<&Rates>,
    notices: &mut Vec<Notice>,
) -> Option<Rates> {
    let config = config?;
    match fetch(&config.rates).await {
        Ok(content) => {
            let sha256 = Sha256::digest(&content).iter().map(|b| format!("{b:02x}")).collect();
            Some(Rates { reporting: config.reporting.clone(), sha256, content })
        }
        Err(problem) => {
            notices.push(Notice {
                source: "currency".to_owned(),
                subject: config.rates.clone(),
                severity: Severity::Problem,
                problem: format!("the rates cannot be read: {problem}; those taken before stay"),
                advice: "correct `rates` in [currency]".to_owned(),
            });
            taken.cloned()
        }
    }
}

async fn fetch(location: &str) -> Result<Bytes, String> {
    let (folder, file) = location.rsplit_once('/').unwrap_or((".", location));
    let folder = if folder.is_empty() { "/" } else { folder };
    let (store, _) = open_store(folder).await.map_err(|error| error.to_string())?;
    let path = Path::from(file);
    let found = store.get(&path).await.map_err(|error| error.to_string())?;
    if found.meta.size > MAX_RATES_BYTES {
        return Err(format!("it has more than {MAX_RATES_BYTES} bytes"));
    }
    found.bytes().await.map_err(|error| error.to_string())
}

impl Rates {
    fn copy(&self) -> Path {
        Path::from(COPIES).join(format!("{}.csv", self.sha256))
    }

    /// Copies the file into the lake. Its name is its content, so writing twice changes nothing.
    ///
    /// # Errors
    /// [`LakeError::Store`].
    pub async fn keep(&self, lake: &Lake) -> Result<(), LakeError> {
        if self.content.is_empty() {
            return Ok(());
        }
        let path = self.copy();
        let written = lake.store().put(&path, self.content.clone().into()).await;
        written.map(drop).map_err(|error| LakeError::store("write", &path, error))
    }

    /// The rates in the lake's copy, and what is wrong with the rest of it.
    ///
    /// # Errors
    /// [`LakeError::Store`].
    pub async fn read(
        &self,
        lake: &Lake,
    ) -> Result<(BTreeMap<(String, Date), UnscaledRate>, Vec<Notice>), LakeError> {
        let path = self.copy();
        let fail = |error| LakeError::store("read", &path, error);
        let bytes = match lake.store().get(&path).await {
            Ok(found) => found.bytes().await.map_err(fail)?,
            // An empty file is not copied.
            Err(object_store::Error::NotFound { .. }) => Bytes::new(),
            Err(error) => return Err(fail(error)),
        };
        let (rates, problems) = parse(&bytes);
        let more = problems.len().saturating_sub(MAX_LINES_TOLD);
        let mut told: Vec<String> = problems.into_iter().take(MAX_LINES_TOLD).collect();
        if more > 0 {
            told.push(format!("and {more} more lines"));
        }
        let notices = told.into_iter().map(|problem| Notice {
            source: "currency".to_owned(),
            subject: "the rates file".to_owned(),
            severity: Severity::Problem,
            problem: format!("{problem}; it is left out"),
            advice: "correct the line".to_owned(),
        });
        Ok((rates, notices.collect()))
    }
}

/// The rates, and a word on each line that is none.
fn parse(bytes: &[u8]) -> (BTreeMap<(String, Date), UnscaledRate>, Vec<String>) {
    let mut rates = BTreeMap::new();
    let mut problems = Vec::new();
    let mut reader =
        csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(bytes);
    let headers = match reader.headers() {
        Ok(headers) => headers.clone(),
        Err(error) => return (rates, vec![format!("the header cannot be read: {error}")]),
    };
    let position = |name: &str| {
        headers.iter().position(|h| h.trim_start_matches('\u{feff}').eq_ignore_ascii_case(name))
    };
    let (Some(date), Some(currency), Some(rate)) =
        (position("date"), position("currency"), position("rate"))
    else {
        let there: Vec<&str> = headers.iter().collect();
        let there = there.join(", ");
        problems.push(format!("the header needs date, currency and rate; it has {there}"));
        return (rates, problems);
    };
    for record in reader.records() {
        let read = record.map_err(|error| error.to_string()).and_then(|record| {
            let line = record.position().map_or(0, csv::Position::line);
            let field = |at: usize| record.get(at).unwrap_or_default();
            let wrong = |what: String| format!("line {line}: {what}");
            let day = Date::parse(field(date))
                .map_err(|_| wrong(format!("`{}` is no date such as 2026-11-23", field(date))))?;
            let code = field(currency);
            if !is_currency(code) {
                return Err(wrong(format!("`{code}` is no ISO 4217 code")));
            }
            let value = unscaled(field(rate)).ok_or_else(|| {
                wrong(format!(
                    "`{}` is no rate: a positive decimal with at most {WHOLE_DIGITS} digits before \
                     the point and {RATE_SCALE} after it",
                    field(rate)
                ))
            })?;
            match rates.insert((code.to_owned(), day), value) {
                Some(before) if before != value => {
                    rates.insert((code.to_owned(), day), before);
                    Err(wrong(format!("{code} has another rate of {day} above")))
                }
                _ => Ok(()),
            }
        });
        problems.extend(read.err());
    }
    (rates, problems)
}

/// Exact: what does not fit is no rate, and nothing is rounded.
fn unscaled(text: &str) -> Option<UnscaledRate> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > RATE_SCALE {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    if whole.len() > WHOLE_DIGITS {
        return None;
    }
    let value = format!("{whole}{fraction:0<RATE_SCALE$}").parse().ok()?;
    (value > 0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_exact_or_none() {
        for (text, expected) in [
            ("1", Some(10_000_000_000)),
            ("0.0067", Some(67_000_000)),
            ("00012.50", Some(125_000_000_000)),
            ("0.1234567891", Some(1_234_567_891)),
            ("0.12345678910", Some(1_234_567_891)),
            ("0.12345678912", None),
            ("99999999.9", Some(999_999_999_000_000_000)),
            ("100000000", None),
            ("0", None),
            ("-1", None),
            ("1e3", None),
            ("1,5", None),
            ("", None),
            (".5", None),
            ("NaN", None),
        ] {
            assert_eq!(unscaled(text), expected, "{text}");
        }
    }

    #[test]
    fn a_bad_line_is_told_and_the_others_are_taken() {
        let text = "date,currency,rate\n2026-03-01,USD,0.9\n2026-13-01,USD,0.9\n2026-03-01,usd,1\n\
                    2026-03-02,USD,x\n2026-03-01,USD,0.90\n2026-03-01,USD,0.8\n2026-03-02,GBP,1.2\n";
        let (rates, problems) = parse(text.as_bytes());
        let day = |text: &str| Date::parse(text).unwrap();
        assert_eq!(
            rates,
            BTreeMap::from([
                (("USD".to_owned(), day("2026-03-01")), 9_000_000_000),
                (("GBP".to_owned(), day("2026-03-02")), 12_000_000_000),
            ])
        );
        let lines: Vec<&str> = problems.iter().filter_map(|p| p.split(':').next()).collect();
        assert_eq!(lines, ["line 3", "line 4", "line 5", "line 7"], "{problems:?}");
        assert!(parse(b"day,rate\n1,2\n").1[0].contains("the header needs"));
        assert_eq!(parse(b"").1.len(), 1);
    }
}
