//! What can go wrong in a run.

use clickmill_lake::LakeError;
use datafusion::common::DataFusionError;

use crate::shop::ShopJobError;
use crate::sources::SourceError;

/// Failures of a run. What was committed before one stays, and the next run
/// finishes the batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransformError {
    /// The lake could not be read or written.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// An export could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// An object of the raw zone is not what its commit says.
    #[error("cannot read the raw object {path}: {reason}")]
    Raw {
        /// Its path in the lake.
        path: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The store failed while a data file of a table was read.
    #[error("cannot read the data file {path}")]
    File {
        /// Its path in the lake.
        path: String,
        /// Parquet's word.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// A query of a job failed.
    #[error("the job {job} failed")]
    Job {
        /// The job.
        job: &'static str,
        /// DataFusion's word.
        #[source]
        source: DataFusionError,
    },
    /// Rows did not fit the columns they were meant for.
    #[error("rows do not fit their columns")]
    Arrow(#[from] arrow::error::ArrowError),
    /// A task of ours ended early.
    #[error("a worker of the job {job} ended early")]
    Worker {
        /// The job.
        job: &'static str,
        /// Tokio's word.
        #[source]
        source: tokio::task::JoinError,
    },
    /// A table that was asked for is not one that a job makes.
    #[error("there is no table `{name}`; known are {known}")]
    UnknownTable {
        /// As asked.
        name: String,
        /// All of them.
        known: String,
    },
    /// `[sessions]` says otherwise than when the lake's sessions were cut.
    #[error(
        "this lake's sessions end after {cut} minutes of silence, and [sessions] gap_minutes is \
         now {wanted}: put it back, or rebuild the tables (docs/etl.md, \"Rebuild\")"
    )]
    OtherSessions {
        /// Minutes, of the lake.
        cut: u16,
        /// Minutes, as configured.
        wanted: u16,
    },
    /// A column of the shop's own is in the lake with another type.
    #[error(
        "[columns] {name}: `events` has that column as {held}, and it is {wanted} now: put the type \
         back, or give the column another name"
    )]
    UnfitColumn {
        /// The column.
        name: String,
        /// Its type in the lake.
        held: String,
        /// Its type as configured.
        wanted: String,
    },
    /// A job of the shop is wrong.
    #[error(transparent)]
    ShopJob(#[from] ShopJobError),
    /// A check of a table that it does not fit.
    #[error("[[quality.{table}]] number {number}: {problem}")]
    UnfitCheck {
        /// The table.
        table: String,
        /// The check's place in its list, from 1.
        number: usize,
        /// What does not fit.
        problem: String,
    },
    /// A check that stops what is taken in failed, before anything of its table was committed.
    #[error(
        "{table} was not committed: {problem}; correct the input or the check, or let it only warn \
         ([[quality.{table}]] on_failure = \"warn\"), then run again: the batch waits"
    )]
    Quality {
        /// The table.
        table: &'static str,
        /// Which checks failed, and how.
        problem: String,
    },
    /// The lake has no record of what its exports said, and one of them is gone.
    #[error(
        "the lake has no table source_keys, which says what its {exports} exports said: an earlier \
         build kept none. It is made from the exports that were taken, and {object} is gone, or \
         another one now. Put it back and run again, or make a new lake from the raw zone and the \
         exports that there are"
    )]
    NoRecord {
        /// The file that is gone.
        object: String,
        /// Exports taken so far.
        exports: usize,
    },
    /// There is nothing to audit.
    #[error("nothing has ever landed in the lake {lake}: check --lake")]
    NothingLanded {
        /// Its URL.
        lake: String,
    },
    /// Another run keeps winning the race for the next batch.
    #[error("{attempts} times another run began the next batch first; run again when it is done")]
    Contended {
        /// How often it was tried.
        attempts: usize,
    },
}

impl TransformError {
    /// True where what the user asked for or configured is wrong, and nothing was done.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::UnknownTable { .. }
                | Self::OtherSessions { .. }
                | Self::UnfitColumn { .. }
                | Self::ShopJob(_)
                | Self::UnfitCheck { .. }
                | Self::NothingLanded { .. }
        )
    }

    /// For `map_err`: names the job whose query failed.
    pub(crate) fn job(job: &'static str) -> impl Fn(DataFusionError) -> Self {
        move |source| Self::Job { job, source }
    }
}
