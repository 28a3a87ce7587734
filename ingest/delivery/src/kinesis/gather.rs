//! What this process has read of a stream and not committed, of all its shards together: how
//! much memory it takes, and when and in which objects it lands.
//!
//! Every shard gathers lines of its own. It *gives* them here when it lands, or before, when memory
//! is short; what is given is encoded, and written into objects that shards share
//! ([`clickmill_lake::raw::pack`]). A shard that lands waits for its objects and commits what it
//! is told of them; nobody else's commit has to do with that.
//!
//! An object is written once everybody who holds something waits for it, or enough of its kind and
//! hour has come together, or the first of those who wait has waited for long enough. Who is due by
//! age asks everybody else to land, too: so a stream of many quiet shards makes few objects.
//!
//! Over the budget those who hold most are asked to give what they hold, the oldest of equals
//! first, until three quarters of it are left; encoded it takes a tenth, and as soon as it is enough
//! for an object it is written, and committed when its shard lands. Nobody reads more until
//! there is room again. Where the lake takes no objects, reading stops; nothing is lost and
//! memory does not grow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clickmill_lake::landing::LandedObject;
use clickmill_lake::raw::Piece;
use clickmill_lake::raw::pack::{Encoders, Owner, Stretch, Written};
use clickmill_lake::{Lake, LakeError};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::config::CutPolicy;
use super::memory::{self, Holding};

/// Lines that were given are encoded when they take this much memory, or a quarter of the budget.
const LOOSE_BYTES: u64 = 12 << 20;
/// Who lands since its shard ends waits so long for others that do so at the same time.
pub(super) const SOON: Duration = Duration::from_millis(200);
/// Waits in which an object is being written, or lines are being encoded.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Everybody is called to land once so much was written ahead of commits.
const WRITTEN_BYTES: u64 = 1 << 30;
/// And once a shard has so many sections to commit: a commit names
/// [`clickmill_lake::landing::MAX_COMMIT_OBJECTS`] at most.
const WRITTEN_SECTIONS: usize = 1_000;

/// What a shard is to do beside reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Nothing,
    /// Give what it holds; it need not commit.
    Give,
    /// Land what it holds.
    Land,
}

/// See the module's head.
pub(super) struct Gather {
    lake: Lake,
    stem: String,
    /// Objects are to have so many bytes.
    target: u64,
    limit: u64,
    /// [`WRITTEN_SECTIONS`].
    most_sections: usize,
    encoders: Encoders,
    state: Mutex<State>,
}

struct State {
    next: Owner,
    members: BTreeMap<Owner, Member>,
    /// Given, not encoded.
    loose: Vec<(Owner, Piece)>,
    /// Given and encoded.
    stretches: Vec<Stretch>,
    /// Encodings that go on; what they encode is in `busy`.
    encoding: usize,
    /// Memory of what is being encoded or written.
    busy: u64,
    read_at: Instant,
    landed_at: Option<Instant>,
    /// Bytes of objects that were written since everybody was called to land.
    written_bytes: u64,
    /// Somebody was asked for something.
    called: Arc<Notify>,
}

/// A shard, between two of its commits.
struct Member {
    /// What it holds itself.
    holding: Holding,
    asked: Asked,
    /// Lines of it are among what is loose, or encoded.
    has_loose: bool,
    has_encoded: bool,
    /// It lands since it was called, as others were.
    is_in_round: bool,
    /// Encodings and objects in the making with lines of it.
    underway: usize,
    /// What its commit is to name.
    landed: Vec<LandedObject>,
    failed: Option<Arc<LakeError>>,
    /// It lands.
    waiting: Option<oneshot::Sender<Result<Vec<LandedObject>, LakeError>>>,
}

/// A shard's place in a [`Gather`], for one commit: dropped, what it gave is forgotten.
pub(super) struct Place {
    owner: Owner,
    gather: Arc<Gather>,
}

impl Gather {
    /// Of a stream whose shared objects' names begin with `stem`; `limit` bytes of memory, beside
    /// what so many `encoders` take.
    ///
    /// # Errors
    /// [`LakeError::Compress`] where they cannot be started.
    pub fn new(
        lake: &Lake,
        stem: String,
        cut: CutPolicy,
        limit: u64,
        encoders: usize,
    ) -> Result<Self, LakeError> {
        let state = State {
            next: 0,
            members: BTreeMap::new(),
            loose: Vec::new(),
            stretches: Vec::new(),
            encoding: 0,
            busy: 0,
            read_at: Instant::now(),
            landed_at: None,
            written_bytes: 0,
            called: Arc::default(),
        };
        let target = cut.target_bytes.min(limit / 2).max(1);
        let encoders = Encoders::new(encoders)?;
        let (lake, state) = (lake.clone(), Mutex::new(state));
        let most_sections = WRITTEN_SECTIONS;
        Ok(Self { lake, stem, target, limit, most_sections, encoders, state })
    }

    /// A place for a shard's next commit.
    pub fn join(self: &Arc<Self>) -> Place {
        let mut state = self.lock();
        let owner = state.next;
        state.next += 1;
        let member = Member {
            holding: Holding { bytes: 0, since: Instant::now() },
            asked: Asked::Nothing,
            has_loose: false,
            has_encoded: false,
            is_in_round: false,
            underway: 0,
            landed: Vec::new(),
            failed: None,
            waiting: None,
        };
        state.members.insert(owner, member);
        Place { owner, gather: Arc::clone(self) }
    }

    /// More may be read. Else somebody has been asked to give way.
    pub fn has_room(self: &Arc<Self>) -> bool {
        self.make_room(&mut self.lock())
    }

    /// Memory that everything takes.
    pub fn held(&self) -> u64 {
        self.lock().held()
    }

    /// Since anything was read of any shard.
    pub fn since_read(&self) -> Duration {
        self.lock().read_at.elapsed()
    }

    /// Since an object was written; `None`: there was none yet.
    pub fn since_landed(&self) -> Option<Duration> {
        self.lock().landed_at.map(|at| at.elapsed())
    }

    /// Everybody who has something is to land.
    pub fn call(&self) {
        self.lock().call();
    }

    /// Encodes what is loose, where that is worth it.
    async fn encode(self: &Arc<Self>) {
        let least = LOOSE_BYTES.min(self.limit / 4);
        let (loose, owners, bytes) = {
            let mut state = self.lock();
            let bytes = state.loose_bytes();
            if bytes < least {
                return;
            }
            let loose = std::mem::take(&mut state.loose);
            let owners = state.begin(loose.iter().map(|(owner, _)| *owner), bytes);
            for owner in &owners {
                if let Some(member) = state.members.get_mut(owner) {
                    member.has_loose = false;
                }
            }
            state.encoding += 1;
            (loose, owners, bytes)
        };
        // A task of its own: whoever waits here may be gone before its end.
        let gather = Arc::clone(self);
        let encoding = tokio::spawn(async move {
            let encoder = Arc::clone(&gather);
            let encoding = tokio::spawn(async move { encoder.encoders.encode(loose).await });
            let encoded = encoding.await.unwrap_or_else(|error| Err(LakeError::Encoder(error)));
            let mut state = gather.lock();
            state.encoding -= 1;
            let failed = match encoded {
                Ok(stretches) => {
                    state.stretches.extend(stretches);
                    for owner in &owners {
                        if let Some(member) = state.members.get_mut(owner) {
                            member.has_encoded = true;
                        }
                    }
                    None
                }
                Err(error) => Some(Arc::new(error)),
            };
            state.fail(&owners, failed.as_ref());
            state.end(&owners, bytes);
            // It need not be committed at once: that would be a commit of every shard for each object.
            let full = Stretch::full(&mut state.stretches, gather.target);
            gather.write(&mut state, Vec::new(), full);
            if state.encoded_bytes() >= gather.limit / 2 {
                gather.close(&mut state);
            }
            gather.close_if_due(&mut state);
        });
        if let Err(error) = encoding.await {
            tracing::error!(%error, "what was read could not be encoded");
        }
    }

    /// Whether all is within the limit; where it is not, those who hold most are asked to give it,
    /// and what was given is written where that is no help any more.
    fn make_room(self: &Arc<Self>, state: &mut State) -> bool {
        if state.held() <= self.limit {
            return true;
        }
        if !state.ask(self.limit) && state.busy == 0 {
            self.close(state);
        }
        false
    }

    fn close_if_due(self: &Arc<Self>, state: &mut State) {
        if state.encoding == 0 && state.is_all() {
            self.close(state);
        }
    }

    /// Writes everything that was given.
    fn close(self: &Arc<Self>, state: &mut State) {
        let loose = std::mem::take(&mut state.loose);
        let stretches = std::mem::take(&mut state.stretches);
        // What is only of those who are gone is nobody's.
        if state.members.values().any(Member::has_open) {
            self.write(state, loose, stretches);
        }
    }

    /// Writes what was taken out of the state.
    fn write(
        self: &Arc<Self>,
        state: &mut State,
        loose: Vec<(Owner, Piece)>,
        mut stretches: Vec<Stretch>,
    ) {
        if loose.is_empty() && stretches.is_empty() {
            return;
        }
        let bytes = loose_bytes(&loose) + encoded_bytes(&stretches);
        let whose = loose.iter().map(|(owner, _)| *owner);
        let whose = whose.chain(stretches.iter().flat_map(Stretch::owners));
        let owners = state.begin(whose, bytes);
        let left: BTreeSet<Owner> = state.stretches.iter().flat_map(Stretch::owners).collect();
        for owner in &owners {
            if let Some(member) = state.members.get_mut(owner) {
                member.has_loose &= loose.is_empty();
                member.has_encoded = left.contains(owner);
            }
        }
        let gather = Arc::clone(self);
        tokio::spawn(async move {
            let writer = Arc::clone(&gather);
            let writing = tokio::spawn(async move {
                let Gather { lake, stem, target, encoders, .. } = &*writer;
                stretches.extend(encoders.encode(loose).await?);
                Ok(encoders.write(lake, stem, stretches, *target).await)
            });
            let written = writing.await.unwrap_or_else(|error| Err(LakeError::Encoder(error)));
            let mut state = gather.lock();
            match written {
                Ok(written) => {
                    written.into_iter().for_each(|one| state.written(one, gather.most_sections))
                }
                Err(error) => state.fail(&owners, Some(&Arc::new(error))),
            }
            state.end(&owners, bytes);
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The shard holds so many bytes now, the first of them read then.
    pub fn hold(&self, bytes: u64, since: Instant) {
        let mut state = self.gather.lock();
        state.read_at = Instant::now();
        if let Some(member) = state.members.get_mut(&self.owner) {
            member.holding = Holding { bytes, since };
        }
        self.gather.make_room(&mut state);
    }

    /// Until the shard is to do something.
    pub async fn called(&self) {
        let called = Arc::clone(&self.gather.lock().called);
        loop {
            let mut next = std::pin::pin!(called.notified());
            // From here on it misses nothing.
            next.as_mut().enable();
            if self.asked() != Asked::Nothing {
                return;
            }
            next.await;
        }
    }

    /// What the shard is to do.
    pub fn asked(&self) -> Asked {
        self.gather.lock().members.get(&self.owner).map_or(Asked::Nothing, |member| member.asked)
    }

    /// Gives lines that a later [`Place::land`] waits for.
    pub async fn give(&self, pieces: Vec<Piece>) {
        {
            let mut state = self.gather.lock();
            state.take(self.owner, pieces);
            if let Some(member) = state.members.get_mut(&self.owner)
                && member.asked == Asked::Give
            {
                member.asked = Asked::Nothing;
            }
        }
        self.gather.encode().await;
    }

    /// Gives lines, and waits for the objects with all that this shard gave: others may join until
    /// `wait` is over, and for [`SOON`] at most once it is cancelled.
    ///
    /// # Errors
    /// What kept one of them from being written, [`LakeError::Shared`] with others.
    pub async fn land(
        &self,
        pieces: Vec<Piece>,
        wait: Duration,
        cancel: &CancellationToken,
    ) -> Result<Vec<LandedObject>, LakeError> {
        let mut deadline = tokio::time::Instant::now() + wait;
        let mut is_cancelled = false;
        let (sender, mut answer) = oneshot::channel();
        {
            let mut state = self.gather.lock();
            state.take(self.owner, pieces);
            if let Some(member) = state.members.get_mut(&self.owner) {
                member.is_in_round = member.asked == Asked::Land;
                member.asked = Asked::Nothing;
                member.waiting = Some(sender);
            }
            state.answer(self.owner);
        }
        self.gather.encode().await;
        self.gather.close_if_due(&mut self.gather.lock());
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => {
                    return answer.unwrap_or_else(|_| {
                        let ended = std::io::Error::other("whoever was to write it has ended");
                        Err(LakeError::Compress(ended))
                    });
                }
                () = cancel.cancelled(), if !is_cancelled => {
                    is_cancelled = true;
                    deadline = deadline.min(tokio::time::Instant::now() + SOON);
                }
                () = tokio::time::sleep_until(deadline) => {
                    let mut state = self.gather.lock();
                    if state.members.get(&self.owner).is_some_and(Member::has_open) {
                        self.gather.close(&mut state);
                    }
                    deadline = tokio::time::Instant::now() + LOOK_AGAIN;
                }
            }
        }
    }
}

impl Member {
    /// Lines of it were given, and are neither being encoded nor written.
    fn has_open(&self) -> bool {
        self.has_loose || self.has_encoded
    }

    /// It has something to commit, and does not wait for it yet.
    fn is_uncommitted(&self) -> bool {
        self.is_awaited()
            || (self.waiting.is_none() && (self.underway > 0 || !self.landed.is_empty()))
    }

    /// It has something that may stand in the next object, and does not wait for it yet.
    fn is_awaited(&self) -> bool {
        self.waiting.is_none() && (self.holding.bytes > 0 || self.has_open())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.gather.lock();
        state.members.remove(&self.owner);
        // What is encoded stands beside others' lines: nobody will name it.
        state.loose.retain(|(owner, _)| *owner != self.owner);
        self.gather.close_if_due(&mut state);
    }
}

fn loose_bytes(loose: &[(Owner, Piece)]) -> u64 {
    loose.iter().map(|(_, piece)| piece.memory()).sum()
}

fn encoded_bytes(stretches: &[Stretch]) -> u64 {
    stretches.iter().map(Stretch::stored_bytes).sum()
}

impl State {
    fn loose_bytes(&self) -> u64 {
        loose_bytes(&self.loose)
    }

    fn encoded_bytes(&self) -> u64 {
        encoded_bytes(&self.stretches)
    }

    fn held(&self) -> u64 {
        let holdings: u64 = self.members.values().map(|member| member.holding.bytes).sum();
        holdings + self.loose_bytes() + self.encoded_bytes() + self.busy
    }

    fn take(&mut self, owner: Owner, pieces: Vec<Piece>) {
        if let Some(member) = self.members.get_mut(&owner) {
            member.holding.bytes = 0;
            member.has_loose |= !pieces.is_empty();
            self.loose.extend(pieces.into_iter().map(|piece| (owner, piece)));
        }
    }

    fn call(&mut self) {
        for member in self.members.values_mut().filter(|member| member.is_uncommitted()) {
            member.asked = Asked::Land;
        }
        self.written_bytes = 0;
        self.called.notify_waiters();
    }

    /// Everybody waits who is to: in a round those who were called for it, else all who
    /// hold something.
    fn is_all(&self) -> bool {
        let is_waiting_for =
            |member: &Member| member.waiting.is_none() && member.asked == Asked::Land;
        match self.members.values().any(|member| member.waiting.is_some() && member.is_in_round) {
            true => !self.members.values().any(is_waiting_for),
            false => !self.members.values().any(Member::is_awaited),
        }
    }

    /// Asks those who hold most to give it, so that it is within the limit. False where nobody
    /// is to give anything.
    fn ask(&mut self, limit: u64) -> bool {
        let untold = self.members.iter().filter(|(_, member)| member.asked == Asked::Nothing);
        let untold = untold.map(|(owner, member)| (*owner, member.holding)).collect();
        let victims = memory::victims(untold, self.loose_bytes() + self.encoded_bytes(), limit);
        for owner in &victims {
            if let Some(member) = self.members.get_mut(owner) {
                member.asked = Asked::Give;
            }
        }
        if !victims.is_empty() {
            self.called.notify_waiters();
        }
        self.members.values().any(|member| member.asked != Asked::Nothing)
    }

    /// Work begins on lines of these, which take so much memory.
    fn begin(&mut self, whose: impl Iterator<Item = Owner>, bytes: u64) -> BTreeSet<Owner> {
        let owners: BTreeSet<Owner> = whose.collect();
        for owner in &owners {
            if let Some(member) = self.members.get_mut(owner) {
                member.underway += 1;
            }
        }
        self.busy += bytes;
        owners
    }

    /// An object was written, or not.
    fn written(&mut self, object: Written, most_sections: usize) {
        let landed = match object.landed {
            Ok(landed) => landed,
            Err(error) => return self.fail(&object.owners, Some(&Arc::new(error))),
        };
        self.landed_at = Some(Instant::now());
        self.written_bytes += landed.first().map_or(0, |(_, object)| object.bytes);
        let mut is_much = self.written_bytes >= WRITTEN_BYTES;
        for (owner, object) in landed {
            if let Some(member) = self.members.get_mut(&owner) {
                member.landed.push(object);
                is_much |= member.landed.len() >= most_sections;
            }
        }
        // Bounds a commit, and what one batch of the ETL has to take of the same objects.
        if is_much {
            self.call();
        }
    }

    /// What kept lines of these from landing, where anything did: they are to learn it soon.
    fn fail(&mut self, owners: &BTreeSet<Owner>, error: Option<&Arc<LakeError>>) {
        let Some(error) = error else { return };
        for owner in owners {
            if let Some(member) = self.members.get_mut(owner) {
                member.failed = Some(Arc::clone(error));
                member.asked = Asked::Land;
            }
        }
        self.called.notify_waiters();
    }

    /// Work has ended on lines of these.
    fn end(&mut self, owners: &BTreeSet<Owner>, bytes: u64) {
        self.busy -= bytes;
        for owner in owners {
            if let Some(member) = self.members.get_mut(owner) {
                member.underway -= 1;
            }
            self.answer(*owner);
        }
    }

    /// Tells a shard that waits, where everything that it gave has landed or one failed.
    fn answer(&mut self, owner: Owner) {
        let Some(member) = self.members.get_mut(&owner) else { return };
        let is_settled = member.underway == 0 && !member.has_open();
        let Some(waiting) = member.waiting.take_if(|_| is_settled || member.failed.is_some())
        else {
            return;
        };
        let answer = match member.failed.take() {
            Some(error) => Err(LakeError::Shared(error)),
            None => Ok(std::mem::take(&mut member.landed)),
        };
        // Where nobody listens any more its place is about to be dropped.
        let _ = waiting.send(answer);
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "a test fails by panicking, also in its helpers")]
mod tests;
