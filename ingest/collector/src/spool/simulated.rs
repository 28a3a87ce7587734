//! A disk in memory that forgets, at a power cut, everything that was not
//! synced, and that fails on demand.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, DiskFile};

/// Small, so that a test's small frames have several.
const PAGE_BYTES: usize = 64;

#[derive(Clone, Default)]
pub(crate) struct SimulatedDisk(Arc<Mutex<Files>>);

#[derive(Default)]
struct Files {
    /// Contents, shared by every name of a file.
    contents: Vec<Content>,
    /// What a process sees.
    names: BTreeMap<PathBuf, usize>,
    /// What a power cut leaves.
    durable_names: BTreeMap<PathBuf, usize>,
    locked: Vec<PathBuf>,
    /// Counts down with each append; at 0 half of the bytes arrive, then it fails.
    appends_until_failure: Option<usize>,
    /// Likewise for syncs; everything was written, nothing is promised.
    syncs_until_failure: Option<usize>,
    /// From the failure on, every write fails.
    stays_broken: bool,
    /// A sync counts, but does nothing: the test of the test.
    pub lies: bool,
}

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    synced: usize,
}

struct Handle {
    disk: SimulatedDisk,
    content: usize,
    poisoned: bool,
}

struct Lock {
    disk: SimulatedDisk,
    path: PathBuf,
}

impl SimulatedDisk {
    fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock().expect("lock")
    }

    /// What is on the platters now, as a new disk: `kept(unsynced)` says how
    /// many of a file's unsynced bytes got there by chance.
    pub fn after_power_cut(&self, mut kept: impl FnMut(usize) -> usize) -> Self {
        self.cut(|content| {
            let synced = content.synced.min(content.bytes.len());
            let unsynced = content.bytes.len() - synced;
            content.bytes[..synced + kept(unsynced).min(unsynced)].to_vec()
        })
    }

    fn cut(&self, mut left: impl FnMut(&Content) -> Vec<u8>) -> Self {
        let files = self.files();
        let mut after = Files::default();
        for (path, content) in &files.durable_names {
            let bytes = left(&files.contents[*content]);
            after.contents.push(Content { synced: bytes.len(), bytes });
            after.names.insert(path.clone(), after.contents.len() - 1);
        }
        after.durable_names = after.names.clone();
        Self(Arc::new(Mutex::new(after)))
    }

    /// What the operating system still has when the process is killed: all of
    /// it, synced or not.
    pub fn after_kill(&self) -> Self {
        let files = self.files();
        let mut after = Files::default();
        for (path, content) in &files.names {
            let Content { bytes, synced } = &files.contents[*content];
            after.contents.push(Content { bytes: bytes.clone(), synced: *synced });
            after.names.insert(path.clone(), after.contents.len() - 1);
        }
        after.durable_names = after
            .names
            .iter()
            .filter(|(path, _)| files.durable_names.contains_key(*path))
            .map(|(p, c)| (p.clone(), *c))
            .collect();
        Self(Arc::new(Mutex::new(after)))
    }

    /// As [`SimulatedDisk::after_power_cut`], but the file system wrote its
    /// pages in any order: of the unsynced ones, `kept` says which are there;
    /// the others are zeros.
    pub fn after_power_cut_with_holes(&self, mut kept: impl FnMut() -> bool) -> Self {
        self.cut(|content| {
            let mut bytes = content.bytes.clone();
            for page in bytes.get_mut(content.synced..).unwrap_or_default().chunks_mut(PAGE_BYTES) {
                if !kept() {
                    page.fill(0);
                }
            }
            bytes
        })
    }

    pub fn fail_append_after(&self, appends: usize) {
        self.files().appends_until_failure = Some(appends);
    }

    pub fn fail_sync_after(&self, syncs: usize) {
        self.files().syncs_until_failure = Some(syncs);
    }

    pub fn stay_broken(&self) {
        self.files().stays_broken = true;
    }

    pub fn lie(&self) {
        self.files().lies = true;
    }

    pub fn repair(&self) {
        let mut files = self.files();
        (files.appends_until_failure, files.syncs_until_failure) = (None, None);
        files.stays_broken = false;
    }

    /// Changes a file's bytes in place.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut files = self.files();
        let content = files.names[path];
        change(&mut files.contents[content].bytes);
        files.contents[content].synced = files.contents[content].bytes.len();
    }

    pub fn segments(&self) -> Vec<PathBuf> {
        let files = self.files();
        files.names.keys().filter(|p| p.extension().is_some_and(|e| e == "seg")).cloned().collect()
    }
}

fn broken() -> io::Error {
    io::Error::other("simulated failure")
}

/// True when the countdown hits.
fn hits(countdown: &mut Option<usize>) -> bool {
    match countdown {
        Some(0) => {
            *countdown = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

impl Files {
    fn get(&self, path: &Path) -> io::Result<&Content> {
        let content = self.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(&self.contents[*content])
    }
}

impl Disk for SimulatedDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut files = self.files();
        if files.locked.iter().any(|locked| locked == path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        files.locked.push(path.to_owned());
        Ok(Box::new(Lock { disk: self.clone(), path: path.to_owned() }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut files = self.files();
        files.contents.push(Content::default());
        let content = files.contents.len() - 1;
        files.names.insert(path.to_owned(), content);
        Ok(Box::new(Handle { disk: self.clone(), content, poisoned: false }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(self.files().get(path)?.bytes.clone())
    }

    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let files = self.files();
        let bytes = &files.get(path)?.bytes;
        let start = (offset as usize).min(bytes.len());
        Ok(bytes[start..start.saturating_add(len).min(bytes.len())].to_vec())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let files = self.files();
        let names = files.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.map(|p| p.file_name().expect("name").to_string_lossy().into_owned()).collect())
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut files = self.files();
        let content = *files.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let content = &mut files.contents[content];
        content.bytes.truncate(len as usize);
        content.synced = content.bytes.len();
        Ok(())
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        let mut files = self.files();
        let content = *files.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let content = &mut files.contents[content];
        content.synced = content.bytes.len();
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files();
        let content = files.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.names.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files().names.remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut files = self.files();
        if files.lies {
            return Ok(());
        }
        let Files { names, durable_names, .. } = &mut *files;
        durable_names.retain(|path, _| path.parent() != Some(dir));
        let current = names.iter().filter(|(path, _)| path.parent() == Some(dir));
        durable_names.extend(current.map(|(path, content)| (path.clone(), *content)));
        Ok(())
    }
}

impl DiskFile for Handle {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        assert!(!self.poisoned, "a file was used again after a failure");
        let mut files = self.disk.files();
        let hit = hits(&mut files.appends_until_failure);
        let fails = hit || files.stays_broken && files.appends_until_failure.is_none();
        let written = if fails { bytes.len() / 2 } else { bytes.len() };
        files.contents[self.content].bytes.extend_from_slice(&bytes[..written]);
        self.poisoned = fails;
        if fails { Err(broken()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        assert!(!self.poisoned, "a file was used again after a failure");
        let mut files = self.disk.files();
        if hits(&mut files.syncs_until_failure) {
            self.poisoned = true;
            return Err(broken());
        }
        if !files.lies {
            let content = &mut files.contents[self.content];
            content.synced = content.bytes.len();
        }
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut files = self.disk.files();
        files.locked.retain(|locked| *locked != self.path);
    }
}
