//! The commit chain: how data gets into the raw zone exactly once.
//!
//! `docs/landing.md` describes the objects byte for byte; a golden file pins it.
//!
//! # Guarantees
//! - A data object is garbage until a commit names it. Readers go by commits,
//!   never by LIST of `raw/`.
//! - A commit is one object, `_clickmill/delivery/<source>/<20-digit ordinal>.json`,
//!   created by conditional PUT. Its ordinal is the one before plus 1 and its
//!   range starts where the one before ended. It *is* the checkpoint: who
//!   resumes from [`Chain::position`] neither loses nor repeats.
//! - Of two writers one wins each ordinal; the other gets
//!   [`LakeError::LostRace`], must drop what it holds, [`Chain::reload`] and go
//!   on from there.
//! - After any error of the PUT the object is read back before anything is
//!   concluded: own content is success, other content a lost race, none means
//!   that the PUT is tried again.
//!
//! # Failure modes
//! A store that stays unreachable fails an append after [`MAX_APPEND_ATTEMPTS`];
//! whether it committed is then unknown until [`Chain::reload`]. A chain with a
//! hole, or with ranges that do not meet, is refused loudly.

mod beginning;
mod chain;
mod source;
mod survey;

use std::ops::Range;

use clickmill_schemas::{Date, Timestamp};
use serde::{Deserialize, Serialize};

pub use beginning::{BEGINNING_VERSION, BEGINNINGS, Beginning, Decided};
pub use chain::{Chain, commits_after, commits_after_at_most, list_sources, list_stream};
pub use source::{REJECTS as REPLAYED_REJECTS, Source};
pub use survey::{ChainProblem, Survey, survey};

use crate::LakeError;
use crate::raw::RawKind;

/// The folder of all chains.
pub const DELIVERY: &str = "_clickmill/delivery";
/// Version of the commit's JSON.
pub const COMMIT_VERSION: u32 = 1;
/// Version of a commit that names an object's section: who knows none would take the whole.
pub const SECTIONED_VERSION: u32 = 2;
/// A commit's JSON is at most this long; longer ones are refused on both sides.
pub const MAX_COMMIT_BYTES: u64 = 16 << 20;
/// Objects that one commit may name.
pub const MAX_COMMIT_OBJECTS: usize = 10_000;
/// PUTs of one commit before its append gives up.
pub const MAX_APPEND_ATTEMPTS: u32 = 5;
/// Commits that one [`commits_after`] answers at most; ask again from the last one.
pub const MAX_COMMITS_READ: usize = 10_000;

/// One link of a chain, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// [`COMMIT_VERSION`], or [`SECTIONED_VERSION`] where an object has a section.
    pub version: u32,
    /// The chain.
    pub source: Source,
    /// From 1, without gaps.
    pub ordinal: u64,
    /// Where the range starts, exclusive: the position of the commit before. Null at the start.
    pub after: Option<String>,
    /// Position of the first record. Null where the range holds none.
    pub first: Option<String>,
    /// Position of the last record. Null where the range holds none.
    pub last: Option<String>,
    /// The source has ended for good (a drained, closed shard; a finished import).
    pub closed: bool,
    /// The objects that this commit makes part of the raw zone.
    pub objects: Vec<LandedObject>,
    /// Records that the stream dropped before they were read, as far as can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub possible_loss: Option<PossibleLoss>,
    /// Files of somebody else's delivery that this commit took in: nobody takes them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<TakenFile>,
    /// Of a shard: everything that arrived in it before this was read, by the stream's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_through: Option<Timestamp>,
    /// When it was written, by the writer's clock.
    pub committed_at: Timestamp,
}

/// A data object that a commit names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandedObject {
    /// Path in the lake.
    pub path: String,
    /// What its lines are.
    pub kind: RawKind,
    /// Lines in it; of a section, the lines of that.
    pub records: u64,
    /// Where other commits name other lines of it: which of them this one names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section: Option<Section>,
    /// Its length as stored, of the whole object.
    pub bytes: u64,
    /// CRC-32C of the stored bytes, 8 hex digits.
    pub crc32c: String,
    /// The store's ETag, where it gave one. It changes when a lake is copied: the CRC does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The UTC dates of `event_ts` in those lines, ascending. Empty for rejects and heartbeats.
    pub event_dates: Vec<Date>,
    /// Least `received_ts` of those lines.
    pub min_received_ts: Timestamp,
    /// Greatest `received_ts` of those lines.
    pub max_received_ts: Timestamp,
}

/// Lines of an object, all next to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// Lines before them.
    pub skip: u64,
    /// Lines of the whole object.
    pub of: u64,
}

/// A file that was not ours, landed by a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenFile {
    /// Its key below the configured location.
    pub key: String,
    /// Its version: another one under the same key is another file.
    pub etag: String,
    /// Its length as stored.
    pub bytes: u64,
    /// Lines that it became.
    pub records: u64,
}

/// A stretch of a stream that was trimmed before it was read, or may have been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PossibleLoss {
    /// The last position that was surely read.
    pub after: String,
    /// The oldest position that was still there; null where nothing was.
    pub before: Option<String>,
}

/// What a writer adds to a chain.
#[derive(Clone, Debug)]
pub struct NewCommit {
    /// Position of the first record; `None` where there is none.
    pub first: Option<String>,
    /// Position of the last record.
    pub last: Option<String>,
    /// See [`Commit::closed`].
    pub closed: bool,
    /// From [`crate::raw::RawWriter::finish`].
    pub objects: Vec<LandedObject>,
    /// See [`Commit::possible_loss`].
    pub possible_loss: Option<PossibleLoss>,
    /// See [`Commit::read_through`].
    pub read_through: Option<Timestamp>,
    /// Now.
    pub committed_at: Timestamp,
}

impl LandedObject {
    /// Numbers of its lines, from 1, in the stored object.
    #[must_use]
    pub fn lines(&self) -> Range<u64> {
        let skip = self.section.map_or(0, |section| section.skip);
        let first = skip.saturating_add(1);
        first..first.saturating_add(self.records)
    }

    /// Its part of the stored bytes.
    #[must_use]
    pub fn share(&self) -> u64 {
        let Some(Section { of, .. }) = self.section else { return self.bytes };
        let share = u128::from(self.bytes) * u128::from(self.records) / u128::from(of.max(1));
        u64::try_from(share).unwrap_or(self.bytes).min(self.bytes)
    }

    /// True for one of all that name a stored object, so that each is counted once: the one that
    /// names its first line.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.section.is_none_or(|section| section.skip == 0)
    }
}

impl Commit {
    /// Where the next one starts, exclusive.
    #[must_use]
    pub fn position(&self) -> Option<&str> {
        self.last.as_deref().or(self.after.as_deref())
    }

    /// The stored form: compact JSON and a newline.
    fn encode(&self) -> Result<Vec<u8>, LakeError> {
        let mut bytes = serde_json::to_vec(self).map_err(|error| self.unfit(error.to_string()))?;
        bytes.push(b'\n');
        if bytes.len() as u64 > MAX_COMMIT_BYTES || self.objects.len() > MAX_COMMIT_OBJECTS {
            return Err(self.unfit(format!(
                "it names {} objects in {} bytes, more than {MAX_COMMIT_OBJECTS} or \
                 {MAX_COMMIT_BYTES}: land in smaller parts",
                self.objects.len(),
                bytes.len()
            )));
        }
        Ok(bytes)
    }

    /// Reads the stored form, at `path`, which must be that of `source` and `ordinal`.
    fn decode(path: &str, source: &Source, ordinal: u64, bytes: &[u8]) -> Result<Self, LakeError> {
        let corrupt = |reason: String| LakeError::Corrupt { path: path.to_owned(), reason };
        let commit: Self =
            serde_json::from_slice(bytes).map_err(|error| corrupt(error.to_string()))?;
        if !(COMMIT_VERSION..=SECTIONED_VERSION).contains(&commit.version) {
            return Err(corrupt(format!(
                "it has version {}, this program knows {SECTIONED_VERSION}: use a newer clickmill",
                commit.version
            )));
        }
        if commit.source != *source || commit.ordinal != ordinal {
            return Err(corrupt(format!(
                "it says that it is commit {} of {}",
                commit.ordinal, commit.source
            )));
        }
        Ok(commit)
    }

    fn unfit(&self, reason: String) -> LakeError {
        LakeError::Unfit { landing: self.source.clone(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../../tests/golden/commit-v1.json");
    const SECTIONED: &str = include_str!("../../tests/golden/commit-v2.json");

    fn commit() -> Commit {
        let at = |text| Timestamp::parse(text).expect(text);
        Commit {
            version: 1,
            source: "kinesis/clicks-1795455600/shardId-000000000001".parse().expect("source"),
            ordinal: 42,
            after: Some("49590338271490256608559692538361571095921575989136588898".to_owned()),
            first: Some("49590338271490256608559692540925702759324208523137515618".to_owned()),
            last: Some("49590338271490256608559692543109287659128543209876543210".to_owned()),
            closed: true,
            objects: vec![
                LandedObject {
                    path: "raw/events/dt=2026-11-23/hour=17/clicks-1.json.gz".to_owned(),
                    kind: RawKind::Events,
                    records: 3,
                    section: None,
                    bytes: 512,
                    crc32c: "00c0ffee".to_owned(),
                    etag: Some("\"9b2cf535f27731c974343645a3985328\"".to_owned()),
                    event_dates: ["2026-11-22", "2026-11-23"]
                        .map(|date| Date::parse(date).expect(date))
                        .to_vec(),
                    min_received_ts: at("2026-11-23T17:40:00Z"),
                    max_received_ts: at("2026-11-23T17:41:00.5Z"),
                },
                LandedObject {
                    path: "raw/rejects/dt=2026-11-23/hour=17/clicks-1.json.gz".to_owned(),
                    kind: RawKind::Rejects,
                    records: 1,
                    section: None,
                    bytes: 99,
                    crc32c: "e3069283".to_owned(),
                    etag: None,
                    event_dates: vec![],
                    min_received_ts: at("2026-11-23T17:40:30Z"),
                    max_received_ts: at("2026-11-23T17:40:30Z"),
                },
            ],
            possible_loss: Some(PossibleLoss { after: "1".to_owned(), before: None }),
            read_through: None,
            files: vec![],
            committed_at: at("2026-11-23T17:41:01.25Z"),
        }
    }

    #[test]
    fn version_1_of_the_commit_has_these_bytes() {
        let encoded = commit().encode().expect("encodes");
        assert_eq!(String::from_utf8(encoded).expect("utf8"), GOLDEN);
        let decoded = Commit::decode("p", &commit().source, 42, GOLDEN.as_bytes());
        assert_eq!(decoded.expect("decodes"), commit());
    }

    #[test]
    fn version_2_of_the_commit_has_these_bytes() {
        let mut commit = commit();
        commit.version = SECTIONED_VERSION;
        commit.objects[0].section = Some(Section { skip: 120, of: 4_000 });
        let encoded = commit.encode().expect("encodes");
        assert_eq!(String::from_utf8(encoded).expect("utf8"), SECTIONED);
        let decoded = Commit::decode("p", &commit.source, 42, SECTIONED.as_bytes());
        assert_eq!(decoded.expect("decodes"), commit);
        let [sectioned, whole] = &*commit.objects else { panic!("two objects") };
        assert_eq!((sectioned.lines(), whole.lines()), (121..124, 1..2));
        assert_eq!((sectioned.share(), whole.share()), (0, 99));
        assert!(!sectioned.is_first() && whole.is_first());
    }

    #[test]
    fn a_commit_in_the_wrong_place_or_of_a_newer_version_is_refused() {
        let decode = |ordinal, text: &str| {
            Commit::decode("p", &commit().source, ordinal, text.as_bytes())
                .expect_err("is refused")
                .to_string()
        };
        assert!(decode(43, GOLDEN).contains("commit 42"));
        assert!(decode(42, &GOLDEN.replace("\"version\":1", "\"version\":3")).contains("newer"));
        assert!(decode(42, &GOLDEN[..100]).contains("damaged"));
    }

    #[test]
    fn too_many_objects_are_refused_with_what_to_do() {
        let mut commit = commit();
        commit.objects = vec![commit.objects[1].clone(); MAX_COMMIT_OBJECTS];
        assert!(commit.encode().is_ok());
        commit.objects.push(commit.objects[0].clone());
        assert!(commit.encode().expect_err("too many").to_string().contains("smaller parts"));
    }
}
