//! What an audit found, for people and programs.

use clickmill_schemas::Timestamp;
use serde::Serialize;

/// Everything that was found. Field names are part of the JSON that users read.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// When it was made.
    pub audited_at: Timestamp,
    /// What was asked for.
    pub from: Option<Timestamp>,
    /// Exclusive.
    pub to: Option<Timestamp>,
    /// The worst of everything below.
    pub verdict: Verdict,
    /// By id; imports are here, too, by their chain.
    pub collectors: Vec<CollectorReport>,
    /// Shards of streams, by their chain.
    pub shards: Vec<ShardReport>,
    /// Ranges that are in no table.
    pub gaps: Vec<Gap>,
    /// Positions that arrived more than once.
    pub duplicates: Vec<Duplicate>,
    /// Objects that are not as the lake says they are.
    pub objects: Vec<BadObject>,
    /// Landing chains that are broken.
    pub chains: Vec<BadChain>,
    /// True where the lists above leave ranges out; the counts are exact all the same.
    pub truncated: bool,
    /// Rows without a collector's number: from history, or from producers of other kinds.
    pub rows_without_lineage: u64,
}

/// What can be said of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every number is accounted for, and it is known which was the last.
    Complete,
    /// Nothing is missing, but part of it is still on its way.
    OnItsWay,
    /// Nothing is known to be missing, but not how far the numbers went.
    Unknown,
    /// Something is missing, doubled or damaged.
    Missing,
}

/// One collector's numbers.
#[derive(Clone, Debug, Serialize)]
pub struct CollectorReport {
    /// Its id; `import/<id>` for an import, whose numbers are rows.
    pub collector_id: String,
    /// The first number of the range.
    pub first: Option<i64>,
    /// The last number of the range that is known to have been given out.
    pub last: Option<i64>,
    /// What can be said.
    pub verdict: Verdict,
    /// Rows in `events`.
    pub events: u64,
    /// Rows in `event_duplicates`.
    pub duplicates: u64,
    /// Rows in `rejects`.
    pub rejects: u64,
    /// Numbers that have not reached a table yet, and will.
    pub on_its_way: u64,
    /// Numbers that are lost.
    pub missing: u64,
    /// Where nothing says how far it went on.
    pub unknown_after: Option<UnknownAfter>,
    /// Its last heartbeat.
    pub last_heartbeat: Option<Timestamp>,
    /// It ended in order, or its import was finished.
    pub closed: bool,
}

/// The last that is known of a collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnknownAfter {
    /// What it gave out after this number is not known.
    pub wal_seq: i64,
    /// When it was last heard of.
    pub at: Option<Timestamp>,
}

/// One shard's chain against the tables.
#[derive(Clone, Debug, Serialize)]
pub struct ShardReport {
    /// The chain.
    pub source: String,
    /// Its commits in the range.
    pub commits: u64,
    /// Events and rejects that they landed.
    pub records: u64,
    /// Of those, in batches that are finished.
    pub taken: u64,
    /// Rows of the tables that came from there.
    pub rows: u64,
    /// Landed, and in no finished batch yet.
    pub on_its_way: u64,
    /// Taken, and in no table.
    pub missing: u64,
    /// Rows without a collector's number of records that have another row: queries count them
    /// twice. Those with one are in [`Report::duplicates`].
    pub doubled: u64,
    /// It was drained to its end.
    pub closed: bool,
    /// Stretches that the stream may have trimmed before they were read.
    pub possible_losses: u64,
}

/// Where something lies or was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The collector's spool, or between it and what follows.
    Spool,
    /// The stream, or between it and the raw zone.
    Stream,
    /// The raw zone.
    Raw,
    /// Rejects.
    Quarantine,
    /// The tables.
    Table,
}

/// What becomes of a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It will arrive, if everything goes on.
    OnItsWay,
    /// It will not.
    Lost,
}

/// A range that is in no table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The collector, or the chain of a shard.
    pub source: String,
    /// `wal_seq`, or a sequence number.
    pub first: String,
    /// Inclusive.
    pub last: String,
    /// Records in it.
    pub count: u64,
    /// Where it lies, or was lost.
    pub place: Place,
    /// What becomes of it.
    pub fate: Fate,
    /// In words, with what to do.
    pub detail: String,
    /// Received after this, as far as known.
    pub received_after: Option<Timestamp>,
    /// Received before this, as far as known.
    pub received_before: Option<Timestamp>,
}

/// A range of positions that arrived more than once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Duplicate {
    /// The collector.
    pub collector_id: String,
    /// `wal_seq`.
    pub first: i64,
    /// Inclusive.
    pub last: i64,
    /// Positions in it.
    pub count: u64,
    /// Where it was repeated.
    pub place: Place,
    /// It stands in `events` twice: queries count it twice.
    pub doubled: bool,
    /// In words.
    pub detail: String,
}

/// An object that is not as the lake says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadObject {
    /// Its path in the lake.
    pub path: String,
    /// [`Place::Raw`], [`Place::Quarantine`] or [`Place::Table`].
    pub place: Place,
    /// What is wrong.
    pub problem: String,
    /// Records in it.
    pub records: u64,
    /// A finished batch took it in before.
    pub taken: bool,
}

/// A landing chain that is broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadChain {
    /// The chain.
    pub source: String,
    /// The commit.
    pub ordinal: u64,
    /// What is wrong.
    pub problem: String,
}

impl Verdict {
    /// As it is printed.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::OnItsWay => "on its way",
            Self::Unknown => "unknown",
            Self::Missing => "MISSING",
        }
    }
}

impl Place {
    /// As it is printed.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Spool => "spool",
            Self::Stream => "stream",
            Self::Raw => "raw zone",
            Self::Quarantine => "quarantine",
            Self::Table => "table",
        }
    }
}
