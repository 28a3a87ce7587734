//! How far a batch got with a service that takes and refuses records one by one.
//!
//! The shipper sends a batch again, unchanged, until it is taken. What the
//! service already has is remembered here, so that only the rest goes again.

use std::time::Duration;

use super::SinkBatch;

/// A batch in the form of the records that carry it.
#[derive(Debug)]
pub(super) struct Progress<R> {
    batch: BatchId,
    /// The records, in order.
    pub records: Vec<R>,
    /// Those that the service has not acknowledged, ascending.
    pub pending: Vec<usize>,
}

/// Which batch it is: the shipper's batches of one spool never overlap, but one
/// of heartbeats only has an empty range.
#[derive(Debug, PartialEq, Eq)]
struct BatchId {
    collector_id: String,
    first_wal_seq: i64,
    last_wal_seq: i64,
    lines: usize,
}

/// The service's caps on a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CallCaps {
    pub records: usize,
    pub bytes: usize,
}

/// What may be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// These, ascending, at once.
    Now(Vec<usize>),
    /// Nothing for this long.
    After(Duration),
}

impl<R> Progress<R> {
    /// Nothing is sent yet.
    pub fn new(batch: &SinkBatch, records: Vec<R>) -> Self {
        let pending = (0..records.len()).collect();
        Self { batch: BatchId::of(batch), records, pending }
    }

    /// True where it is that batch's.
    pub fn is_of(&self, batch: &SinkBatch) -> bool {
        self.batch == BatchId::of(batch)
    }

    /// Notes that the service has these records, given ascending.
    pub fn settle(&mut self, taken: &[usize]) {
        self.pending.retain(|index| taken.binary_search(index).is_err());
    }

    /// The records that are pending.
    pub fn rest(&self) -> impl Iterator<Item = &R> {
        self.pending.iter().filter_map(|index| self.records.get(*index))
    }

    /// Lets go of the records that are not pending.
    pub fn forget_settled(&mut self) {
        let mut pending = self.pending.iter().peekable();
        let mut index = 0;
        self.records.retain(|_| {
            let keep = pending.next_if(|next| **next == index).is_some();
            index += 1;
            keep
        });
        self.pending = (0..self.records.len()).collect();
    }
}

impl BatchId {
    fn of(batch: &SinkBatch) -> Self {
        Self {
            collector_id: batch.collector_id.clone(),
            first_wal_seq: batch.first_wal_seq,
            last_wal_seq: batch.last_wal_seq,
            lines: batch.records.len(),
        }
    }
}

/// `indexes` in calls within the caps, order kept; a record over the cap on
/// bytes is a call of its own.
pub(super) fn cut(
    indexes: &[usize],
    caps: CallCaps,
    size: impl Fn(usize) -> usize,
) -> Vec<Vec<usize>> {
    let mut calls: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for &index in indexes {
        let size = size(index);
        match calls.last_mut() {
            Some(call) if call.len() < caps.records && bytes + size <= caps.bytes => {
                bytes += size;
                call.push(index);
            }
            _ => {
                bytes = size;
                calls.push(vec![index]);
            }
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_cut_at_the_caps_and_not_before() {
        let caps = CallCaps { records: 500, bytes: 10_000 };
        let lens = |sizes: &[usize]| -> Vec<usize> {
            let all: Vec<usize> = (0..sizes.len()).collect();
            cut(&all, caps, |index| sizes[index]).iter().map(Vec::len).collect()
        };
        assert_eq!(lens(&[1; 500]), [500]);
        assert_eq!(lens(&[1; 501]), [500, 1]);
        assert_eq!(lens(&[1_000; 10]), [10]);
        let mut over = [1_000; 10];
        over[9] = 1_001;
        assert_eq!(lens(&over), [9, 1]);
        assert_eq!(lens(&[20_000, 1]), [1, 1]);
        assert_eq!(lens(&[]), [] as [usize; 0]);
    }

    #[test]
    fn what_is_settled_is_pending_no_more_and_another_batch_is_another() {
        let batch = SinkBatch {
            collector_id: "c".to_owned(),
            first_wal_seq: 1,
            last_wal_seq: 5,
            records: Vec::new(),
        };
        let mut progress = Progress::new(&batch, vec!['a', 'b', 'c', 'd', 'e']);
        progress.settle(&[0, 3]);
        assert_eq!(progress.pending, [1, 2, 4]);
        assert_eq!(progress.rest().collect::<String>(), "bce");
        progress.forget_settled();
        assert_eq!(
            (progress.pending.as_slice(), progress.records.as_slice()),
            (&[0, 1, 2][..], &['b', 'c', 'e'][..])
        );
        assert!(progress.is_of(&batch));
        assert!(!progress.is_of(&SinkBatch { first_wal_seq: 6, last_wal_seq: 9, ..batch }));
    }
}
