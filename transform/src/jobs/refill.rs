//! Columns of `events` computed anew, for a backfill.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray, Int32Array, RecordBatch, StringArray};
use arrow::compute::kernels::cmp::distinct;
use clickmill_lake::table::Table;
use clickmill_schemas::Date;
use clickmill_schemas::tables::EVENTS;
use datafusion::prelude::col;
use futures::TryStreamExt as _;

use super::JobContext;
use super::context::{files_in, table_of};
use crate::TransformError;
use crate::columns::Filler;
use crate::decode::channels::{ChannelRules, Traffic};
use crate::sources::Notice;

const JOB: &str = "ingest";
/// What channels are decided by, and what says so.
const TRAFFIC_COLUMNS: &[&str] = &[
    "utm_source",
    "utm_medium",
    "utm_campaign",
    "click_id_type",
    "page_host",
    "referrer_host",
    "channel",
    "channel_rules_version",
];

/// The days that a batch makes again, and how.
pub struct Refill<'a> {
    pub days: &'a BTreeSet<Date>,
    own: Filler,
    channels: Option<Arc<ChannelRules>>,
}

/// Of the days that the batch is to make again, those of which a row would have another value.
pub async fn stale_days(context: &JobContext<'_>) -> Result<BTreeSet<Date>, TransformError> {
    let mut stale = BTreeSet::new();
    let (Some(refill), Some(base)) = (Refill::of(context), context.base(&EVENTS).await?) else {
        return Ok(stale);
    };
    for day in refill.days.intersection(&base.days()) {
        if refill.differs(context, &base, *day).await? {
            stale.insert(*day);
        }
    }
    Ok(stale)
}

impl<'a> Refill<'a> {
    /// Of what a batch is to make again; `None` where that is nothing.
    pub fn of(context: &JobContext<'a>) -> Option<Self> {
        let backfill = context.batch.backfill.as_ref()?;
        let own = Filler::new(&context.batch.columns, context.events);
        let channels = backfill.channels.then(|| Arc::clone(&context.options.channels));
        Some(Self { days: &backfill.days, own, channels })
    }

    /// True where a row of the day would have another value.
    async fn differs(
        &self,
        context: &JobContext<'_>,
        base: &Table,
        day: Date,
    ) -> Result<bool, TransformError> {
        let mut needs: BTreeSet<&str> = self.own.needs().into_iter().collect();
        needs.extend(self.channels.iter().flat_map(|_| TRAFFIC_COLUMNS));
        if needs.is_empty() {
            return Ok(false);
        }
        let fail = TransformError::job(JOB);
        let files = files_in(base, &BTreeSet::from([day]));
        let rows = context.session().read_table(table_of(context.events, files)).map_err(&fail)?;
        let columns = needs.iter().map(|name| col(format!("\"{name}\"")));
        let rows = rows.select(columns.collect::<Vec<_>>()).map_err(&fail)?;
        let mut rows = rows.execute_stream().await.map_err(&fail)?;
        while let Some(batch) = rows.try_next().await.map_err(&fail)? {
            for (name, values) in self.values(&batch)? {
                let held = batch.column(batch.schema().index_of(name)?);
                if distinct(held, &values)?.true_count() > 0 {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// The rows with their columns computed anew.
    pub fn fill(&self, rows: &RecordBatch) -> Result<RecordBatch, TransformError> {
        let schema = rows.schema();
        let mut columns = rows.columns().to_vec();
        for (name, values) in self.values(rows)? {
            columns[schema.index_of(name)?] = values;
        }
        Ok(RecordBatch::try_new(schema, columns)?)
    }

    /// Values that did not fit their column.
    pub fn notices(&self) -> Vec<Notice> {
        self.own.notices()
    }

    fn values(
        &self,
        rows: &RecordBatch,
    ) -> Result<BTreeMap<&'static str, ArrayRef>, TransformError> {
        let mut values = self.own.values(rows)?;
        if let Some(rules) = &self.channels {
            values.insert("channel", Arc::new(channels(rules, rows)?));
            let version = Int32Array::from(vec![rules.version(); rows.num_rows()]);
            values.insert("channel_rules_version", Arc::new(version));
        }
        Ok(values)
    }
}

fn channels(rules: &ChannelRules, rows: &RecordBatch) -> Result<StringArray, TransformError> {
    let text = |name: &str| {
        Ok::<_, TransformError>(rows.column(rows.schema().index_of(name)?).as_string::<i32>())
    };
    let [source, medium, campaign] =
        [text("utm_source")?, text("utm_medium")?, text("utm_campaign")?];
    let (click_id_type, page_host) = (text("click_id_type")?, text("page_host")?);
    let referrer_host = text("referrer_host")?;
    let channel = |row: usize| {
        rules.channel(&Traffic {
            source: at(source, row),
            medium: at(medium, row),
            campaign: at(campaign, row),
            click_id_type: at(click_id_type, row),
            page_host: at(page_host, row),
            referrer_host: at(referrer_host, row),
        })
    };
    Ok((0..rows.num_rows()).map(|row| Some(channel(row))).collect())
}

fn at(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}
