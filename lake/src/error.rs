//! What can go wrong with a lake.

use crate::landing::Source;

/// Failures of the lake, with what they struck.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LakeError {
    /// The text names no place this program can open.
    #[error(
        "`{location}` is no place for data: {reason}; \
         give a folder, file:///folder or s3://bucket/prefix"
    )]
    Location {
        /// As the user wrote it.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder that a location names cannot be used.
    #[error("cannot open the folder {path}")]
    Folder {
        /// The folder.
        path: String,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// An S3 client could not be built, or the bucket's region not be found.
    #[error("cannot open the bucket {bucket}: set AWS_REGION and credentials, or AWS_ENDPOINT_URL")]
    Bucket {
        /// Its name.
        bucket: String,
        /// The store's word.
        #[source]
        source: object_store::Error,
    },
    /// An object store operation failed.
    #[error("cannot {operation} {path}")]
    Store {
        /// Verb: read, write, list, delete.
        operation: &'static str,
        /// The object or prefix.
        path: String,
        /// The store's word, with its own retries.
        #[source]
        source: object_store::Error,
    },
    /// An object of ours holds something else than it must.
    #[error("{path} is damaged or not ours: {reason}")]
    Corrupt {
        /// The object.
        path: String,
        /// What does not fit.
        reason: String,
    },
    /// A text is no landing source.
    #[error("`{text}` is no landing source: {reason}")]
    Source {
        /// The text.
        text: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// Another writer committed this ordinal first. Reread the chain and go on from there.
    #[error("another writer landed commit {ordinal} of {landing}; reread the chain")]
    LostRace {
        /// The chain.
        landing: Source,
        /// The contested ordinal.
        ordinal: u64,
    },
    /// A chain lacks a commit between two others: objects may be missing from every table.
    #[error(
        "the landing chain of {landing} has no commit {missing} but later ones: \
         restore _clickmill/delivery from a backup or a bucket version before running on"
    )]
    Gap {
        /// The chain.
        landing: Source,
        /// The first ordinal that is not there.
        missing: u64,
    },
    /// A caller's commit breaks a rule of the chain.
    #[error("this commit does not fit the chain of {landing}: {reason}")]
    Unfit {
        /// The chain.
        landing: Source,
        /// The rule.
        reason: String,
    },
    /// A line handed to the raw zone is no record.
    #[error("a line for the raw zone does not decode: {0}")]
    Line(String),
    /// A Delta table could not be read or written.
    #[error("cannot {operation} the table {table}")]
    Table {
        /// Its name.
        table: &'static str,
        /// Verb.
        operation: &'static str,
        /// delta-rs' word.
        #[source]
        source: Box<deltalake_core::DeltaTableError>,
    },
    /// Another writer changed a partition that this change replaces.
    #[error(
        "another program rewrote rows of {table} that this run replaces ({path}, up to version \
         {newest}), and did so again each time they were computed anew: run again when it is done"
    )]
    Conflict {
        /// The table.
        table: &'static str,
        /// The version the change was computed from, or a later one.
        base: u64,
        /// The version that is there now.
        newest: u64,
        /// One of the files that came or went.
        path: String,
    },
    /// Rows could not be encoded or stored.
    #[error("cannot write {path}")]
    Write {
        /// The table, or its partition.
        path: String,
        /// Parquet's word.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// Compressing in memory failed.
    #[error("cannot compress an object for the raw zone")]
    Compress(#[source] std::io::Error),

    /// What keeps several sources from landing, since they share an object.
    #[error(transparent)]
    Shared(std::sync::Arc<LakeError>),

    /// A thread that encoded an object ended.
    #[error("an object for the raw zone was not encoded")]
    Encoder(#[source] tokio::task::JoinError),
}

impl LakeError {
    /// True for a failure of the store: what failed may be tried again.
    #[must_use]
    pub fn is_of_store(&self) -> bool {
        match self {
            Self::Store { .. } => true,
            Self::Shared(error) => error.is_of_store(),
            _ => false,
        }
    }

    /// Wraps an object store's error.
    pub fn store(
        operation: &'static str,
        path: impl ToString,
        source: object_store::Error,
    ) -> Self {
        Self::Store { operation, path: path.to_string(), source }
    }

    /// Wraps delta-rs' error, boxed: it is large, and every result carries its room.
    pub(crate) fn table(
        table: &'static str,
        operation: &'static str,
        source: deltalake_core::DeltaTableError,
    ) -> Self {
        Self::Table { table, operation, source: Box::new(source) }
    }
}
