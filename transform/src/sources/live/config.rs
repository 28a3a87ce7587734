//! `[sources.NAME]` of databases and tables that are read live.

use std::collections::BTreeMap;
use std::path::PathBuf;
#[cfg(feature = "databases")]
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::config::{ColumnMapping, TableMapping, check_columns};
use super::super::datasets::{check_any, with_datasets};
use super::super::expect::{Age, Expect};

/// The rows that one query asks for.
const PAGE_ROWS: u32 = 5_000;
/// The most that one query may ask for.
const MAX_PAGE_ROWS: u32 = 100_000;
/// The most segments that DynamoDB takes.
const MAX_SEGMENTS: u32 = 1_000;
/// How long an answer may take, seconds.
const QUERY_TIMEOUT_SECONDS: u64 = 300;
/// The longest, seconds: a day.
const MAX_QUERY_TIMEOUT_SECONDS: u64 = 86_400;
/// The least time between two reads of a table, seconds.
const READ_EVERY_SECONDS: u64 = 600;

with_datasets! {
    /// A PostgreSQL or MySQL database.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct DatabaseSource<LiveMapping> {
        /// Host name or address; of PostgreSQL also the folder of its socket.
        pub host: String,
        /// By default 5432 and 3306.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub port: Option<u16>,
        /// The database.
        pub database: String,
        /// Who reads; needs SELECT and nothing more.
        pub user: String,
        /// The environment variable that holds the password.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub password_env: Option<String>,
        /// The file that holds the password, and a line break at most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub password_file: Option<PathBuf>,
        /// Whether the connection is encrypted, and the server proves who it is.
        #[serde(default)]
        pub tls: Tls,
        /// Certificates that are trusted, PEM; by default those of the machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub ca_file: Option<PathBuf>,
        /// The least time between two reads of a table.
        #[serde(default = "read_every")]
        pub read_every: Age,
        /// Rows that one query asks for.
        #[serde(default = "page_rows")]
        pub page_rows: u32,
        /// How long an answer may take: the server is told to give up then, and is not waited
        /// for any longer.
        #[serde(default = "query_timeout")]
        pub query_timeout: Age,
        /// What would be strange of it.
        #[serde(default)]
        pub expect: Expect,
    }
}

/// How a connection is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// Encrypted, with a certificate of the host's name that a trusted one signed.
    #[default]
    Verify,
    /// Not encrypted.
    Off,
}

/// A table or view of a database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveMapping {
    /// Its name: `schema.table` or `table`; by default the name of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The columns that tell its rows apart; by default its primary key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// Read only rows whose value in a column grew; by default all of them each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incremental: Option<Incremental>,
    /// Our column = theirs. A column that is not named comes from the one with its own name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, ColumnMapping>,
}

/// `incremental = { column = "updated_at", overlap = "10m" }`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Incremental {
    /// A time or an integer that grows whenever a row is written.
    pub column: String,
    /// How far below the greatest value seen the next read begins, for transactions that
    /// were open then: a time (10 minutes by default) or a number (1000 by default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Overlap>,
    /// Read all rows again after this long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_every: Option<Age>,
}

/// How far an incremental read reaches back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "overlap must be a time such as \"10m\", or a number")]
pub enum Overlap {
    /// Of a column of integers.
    Number(u32),
    /// Of a column of times.
    Time(Age),
}

with_datasets! {
    /// Tables of DynamoDB, by parallel scan.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct ScanSource<TableMapping> {
        /// The share of a table's read capacity that a scan may use, percent.
        #[serde(default = "capacity_percent")]
        pub capacity_percent: u8,
        /// A table's read capacity, units a second, where it has none of its own (on demand).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub on_demand_units: Option<u32>,
        /// Into how many parts a table is split; they are read side by side.
        #[serde(default = "segments")]
        pub segments: u32,
        /// The least time between two reads of a table.
        #[serde(default = "read_every")]
        pub read_every: Age,
        /// What would be strange of it.
        #[serde(default)]
        pub expect: Expect,
    }
}

impl DatabaseSource {
    /// The error continues a section's name: `.orders] ...`.
    pub(in super::super) fn check(&self) -> Result<(), String> {
        if self.password_env.is_some() && self.password_file.is_some() {
            return Err("] has both `password_env` and `password_file`".to_owned());
        }
        if self.page_rows == 0 || self.page_rows > MAX_PAGE_ROWS {
            return Err(format!("] page_rows must be from 1 to {MAX_PAGE_ROWS}"));
        }
        if !(1..=MAX_QUERY_TIMEOUT_SECONDS).contains(&self.query_timeout.seconds()) {
            return Err("] query_timeout must be from 1s to 1d".to_owned());
        }
        check_any(self.mappings(), " or .carts")?;
        for (dataset, mapping) in self.mappings() {
            check_columns(dataset.section(), &[dataset], &mapping.columns)?;
        }
        Ok(())
    }

    #[cfg(feature = "databases")]
    pub(super) const fn query_timeout(&self) -> Duration {
        Duration::from_secs(self.query_timeout.seconds())
    }
}

impl ScanSource {
    /// The error continues a section's name: `.orders] ...`.
    pub(in super::super) fn check(&self) -> Result<(), String> {
        if !(1..=100).contains(&self.capacity_percent) {
            return Err("] capacity_percent must be from 1 to 100".to_owned());
        }
        if !(1..=MAX_SEGMENTS).contains(&self.segments) {
            return Err(format!("] segments must be from 1 to {MAX_SEGMENTS}"));
        }
        if self.on_demand_units == Some(0) {
            return Err("] on_demand_units must not be 0".to_owned());
        }
        check_any(self.mappings(), " or .carts")?;
        for (dataset, mapping) in self.mappings() {
            check_columns(dataset.section(), &[dataset], &mapping.columns)?;
        }
        Ok(())
    }
}

const fn read_every() -> Age {
    Age::from_seconds(READ_EVERY_SECONDS)
}

const fn query_timeout() -> Age {
    Age::from_seconds(QUERY_TIMEOUT_SECONDS)
}

const fn page_rows() -> u32 {
    PAGE_ROWS
}

const fn capacity_percent() -> u8 {
    25
}

const fn segments() -> u32 {
    4
}
