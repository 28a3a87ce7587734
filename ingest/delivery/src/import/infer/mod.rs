//! `--infer`: looks at the start of a file and proposes a mapping.
//!
//! The proposal is text that works when pasted into clickmill.toml. What it
//! cannot know is marked `DECIDE`; what it only guesses, `CHECK`. It looks at the
//! first [`SAMPLE_ROWS`] rows, so later ones may still hold surprises: those rows
//! are rejected, not guessed at.

mod guess;
mod render;
mod sample;
mod words;

use std::sync::Arc;

use super::error::ImportError;
use super::files;

/// Rows that a proposal rests on.
pub const SAMPLE_ROWS: usize = 5_000;

/// Proposes a `[import.NAME]` for the file at `path`; of a folder or a glob, for its first file.
///
/// # Errors
/// [`ImportError`] where there is no file, or it is none of CSV, JSON lines and Parquet.
pub async fn infer(path: &str) -> Result<String, ImportError> {
    let found = files::resolve(&[path.to_owned()], None).await?;
    let Some(file) = found.into_iter().next() else {
        return Err(ImportError::NoFiles { path: path.to_owned(), reason: "nothing there".into() });
    };
    let local = files::fetch(&file).await?;
    let shown = file.shown.clone();
    let read = Arc::default();
    let proposal = tokio::task::spawn_blocking(move || {
        let sample = sample::take(local.path(), &shown, &read)?;
        let guess = guess::guess(&sample);
        Ok(render::render(&shown, &sample, &guess))
    });
    proposal.await.map_err(|_| ImportError::Reader { path: file.shown })?
}
