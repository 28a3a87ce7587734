//! A plan's file that may change while the collector runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Plan, PlanError};
use crate::Collector;

/// How often the file is looked at.
pub const RELOAD_EVERY: Duration = Duration::from_secs(5);

/// A plan's file, and what it was when it was last read.
#[derive(Debug)]
pub struct PlanFile {
    path: PathBuf,
    seen: Option<Stamp>,
}

type Stamp = (SystemTime, u64);

impl PlanFile {
    /// Reads the plan.
    ///
    /// # Errors
    /// As [`Plan::load`].
    pub fn open(path: impl AsRef<Path>) -> Result<(Self, Plan), PlanError> {
        let path = path.as_ref().to_owned();
        // Before it is read: a change in between is then seen as one.
        let seen = stamp(&path);
        let plan = Plan::load(&path)?;
        Ok((Self { path, seen }, plan))
    }

    /// The new plan, where the file has changed; an error once for each change.
    pub fn changed(&mut self) -> Option<Result<Plan, PlanError>> {
        let now = stamp(&self.path);
        if now == self.seen {
            return None;
        }
        self.seen = now;
        Some(Plan::load(&self.path))
    }

    /// Gives `collector` each new plan, for ever. A file that is no plan is
    /// logged, counted (`clickmill_reloads_total`), and the plan before it stays.
    pub async fn follow(mut self, collector: Collector) {
        loop {
            tokio::time::sleep(RELOAD_EVERY).await;
            // A local file of some kilobytes: not worth another thread.
            let outcome = match self.changed() {
                None => continue,
                Some(Ok(plan)) => {
                    tracing::info!(version = plan.version(), "another tracking plan");
                    collector.set_plan(Some(plan));
                    "ok"
                }
                Some(Err(error)) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, cause, "the tracking plan before it stays");
                    "failed"
                }
            };
            collector.metrics().reloads.with(["plan", outcome]).inc();
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_once_and_a_broken_one_reported_once() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("plan.toml");
        let write = |text: &str| fs::write(&path, text).expect("writes");
        write("format = 1\nversion = \"first\"\n");
        let (mut file, plan) = PlanFile::open(&path).expect("a plan");
        assert_eq!(plan.version(), "first");
        assert!(file.changed().is_none());
        write("format = 1\nversion = \"the second\"\n");
        let plan = file.changed().expect("a change").expect("a plan");
        assert_eq!(plan.version(), "the second");
        write("format = 1\nversion = \"the third, broken\n");
        assert!(matches!(file.changed(), Some(Err(PlanError::Syntax { .. }))));
        assert!(file.changed().is_none());
        fs::remove_file(&path).expect("removes");
        assert!(matches!(file.changed(), Some(Err(PlanError::Read { .. }))));
        assert!(file.changed().is_none());
    }
}
