//! What holds for any input, however hostile: one property for each kind of
//! input, checked by the fuzz targets (tests/fuzz), and here on random input and
//! on their seeds. A broken property panics. Compiled for tests and with
//! `--cfg fuzzing` only.
//!
//! What the bytes of an input mean is fixed, so that a saved one stays good:
//!
//! - protocols: `PATH?QUERY`, a line's end, then the body. The line may go on with
//!   the headers `AnonymousId`, `User-Agent` and `Referer`, each behind a tab.
//! - `spool_damage`, `spool_frames`: see [`spool_damage`] and [`spool_frames`].
//! - `kpl`: a Kinesis record's data; also the protobuf of one.
//! - `wire`: a line of the raw zone.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a broken property panics")]
#![allow(missing_docs, reason = "nobody outside of this repository sees it")]

use clickmill_schemas::{Event, Timestamp, WholeEvent, WireRecord};

use crate::protocol::json::without_lone_surrogates;
use crate::protocol::privacy::{query_without_addresses, without_addresses};
use crate::protocol::{Dialect, Received, Request, ga4, native, rudderstack, segment, snowplow};
use crate::sink::kpl::{self, Aggregate};

pub use crate::spool::hostile::{spool_damage, spool_frames};

/// A fuzz target: its name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("segment", |input| protocol(&[&segment::DIALECT], input)),
    ("rudderstack", |input| protocol(&[&rudderstack::DIALECT, &rudderstack::PIXEL], input)),
    ("snowplow_post", |input| protocol(&[&snowplow::DIALECT], input)),
    ("snowplow_get", |input| {
        let head = input.split(|byte| *byte == b'\n').next().unwrap_or_default();
        protocol(&[&snowplow::DIALECT, &snowplow::REDIRECT], head);
    }),
    ("ga4_measurement", |input| protocol(&[&ga4::MEASUREMENT], input)),
    ("ga4_gtag", |input| protocol(&[&ga4::GTAG], input)),
    ("native", |input| protocol(&[&native::DIALECT], input)),
    ("spool_damage", spool_damage),
    ("spool_frames", spool_frames),
    ("kpl", kpl_record),
    ("wire", wire_line),
];

/// An event is at most so many times as large as the request that it came in:
/// a byte that JSON escapes twice takes 7, and a value may stand in its column
/// and among the properties.
const MAX_GROWTH: usize = 16;
/// What an event has of its own: ids, times, names.
const OWN_BYTES: usize = 2 * 1024;

/// Takes the input through the dialects as the server does: nothing panics,
/// every part is an event or refused, an event's line decodes to the same
/// event, stands on one line, and is bounded by what was sent.
pub(crate) fn protocol(dialects: &[&Dialect], input: &[u8]) {
    let head_len = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (head, rest) = input.split_at(head_len);
    let body = rest.get(1..).unwrap_or_default();
    // The server's own parser takes nothing else.
    let Ok(head) = std::str::from_utf8(head) else { return };
    let mut fields = head.split('\t');
    let target = fields.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut header = || fields.next().filter(|value| !value.is_empty());
    let headers = (header(), header(), header());
    drive(dialects, path, query, headers, body);
}

type Headers<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>);

pub(crate) fn drive(
    dialects: &[&Dialect],
    path: &str,
    query: &str,
    (anonymous_id, user_agent, referer): Headers<'_>,
    body: &[u8],
) {
    let sent = path.len() + query.len() + body.len();
    let sent = sent
        + [anonymous_id, user_agent, referer].into_iter().flatten().map(str::len).sum::<usize>();
    let query = query_without_addresses(query);
    let clean = without_addresses(body);
    let Ok(text) = std::str::from_utf8(&clean) else { return };
    let text = without_lone_surrogates(text);
    let at = Timestamp::parse("2026-11-23T12:00:00Z").expect("time");
    for dialect in dialects {
        let request =
            Request { path, query: &query, body: &text, anonymous_id, user_agent, referer };
        let Ok(opened) = (dialect.open)(&request) else { continue };
        if opened.len() > dialect.limits.events {
            continue;
        }
        for part in 0..opened.len() {
            let kept = opened.bytes(part).len();
            assert!(kept <= MAX_GROWTH * sent + OWN_BYTES, "a reject of {kept} from {sent} bytes");
            if kept > dialect.limits.event_bytes {
                continue;
            }
            let Ok(event) = opened.decode(part, Received { app_id: "a", at }) else { continue };
            let line = event.encode();
            assert!(
                line.len() <= MAX_GROWTH * sent + OWN_BYTES,
                "an event of {} from {sent} bytes",
                line.len()
            );
            assert!(!line.contains('\n'), "a line has a newline in it");
            let read = WireRecord::decode(line.as_bytes()).expect("the line decodes");
            assert_eq!(read, WireRecord::Event(Box::new(event)), "the line says something else");
        }
    }
}

/// Any bytes are an aggregate or none, as they are and with a right checksum
/// around them. What comes out is not more than what went in, and comes out
/// again of an aggregate that this crate writes of it.
pub fn kpl_record(input: &[u8]) {
    aggregate(input);
    let digest = <md5::Md5 as md5::Digest>::digest(input);
    aggregate(&[&kpl::MAGIC[..], input, &digest[..]].concat());
}

/// An event's line is read by hand where it is in canonical form: never as anything else
/// than serde reads it.
pub fn wire_line(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input).map(str::trim) else { return };
    if text.starts_with("{\"reject_id\"") || text.starts_with("{\"heartbeat_ts\"") {
        return;
    }
    let by_serde = serde_json::from_str::<Event<'_>>(text).ok().map(Box::new);
    let decoded = WireRecord::decode(input).ok();
    assert_eq!(WholeEvent::decode(input).ok().map(|whole| whole.event), by_serde, "with the rest");
    assert_eq!(decoded, by_serde.map(WireRecord::Event), "the line says something else");
}

fn aggregate(data: &[u8]) {
    let decoded = kpl::decode(data);
    #[cfg(feature = "aws")]
    {
        // As many as go side by side, and two more.
        let together = kpl::decode_all(&[data; 10]);
        let found = |one: &Option<kpl::Aggregated<'_>>| one.as_ref().map(kpl::Aggregated::len);
        assert!(together.iter().all(|one| found(one) == found(&decoded)), "together as alone");
    }
    let Some(decoded) = decoded else { return };
    let records: Vec<_> = decoded.records().collect();
    assert!(!records.is_empty(), "an aggregate without records");
    assert_eq!(records.len(), decoded.len(), "records in the aggregate");
    let bytes: usize = records.iter().map(|record| record.data.len()).sum();
    assert!(bytes <= data.len(), "{bytes} bytes of data in {}", data.len());
    let mut again = Aggregate::new(7);
    let mut expected = Vec::new();
    for record in &records {
        let key = record.partition_key.map(String::from_utf8_lossy).unwrap_or_default();
        let size = again.size_with(&key, record.data);
        again.push(&key, record.data);
        assert_eq!(again.size(), size, "the size is known before");
        expected.push((key.into_owned(), record.data));
    }
    let bytes = again.finish();
    let decoded = kpl::decode(&bytes).expect("what we write decodes");
    let found: Vec<_> = decoded
        .records()
        .map(|record| {
            assert_eq!(record.explicit_hash_key, Some(&b"7"[..]), "the outer hash key");
            let key = record.partition_key.map(String::from_utf8_lossy).unwrap_or_default();
            (key.into_owned(), record.data)
        })
        .collect();
    assert_eq!(found, expected, "what goes in comes out");
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The seeds, and every input that once broke a property.
    #[test]
    fn every_saved_input_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
        for (name, run) in TARGETS {
            let folder = corpus.join(name);
            let files = fs::read_dir(&folder).expect("each target has seeds");
            let mut held = 0;
            for file in files {
                run(&fs::read(file.expect("a file").path()).expect("reads"));
                held += 1;
            }
            assert!(held > 0, "{} is empty", folder.display());
        }
    }

    /// A seed that is refused from its first byte on teaches a fuzzer nothing.
    #[test]
    fn every_protocols_seeds_hold_an_event() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
        let dialects: &[(&str, &Dialect)] = &[
            ("segment", &segment::DIALECT),
            ("rudderstack", &rudderstack::DIALECT),
            ("snowplow_post", &snowplow::DIALECT),
            ("snowplow_get", &snowplow::DIALECT),
            ("ga4_measurement", &ga4::MEASUREMENT),
            ("ga4_gtag", &ga4::GTAG),
            ("native", &native::DIALECT),
        ];
        for (name, dialect) in dialects {
            let files = fs::read_dir(corpus.join(name)).expect("seeds");
            let events = files.filter(|file| {
                let path = file.as_ref().expect("a file").path();
                let input = fs::read_to_string(path).unwrap_or_default();
                let (head, body) = input.split_once('\n').unwrap_or((&input, ""));
                let (path, query) = head.split_once('?').unwrap_or((head, ""));
                let request = Request { path, query, body, ..Request::default() };
                let at = Timestamp::parse("2026-11-23T12:00:00Z").expect("time");
                let received = Received { app_id: "a", at };
                (dialect.open)(&request).is_ok_and(|opened| {
                    (0..opened.len()).any(|n| opened.decode(n, received).is_ok())
                })
            });
            assert!(events.count() > 0, "{name}");
        }
    }
}
