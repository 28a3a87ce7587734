//! Were records trimmed before they were read?
//!
//! Kinesis does not say. But it trims in order, by the time of arrival, so that two things
//! can be told:
//! - As long as everything that arrived until some time was read ([`Through`]), and that is
//!   not longer ago than the stream's retention, nothing after it is gone.
//! - While the record at the checkpoint, or an older one, is still there, nothing after it is
//!   gone. Of a shard without a checkpoint nothing is gone where it was not open yet at the
//!   oldest time that the stream holds.
//!
//! Only where the first does not settle it, the second is looked up: before the first page
//! of a shard, and before any page that comes after as long a gap. A shard without traffic
//! for so long then reads as a possible loss too, which is the honest answer: it cannot be
//! told apart.

use std::cmp::Ordering;
use std::time::Duration;

use clickmill_lake::landing::{Commit, PossibleLoss};
use clickmill_schemas::Timestamp;

use super::feed::Page;
use super::reader::arrival;

/// A commit is later than the arrival of its last record by at most the age of a
/// cut and the time of its PUTs; clocks differ too.
const COMMIT_MARGIN: Duration = Duration::from_secs(3_600);
/// By how much this machine's clock and Kinesis' may differ, and a request may take.
const CLOCK_MARGIN: Duration = Duration::from_secs(300);

/// Until when everything that arrived in a shard was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Through {
    at: Timestamp,
    margin: Duration,
}

impl Through {
    /// As a commit leaves it: one of an earlier build says when it was made only.
    pub fn committed(commit: &Commit) -> Self {
        match commit.read_through {
            Some(at) => Self { at, margin: CLOCK_MARGIN },
            None => Self { at: commit.committed_at, margin: COMMIT_MARGIN },
        }
    }

    /// As the beginning of the delivery leaves it.
    pub fn begun(at: Timestamp) -> Self {
        Self { at, margin: COMMIT_MARGIN }
    }

    /// Everything that arrived before this was read.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// After a page that was asked for at that time.
    pub fn read(&mut self, page: &Page, asked: Timestamp) {
        let last = page.records.last();
        let at = match last.map(|last| arrival(last.approximate_arrival_timestamp())) {
            Some(arrived) => arrived,
            None if page.behind == Some(0) => asked,
            None => return,
        };
        *self = Self { at, margin: CLOCK_MARGIN };
    }

    /// Can anything that arrived later have been trimmed `now`?
    pub fn is_past(&self, retention: Duration, now: Timestamp) -> bool {
        self.at.saturating_add(retention.saturating_sub(self.margin)) <= now
    }
}

/// Compares the checkpoint with the oldest record that is left.
pub(super) fn judge(checkpoint: &str, oldest: Option<String>) -> Option<PossibleLoss> {
    let safe = oldest.as_ref().is_some_and(|oldest| order(oldest, checkpoint) != Ordering::Greater);
    (!safe).then(|| PossibleLoss { after: checkpoint.to_owned(), before: oldest })
}

/// One stretch for two of which the second was found later.
pub(super) fn joined(first: Option<PossibleLoss>, then: PossibleLoss) -> PossibleLoss {
    PossibleLoss { after: first.map_or(then.after, |first| first.after), before: then.before }
}

/// Sequence numbers are decimal numbers of up to 128 digits.
pub(super) fn order(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use aws_sdk_kinesis::primitives::{Blob, DateTime};
    use aws_sdk_kinesis::types::Record;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).expect(text)
    }

    fn page(arrived: Option<Timestamp>, behind: Option<i64>) -> Page {
        let record = |time: Timestamp| {
            let time = DateTime::from_millis(time.micros() / 1_000);
            let record = Record::builder().sequence_number("1").partition_key("k");
            let record = record.data(Blob::new("")).approximate_arrival_timestamp(time);
            record.build().expect("a record")
        };
        let records = arrived.map(record).into_iter().collect();
        Page { records, behind, is_last: false, _room: None }
    }

    #[test]
    fn only_a_checkpoint_near_the_end_of_retention_is_looked_up() {
        let through = Through::begun(at("2026-11-23T00:00:00Z"));
        assert!(!through.is_past(DAY, at("2026-11-23T22:59:59Z")));
        assert!(through.is_past(DAY, at("2026-11-23T23:00:00Z")));
    }

    #[test]
    fn a_worker_is_through_to_its_last_record_and_at_the_tip_to_its_last_look() {
        let mut through = Through::begun(at("2026-11-20T00:00:00Z"));
        let asked = at("2026-11-23T12:00:00Z");
        through.read(&page(None, Some(60_000)), asked);
        assert!(through.is_past(DAY, asked), "an empty page amid a shard shows nothing");
        through.read(&page(None, Some(0)), asked);
        assert!(!through.is_past(DAY, at("2026-11-24T11:54:59Z")));
        assert!(through.is_past(DAY, at("2026-11-24T11:55:00Z")));
        // Catching up at the edge: what comes next may be trimmed at any moment.
        through.read(&page(Some(at("2026-11-22T12:03:00Z")), Some(86_000_000)), asked);
        assert!(through.is_past(DAY, asked));
        through.read(&page(Some(at("2026-11-22T13:00:00Z")), Some(86_000_000)), asked);
        assert!(!through.is_past(DAY, asked));
    }

    #[test]
    fn nothing_is_lost_while_the_checkpoint_or_an_older_record_is_there() {
        assert_eq!(judge("100", Some("100".to_owned())), None);
        assert_eq!(judge("100", Some("99".to_owned())), None);
        let loss = judge("100", Some("101".to_owned())).expect("possible");
        assert_eq!((loss.after.as_str(), loss.before.as_deref()), ("100", Some("101")));
        assert_eq!(judge("100", None).expect("possible").before, None);
        let further = judge("150", Some("200".to_owned())).expect("possible");
        let whole = joined(Some(loss), further);
        assert_eq!((whole.after.as_str(), whole.before.as_deref()), ("100", Some("200")));
    }
}
