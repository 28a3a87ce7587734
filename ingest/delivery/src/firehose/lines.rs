//! A piece of a Firehose object to lines of the raw zone.
//!
//! An event, reject or heartbeat of our wire stays as it is. A record that
//! Firehose could not deliver (`attemptsMade`, `rawData`, ...) becomes a reject
//! for each line in it, with the collector's number that the line still carries,
//! so that the audit counts it and `clickmill replay rejects` can take it in
//! again. Anything else is a reject with its bytes.
//!
//! A line that no shard carried gets its place: `shard_id` = `raw:<key>`,
//! `sequence_number` = its number in the object, from 1.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clickmill_schemas::{
    Lineage, RawJson, Reject, RejectReason, Timestamp, WireRecord, append_lineage, compact,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

const SHARD_KEY: &[u8] = b"\"shard_id\":";

/// Where a piece stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    /// The configured location.
    pub location: &'a str,
    /// The object's key below it.
    pub key: &'a str,
    /// Its version: an object that was overwritten is another one.
    pub etag: &'a str,
    /// When it was written: the time of what says none.
    pub modified: Timestamp,
    /// The piece's number in the object, from 1.
    pub number: u64,
}

/// A record under Firehose's error prefix. Several spellings occur.
#[derive(Deserialize)]
struct Failed {
    #[serde(rename = "attemptsMade")]
    _attempts: u64,
    #[serde(rename = "rawData")]
    data: String,
    #[serde(default, rename = "arrivalTimestamp")]
    arrived_ms: Option<i64>,
    #[serde(default, rename = "errorCode", alias = "lastErrorCode", alias = "ErrorCode")]
    code: Option<String>,
    #[serde(default, rename = "errorMessage", alias = "lastErrorMessage", alias = "ErrorMessage")]
    message: Option<String>,
}

#[derive(Default, Deserialize)]
struct App {
    #[serde(default)]
    app_id: Option<serde_json::Value>,
}

/// The lines of a piece; at least one.
pub(super) fn of_piece(origin: Origin<'_>, piece: &[u8]) -> Vec<Vec<u8>> {
    // The usual line is not parsed twice.
    if !piece.starts_with(b"{\"event_id\"")
        && let Ok(failed) = serde_json::from_slice::<Failed>(piece)
    {
        return of_failed(origin, &failed, piece);
    }
    vec![line(origin, piece)]
}

/// The line of one record.
pub(super) fn line(origin: Origin<'_>, piece: &[u8]) -> Vec<u8> {
    let carried = match WireRecord::decode(piece) {
        Ok(WireRecord::Event(event)) => event.shard_id.is_some() || event.sequence_number.is_some(),
        Ok(WireRecord::Reject(reject)) => {
            reject.shard_id.is_some() || reject.sequence_number.is_some()
        }
        // A sign of life has no place of its own.
        Ok(WireRecord::Heartbeat(_)) => true,
        Err(error) => return undecodable(origin, None, piece, &error.to_string()),
    };
    // Valid JSON, so it is UTF-8.
    let mut line = match compact(std::str::from_utf8(piece).unwrap_or_default()) {
        Cow::Borrowed(text) => text.as_bytes().to_vec(),
        Cow::Owned(text) => text.into_bytes(),
    };
    // A key that is there as null would be there twice.
    let named = line.windows(SHARD_KEY.len()).any(|window| window == SHARD_KEY);
    if !carried && !named {
        append_lineage(
            &mut line,
            &[
                ("shard_id", text(&format!("raw:{}", origin.key))),
                ("sequence_number", text(&origin.number.to_string())),
            ],
        );
    }
    line
}

fn text(value: &str) -> RawJson<'static> {
    // Any text serialises.
    RawJson::from_value(&value).unwrap_or_else(|_| RawJson::from_raw(RawValue::NULL).into_owned())
}

/// A reject with its bytes. `part`: the line in a record of several.
pub(super) fn undecodable(
    origin: Origin<'_>,
    part: Option<usize>,
    bytes: &[u8],
    detail: &str,
) -> Vec<u8> {
    reject(origin, part, bytes, "firehose", detail, origin.modified)
}

fn of_failed(origin: Origin<'_>, failed: &Failed, piece: &[u8]) -> Vec<Vec<u8>> {
    let Ok(data) = BASE64.decode(&failed.data) else {
        let detail = "a failed record of Firehose whose rawData is no base64";
        return vec![undecodable(origin, None, piece, detail)];
    };
    let code = failed.code.as_deref().unwrap_or("no code");
    let message = failed.message.as_deref().unwrap_or("no message");
    let detail = format!("Firehose could not deliver it: {code}: {message}");
    let arrived =
        failed.arrived_ms.and_then(|ms| Timestamp::from_micros(ms.checked_mul(1_000)?).ok());
    let at = arrived.unwrap_or(origin.modified);
    let mut splitter = super::split::Splitter::new(data.as_slice(), super::MAX_LINE_BYTES);
    let mut lines = Vec::new();
    // Reading from memory does not fail.
    while let Ok(Some(piece)) = splitter.next_piece() {
        let (super::split::Piece::Value(bytes) | super::split::Piece::Other(bytes)) = piece;
        lines.push(reject(origin, Some(lines.len()), &bytes, "firehose-failed", &detail, at));
    }
    if lines.is_empty() {
        lines.push(reject(origin, None, &data, "firehose-failed", &detail, at));
    }
    lines
}

fn reject(
    origin: Origin<'_>,
    part: Option<usize>,
    bytes: &[u8],
    protocol: &str,
    detail: &str,
    received_ts: Timestamp,
) -> Vec<u8> {
    let Origin { location, key, etag, number, .. } = origin;
    let place = match part {
        Some(part) => format!("{number}.{part}"),
        None => number.to_string(),
    };
    // The same piece of the same object gives the same id.
    let name = format!("{location}\n{key}\n{etag}\n{place}");
    let lineage = Lineage::of(bytes);
    let app: App = serde_json::from_slice(bytes).unwrap_or_default();
    let app_id = app.app_id.and_then(|id| id.as_str().map(str::to_owned));
    WireRecord::Reject(Reject {
        reject_id: Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()).to_string().into(),
        received_ts,
        protocol: protocol.into(),
        reason: RejectReason::Undecodable,
        detail: detail.into(),
        origin: format!("{key}:{place}").into(),
        app_id: app_id.map(Cow::Owned),
        bytes_base64: BASE64.encode(bytes).into(),
        collector_id: lineage.collector_id.map(Cow::Owned),
        wal_seq: lineage.wal_seq,
        shard_id: Some(format!("raw:{key}").into()),
        sequence_number: Some(place.into()),
    })
    .encode()
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"event_id":"e1","event_name":"page_view","source_protocol":"segment","app_id":"shop","event_ts":"2026-11-23T17:40:00.000000Z","received_ts":"2026-11-23T17:40:01.000000Z","properties":{"n":1.10},"collector_id":"c","wal_seq":7}"#;

    fn origin() -> Origin<'static> {
        Origin {
            location: "s3://b",
            key: "2026/11/23/17/clicks-1",
            etag: "\"x\"",
            modified: Timestamp::parse("2026-11-23T18:00:00Z").expect("time"),
            number: 3,
        }
    }

    fn decoded(line: &[u8]) -> Reject<'_> {
        match WireRecord::decode(line).expect("decodes") {
            WireRecord::Reject(reject) => reject,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_event_gets_its_place_and_stays_verbatim_otherwise() {
        let start = EVENT.strip_suffix('}').expect("object");
        let expected =
            format!(r#"{start},"shard_id":"raw:2026/11/23/17/clicks-1","sequence_number":"3"}}"#);
        for spaced in [EVENT.to_owned(), EVENT.replace(",\"", ",\n \"")] {
            let lines = of_piece(origin(), spaced.as_bytes());
            assert_eq!(lines, [expected.as_bytes()]);
        }
        // What a shard carried keeps its place there.
        let lines = of_piece(origin(), expected.replace("raw:", "shardId-").as_bytes());
        assert_eq!(lines, [expected.replace("raw:", "shardId-").as_bytes()]);
        let beat = br#"{"heartbeat_ts":"2026-11-23T17:40:01.000000Z","collector_id":"c","last_wal_seq":7,"closing":true}"#;
        assert_eq!(of_piece(origin(), beat), [beat]);
    }

    #[test]
    fn what_is_no_record_becomes_a_reject_with_its_bytes_and_its_number() {
        let broken = EVENT.replace("\"app_id\":\"shop\"", "\"app_id\":4");
        for (bytes, seq) in
            [(b"\xff\xfe".as_slice(), None), (b"{}".as_slice(), None), (broken.as_bytes(), Some(7))]
        {
            let lines = of_piece(origin(), bytes);
            let reject = decoded(&lines[0]);
            assert_eq!(reject.wal_seq, seq);
            assert_eq!(BASE64.decode(&*reject.bytes_base64).expect("base64"), bytes);
            assert_eq!(reject.origin, "2026/11/23/17/clicks-1:3");
        }
        // A damaged event may still say whose it is.
        let lines = of_piece(origin(), br#"{"event_id":"e","collector_id":"c","wal_seq":9}"#);
        let reject = decoded(&lines[0]);
        assert_eq!((reject.collector_id.as_deref(), reject.wal_seq), (Some("c"), Some(9)));
    }

    #[test]
    fn a_failed_record_is_a_reject_for_each_line_in_it() {
        let other = EVENT.replace("e1", "e2").replace("\"wal_seq\":7", "\"wal_seq\":8");
        let data = BASE64.encode(format!("{EVENT}\n{other}\n"));
        for (code, message) in
            [("errorCode", "errorMessage"), ("lastErrorCode", "lastErrorMessage")]
        {
            let failed = format!(
                r#"{{"attemptsMade":4,"arrivalTimestamp":1795455601000,"{code}":"S3.Denied","{message}":"no","attemptEndingTimestamp":1795455700000,"rawData":"{data}","sequenceNumber":"1","subSequenceNumber":null,"dataCatalogTable":{{}}}}"#
            );
            let lines = of_piece(origin(), failed.as_bytes());
            let rejects: Vec<_> = lines.iter().map(|line| decoded(line)).collect();
            assert_eq!(
                rejects.iter().map(|one| one.wal_seq).collect::<Vec<_>>(),
                [Some(7), Some(8)]
            );
            for (reject, sent) in rejects.iter().zip([EVENT, &other]) {
                assert_eq!(BASE64.decode(&*reject.bytes_base64).expect("base64"), sent.as_bytes());
                assert_eq!(reject.received_ts.to_string(), "2026-11-23T17:40:01.000000Z");
                assert!(reject.detail.contains("S3.Denied: no"), "{}", reject.detail);
            }
            assert_ne!(rejects[0].reject_id, rejects[1].reject_id);
        }
    }

    #[test]
    fn the_same_piece_gives_the_same_reject_and_an_overwritten_object_another() {
        let id = |origin| decoded(&line(origin, b"x")).reject_id.into_owned();
        assert_eq!(id(origin()), id(origin()));
        assert_ne!(id(origin()), id(Origin { etag: "\"y\"", ..origin() }));
        assert_ne!(id(origin()), id(Origin { number: 4, ..origin() }));
    }
}
