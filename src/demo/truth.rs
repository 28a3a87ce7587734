//! The simulator's own log: what every request held and how it was answered.
//!
//! One JSON object a line for each HTTP attempt, in
//! `_clickmill/demo/truth/<run>.ndjson` of the lake. The pipeline never reads
//! it; the self check holds the tables against it.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Context as _;
use clickmill_lake::Lake;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload, WriteMultipart};
use serde::{Deserialize, Serialize};

use super::shop::catalog::Cents;
use super::shop::journey::Mark;
use super::shop::traffic::{Fault, Request};

/// Folder of the logs in a lake.
const FOLDER: &str = "_clickmill/demo/truth";
/// Lines are sent to the store in pieces of this size.
const PIECE_BYTES: usize = 8 * 1_024 * 1_024;

/// One HTTP attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Number of the request in its run, from 1.
    pub request: u64,
    /// Sendings of the same request count from 1.
    pub attempt: u32,
    pub path: String,
    /// The status of the answer; none where there was no answer.
    pub status: Option<u16>,
    pub fault: Option<Fault>,
    pub late_days: i64,
    pub skewed: bool,
    pub bot: bool,
    pub events: Vec<Sent>,
}

/// An event in a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    pub id: String,
    pub name: String,
    pub at_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<(String, Cents)>,
    #[serde(default)]
    pub mark: Mark,
}

impl Entry {
    /// What is known of an attempt before its answer.
    pub fn of(request: &Request, number: u64, attempt: u32, path: &str) -> Self {
        let events = request.messages.iter().map(|message| Sent {
            id: message.id.clone(),
            name: message.name.clone(),
            at_ms: message.at_ms,
            order: message.order.clone(),
            mark: message.mark.clone(),
        });
        Self {
            request: number,
            attempt,
            path: path.to_owned(),
            status: None,
            fault: request.fault,
            late_days: request.late_days,
            skewed: request.skew_ms != 0,
            bot: request.bot,
            events: events.collect(),
        }
    }
}

/// What all logs of a lake say together.
#[derive(Debug, Default)]
pub struct Ledger {
    pub runs: u64,
    /// Sendings, with those of no answer.
    pub attempts: u64,
    /// Events in all of them, copies included.
    pub events_sent: u64,
    /// Every event id that got a 200, with how many copies did.
    pub acknowledged: HashMap<String, u32>,
    /// Orders whose purchase event got a 200, with the total in it.
    pub purchases: BTreeMap<String, Cents>,
    /// Faulty requests, and how they were answered.
    pub faults: BTreeMap<Fault, BTreeMap<Option<u16>, u64>>,
    /// Answers.
    pub statuses: BTreeMap<Option<u16>, u64>,
    /// Events that were sent days after they happened.
    pub late: u64,
    /// Events of clients whose clock is off.
    pub skewed: u64,
    /// Events of crawlers.
    pub bots: u64,
}

impl Ledger {
    /// Takes one attempt in.
    pub fn add(&mut self, entry: &Entry) {
        let count = entry.events.len() as u64;
        self.attempts += 1;
        self.events_sent += count;
        *self.statuses.entry(entry.status).or_default() += 1;
        if let Some(fault) = entry.fault {
            *self.faults.entry(fault).or_default().entry(entry.status).or_default() += 1;
        }
        if entry.attempt == 1 {
            self.late += if entry.late_days > 0 { count } else { 0 };
            self.skewed += if entry.skewed { count } else { 0 };
            self.bots += if entry.bot { count } else { 0 };
        }
        if entry.status != Some(200) {
            return;
        }
        for event in &entry.events {
            *self.acknowledged.entry(event.id.clone()).or_default() += 1;
            if let (Some((order, total)), "Order Completed") = (&event.order, event.name.as_str()) {
                self.purchases.insert(order.clone(), *total);
            }
        }
    }

    /// Reads every log of the lake.
    ///
    /// # Errors
    /// Where one cannot be read, or holds a line that is none of ours.
    pub async fn read(lake: &Lake) -> anyhow::Result<Self> {
        let mut ledger = Self::default();
        let folder = Path::from(FOLDER);
        let listing = lake.store().list_with_delimiter(Some(&folder)).await?;
        for object in listing.objects {
            let shown = || format!("the demo's log {}{}", lake.url(), object.location);
            let bytes = lake
                .store()
                .get(&object.location)
                .await
                .with_context(|| format!("cannot open {}", shown()))?
                .bytes()
                .await
                .with_context(|| format!("cannot read {}", shown()))?;
            ledger.runs += 1;
            for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let entry = serde_json::from_slice(line)
                    .with_context(|| format!("{} holds a line of another kind", shown()))?;
                ledger.add(&entry);
            }
        }
        Ok(ledger)
    }

    /// Acknowledged copies beyond the first of each event.
    pub fn extra_copies(&self) -> u64 {
        self.acknowledged.values().map(|n| u64::from(*n) - 1).sum()
    }

    /// Requests with a bad part that the collector answered at all.
    pub fn bad_parts(&self) -> u64 {
        let answered = |by_status: &BTreeMap<Option<u16>, u64>| {
            by_status.iter().filter(|(s, _)| s.is_some()).map(|(_, n)| n).sum::<u64>()
        };
        self.faults.values().map(answered).sum()
    }
}

/// Ids as they are compared: what is acknowledged, against what the table holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Acknowledged, but not in the table.
    pub missing: Vec<String>,
    /// In the table more than once.
    pub repeated: Vec<String>,
    /// In the table, though nobody sent them or nobody answered 200.
    pub unknown: Vec<String>,
}

impl Ledger {
    /// Compares with the table's ids and how often it has each.
    pub fn compare<'a>(&self, table: impl Iterator<Item = (&'a str, i64)>) -> Comparison {
        let mut comparison = Comparison::default();
        let mut seen: HashSet<&str> = HashSet::with_capacity(self.acknowledged.len());
        for (id, count) in table {
            match self.acknowledged.get_key_value(id) {
                Some((known, _)) => {
                    let is_first = seen.insert(known.as_str());
                    if count != 1 || !is_first {
                        comparison.repeated.push(id.to_owned());
                    }
                }
                None => comparison.unknown.push(id.to_owned()),
            }
        }
        let ids = self.acknowledged.keys();
        comparison.missing.extend(ids.filter(|id| !seen.contains(id.as_str())).cloned());
        for list in [&mut comparison.missing, &mut comparison.repeated, &mut comparison.unknown] {
            list.sort_unstable();
            list.dedup();
        }
        comparison
    }
}

/// Writes the log of one run, replacing an unfinished one of the same run.
pub struct Writer {
    upload: Upload,
    buffer: Vec<u8>,
}

enum Upload {
    /// So far everything fits into one piece.
    Small(Lake, Path),
    Large(WriteMultipart),
}

impl Writer {
    /// A log without lines.
    pub fn new(lake: &Lake, run: u64) -> Self {
        let path = Path::from(format!("{FOLDER}/{run:06}.ndjson"));
        Self { upload: Upload::Small(lake.clone(), path), buffer: Vec::new() }
    }

    /// Appends a line.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn append(&mut self, entry: &Entry) -> anyhow::Result<()> {
        serde_json::to_writer(&mut self.buffer, entry)?;
        self.buffer.push(b'\n');
        if self.buffer.len() < PIECE_BYTES {
            return Ok(());
        }
        if let Upload::Small(lake, path) = &self.upload {
            let upload = lake.store().put_multipart(path).await.context("cannot start the log")?;
            self.upload = Upload::Large(WriteMultipart::new_with_chunk_size(upload, PIECE_BYTES));
        }
        if let Upload::Large(upload) = &mut self.upload {
            upload.wait_for_capacity(2).await.context("cannot write the demo's log")?;
            upload.write(&self.buffer);
            self.buffer.clear();
        }
        Ok(())
    }

    /// Makes the log durable.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub async fn finish(self) -> anyhow::Result<()> {
        match self.upload {
            Upload::Small(lake, path) => {
                lake.store()
                    .put(&path, PutPayload::from(self.buffer))
                    .await
                    .with_context(|| format!("cannot write the demo's log {}{path}", lake.url()))?;
            }
            Upload::Large(mut upload) => {
                upload.write(&self.buffer);
                upload.finish().await.context("cannot finish the demo's log")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(status: u16, ids: &[&str]) -> Entry {
        let sent = |id: &&str| Sent {
            id: (*id).to_owned(),
            name: "Order Completed".to_owned(),
            at_ms: 0,
            order: Some((format!("order of {id}"), 1_000)),
            mark: Mark::default(),
        };
        Entry {
            request: 1,
            attempt: 1,
            path: "/v1/t".to_owned(),
            status: Some(status),
            fault: None,
            late_days: 0,
            skewed: false,
            bot: false,
            events: ids.iter().map(sent).collect(),
        }
    }

    #[test]
    fn only_a_200_acknowledges() {
        let mut ledger = Ledger::default();
        ledger.add(&entry(200, &["a"]));
        ledger.add(&entry(503, &["b"]));
        ledger.add(&entry(200, &["a", "c"]));
        assert_eq!(ledger.extra_copies(), 1);
        assert_eq!(ledger.purchases.len(), 2);
        assert_eq!(ledger.acknowledged.len(), 2);
    }

    #[test]
    fn the_comparison_names_what_is_missing_repeated_and_unknown() {
        let mut ledger = Ledger::default();
        ledger.add(&entry(200, &["a", "b", "c"]));
        let table = [("a", 1), ("b", 2), ("x", 1)];
        let comparison = ledger.compare(table.into_iter());
        assert_eq!(comparison.missing, ["c"]);
        assert_eq!(comparison.repeated, ["b"]);
        assert_eq!(comparison.unknown, ["x"]);
    }

    #[tokio::test]
    async fn a_log_reads_back_as_it_was_written() {
        let folder = tempfile::tempdir().expect("temp");
        let lake = Lake::open(&folder.path().display().to_string()).await.expect("opens");
        for run in 1..=2 {
            let mut writer = Writer::new(&lake, run);
            writer.append(&entry(200, &[&format!("e{run}")])).await.expect("appends");
            writer.finish().await.expect("finishes");
        }
        let ledger = Ledger::read(&lake).await.expect("reads");
        assert_eq!((ledger.runs, ledger.acknowledged.len()), (2, 2));
    }
}
