//! A Kinesis stream in memory: the answers are made beforehand, and handed to the AWS
//! SDK in place of a connection.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_kinesis::config::SharedHttpClient;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use clickmill_collector::sink::kpl::Aggregate;

/// What one GetRecords answers at most. Source: GetRecords, Kinesis API Reference.
const PAGE_BYTES: usize = 10 << 20;
const PAGE_RECORDS: usize = 10_000;
const CREATED: i64 = 1_795_455_600;

/// The stream's shards, each a list of answers to GetRecords.
#[derive(Clone)]
pub struct Stream {
    shards: Arc<Vec<Vec<Bytes>>>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("shards", &self.shards.len()).finish()
    }
}

/// A page in the making.
#[derive(Default)]
struct Page {
    records: Vec<String>,
    bytes: usize,
}

/// A shard in the making.
struct Shard {
    pages: Vec<Page>,
    aggregate: Aggregate,
    gathered: usize,
}

impl Shard {
    fn new() -> Self {
        Self { pages: vec![Page::default()], aggregate: Aggregate::new(7), gathered: 0 }
    }

    /// Makes a record of what is gathered.
    fn cut(&mut self, number: &mut usize) {
        if std::mem::take(&mut self.gathered) == 0 {
            return;
        }
        let data = std::mem::replace(&mut self.aggregate, Aggregate::new(7)).finish();
        if self.pages.last().is_none_or(|page| {
            page.bytes + data.len() > PAGE_BYTES || page.records.len() >= PAGE_RECORDS
        }) {
            self.pages.push(Page::default());
        }
        // Within the retention: nothing is to be looked up.
        let arrived = clickmill_schemas::Timestamp::now().micros() / 1_000_000;
        if let Some(page) = self.pages.last_mut() {
            page.bytes += data.len();
            page.records.push(format!(
                r#"{{"SequenceNumber":"4959{number:052}","ApproximateArrivalTimestamp":{arrived}.5,"Data":"{}","PartitionKey":"a"}}"#,
                BASE64.encode(data)
            ));
        }
        *number += 1;
    }
}

/// Who a line is about.
fn partition_key(line: &[u8]) -> &str {
    const NAME: &[u8] = br#""anonymous_id":""#;
    let found = memchr::memmem::find(line, NAME).map(|at| &line[at + NAME.len()..]);
    let value = found.and_then(|rest| Some(&rest[..memchr::memchr(b'"', rest)?]));
    value.and_then(|value| std::str::from_utf8(value).ok()).unwrap_or("none")
}

impl Stream {
    /// The lines in KPL aggregates of at most so many bytes, each on the shard of its visitor:
    /// the partition key is who it is about, as the collector has it.
    pub fn of_lines(lines: &[u8], shards: usize, aggregate_bytes: usize) -> Self {
        let mut all: Vec<Shard> = (0..shards).map(|_| Shard::new()).collect();
        let mut number = 0;
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let key = partition_key(line);
            let mut hasher = DefaultHasher::new();
            key.hash(&mut hasher);
            let shard = &mut all[usize::try_from(hasher.finish()).unwrap_or(0) % shards];
            if shard.gathered + line.len() > aggregate_bytes {
                shard.cut(&mut number);
            }
            shard.aggregate.push(key, line);
            shard.gathered += line.len();
        }
        let pages = all.into_iter().map(|mut shard| {
            shard.cut(&mut number);
            shard.pages
        });
        let answers = |(shard, pages): (usize, Vec<Page>)| {
            let last = pages.len();
            let mut answers: Vec<Bytes> = pages
                .into_iter()
                .enumerate()
                .map(|(n, page)| answer(shard, n + 1, 1, &page.records))
                .collect();
            // At the tip for good.
            answers.push(answer(shard, last, 0, &[]));
            answers
        };
        Self { shards: Arc::new(pages.enumerate().map(answers).collect()) }
    }

    /// What an SDK's client needs to talk to it.
    pub fn sdk_config(&self) -> SdkConfig {
        let credentials = Credentials::new("bench", "bench", None, None, "bench");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(SharedHttpClient::new(self.clone()))
            .build()
    }

    fn answer(&self, operation: &str, request: &serde_json::Value) -> anyhow::Result<Bytes> {
        let text = |key: &str| request[key].as_str().with_context(|| format!("no {key}"));
        let shard_id = |n: usize| format!("shardId-{n:012}");
        Ok(match operation {
            "DescribeStreamSummary" => serde_json::json!({"StreamDescriptionSummary": {
                "StreamName": "bench",
                "StreamARN": "arn:aws:kinesis:us-east-1:000000000000:stream/bench",
                "StreamStatus": "ACTIVE",
                "RetentionPeriodHours": 24,
                "StreamCreationTimestamp": CREATED,
                "EnhancedMonitoring": [],
                "OpenShardCount": self.shards.len(),
            }})
            .to_string()
            .into(),
            "ListShards" => {
                let shard = |n| {
                    serde_json::json!({
                        "ShardId": shard_id(n),
                        "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": "1"},
                        "SequenceNumberRange": {"StartingSequenceNumber": "0"},
                    })
                };
                let shards: Vec<_> = (0..self.shards.len()).map(shard).collect();
                serde_json::json!({ "Shards": shards }).to_string().into()
            }
            "GetShardIterator" if text("ShardIteratorType")? == "TRIM_HORIZON" => {
                let shard: usize = text("ShardId")?.trim_start_matches("shardId-").parse()?;
                serde_json::json!({ "ShardIterator": format!("{shard}/0") }).to_string().into()
            }
            "GetRecords" => {
                let (shard, page) =
                    text("ShardIterator")?.split_once('/').context("an iterator")?;
                let pages = &self.shards[shard.parse::<usize>()?];
                pages[page.parse::<usize>()?.min(pages.len() - 1)].clone()
            }
            other => bail!("{other} is not answered here: {request}"),
        })
    }
}

fn answer(shard: usize, next: usize, behind: i64, records: &[String]) -> Bytes {
    let records = records.join(",");
    format!(
        r#"{{"MillisBehindLatest":{behind},"NextShardIterator":"{shard}/{next}","Records":[{records}]}}"#
    )
    .into()
}

impl HttpClient for Stream {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Stream {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default();
        let body = serde_json::from_slice(request.body().bytes().unwrap_or_default());
        let (status, body) = match self.answer(operation, &body.unwrap_or_default()) {
            Ok(body) => (200, body),
            Err(error) => (
                400,
                Bytes::from(format!(
                    r#"{{"__type":"InvalidArgumentException","message":"{error}"}}"#
                )),
            ),
        };
        // Both numbers are status codes.
        let status = status.try_into().unwrap_or_else(|_| unreachable!("200 and 400 are"));
        let mut response = HttpResponse::new(status, SdkBody::from(body));
        response.headers_mut().insert("content-type", "application/x-amz-json-1.1");
        HttpConnectorFuture::ready(Ok(response))
    }
}
