//! Golden cases. The Measurement Protocol's are those of Google's developer
//! site ("Measurement Protocol: sending events", "Recommended events"); what
//! gtag.js sends is as browsers show it.

use super::*;
use serde_json::{Value, json};

fn received() -> Received<'static> {
    Received { app_id: "shop", at: Timestamp::parse("2026-11-23T12:00:00Z").expect("time") }
}

fn all(opened: Result<Box<dyn Opened + '_>, Refusal>) -> Vec<Result<Value, Refusal>> {
    let opened = opened.expect("opens");
    (0..opened.len())
        .map(|part| {
            let event = opened.decode(part, received())?;
            Ok(serde_json::from_str(&event.encode()).expect("json"))
        })
        .collect()
}

#[test]
fn a_purchase_by_the_measurement_protocol() {
    let body = json!({
        "client_id": "123.456",
        "user_id": "u1",
        "timestamp_micros": "1795434000123456",
        "user_properties": {"tier": {"value": "gold"}},
        "consent": {"ad_user_data": "GRANTED", "ad_personalization": "DENIED"},
        "non_personalized_ads": false,
        "events": [{"name": "purchase", "params": {
            "session_id": "s1", "engagement_time_msec": 100, "currency": "USD",
            "transaction_id": "T_12345", "value": 72.05, "tax": 3.6, "shipping": 5.99,
            "coupon": "SUMMER_FUN",
            "items": [{"item_id": "SKU_12345", "item_name": "Stan and Friends Tee",
                "item_brand": "Google", "item_category": "Apparel", "item_variant": "green",
                "price": 10.01, "quantity": 3, "index": 0}],
        }}],
    })
    .to_string();
    let event = all(open_measurement(&Request { body: &body, ..Request::default() }))
        .remove(0)
        .expect("an event");
    assert_eq!((&event["event_name"], &event["order_id"]), (&json!("purchase"), &json!("T_12345")));
    assert_eq!(event["event_ts"], "2026-11-23T11:40:00.123456Z");
    assert_eq!(
        (&event["revenue"], &event["tax"], &event["shipping"], &event["coupon"]),
        (&json!(72.05), &json!(3.6), &json!(5.99), &json!("SUMMER_FUN"))
    );
    assert_eq!((&event["anonymous_id"], &event["user_id"]), (&json!("123.456"), &json!("u1")));
    assert_eq!(event["client_session_id"], "s1");
    assert_eq!(event["consent"]["ad_personalization"], "DENIED");
    assert_eq!(
        event["items"],
        json!([{"product_id": "SKU_12345", "name": "Stan and Friends Tee",
        "brand": "Google", "category": "Apparel", "variant": "green", "price": 10.01,
        "quantity": 3, "position": 0}])
    );
    assert_eq!(event["properties"], json!({"engagement_time_msec": 100}));
    assert_eq!(
        event["context"],
        json!({"non_personalized_ads": false,
        "user_properties": {"tier": {"value": "gold"}}})
    );
}

#[test]
fn googles_names_are_the_canonical_ones() {
    for (sent, canonical) in EVENTS {
        let body = json!({"events": [{"name": sent}]}).to_string();
        let events = all(open_measurement(&Request { body: &body, ..Request::default() }));
        let event = events[0].as_ref().expect("an event");
        assert_eq!(
            (event["event_name"].as_str(), event["source_event_name"].as_str()),
            (Some(*canonical), Some(*sent))
        );
    }
}

#[test]
fn a_hit_of_gtag_with_items_and_consent() {
    let request = Request {
        query: "v=2&tid=G-1&cid=123.456&uid=u1&sid=1795434000&en=add_to_cart&dl=https%3A%2F%2Fshop.example%2Fp%3Fa%3Db&dt=Page&dr=https%3A%2F%2Fs.example%2F&ul=de-de&sr=1920x1080&gcs=G111&gcd=13l3l3l3l1&cu=EUR&_et=7&_s=2&epn.value=9.90&ep.coupon=C1&ep.plan=pro&epn.n=1.50&up.tier=gold&pr1=idSKU1~nmShirt~brAcme~caMen~c2Tops~vared~pr9.90~qt2~lp3~k0size~v0XL&pr2=idSKU2",
        user_agent: Some("Mozilla/5.0"),
        ..Request::default()
    };
    let event = all(open_gtag(&request)).remove(0).expect("an event");
    assert_eq!(event["page_url"], "https://shop.example/p?a=b");
    assert_eq!((&event["screen_width"], &event["language"]), (&json!(1920), &json!("de-de")));
    assert_eq!(
        (&event["currency"], &event["revenue"], &event["coupon"]),
        (&json!("EUR"), &json!(9.9), &json!("C1"))
    );
    assert_eq!(event["consent"], json!({"gcs": "G111", "gcd": "13l3l3l3l1"}));
    assert_eq!(
        event["items"],
        json!([
        {"product_id": "SKU1", "name": "Shirt", "brand": "Acme", "category": "Men",
         "variant": "red", "price": 9.9, "quantity": 2, "position": 3},
        {"product_id": "SKU2"}])
    );
    // The first item has a category2 and a size: all items stay as well.
    assert_eq!(event["properties"]["items"][0]["size"], "XL");
    assert_eq!(
        (&event["properties"]["plan"], &event["properties"]["n"]),
        (&json!("pro"), &json!(1.5))
    );
    assert_eq!(
        event["context"],
        json!({"v": "2", "tid": "G-1", "_et": "7", "_s": "2",
        "user_properties": {"tier": "gold"}})
    );
    assert_eq!(event["user_agent"], "Mozilla/5.0");
}

#[test]
fn further_events_stand_one_a_line_and_share_the_query() {
    let request = Request {
        query: "v=2&tid=G-1&cid=1.2&dl=https%3A%2F%2Fshop.example%2F",
        body: "en=page_view&dt=A\r\nen=scroll&epn.percent_scrolled=90\r\n\r\ndt=nameless",
        ..Request::default()
    };
    let events = all(open_gtag(&request));
    assert_eq!(events.len(), 3);
    let (first, second) = (events[0].as_ref().expect("event"), events[1].as_ref().expect("event"));
    assert_eq!((&first["event_name"], &first["page_title"]), (&json!("page_view"), &json!("A")));
    assert_eq!(
        (&second["event_name"], &second["source_event_name"]),
        (&json!("custom"), &json!("scroll"))
    );
    assert_eq!(second["anonymous_id"], "1.2");
    assert_eq!(second["properties"], json!({"percent_scrolled": 90}));
    assert_eq!(events[2].as_ref().expect_err("refused").reason.code(), "missing_field");
}

#[test]
fn an_item_that_is_not_understood_stays_as_it_is() {
    let request = Request { query: "en=a&pr1=zzz~id1&pr201=idX&pr0=idY", ..Request::default() };
    let event = all(open_gtag(&request)).remove(0).expect("an event");
    assert_eq!(event["context"], json!({"pr1": "zzz~id1", "pr201": "idX", "pr0": "idY"}));
}
