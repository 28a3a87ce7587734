//! One turn of the loop: leases are shown alive, freed, let go of and taken.

use std::collections::BTreeSet;

use clickmill_lake::landing::{Chain, NewCommit, PossibleLoss, Source, list_stream};
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::Timestamp;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::{MAX_TAKES, Supervisor, Turn};
use crate::kinesis::MAX_SHARDS;
use crate::kinesis::config::{Leases, Until};
use crate::kinesis::error::DeliverError;
use crate::kinesis::lease::plan::{Situation, Taking, decide};
use crate::kinesis::lease::{self, Change, Held, View};
use crate::kinesis::reader::Stream;
use crate::kinesis::shards::{Shard, readable};
use crate::kinesis::worker::End;

/// What a dead worker left in the table is removed after so many leases' time.
const BURY_AFTER_LEASES: u32 = 30;
/// Chains opened at once to confirm that they are closed.
const CONFIRM_CONCURRENCY: usize = 16;

impl Supervisor<'_> {
    /// See the head of the module above.
    pub(super) async fn turn(&mut self) -> Result<Turn, DeliverError> {
        let held: Vec<Held> = self
            .running
            .keys()
            .map(|shard| Held { shard: shard.clone(), position: self.monitor.position(shard) })
            .collect();
        self.table.say(self.monitor.retries());
        self.table.beat(&held).await?;
        let mut view = self.table.view().await?;
        let now = std::time::Instant::now();
        self.pulses.observe(&view, now);
        self.free_what_ended(&mut view).await?;
        self.let_go(&view);
        self.confirm(&view).await?;
        if self.seeks_expired {
            self.close_expired(&view, now).await?;
        }
        self.clear(&view, now).await?;
        self.take(&mut view, now).await
    }

    /// Frees the leases of shards that ended, and says of those that are done that they are.
    async fn free_what_ended(&mut self, view: &mut View) -> Result<(), DeliverError> {
        self.ended.retain(|(shard, _)| view.owner(shard) == Some(&self.me));
        let changes = self
            .ended
            .iter()
            .filter_map(|(shard, end)| {
                let change = if matches!(end, End::Drained | End::Expired) {
                    Change::Finish
                } else {
                    Change::Release
                };
                view.leases.get(shard).map(|lease| (lease.clone(), change))
            })
            .collect();
        let changed = lease::change_all(&*self.table, changes).await?;
        view.leases.extend(changed.into_iter().map(|lease| (lease.shard.clone(), lease)));
        // One that changed since the look is still there: a sign of life came late.
        self.ended.retain(|(shard, _)| view.owner(shard) == Some(&self.me));
        Ok(())
    }

    /// Stops reading what another worker has taken; what was read is committed, or loses.
    fn let_go(&self, view: &View) {
        for (shard, stop) in &self.running {
            if view.owner(shard) != Some(&self.me) && !stop.is_cancelled() {
                tracing::info!(shard, "another worker takes over this shard");
                stop.cancel();
            }
        }
    }

    /// Holds what the table says is finished against the chains, once each: a table
    /// that was shared with another lake would else hide a shard's records for good.
    async fn confirm(&mut self, view: &View) -> Result<(), DeliverError> {
        let listed = self.listed.iter().flatten();
        let claimed: Vec<String> = listed
            .map(|shard| &shard.id)
            .filter(|id| !self.drained.contains(*id))
            .filter(|id| view.leases.get(*id).is_some_and(|lease| lease.finished))
            .cloned()
            .collect();
        let (lake, stream) = (self.lake, &self.stream);
        let confirmed: Vec<(String, bool)> = stream::iter(claimed)
            .map(|shard| async move {
                let closed = is_closed(lake, stream, &shard).await;
                closed
                    .map(|closed| (shard.clone(), closed))
                    .map_err(|source| DeliverError::lake(shard, source))
            })
            .buffer_unordered(CONFIRM_CONCURRENCY)
            .try_collect()
            .await?;
        for (shard, closed) in confirmed {
            if closed {
                self.drained.insert(shard);
            } else {
                tracing::error!(
                    shard,
                    "the lease table says that this shard is finished, its commits in this lake do \
                     not: it is read on; give each lake a lease table of its own"
                );
            }
        }
        Ok(())
    }

    /// Closes the chains of shards that the stream lists no more though they were not read to
    /// their end: what they had is gone, and the chains say so. Some in each turn.
    async fn close_expired(
        &mut self,
        view: &View,
        now: std::time::Instant,
    ) -> Result<(), DeliverError> {
        let failed = |source| DeliverError::lake(&self.stream.name, source);
        let listed: BTreeSet<&str> =
            self.listed.iter().flatten().map(|shard| shard.id.as_str()).collect();
        let living = self.pulses.living(now, self.config.lease.expiry);
        let (lake, stream) = (self.lake, &self.stream);
        let mut sources = list_stream(lake, &stream.name, stream.created).await.map_err(failed)?;
        for shard in self.vanished.keys() {
            sources.push(Source::kinesis(&stream.name, stream.created, shard).map_err(failed)?);
        }
        let unlisted: BTreeSet<Source> = sources
            .into_iter()
            .filter(|source| !listed.contains(source.leaf()))
            .filter(|source| !self.drained.contains(source.leaf()))
            .collect();
        // Whoever reads one still finds out by itself, and has what is to be committed first.
        let is_free = |source: &Source| match view.owner(source.leaf()) {
            _ if self.running.contains_key(source.leaf()) => false,
            Some(owner) => *owner == self.me || !living.iter().any(|one| one == owner),
            None => true,
        };
        let (free, read): (Vec<Source>, Vec<Source>) = unlisted.into_iter().partition(is_free);
        let more = free.len() > MAX_TAKES || !read.is_empty();
        let opened: Vec<Chain> = stream::iter(free.into_iter().take(MAX_TAKES))
            .map(|source| Chain::open(lake, source))
            .buffer_unordered(CONFIRM_CONCURRENCY)
            .try_collect()
            .await
            .map_err(failed)?;
        let (closed, open): (Vec<Chain>, Vec<Chain>) =
            opened.into_iter().partition(Chain::is_closed);
        for chain in closed {
            self.vanished.remove(chain.source().leaf());
            self.drained.insert(chain.source().leaf().to_owned());
        }
        let mut problem = None;
        if !open.is_empty() {
            // A shard that is younger than the last listing may have a chain by now.
            let Some(listed) = self.reader.shards().await? else { return Ok(()) };
            let listed: BTreeSet<&str> = listed.iter().map(|shard| shard.id.as_str()).collect();
            for chain in open {
                let shard = chain.source().leaf().to_owned();
                if listed.contains(shard.as_str()) {
                    continue;
                }
                let vanished = self.vanished.get(&shard);
                let starts = vanished.map_or_else(|| "0".to_owned(), |one| one.starts.clone());
                match end_chain(chain, starts).await {
                    Ok(loss) => {
                        self.vanished.remove(&shard);
                        self.drained.insert(shard);
                        if loss.is_some() {
                            self.report.possible_losses += 1;
                            self.monitor.possible_loss();
                        }
                    }
                    Err(error) => problem = Some(error),
                }
            }
        }
        self.seeks_expired = more || problem.is_some();
        problem.map_or(Ok(()), |error| Err(DeliverError::lake(&self.stream.name, error)))
    }

    /// Removes leases of shards that have expired, and what dead workers left.
    async fn clear(&self, view: &View, now: std::time::Instant) -> Result<(), DeliverError> {
        let listed: BTreeSet<&str> =
            self.listed.iter().flatten().map(|shard| shard.id.as_str()).collect();
        let gone: Vec<_> = view
            .leases
            .values()
            .filter(|lease| lease.finished && !listed.contains(lease.shard.as_str()))
            .cloned()
            .collect();
        self.table.forget(&gone).await?;
        let dead = self.pulses.silent(now, self.config.lease.expiry * BURY_AFTER_LEASES);
        let dead: Vec<String> = dead.into_iter().filter(|worker| *worker != self.me).collect();
        Ok(self.table.bury(&dead).await?)
    }

    /// Takes what is due to this worker, and starts to read it.
    async fn take(
        &mut self,
        view: &mut View,
        now: std::time::Instant,
    ) -> Result<Turn, DeliverError> {
        let listed = self.listed.clone().unwrap_or_default();
        let open = readable(&listed, |id| self.drained.contains(id));
        let wanted: Vec<&Shard> =
            open.into_iter().filter(|shard| !self.caught_up.contains(&shard.id)).collect();
        if matches!(self.config.leases, Leases::None) && wanted.len() > MAX_SHARDS {
            let (stream, shards) = (self.stream.name.clone(), wanted.len());
            return Err(DeliverError::TooManyShards { stream, shards, limit: MAX_SHARDS });
        }
        let living = self.pulses.living(now, self.config.lease.expiry);
        let others = living.iter().filter(|worker| **worker != self.me).count();
        self.monitor.shared(wanted.len(), others + 1);
        let ids: Vec<String> = wanted.iter().map(|shard| shard.id.clone()).collect();
        let taken = decide(&Situation {
            me: &self.me,
            readable: &ids,
            view,
            living: &living,
            capacity: MAX_SHARDS,
        });
        let idle = taken.is_empty();
        let more = taken.len() > MAX_TAKES;
        // A change that failed may have been made all the same.
        let mine = |id: &&String| view.owner(id) == Some(&self.me);
        let lost: Vec<String> = ids
            .iter()
            .filter(mine)
            .filter(|id| !self.running.contains_key(*id))
            .filter(|id| self.ended.iter().all(|(ended, _)| ended != *id))
            .cloned()
            .collect();
        for shard in wanted.iter().filter(|shard| lost.contains(&shard.id)) {
            self.start((*shard).clone(), Taking::Free);
        }
        for (id, taking) in taken.into_iter().take(MAX_TAKES) {
            let Some(shard) = wanted.iter().find(|shard| shard.id == id) else { continue };
            // A worker that lost it a moment ago may still be landing what it had read.
            if self.running.contains_key(&id) {
                continue;
            }
            let Some(lease) = self.table.change(&id, view.leases.get(&id), Change::Take).await?
            else {
                continue;
            };
            view.leases.insert(id, lease);
            self.start((*shard).clone(), taking);
        }
        if more {
            return Ok(Turn::GoesAtOnce);
        }
        if self.config.until == Until::Cancelled || !idle || self.is_listing_due() {
            return Ok(Turn::Goes);
        }
        // Whoever has the rest must have been seen to live: a dead one's shards are not left to it.
        let is_left_to_another = |id: &String| {
            view.owner(id).is_some_and(|owner| owner != self.me && self.pulses.is_proven(owner))
        };
        let done =
            self.running.is_empty() && self.ended.is_empty() && ids.iter().all(is_left_to_another);
        if done && !ids.is_empty() {
            tracing::warn!(
                shards = ids.len(),
                "other workers read these shards; they are left to them"
            );
        }
        Ok(if done { Turn::CaughtUp } else { Turn::Goes })
    }

    /// Frees everything that is still this worker's.
    pub(super) async fn leave(&self) -> Result<(), DeliverError> {
        let drained =
            self.ended.iter().filter(|(_, end)| matches!(end, End::Drained | End::Expired));
        let drained = drained.map(|(shard, _)| shard.as_str()).collect();
        Ok(lease::leave(&*self.table, &self.me, &drained).await?)
    }
}

/// Ends the chain of a shard that expired.
async fn end_chain(mut chain: Chain, starts: String) -> Result<Option<PossibleLoss>, LakeError> {
    let after = chain.position().map_or(starts, str::to_owned);
    let loss = PossibleLoss { after, before: None };
    let commit = NewCommit {
        first: None,
        last: None,
        closed: true,
        objects: Vec::new(),
        possible_loss: Some(loss.clone()),
        read_through: None,
        committed_at: Timestamp::now(),
    };
    match chain.append(commit).await {
        Ok(_) => {}
        // Another worker was first, and says it.
        Err(LakeError::LostRace { .. }) => return Ok(None),
        Err(error) => return Err(error),
    }
    tracing::error!(
        shard = chain.source().leaf(),
        after = loss.after,
        "the stream has this shard no more, and it was not read to its end: what it had after this \
         may be lost; compare with the collectors by `clickmill audit`, and lengthen the stream's \
         retention"
    );
    Ok(Some(loss))
}

async fn is_closed(lake: &Lake, stream: &Stream, shard: &str) -> Result<bool, LakeError> {
    let source = Source::kinesis(&stream.name, stream.created, shard)?;
    Ok(Chain::open(lake, source).await?.is_closed())
}
