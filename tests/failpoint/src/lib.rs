//! Points at which a test makes the process die, as `kill -9` would.
//!
//! The libraries call [`hit`] where a crash would be most harmful; the binary
//! arms one point, from `CLICKMILL_FAILPOINT`, and the whole-pipeline tests
//! (`tests/pipeline/test_kill.py`) compare what is left. Nobody else arms
//! anything: unarmed, a point costs one atomic load.
//!
//! Death is [`std::process::abort`]: no destructor runs, no buffer is flushed,
//! as with a power cut, save that the operating system's page cache survives.
//! (The spool's tests cut that, too, by a disk that forgets.)

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static ARMED: OnceLock<Armed> = OnceLock::new();

/// Every point there is, in the order in which data meets them.
pub const POINTS: &[&str] = &[
    "spool.written",
    "spool.synced",
    "sink.landed",
    "raw.before_put",
    "raw.put",
    "landing.before_commit",
    "landing.committed",
    "etl.before_batch",
    "etl.batch_written",
    "upload.before_create",
    "upload.created",
    "upload.before_part",
    "upload.part",
    "upload.before_complete",
    "upload.completed",
    "etl.files_written",
    "etl.before_commit",
    "etl.committed",
    "etl.before_snapshot",
    "etl.snapshot_written",
];

/// A point and at which of its hits to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failpoint {
    name: &'static str,
    nth: u64,
}

struct Armed {
    point: Failpoint,
    hits: AtomicU64,
}

impl FromStr for Failpoint {
    type Err = String;

    /// `name` or `name:nth`, the first hit being 1.
    fn from_str(text: &str) -> Result<Self, String> {
        let (wanted, nth) = text.split_once(':').unwrap_or((text, "1"));
        let name = POINTS.iter().find(|name| **name == wanted).ok_or_else(|| {
            format!("`{wanted}` is no failpoint; there are {}", POINTS.join(", "))
        })?;
        match nth.parse() {
            Ok(nth) if nth > 0 => Ok(Self { name, nth }),
            _ => Err(format!("`{nth}` is no count of hits; give 1 or more")),
        }
    }
}

/// From now on the process dies at `point`. The first call counts; false for later ones.
pub fn arm(point: Failpoint) -> bool {
    ARMED.set(Armed { point, hits: AtomicU64::new(0) }).is_ok()
}

/// Dies here, if this is the hit that was armed.
pub fn hit(name: &str) {
    if let Some(armed) = ARMED.get() {
        armed.hit(name);
    }
}

impl Armed {
    fn hit(&self, name: &str) {
        if self.is_due(name) {
            std::process::abort();
        }
    }

    fn is_due(&self, name: &str) -> bool {
        name == self.point.name && self.hits.fetch_add(1, Ordering::SeqCst) + 1 == self.point.nth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_due_at_its_nth_hit_and_no_other() {
        let point = Failpoint { name: "etl.committed", nth: 2 };
        let armed = Armed { point, hits: AtomicU64::new(0) };
        let names = ["etl.committed", "raw.put", "etl.committed", "etl.committed"];
        assert_eq!(names.map(|name| armed.is_due(name)), [false, false, true, false]);
    }

    #[test]
    fn names_are_read_with_and_without_a_count() {
        assert_eq!("raw.put".parse(), Ok(Failpoint { name: "raw.put", nth: 1 }));
        assert_eq!("raw.put:3".parse(), Ok(Failpoint { name: "raw.put", nth: 3 }));
        for wrong in ["", "nowhere", "raw.put:", "raw.put:0", "raw.put:x"] {
            assert!(wrong.parse::<Failpoint>().is_err(), "{wrong}");
        }
    }
}
