//! A data file on its way into the store: one PUT where it is small, a multipart upload
//! in parts of [`PART_BYTES`] where it is not.
//!
//! # Failure modes
//! An upload that breaks off is aborted; one whose process dies leaves parts that no listing shows
//! and S3 charges for: a lifecycle rule (AbortIncompleteMultipartUpload) removes them.
//!
//! Where the answer to CompleteMultipartUpload is lost, the client asks again, and S3 does not know
//! the upload any more (NoSuchUpload). Names are unique to the attempt: where the object lies there
//! in its full size, it was completed.

use std::sync::Arc;

use bytes::Bytes;
use clickmill_failpoint as failpoint;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload};
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::errors::{ParquetError, Result};
use tokio::task::JoinSet;

/// Size of a part; a file that is smaller is one PUT. S3 takes 5 MiB and more, and 10,000 parts.
/// Source: Amazon S3 multipart upload limits.
pub(super) const PART_BYTES: usize = 10 << 20;
/// Parts on their way at once.
const CONCURRENT_PARTS: usize = 8;

/// See the module's head.
pub(super) struct FileUpload {
    store: Arc<dyn ObjectStore>,
    location: Path,
    /// Not sent yet: less than a part.
    held: Vec<Bytes>,
    held_bytes: usize,
    /// All that was written.
    bytes: u64,
    upload: Option<Box<dyn MultipartUpload>>,
    parts: JoinSet<object_store::Result<()>>,
}

impl AsyncFileWriter for FileUpload {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<()>> {
        self.take(bytes).map(|taken| taken.map_err(external)).boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, Result<()>> {
        self.finish().map(|finished| finished.map_err(external)).boxed()
    }
}

impl FileUpload {
    pub fn new(store: &Arc<dyn ObjectStore>, location: Path) -> Self {
        Self {
            store: Arc::clone(store),
            location,
            held: Vec::new(),
            held_bytes: 0,
            bytes: 0,
            upload: None,
            parts: JoinSet::new(),
        }
    }

    async fn take(&mut self, mut bytes: Bytes) -> object_store::Result<()> {
        self.bytes += bytes.len() as u64;
        // All parts but the last have one size, which some servers insist on.
        while self.held_bytes + bytes.len() >= PART_BYTES {
            self.hold(bytes.split_to(PART_BYTES - self.held_bytes));
            let sent = self.send().await;
            self.or_abort(sent).await?;
        }
        self.hold(bytes);
        Ok(())
    }

    async fn finish(&mut self) -> object_store::Result<()> {
        if self.upload.is_none() {
            let payload = self.payload();
            return self.store.put(&self.location, payload).await.map(|_| ());
        }
        let completed = self.complete_parts().await;
        self.or_abort(completed).await
    }

    fn hold(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.held_bytes += bytes.len();
            self.held.push(bytes);
        }
    }

    fn payload(&mut self) -> PutPayload {
        self.held_bytes = 0;
        PutPayload::from_iter(std::mem::take(&mut self.held))
    }

    /// Sends what is held as a part, beside those that are on their way.
    async fn send(&mut self) -> object_store::Result<()> {
        let payload = self.payload();
        if self.upload.is_none() {
            failpoint::hit("upload.before_create");
            self.upload = Some(self.store.put_multipart(&self.location).await?);
            failpoint::hit("upload.created");
        }
        let Some(upload) = &mut self.upload else { return Ok(()) };
        let part = upload.put_part(payload);
        self.parts.spawn(async move {
            failpoint::hit("upload.before_part");
            part.await?;
            failpoint::hit("upload.part");
            Ok(())
        });
        self.until_left(CONCURRENT_PARTS - 1).await
    }

    /// Waits until at most so many parts are on their way.
    async fn until_left(&mut self, left: usize) -> object_store::Result<()> {
        while self.parts.len() > left {
            if let Some(part) = self.parts.join_next().await {
                part.map_err(object_store::Error::from)??;
            }
        }
        Ok(())
    }

    async fn complete_parts(&mut self) -> object_store::Result<()> {
        if self.held_bytes > 0 {
            self.send().await?;
        }
        self.until_left(0).await?;
        let Some(upload) = &mut self.upload else { return Ok(()) };
        failpoint::hit("upload.before_complete");
        if let Err(error) = upload.complete().await {
            let stored = self.store.head(&self.location).await;
            if !stored.is_ok_and(|stored| stored.size == self.bytes) {
                return Err(error);
            }
            tracing::debug!(path = %self.location, %error, "the upload was completed all the same");
        }
        failpoint::hit("upload.completed");
        Ok(())
    }

    /// Removes the parts of an upload that failed, where the store still answers.
    async fn or_abort(&mut self, done: object_store::Result<()>) -> object_store::Result<()> {
        if done.is_err()
            && let Some(mut upload) = self.upload.take()
        {
            self.parts.shutdown().await;
            if let Err(error) = upload.abort().await {
                tracing::debug!(path = %self.location, %error, "parts of a failed upload stay");
            }
        }
        done
    }
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}
