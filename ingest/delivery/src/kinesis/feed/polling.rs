//! A shard by GetRecords, within the quota that all readers share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::{Failed, Page, Position, Step};
use crate::kinesis::config::MIN_POLL;
use crate::kinesis::error::{DeliverError, Fault};
use crate::kinesis::reader::{Outcome, Reader};

const OPERATION: &str = "GetRecords";

/// See the module's head.
pub(in crate::kinesis) struct Polling {
    reader: Reader,
    shard: String,
    /// Where to go on should the iterator expire.
    position: Position,
    iterator: Option<String>,
    reads: Arc<Semaphore>,
    page_records: i32,
    /// When the last request was made.
    asked: Instant,
    /// No request before this.
    due: Instant,
}

impl Polling {
    pub fn new(
        reader: Reader,
        shard: String,
        position: Position,
        reads: Arc<Semaphore>,
        page_records: i32,
    ) -> Self {
        let now = Instant::now();
        let iterator = None;
        Self { reader, shard, position, iterator, reads, page_records, asked: now, due: now }
    }

    /// The quota counts calls, whatever they bring.
    pub fn rest(&mut self, poll: Duration) {
        self.due = self.asked + poll;
    }

    /// See [`super::Feed::is_due`].
    pub fn is_due(&self) -> bool {
        self.due <= Instant::now()
    }

    /// See [`super::Feed::next`].
    pub async fn next(&mut self) -> Result<Step, DeliverError> {
        let wait = self.due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            let waited = self.reader.pause(wait).await;
            return Ok(if waited { Step::Nothing } else { Step::Cancelled });
        }
        if self.iterator.is_none() {
            self.iterator = self.reader.iterator(&self.shard, &self.position).await?;
        }
        let Some(iterator) = &self.iterator else { return Ok(Step::Cancelled) };
        self.asked = Instant::now();
        let asking = async {
            // Never closed, so this waits and nothing else.
            let room = Arc::clone(&self.reads).acquire_owned().await.ok();
            (self.reader.records(iterator, self.page_records).await, room)
        };
        let (answer, room) = tokio::select! {
            () = self.reader.cancel.cancelled() => return Ok(Step::Cancelled),
            answer = asking => answer,
        };
        match answer {
            Outcome::Done(page) => {
                self.iterator = page.next_shard_iterator;
                if let Some(last) = page.records.last() {
                    self.position = Position::After(last.sequence_number.clone());
                }
                Ok(Step::Page(Page {
                    records: page.records,
                    behind: page.millis_behind_latest,
                    is_last: self.iterator.is_none(),
                    _room: room,
                }))
            }
            Outcome::Failed(Fault::Expired, _) => {
                self.iterator = None;
                self.rest(MIN_POLL);
                Ok(Step::Nothing)
            }
            Outcome::Failed(Fault::Gone, source) => match self.reader.gone(&self.shard).await {
                Some(error) => Err(error),
                None => {
                    Ok(Step::Failed(Failed { operation: OPERATION, fault: Fault::Passing, source }))
                }
            },
            Outcome::Failed(Fault::Refused, source) => {
                let (operation, subject) = (OPERATION, self.shard.clone());
                Err(DeliverError::Refused { operation, subject, source })
            }
            Outcome::Failed(fault, source) => {
                Ok(Step::Failed(Failed { operation: OPERATION, fault, source }))
            }
        }
    }
}
