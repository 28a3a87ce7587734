//! `[[quality.TABLE]]` of the configuration.

use std::collections::BTreeMap;

use clickmill_schemas::tables::{EVENTS, Kind, TableSpec};
use serde::Deserialize;

use super::reconcile::Reconciliation;
use crate::sources::config::Age;

/// Days that reconciliation looks at, where nothing else is said.
const RECONCILED_DAYS: u16 = 7;

/// The checks of each table, in their order.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "BTreeMap<String, Vec<Settings>>")]
pub struct QualityConfig(BTreeMap<String, Vec<Check>>);

/// One check.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// What must hold.
    pub rule: Rule,
    /// What becomes of the table where it does not.
    pub on_failure: OnFailure,
}

/// What must hold of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// Every new row has a value in these columns.
    NotNull(Vec<String>),
    /// No two rows have the same values in these columns.
    Unique(Vec<String>),
    /// Every value of the column, in new rows, is one of these.
    AcceptedValues(String, Vec<String>),
    /// The newest time in the column is at most so old when a batch is planned, or a run finds
    /// nothing to do.
    Freshness(String, Age),
    /// A batch changes the number of rows by at most so many percent.
    RowCountDrift(f64),
    /// The shop's orders and the tracker's purchases differ at most so much.
    Reconciliation(Reconciliation),
}

/// What becomes of a table whose check fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It is committed, and the failure told.
    #[default]
    Warn,
    /// It is not committed.
    Stop,
}

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    check: String,
    #[serde(default)]
    columns: Vec<String>,
    column: Option<String>,
    #[serde(default)]
    values: Vec<String>,
    max_age: Option<Age>,
    percent: Option<f64>,
    max_value_mismatch: Option<f64>,
    max_currency_mismatch: Option<f64>,
    max_event_only: Option<f64>,
    days: Option<u16>,
    #[serde(default)]
    on_failure: OnFailure,
}

impl QualityConfig {
    /// The checks of a table.
    #[must_use]
    pub fn of(&self, table: &str) -> &[Check] {
        self.0.get(table).map_or(&[], Vec::as_slice)
    }

    /// A number that changes with the checks of a table.
    pub(crate) fn fingerprint(&self, table: &str) -> u64 {
        let text = format!("{:?}", self.of(table));
        twox_hash::XxHash3_64::oneshot(text.as_bytes()) >> 1
    }

    /// The tables with checks.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl TryFrom<BTreeMap<String, Vec<Settings>>> for QualityConfig {
    type Error = String;

    fn try_from(tables: BTreeMap<String, Vec<Settings>>) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for (table, checks) in tables {
            let mut read = Vec::new();
            for (at, settings) in checks.into_iter().enumerate() {
                let place = format!("[[quality.{table}]] number {}, {}", at + 1, settings.check);
                let check = settings.read(&table).map_err(|what| format!("{place}: {what}"))?;
                // The columns of a shop's own tables, and its own ones of `events`, are known when
                // the rest of the configuration and its jobs are read.
                if let Some(spec) = TableSpec::find(&table).filter(|spec| spec.name != EVENTS.name)
                {
                    check.fits(spec).map_err(|what| format!("{place}: {what}"))?;
                }
                read.push(check);
            }
            all.insert(table, read);
        }
        Ok(Self(all))
    }
}

impl Settings {
    fn read(self, table: &str) -> Result<Check, String> {
        let Self { check, columns, column, values, max_age, days, on_failure, .. } = self;
        let Self { percent, max_value_mismatch, max_currency_mismatch, max_event_only, .. } = self;
        let shares = [
            ("percent", percent),
            ("max_value_mismatch", max_value_mismatch),
            ("max_currency_mismatch", max_currency_mismatch),
            ("max_event_only", max_event_only),
        ];
        let is_given = [
            ("columns", !columns.is_empty()),
            ("column", column.is_some()),
            ("values", !values.is_empty()),
            ("max_age", max_age.is_some()),
            ("days", days.is_some()),
        ];
        let is_given =
            is_given.into_iter().chain(shares.map(|(name, share)| (name, share.is_some())));
        let (needs, may): (&[&str], &[&str]) = match check.as_str() {
            "not_null" | "unique" => (&["columns"], &[]),
            "accepted_values" => (&["column", "values"], &[]),
            "freshness" => (&["column", "max_age"], &[]),
            "row_count_drift" => (&["percent"], &[]),
            "reconciliation" => (
                &[],
                &[
                    "percent",
                    "max_value_mismatch",
                    "max_currency_mismatch",
                    "max_event_only",
                    "days",
                ],
            ),
            _ => {
                return Err(
                    "there is no such check; there are not_null, unique, accepted_values, \
                            freshness, row_count_drift and reconciliation"
                        .to_owned(),
                );
            }
        };
        for (name, given) in is_given {
            match (needs.contains(&name), given) {
                (true, false) => return Err(format!("it needs `{name}`")),
                (false, true) if !may.contains(&name) => {
                    return Err(format!("it knows no `{name}`"));
                }
                _ => {}
            }
        }
        for (name, share) in shares {
            if let Some(share) = share.filter(|share| !share.is_finite() || *share < 0.0) {
                return Err(format!("{name} = {share} is no share"));
            }
        }
        let column = column.unwrap_or_default();
        let rule = match check.as_str() {
            "not_null" => Rule::NotNull(columns),
            "unique" => Rule::Unique(columns),
            "accepted_values" => Rule::AcceptedValues(column, values),
            "freshness" => Rule::Freshness(column, max_age.unwrap_or(Age::from_seconds(0))),
            "row_count_drift" => Rule::RowCountDrift(percent.unwrap_or_default()),
            _ if table != "orders_enriched" => {
                return Err("it compares orders with purchases: it is for orders_enriched".into());
            }
            _ if shares.iter().all(|(_, share)| share.is_none()) => {
                let names = shares.map(|(name, _)| format!("`{name}`"));
                return Err(format!("it needs one of {} at least", names.join(", ")));
            }
            _ if days == Some(0) => return Err("days is at least 1".into()),
            _ => match shares.iter().find(|(_, share)| share.is_some_and(|share| share > 100.0)) {
                Some((name, _)) => return Err(format!("{name} is at most 100")),
                None => Rule::Reconciliation(Reconciliation {
                    at_least: percent,
                    max_value_mismatch,
                    max_currency_mismatch,
                    max_event_only,
                    days: days.unwrap_or(RECONCILED_DAYS),
                }),
            },
        };
        Ok(Check { rule, on_failure })
    }
}

impl Check {
    /// Whether its columns are columns of the table, and of a type that it can look at.
    ///
    /// # Errors
    /// What does not fit, for the user's eyes.
    pub fn fits(&self, spec: &TableSpec) -> Result<(), String> {
        let find = |name: &String| {
            spec.columns.iter().find(|column| column.name == name).ok_or_else(|| {
                let known: Vec<&str> = spec.columns.iter().map(|column| column.name).collect();
                format!("{} has no column `{name}`; it has {}", spec.name, known.join(", "))
            })
        };
        match &self.rule {
            Rule::NotNull(columns) | Rule::Unique(columns) => {
                for name in columns {
                    if matches!(find(name)?.kind, Kind::Map | Kind::List(_)) {
                        return Err(format!("`{name}` holds many values"));
                    }
                }
                Ok(())
            }
            Rule::AcceptedValues(name, _) => match find(name)?.kind {
                Kind::Utf8 | Kind::Bool | Kind::Int32 | Kind::Int64 => Ok(()),
                _ => Err(format!("`{name}` is neither text nor a whole number")),
            },
            Rule::Freshness(name, _) => match find(name)?.kind {
                Kind::Timestamp | Kind::Date => Ok(()),
                _ => Err(format!("`{name}` is no time")),
            },
            Rule::RowCountDrift(_) | Rule::Reconciliation(_) => Ok(()),
        }
    }
}

impl Rule {
    /// Its name in the configuration and in `quality_results`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NotNull(_) => "not_null",
            Self::Unique(_) => "unique",
            Self::AcceptedValues(..) => "accepted_values",
            Self::Freshness(..) => "freshness",
            Self::RowCountDrift(_) => "row_count_drift",
            Self::Reconciliation(_) => "reconciliation",
        }
    }

    /// The columns that it looks at.
    #[must_use]
    pub fn columns(&self) -> Vec<&str> {
        match self {
            Self::NotNull(columns) | Self::Unique(columns) => {
                columns.iter().map(String::as_str).collect()
            }
            Self::AcceptedValues(column, _) | Self::Freshness(column, _) => vec![column],
            Self::RowCountDrift(_) | Self::Reconciliation(_) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<QualityConfig, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_check_is_read_with_what_it_needs() {
        let config = read(
            "[[orders]]\ncheck = \"not_null\"\ncolumns = [\"customer_id\"]\non_failure = \"stop\"\n\
             [[orders]]\ncheck = \"freshness\"\ncolumn = \"ordered_at\"\nmax_age = \"2h\"\n\
             [[orders_enriched]]\ncheck = \"reconciliation\"\npercent = 90.5\n",
        )
        .unwrap();
        let [first, second] = config.of("orders") else { panic!("{config:?}") };
        assert_eq!(first.rule, Rule::NotNull(vec!["customer_id".to_owned()]));
        assert_eq!(first.on_failure, OnFailure::Stop);
        assert_eq!(second.rule, Rule::Freshness("ordered_at".to_owned(), Age::from_seconds(7_200)));
        assert_eq!(second.on_failure, OnFailure::Warn);
        assert_eq!(
            config.of("orders_enriched")[0].rule,
            Rule::Reconciliation(Reconciliation {
                at_least: Some(90.5),
                days: 7,
                ..Reconciliation::default()
            })
        );
        assert!(config.of("events").is_empty());
    }

    #[test]
    fn checks_that_differ_have_another_fingerprint() {
        let of = |percent: &str, on_failure: &str| {
            read(&format!(
                "[[orders_enriched]]\ncheck = \"reconciliation\"\nmax_event_only = {percent}\n\
                 on_failure = \"{on_failure}\"\n"
            ))
            .unwrap()
            .fingerprint("orders_enriched")
        };
        assert_eq!(of("5", "stop"), of("5.0", "stop"));
        assert_ne!(of("5", "stop"), of("5.1", "stop"));
        assert_ne!(of("5", "stop"), of("5", "warn"));
        assert_ne!(of("5", "stop"), QualityConfig::default().fingerprint("orders_enriched"));
    }

    #[test]
    fn what_is_wrong_with_a_check_is_said_with_its_place() {
        for (table, check, said) in [
            ("orders", "check = \"not_nul\"", "no such check"),
            ("orders", "check = \"not_null\"", "needs `columns`"),
            ("orders", "check = \"not_null\"\ncolumns = [\"custmer\"]", "no column `custmer`"),
            (
                "orders",
                "check = \"unique\"\ncolumns = [\"order_id\"]\npercent = 1",
                "knows no `percent`",
            ),
            ("orders", "check = \"freshness\"\ncolumn = \"total\"\nmax_age = \"1h\"", "is no time"),
            (
                "orders",
                "check = \"accepted_values\"\ncolumn = \"total\"\nvalues = [\"1\"]",
                "neither text",
            ),
            ("orders", "check = \"reconciliation\"\npercent = 1", "for orders_enriched"),
            ("orders_enriched", "check = \"reconciliation\"\npercent = 101", "at most 100"),
            (
                "orders_enriched",
                "check = \"reconciliation\"\ndays = 3",
                "one of `percent`, `max_value",
            ),
            (
                "orders_enriched",
                "check = \"reconciliation\"\nmax_event_only = nan",
                "max_event_only = NaN is no share",
            ),
            (
                "orders_enriched",
                "check = \"reconciliation\"\nmax_value_mismatch = 101",
                "max_value_mismatch is at most 100",
            ),
            ("orders", "check = \"row_count_drift\"\npercent = -1", "no share"),
            (
                "orders",
                "check = \"row_count_drift\"\npercent = 1\nmax_event_only = 1",
                "knows no `max_event_only`",
            ),
            ("abandoned_carts", "check = \"unique\"\ncolumns = [\"items\"]", "many values"),
            ("orders", "check = \"unique\"\ncolumns = [\"order_id\"]\nseverity = 1", "severity"),
        ] {
            let error = read(&format!("[[{table}]]\n{check}\n")).unwrap_err();
            assert!(error.contains(said), "{check}: {error}");
        }
    }
}
