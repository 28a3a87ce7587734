//! Hostile input: whatever arrives, no dialect panics, and every part is an
//! event or a refusal.

use clickmill_schemas::{Timestamp, WireRecord};
use proptest::prelude::*;

use super::json::without_lone_surrogates;
use super::privacy::{query_without_addresses, without_addresses};
use super::{Dialect, Received, Request, ga4, native, rudderstack, segment, snowplow};

static ALL: &[(&Dialect, &str)] = &[
    (&segment::DIALECT, "/v1/batch"),
    (&segment::DIALECT, "/v1/track"),
    (&rudderstack::DIALECT, "/v1/import"),
    (&rudderstack::DIALECT, "/v1/merge"),
    (&rudderstack::PIXEL, "/pixel/v1/track"),
    (&snowplow::DIALECT, "/com.snowplowanalytics.snowplow/tp2"),
    (&snowplow::REDIRECT, "/r/tp2"),
    (&ga4::MEASUREMENT, "/mp/collect"),
    (&ga4::GTAG, "/g/collect"),
    (&native::DIALECT, "/clickmill/v1/events"),
];

/// Takes it through every dialect as the server does.
fn drive(query: &str, body: &[u8]) {
    let query = query_without_addresses(query);
    let clean = without_addresses(body);
    let Ok(text) = std::str::from_utf8(&clean) else { return };
    let text = without_lone_surrogates(text);
    let at = Timestamp::parse("2026-11-23T12:00:00Z").expect("time");
    for (dialect, path) in ALL {
        let request = Request { path, query: &query, body: &text, ..Request::default() };
        let Ok(opened) = (dialect.open)(&request) else { continue };
        for part in 0..opened.len() {
            let _ = opened.bytes(part);
            if let Ok(event) = opened.decode(part, Received { app_id: "a", at }) {
                let line = event.encode();
                let read = WireRecord::decode(line.as_bytes()).expect("the line decodes");
                assert_eq!(read, WireRecord::Event(Box::new(event)));
            }
        }
    }
}

/// JSON with the protocols' own keys, so that it gets past the first checks.
fn json() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "batch",
        "type",
        "event",
        "messageId",
        "context",
        "properties",
        "products",
        "page",
        "data",
        "schema",
        "e",
        "eid",
        "ue_pr",
        "ue_px",
        "co",
        "cx",
        "res",
        "p",
        "dtm",
        "stm",
        "nuid",
        "tr_id",
        "ti_id",
        "ti_pr",
        "events",
        "name",
        "params",
        "items",
        "item_id",
        "price",
        "value",
        "currency",
        "consent",
        "timestamp_micros",
        "event_name",
        "client_ts",
        "sent_ts",
        "ip",
        "userId",
        "library",
        "channel",
        "x",
    ]);
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(|n| format!("{n:e}")),
        prop::sample::select(vec![
            "\"track\"",
            "\"page\"",
            "\"pv\"",
            "\"ue\"",
            "\"se\"",
            "\"tr\"",
            "\"ti\"",
            "\"EUR\"",
            "\"1x1\"",
            "\"192.0.2.1\"",
            "\"\\ud800\"",
            "\"iglu:com.acme/a/jsonschema/1-0-0\"",
            "\"e30\"",
            "\"{\\\"data\\\":{\\\"schema\\\":\\\"a\\\",\\\"data\\\":{}}}\"",
        ])
        .prop_map(str::to_owned),
        ".{0,12}".prop_map(|text| serde_json::to_string(&text).expect("json")),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5)
                .prop_map(|all| format!("[{}]", all.join(","))),
            prop::collection::vec((key.clone(), inner), 0..7).prop_map(|all| {
                let all: Vec<String> =
                    all.into_iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
                format!("{{{}}}", all.join(","))
            }),
        ]
    })
}

fn query() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "e",
        "eid",
        "cx",
        "ue_px",
        "ue_pr",
        "co",
        "res",
        "u",
        "schema",
        "en",
        "pr1",
        "pr2",
        "ep.a",
        "epn.a",
        "up.b",
        "upn.b",
        "gcs",
        "event",
        "properties",
        "properties.a",
        "a.b.c.d",
        "ip",
        "uip",
        "nuid",
        "sr",
        "",
    ]);
    let value = prop_oneof![
        "[ -~]{0,16}",
        prop::sample::select(vec![
            "pv",
            "ue",
            "ti",
            "id1~nmX~k0a~v0b",
            "~~k",
            "%",
            "%ff",
            "é",
            "1x1"
        ])
        .prop_map(str::to_owned),
    ];
    prop::collection::vec((key, value), 0..8).prop_map(|pairs| {
        let pairs: Vec<String> =
            pairs.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join("&")
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_no_trouble(query in "\\PC{0,40}", body in prop::collection::vec(any::<u8>(), 0..200)) {
        drive(&query, &body);
    }

    #[test]
    fn arbitrary_json_is_an_event_or_refused(query in query(), body in json()) {
        drive(&query, body.as_bytes());
        drive(&query, b"");
    }

    #[test]
    fn arbitrary_lines_are_events_or_refused(query in query(), lines in prop::collection::vec(query(), 0..5)) {
        drive(&query, lines.join("\n").as_bytes());
    }

    #[test]
    fn a_body_cut_anywhere_keeps_no_address(cut in 0_usize..200) {
        let body = br#"{"data":[{"ip":"192.0.2.7","co":"{\"ip\":\"192.0.2.7\"}","cx":"eyJpcCI6IjE5Mi4wLjIuNyJ9"}]}"#;
        let clean = without_addresses(&body[..cut.min(body.len())]).into_owned();
        let text = String::from_utf8(clean).expect("text");
        prop_assert!(!text.contains("192.0") && !text.contains("IjE5Mi4wLjIu"), "{}", text);
    }
}
