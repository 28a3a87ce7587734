//! Where a shard's records come from: asked for ([`polling`]) or pushed to a registered
//! consumer ([`fan_out`]). What becomes of them is the worker's, one way for both.

pub(super) mod consumer;
pub(super) mod fan_out;
pub(super) mod polling;
mod renewal;

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::types::{Record, ShardIteratorType};
use clickmill_schemas::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{DeliverError, Fault};
use super::reader::{Reader, Stream, arrival};
use super::shards::Shard;
use consumer::Consumer;
use fan_out::FanOut;
use polling::Polling;

/// Where in a shard reading starts or goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Position {
    Oldest,
    After(String),
    /// At the first record that arrived then or later.
    At(Timestamp),
}

impl Position {
    /// After what was `read`. Without that a child starts where the whole delivery began
    /// (`from`), too: what it has is younger than its parents' records, or as old.
    pub fn after(read: Option<&str>, from: Option<Timestamp>) -> Self {
        match (read, from) {
            (Some(number), _) => Self::After(number.to_owned()),
            (None, Some(time)) => Self::At(time),
            (None, None) => Self::Oldest,
        }
    }

    /// As Kinesis' API has it.
    pub fn parts(&self) -> (ShardIteratorType, Option<String>, Option<DateTime>) {
        match self {
            Self::Oldest => (ShardIteratorType::TrimHorizon, None, None),
            Self::After(number) => {
                (ShardIteratorType::AfterSequenceNumber, Some(number.clone()), None)
            }
            Self::At(time) => {
                let time = DateTime::from_millis(time.micros() / 1_000);
                (ShardIteratorType::AtTimestamp, None, Some(time))
            }
        }
    }
}

/// How the shards of a stream are read.
#[derive(Clone, Debug)]
pub(super) enum Mode {
    Polling {
        /// Bounds the GetRecords in flight, and so the memory that their answers take.
        reads: Arc<Semaphore>,
        /// Records asked for at once.
        page_records: i32,
    },
    FanOut(Arc<Consumer>),
}

/// A shard's records from a position on.
pub(super) enum Feed {
    Polling(Polling),
    FanOut(FanOut),
}

/// What a look for records came to.
pub(super) enum Step {
    Page(Page),
    /// Nothing for now. What is held may have become due meanwhile.
    Nothing,
    Failed(Failed),
    Cancelled,
}

/// Records in the order of their shard.
pub(super) struct Page {
    pub records: Vec<Record>,
    /// Milliseconds from its end to the shard's newest record.
    pub behind: Option<i64>,
    /// The shard is closed, and that was all.
    pub is_last: bool,
    /// Room for the next page, once this one is gone.
    pub _room: Option<OwnedSemaphorePermit>,
}

/// A request that failed and may be repeated.
pub(super) struct Failed {
    /// The API's name of it.
    pub operation: &'static str,
    pub fault: Fault,
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl Feed {
    pub fn new(
        mode: &Mode,
        reader: &Reader,
        stream: &Stream,
        shard: &Shard,
        position: Position,
    ) -> Self {
        let (reader, shard) = (reader.clone(), shard.id.clone());
        match mode {
            Mode::Polling { reads, page_records } => {
                let reads = Arc::clone(reads);
                Self::Polling(Polling::new(reader, shard, position, reads, *page_records))
            }
            Mode::FanOut(consumer) => {
                let (consumer, stream) = (Arc::clone(consumer), stream.clone());
                Self::FanOut(FanOut::new(reader, stream, shard, position, consumer))
            }
        }
    }

    /// The next page, or why there is none. It waits, but not for longer than `poll`.
    ///
    /// # Errors
    /// What would fail again.
    pub async fn next(&mut self, poll: Duration) -> Result<Step, DeliverError> {
        match self {
            Self::Polling(polling) => polling.next().await,
            Self::FanOut(fan_out) => fan_out.next(poll).await,
        }
    }

    /// True where a page would be asked for at once.
    pub fn is_due(&self) -> bool {
        match self {
            Self::Polling(polling) => polling.is_due(),
            Self::FanOut(_) => true,
        }
    }

    /// The page was taken in; `poll` says when to ask again.
    pub fn rest(&mut self, poll: Duration) {
        if let Self::Polling(polling) = self {
            polling.rest(poll);
        }
    }
}

/// Whether everything up to now was read. Lag counts whole milliseconds: a page can end at 0
/// amid records of one millisecond. An empty page, or one that goes past it, shows that all
/// were read.
#[derive(Debug, Default)]
pub(super) struct Tip(Option<Timestamp>);

impl Tip {
    pub fn is_reached(&mut self, page: &Page) -> bool {
        let newest = page.records.last().map(|last| arrival(last.approximate_arrival_timestamp()));
        let at_tip = page.behind == Some(0);
        let past_tip = newest.is_none_or(|newest| self.0.is_some_and(|tip| newest > tip));
        self.0 = self.0.or(newest).filter(|_| at_tip);
        at_tip && past_tip
    }
}
