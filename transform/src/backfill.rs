//! Days of `events` made again by the configuration of now: the shop's own columns
//! ([`crate::OwnColumns`]), and channels where they are asked for.
//!
//! A batch names the days whose rows would differ, and writes them again. Own
//! columns touch no table of ours, so the tables derived from `events` stay as they are; the
//! shop's jobs see the days as changed. With channels, derived tables follow as always.

use std::collections::BTreeSet;

use clickmill_lake::Lake;
use clickmill_lake::table::Table;
use clickmill_schemas::Date;
use clickmill_schemas::tables::EVENTS;
use serde::{Deserialize, Serialize};

use crate::TransformError;
use crate::batch::MAX_BATCH_BYTES;
use crate::jobs::{self, JobContext};
use crate::run::{self, Progress, RunOptions, RunReport};
use crate::sources::{Notice, Severity};

/// What a batch makes again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfill {
    /// Partitions of `events`, of which a row has another value by the configuration.
    pub days: BTreeSet<Date>,
    /// True where events get their channel anew, too.
    pub channels: bool,
}

/// What to make again.
#[derive(Clone, Copy, Debug, Default)]
pub struct BackfillRange {
    /// The first day; `None`: of the table.
    pub from: Option<Date>,
    /// The last day; `None`: of the table.
    pub to: Option<Date>,
    /// True where events get their channel anew, too.
    pub channels: bool,
}

/// Takes in what is new, then makes the days of the range again.
///
/// # Errors
/// [`TransformError`]. What was committed stays; run it again to go on.
pub async fn run(
    lake: &Lake,
    options: &RunOptions,
    progress: &dyn Progress,
    range: BackfillRange,
) -> Result<RunReport, TransformError> {
    let mut report = run::run(lake, options, progress).await?;
    for days in groups(lake, range).await? {
        run::amended(lake, options, progress, &mut report, async |batch| {
            batch.backfill = Some(Backfill { days: days.clone(), channels: range.channels });
            let context = JobContext::new(lake, batch, None, options).await?;
            let stale = jobs::stale_days(&context).await?;
            let is_needed = !stale.is_empty();
            batch.backfill = Some(Backfill { days: stale, channels: range.channels });
            Ok(is_needed)
        })
        .await?;
    }
    // That a backfill is due.
    let is_due =
        |notice: &Notice| notice.source == EVENTS.name && notice.severity == Severity::Remark;
    report.notices.retain(|notice| !is_due(notice));
    Ok(report)
}

/// Days that one batch makes again each, in order: what it is cut off in is done again.
async fn groups(lake: &Lake, range: BackfillRange) -> Result<Vec<BTreeSet<Date>>, TransformError> {
    let Some(table) = Table::open(lake, &EVENTS).await? else { return Ok(Vec::new()) };
    let is_meant = |day: &Date| {
        range.from.is_none_or(|from| *day >= from) && range.to.is_none_or(|to| *day <= to)
    };
    let mut groups: Vec<BTreeSet<Date>> = Vec::new();
    let mut held = 0;
    for day in table.days().into_iter().filter(is_meant) {
        let files = table.files().iter().filter(|file| file.dt == Some(day));
        let bytes: u64 = files.map(|file| file.bytes).sum();
        match groups.last_mut() {
            Some(group) if held + bytes <= MAX_BATCH_BYTES => {
                held += bytes;
                group.insert(day);
            }
            _ => {
                held = bytes;
                groups.push(BTreeSet::from([day]));
            }
        }
    }
    Ok(groups)
}
