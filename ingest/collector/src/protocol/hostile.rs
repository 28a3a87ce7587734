//! Random input against the properties of [`crate::fuzzing`].

use clickmill_schemas::{RejectReason, Timestamp};
use proptest::prelude::*;

use super::privacy::without_addresses;
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
    for (dialect, path) in ALL {
        crate::fuzzing::drive(&[dialect], path, query, (None, None, None), body);
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

/// Bytes of all that a request becomes; `None` where it is refused as a whole.
fn stored(dialect: &Dialect, path: &str, query: &str, agent: &str, body: &str) -> Option<usize> {
    let request = Request { path, query, body, user_agent: Some(agent), ..Request::default() };
    let opened = match (dialect.open)(&request) {
        Ok(opened) => opened,
        Err(refusal) => {
            assert_eq!(refusal.reason, RejectReason::TooLarge, "{}", refusal.detail);
            return None;
        }
    };
    let at = Timestamp::parse("2026-11-23T12:00:00Z").expect("time");
    let part = |n| match opened.decode(n, Received { app_id: "a", at }) {
        Ok(event) => event.encode().len(),
        Err(_) => opened.bytes(n).len(),
    };
    Some((0..opened.len()).map(part).sum())
}

/// A request of a few hundred kilobytes must not become gigabytes, in memory or on disk.
#[test]
fn what_all_events_of_a_request_share_is_bounded() {
    let long = "x".repeat(60_000);
    let agent = format!("Mozilla/{long}");
    let many = |one: &str, separator: &str| vec![one; 1_000].join(separator);
    let page = r#"{"type":"page","anonymousId":"a"}"#;
    let segment = format!(r#"{{"context":{{"c":"{long}"}},"batch":[{}]}}"#, many(page, ","));
    let other = format!(r#"{{"integrations":{{"c":"{long}"}},"batch":[{}]}}"#, many(page, ","));
    let google = format!(r#"{{"c":"{long}","events":[{}]}}"#, many("{}", ","));
    let users = format!(r#"{{"user_properties":{{"c":"{long}"}},"events":[{}]}}"#, many("{}", ","));
    let snowplow = format!(r#"{{"data":[{}]}}"#, many(r#"{"e":"pv"}"#, ","));
    let list = format!("[{}]", many("{}", ","));
    let native = format!("[{}]", many(r#"{"event_name":"a"}"#, ","));
    let lines = many(r#"{"event_name":"a"}"#, "\n");
    let (batch, tp2) = ("/v1/batch", "/com.snowplowanalytics.snowplow/tp2");
    let (hook, nuid) = (format!("schema=iglu:a/b/c/1&aid={long}"), format!("nuid={long}"));
    for (dialect, path, query, agent, body) in [
        (&segment::DIALECT, batch, "", "", &segment),
        (&segment::DIALECT, batch, "", "", &other),
        (&rudderstack::DIALECT, "/v1/import", "", "", &segment),
        (&ga4::MEASUREMENT, "/mp/collect", "", "", &google),
        (&ga4::MEASUREMENT, "/mp/collect", "", "", &users),
        (&ga4::GTAG, "/g/collect", &*long, "", &many("en=a", "\n")),
        (&ga4::GTAG, "/g/collect", "", &*agent, &many("en=a", "\n")),
        (&snowplow::DIALECT, tp2, &*nuid, "", &snowplow),
        (&snowplow::DIALECT, tp2, "", &*agent, &snowplow),
        (&snowplow::DIALECT, "/com.snowplowanalytics.iglu/v1", &*hook, "", &list),
        (&native::DIALECT, "/clickmill/v1/events", "", &*agent, &native),
        (&native::DIALECT, "/clickmill/v1/events", "", &*agent, &lines),
    ] {
        assert_eq!(stored(dialect, path, query, agent, body), None, "{path}");
    }
    // What SDKs send is far below it.
    let usual = segment.replace(&long, &long[..2_000]);
    assert!(stored(&segment::DIALECT, batch, "", "", &usual).is_some());
    let agent = &agent[..200];
    assert!(stored(&snowplow::DIALECT, tp2, "", agent, &snowplow).is_some());
    assert!(stored(&native::DIALECT, "/clickmill/v1/events", "", agent, &native).is_some());
}

/// Each of many transactions of one order with each of its many items would be
/// the square of what was sent.
#[test]
fn an_item_of_a_legacy_transaction_goes_to_the_first_of_its_order_only() {
    let transactions = vec![r#"{"e":"tr","tr_id":"O"}"#; 500].join(",");
    let items = vec![r#"{"e":"ti","ti_id":"O","ti_sk":"sku-of-an-item"}"#; 500].join(",");
    let body = format!(r#"{{"data":[{transactions},{items}]}}"#);
    let stored = stored(&snowplow::DIALECT, "/tp2", "", "", &body).expect("is taken");
    assert!(stored < 20 * body.len(), "{stored} bytes of {}", body.len());
}
