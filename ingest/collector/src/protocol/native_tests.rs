//! The forms of the body, and what goes where.

use super::*;
use serde_json::{Value, json};

fn all(body: &str) -> Vec<Result<Value, Refusal>> {
    let at = Timestamp::parse("2026-11-23T12:00:00Z").expect("time");
    let request = Request { body, ..Request::default() };
    let opened = open(&request).expect("opens");
    (0..opened.len())
        .map(|part| {
            let event = opened.decode(part, Received { app_id: "shop", at })?;
            Ok(serde_json::from_str(&event.encode()).expect("json"))
        })
        .collect()
}

#[test]
fn all_forms_of_the_body_hold_the_same_events() {
    let a = r#"{"event_name":"page_view","event_id":"a"}"#;
    let b = r#"{"event_name":"page_view","event_id":"b"}"#;
    for (body, ids) in [
        (a.to_owned(), vec!["a"]),
        (format!("[{a},{b}]"), vec!["a", "b"]),
        (format!("{a}\n\n{b}\r\n"), vec!["a", "b"]),
        (format!("{{\"events\":[{a},{b}],\"write_key\":\"k\"}}"), vec!["a", "b"]),
    ] {
        let events = all(&body);
        let found: Vec<String> = events
            .iter()
            .map(|event| {
                event.as_ref().expect("event")["event_id"].as_str().expect("id").to_owned()
            })
            .collect();
        assert_eq!(found, ids, "{body}");
    }
}

#[test]
fn fields_are_columns_and_the_rest_is_properties() {
    let body = json!({"sent_ts": "2026-11-23T13:00:00Z", "events": [{
        "event_id": "e1", "event_name": "Order Completed", "client_ts": "2026-11-23T12:59:50Z",
        "anonymous_id": "v1", "user_id": "u1", "page_url": "https://shop.example/",
        "order_id": "O1", "currency": "EUR", "total": 12.5, "revenue": "10.00",
        "items": [{"product_id": "p1", "price": 5, "quantity": 2}],
        "consent": {"ads": false}, "context": {"a": 1}, "properties": {"x": 1}, "plan": "pro",
    }]});
    let event = all(&body.to_string()).remove(0).expect("an event");
    assert_eq!(event["event_name"], "purchase");
    assert_eq!(event["source_event_name"], "Order Completed");
    assert_eq!(event["event_ts"], "2026-11-23T11:59:50.000000Z");
    assert_eq!(event["clock_skew_ms"], 3_600_000);
    assert_eq!((&event["total"], &event["revenue"]), (&json!(12.5), &json!(10)));
    assert_eq!(event["items"], json!([{"product_id": "p1", "price": 5, "quantity": 2}]));
    assert_eq!((&event["consent"], &event["context"]), (&json!({"ads": false}), &json!({"a": 1})));
    // An amount as text is not what the column says, so it stays as well.
    assert_eq!(event["properties"], json!({"x": 1, "revenue": "10.00", "plan": "pro"}));
}

#[test]
fn what_is_no_event_is_refused_alone() {
    let outcomes = all("{\"event_name\":\"a\"}\n{\"event_name\":\n{\"x\":1}\n{\"event_name\":7}");
    let codes: Vec<&str> = outcomes
        .iter()
        .map(|outcome| outcome.as_ref().map_or_else(|refusal| refusal.reason.code(), |_| "event"))
        .collect();
    assert_eq!(codes, ["event", "malformed", "missing_field", "event"]);
    for body in ["", "7", "\"x\"", "{\"events\":7}", "[", "<html>"] {
        assert!(open(&Request { body, ..Request::default() }).is_err(), "{body}");
    }
}
