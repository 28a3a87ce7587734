//! What the demo remembers of a lake between two runs, and which days come next.
//!
//! `_clickmill/demo/state.json` names the runs so far; the shop's database
//! after each run is `_clickmill/demo/shop-<run>.json.gz`. The state is written
//! after the clicks were delivered and the exports stand. A run that was killed
//! before simulates the same days again: the same events with the same ids, of
//! which the tables keep one.

use std::io::{Read as _, Write as _};

use anyhow::Context as _;
use clickmill_lake::Lake;
use clickmill_schemas::Timestamp;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::shop::{DAY_MS, Shop};

const STATE: &str = "_clickmill/demo/state.json";
const VERSION: u32 = 1;
/// The first run starts so many days before today. The collector takes events
/// of the last 30 days; two are kept clear of that edge.
pub const WINDOW_DAYS: i64 = 28;
/// The seed of a new lake, where the user gives none.
pub const DEFAULT_SEED: u64 = 42;

/// The runs so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    pub seed: u64,
    pub runs: Vec<Run>,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// From 1.
    pub run: u64,
    /// Days since 1970-01-01.
    pub first_day: i64,
    pub days: i64,
    pub visitors: u64,
}

/// What the user asked for cannot be done; the text says what can.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl State {
    /// The lake's state, or that of a lake without any run.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub async fn load(lake: &Lake) -> anyhow::Result<Option<Self>> {
        let Some(bytes) = read(lake, STATE).await? else { return Ok(None) };
        let state: Self = parse(lake, STATE, &bytes)?;
        anyhow::ensure!(
            state.version == VERSION,
            "{}{STATE} is of version {}, this program knows {VERSION}; use a new --lake",
            lake.url(),
            state.version
        );
        Ok(Some(state))
    }

    /// A new lake's.
    pub fn new(seed: u64) -> Self {
        Self { version: VERSION, seed, runs: Vec::new() }
    }

    /// The shop as the last run left it.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub async fn shop(&self, lake: &Lake) -> anyhow::Result<Shop> {
        let Some(last) = self.runs.last() else { return Ok(Shop::new(self.seed)) };
        let path = database(last.run);
        let bytes = read(lake, &path)
            .await?
            .with_context(|| format!("{}{path} is gone; use a new --lake", lake.url()))?;
        let mut text = Vec::new();
        GzDecoder::new(bytes.as_slice())
            .read_to_end(&mut text)
            .with_context(|| format!("{}{path} is damaged; use a new --lake", lake.url()))?;
        parse(lake, &path, &text)
    }

    /// Remembers a run: the shop first, then the state that names it.
    ///
    /// # Errors
    /// Where the lake cannot be written.
    pub async fn save(&mut self, lake: &Lake, run: Run, shop: &Shop) -> anyhow::Result<()> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&serde_json::to_vec(shop)?)?;
        write(lake, &database(run.run), gzip.finish()?).await?;
        self.runs.push(run);
        write(lake, STATE, serde_json::to_vec_pretty(self)?).await
    }

    /// The days that come next, where they are all in the past.
    ///
    /// # Errors
    /// [`Refused`] where they are not.
    pub fn next(&self, today: i64, days: i64, visitors: u64) -> Result<Run, Refused> {
        if !(1..=WINDOW_DAYS).contains(&days) {
            return Err(Refused(format!(
                "--days {days} is not between 1 and {WINDOW_DAYS}: the simulated days are real ones, \
                 and the collector takes events of the last 30 days"
            )));
        }
        let first_day = self.runs.last().map_or(today - WINDOW_DAYS, |r| r.first_day + r.days);
        let left = today - first_day;
        let through = date(first_day - 1);
        if left < 1 {
            return Err(Refused(format!(
                "this lake's shop is simulated through {through}, which was yesterday: come back \
                 tomorrow, or start another shop with a new --lake"
            )));
        }
        if days > left {
            return Err(Refused(format!(
                "this lake's shop is simulated through {through} and only {left} of the next {days} \
                 days are over: use --days {left} or less, or start another shop with a new --lake"
            )));
        }
        if left > WINDOW_DAYS + 1 {
            return Err(Refused(format!(
                "this lake's shop is simulated through {through}, and the collector no longer takes \
                 events of the day after it: start another shop with a new --lake"
            )));
        }
        let run = self.runs.last().map_or(1, |r| r.run + 1);
        Ok(Run { run, first_day, days, visitors })
    }
}

impl Run {
    /// Midnight after its last day.
    pub const fn end_ms(&self) -> i64 {
        (self.first_day + self.days) * DAY_MS
    }
}

/// A day as `2026-11-23`.
pub fn date(day: i64) -> String {
    let text = Timestamp::from_micros(day * DAY_MS * 1_000).map(|t| t.to_string());
    text.ok().and_then(|t| t.get(..10).map(str::to_owned)).unwrap_or_default()
}

/// The day it is, in UTC.
pub fn today() -> i64 {
    Timestamp::now().micros().div_euclid(DAY_MS * 1_000)
}

fn database(run: u64) -> String {
    format!("_clickmill/demo/shop-{run:06}.json.gz")
}

fn parse<T: DeserializeOwned>(lake: &Lake, path: &str, bytes: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(bytes)
        .with_context(|| format!("{}{path} is damaged; use a new --lake", lake.url()))
}

async fn read(lake: &Lake, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let shown = || format!("cannot read {}{path}", lake.url());
    match lake.store().get(&Path::from(path)).await {
        Ok(found) => Ok(Some(found.bytes().await.with_context(shown)?.to_vec())),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error).with_context(shown),
    }
}

/// Writes an object of the demo's own.
///
/// # Errors
/// Where the lake cannot be written.
pub async fn write(lake: &Lake, path: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
    lake.store()
        .put(&Path::from(path), PutPayload::from(bytes))
        .await
        .with_context(|| format!("cannot write {}{path}", lake.url()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: i64 = 20_780;

    #[test]
    fn two_runs_of_fourteen_days_reach_yesterday_and_a_third_is_refused() {
        let mut state = State::new(1);
        for first_day in [TODAY - 28, TODAY - 14] {
            let run = state.next(TODAY, 14, 10).expect("days left");
            assert_eq!((run.first_day, run.run), (first_day, state.runs.len() as u64 + 1));
            state.runs.push(run);
        }
        let refused = state.next(TODAY, 14, 10).expect_err("no days left").0;
        assert!(refused.contains("yesterday"), "{refused}");
        assert!(state.next(TODAY + 1, 1, 10).is_ok());
    }

    #[test]
    fn a_run_into_the_future_says_how_many_days_there_are() {
        let mut state = State::new(1);
        state.runs.push(Run { run: 1, first_day: TODAY - 28, days: 20, visitors: 1 });
        let refused = state.next(TODAY, 14, 10).expect_err("too many").0;
        assert!(refused.contains("--days 8"), "{refused}");
    }

    #[test]
    fn days_that_the_collector_would_not_take_are_refused() {
        let mut state = State::new(1);
        assert!(state.next(TODAY, 0, 1).is_err());
        assert!(state.next(TODAY, 29, 1).is_err());
        assert!(state.next(TODAY, 28, 1).is_ok());
        state.runs.push(Run { run: 1, first_day: TODAY - 60, days: 14, visitors: 1 });
        assert!(state.next(TODAY, 14, 1).expect_err("too old").0.contains("new --lake"));
    }

    #[tokio::test]
    async fn the_next_run_finds_the_shop_as_it_was_left() {
        let folder = tempfile::tempdir().expect("temp");
        let lake = Lake::open(&folder.path().display().to_string()).await.expect("opens");
        assert_eq!(State::load(&lake).await.expect("loads"), None);
        let mut state = State::new(9);
        let mut shop = state.shop(&lake).await.expect("a new shop");
        let run = state.next(TODAY, 1, 200).expect("days left");
        let plan = shop.plan(1, run.first_day, 1, 200);
        let _ = shop.day(&plan, run.first_day);
        state.save(&lake, run, &shop).await.expect("saves");
        let loaded = State::load(&lake).await.expect("loads").expect("a state");
        assert_eq!(loaded, state);
        assert_eq!(loaded.shop(&lake).await.expect("the shop"), shop);
    }
}
