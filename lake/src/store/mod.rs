//! Where data lives: a folder or an S3 bucket behind one interface.
//!
//! | location | store |
//! |---|---|
//! | `./lake`, `/abs/lake`, `file:///abs/lake` | [`local::FolderStore`]: every write is fsynced before it is answered |
//! | `s3://bucket/prefix` | `object_store`'s S3 client, credentials and endpoints from [`crate::aws`] |
//!
//! Both give: atomic PUT, PUT that fails where the object exists
//! (`PutMode::Create`), ranges, multipart, listing that shows every finished
//! write and no unfinished one. `tests/store.rs` holds both to it.
//!
//! Retries against S3 are `object_store`'s own (10 attempts, 3 minutes); a PUT
//! of ours that it repeated can therefore come back as `AlreadyExists`, and so
//! can a 409: reread before judging, as [`crate::landing`] does.

pub mod counting;
pub mod local;
mod s3;
mod upload;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use url::Url;

use crate::error::LakeError;

/// An opened lake. Cloning shares the client.
#[derive(Clone, Debug)]
pub struct Lake {
    store: Arc<dyn ObjectStore>,
    url: Url,
    local: Option<PathBuf>,
}

impl Lake {
    /// Opens the lake at `location`. A folder need not exist yet: the first write makes it.
    ///
    /// # Errors
    /// [`LakeError::Location`], [`LakeError::Folder`] or [`LakeError::Bucket`].
    /// Nothing is read or written, so a bucket that is not there shows later.
    pub async fn open(location: &str) -> Result<Self, LakeError> {
        let (store, url, local) = match Location::parse(location)? {
            Location::Folder(path) => {
                let store = local::FolderStore::new(&path)?;
                let (url, root) = (folder_url(store.root())?, store.root().to_owned());
                (Arc::new(store) as Arc<dyn ObjectStore>, url, Some(root))
            }
            Location::Bucket { bucket, prefix } => {
                let (store, url) = s3::open(&bucket, &prefix).await?;
                (store, url, None)
            }
        };
        Ok(Self { store, url, local })
    }

    /// A lake in any store, for tests that inject faults and for counting reads.
    #[must_use]
    pub fn with_store(&self, store: Arc<dyn ObjectStore>) -> Self {
        Self { store, url: self.url.clone(), local: self.local.clone() }
    }

    /// Its store, rooted at the lake: paths start with `raw/`, `tables/`, `_clickmill/`.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Its URL, ending with `/`.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Its folder, where it is one.
    #[must_use]
    pub fn local_path(&self) -> Option<&Path> {
        self.local.as_deref()
    }
}

/// Opens any other place (an export, a source), rooted at the given folder or
/// bucket prefix. The URL ends with `/`. A folder must exist.
///
/// # Errors
/// As [`Lake::open`]; [`LakeError::Folder`] also where the folder does not exist.
pub async fn open_store(location: &str) -> Result<(Arc<dyn ObjectStore>, Url), LakeError> {
    match Location::parse(location)? {
        Location::Folder(path) => {
            let display = || path.display().to_string();
            let meta = std::fs::metadata(&path)
                .map_err(|source| LakeError::Folder { path: display(), source })?;
            if !meta.is_dir() {
                let source = std::io::ErrorKind::NotADirectory.into();
                return Err(LakeError::Folder { path: display(), source });
            }
            let store = local::FolderStore::new(&path)?;
            let url = folder_url(store.root())?;
            Ok((Arc::new(store), url))
        }
        Location::Bucket { bucket, prefix } => s3::open(&bucket, &prefix).await,
    }
}

/// A location's text, understood.
#[derive(Debug, PartialEq, Eq)]
enum Location {
    Folder(PathBuf),
    Bucket { bucket: String, prefix: String },
}

impl Location {
    fn parse(text: &str) -> Result<Self, LakeError> {
        let wrong = |reason: &str| LakeError::Location {
            location: text.to_owned(),
            reason: reason.to_owned(),
        };
        if text.is_empty() {
            return Err(wrong("it is empty"));
        }
        // Only `scheme://` makes a URL: a folder's name may hold a colon.
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::Folder(PathBuf::from(text)));
        };
        match scheme {
            "file" => Url::parse(text)
                .ok()
                .and_then(|url| url.to_file_path().ok())
                .map(Self::Folder)
                .ok_or_else(|| wrong("a file URL needs three slashes and an absolute path")),
            "s3" | "s3a" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(wrong("the bucket's name is missing"));
                }
                let prefix = prefix.trim_matches('/').to_owned();
                Ok(Self::Bucket { bucket: bucket.to_owned(), prefix })
            }
            _ => Err(wrong("its scheme is neither file nor s3")),
        }
    }
}

fn folder_url(root: &Path) -> Result<Url, LakeError> {
    Url::from_directory_path(root).map_err(|()| LakeError::Location {
        location: root.display().to_string(),
        reason: "its path cannot be written as a URL".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_told_apart() {
        let bucket = |bucket: &str, prefix: &str| Location::Bucket {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        };
        for (text, expected) in [
            ("./lake", Location::Folder("./lake".into())),
            ("/a b/l:ake", Location::Folder("/a b/l:ake".into())),
            ("file:///a%20b/lake", Location::Folder("/a b/lake".into())),
            ("s3://shop", bucket("shop", "")),
            ("s3://shop/a/b/", bucket("shop", "a/b")),
        ] {
            assert_eq!(Location::parse(text).expect(text), expected, "{text}");
        }
    }

    #[test]
    fn a_place_that_is_none_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "empty"),
            ("gs://bucket/x", "neither file nor s3"),
            ("s3:///x", "bucket's name"),
            ("file://host/x", "three slashes"),
        ] {
            let error = Location::parse(text).expect_err(text).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[tokio::test]
    async fn the_url_ends_with_a_slash_and_opening_creates_nothing() {
        let folder = tempfile::tempdir().expect("temp");
        let path = folder.path().join("lake");
        let lake = Lake::open(&path.display().to_string()).await.expect("opens");
        assert!(lake.url().as_str().ends_with("/lake/"), "{}", lake.url());
        assert!(!path.exists());
        assert!(open_store(&path.display().to_string()).await.is_err());
    }
}
