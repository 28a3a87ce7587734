//! What an import did, for people and programs.

use std::collections::BTreeMap;

use serde::Serialize;

/// An import's outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Rows of all files.
    pub rows: u64,
    /// Rows that are events in the raw zone, earlier runs included.
    pub taken: u64,
    /// Rows that are rejects in the raw zone, earlier runs included.
    pub rejected: u64,
    /// Rows that this run landed; the others were there already.
    pub landed_now: u64,
    /// The rejects of this run by reason code.
    pub rejected_now: BTreeMap<&'static str, Rejected>,
    /// Each file.
    pub files: Vec<FileSummary>,
}

/// One file's outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FileSummary {
    /// As the user named it.
    pub path: String,
    /// SHA-256 of its content, uncompressed.
    pub sha256: String,
    /// Its landing chain, which is also its events' `collector_id`.
    pub source: String,
    /// Its rows.
    pub rows: u64,
    /// Its events, earlier runs included.
    pub taken: u64,
    /// Its rejects, earlier runs included.
    pub rejected: u64,
    /// Rows that this run landed.
    pub landed_now: u64,
    /// Nothing was left to do.
    pub already_imported: bool,
    /// The same content was imported under another mapping before. The events of
    /// rows without an id of their own are then duplicates of the earlier ones.
    pub under_other_mapping: bool,
    /// Where its rejects are, as paths in the lake.
    pub reject_objects: Vec<String>,
    /// This run's rejects by reason code.
    pub rejected_now: BTreeMap<&'static str, Rejected>,
}

/// Rejects of one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// How many.
    pub rows: u64,
    /// The first of them.
    pub first: Option<Example>,
}

/// A rejected row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Example {
    /// File.
    pub path: String,
    /// Row number, from 1, without the header.
    pub row: u64,
    /// What is wrong.
    pub detail: String,
}

impl Summary {
    pub(crate) fn add(&mut self, file: FileSummary) {
        self.rows += file.rows;
        self.taken += file.taken;
        self.rejected += file.rejected;
        self.landed_now += file.landed_now;
        for (reason, rejected) in &file.rejected_now {
            let sum = self.rejected_now.entry(reason).or_default();
            sum.rows += rejected.rows;
            sum.first = sum.first.take().or_else(|| rejected.first.clone());
        }
        self.files.push(file);
    }
}
