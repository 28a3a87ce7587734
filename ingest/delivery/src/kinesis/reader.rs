//! The requests to Kinesis. The SDK's own retries are off ([`super::client`]);
//! the loops here and in the worker own them.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::operation::get_records::GetRecordsOutput;
use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::types::{ShardFilter, ShardFilterType};
use clickmill_schemas::Timestamp;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::config::{DeliverConfig, MAX_PAGE_RECORDS, MIN_POLL, RetryPolicy};
use super::error::{DeliverError, Fault};
use super::feed::Position;
use super::monitor::Monitor;
use super::shards::Shard;

/// Pages read from the oldest end to find the first record that is left: pages can be empty.
const OLDEST_PAGES: u32 = 10;

/// For so long it counts what was open at the trim horizon.
const HORIZON_AGE: Duration = Duration::from_secs(60);

/// A stream, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stream {
    pub name: String,
    pub arn: String,
    /// Creation in whole seconds since the epoch: tells a stream from its namesakes.
    pub created: i64,
    pub retention: Duration,
}

impl Stream {
    /// When it was created.
    pub fn created_at(&self) -> Timestamp {
        let micros = self.created.saturating_mul(1_000_000);
        Timestamp::from_micros(micros).unwrap_or_else(|_| Timestamp::now())
    }
}

/// What became of a request.
pub(super) enum Outcome<T> {
    Done(T),
    Failed(Fault, Box<dyn std::error::Error + Send + Sync>),
}

/// The oldest record that a shard still has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Oldest {
    pub number: String,
    pub arrived: Timestamp,
}

/// Shards that were open at the oldest time that the stream holds, and when that was asked.
type Horizon = Arc<Mutex<Option<(Instant, Arc<HashSet<String>>)>>>;

/// Asks Kinesis, with retries.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    pub client: Client,
    pub stream: String,
    pub retry: RetryPolicy,
    pub cancel: CancellationToken,
    pub monitor: Arc<Monitor>,
    pub horizon: Horizon,
    /// The stream's retention as it was described last, in seconds.
    pub retention: Arc<AtomicU64>,
}

impl Reader {
    /// Of the stream that the configuration names.
    pub fn new(
        config: &DeliverConfig,
        client: &Client,
        cancel: &CancellationToken,
        monitor: &Arc<Monitor>,
    ) -> Self {
        Self {
            client: client.clone(),
            stream: config.stream.clone(),
            retry: config.retry,
            cancel: cancel.clone(),
            monitor: Arc::clone(monitor),
            horizon: Horizon::default(),
            retention: Arc::default(),
        }
    }

    /// Describes the stream. `None` when cancelled.
    pub async fn describe(&self) -> Result<Option<Stream>, DeliverError> {
        const OPERATION: &str = "DescribeStreamSummary";
        let call = || self.client.describe_stream_summary().stream_name(&self.stream).send();
        let Some(answer) = self.patiently(OPERATION, &self.stream, call).await? else {
            return Ok(None);
        };
        let missing = |missing| DeliverError::Incomplete { operation: OPERATION, missing };
        let summary = answer.stream_description_summary().ok_or_else(|| missing("a summary"))?;
        let hours = u64::try_from(summary.retention_period_hours()).unwrap_or_default();
        self.retention.store(hours * 3_600, Ordering::Relaxed);
        Ok(Some(Stream {
            name: self.stream.clone(),
            arn: summary.stream_arn().to_owned(),
            created: summary.stream_creation_timestamp().secs(),
            retention: Duration::from_secs(hours * 3_600),
        }))
    }

    /// For how long the stream keeps records, as it was described last.
    pub fn retention(&self) -> Duration {
        Duration::from_secs(self.retention.load(Ordering::Relaxed))
    }

    /// Lists every shard that has not expired. `None` when cancelled.
    pub async fn shards(&self) -> Result<Option<Vec<Shard>>, DeliverError> {
        self.list(None).await
    }

    /// Ids of the shards that were open at the oldest time that the stream still holds, as of a
    /// minute ago at most: of others nothing was trimmed. `None` when cancelled.
    pub async fn open_at_horizon(&self) -> Result<Option<Arc<HashSet<String>>>, DeliverError> {
        let mut known = self.horizon.lock().await;
        if let Some((asked, open)) = &*known
            && asked.elapsed() < HORIZON_AGE
        {
            return Ok(Some(Arc::clone(open)));
        }
        let asked = Instant::now();
        let filter = ShardFilter::builder().r#type(ShardFilterType::AtTrimHorizon).build();
        let filter = filter.map_err(|_| DeliverError::Incomplete {
            operation: "ListShards",
            missing: "a filter",
        })?;
        let Some(shards) = self.list(Some(filter)).await? else { return Ok(None) };
        let open = Arc::new(shards.into_iter().map(|shard| shard.id).collect());
        *known = Some((asked, Arc::clone(&open)));
        Ok(Some(open))
    }

    async fn list(&self, filter: Option<ShardFilter>) -> Result<Option<Vec<Shard>>, DeliverError> {
        'listing: loop {
            let (mut shards, mut token) = (Vec::new(), None::<String>);
            loop {
                let call = || {
                    let request = self.client.list_shards();
                    match &token {
                        Some(token) => request.next_token(token),
                        None => request.stream_name(&self.stream).set_shard_filter(filter.clone()),
                    }
                    .send()
                };
                let page = match self.once_more("ListShards", &self.stream, call).await? {
                    None => return Ok(None),
                    Some(Outcome::Done(page)) => page,
                    // The listing took too long.
                    Some(Outcome::Failed(..)) => continue 'listing,
                };
                shards.extend(page.shards().iter().map(|shard| {
                    Shard {
                        id: shard.shard_id().to_owned(),
                        parents: [shard.parent_shard_id(), shard.adjacent_parent_shard_id()]
                            .into_iter()
                            .flatten()
                            .map(str::to_owned)
                            .collect(),
                        closed: shard
                            .sequence_number_range()
                            .is_some_and(|range| range.ending_sequence_number().is_some()),
                        starts: shard.sequence_number_range().map_or_else(
                            || "0".to_owned(),
                            |range| range.starting_sequence_number().to_owned(),
                        ),
                        hashes: shard.hash_key_range().map(|range| {
                            let (start, end) = (range.starting_hash_key(), range.ending_hash_key());
                            (start.to_owned(), end.to_owned())
                        }),
                    }
                }));
                match page.next_token() {
                    Some(next) => token = Some(next.to_owned()),
                    None => return Ok(Some(shards)),
                }
            }
        }
    }

    /// An iterator of a shard; it is good for five minutes. `None` when cancelled.
    pub async fn iterator(
        &self,
        shard: &str,
        position: &Position,
    ) -> Result<Option<String>, DeliverError> {
        const OPERATION: &str = "GetShardIterator";
        let (kind, number, time) = position.parts();
        let call = || {
            self.client
                .get_shard_iterator()
                .stream_name(&self.stream)
                .shard_id(shard)
                .shard_iterator_type(kind.clone())
                .set_starting_sequence_number(number.clone())
                .set_timestamp(time)
                .send()
        };
        let Some(answer) = self.patiently(OPERATION, shard, call).await? else { return Ok(None) };
        match answer.shard_iterator() {
            Some(iterator) => Ok(Some(iterator.to_owned())),
            None => Err(DeliverError::Incomplete { operation: OPERATION, missing: "an iterator" }),
        }
    }

    /// One page. The caller decides about failures: it may hold records that are due.
    pub async fn records(&self, iterator: &str, limit: i32) -> Outcome<GetRecordsOutput> {
        let limit = limit.clamp(1, MAX_PAGE_RECORDS);
        let request = self.client.get_records().shard_iterator(iterator).limit(limit);
        match request.send().await {
            Ok(page) => Outcome::Done(page),
            Err(error) => Outcome::Failed(Fault::of(&error), Box::new(error)),
        }
    }

    /// The oldest record that the shard still has. The outer `None` when cancelled, the inner
    /// where it has none or shows none.
    pub async fn oldest(&self, shard: &str) -> Result<Option<Option<Oldest>>, DeliverError> {
        let Some(mut iterator) = self.iterator(shard, &Position::Oldest).await? else {
            return Ok(None);
        };
        for _ in 0..OLDEST_PAGES {
            let call = || self.client.get_records().shard_iterator(&iterator).limit(1).send();
            let page = match self.once_more("GetRecords", shard, call).await? {
                None => return Ok(None),
                Some(Outcome::Done(page)) => page,
                // The look took too long: it starts again.
                Some(Outcome::Failed(..)) => {
                    match self.iterator(shard, &Position::Oldest).await? {
                        Some(again) => iterator = again,
                        None => return Ok(None),
                    }
                    continue;
                }
            };
            if let Some(record) = page.records().first() {
                let number = record.sequence_number().to_owned();
                let arrived = arrival(record.approximate_arrival_timestamp());
                return Ok(Some(Some(Oldest { number, arrived })));
            }
            match page.next_shard_iterator() {
                Some(next) if page.millis_behind_latest() != Some(0) => {
                    next.clone_into(&mut iterator)
                }
                _ => break,
            }
            if !self.pause(MIN_POLL).await {
                return Ok(None);
            }
        }
        Ok(Some(None))
    }

    /// Waits after the `attempt`th failure in a row. `Ok(false)` when cancelled.
    pub async fn back_off(
        &self,
        failure: Failure<'_>,
        attempt: u32,
        began: Instant,
    ) -> Result<bool, DeliverError> {
        let Failure { operation, subject, fault, source } = failure;
        self.monitor.retried(operation);
        if self.retry.is_exhausted(attempt) {
            let (subject, elapsed) = (subject.to_owned(), began.elapsed());
            return Err(DeliverError::GaveUp {
                operation,
                subject,
                attempts: attempt,
                elapsed,
                source,
            });
        }
        let wait = self.retry.wait(attempt, uuid::Uuid::new_v4().as_u64_pair().0);
        let error = chain(&*source);
        if fault == Fault::NeedsAction {
            tracing::error!(operation, subject, attempt, error, "Kinesis denies access; retrying");
        } else {
            tracing::warn!(operation, subject, attempt, error, "a request failed; retrying");
        }
        Ok(self.pause(wait).await)
    }

    /// Sleeps. False when cancelled meanwhile.
    pub async fn pause(&self, wait: Duration) -> bool {
        tokio::select! {
            () = self.cancel.cancelled() => false,
            () = tokio::time::sleep(wait) => true,
        }
    }

    /// Retries what passes; an expired token or iterator cannot occur.
    async fn patiently<T, E, F>(
        &self,
        operation: &'static str,
        subject: &str,
        call: impl Fn() -> F,
    ) -> Result<Option<T>, DeliverError>
    where
        F: Future<Output = Result<T, SdkError<E>>>,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match self.once_more(operation, subject, call).await? {
            None => Ok(None),
            Some(Outcome::Done(answer)) => Ok(Some(answer)),
            Some(Outcome::Failed(_, source)) => {
                Err(DeliverError::Refused { operation, subject: subject.to_owned(), source })
            }
        }
    }

    /// Retries what passes, and hands back an answer or an expiry. `None` when cancelled.
    async fn once_more<T, E, F>(
        &self,
        operation: &'static str,
        subject: &str,
        call: impl Fn() -> F,
    ) -> Result<Option<Outcome<T>>, DeliverError>
    where
        F: Future<Output = Result<T, SdkError<E>>>,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let began = Instant::now();
        let mut attempt = 0;
        loop {
            let answer = tokio::select! {
                () = self.cancel.cancelled() => return Ok(None),
                answer = call() => answer,
            };
            let error = match answer {
                Ok(answer) => return Ok(Some(Outcome::Done(answer))),
                Err(error) => error,
            };
            let fault = Fault::of(&error);
            let source = Box::new(error);
            match fault {
                Fault::Expired => return Ok(Some(Outcome::Failed(fault, source))),
                Fault::Gone => {
                    if let Some(error) = self.gone(subject).await {
                        return Err(error);
                    }
                }
                Fault::Refused => {
                    let subject = subject.to_owned();
                    return Err(DeliverError::Refused { operation, subject, source });
                }
                Fault::Passing | Fault::NeedsAction => {}
            }
            attempt += 1;
            let failure = Failure { operation, subject, fault, source };
            if !self.back_off(failure, attempt, began).await? {
                return Ok(None);
            }
        }
    }
}

impl Reader {
    /// What it means that Kinesis does not know a stream or shard: both have one error. `None`
    /// where it does know it, and is to be asked again.
    pub async fn gone(&self, subject: &str) -> Option<DeliverError> {
        let stream = self.stream.clone();
        if subject == stream {
            return Some(DeliverError::NoStream { stream });
        }
        let mut token = None::<String>;
        loop {
            let request = self.client.list_shards();
            let request = match &token {
                Some(token) => request.next_token(token),
                None => request.stream_name(&stream),
            };
            match request.send().await {
                Ok(page) if page.shards().iter().any(|shard| shard.shard_id() == subject) => {
                    return None;
                }
                Ok(page) => match page.next_token() {
                    Some(next) => token = Some(next.to_owned()),
                    None => {
                        return Some(DeliverError::NoShard { stream, shard: subject.to_owned() });
                    }
                },
                Err(error) if Fault::of(&error) == Fault::Gone => {
                    return Some(DeliverError::NoStream { stream });
                }
                Err(_) => return None,
            }
        }
    }
}

/// A failure to wait after.
pub(super) struct Failure<'a> {
    pub operation: &'static str,
    pub subject: &'a str,
    pub fault: Fault,
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// An error with its causes, for a log line; those that repeat what was said are left out.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

/// Kinesis' time of arrival; `now` where it gave none.
pub(super) fn arrival(time: Option<&DateTime>) -> Timestamp {
    let micros = time.and_then(|time| {
        let micros = time.secs().checked_mul(1_000_000)?;
        micros.checked_add(i64::from(time.subsec_nanos() / 1_000))
    });
    micros.and_then(|micros| Timestamp::from_micros(micros).ok()).unwrap_or_else(Timestamp::now)
}
