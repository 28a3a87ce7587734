//! `kind = "dms"` of the configuration.

use std::collections::BTreeMap;

use clickmill_schemas::tables::Kind;
use serde::{Deserialize, Serialize};

use super::config::{ColumnMapping, Expect, check_columns, comma};
use super::datasets::with_datasets;
use super::value::Rule;

with_datasets! {
    /// Full loads and change capture that DMS wrote to S3.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct DmsSource<DmsMapping> {
        /// The folder above the schemas' folders.
        pub path: String,
        /// Of a CSV: what stands between the values, one ASCII character (`CsvDelimiter`).
        #[serde(default = "comma")]
        pub delimiter: char,
        /// Of a CSV: whether the first row names the columns (`AddColumnName`).
        #[serde(default)]
        pub header: bool,
        /// Of a CSV: what stands for NULL (`CsvNullValue`), beside nothing at all.
        #[serde(default = "null_text")]
        pub null: String,
        /// The column of I, U or D in Parquet and in a CSV with a header; without one it is
        /// the first field.
        #[serde(default = "op")]
        pub operation_column: String,
        /// The column of the commit's time (`TimestampColumnName`), where the task writes one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub time_column: Option<String>,
        /// When the full load was made; by default when its files were last written.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub loaded_at: Option<String>,
        /// When the task began, if what it loads shall stand above what was said before: of one
        /// that loads anew. Without, a load stands below all changes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub started_at: Option<String>,
        /// What would be strange of it.
        #[serde(default)]
        pub expect: Expect,
    }
}

/// One table of change capture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DmsMapping {
    /// Its name: `schema.table` or `table`; by default the name of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Of a CSV without a header: its fields in order, after the operation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Our column = theirs. A column that is not named comes from the one with its own name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, ColumnMapping>,
}

impl DmsSource {
    pub(super) fn check(&self) -> Result<(), String> {
        if !self.delimiter.is_ascii() {
            return Err(format!("] delimiter `{}` is not one ASCII character", self.delimiter));
        }
        for (key, text) in [("loaded_at", &self.loaded_at), ("started_at", &self.started_at)] {
            let Some(text) = text else { continue };
            let rule = Rule::new(Kind::Timestamp, None)?;
            rule.time(text).map_err(|problem| format!("] {key}: {problem}"))?;
        }
        for (dataset, mapping) in self.mappings() {
            let section = dataset.section();
            if let Some(name) = super::dms::twice(&mapping.names) {
                return Err(format!(".{section}] names `{name}` twice"));
            }
            let time = self.time_column.as_deref().filter(|_| !mapping.names.is_empty());
            if let Some(time) = time.filter(|time| !mapping.names.iter().any(|n| n == time)) {
                return Err(format!(
                    ".{section}] names lacks `{time}`, the time_column: give it where it stands"
                ));
            }
            check_columns(section, &[dataset], &mapping.columns)?;
        }
        Ok(())
    }
}

fn null_text() -> String {
    "NULL".to_owned()
}

fn op() -> String {
    "Op".to_owned()
}
