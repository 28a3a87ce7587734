//! A folder as an object store that survives a power cut.
//!
//! `object_store`'s own `LocalFileSystem` never calls fsync and follows links
//! out of its root, so this is one of ours.
//!
//! # Guarantees
//! - A PUT, a copy, a rename or a completed multipart upload that was answered
//!   is on disk: the temporary file is fsynced, hard-linked (`Create`) or
//!   renamed (`Overwrite`) to its name, then the folder is fsynced, and every
//!   folder above it up to the root, once for each process.
//! - `PutMode::Create` is atomic between processes (`link(2)`).
//! - Nobody sees an unfinished write: temporary files are named `.tmp#<digits>`
//!   and neither listed nor addressable.
//! - A path is mapped segment by segment to a file of that very name, so the
//!   percent-encoding that [`Path`] gave a hostile name stays on disk.
//! - A link that leads out of the folder is not followed: not by LIST, not by
//!   GET, not by PUT. One that stays inside and names a file is read as a file.
//!
//! # Limits
//! The file system must know hard links. `PutMode::Update`, attributes and tags
//! are refused. A crash leaves temporary files behind: they cost space only.

use std::collections::HashSet;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, RenameTargetMode, Result,
};

use super::upload::FolderUpload;
use crate::error::LakeError;

const STORE: &str = "folder";
/// Folders known to be durable are forgotten past this number, and fsynced anew.
const MAX_KNOWN_FOLDERS: usize = 16_384;
/// DELETEs in flight.
const DELETE_CONCURRENCY: usize = 8;
/// Name of temporary files, before their number.
const TEMPORARY: &str = ".tmp#";

/// The store. See the module's head. Cloning shares its state.
#[derive(Clone, Debug)]
pub struct FolderStore {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    /// Absolute; canonical as far as it existed when it was opened.
    root: PathBuf,
    /// Folders below the root whose entries in their parents are on disk.
    durable: Mutex<HashSet<PathBuf>>,
}

impl FolderStore {
    /// A store of everything below `root`, which the first write creates.
    ///
    /// # Errors
    /// [`LakeError::Folder`] where the path cannot be resolved, or names a file.
    pub fn new(root: &FsPath) -> std::result::Result<Self, LakeError> {
        let failed = |source| LakeError::Folder { path: root.display().to_string(), source };
        let root = resolve(root).map_err(failed)?;
        if root.is_file() {
            return Err(failed(ErrorKind::NotADirectory.into()));
        }
        Ok(Self { inner: Arc::new(Inner { root, durable: Mutex::default() }) })
    }

    /// The folder, absolute.
    #[must_use]
    pub fn root(&self) -> &FsPath {
        &self.inner.root
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        blocking(move || work(&inner)).await
    }
}

/// Runs file I/O off the async threads; in place where there is no runtime.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await?,
        Err(_) => work(),
    }
}

/// Makes `path` absolute, with the links of its existing part resolved.
fn resolve(path: &FsPath) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    for existing in absolute.ancestors() {
        match existing.canonicalize() {
            Ok(canonical) => {
                let rest = absolute.strip_prefix(existing).map_err(io::Error::other)?;
                return Ok(canonical.join(rest));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(absolute)
}

impl Inner {
    /// The file of an object. It may not exist.
    fn file(&self, location: &Path) -> Result<PathBuf> {
        match location.filename() {
            Some(name) if !is_temporary(name) => Ok(self.folder(location)),
            _ => Err(generic(io::Error::new(
                ErrorKind::InvalidInput,
                format!("`{location}` is no name for an object"),
            ))),
        }
    }

    /// The folder (or file) that a prefix names.
    fn folder(&self, prefix: &Path) -> PathBuf {
        // A part is never empty, `.`, `..` and holds no `/`: joining cannot escape.
        prefix.parts().fold(self.root.clone(), |path, part| path.join(part.as_ref()))
    }

    /// Opens for reading, refusing links that lead out.
    fn open(&self, location: &Path) -> Result<(File, PathBuf, ObjectMeta)> {
        let path = self.file(location)?;
        let failed = |error| not_found_or_generic(&path, error);
        self.inside(&path).map_err(failed)?;
        let file = File::open(&path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(ErrorKind::NotFound.into()));
        }
        let meta = object_meta(location.clone(), &metadata);
        Ok((file, path, meta))
    }

    /// Fails where `path`, with its links resolved, is not below the root.
    fn inside(&self, path: &FsPath) -> io::Result<()> {
        if path.canonicalize()?.starts_with(&self.root) {
            return Ok(());
        }
        Err(io::Error::new(
            ErrorKind::PermissionDenied,
            "a symbolic link leads out of the folder; put the data itself there",
        ))
    }

    /// Creates what is missing of `folder` and makes sure that a power cut keeps it.
    fn ensure_durable(&self, folder: &FsPath) -> io::Result<()> {
        let known = |durable: &HashSet<PathBuf>| durable.contains(folder);
        if known(&self.durable.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(());
        }
        match std::fs::create_dir(folder) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let parent = folder.parent().ok_or(error)?;
                self.ensure_durable(parent)?;
                std::fs::create_dir(folder).or_else(|error| match error.kind() {
                    ErrorKind::AlreadyExists => Ok(()),
                    _ => Err(error),
                })?;
            }
            Err(error) => return Err(error),
        }
        if folder.starts_with(&self.root) {
            self.inside(folder)?;
        }
        // Another process may have created a folder a moment ago without having
        // fsynced its parent yet: so fsync also where nothing was created here.
        if let Some(parent) = folder.parent() {
            if folder != self.root && parent.starts_with(&self.root) {
                self.ensure_durable(parent)?;
            }
            // The root's parent may not be ours to open.
            let synced = sync_folder(parent);
            if folder.starts_with(&self.root) && folder != self.root {
                synced?;
            }
        }
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if durable.len() >= MAX_KNOWN_FOLDERS {
            durable.clear();
        }
        durable.insert(folder.to_owned());
        Ok(())
    }

    /// Opens a new temporary file in the folder of `target`, which it creates.
    pub(super) fn temporary(&self, target: &FsPath) -> Result<(File, PathBuf)> {
        let folder = target.parent().unwrap_or(&self.root);
        let open = || {
            let number = uuid::Uuid::new_v4().as_u64_pair().0;
            let path = folder.join(format!("{TEMPORARY}{number}"));
            let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
            Ok((file, path))
        };
        let first = self.ensure_durable(folder).and_then(|()| open());
        first
            .or_else(|error: io::Error| match error.kind() {
                // Somebody removed a folder that was known.
                ErrorKind::NotFound => {
                    self.durable.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    self.ensure_durable(folder)?;
                    open()
                }
                _ => Err(error),
            })
            .map_err(|error| at(folder, error))
    }

    /// Gives a finished, fsynced temporary file its name. It is gone afterwards.
    pub(super) fn publish(
        &self,
        temporary: &FsPath,
        target: &FsPath,
        mode: CopyMode,
    ) -> Result<()> {
        let published = match mode {
            CopyMode::Overwrite => std::fs::rename(temporary, target),
            CopyMode::Create => std::fs::hard_link(temporary, target),
        };
        if mode == CopyMode::Create || published.is_err() {
            // Only space is lost where this fails.
            let _ = std::fs::remove_file(temporary);
        }
        published.map_err(|error| exists_or_generic(target, error))?;
        let folder = target.parent().unwrap_or(&self.root);
        sync_folder(folder).map_err(|error| at(folder, error))
    }

    fn put(&self, location: &Path, payload: &PutPayload, mode: CopyMode) -> Result<PutResult> {
        let target = self.file(location)?;
        let (mut file, temporary) = self.temporary(&target)?;
        let written = payload
            .iter()
            .try_for_each(|chunk| file.write_all(chunk))
            .and_then(|()| file.sync_all())
            .and_then(|()| file.metadata());
        match written {
            Ok(metadata) => {
                let e_tag = Some(e_tag(&metadata));
                self.publish(&temporary, &target, mode)?;
                Ok(PutResult { e_tag, version: None })
            }
            Err(error) => {
                let _ = std::fs::remove_file(&temporary);
                Err(at(&target, error))
            }
        }
    }

    fn copy(&self, from: &Path, to: &Path, mode: CopyMode) -> Result<()> {
        let (mut source, _, _) = self.open(from)?;
        let target = self.file(to)?;
        let (mut file, temporary) = self.temporary(&target)?;
        let written = io::copy(&mut source, &mut file).and_then(|_| file.sync_all());
        if let Err(error) = written {
            let _ = std::fs::remove_file(&temporary);
            return Err(at(&target, error));
        }
        self.publish(&temporary, &target, mode)
    }

    fn rename(&self, from: &Path, to: &Path, mode: RenameTargetMode) -> Result<()> {
        let (source, target) = (self.file(from)?, self.file(to)?);
        self.inside(&source).map_err(|error| not_found_or_generic(&source, error))?;
        let folder = target.parent().unwrap_or(&self.root);
        self.ensure_durable(folder).map_err(|error| at(folder, error))?;
        match mode {
            RenameTargetMode::Overwrite => std::fs::rename(&source, &target),
            RenameTargetMode::Create => std::fs::hard_link(&source, &target),
        }
        .map_err(|error| exists_or_generic(&target, error))?;
        sync_folder(folder).map_err(|error| at(folder, error))?;
        if mode == RenameTargetMode::Create {
            std::fs::remove_file(&source).map_err(|error| at(&source, error))?;
        }
        match source.parent() {
            Some(left) if left != folder => sync_folder(left).map_err(|error| at(left, error)),
            _ => Ok(()),
        }
    }

    fn delete(&self, location: &Path) -> Result<()> {
        let path = self.file(location)?;
        if let Some(folder) = path.parent() {
            self.inside(folder).map_err(|error| not_found_or_generic(&path, error))?;
        }
        std::fs::remove_file(&path).map_err(|error| not_found_or_generic(&path, error))
    }

    /// One folder's files, in the order of their names, and its folders.
    fn read_folder(&self, prefix: &Path) -> Result<(Vec<ObjectMeta>, Vec<Path>)> {
        let folder = self.folder(prefix);
        let (mut files, mut folders) = (Vec::new(), Vec::new());
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            // Listing what is not there, or is a file, finds nothing, as on S3.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok((files, folders));
            }
            Err(error) => return Err(at(&folder, error)),
        };
        self.inside(&folder).map_err(|error| at(&folder, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| at(&folder, error))?;
            let name = entry.file_name();
            let Some(location) = name.to_str().and_then(|name| child(prefix, name)) else {
                if !name.to_str().is_some_and(is_temporary) {
                    tracing::warn!(folder = %folder.display(), "a file name that no object can have is left out");
                }
                continue;
            };
            // Follows a link, which is allowed for files that stay inside.
            let metadata = match std::fs::metadata(entry.path()) {
                Ok(metadata) => metadata,
                // Deleted since, or a link to nothing.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(at(&entry.path(), error)),
            };
            let link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            if link && (metadata.is_dir() || self.inside(&entry.path()).is_err()) {
                tracing::warn!(path = %entry.path().display(), "a symbolic link is not followed");
            } else if metadata.is_dir() {
                folders.push(location);
            } else if metadata.is_file() {
                files.push(object_meta(location, &metadata));
            }
        }
        files.sort_by(|a, b| a.location.cmp(&b.location));
        folders.sort();
        Ok((files, folders))
    }
}

/// `prefix/name`, where `name` can stand in a [`Path`] as it is.
fn child(prefix: &Path, name: &str) -> Option<Path> {
    if is_temporary(name) {
        return None;
    }
    let text = if prefix.is_root() { name.to_owned() } else { format!("{prefix}/{name}") };
    Path::parse(text).ok()
}

/// Ours, and those of `object_store`'s `LocalFileSystem` (`name#1`).
fn is_temporary(name: &str) -> bool {
    name.split_once('#').is_some_and(|(_, number)| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn sync_folder(folder: &FsPath) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

pub(super) fn e_tag(metadata: &std::fs::Metadata) -> String {
    let micros =
        i128::from(metadata.mtime()) * 1_000_000 + i128::from(metadata.mtime_nsec()) / 1_000;
    format!("{:x}-{micros:x}-{:x}", metadata.ino(), metadata.len())
}

fn object_meta(location: Path, metadata: &std::fs::Metadata) -> ObjectMeta {
    ObjectMeta {
        location,
        last_modified: metadata.modified().unwrap_or(std::time::UNIX_EPOCH).into(),
        size: metadata.len(),
        e_tag: Some(e_tag(metadata)),
        version: None,
    }
}

fn generic(error: io::Error) -> Error {
    Error::Generic { store: STORE, source: Box::new(error) }
}

/// An I/O error with its path.
pub(super) fn at(path: &FsPath, error: io::Error) -> Error {
    generic(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn not_found_or_generic(path: &FsPath, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            Error::NotFound { path: path.display().to_string(), source: Box::new(error) }
        }
        _ => at(path, error),
    }
}

fn exists_or_generic(path: &FsPath, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::AlreadyExists => {
            Error::AlreadyExists { path: path.display().to_string(), source: Box::new(error) }
        }
        ErrorKind::NotFound => {
            Error::NotFound { path: path.display().to_string(), source: Box::new(error) }
        }
        _ => at(path, error),
    }
}

fn unsupported(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: STORE.to_owned() }
}

impl fmt::Display for FolderStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FolderStore({})", self.inner.root.display())
    }
}

#[async_trait]
impl ObjectStore for FolderStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        if !opts.attributes.is_empty() {
            return Err(unsupported("PUT with attributes"));
        }
        let mode = match opts.mode {
            PutMode::Overwrite => CopyMode::Overwrite,
            PutMode::Create => CopyMode::Create,
            PutMode::Update(_) => return Err(unsupported("PUT if the ETag matches")),
        };
        let location = location.clone();
        self.blocking(move |inner| inner.put(&location, &payload, mode)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if !opts.attributes.is_empty() {
            return Err(unsupported("multipart upload with attributes"));
        }
        let (store, location) = (self.clone(), location.clone());
        let upload = blocking(move || {
            let target = store.inner.file(&location)?;
            FolderUpload::begin(store.inner, target)
        })
        .await?;
        Ok(Box::new(upload))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let location = location.clone();
        self.blocking(move |inner| {
            let (file, path, meta) = inner.open(&location)?;
            options.check_preconditions(&meta)?;
            let range = match options.range {
                Some(range) => range.as_range(meta.size).map_err(|error| {
                    at(&path, io::Error::new(ErrorKind::InvalidInput, error.to_string()))
                })?,
                None => 0..meta.size,
            };
            let payload = GetResultPayload::File(file, path);
            Ok(GetResult { payload, meta, range, attributes: Default::default() })
        })
        .await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (location, ranges) = (location.clone(), ranges.to_vec());
        self.blocking(move |inner| {
            let (file, path, meta) = inner.open(&location)?;
            let read = |range: Range<u64>| {
                let end = range.end.min(meta.size);
                if range.start >= end {
                    let text = format!("range {range:?} of {} bytes", meta.size);
                    return Err(io::Error::new(ErrorKind::InvalidInput, text));
                }
                let length = usize::try_from(end - range.start).map_err(io::Error::other)?;
                let mut buffer = vec![0; length];
                file.read_exact_at(&mut buffer, range.start)?;
                Ok(Bytes::from(buffer))
            };
            ranges.into_iter().map(|range| read(range).map_err(|error| at(&path, error))).collect()
        })
        .await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .map(move |location| {
                let store = store.clone();
                async move {
                    let location = location?;
                    store.blocking(move |inner| inner.delete(&location).map(|()| location)).await
                }
            })
            .buffered(DELETE_CONCURRENCY)
            .boxed()
    }

    /// Folder by folder, so that memory is bounded by the largest folder.
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let start = prefix.cloned().unwrap_or_default();
        stream::try_unfold((self.clone(), vec![start]), |(store, mut todo)| async move {
            let Some(folder) = todo.pop() else { return Ok(None) };
            let (files, folders) = store.blocking(move |inner| inner.read_folder(&folder)).await?;
            todo.extend(folders.into_iter().rev());
            let files = stream::iter(files.into_iter().map(Ok::<_, Error>));
            Ok::<_, Error>(Some((files, (store, todo))))
        })
        .map(|files| match files {
            Ok(files) => files.boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        })
        .flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        let (objects, common_prefixes) =
            self.blocking(move |inner| inner.read_folder(&prefix)).await?;
        Ok(ListResult { common_prefixes, objects })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (from, to) = (from.clone(), to.clone());
        self.blocking(move |inner| inner.copy(&from, &to, options.mode)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let (from, to) = (from.clone(), to.clone());
        self.blocking(move |inner| inner.rename(&from, &to, options.target_mode)).await
    }
}
