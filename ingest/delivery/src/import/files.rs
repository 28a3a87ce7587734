//! Which files an import reads: paths, folders, globs and URLs.
//!
//! A folder means every file below it whose name ends as the format's do, hidden
//! ones and those starting with `_` left out. In a glob `*` and `?` stop at `/`,
//! `**` does not. A file in a bucket is copied to a temporary one first: it is
//! read twice, once for its hash and once for its rows, and must not change
//! between.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use clickmill_lake::open_store;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::config::FileFormat;
use super::error::ImportError;
use super::reader::open_plain;

/// Deepest folder that is searched.
const MAX_DEPTH: usize = 32;
/// Most files of one import.
const MAX_FILES: usize = 100_000;

/// A file to import.
#[derive(Clone, Debug)]
pub(crate) struct InputFile {
    /// As the user would name it.
    pub shown: String,
    pub place: Place,
    pub bytes: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Place {
    Local(PathBuf),
    Remote(Arc<dyn ObjectStore>, object_store::path::Path),
}

/// A file that can be opened, and goes away with this value where it was copied.
pub(crate) enum LocalFile {
    Own(PathBuf),
    Copy(NamedTempFile),
}

/// What tells that a file is still the one that was hashed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stamp(u64, Option<std::time::SystemTime>);

impl LocalFile {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Own(path) => path,
            Self::Copy(file) => file.path(),
        }
    }

    pub(crate) fn stamp(&self) -> io::Result<Stamp> {
        let meta = std::fs::metadata(self.path())?;
        Ok(Stamp(meta.len(), meta.modified().ok()))
    }
}

/// Finds the files that `paths` mean, in the order given, a folder's sorted by name.
pub(crate) async fn resolve(
    paths: &[String],
    format: Option<FileFormat>,
) -> Result<Vec<InputFile>, ImportError> {
    let mut files = Vec::new();
    for path in paths {
        let mut found = if path.starts_with("s3://") {
            remote(path, format).await?
        } else {
            local(path, format)?
        };
        found.sort_by(|a, b| a.shown.cmp(&b.shown));
        if found.is_empty() {
            let reason = match format {
                Some(format) => format!("nothing there ends with {}", endings(format).join(", ")),
                None => "nothing there".to_owned(),
            };
            return Err(ImportError::NoFiles { path: path.clone(), reason });
        }
        files.append(&mut found);
        if files.len() > MAX_FILES {
            return Err(ImportError::NoFiles {
                path: path.clone(),
                reason: format!("more than {MAX_FILES} files; import it in parts"),
            });
        }
    }
    Ok(files)
}

fn local(path: &str, format: Option<FileFormat>) -> Result<Vec<InputFile>, ImportError> {
    let path = match url::Url::parse(path) {
        Ok(url) if url.scheme() == "file" => {
            url.to_file_path().map(|p| p.display().to_string()).map_err(|()| {
                ImportError::NoFiles { path: path.into(), reason: "not a path".into() }
            })?
        }
        _ => path.to_owned(),
    };
    let failed = |shown: &str, source| ImportError::Read { path: shown.to_owned(), source };
    // A file whose name has a star in it is that file.
    match std::fs::metadata(&path) {
        Ok(meta) if meta.is_file() => {
            let place = Place::Local(PathBuf::from(&path));
            return Ok(vec![InputFile { shown: path, place, bytes: meta.len() }]);
        }
        Ok(meta) if meta.is_dir() => {
            let mut found = Vec::new();
            walk(Path::new(&path), MAX_DEPTH, &mut found).map_err(|e| failed(&path, e))?;
            found.retain(|(p, _)| {
                let inside = p.strip_prefix(&path).unwrap_or(p);
                takes(&inside.display().to_string(), format)
            });
            return Ok(found.into_iter().map(input_file).collect());
        }
        Ok(_) => return Err(ImportError::NoFiles { path, reason: "not a file".into() }),
        Err(error) if !is_glob(&path) => return Err(failed(&path, error)),
        Err(_) => {}
    }
    let base = match glob_base(&path) {
        "" => Path::new("."),
        base => Path::new(base),
    };
    let mut found = Vec::new();
    walk(base, MAX_DEPTH, &mut found).map_err(|e| failed(&path, e))?;
    let pattern = path.strip_prefix("./").unwrap_or(&path).to_owned();
    found.retain(|(p, _)| {
        let name = p.display().to_string();
        matches(pattern.as_bytes(), name.strip_prefix("./").unwrap_or(&name).as_bytes())
    });
    Ok(found.into_iter().map(input_file).collect())
}

fn input_file((path, bytes): (PathBuf, u64)) -> InputFile {
    InputFile { shown: path.display().to_string(), place: Place::Local(path), bytes }
}

/// Every file below `folder`. Links to files are followed, links to folders are not.
fn walk(folder: &Path, depth: usize, found: &mut Vec<(PathBuf, u64)>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if depth > 0 {
                walk(&entry.path(), depth - 1, found)?;
            }
        } else if let Ok(meta) = std::fs::metadata(entry.path())
            && meta.is_file()
        {
            found.push((entry.path(), meta.len()));
        }
    }
    Ok(())
}

async fn remote(url: &str, format: Option<FileFormat>) -> Result<Vec<InputFile>, ImportError> {
    let failed = |source| ImportError::Store { path: url.to_owned(), source };
    let rest = url.strip_prefix("s3://").unwrap_or(url);
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let (store, _) = open_store(&format!("s3://{bucket}")).await?;
    let shown = |path: &object_store::path::Path| format!("s3://{bucket}/{path}");
    let exact = object_store::path::Path::from(key);
    if !key.is_empty() && !key.ends_with('/') {
        match store.head(&exact).await {
            Ok(meta) => {
                let place = Place::Remote(store, exact);
                return Ok(vec![InputFile { shown: url.to_owned(), place, bytes: meta.size }]);
            }
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let glob = is_glob(key);
    let base = if glob { glob_base(key) } else { key };
    let prefix = object_store::path::Path::from(base);
    let listed: Vec<_> = store
        .list((!base.is_empty()).then_some(&prefix))
        .take(MAX_FILES + 1)
        .try_collect()
        .await
        .map_err(failed)?;
    Ok(listed
        .into_iter()
        .filter(|meta| {
            let name = meta.location.as_ref();
            let inside = name.strip_prefix(prefix.as_ref()).unwrap_or(name).trim_start_matches('/');
            if glob { matches(key.as_bytes(), name.as_bytes()) } else { takes(inside, format) }
        })
        .map(|meta| InputFile {
            shown: shown(&meta.location),
            place: Place::Remote(Arc::clone(&store), meta.location),
            bytes: meta.size,
        })
        .collect())
}

/// Makes the file one that can be opened.
pub(crate) async fn fetch(file: &InputFile) -> Result<LocalFile, ImportError> {
    let (store, path) = match &file.place {
        Place::Local(path) => return Ok(LocalFile::Own(path.clone())),
        Place::Remote(store, path) => (store, path),
    };
    let failed = |source| ImportError::Store { path: file.shown.clone(), source };
    let not_written = |source| ImportError::Read { path: file.shown.clone(), source };
    let mut copy = NamedTempFile::new().map_err(not_written)?;
    let mut chunks = store.get(path).await.map_err(failed)?.into_stream();
    while let Some(chunk) = chunks.next().await {
        copy.write_all(&chunk.map_err(failed)?).map_err(not_written)?;
    }
    copy.flush().map_err(not_written)?;
    Ok(LocalFile::Copy(copy))
}

/// SHA-256 of the file's content in hex, of what it decompresses to: a file is the
/// same, zipped or not.
pub(crate) fn content_hash(path: &Path, read_bytes: &Arc<AtomicU64>) -> io::Result<String> {
    let mut content = open_plain(path, read_bytes)?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 128 << 10];
    loop {
        match content.read(&mut chunk)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&chunk[..read]),
        }
    }
}

/// Bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn takes(inside: &str, format: Option<FileFormat>) -> bool {
    let hidden = inside.split('/').any(|part| part.starts_with(['.', '_']));
    let name = inside.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    !hidden && format.is_none_or(|format| endings(format).iter().any(|e| name.ends_with(e)))
}

const fn endings(format: FileFormat) -> &'static [&'static str] {
    match format {
        FileFormat::Csv => &[".csv", ".tsv", ".txt"],
        FileFormat::Jsonl => &[".jsonl", ".ndjson", ".json"],
        FileFormat::Parquet => &[".parquet", ".pq"],
    }
}

fn is_glob(path: &str) -> bool {
    path.contains(['*', '?'])
}

/// The folder before the first wildcard, without its `/`, except for the root.
fn glob_base(pattern: &str) -> &str {
    let wild = pattern.find(['*', '?']).unwrap_or(pattern.len());
    match pattern[..wild].rfind('/') {
        Some(0) => "/",
        Some(at) => &pattern[..at],
        None => "",
    }
}

/// Whether `name` matches the glob. Backtracks over one star at a time.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', b'*', b'/', rest @ ..], _) if matches(rest, name) => true,
        ([b'*', b'*', rest @ ..], _) => {
            matches(rest, name) || (!name.is_empty() && matches(pattern, &name[1..]))
        }
        ([b'*', rest @ ..], _) => {
            matches(rest, name)
                || (name.first().is_some_and(|c| *c != b'/') && matches(pattern, &name[1..]))
        }
        ([b'?', rest @ ..], [c, tail @ ..]) => *c != b'/' && matches(rest, tail),
        ([p, rest @ ..], [c, tail @ ..]) => p == c && matches(rest, tail),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_a_shell_does() {
        for (pattern, name, expected) in [
            ("a/*.csv", "a/b.csv", true),
            ("a/*.csv", "a/b/c.csv", false),
            ("a/**/*.csv", "a/b/c.csv", true),
            ("a/**/*.csv", "a/c.csv", true),
            ("a/**", "a/b/c.csv", true),
            ("a/?.csv", "a/b.csv", true),
            ("a/?.csv", "a/bb.csv", false),
            ("*", "", true),
            ("*.csv", "x.csv.gz", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
        assert_eq!(glob_base("/*.csv"), "/");
        assert_eq!(glob_base("a/b*/c.csv"), "a");
        assert_eq!(glob_base("*.csv"), "");
    }

    #[test]
    fn a_folder_means_its_data_files() {
        let csv = Some(FileFormat::Csv);
        for (name, expected) in [
            ("a.csv", true),
            ("A.CSV.GZ", true),
            ("dt=1/a.tsv.zst", true),
            (".a.csv", false),
            ("_tmp/a.csv", false),
            ("_SUCCESS", false),
            ("a.parquet", false),
        ] {
            assert_eq!(takes(name, csv), expected, "{name}");
        }
    }
}
