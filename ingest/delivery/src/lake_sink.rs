//! The embedded sink: a collector's batches straight into the raw zone.
//!
//! # Guarantees
//! One batch becomes one commit of the chain `collector/<collector_id>`
//! (`clickmill_lake::landing`), so each record lands exactly once: what an
//! earlier attempt landed is recognised by its `wal_seq` and left out, whoever
//! made that attempt. Heartbeats consume no `wal_seq`, so one of them can land
//! twice where an answer was lost; readers do not count them.
//!
//! # Failure modes
//! A batch that starts past the end of the chain (the spool shipped elsewhere
//! meanwhile, or lost data) is landed, with the hole visible in the commit
//! (`after` and `first`) and a warning. Two processes with one spool cannot be:
//! the spool is locked; should it happen, one of them loses at the commit,
//! rereads and goes on from there.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use clickmill_collector::sink::{RecordKind, Sink, SinkBatch, SinkError};
use clickmill_lake::landing::{Chain, NewCommit, Source};
use clickmill_lake::raw::{RawFormat, RawLine, RawWriter};
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::Timestamp;
use tokio::sync::Mutex;

/// Times that one batch may lose the race for its commit before the caller's backoff takes over.
const MAX_LOST_RACES: u32 = 8;

/// The sink. See the module's head.
pub struct LakeSink {
    lake: Lake,
    format: RawFormat,
    /// Open chains by collector; each has one writer at a time.
    chains: Mutex<HashMap<String, Arc<Mutex<Option<Chain>>>>>,
}

impl LakeSink {
    /// A sink that lands in `lake`.
    #[must_use]
    pub fn new(lake: Lake) -> Self {
        Self { lake, format: RawFormat::default(), chains: Mutex::default() }
    }

    /// Stores events in another format.
    #[must_use]
    pub fn with_format(self, format: RawFormat) -> Self {
        Self { format, ..self }
    }

    async fn slot(&self, collector_id: &str) -> Arc<Mutex<Option<Chain>>> {
        let mut chains = self.chains.lock().await;
        Arc::clone(chains.entry(collector_id.to_owned()).or_default())
    }

    async fn open(&self, collector_id: &str) -> Result<Chain, LakeError> {
        Chain::open(&self.lake, Source::collector(collector_id)?).await
    }

    async fn land(&self, chain: &mut Chain, batch: &SinkBatch) -> Result<(), LakeError> {
        for _ in 0..MAX_LOST_RACES {
            match self.try_land(chain, batch).await {
                Err(LakeError::LostRace { .. }) => chain.reload().await?,
                outcome => return outcome,
            }
        }
        self.try_land(chain, batch).await
    }

    /// Lands what the chain does not have yet, as one commit.
    async fn try_land(&self, chain: &mut Chain, batch: &SinkBatch) -> Result<(), LakeError> {
        let landed = landed(chain)?.unwrap_or(batch.first_wal_seq - 1);
        if landed + 1 < batch.first_wal_seq {
            tracing::warn!(
                collector_id = batch.collector_id,
                landed,
                first_wal_seq = batch.first_wal_seq,
                "a stretch of the spool never came here; clickmill audit lists it"
            );
        }
        let mut writer = RawWriter::new(&self.lake, chain.source()).with_format(self.format);
        let mut first = None;
        for record in &batch.records {
            let counted = record.kind != RecordKind::Heartbeat;
            if counted && record.wal_seq <= landed {
                continue;
            }
            if counted {
                first.get_or_insert(record.wal_seq);
            }
            let line = RawLine::encoded(&record.line)?;
            writer.push(line, &record.wal_seq.to_string()).await?;
        }
        let objects = writer.finish().await?;
        if objects.is_empty() {
            return Ok(());
        }
        let commit = NewCommit {
            first: first.map(|first| first.to_string()),
            last: first.map(|_| batch.last_wal_seq.to_string()),
            closed: false,
            objects,
            possible_loss: None,
            read_through: None,
            committed_at: Timestamp::now(),
        };
        chain.append(commit).await.map(|_| ())
    }
}

/// The highest `wal_seq` that the chain holds; `None` before the first.
fn landed(chain: &Chain) -> Result<Option<i64>, LakeError> {
    let Some(position) = chain.position() else { return Ok(None) };
    let parsed = position.parse().map_err(|_| LakeError::Corrupt {
        path: chain.source().folder().to_string(),
        reason: format!("its position `{position}` is no wal_seq"),
    });
    parsed.map(Some)
}

#[async_trait]
impl Sink for LakeSink {
    async fn resume_after(&self, collector_id: &str) -> Result<Option<i64>, SinkError> {
        let slot = self.slot(collector_id).await;
        let mut slot = slot.lock().await;
        let chain = self.open(collector_id).await.map_err(sink_error)?;
        let landed = landed(&chain).map_err(sink_error)?;
        *slot = Some(chain);
        Ok(landed)
    }

    async fn send(&self, batch: SinkBatch) -> Result<(), SinkError> {
        let slot = self.slot(&batch.collector_id).await;
        let mut slot = slot.lock().await;
        let mut chain = match slot.take() {
            Some(chain) => chain,
            None => self.open(&batch.collector_id).await.map_err(sink_error)?,
        };
        // A chain whose append failed is not put back: its outcome is unknown, so it is read anew.
        self.land(&mut chain, &batch).await.map_err(sink_error)?;
        *slot = Some(chain);
        Ok(())
    }
}

fn sink_error(error: LakeError) -> SinkError {
    let message = "the lake did not take the batch";
    match error {
        LakeError::Store { .. } | LakeError::LostRace { .. } => SinkError::retryable(message),
        _ => SinkError::permanent(message),
    }
    .with_source(error)
}
