//! Where a source's objects lie, and the list of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::Timestamp;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _};

use super::fetch::LAKE;
use super::{InputFile, SourceError};

/// What a path in the lake starts with in the configuration.
const IN_LAKE: &str = "lake:";
/// A manifest or export description, at most.
const MAX_MANIFEST_BYTES: u64 = 256 * 1024 * 1024;

/// An opened place.
pub(super) struct Place {
    source_name: String,
    store: Arc<dyn ObjectStore>,
    location: String,
    prefix: Option<Path>,
}

impl Place {
    /// Opens a folder by its path in the configuration.
    pub(super) async fn open(lake: &Lake, name: &str, path: &str) -> Result<Self, SourceError> {
        let failed = |source: LakeError| SourceError::Open {
            source_name: name.to_owned(),
            path: path.to_owned(),
            source: Box::new(source),
        };
        if let Some(inside) = path.strip_prefix(IN_LAKE) {
            return Ok(Self {
                source_name: name.to_owned(),
                store: Arc::clone(lake.store()),
                location: LAKE.to_owned(),
                prefix: Some(Path::from(inside)),
            });
        }
        let (store, url) = clickmill_lake::open_store(path).await.map_err(failed)?;
        Ok(Self { source_name: name.to_owned(), store, location: url.to_string(), prefix: None })
    }

    /// A path of an object as a person would write it.
    pub(super) fn shown(&self, path: &str) -> String {
        if self.location == LAKE { path.to_owned() } else { format!("{}{path}", self.location) }
    }

    /// The part of an object's path below this place.
    pub(super) fn below<'a>(&self, path: &'a str) -> &'a str {
        match &self.prefix {
            Some(prefix) => {
                path.strip_prefix(prefix.as_ref()).map_or(path, |rest| rest.trim_start_matches('/'))
            }
            None => path,
        }
    }

    /// Every object, by path.
    pub(super) async fn list(&self) -> Result<BTreeMap<String, ObjectMeta>, SourceError> {
        let prefix = self.prefix.as_ref();
        let shown = self.shown(prefix.map_or("", Path::as_ref));
        self.store
            .list(prefix)
            .map_ok(|meta| (meta.location.to_string(), meta))
            .try_collect()
            .await
            .map_err(|source| self.failed("list", shown, source))
    }

    /// One object by its path below this place, where it is there.
    pub(super) async fn head(&self, path: &str) -> Result<Option<ObjectMeta>, SourceError> {
        let full = match &self.prefix {
            Some(prefix) => Path::from(format!("{prefix}/{path}")),
            None => Path::from(path),
        };
        match self.store.head(&full).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.failed("read", self.shown(full.as_ref()), source)),
        }
    }

    /// A small object's bytes; `None` where it is too large to be what it should be.
    pub(super) async fn manifest(&self, meta: &ObjectMeta) -> Result<Option<Vec<u8>>, SourceError> {
        if meta.size > MAX_MANIFEST_BYTES {
            return Ok(None);
        }
        let failed = |source| self.failed("read", self.shown(meta.location.as_ref()), source);
        let found = self.store.get(&meta.location).await.map_err(failed)?;
        Ok(Some(found.bytes().await.map_err(failed)?.to_vec()))
    }

    /// An object as an export's input.
    pub(super) fn file(&self, meta: &ObjectMeta) -> InputFile {
        InputFile {
            location: self.location.clone(),
            path: meta.location.to_string(),
            etag: meta.e_tag.clone().unwrap_or_default(),
            bytes: meta.size,
            md5_base64: None,
            items: None,
        }
    }

    fn failed(
        &self,
        operation: &'static str,
        object: String,
        source: object_store::Error,
    ) -> SourceError {
        SourceError::Store {
            source_name: self.source_name.clone(),
            operation,
            object,
            source: Box::new(source),
        }
    }
}

/// When an object was last written.
pub(super) fn modified(meta: &ObjectMeta) -> Timestamp {
    Timestamp::from_micros(meta.last_modified.timestamp_micros())
        .unwrap_or_else(|_| Timestamp::now())
}
