//! A look at events and rejects as they are taken: what a developer watches
//! while instrumenting a site.
//!
//! # Guarantees
//! - Intake never waits for a reader. Each has a queue of its own, bounded by
//!   [`MAX_LINES`] and [`MAX_BYTES`]; what does not fit is lost to that reader,
//!   counted, and the reader is told how many ([`TailItem::Lost`]).
//! - With no reader it costs one atomic load for each append.
//! - What is seen is what was stored: the wire's lines (`docs/spool.md`), before the
//!   spool gives them their `collector_id` and `wal_seq`. Events of
//!   [`Collector::track`](crate::Collector::track) are seen when they are
//!   handed over, all others once they are on disk.
//!
//! # Limits
//! [`MAX_READERS`] at once, so all queues together hold 32 MiB at most.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use clickmill_schemas::{Event, WireRecord};
use tokio::sync::mpsc;

/// Readers at once.
pub const MAX_READERS: usize = 8;
/// Lines that wait for one reader.
pub const MAX_LINES: usize = 4_096;
/// Bytes that wait for one reader: some lines of
/// [`MAX_LINE_BYTES`](crate::MAX_LINE_BYTES), or thousands of common ones.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Which lines a reader wants. The default wants all.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct TailFilter {
    /// Events of the visitor or customer with this id: one of `anonymous_id`,
    /// `network_id`, `device_id`, `user_id`. No rejects: nobody knows whose they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visitor: Option<String>,
    /// Events of this name, canonical or as sent. No rejects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// What came by this protocol (`segment`, `snowplow`, ...).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Only rejects.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rejects: bool,
    /// Only events that violate the tracking plan.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub violations: bool,
}

/// What a reader gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TailItem {
    /// A line of the wire: an event or a reject, without a newline.
    Line(Bytes),
    /// So many lines were lost here, of any kind: the filter comes later.
    Lost(u64),
}

/// All readers are taken, or the collector is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TailError {
    /// [`MAX_READERS`] read already.
    #[error("{MAX_READERS} readers are connected already; end one of them")]
    TooMany,
    /// The collector is stopping.
    #[error("the collector is stopping")]
    Closed,
}

/// The side of the collector.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// Looked at without the lock.
    watched: AtomicBool,
    readers: Mutex<Readers>,
}

#[derive(Debug, Default)]
struct Readers {
    closed: bool,
    senders: Vec<(mpsc::Sender<Bytes>, Arc<Queue>)>,
}

#[derive(Debug, Default)]
struct Queue {
    bytes: AtomicUsize,
    lost: AtomicU64,
}

/// One reader; drop it to end.
#[derive(Debug)]
pub struct TailReader {
    filter: TailFilter,
    lines: mpsc::Receiver<Bytes>,
    queue: Arc<Queue>,
}

impl Tail {
    pub fn subscribe(&self, filter: TailFilter) -> Result<TailReader, TailError> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.closed {
            return Err(TailError::Closed);
        }
        readers.senders.retain(|(sender, _)| !sender.is_closed());
        if readers.senders.len() >= MAX_READERS {
            return Err(TailError::TooMany);
        }
        let (sender, lines) = mpsc::channel(MAX_LINES);
        let queue = Arc::new(Queue::default());
        readers.senders.push((sender, Arc::clone(&queue)));
        self.watched.store(true, Ordering::Release);
        Ok(TailReader { filter, lines, queue })
    }

    /// Whether [`Tail::publish`] is worth its copy.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    pub fn publish(&self, lines: impl IntoIterator<Item = Bytes>) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        for line in lines {
            readers.senders.retain(|(sender, queue)| queue.push(sender, &line));
        }
        if readers.senders.is_empty() {
            self.watched.store(false, Ordering::Release);
        }
    }

    /// Readers get what waits for them, and then the end.
    pub fn close(&self) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.closed = true;
        readers.senders.clear();
        self.watched.store(false, Ordering::Release);
    }
}

impl Queue {
    /// False once nobody reads.
    fn push(&self, sender: &mpsc::Sender<Bytes>, line: &Bytes) -> bool {
        let fits = self.bytes.load(Ordering::Relaxed) + line.len() <= MAX_BYTES;
        // Before it is sent, or the reader could take away what was not added yet.
        self.bytes.fetch_add(line.len(), Ordering::Relaxed);
        let sent = if fits {
            sender.try_send(line.clone())
        } else {
            Err(mpsc::error::TrySendError::Full(Bytes::new()))
        };
        if sent.is_err() {
            self.bytes.fetch_sub(line.len(), Ordering::Relaxed);
        }
        match sent {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                !sender.is_closed()
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}

impl TailReader {
    /// The next line that the filter wants, or a note of lost ones; `None` once
    /// the collector stops. May be cancelled and called again.
    pub async fn next(&mut self) -> Option<TailItem> {
        loop {
            // Lines are lost only while others wait, so none is left unsaid here.
            if self.lines.is_empty()
                && let Some(lost) = self.take_lost()
            {
                return Some(lost);
            }
            let Some(line) = self.lines.recv().await else { return self.take_lost() };
            self.queue.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            if self.filter.wants(&line) {
                return Some(TailItem::Line(line));
            }
        }
    }

    /// Lines lost since it was last asked.
    fn take_lost(&self) -> Option<TailItem> {
        let lost = self.queue.lost.swap(0, Ordering::Relaxed);
        (lost > 0).then_some(TailItem::Lost(lost))
    }
}

impl TailFilter {
    /// Whether a line of the wire is to be shown. One that does not decode is.
    #[must_use]
    pub fn wants(&self, line: &[u8]) -> bool {
        if *self == Self::default() {
            return true;
        }
        match WireRecord::decode(line) {
            Ok(WireRecord::Event(event)) => self.wants_event(&event),
            Ok(WireRecord::Reject(reject)) => {
                self.visitor.is_none()
                    && self.event.is_none()
                    && !self.violations
                    && self.protocol.as_ref().is_none_or(|wanted| *wanted == reject.protocol)
            }
            Ok(WireRecord::Heartbeat(_)) => false,
            Err(_) => true,
        }
    }

    fn wants_event(&self, event: &Event<'_>) -> bool {
        let visitor = |wanted: &String| {
            [&event.anonymous_id, &event.network_id, &event.device_id, &event.user_id]
                .into_iter()
                .any(|id| id.as_deref() == Some(wanted))
        };
        let name = |wanted: &String| {
            event.event_name == *wanted || event.source_event_name.as_deref() == Some(wanted)
        };
        let violates = || event.validation.as_deref().is_some_and(|outcome| outcome != "ok");
        !self.rejects
            && self.visitor.as_ref().is_none_or(visitor)
            && self.event.as_ref().is_none_or(name)
            && self.protocol.as_ref().is_none_or(|wanted| event.source_protocol == *wanted)
            && (!self.violations || violates())
    }
}

#[cfg(test)]
mod tests {
    use clickmill_schemas::{EventTime, Reject, RejectReason, Timestamp};

    use super::*;

    fn event(id: &str, change: impl FnOnce(&mut Event<'_>)) -> Bytes {
        let time = EventTime::resolve(None, None, Timestamp::now());
        let mut event = Event::new(id, "page_view", "segment", "shop", time);
        change(&mut event);
        event.encode().into()
    }

    fn reject(protocol: &str) -> Bytes {
        let reject = Reject {
            reject_id: "r1".into(),
            received_ts: Timestamp::now(),
            protocol: protocol.into(),
            reason: RejectReason::Malformed,
            detail: "no JSON".into(),
            origin: "/v1/track".into(),
            app_id: None,
            bytes_base64: "".into(),
            collector_id: None,
            wal_seq: None,
            shard_id: None,
            sequence_number: None,
        };
        WireRecord::Reject(reject).encode().into()
    }

    async fn all(mut reader: TailReader) -> Vec<TailItem> {
        let mut found = Vec::new();
        while let Some(item) = reader.next().await {
            found.push(item);
        }
        found
    }

    #[tokio::test]
    async fn every_reader_sees_every_line_in_order_and_then_the_end() {
        let tail = Tail::default();
        assert!(!tail.is_watched());
        let one = tail.subscribe(TailFilter::default()).expect("subscribes");
        let two = tail.subscribe(TailFilter::default()).expect("subscribes");
        assert!(tail.is_watched());
        let lines = [event("1", |_| ()), reject("ga4"), event("2", |_| ())];
        tail.publish(lines.clone());
        tail.close();
        let expected = lines.map(TailItem::Line);
        assert_eq!(all(one).await, expected);
        assert_eq!(all(two).await, expected);
        assert_eq!(tail.subscribe(TailFilter::default()).err(), Some(TailError::Closed));
    }

    #[tokio::test]
    async fn a_slow_reader_loses_lines_and_is_told_how_many() {
        let tail = Tail::default();
        let slow = tail.subscribe(TailFilter::default()).expect("subscribes");
        let line = Bytes::from_static(b"{}");
        tail.publish(std::iter::repeat_n(line.clone(), MAX_LINES + 7));
        tail.close();
        let mut expected = vec![TailItem::Line(line); MAX_LINES];
        expected.push(TailItem::Lost(7));
        assert_eq!(all(slow).await, expected);
    }

    #[tokio::test]
    async fn bytes_are_bounded_too_and_room_comes_back_with_reading() {
        let tail = Tail::default();
        let mut slow = tail.subscribe(TailFilter::default()).expect("subscribes");
        let half = Bytes::from(vec![b' '; MAX_BYTES / 2]);
        let push = |n| tail.publish(std::iter::repeat_n(half.clone(), n));
        push(3);
        assert_eq!(slow.next().await, Some(TailItem::Line(half.clone())));
        push(1);
        assert_eq!(slow.next().await, Some(TailItem::Line(half.clone())));
        assert_eq!(slow.next().await, Some(TailItem::Line(half.clone())));
        assert_eq!(slow.next().await, Some(TailItem::Lost(1)));
    }

    #[tokio::test]
    async fn readers_are_bounded_and_those_that_left_do_not_count() {
        let tail = Tail::default();
        let mut readers: Vec<_> = (0..MAX_READERS)
            .map(|_| tail.subscribe(TailFilter::default()).expect("subscribes"))
            .collect();
        assert_eq!(tail.subscribe(TailFilter::default()).err(), Some(TailError::TooMany));
        readers.pop();
        readers.push(tail.subscribe(TailFilter::default()).expect("a place is free"));
        drop(readers);
        tail.publish([event("1", |_| ())]);
        assert!(!tail.is_watched(), "nobody is left");
    }

    #[test]
    fn filters_take_what_they_name() {
        let of = |id: &str, change: fn(&mut Event<'_>)| event(id, change);
        let lines = [
            of("plain", |_| ()),
            of("ann", |event| event.anonymous_id = Some("ann".into())),
            of("customer", |event| event.user_id = Some("ann".into())),
            of("own", |event| event.source_event_name = Some("Tea Brewed".into())),
            of("ga4", |event| event.source_protocol = "ga4".into()),
            of("fine", |event| event.validation = Some("ok".into())),
            of("bad", |event| event.validation = Some("missing_property:total".into())),
            reject("ga4"),
            reject("segment"),
        ];
        let shown = |filter: TailFilter| -> Vec<usize> {
            (0..lines.len()).filter(|at| filter.wants(&lines[*at])).collect()
        };
        let filter = TailFilter::default;
        assert_eq!(shown(filter()), (0..lines.len()).collect::<Vec<_>>());
        assert_eq!(shown(TailFilter { visitor: Some("ann".into()), ..filter() }), [1, 2]);
        assert_eq!(shown(TailFilter { event: Some("Tea Brewed".into()), ..filter() }), [3]);
        assert_eq!(
            shown(TailFilter { event: Some("page_view".into()), ..filter() }),
            [0, 1, 2, 3, 4, 5, 6]
        );
        assert_eq!(shown(TailFilter { protocol: Some("ga4".into()), ..filter() }), [4, 7]);
        assert_eq!(shown(TailFilter { rejects: true, ..filter() }), [7, 8]);
        assert_eq!(shown(TailFilter { violations: true, ..filter() }), [6]);
    }
}
