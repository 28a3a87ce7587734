//! What can end an import. A bad row never does: it is rejected and counted.

use clickmill_lake::LakeError;

/// Failures of an import, with the file they struck.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file cannot be read, or its compression is damaged.
    #[error("cannot read {path}")]
    Read {
        /// As the user named it.
        path: String,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what the mapping says.
    #[error("{path} does not fit the mapping: {reason}")]
    Shape {
        /// As the user named it.
        path: String,
        /// What does not fit, and what to do.
        reason: String,
    },
    /// The Parquet file cannot be read.
    #[error("cannot read {path} as Parquet")]
    Parquet {
        /// As the user named it.
        path: String,
        /// The reader's word.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// A Parquet file's data cannot be turned into values.
    #[error("cannot decode {path}")]
    Arrow {
        /// As the user named it.
        path: String,
        /// Arrow's word.
        #[source]
        source: arrow::error::ArrowError,
    },
    /// A remote place cannot be listed or read.
    #[error("cannot read {path}")]
    Store {
        /// As the user named it.
        path: String,
        /// The store's word.
        #[source]
        source: object_store::Error,
    },
    /// No file matches.
    #[error("no file to import at {path}: {reason}")]
    NoFiles {
        /// As the user named it.
        path: String,
        /// What was looked for.
        reason: String,
    },
    /// The file changed while it was read, so that row numbers mean nothing.
    #[error(
        "{path} changed while it was imported: the rows that landed are of a mixed file; \
         import a copy that nobody writes to"
    )]
    Changed {
        /// As the user named it.
        path: String,
    },
    /// Too many other imports of the same file won their commits.
    #[error("{path} is being imported by others at the same time: wait for them, then run again")]
    Contended {
        /// As the user named it.
        path: String,
    },
    /// The lake refused.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// The reading thread panicked.
    #[error("the reader of {path} ended unexpectedly")]
    Reader {
        /// As the user named it.
        path: String,
    },
}
