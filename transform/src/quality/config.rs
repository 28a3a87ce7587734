//! `[[quality.TABLE]]` of the configuration.

use std::collections::BTreeMap;

use clickmill_schemas::tables::{EVENTS, Kind, TableSpec};
use serde::Deserialize;

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
    /// The newest time in the column is at most so old when a batch is planned.
    Freshness(String, Age),
    /// A batch changes the number of rows by at most so many percent.
    RowCountDrift(f64),
    /// At least so many percent of the orders of the newest days were seen by the tracker.
    Reconciliation {
        /// Percent.
        at_least: f64,
        /// Days with orders.
        days: u16,
    },
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
        let Self { check, columns, column, values, max_age, percent, days, on_failure } = self;
        let is_given = [
            ("columns", !columns.is_empty()),
            ("column", column.is_some()),
            ("values", !values.is_empty()),
            ("max_age", max_age.is_some()),
            ("percent", percent.is_some()),
            ("days", days.is_some()),
        ];
        let (needs, may): (&[&str], &[&str]) = match check.as_str() {
            "not_null" | "unique" => (&["columns"], &[]),
            "accepted_values" => (&["column", "values"], &[]),
            "freshness" => (&["column", "max_age"], &[]),
            "row_count_drift" => (&["percent"], &[]),
            "reconciliation" => (&["percent"], &["days"]),
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
        let percent = percent.unwrap_or_default();
        if !percent.is_finite() || percent < 0.0 {
            return Err(format!("percent = {percent} is no share"));
        }
        let column = column.unwrap_or_default();
        let rule = match check.as_str() {
            "not_null" => Rule::NotNull(columns),
            "unique" => Rule::Unique(columns),
            "accepted_values" => Rule::AcceptedValues(column, values),
            "freshness" => Rule::Freshness(column, max_age.unwrap_or(Age::from_seconds(0))),
            "row_count_drift" => Rule::RowCountDrift(percent),
            _ if table != "orders_enriched" => {
                return Err("it compares orders with purchases: it is for orders_enriched".into());
            }
            _ if percent > 100.0 || days == Some(0) => {
                return Err("percent is at most 100, and days at least 1".into());
            }
            _ => Rule::Reconciliation { at_least: percent, days: days.unwrap_or(RECONCILED_DAYS) },
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
            Rule::RowCountDrift(_) | Rule::Reconciliation { .. } => Ok(()),
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
            Self::Reconciliation { .. } => "reconciliation",
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
            Self::RowCountDrift(_) | Self::Reconciliation { .. } => Vec::new(),
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
            Rule::Reconciliation { at_least: 90.5, days: 7 }
        );
        assert!(config.of("events").is_empty());
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
            ("orders", "check = \"row_count_drift\"\npercent = -1", "no share"),
            ("abandoned_carts", "check = \"unique\"\ncolumns = [\"items\"]", "many values"),
            ("orders", "check = \"unique\"\ncolumns = [\"order_id\"]\nseverity = 1", "severity"),
        ] {
            let error = read(&format!("[[{table}]]\n{check}\n")).unwrap_err();
            assert!(error.contains(said), "{check}: {error}");
        }
    }
}
