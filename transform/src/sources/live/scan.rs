//! DynamoDB, by parallel scan, at a share of the table's read capacity.
//!
//! In rounds: of as many segments as the share has room for one page each, side by
//! side; then a pause for as long as the share needs for what the round consumed. The
//! first round is one small page, which tells what an item costs. Items are written as
//! an export to S3 would have them.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnConsumedCapacity};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clickmill_lake::Lake;
use clickmill_schemas::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::super::config::TableMapping;
use super::config::ScanSource;
use super::parts::JsonLines;
use super::{
    Content, Format, Notice, Progress, Severity, SourceError, Table, VERSION, due_at, fingerprint,
};

/// Read capacity of a table on demand, units a second: what DynamoDB gives a new one.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html>
const ON_DEMAND_UNITS: u32 = 12_000;
/// A round should take about as long as this at the share's rate.
const ROUND_SECONDS: f64 = 1.0;
/// Items of a first page, before it is known what they cost.
const FIRST_ITEMS: i32 = 25;
/// Items of a page, at most: a page has 1 MB at most anyway.
const MAX_ITEMS: i32 = 10_000;

/// Reads the tables of a source that are due. What fails is told.
pub(super) async fn pull(lake: &Lake, name: &str, scan: &ScanSource, notices: &mut Vec<Notice>) {
    let mut client = None;
    for (dataset, mapping) in scan.mappings() {
        let table = Table { lake, source: name, dataset };
        let read = Read { table, scan, mapping };
        let outcome = async {
            if !read.is_due().await? {
                return Ok(true);
            }
            if client.is_none() {
                client = Some(Client::new(&clickmill_lake::aws::sdk_config().await));
            }
            match &client {
                Some(client) => read.run(client).await,
                None => Ok(true),
            }
        };
        match outcome.await {
            Ok(true) => {}
            Ok(false) => notices.push(Notice {
                source: name.to_owned(),
                subject: table.subject(),
                severity: Severity::Remark,
                problem: "another run read it at the same time".to_owned(),
                advice: "its read is taken, this one is not".to_owned(),
            }),
            Err(error) => notices.push(table.notice(&error)),
        }
    }
}

/// One table.
struct Read<'a> {
    table: Table<'a>,
    scan: &'a ScanSource,
    mapping: &'a TableMapping,
}

/// How far a segment is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Segment {
    #[default]
    Beginning,
    /// The key of the last item seen, in DynamoDB JSON.
    After(Map<String, Value>),
    End,
}

impl Read<'_> {
    fn table_name(&self) -> &str {
        self.mapping.table.as_deref().unwrap_or(self.table.dataset.section())
    }

    fn settings(&self) -> String {
        fingerprint(&(self.table_name(), self.scan.segments, self.mapping))
    }

    async fn is_due(&self) -> Result<bool, SourceError> {
        let Some((number, done)) = self.table.newest().await? else { return Ok(true) };
        if done.settings != self.settings()
            || due_at(&done, self.scan.read_every) <= Timestamp::now()
        {
            return Ok(true);
        }
        let progress = self.table.progress::<Vec<Segment>>().await?;
        Ok(progress.is_some_and(|progress| progress.number == number + 1))
    }

    fn failed<E: std::error::Error + Send + Sync + 'static>(
        &self,
        verb: &str,
    ) -> impl Fn(E) -> SourceError {
        let problem = format!("cannot {verb} the DynamoDB table {}", self.table_name());
        move |error| self.table.live(&problem, error)
    }

    /// False where another run was faster.
    async fn run(&self, client: &Client) -> Result<bool, SourceError> {
        let described = client.describe_table().table_name(self.table_name()).send().await;
        let described = described
            .map_err(|error| self.failed("describe")(aws_sdk_dynamodb::Error::from(error)))?;
        let provisioned = described
            .table()
            .and_then(|table| table.provisioned_throughput())
            .and_then(|throughput| throughput.read_capacity_units());
        let mut pace = Pace::new(self.scan, provisioned);
        let mut progress = self.progress().await?;
        let mut lines = JsonLines::new();
        while progress.position.iter().any(|segment| *segment != Segment::End) {
            let started = Instant::now();
            let round = self.round(client, &progress.position, &pace).await?;
            let mut items = 0_usize;
            let mut units = 0.0;
            for (at, page) in round {
                for item in &page.items {
                    let line = json!({"Item": to_json(item)});
                    lines.push(&line).map_err(self.failed("compress items of"))?;
                }
                items += page.items.len();
                units += page.units;
                progress.position[at] = match page.last {
                    Some(key) => Segment::After(to_json(&key)),
                    None => Segment::End,
                };
            }
            let is_last = progress.position.iter().all(|segment| *segment == Segment::End);
            if lines.is_full() || (is_last && !lines.is_empty()) {
                progress.files.push(lines.write(&self.table, progress.number).await?);
                self.table.save(&progress).await?;
            }
            if !is_last {
                let running = progress.position.iter().filter(|s| **s != Segment::End).count();
                tokio::time::sleep_until(started + pace.after(units, items, running)).await;
            }
        }
        let full_at = progress.read_at;
        let columns = &self.mapping.columns;
        self.table.finish(progress, full_at, Format::DynamodbJson, columns, self.table_name()).await
    }

    /// Where the read that was cut off stands, or the beginning of a new one.
    async fn progress(&self) -> Result<Progress<Vec<Segment>>, SourceError> {
        let number = self.table.newest_number().await?.unwrap_or(0) + 1;
        let settings = self.settings();
        if let Some(progress) = self.table.progress::<Vec<Segment>>().await?
            && progress.number == number
            && progress.settings == settings
            && progress.version == VERSION
            && progress.position.len() == self.scan.segments as usize
        {
            return Ok(progress);
        }
        let now = Timestamp::now();
        Ok(Progress {
            version: VERSION,
            number,
            read_at: now,
            settings,
            exported_at: now,
            content: Content::Snapshot,
            since: None,
            bound: None,
            position: vec![Segment::Beginning; self.scan.segments as usize],
            files: Vec::new(),
        })
    }

    /// The next page of the segments whose turn it is.
    async fn round(
        &self,
        client: &Client,
        segments: &[Segment],
        pace: &Pace,
    ) -> Result<Vec<(usize, Page)>, SourceError> {
        let open = segments.iter().enumerate().filter(|(_, segment)| **segment != Segment::End);
        let pages = open.take(pace.pages).map(|(at, segment)| async move {
            let start = match segment {
                Segment::After(key) => Some(from_json(key).ok_or_else(|| {
                    let reason = "the noted progress is no key of DynamoDB";
                    self.table.live("cannot go on with the read", reason)
                })?),
                _ => None,
            };
            let scanned = client
                .scan()
                .table_name(self.table_name())
                .segment(i32::try_from(at).unwrap_or(i32::MAX))
                .total_segments(i32::try_from(segments.len()).unwrap_or(i32::MAX))
                .limit(pace.page_items)
                .set_exclusive_start_key(start)
                .return_consumed_capacity(ReturnConsumedCapacity::Total)
                .send()
                .await
                .map_err(|error| self.failed("scan")(aws_sdk_dynamodb::Error::from(error)))?;
            let units = scanned.consumed_capacity().and_then(|used| used.capacity_units());
            let last = scanned.last_evaluated_key().filter(|key| !key.is_empty()).cloned();
            let units = units.unwrap_or_default();
            Ok((at, Page { units, last, items: scanned.items.unwrap_or_default() }))
        });
        futures::future::try_join_all(pages).await
    }
}

/// An answer of DynamoDB.
struct Page {
    items: Vec<HashMap<String, AttributeValue>>,
    last: Option<HashMap<String, AttributeValue>>,
    units: f64,
}

/// How fast to read. Pure.
struct Pace {
    units_per_second: f64,
    /// Pages of the next round, at most.
    pages: usize,
    /// Items that each of them asks for.
    page_items: i32,
}

impl Pace {
    /// `provisioned`: read units of the table, 0 where it is on demand.
    fn new(scan: &ScanSource, provisioned: Option<i64>) -> Self {
        let capacity = match provisioned {
            Some(units) if units > 0 => units as f64,
            _ => f64::from(scan.on_demand_units.unwrap_or(ON_DEMAND_UNITS)),
        };
        let share = f64::from(scan.capacity_percent) / 100.0;
        Self { units_per_second: capacity * share, pages: 1, page_items: FIRST_ITEMS }
    }

    /// How long a round must last that consumed so much; sizes the next one, with so many
    /// segments left.
    fn after(&mut self, units: f64, items: usize, segments: usize) -> Duration {
        if items > 0 && units > 0.0 && segments > 0 {
            let wanted = self.units_per_second * ROUND_SECONDS / (units / items as f64);
            self.pages = (wanted as usize).clamp(1, segments);
            self.page_items = ((wanted / self.pages as f64) as i32).clamp(1, MAX_ITEMS);
        }
        Duration::try_from_secs_f64(units / self.units_per_second).unwrap_or_default()
    }
}

/// An item in DynamoDB JSON.
fn to_json(item: &HashMap<String, AttributeValue>) -> Map<String, Value> {
    item.iter().map(|(name, value)| (name.clone(), value_to_json(value))).collect()
}

fn value_to_json(value: &AttributeValue) -> Value {
    let bytes = |blob: &Blob| STANDARD.encode(blob.as_ref());
    match value {
        AttributeValue::S(text) => json!({"S": text}),
        AttributeValue::N(number) => json!({"N": number}),
        AttributeValue::B(blob) => json!({"B": bytes(blob)}),
        AttributeValue::Bool(flag) => json!({"BOOL": flag}),
        AttributeValue::Null(flag) => json!({"NULL": flag}),
        AttributeValue::Ss(all) => json!({"SS": all}),
        AttributeValue::Ns(all) => json!({"NS": all}),
        AttributeValue::Bs(all) => json!({"BS": all.iter().map(bytes).collect::<Vec<_>>()}),
        AttributeValue::L(all) => json!({"L": all.iter().map(value_to_json).collect::<Vec<_>>()}),
        AttributeValue::M(map) => json!({"M": to_json(map)}),
        // A type that this SDK does not know: whatever reads it says so.
        _ => json!({}),
    }
}

/// A key out of DynamoDB JSON: keys are text, numbers or bytes.
fn from_json(key: &Map<String, Value>) -> Option<HashMap<String, AttributeValue>> {
    key.iter()
        .map(|(name, value)| {
            let (kind, value) = value.as_object()?.iter().next()?;
            let text = value.as_str()?;
            let value = match kind.as_str() {
                "S" => AttributeValue::S(text.to_owned()),
                "N" => AttributeValue::N(text.to_owned()),
                "B" => AttributeValue::B(Blob::new(STANDARD.decode(text).ok()?)),
                _ => return None,
            };
            Some((name.clone(), value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> ScanSource {
        toml::from_str(&format!("{text}\n[orders]")).unwrap()
    }

    #[test]
    fn a_scan_keeps_to_its_share_of_the_capacity() {
        // 400 units a second, a quarter of them: 100.
        let mut pace = Pace::new(&scan(""), Some(400));
        assert_eq!((pace.pages, pace.page_items), (1, FIRST_ITEMS));
        // 50 units are half a second's; 4 segments get 25 units a round, at half a unit an item.
        assert_eq!(pace.after(50.0, 100, 4), Duration::from_millis(500));
        assert_eq!((pace.pages, pace.page_items), (4, 50));
        // The fewer segments run, the more each may ask for.
        assert_eq!(pace.after(100.0, 200, 1), Duration::from_secs(1));
        assert_eq!(pace.page_items, 200);
        // An empty page costs, and says nothing of items.
        assert_eq!(pace.after(1.0, 0, 1), Duration::from_millis(10));
        assert_eq!(pace.page_items, 200);
    }

    #[test]
    fn a_small_table_is_read_item_by_item_rather_than_too_fast() {
        let mut pace = Pace::new(&scan("capacity_percent = 10"), Some(5));
        assert_eq!(pace.after(2.0, 4, 4), Duration::from_secs(4));
        // Half a unit a second has room for one item, not for one of each segment.
        assert_eq!((pace.pages, pace.page_items), (1, 1));
    }

    #[test]
    fn a_table_on_demand_has_the_capacity_that_is_configured() {
        let of = |text: &str| Pace::new(&scan(text), Some(0)).units_per_second;
        assert!((of("") - 3_000.0).abs() < 1e-9);
        assert!((of("on_demand_units = 100\ncapacity_percent = 50") - 50.0).abs() < 1e-9);
    }

    #[test]
    fn keys_survive_a_restart() {
        let key = HashMap::from([
            ("id".to_owned(), AttributeValue::S("a".to_owned())),
            ("n".to_owned(), AttributeValue::N("12.30".to_owned())),
            ("b".to_owned(), AttributeValue::B(Blob::new([0, 255]))),
        ]);
        assert_eq!(from_json(&to_json(&key)), Some(key));
        assert_eq!(from_json(&Map::from_iter([("x".to_owned(), json!({"M": {}}))])), None);
    }
}
