//! Multipart uploads into a folder: parts go to one temporary file at their
//! offsets; `complete` fsyncs it and gives it its name. An upload that is
//! dropped, aborted or had a failed part leaves nothing behind.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::FutureExt as _;
use object_store::{CopyMode, MultipartUpload, PutPayload, PutResult, Result, UploadPart};

use super::local::{Inner, at, blocking, e_tag};

/// An upload under way.
#[derive(Debug)]
pub(super) struct FolderUpload {
    inner: Arc<Inner>,
    state: Arc<State>,
    /// Where the next part starts: the sum of the parts so far.
    offset: u64,
    finished: bool,
}

#[derive(Debug)]
struct State {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    /// Bytes of the parts that were written whole.
    written: AtomicU64,
}

impl FolderUpload {
    pub(super) fn begin(inner: Arc<Inner>, target: PathBuf) -> Result<Self> {
        let (file, temporary) = inner.temporary(&target)?;
        let state = Arc::new(State { file, temporary, target, written: AtomicU64::new(0) });
        Ok(Self { inner, state, offset: 0, finished: false })
    }
}

#[async_trait]
impl MultipartUpload for FolderUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let mut offset = self.offset;
        let length = data.content_length() as u64;
        self.offset += length;
        let state = Arc::clone(&self.state);
        blocking(move || {
            for chunk in data.iter() {
                state.file.write_all_at(chunk, offset).map_err(|e| at(&state.target, e))?;
                offset += chunk.len() as u64;
            }
            state.written.fetch_add(length, Ordering::AcqRel);
            Ok(())
        })
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (inner, state, expected) =
            (Arc::clone(&self.inner), Arc::clone(&self.state), self.offset);
        if self.finished {
            let text = "the upload was completed or aborted already";
            return Err(at(&state.target, io::Error::new(ErrorKind::InvalidInput, text)));
        }
        let result = blocking(move || {
            if state.written.load(Ordering::Acquire) != expected {
                let text = "a part of the upload failed or is still under way";
                return Err(at(&state.target, io::Error::other(text)));
            }
            state.file.sync_all().map_err(|e| at(&state.target, e))?;
            let metadata = state.file.metadata().map_err(|e| at(&state.target, e))?;
            inner.publish(&state.temporary, &state.target, CopyMode::Overwrite)?;
            Ok(PutResult { e_tag: Some(e_tag(&metadata)), version: None })
        })
        .await?;
        self.finished = true;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.finished = true;
        let state = Arc::clone(&self.state);
        blocking(move || {
            std::fs::remove_file(&state.temporary).map_err(|e| at(&state.temporary, e))
        })
        .await
    }
}

impl Drop for FolderUpload {
    fn drop(&mut self) {
        if !self.finished {
            // Only space is lost where this fails.
            let _ = std::fs::remove_file(&self.state.temporary);
        }
    }
}
