//! What a million events cost at Kinesis and at Firehose, aggregated and not.
//!
//! `cargo run --release -p clickmill-collector --example cost -- [EVENTS]`
//!
//! Nothing is sent and no time is measured: typical Segment events go through
//! the decoder, get the lineage that the spool gives them, and are packed as the
//! sinks pack them, in batches as `clickmill collect` ships them: what comes in
//! 200 ms, at most 10,000 events. So many events (50,000 unless told otherwise) are
//! packed, and the figures scaled to a million. They are the same on every machine;
//! docs/sinks.md has them.

use std::error::Error;

use clickmill_collector::protocol::Received;
use clickmill_collector::protocol::segment::Body;
use clickmill_collector::sink::{
    FirehoseLimits, KinesisLimits, RecordKind, SinkBatch, SpoolRecord, firehose, kinesis,
};
use clickmill_collector::{Event, Timestamp};

const EVENTS: usize = 50_000;
const MILLION: f64 = 1e6;
const EVENTS_A_REQUEST: usize = 10;
const COLLECTOR_ID: &str = "5c9f1c52-7d1e-4b7b-9c55-3f1f6f0f2b11";
/// Events a second, and the shards that a stream would have for them.
const LOADS: [(usize, usize); 3] = [(500, 1), (5_000, 5), (50_000, 50)];
/// Batches a second: `batch_max_wait_ms` of a stream is 200.
const BATCHES_A_SECOND: usize = 5;
/// A batch's most events, for a stream.
const MAX_BATCH_EVENTS: usize = 10_000;
const NAMES: [&str; 5] = [
    "Product Viewed",
    "Product List Viewed",
    "Product Added",
    "Products Searched",
    "Order Completed",
];
const PAGES: [&str; 5] = ["/", "/c/shoes", "/p/trail-runner-3", "/cart", "/search?q=waterproof"];

fn main() -> Result<(), Box<dyn Error>> {
    let events = match std::env::args().nth(1) {
        Some(count) => count.parse()?,
        None => EVENTS,
    };
    println!(
        "| sink | events/s | shards | | records | MB | billed | calls | bytes an event |\n\
         |---|---|---|---|---|---|---|---|---|"
    );
    for (rate, shards) in LOADS {
        let batch = (rate / BATCHES_A_SECOND).clamp(1, MAX_BATCH_EVENTS);
        let together = KinesisLimits::default();
        let alone = KinesisLimits { aggregate_bytes: 0, ..together };
        let (mut aggregated, mut apart) = (Sum::default(), Sum::default());
        for batch in batches(events, batch) {
            let batch = batch?;
            aggregated.add_kinesis(kinesis::Packing::of(&batch, shards, &together));
            apart.add_kinesis(kinesis::Packing::of(&batch, shards, &alone));
        }
        aggregated.print("Kinesis", rate, &shards.to_string(), "aggregated", "units", events);
        apart.print("Kinesis", rate, &shards.to_string(), "one each", "units", events);
        println!("| | | | apart : together | {} |", apart.ratios(&aggregated));
    }
    for (rate, _) in LOADS {
        let batch = (rate / BATCHES_A_SECOND).clamp(1, MAX_BATCH_EVENTS);
        let together = FirehoseLimits::default();
        let alone = FirehoseLimits { record_target_bytes: 0, ..together };
        let (mut shared, mut apart) = (Sum::default(), Sum::default());
        for batch in batches(events, batch) {
            let batch = batch?;
            shared.add_firehose(firehose::Packing::of(&batch, &together));
            apart.add_firehose(firehose::Packing::of(&batch, &alone));
        }
        shared.print("Firehose", rate, "", "shared records", "MB", events);
        apart.print("Firehose", rate, "", "one each", "MB", events);
        println!("| | | | apart : together | {} |", apart.ratios(&shared));
    }
    Ok(())
}

/// What all batches come to.
#[derive(Default)]
struct Sum {
    records: usize,
    bytes: usize,
    /// PUT payload units of Kinesis, MB of Firehose.
    billed: f64,
    calls: usize,
}

impl Sum {
    fn add_kinesis(&mut self, packing: kinesis::Packing) {
        self.records += packing.records;
        self.bytes += packing.bytes;
        self.billed += packing.put_units as f64;
        self.calls += packing.calls;
    }

    fn add_firehose(&mut self, packing: firehose::Packing) {
        self.records += packing.records;
        self.bytes += packing.bytes;
        self.billed += packing.billed_bytes as f64 / 1e6;
        self.calls += packing.calls;
    }

    fn print(&self, sink: &str, rate: usize, shards: &str, how: &str, unit: &str, events: usize) {
        let scaled = |figure: f64| (figure * MILLION / events.max(1) as f64).round();
        println!(
            "| {sink} | {rate} | {shards} | {how} | {} | {} | {} {unit} | {} | {} |",
            scaled(self.records as f64),
            scaled(self.bytes as f64 / 1e6),
            scaled(self.billed),
            scaled(self.calls as f64),
            self.bytes / events.max(1),
        );
    }

    fn ratios(&self, together: &Self) -> String {
        let ratio = |apart: f64, together: f64| format!("{:.2}", apart / together);
        [
            ratio(self.records as f64, together.records as f64),
            ratio(self.bytes as f64, together.bytes as f64),
            ratio(self.billed, together.billed),
            ratio(self.calls as f64, together.calls as f64),
            String::new(),
        ]
        .join(" | ")
    }
}

/// `events` in batches of `size`, by as many visitors as have ten events each.
fn batches(events: usize, size: usize) -> impl Iterator<Item = Result<SinkBatch, Box<dyn Error>>> {
    (0..events).step_by(size).map(move |first| {
        let mut records = Vec::with_capacity(size);
        let last = (first + size).min(events);
        let mut request = first;
        while request < last {
            let until = (request + EVENTS_A_REQUEST).min(last);
            append_request(request..until, &mut records)?;
            request = until;
        }
        Ok(SinkBatch {
            collector_id: COLLECTOR_ID.to_owned(),
            first_wal_seq: first as i64 + 1,
            last_wal_seq: last as i64,
            records,
        })
    })
}

/// One visitor's request, decoded.
fn append_request(
    numbers: std::ops::Range<usize>,
    records: &mut Vec<SpoolRecord>,
) -> Result<(), Box<dyn Error>> {
    let messages: Vec<String> = numbers.clone().map(message).collect();
    let body =
        format!(r#"{{"sentAt":"2026-11-23T10:00:01.500Z","batch":[{}]}}"#, messages.join(","));
    let opened = Body::open(&body, None)?;
    let at = Timestamp::parse("2026-11-23T10:00:01.623Z")?;
    for (number, message) in numbers.zip(opened.messages()) {
        let mut event: Event<'_> = opened.decode(message, Received { app_id: "shop-de", at })?;
        event.collector_id = Some(COLLECTOR_ID.into());
        event.wal_seq = Some(number as i64 + 1);
        let line = event.encode().into();
        records.push(SpoolRecord { wal_seq: number as i64 + 1, kind: RecordKind::Event, line });
    }
    Ok(())
}

/// What analytics.js sends of an event of a shop.
fn message(number: usize) -> String {
    let visitor = number / EVENTS_A_REQUEST * 7_919 % 1_000_003;
    let product = number * 17 % 90_000;
    format!(
        r#"{{"messageId":"ajs-next-{number:032x}","type":"track","event":"{name}",
        "anonymousId":"{visitor:08x}-7a1b-4c3d-9e8f-0123456789ab","timestamp":"2026-11-23T10:00:00.{millis:03}Z",
        "properties":{{"product_id":"P{product:05}","sku":"SKU-{product:05}-42","name":"Trail Runner {product}",
        "brand":"Northwind","category":"Shoes > Running > Trail","variant":"42 / graphite","price":{price}.95,
        "quantity":1,"currency":"EUR","position":{position},"coupon":"AUTUMN10","list_id":"search-results"}},
        "context":{{"page":{{"path":"{page}","url":"https://shop.example{page}","title":"Trail running shoes - Shop",
        "referrer":"https://www.example.org/?q=trail+running+shoes","search":""}},
        "campaign":{{"source":"newsletter","medium":"email","name":"autumn-{campaign}"}},
        "userAgent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
        "locale":"de-DE","timezone":"Europe/Berlin","screen":{{"width":1920,"height":1080}},
        "library":{{"name":"analytics.js","version":"npm:next-1.84.3"}}}},"integrations":{{}}}}"#,
        name = NAMES[number % NAMES.len()],
        page = PAGES[number / 3 % PAGES.len()],
        millis = number % 1_000,
        price = 20 + number % 180,
        position = number % 24,
        campaign = number % 9,
    )
}
