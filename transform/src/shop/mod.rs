//! A shop's own SQL jobs: `jobs/*.sql`, run after ours, in the same batches.
//!
//! A file is one query under a small header of comments ([`header`]). Its rows become
//! a table that is committed, and stands in snapshots, like any other.
//!
//! # Guarantees
//! - A batch holds the text of its jobs, so a run that was killed ends with the same rows,
//!   whatever became of the files.
//! - A query that does not plan is refused before a batch is begun, with file and line.
//! - A query that fails over the data does not hold the batch up: its table stays as it was,
//!   the run says so, and the job is tried again when its text or its inputs changed.
//! - Functions that answer otherwise each time (`random()`, `now()`) are refused.

mod compile;
mod execute;
mod header;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use compile::{Compiled, compile};
pub(crate) use execute::run;

/// How a job's rows get into its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Rows of what is new are added; nothing is ever changed.
    Append,
    /// The days that inputs touched are computed again.
    ReplacePartitions,
    /// The whole table is computed again.
    Full,
}

/// One `jobs/*.sql`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShopJob {
    /// The file, for messages.
    pub file: String,
    /// The table that it makes.
    pub table: String,
    /// How.
    pub mode: Mode,
    /// Whether the table has a partition for each `dt`.
    pub partitioned: bool,
    /// Columns that tell its rows apart, where the header says so.
    pub key: Vec<String>,
    /// Tables whose changes run it.
    pub depends: Vec<String>,
    /// Tables that it reads as they are: their changes do not run it.
    pub looks_up: Vec<String>,
    /// How many days before a day the rows of that day look at.
    pub lookback_days: u16,
    /// The file's text.
    pub sql: String,
}

/// A file that is no job, or a query that does not plan.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{line}: {problem}")]
pub struct ShopJobError {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u64,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl Mode {
    /// As a header says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::ReplacePartitions => "replace partitions",
            Self::Full => "full",
        }
    }
}

impl ShopJob {
    /// Reads the jobs of a folder, in the order of their names.
    ///
    /// # Errors
    /// [`ShopJobError`] for the first file that cannot be read or whose header is wrong.
    pub fn load(folder: &Path) -> Result<Vec<Self>, ShopJobError> {
        let fail = |path: &Path, error: std::io::Error| ShopJobError {
            file: path.display().to_string(),
            line: 1,
            problem: format!("it cannot be read: {error}"),
        };
        let entries = std::fs::read_dir(folder).map_err(|error| fail(folder, error))?;
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| fail(folder, error))?.path();
            if path.extension().is_some_and(|extension| extension == "sql") {
                paths.push(path);
            }
        }
        paths.sort();
        let read = |path: &PathBuf| {
            let text = std::fs::read_to_string(path).map_err(|error| fail(path, error))?;
            header::parse(&path.display().to_string(), text)
        };
        paths.iter().map(read).collect()
    }

    /// A number that changes with anything of it.
    pub(crate) fn fingerprint(&self) -> u64 {
        // The file may move.
        let text = format!(
            "{:?} {} {:?} {:?} {:?} {} {}",
            self.mode,
            self.partitioned,
            self.key,
            self.depends,
            self.looks_up,
            self.lookback_days,
            self.sql
        );
        twox_hash::XxHash3_64::oneshot(text.as_bytes()) >> 1
    }

    fn wrong(&self, line: u64, problem: impl Into<String>) -> ShopJobError {
        ShopJobError { file: self.file.clone(), line, problem: problem.into() }
    }

    /// The line of the header that has this key; the first where it has none.
    fn line_of(&self, key: &str) -> u64 {
        let found = self.sql.lines().position(|line| {
            let line = line.trim_start_matches('-').trim_start();
            line.split_once(':').is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case(key))
        });
        found.map_or(1, |at| at as u64 + 1)
    }
}
