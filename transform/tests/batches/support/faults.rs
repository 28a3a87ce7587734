//! A store whose machine dies: from a certain write on, nothing reaches it any more.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use clickmill_lake::Lake;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// Lets some writes through and then none. A write is a PUT, a multipart upload
/// begun, or a copy.
#[derive(Debug)]
pub struct Dying {
    inner: Arc<dyn ObjectStore>,
    writes_left: AtomicI64,
}

impl Dying {
    /// A view of `lake` that dies after `writes`.
    pub fn after(lake: &Lake, writes: i64) -> Lake {
        let inner = Arc::clone(lake.store());
        lake.with_store(Arc::new(Self { inner, writes_left: AtomicI64::new(writes) }))
    }

    fn write(&self) -> Result<()> {
        if self.writes_left.fetch_sub(1, Ordering::SeqCst) > 0 {
            return Ok(());
        }
        // Not one that a client would repeat.
        Err(Error::NotSupported { source: "the machine died".into() })
    }
}

impl fmt::Display for Dying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dying")
    }
}

#[async_trait]
impl ObjectStore for Dying {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.write()?;
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.write()?;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.write()?;
        self.inner.copy_opts(from, to, options).await
    }
}
