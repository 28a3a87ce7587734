//! A value made from files, made again when they change.
//!
//! The files' modification times, sizes and inodes are looked at every
//! [`RELOAD_EVERY`]: that works on every file system and for every way of
//! replacing a file (written in place, renamed over, a link that moves). What
//! cannot be loaded is reported once per change, and the old value stays.

use std::error::Error;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// How often files are looked at.
pub const RELOAD_EVERY: Duration = Duration::from_secs(10);

type Load<T> = Box<dyn Fn() -> Result<T, Box<dyn Error + Send + Sync>> + Send + Sync>;

/// The value, and how it was made.
pub(super) struct Reloading<T> {
    name: &'static str,
    paths: Vec<PathBuf>,
    load: Load<T>,
    current: RwLock<Arc<T>>,
    seen: Mutex<Vec<Option<Stamp>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    len: u64,
    inode: u64,
}

impl<T: Send + Sync + 'static> Reloading<T> {
    /// Loads it for the first time.
    pub fn open<E: Error + Send + Sync + 'static>(
        name: &'static str,
        paths: Vec<PathBuf>,
        load: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        // Before it is loaded: what changes meanwhile is seen the next time.
        let seen = Mutex::new(stamps(&paths));
        let current = RwLock::new(Arc::new(load()?));
        let load: Load<T> = Box::new(move || load().map_err(Into::into));
        Ok(Self { name, paths, load, current, seen })
    }

    /// The value of the moment.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Loads it again where a file has changed. Blocks.
    fn check(&self, metrics: &Metrics) {
        let now = stamps(&self.paths);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == now {
            return;
        }
        *seen = now;
        match (self.load)() {
            Ok(value) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                metrics.reloads.with([self.name, "ok"]).inc();
                tracing::info!(what = self.name, "read the changed files");
            }
            Err(error) => {
                metrics.reloads.with([self.name, "failed"]).inc();
                tracing::error!(
                    what = self.name,
                    error = &*error as &dyn Error,
                    "cannot use the changed files; going on with the old ones"
                );
            }
        }
    }

    /// Looks at the files until `stop`.
    pub async fn watch(
        self: Arc<Self>,
        every: Duration,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            let (this, metrics) = (Arc::clone(&self), Arc::clone(&metrics));
            if let Err(error) = tokio::task::spawn_blocking(move || this.check(&metrics)).await {
                tracing::error!(what = self.name, %error, "looking at the files panicked");
            }
        }
    }
}

impl<T> std::fmt::Debug for Reloading<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloading").field("paths", &self.paths).finish_non_exhaustive()
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &Path| {
        let meta = path.metadata().ok()?;
        Some(Stamp { modified: meta.modified().ok()?, len: meta.len(), inode: meta.ino() })
    };
    paths.iter().map(|path| stamp(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_loaded_and_a_bad_one_leaves_the_old_value() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("number");
        let write = |text: &str| {
            let new = folder.path().join("new");
            std::fs::write(&new, text).expect("writes");
            std::fs::rename(&new, &path).expect("renames");
        };
        write("1");
        let from = path.clone();
        let load = move || {
            let text = std::fs::read_to_string(&from)?;
            text.parse::<u32>().map_err(std::io::Error::other)
        };
        let metrics = Metrics::default();
        let value = Reloading::open("number", vec![path.clone()], load).expect("loads");
        value.check(&metrics);
        assert_eq!(metrics.reloads.with(["number", "ok"]).get(), 0, "unchanged is not read again");
        write("23");
        value.check(&metrics);
        assert_eq!(*value.get(), 23);
        write("many");
        value.check(&metrics);
        value.check(&metrics);
        assert_eq!(*value.get(), 23);
        assert_eq!(metrics.reloads.with(["number", "failed"]).get(), 1, "once per change");
        std::fs::remove_file(&path).expect("removes");
        value.check(&metrics);
        assert_eq!(*value.get(), 23);
        write("456");
        value.check(&metrics);
        assert_eq!(*value.get(), 456);
    }
}
