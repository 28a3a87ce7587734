//! Why a spool does not open, cannot be read, or does not take something.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::MAX_APPEND_BYTES;

/// Why a spool does not open or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process (or another spool of this one) has it open.
    #[error(
        "the spool {} is in use by another process; give each collector a folder of its own",
        dir.display()
    )]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder's id is unreadable and no segment says it.
    #[error(
        "{} does not hold a UUID and no segment says which it was; restore it from a backup, or \
         move the folder away to begin a new spool",
        path.display()
    )]
    BadCollectorId {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Why something was not appended. None of it is in the spool.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// [`SpoolOptions::max_bytes`](super::SpoolOptions::max_bytes) is reached: the sink takes too little.
    #[error("the spool is full ({used} of {max} bytes): it is refused until the sink takes more")]
    Full {
        /// Bytes on disk.
        used: u64,
        /// The limit.
        max: u64,
    },
    /// The writer's queue is full: the disk is slower than the input.
    #[error("the spool's queue is full; try again shortly")]
    Busy,
    /// Larger than [`MAX_APPEND_BYTES`].
    #[error("{bytes} bytes at once are more than the spool's {MAX_APPEND_BYTES}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Writing failed, in a new segment too.
    #[error("cannot write to the spool")]
    Io(#[source] Arc<io::Error>),
    /// It is in the spool, but the sink did not take it in time
    /// ([`Durability::Stream`](crate::Durability::Stream)). It is still shipped.
    #[error("the sink did not take it within {within:?}; it is kept and tried again")]
    NotShipped {
        /// How long it was waited for.
        within: Duration,
    },
    /// The spool is closed.
    #[error("the spool is closed")]
    Closed,
}

pub(super) fn io_error(action: &'static str, path: &Path, source: io::Error) -> SpoolError {
    SpoolError::Io { action, path: path.to_owned(), source }
}
