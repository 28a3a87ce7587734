//! The registered consumer that a delivery reads by, and the connections of its subscriptions.
//!
//! All workers of a delivery share it. It is registered where it does not exist and never
//! deregistered: who else uses it cannot be known here, and the next start needs it again.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use aws_config::SdkConfig;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::types::ConsumerStatus;
use tokio::sync::Mutex;

use super::super::error::{DeliverError, Fault};
use super::super::reader::{Failure, Reader, Stream};

/// A new consumer is ACTIVE within seconds; one that is not after this is an error.
const MAX_CREATION: Duration = Duration::from_secs(120);
/// Between two looks at a consumer that is not ACTIVE.
const LOOK: Duration = Duration::from_secs(1);
/// RegisterStreamConsumer is refused with LimitExceededException above a rate, too, and while five
/// are CREATING: it is tried so often. Source: RegisterStreamConsumer, Kinesis API Reference.
const REGISTER_ATTEMPTS: u32 = 4;
/// Subscriptions on one HTTP/2 connection, where memory allows for more connections: servers bound
/// them, and a shard that is not read takes room from its neighbours.
const SUBSCRIPTIONS: usize = 16;
/// What one HTTP/2 connection may hold unread: hyper's window of a connection.
const CONNECTION_BYTES: u64 = 5 << 20;

/// See the module's head.
#[derive(Debug)]
pub(in crate::kinesis) struct Consumer {
    name: String,
    stream: Stream,
    reader: Reader,
    arn: Mutex<Option<String>>,
    connections: Connections,
}

impl Consumer {
    /// The consumer of that name; `memory` as for the whole delivery.
    pub fn new(name: &str, aws: &SdkConfig, memory: u64, reader: &Reader, stream: &Stream) -> Self {
        Self {
            name: name.to_owned(),
            stream: stream.clone(),
            reader: reader.clone(),
            arn: Mutex::default(),
            connections: Connections::new(aws.clone(), memory),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A client for the subscriptions of one shard, as long as it is held.
    pub fn connection(&self) -> Arc<Client> {
        self.connections.take()
    }

    /// Its ARN, once it is ACTIVE; registers it where it does not exist. `None` when cancelled.
    pub async fn arn(&self) -> Result<Option<String>, DeliverError> {
        let mut arn = self.arn.lock().await;
        if arn.is_none() {
            *arn = self.find().await?;
        }
        Ok(arn.clone())
    }

    /// Looks again, after `old` was not found. False where it is there all the same. `None` when
    /// cancelled.
    pub async fn renewed(&self, old: &str) -> Result<Option<bool>, DeliverError> {
        let mut arn = self.arn.lock().await;
        if arn.as_deref() == Some(old) {
            *arn = self.find().await?;
        }
        Ok(arn.as_deref().map(|now| now != old))
    }

    async fn find(&self) -> Result<Option<String>, DeliverError> {
        const OPERATION: &str = "DescribeStreamConsumer";
        let began = Instant::now();
        let mut attempt = 0;
        loop {
            let request = self.reader.client.describe_stream_consumer();
            let request = request.stream_arn(&self.stream.arn).consumer_name(&self.name);
            let status = match request.send().await {
                Ok(answer) => {
                    attempt = 0;
                    let missing = "a ConsumerDescription";
                    let missing = DeliverError::Incomplete { operation: OPERATION, missing };
                    let found = answer.consumer_description.ok_or(missing)?;
                    match found.consumer_status {
                        ConsumerStatus::Active => return Ok(Some(found.consumer_arn)),
                        status => status,
                    }
                }
                Err(error) => match Fault::of(&error) {
                    Fault::Gone => {
                        if !self.register().await? {
                            return Ok(None);
                        }
                        ConsumerStatus::Creating
                    }
                    Fault::Passing => {
                        attempt += 1;
                        if !self.back_off(OPERATION, attempt, began, error).await? {
                            return Ok(None);
                        }
                        continue;
                    }
                    _ => return Err(self.refused(OPERATION, RIGHTS, error)),
                },
            };
            if began.elapsed() >= MAX_CREATION {
                return Err(DeliverError::ConsumerNotActive {
                    consumer: self.name.clone(),
                    stream: self.stream.name.clone(),
                    status: status.as_str().to_owned(),
                    waited: MAX_CREATION,
                });
            }
            if !self.reader.pause(LOOK).await {
                return Ok(None);
            }
        }
    }

    /// True once it is registered, by whomever; false when cancelled.
    async fn register(&self) -> Result<bool, DeliverError> {
        const OPERATION: &str = "RegisterStreamConsumer";
        let began = Instant::now();
        let mut attempt = 0;
        loop {
            let request = self.reader.client.register_stream_consumer();
            let request = request.stream_arn(&self.stream.arn).consumer_name(&self.name);
            let error = match request.send().await {
                Ok(answer) => {
                    let arn = answer.consumer.map(|consumer| consumer.consumer_arn);
                    let arn = arn.unwrap_or_default();
                    tracing::info!(
                        consumer = self.name,
                        "registered a consumer for enhanced fan-out; AWS charges for it by the hour \
                         and shard until it is removed, once nothing reads by it: \
                         aws kinesis deregister-stream-consumer --consumer-arn {arn}"
                    );
                    return Ok(true);
                }
                // Another worker was first.
                Err(error) if is_in_use(&error) => return Ok(true),
                Err(error) => error,
            };
            attempt += 1;
            let is_limit = code(&error) == Some("LimitExceededException");
            match Fault::of(&error) {
                Fault::Gone => {
                    return Err(DeliverError::NoStream { stream: self.stream.name.clone() });
                }
                Fault::Passing if !is_limit || attempt < REGISTER_ATTEMPTS => {
                    if !self.back_off(OPERATION, attempt, began, error).await? {
                        return Ok(false);
                    }
                }
                Fault::Passing => return Err(self.refused(OPERATION, LIMIT, error)),
                _ => return Err(self.refused(OPERATION, RIGHTS, error)),
            }
        }
    }

    async fn back_off(
        &self,
        operation: &'static str,
        attempt: u32,
        began: Instant,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> Result<bool, DeliverError> {
        let (fault, source) = (Fault::Passing, Box::new(error));
        let failure = Failure { operation, subject: &self.name, fault, source };
        self.reader.back_off(failure, attempt, began).await
    }

    fn refused(
        &self,
        operation: &'static str,
        help: &'static str,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> DeliverError {
        DeliverError::ConsumerRefused {
            operation,
            consumer: self.name.clone(),
            stream: self.stream.name.clone(),
            help,
            source: Box::new(error),
        }
    }
}

const RIGHTS: &str = "grant kinesis:DescribeStreamConsumer and kinesis:RegisterStreamConsumer on the \
    stream and kinesis:SubscribeToShard on its consumers, or read by --retrieval-mode polling";
const LIMIT: &str = "a stream has 20 registered consumers at most: look through `aws kinesis \
    list-stream-consumers`, deregister what nothing reads by, or read by --retrieval-mode polling";

/// ResourceInUseException: it exists, or another subscription has the shard.
pub(super) fn is_in_use<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    code(error) == Some("ResourceInUseException")
}

fn code<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Option<&str> {
    error.as_service_error().and_then(ProvideErrorMetadata::code)
}

/// Clients of their own for subscriptions: each has one HTTP/2 connection, whose window bounds
/// what its shards hold unread, and none keeps other requests waiting.
#[derive(Debug)]
struct Connections {
    aws: SdkConfig,
    most: usize,
    open: std::sync::Mutex<Vec<Arc<Client>>>,
}

impl Connections {
    /// They get the part of the memory that answers of GetRecords would: half of it.
    fn new(aws: SdkConfig, memory: u64) -> Self {
        let most = usize::try_from(memory / 2 / CONNECTION_BYTES).unwrap_or(usize::MAX).max(1);
        Self { aws, most, open: std::sync::Mutex::default() }
    }

    /// That with the fewest users.
    fn take(&self) -> Arc<Client> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // `open` holds each of them once.
        let users = |client: &&Arc<Client>| Arc::strong_count(client) - 1;
        let least = open.iter().min_by_key(users).cloned();
        match least {
            // One more since it was cloned.
            Some(client) if open.len() >= self.most || users(&&client) - 1 < SUBSCRIPTIONS => {
                client
            }
            _ => {
                let client = Arc::new(super::super::subscriber(&self.aws));
                open.push(Arc::clone(&client));
                client
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_share_connections_as_many_as_the_memory_allows() {
        let aws = SdkConfig::builder()
            .region(aws_config::Region::from_static("us-east-1"))
            .behavior_version(aws_config::BehaviorVersion::latest())
            .build();
        let connections = Connections::new(aws, 20 << 20);
        let count = || connections.open.lock().expect("unpoisoned").len();
        let mut taken: Vec<_> = (0..SUBSCRIPTIONS).map(|_| connections.take()).collect();
        assert_eq!(count(), 1);
        taken.push(connections.take());
        assert_eq!(count(), 2, "the first is full");
        taken.extend((0..SUBSCRIPTIONS * 4).map(|_| connections.take()));
        assert_eq!(count(), 2, "ten megabytes are two windows");
        let first = taken.remove(0);
        let first_users = Arc::strong_count(&first);
        assert!((40..=42).contains(&(first_users - 1)), "shared out evenly: {first_users}");
        // Who leaves makes room.
        taken.clear();
        drop(first);
        taken.extend((0..SUBSCRIPTIONS * 2).map(|_| connections.take()));
        assert_eq!(count(), 2);
    }
}
