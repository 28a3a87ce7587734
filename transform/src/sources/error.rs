//! What can go wrong while finding or reading exports.

use clickmill_lake::LakeError;

/// A place or file that cannot be read *now*. What lies inside a file never
/// ends here: see the module's page.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The place of a source does not open.
    #[error("cannot open `{path}` of [sources.{source_name}]: correct its path or the credentials")]
    Open {
        /// The source's name in the configuration.
        source_name: String,
        /// Its path, as written.
        path: String,
        /// Why.
        #[source]
        source: Box<LakeError>,
    },
    /// A store did not answer, or refused.
    #[error("cannot {operation} {object} of [sources.{source_name}]")]
    Store {
        /// The source's name in the configuration.
        source_name: String,
        /// Verb: list, read.
        operation: &'static str,
        /// The object or folder, with its store.
        object: String,
        /// The store's word.
        #[source]
        source: Box<object_store::Error>,
    },
    /// A database or table could not be read live.
    #[error("[sources.{source_name}]: {problem}")]
    Live {
        /// The source's name in the configuration.
        source_name: String,
        /// What failed, and on what.
        problem: String,
        /// The driver's word, or the reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file that a run has taken as its input is gone.
    #[error(
        "{object} of [sources.{source_name}] was deleted before it was read: restore it, then run again"
    )]
    Gone {
        /// The source's name in the configuration.
        source_name: String,
        /// The object, with its store.
        object: String,
    },
    /// A mapping that no configuration of this version would hold, in a stored export.
    #[error(
        "the stored export {export_id} of [sources.{source_name}] does not fit this version: {problem}"
    )]
    Mapping {
        /// The source's name in the configuration.
        source_name: String,
        /// The export.
        export_id: String,
        /// What does not fit.
        problem: String,
    },
    /// Rows could not be put into Arrow's form: a bug, or memory ran out.
    #[error("cannot build a batch of {dataset}")]
    Batch {
        /// The dataset.
        dataset: super::Dataset,
        /// Arrow's word.
        #[source]
        source: arrow::error::ArrowError,
    },
    /// The task that decodes a file ended by itself.
    #[error("decoding {object} of [sources.{source_name}] was cut off")]
    Decoder {
        /// The source's name in the configuration.
        source_name: String,
        /// The object, with its store.
        object: String,
        /// Why.
        #[source]
        source: tokio::task::JoinError,
    },
}
