//! Leases in a DynamoDB table of the layout that the Kinesis Client Library
//! (KCL) uses, so that its tools and dashboards read it.
//!
//! | attribute | |
//! |---|---|
//! | `leaseKey` | hash key: the shard's id |
//! | `leaseOwner` | the worker; absent where the lease is free |
//! | `leaseCounter` | one more with each renewal and each change; changes are conditional on it |
//! | `checkpoint` | what has landed: a sequence number, `TRIM_HORIZON` before anything has, `SHARD_END` |
//! | `checkpointSubSequenceNumber` | 0 |
//! | `ownerSwitchesSinceCheckpoint` | how often it changed hands since its checkpoint last moved |
//! | `parentShardId`, `childShardIds` | string sets, where there are any |
//! | `startingHashKey`, `endingHashKey` | the shard's range |
//!
//! One table belongs to one stream and one lake. `checkpoint` is written for
//! others to see and never read for a position: the commit chain has that.
//!
//! A renewal of a lease is its owner's sign of life, so a worker without leases
//! is not seen; it takes its share all the same. The table is created, billed by
//! request, where it does not exist.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    ScalarAttributeType, TableStatus,
};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::{Change, Held, Lease, LeaseError, LeaseTable, Pulse, View};
use crate::kinesis::shards::Shard;

const KEY: &str = "leaseKey";
const OWNER: &str = "leaseOwner";
const COUNTER: &str = "leaseCounter";
const CHECKPOINT: &str = "checkpoint";
/// Nothing has been read.
const TRIM_HORIZON: &str = "TRIM_HORIZON";
/// The shard is done for good.
const SHARD_END: &str = "SHARD_END";
/// A condition did not hold: another worker was first.
const CONFLICT: &str = "ConditionalCheckFailedException";
/// Renewals at once.
const CONCURRENCY: usize = 16;
/// How often, and how many times, a new table is asked whether it is ready.
const CREATE_POLL: Duration = Duration::from_millis(500);
const CREATE_POLLS: u32 = 120;

/// The table. See the module's head.
pub(in super::super) struct DynamoDbTable {
    client: Client,
    table: String,
    me: String,
    /// What new leases say of their shards.
    shards: Mutex<HashMap<String, Shard>>,
}

impl fmt::Debug for DynamoDbTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbTable").field("table", &self.table).field("me", &self.me).finish()
    }
}

impl DynamoDbTable {
    /// The table of that name, for the worker `me`.
    pub fn new(client: &Client, table: &str, me: &str) -> Self {
        Self {
            client: client.clone(),
            table: table.to_owned(),
            me: me.to_owned(),
            shards: Mutex::default(),
        }
    }

    fn failed<E>(&self, operation: &'static str, error: E) -> LeaseError
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        LeaseError::request(operation, format!("the DynamoDB table {}", self.table), error)
    }

    async fn create(&self) -> Result<(), LeaseError> {
        let built = |error| self.failed("describe", error);
        let attribute = AttributeDefinition::builder()
            .attribute_name(KEY)
            .attribute_type(ScalarAttributeType::S)
            .build()
            .map_err(built)?;
        let key = KeySchemaElement::builder()
            .attribute_name(KEY)
            .key_type(KeyType::Hash)
            .build()
            .map_err(built)?;
        let created = self
            .client
            .create_table()
            .table_name(&self.table)
            .attribute_definitions(attribute)
            .key_schema(key)
            .billing_mode(BillingMode::PayPerRequest)
            .send()
            .await;
        match created {
            Ok(_) => tracing::info!(table = self.table, "created the lease table"),
            // Another worker was first.
            Err(error) if is(&error, "ResourceInUseException") => {}
            Err(error) => return Err(self.failed("create", error)),
        }
        for _ in 0..CREATE_POLLS {
            let described = self.client.describe_table().table_name(&self.table).send().await;
            let described = described.map_err(|error| self.failed("describe", error))?;
            let status = described.table().and_then(|table| table.table_status());
            if status == Some(&TableStatus::Active) {
                return Ok(());
            }
            tokio::time::sleep(CREATE_POLL).await;
        }
        // The next look finds it ready, or fails with DynamoDB's word.
        Ok(())
    }

    /// `None` where the table does not exist.
    async fn scan(&self) -> Result<Option<View>, LeaseError> {
        let (mut view, mut start) = (View::default(), None);
        loop {
            let request = self.client.scan().table_name(&self.table).consistent_read(true);
            let page = match request.set_exclusive_start_key(start).send().await {
                Ok(page) => page,
                Err(error) if is(&error, "ResourceNotFoundException") => return Ok(None),
                Err(error) => return Err(self.failed("read", error)),
            };
            for item in page.items() {
                let lease = self.lease(item)?;
                if let Some(worker) = lease.owner.clone() {
                    let (key, value) = (lease.shard.clone(), lease.version.to_string());
                    view.pulses.push(Pulse { worker, key, value });
                }
                view.leases.insert(lease.shard.clone(), lease);
            }
            match page.last_evaluated_key() {
                Some(key) => start = Some(key.clone()),
                None => return Ok(Some(view)),
            }
        }
    }

    fn lease(&self, item: &HashMap<String, AttributeValue>) -> Result<Lease, LeaseError> {
        let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok());
        let corrupt = |reason: &str| LeaseError::Corrupt {
            subject: format!("an item of the DynamoDB table {}", self.table),
            reason: reason.to_owned(),
        };
        let counter = item.get(COUNTER).and_then(|value| value.as_n().ok());
        Ok(Lease {
            shard: text(KEY).ok_or_else(|| corrupt("it has no leaseKey"))?.clone(),
            owner: text(OWNER).cloned(),
            finished: text(CHECKPOINT).is_some_and(|checkpoint| checkpoint == SHARD_END),
            version: counter
                .and_then(|counter| counter.parse().ok())
                .ok_or_else(|| corrupt("it has no leaseCounter"))?,
        })
    }

    /// One more on the counter, and what has landed. Nothing where it is another's now.
    async fn renew(&self, held: &Held) -> Result<(), LeaseError> {
        let mut request = self
            .client
            .update_item()
            .table_name(&self.table)
            .key(KEY, s(&held.shard))
            .condition_expression("leaseOwner = :me")
            .expression_attribute_values(":me", s(&self.me))
            .expression_attribute_values(":one", n(1));
        request = match &held.position {
            Some(position) => request
                .update_expression(
                    "SET leaseCounter = leaseCounter + :one, checkpoint = :position, \
                     ownerSwitchesSinceCheckpoint = :none",
                )
                .expression_attribute_values(":position", s(position))
                .expression_attribute_values(":none", n(0)),
            None => request.update_expression("SET leaseCounter = leaseCounter + :one"),
        };
        match request.send().await {
            Ok(_) => Ok(()),
            // The look that follows shows whose it is.
            Err(error) if is(&error, CONFLICT) => Ok(()),
            Err(error) => Err(self.failed("renew a lease in", error)),
        }
    }

    async fn add(&self, lease: &Lease) -> Result<(), SdkError<PutItemError>> {
        let request = self.client.put_item().table_name(&self.table);
        let request = request.set_item(Some(self.first(lease)));
        request.condition_expression("attribute_not_exists(leaseKey)").send().await.map(|_| ())
    }

    /// The item of a shard that has none.
    fn first(&self, lease: &Lease) -> HashMap<String, AttributeValue> {
        let mut item = HashMap::from([
            (KEY.to_owned(), s(&lease.shard)),
            (COUNTER.to_owned(), n(lease.version)),
            (CHECKPOINT.to_owned(), s(if lease.finished { SHARD_END } else { TRIM_HORIZON })),
            ("checkpointSubSequenceNumber".to_owned(), n(0)),
            ("ownerSwitchesSinceCheckpoint".to_owned(), n(0)),
        ]);
        item.extend(lease.owner.as_ref().map(|owner| (OWNER.to_owned(), s(owner))));
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shard) = shards.get(&lease.shard) {
            if !shard.parents.is_empty() {
                let parents = AttributeValue::Ss(shard.parents.clone());
                item.insert("parentShardId".to_owned(), parents);
            }
            if let Some((start, end)) = &shard.hashes {
                item.insert("startingHashKey".to_owned(), s(start));
                item.insert("endingHashKey".to_owned(), s(end));
            }
        }
        item
    }

    fn children(&self, shard: &str) -> Vec<String> {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let is_child = |child: &&Shard| child.parents.iter().any(|parent| parent == shard);
        let mut children: Vec<_> =
            shards.values().filter(is_child).map(|child| child.id.clone()).collect();
        children.sort();
        children
    }
}

#[async_trait]
impl LeaseTable for DynamoDbTable {
    fn know(&self, shards: &[Shard]) {
        *self.shards.lock().unwrap_or_else(PoisonError::into_inner) =
            shards.iter().map(|shard| (shard.id.clone(), shard.clone())).collect();
    }

    async fn view(&self) -> Result<View, LeaseError> {
        // A table that is not there is empty; the first lease creates it.
        Ok(self.scan().await?.unwrap_or_default())
    }

    async fn beat(&self, held: &[Held]) -> Result<(), LeaseError> {
        stream::iter(held.to_vec())
            .map(|held| async move { self.renew(&held).await })
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
    }

    async fn change(
        &self,
        shard: &str,
        seen: Option<&Lease>,
        change: Change,
    ) -> Result<Option<Lease>, LeaseError> {
        let lease = Lease::next(shard, seen, change, &self.me);
        let changed = match seen {
            None => {
                let mut added = self.add(&lease).await;
                if added.as_ref().is_err_and(|error| is(error, "ResourceNotFoundException")) {
                    self.create().await?;
                    added = self.add(&lease).await;
                }
                added.map_err(|error| (is(&error, CONFLICT), self.failed("add a lease to", error)))
            }
            Some(seen) => {
                let mut set = "SET leaseCounter = :next".to_owned();
                let mut request = self
                    .client
                    .update_item()
                    .table_name(&self.table)
                    .key(KEY, s(shard))
                    .condition_expression("leaseCounter = :seen")
                    .expression_attribute_values(":seen", n(seen.version))
                    .expression_attribute_values(":next", n(lease.version));
                match change {
                    Change::Take => {
                        set.push_str(
                            ", leaseOwner = :me, ownerSwitchesSinceCheckpoint = \
                             if_not_exists(ownerSwitchesSinceCheckpoint, :none) + :one",
                        );
                        request = request
                            .expression_attribute_values(":me", s(&self.me))
                            .expression_attribute_values(":none", n(0))
                            .expression_attribute_values(":one", n(1));
                        if seen.finished {
                            set.push_str(", checkpoint = :start");
                            request =
                                request.expression_attribute_values(":start", s(TRIM_HORIZON));
                        }
                    }
                    Change::Release => set.push_str(" REMOVE leaseOwner"),
                    Change::Finish => {
                        set.push_str(", checkpoint = :end");
                        request = request.expression_attribute_values(":end", s(SHARD_END));
                        let children = self.children(shard);
                        if !children.is_empty() {
                            set.push_str(", childShardIds = :children");
                            request = request.expression_attribute_values(
                                ":children",
                                AttributeValue::Ss(children),
                            );
                        }
                        set.push_str(" REMOVE leaseOwner");
                    }
                }
                request.update_expression(set).send().await.map(|_| ()).map_err(|error| {
                    (is(&error, CONFLICT), self.failed("change a lease in", error))
                })
            }
        };
        match changed {
            Ok(()) => Ok(Some(lease)),
            Err((true, _)) => Ok(None),
            Err((false, error)) => Err(error),
        }
    }

    async fn forget(&self, leases: &[Lease]) -> Result<(), LeaseError> {
        for lease in leases {
            let deleted = self
                .client
                .delete_item()
                .table_name(&self.table)
                .key(KEY, s(&lease.shard))
                .condition_expression("leaseCounter = :seen")
                .expression_attribute_values(":seen", n(lease.version))
                .send()
                .await;
            match deleted {
                Ok(_) => {}
                Err(error) if is(&error, CONFLICT) => {}
                Err(error) => return Err(self.failed("remove a lease from", error)),
            }
        }
        Ok(())
    }

    /// Workers have nothing of their own in this layout.
    async fn bury(&self, _: &[String]) -> Result<(), LeaseError> {
        Ok(())
    }
}

fn is<E: ProvideErrorMetadata>(error: &SdkError<E>, code: &str) -> bool {
    error.as_service_error().and_then(ProvideErrorMetadata::code) == Some(code)
}

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn n(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}
