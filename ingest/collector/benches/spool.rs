//! What it costs to take events in process: `track()`, its encoding, the spool.
//!
//! `cargo bench -p clickmill-collector --bench spool -- [FOLDER]`, FOLDER being
//! where spools are made (default: the system's temporary folder). For one core:
//! `taskset -c 0 cargo bench ...`.
//!
//! Two typical events: one of a shop's server (its ids, its amounts: about 400
//! bytes of JSON) and one of a browser (page, campaign, an item, context: about
//! 1,000). Times are medians of single calls, `Instant::now` included (about 25
//! ns); CPU is that of the whole process, from `/proc/self/stat`.

use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use clickmill_collector::spool::{OverflowPolicy, Spool, SpoolOptions};
use clickmill_collector::{Collector, Event, EventTime, Item, Money, Timestamp, TrackError};
use clickmill_schemas::RawJson;

type Outcome<T> = Result<T, Box<dyn Error>>;

const LATENCY_CALLS: usize = 200_000;
const BULK_EVENTS: usize = 1_000_000;
/// Ticks of `/proc/self/stat` a second: USER_HZ, which is 100 on every Linux.
const TICKS: f64 = 100.0;

/// Numbers that repeat from run to run (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn uuid(&mut self) -> String {
        let (a, b) = (self.next(), self.next());
        format!(
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            a >> 32,
            a >> 16 & 0xffff,
            a & 0xfff,
            b >> 52,
            b & 0xffff_ffff_ffff
        )
    }
}

fn time(n: usize) -> Outcome<EventTime> {
    let base = Timestamp::parse("2026-11-23T12:00:00Z")?.micros();
    let at = |micros: i64| Timestamp::from_micros(base + n as i64 * 137 + micros);
    Ok(EventTime::resolve(Some(at(0)?), None, at(2_431)?))
}

fn server_event(n: usize, random: &mut Random) -> Outcome<Event<'static>> {
    let mut event = Event::new(random.uuid(), "purchase", "native", "shop-de", time(n)?);
    event.user_id = Some(format!("customer-{}", random.next() % 100_000).into());
    event.order_id = Some(format!("o{}", random.next() % 1_000_000).into());
    event.currency = Some("EUR".into());
    event.total =
        Some(Money::parse(&format!("{}.{:02}", random.next() % 300, random.next() % 100))?);
    Ok(event)
}

fn browser_event(n: usize, random: &mut Random) -> Outcome<Event<'static>> {
    let product = random.next() % 5_000;
    let mut event = Event::new(random.uuid(), "product_view", "segment", "shop-de", time(n)?);
    event.source_event_name = Some("Product Viewed".into());
    event.platform = Some("web".into());
    event.anonymous_id = Some(random.uuid().into());
    event.page_url = Some(
        format!("https://shop.example/products/p{product}?utm_source=news&utm_medium=email").into(),
    );
    event.page_title = Some(format!("Product {product}").into());
    event.referrer_url = Some(format!("https://shop.example/c/{}", random.next() % 50).into());
    event.utm_source = Some("news".into());
    event.utm_medium = Some("email".into());
    event.user_agent = Some(
        format!(
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
             Chrome/14{}.0.0.0 Safari/537.36",
            random.next() % 9
        )
        .into(),
    );
    event.language = Some("de-DE".into());
    event.timezone = Some("Europe/Berlin".into());
    event.items = vec![Item {
        product_id: Some(format!("p{product}").into()),
        sku: Some(format!("SKU-{product}").into()),
        name: Some(format!("Blue shirt {}", product % 300).into()),
        brand: Some("Acme".into()),
        price: Some(Money::parse(&format!("{}.{:02}", product % 300, product % 100))?),
        quantity: Some(1),
        ..Item::default()
    }];
    let properties = format!("{{\"position\":{},\"viewed_from\":\"list\"}}", random.next() % 40);
    event.properties = Some(RawJson::parse(&properties)?.into_owned());
    let context = r#"{"library":{"name":"analytics.js","version":"1.84.3"}}"#;
    event.context = Some(RawJson::parse(context)?);
    Ok(event)
}

type Make = fn(usize, &mut Random) -> Outcome<Event<'static>>;

fn events(make: Make) -> Outcome<Vec<Event<'static>>> {
    let mut random = Random(88_172_645_463_325_252);
    (0..10_000).map(|n| make(n, &mut random)).collect()
}

/// On-CPU seconds of this process so far.
fn cpu_seconds() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The command's name may hold blanks; it ends with the last parenthesis.
    let (_, after) = stat.rsplit_once(')').ok_or("no such /proc/self/stat")?;
    let field = |n: usize| -> Outcome<f64> {
        Ok(after.split_whitespace().nth(n).ok_or("too few fields")?.parse()?)
    };
    Ok((field(11)? + field(12)?) / TICKS)
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get(sorted.len() * percent / 100).copied().unwrap_or_default()
}

fn encoding(name: &str, events: &[Event<'static>]) {
    let mut line = Vec::new();
    let mut time = |what: &str, encode: fn(&Event<'static>, &mut Vec<u8>)| {
        let (started, mut bytes) = (Instant::now(), 0);
        for event in events.iter().cycle().take(BULK_EVENTS / 2) {
            line.clear();
            encode(event, &mut line);
            bytes += black_box(&line).len();
        }
        let (each, bytes) =
            (started.elapsed() / (BULK_EVENTS / 2) as u32, bytes / (BULK_EVENTS / 2));
        println!("{name:>8}  {what:<20} {:>6} ns an event, {bytes} bytes", each.as_nanos());
    };
    time("encode", Event::encode_to);
    time("encode, by serde", |event, line| line.extend_from_slice(event.encode().as_bytes()));
}

/// Single calls, as fast as they come; where the queue is full it is waited
/// for outside of what is timed.
fn calls(collector: &Collector, events: &[Event<'static>]) -> Outcome<Vec<Duration>> {
    let mut times = Vec::with_capacity(LATENCY_CALLS);
    for event in events.iter().cycle() {
        let started = Instant::now();
        let outcome = collector.track(event);
        let elapsed = started.elapsed();
        match outcome {
            Ok(()) => times.push(elapsed),
            Err(TrackError::Spool(clickmill_collector::spool::AppendError::Busy)) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error.into()),
        }
        if times.len() == LATENCY_CALLS {
            break;
        }
    }
    Ok(times)
}

fn latency(name: &str, dir: &Path, events: &[Event<'static>], threads: usize) -> Outcome<()> {
    let folder = tempfile::tempdir_in(dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let collector = runtime.block_on(Collector::builder(folder.path()).start())?;
    let mut times = std::thread::scope(|scope| -> Outcome<Vec<Duration>> {
        let run = || calls(&collector, events).map_err(|error| error.to_string());
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let mut times = Vec::new();
        for thread in threads {
            times.extend(thread.join().map_err(|_| "a thread panicked")??);
        }
        Ok(times)
    })?;
    runtime.block_on(collector.shutdown(Duration::from_secs(60)));
    times.sort_unstable();
    println!(
        "{name:>8}  track, {threads} thread{}      {:>6} ns median, {:.1?} p99, {:.1?} p99.9",
        if threads == 1 { " " } else { "s" },
        percentile(&times, 50).as_nanos(),
        percentile(&times, 99),
        times.get(times.len() * 999 / 1000).copied().unwrap_or_default(),
    );
    Ok(())
}

/// Encodes and spools, from one thread, until all of it is on disk.
fn bulk(name: &str, dir: &Path, events: &[Event<'static>], block_bytes: usize) -> Outcome<()> {
    let folder = tempfile::tempdir_in(dir)?;
    let options = SpoolOptions { block_bytes, max_bytes: u64::MAX, ..SpoolOptions::default() };
    let spool = Spool::open(folder.path(), options)?;
    let (mut line, mut bytes) = (Vec::new(), 0);
    let (cpu, started) = (cpu_seconds()?, Instant::now());
    for event in events.iter().cycle().take(BULK_EVENTS) {
        line.clear();
        event.encode_to(&mut line);
        bytes += line.len();
        while spool.track(&line, OverflowPolicy::Refuse).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    spool.close();
    let (elapsed, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    let status = spool.status();
    if status.last_wal_seq != BULK_EVENTS as i64 {
        return Err(format!("{} of {BULK_EVENTS} events spooled", status.last_wal_seq).into());
    }
    println!(
        "{name:>8}  block {:>7}         {:>9.0} events/s, {:.0} ns CPU an event, {:.1} bytes on disk \
         of {}, {:.0} MB/s to disk",
        block_bytes,
        BULK_EVENTS as f64 / elapsed,
        cpu * 1e9 / BULK_EVENTS as f64,
        status.bytes as f64 / BULK_EVENTS as f64,
        bytes / BULK_EVENTS,
        status.bytes as f64 / elapsed / 1e6,
    );
    Ok(())
}

fn main() -> Outcome<()> {
    let folder = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let dir = folder.map_or_else(std::env::temp_dir, Into::into);
    let kinds: [(&str, Make); 2] = [("server", server_event), ("browser", browser_event)];
    for (name, make) in kinds {
        let events = events(make)?;
        encoding(name, &events);
        for threads in [1, 2] {
            latency(name, &dir, &events, threads)?;
        }
        for block_bytes in [0, 4_096, 8_192, 16_384, 32_768, 65_536, 4 << 20] {
            bulk(name, &dir, &events, block_bytes)?;
        }
    }
    Ok(())
}
