//! Were records trimmed before they were read?
//!
//! Kinesis does not say. But it trims in order: while the record at the
//! checkpoint, or an older one, is still there, nothing after it is gone. Only
//! where the checkpoint is older than the stream's retention is that looked up;
//! a shard without traffic for so long then reads as a possible loss too, which
//! is the honest answer: it cannot be told apart.

use std::cmp::Ordering;
use std::time::Duration;

use clickmill_lake::landing::PossibleLoss;
use clickmill_schemas::Timestamp;

/// A commit is later than the arrival of its last record by at most the age of a
/// cut and the time of its PUTs; clocks differ too.
const MARGIN: Duration = Duration::from_secs(3_600);

/// Can anything after a checkpoint of `committed_at` have been trimmed `now`?
pub(super) fn is_possible(committed_at: Timestamp, retention: Duration, now: Timestamp) -> bool {
    committed_at.saturating_add(retention.saturating_sub(MARGIN)) <= now
}

/// Compares the checkpoint with the oldest record that is left.
pub(super) fn judge(checkpoint: &str, oldest: Option<String>) -> Option<PossibleLoss> {
    let safe = oldest.as_ref().is_some_and(|oldest| order(oldest, checkpoint) != Ordering::Greater);
    (!safe).then(|| PossibleLoss { after: checkpoint.to_owned(), before: oldest })
}

/// Sequence numbers are decimal numbers of up to 128 digits.
pub(super) fn order(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_checkpoint_near_the_end_of_retention_is_looked_up() {
        let at = |text| Timestamp::parse(text).expect(text);
        let day = Duration::from_secs(86_400);
        let committed = at("2026-11-23T00:00:00Z");
        assert!(!is_possible(committed, day, at("2026-11-23T22:59:59Z")));
        assert!(is_possible(committed, day, at("2026-11-23T23:00:00Z")));
    }

    #[test]
    fn nothing_is_lost_while_the_checkpoint_or_an_older_record_is_there() {
        assert_eq!(judge("100", Some("100".to_owned())), None);
        assert_eq!(judge("100", Some("99".to_owned())), None);
        let loss = judge("100", Some("101".to_owned())).expect("possible");
        assert_eq!((loss.after.as_str(), loss.before.as_deref()), ("100", Some("101")));
        assert_eq!(judge("100", None).expect("possible").before, None);
    }
}
