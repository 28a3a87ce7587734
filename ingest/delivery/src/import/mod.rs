//! `clickmill import events`: a shop's existing history into the raw zone.
//!
//! ```text
//! files -> rows (reader) -> events and rejects (decode) -> raw objects and commits
//! ```
//!
//! # Guarantees
//! - Every row of a file is in the raw zone once, as an event or as a reject with
//!   its reason and bytes; row n has `wal_seq` n, and the chain
//!   `import/<content hash>-<mapping hash>` as its `collector_id`.
//! - The file's *content* names the chain (what it decompresses to, so zipped or
//!   not, under any name). Importing it again finds the chain closed and changes
//!   nothing; after a kill it goes on after the last commit.
//! - A row without an id of its own gets one from content and row number, so that
//!   even under a changed mapping its event keeps its id.
//! - All rows of a file were received when its import began, and under a changed mapping
//!   right after those of the newest import of the same content: however much later that
//!   is, events of one id are copies of each other, and the earlier ones stay.
//! - Nothing is guessed: formats and names stand in the mapping ([`config`]).
//!
//! # Limits
//! Memory is bounded whatever the file: one row ([`MAX_ROW_BYTES`]), a few
//! chunks of encoded lines between the reading thread and the writer
//! ([`QUEUE_CHUNKS`]), and one compressed object ([`COMMIT_BYTES`] before
//! compression). A file that somebody writes to while it is read ends the import
//! with [`ImportError::Changed`].

pub mod config;
mod decode;
mod error;
mod files;
mod infer;
mod land;
mod reader;
mod row;
mod summary;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clickmill_lake::Lake;
use clickmill_lake::landing::{Source, list_sources};
use sha2::{Digest, Sha256};

pub use config::Mapping;
pub use error::ImportError;
pub use infer::{SAMPLE_ROWS, infer};
pub use land::{COMMIT_BYTES, QUEUE_CHUNKS};
pub use reader::MAX_ROW_BYTES;
pub use summary::{Example, FileSummary, Rejected, Summary};

use decode::Decoder;
use files::{InputFile, LocalFile};

/// Hex digits of the content hash in a chain's name. The events' ids use all 64.
const CONTENT_DIGITS: usize = 32;
/// Hex digits of the mapping's hash there.
const MAPPING_DIGITS: usize = 16;

/// How far an import is, for whoever shows it. Cheap to read at any time.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of all files, twice: each is hashed first, then read.
    total_bytes: AtomicU64,
    read_bytes: Arc<AtomicU64>,
    rows: AtomicU64,
    rejected: AtomicU64,
}

impl Progress {
    /// Between 0 and 1.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        let total = self.total_bytes.load(Ordering::Relaxed);
        let read = self.read_bytes.load(Ordering::Relaxed);
        if total == 0 { 0.0 } else { (read as f64 / total as f64).min(1.0) }
    }

    /// Rows decoded so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Rows rejected so far.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }
}

/// Imports the files that `paths` mean, one after the other.
///
/// # Errors
/// [`ImportError`] where a file cannot be read or does not fit the mapping, or the
/// lake fails. What landed before stays; running again goes on from there.
pub async fn import_events(
    lake: &Lake,
    mapping: &Mapping,
    paths: &[String],
    progress: &Arc<Progress>,
) -> Result<Summary, ImportError> {
    let files = files::resolve(paths, Some(mapping.format)).await?;
    let total: u64 = files.iter().map(|file| file.bytes * 2).sum();
    progress.total_bytes.store(total, Ordering::Relaxed);
    let job = Arc::new(Job { decoder: Decoder::new(mapping), mapping: mapping.clone() });
    let mut summary = Summary::default();
    for file in &files {
        summary.add(import_file(lake, &job, file, progress).await?);
    }
    Ok(summary)
}

/// What is the same for every file.
pub(crate) struct Job {
    decoder: Decoder,
    mapping: Mapping,
}

/// A file that was hashed, and its chain.
pub(crate) struct Input {
    shown: String,
    file: LocalFile,
    stamp: files::Stamp,
    /// SHA-256 of the content, hex.
    content: String,
    source: Source,
    /// Imports of the same content under other mappings.
    others: Vec<Source>,
}

async fn import_file(
    lake: &Lake,
    job: &Arc<Job>,
    file: &InputFile,
    progress: &Arc<Progress>,
) -> Result<FileSummary, ImportError> {
    let local = files::fetch(file).await?;
    let failed = |source| ImportError::Read { path: file.shown.clone(), source };
    let stamp = local.stamp().map_err(failed)?;
    let (path, read) = (local.path().to_owned(), Arc::clone(&progress.read_bytes));
    let content = tokio::task::spawn_blocking(move || files::content_hash(&path, &read))
        .await
        .map_err(|_| ImportError::Reader { path: file.shown.clone() })?
        .map_err(failed)?;
    let prefix = &content[..CONTENT_DIGITS];
    let source = Source::import(&format!("{prefix}-{}", mapping_hash(&job.mapping)))?;
    let same_content = format!("import/{prefix}-");
    let mut others = list_sources(lake).await?;
    others.retain(|known| *known != source && known.as_str().starts_with(&same_content));
    let under_other_mapping = !others.is_empty();
    let shown = file.shown.clone();
    let input = Arc::new(Input { shown, file: local, stamp, content, source, others });
    let mut summary = land::land(lake, job, &input, progress).await?;
    summary.under_other_mapping = under_other_mapping;
    Ok(summary)
}

/// Hash of everything in the mapping that decides what a row becomes.
fn mapping_hash(mapping: &Mapping) -> String {
    // String keys and plain values only: it always serialises.
    let canonical = serde_json::to_vec(mapping).unwrap_or_default();
    files::hex(&Sha256::digest(canonical))[..MAPPING_DIGITS].to_owned()
}
