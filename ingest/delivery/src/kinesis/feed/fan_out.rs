//! A shard by SubscribeToShard: Kinesis pushes its records to a registered consumer, with
//! 2 MB/s for each shard and consumer.
//!
//! Nothing is read ahead: an event is taken off the connection when the worker asks for it.
//! While it does not, HTTP/2's flow control holds back what Kinesis sends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::operation::subscribe_to_shard::SubscribeToShardOutput;
use aws_sdk_kinesis::types::error::SubscribeToShardEventStreamError as StreamError;
use aws_sdk_kinesis::types::{
    StartingPosition, SubscribeToShardEvent, SubscribeToShardEventStream,
};
use futures::stream::{self, BoxStream, StreamExt as _};

use super::consumer::{Consumer, is_in_use};
use super::renewal::{Judged, MAX_SILENCE, Next, Renewal};
use super::{Failed, Page, Position, Step};
use crate::kinesis::error::{DeliverError, Fault};
use crate::kinesis::reader::{Reader, Stream};

const OPERATION: &str = "SubscribeToShard";

/// See the module's head.
pub(in crate::kinesis) struct FanOut {
    reader: Reader,
    stream: Stream,
    shard: String,
    consumer: Arc<Consumer>,
    /// Shared with some other shards, see [`Consumer::connection`].
    client: Arc<Client>,
    renewal: Renewal,
    /// Of the open subscription.
    events: BoxStream<'static, Result<SubscribeToShardEvent, Lost>>,
    /// The consumer that it is of.
    arn: String,
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A subscription broke off.
struct Lost {
    fault: Fault,
    is_taken: bool,
    cause: Cause,
}

/// Why a subscription brings no more.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(
        "another subscription of the consumer {consumer} has this shard: of a worker that is \
         losing it, of one that was killed a moment ago, or of another delivery; give each lake \
         a consumer of its own"
    )]
    Taken { consumer: String, source: Cause },
    #[error("no event came for {MAX_SILENCE:?}")]
    Silent,
    #[error("an event came without a ContinuationSequenceNumber")]
    NoContinuation,
}

impl FanOut {
    pub fn new(
        reader: Reader,
        stream: Stream,
        shard: String,
        position: Position,
        consumer: Arc<Consumer>,
    ) -> Self {
        let (client, renewal) = (consumer.connection(), Renewal::new(position));
        let (events, arn) = (stream::empty().boxed(), String::new());
        Self { reader, stream, shard, consumer, client, renewal, events, arn }
    }

    /// See [`super::Feed::next`].
    pub async fn next(&mut self, poll: Duration) -> Result<Step, DeliverError> {
        match self.renewal.next(Instant::now()) {
            Next::Wait(wait) => {
                let waited = self.reader.pause(wait.min(poll)).await;
                Ok(if waited { Step::Nothing } else { Step::Cancelled })
            }
            Next::Subscribe => self.subscribe().await,
            Next::Receive => self.receive(poll).await,
        }
    }

    async fn subscribe(&mut self) -> Result<Step, DeliverError> {
        let Some(arn) = self.consumer.arn().await? else { return Ok(Step::Cancelled) };
        self.arn = arn;
        let request = self.client.subscribe_to_shard();
        let request = request.consumer_arn(&self.arn).shard_id(&self.shard);
        let (kind, number, time) = self.renewal.position().parts();
        let position = StartingPosition::builder().r#type(kind);
        let position = position.set_sequence_number(number).set_timestamp(time).build();
        // It has a type, and that is all that it needs.
        let request = request.set_starting_position(position.ok());
        let answer = tokio::select! {
            () = self.reader.cancel.cancelled() => return Ok(Step::Cancelled),
            answer = request.send() => answer,
        };
        match answer {
            Ok(subscription) => {
                self.renewal.opened(Instant::now());
                self.events = events(subscription);
                self.reader.monitor.subscribed();
                Ok(Step::Nothing)
            }
            Err(error) => {
                let (fault, is_taken) = (Fault::of(&error), is_in_use(&error));
                self.lost(Lost { fault, is_taken, cause: Box::new(error) }).await
            }
        }
    }

    async fn receive(&mut self, poll: Duration) -> Result<Step, DeliverError> {
        let next = tokio::select! {
            () = self.reader.cancel.cancelled() => return Ok(Step::Cancelled),
            next = tokio::time::timeout(poll, self.events.next()) => next,
        };
        let event = match next {
            Ok(Some(Ok(event))) => event,
            Ok(Some(Err(lost))) => return self.lost(lost).await,
            Ok(None) => {
                tracing::debug!(shard = self.shard, "the subscription is over; renewing it");
                self.renewal.ended();
                return Ok(Step::Nothing);
            }
            Err(_) if self.renewal.nothing(poll) => {
                return Ok(failed(Fault::Passing, Broken::Silent));
            }
            Err(_) => return Ok(Step::Nothing),
        };
        let is_last = match self
            .renewal
            .event(&event.continuation_sequence_number, event.child_shards().len())
        {
            Judged::Good => false,
            Judged::Last => true,
            Judged::Broken => return Ok(failed(Fault::Passing, Broken::NoContinuation)),
        };
        Ok(Step::Page(Page {
            records: event.records,
            behind: Some(event.millis_behind_latest),
            is_last,
            _room: None,
        }))
    }

    async fn lost(&mut self, lost: Lost) -> Result<Step, DeliverError> {
        let Lost { fault, is_taken, cause } = lost;
        self.renewal.ended();
        if is_taken {
            self.renewal.taken(Instant::now());
            let consumer = self.consumer.name().to_owned();
            return Ok(failed(fault, Broken::Taken { consumer, source: cause }));
        }
        match fault {
            Fault::Gone => self.gone(cause).await,
            Fault::Refused => Err(self.refused(cause)),
            fault => Ok(Step::Failed(Failed { operation: OPERATION, fault, source: cause })),
        }
    }

    /// The stream, its consumer or the shard is not there any more.
    async fn gone(&mut self, source: Cause) -> Result<Step, DeliverError> {
        let Some(now) = self.reader.describe().await? else { return Ok(Step::Cancelled) };
        if now.created != self.stream.created {
            return Err(DeliverError::NoStream { stream: self.stream.name.clone() });
        }
        match self.consumer.renewed(&self.arn).await? {
            None => Ok(Step::Cancelled),
            Some(true) => Ok(Step::Nothing),
            // The consumer is there, so it is the shard that is not: if it is not listed.
            Some(false) => match self.reader.shards().await? {
                None => Ok(Step::Cancelled),
                Some(shards) if shards.iter().any(|shard| shard.id == self.shard) => {
                    Err(self.refused(source))
                }
                Some(_) => {
                    let (stream, shard) = (self.stream.name.clone(), self.shard.clone());
                    Err(DeliverError::NoShard { stream, shard })
                }
            },
        }
    }

    fn refused(&self, source: Cause) -> DeliverError {
        DeliverError::Refused { operation: OPERATION, subject: self.shard.clone(), source }
    }
}

fn failed(fault: Fault, source: Broken) -> Step {
    Step::Failed(Failed { operation: OPERATION, fault, source: Box::new(source) })
}

/// The events of a subscription. A look for the next one may be given up without losing it.
fn events(
    subscription: SubscribeToShardOutput,
) -> BoxStream<'static, Result<SubscribeToShardEvent, Lost>> {
    let next = |mut subscription: SubscribeToShardOutput| async move {
        loop {
            let event = subscription.event_stream.recv().await.map_err(|error| {
                let (fault, is_taken) = match error.as_service_error() {
                    Some(error) => (fault(error), error.is_resource_in_use_exception()),
                    // It broke off.
                    None => (Fault::Passing, false),
                };
                Lost { fault, is_taken, cause: Box::new(error) }
            })?;
            match event {
                Some(SubscribeToShardEventStream::SubscribeToShardEvent(event)) => {
                    return Ok(Some((event, subscription)));
                }
                // A kind of event that is yet to come.
                Some(_) => {}
                None => return Ok(None),
            }
        }
    };
    stream::try_unfold(subscription, next).boxed()
}

/// By the kinds of errors that end a subscription; their messages carry no codes.
fn fault(error: &StreamError) -> Fault {
    match error {
        StreamError::ResourceNotFoundException(_) => Fault::Gone,
        StreamError::KmsAccessDeniedException(_)
        | StreamError::KmsDisabledException(_)
        | StreamError::KmsInvalidStateException(_)
        | StreamError::KmsNotFoundException(_)
        | StreamError::KmsOptInRequired(_) => Fault::NeedsAction,
        // ResourceInUse, KMSThrottling, InternalFailure, and what is yet to come.
        _ => Fault::Passing,
    }
}
