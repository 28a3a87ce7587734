//! What can go wrong in a run.

use clickmill_lake::LakeError;
use datafusion::common::DataFusionError;

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
    /// Another run keeps winning the race for the next batch.
    #[error("{attempts} times another run began the next batch first; run again when it is done")]
    Contended {
        /// How often it was tried.
        attempts: usize,
    },
}

impl TransformError {
    /// For `map_err`: names the job whose query failed.
    pub(crate) fn job(job: &'static str) -> impl Fn(DataFusionError) -> Self {
        move |source| Self::Job { job, source }
    }
}
