//! What messages become, written by hand from Segment's specification and docs/collector.md.

use clickmill_schemas::WireRecord;
use serde_json::{Value, json};

use super::*;

const RECEIVED: &str = "2026-11-23T12:00:00Z";

fn decode_one(call: Option<Call>, body: &str) -> Result<Value, Refusal> {
    let opened = Body::open(body, call)?;
    assert_eq!(opened.messages().len(), 1);
    let received = Received { app_id: "shop", at: Timestamp::parse(RECEIVED).expect("time") };
    let event = opened.decode(&opened.messages()[0], received)?;
    let line = event.encode();
    WireRecord::decode(line.as_bytes()).expect("its line decodes");
    Ok(serde_json::from_str(&line).expect("json"))
}

/// The event without what every case has alike.
fn fields(call: Option<Call>, body: &Value) -> Value {
    let mut event = decode_one(call, &body.to_string()).expect("decodes");
    let object = event.as_object_mut().expect("object");
    for key in
        ["event_id", "app_id", "source_protocol", "event_ts", "event_ts_reason", "received_ts"]
    {
        object.remove(key);
    }
    event
}

fn reason(call: Option<Call>, body: &str) -> RejectReason {
    decode_one(call, body).expect_err("refused").reason
}

#[test]
fn an_order_fills_its_columns_and_keeps_the_rest() {
    let body = r#"{
        "type": "track", "event": "Order Completed", "messageId": "m1",
        "userId": "u1", "anonymousId": "a1",
        "originalTimestamp": "2026-11-25T11:59:50.000Z", "sentAt": "2026-11-25T12:00:00.000Z",
        "properties": {
            "order_id": "o-1", "checkout_id": "c-1", "total": 30.5, "revenue": 25.00,
            "shipping": 3, "tax": 2.5, "discount": 1.23456, "coupon": "X", "currency": "EUR",
            "affiliation": "web", "subtotal": 22.10,
            "products": [
                {"product_id": "p1", "sku": "s1", "name": "Shoe", "brand": "B", "category": "Shoes",
                 "variant": "red", "price": 12.5, "quantity": 2, "coupon": "Y", "position": 1}
            ]
        },
        "context": {
            "ip": null,
            "userAgent": "UA", "locale": "de-DE", "timezone": "Europe/Berlin",
            "library": {"name": "analytics.js", "version": "1"},
            "campaign": {"source": "s", "medium": "m", "name": "n", "term": "t", "content": "c", "id": "7"},
            "screen": {"width": 1920, "height": 1080, "density": 2},
            "page": {"url": "https://shop/x?a=1", "title": "T", "referrer": "https://g/", "path": "/x"}
        },
        "integrations": {"All": false}
    }"#;
    assert_eq!(
        decode_one(None, body).expect("decodes"),
        serde_json::from_str::<Value>(
            r#"{
            "event_id": "m1", "event_name": "purchase", "source_protocol": "segment",
            "source_event_name": "Order Completed", "app_id": "shop", "platform": "web",
            "event_ts": "2026-11-23T11:59:50.000000Z", "client_ts": "2026-11-25T11:59:50.000000Z",
            "sent_ts": "2026-11-25T12:00:00.000000Z", "received_ts": "2026-11-23T12:00:00.000000Z",
            "clock_skew_ms": 172800000, "user_id": "u1", "anonymous_id": "a1",
            "page_url": "https://shop/x?a=1", "page_title": "T", "referrer_url": "https://g/",
            "utm_source": "s", "utm_medium": "m", "utm_campaign": "n", "utm_term": "t",
            "utm_content": "c", "user_agent": "UA", "screen_width": 1920, "screen_height": 1080,
            "language": "de-DE", "timezone": "Europe/Berlin", "order_id": "o-1",
            "checkout_id": "c-1", "currency": "EUR", "revenue": 25, "total": 30.5, "tax": 2.5,
            "shipping": 3, "coupon": "X",
            "items": [{"product_id": "p1", "sku": "s1", "name": "Shoe", "brand": "B",
                "category": "Shoes", "variant": "red", "price": 12.5, "quantity": 2,
                "coupon": "Y", "position": 1}],
            "properties": {"discount": 1.23456, "affiliation": "web", "subtotal": 22.10},
            "context": {"library": {"name": "analytics.js", "version": "1"},
                "campaign": {"id": "7"}, "screen": {"density": 2}, "page": {"path": "/x"},
                "message": {"integrations": {"All": false}}}
        }"#
        )
        .expect("json")
    );
}

#[test]
fn numbers_stay_verbatim_where_no_column_takes_them() {
    let body = r#"{"event":"x","properties":{"a":1.10,"b":12345678901234567890123,"revenue":1.23456,"total":1e400}}"#;
    let opened = Body::open(body, Some(Call::Track)).expect("opens");
    let received = Received { app_id: "shop", at: Timestamp::parse(RECEIVED).expect("time") };
    let event = opened.decode(&opened.messages()[0], received).expect("decodes");
    assert_eq!(
        event.properties.expect("properties").get(),
        r#"{"a":1.10,"b":12345678901234567890123,"revenue":1.23456,"total":1e400}"#
    );
    assert_eq!((event.revenue, event.total), (None, None));
}

#[test]
fn a_value_of_another_type_fills_its_column_and_stays() {
    assert_eq!(
        fields(
            Some(Call::Track),
            &json!({"event": "Order Completed", "userId": 17, "properties":
                {"orderId": 4711, "total": "30.50", "currency": "eur", "coupon": ""}})
        ),
        json!({"event_name": "purchase", "source_event_name": "Order Completed", "user_id": "17",
            "order_id": "4711", "total": 30.5, "currency": "EUR",
            "properties": {"orderId": 4711, "total": "30.50", "currency": "eur", "coupon": ""},
            "context": {"message": {"userId": 17}}})
    );
}

#[test]
fn an_item_with_keys_of_its_own_keeps_the_whole_array() {
    let products =
        json!([{"id": "p1", "price": "9.99", "quantity": 1.0}, {"sku": "s", "url": "u"}, 5, {}]);
    assert_eq!(
        fields(
            Some(Call::Track),
            &json!({"event": "Product List Viewed", "properties":
                {"list_id": "l", "category": "c", "products": products}})
        ),
        json!({"event_name": "product_list_view", "source_event_name": "Product List Viewed",
            "list_id": "l",
            "items": [{"product_id": "p1", "price": 9.99, "quantity": 1}, {"sku": "s"}],
            "properties": {"category": "c", "products": products}})
    );
}

#[test]
fn a_single_product_stands_among_the_properties() {
    assert_eq!(
        fields(
            Some(Call::Track),
            &json!({"event": "Product Added", "anonymousId": "a", "properties":
                {"cart_id": "k", "product_id": "p", "price": 18.99, "quantity": 1,
                 "coupon": "MAY", "position": 3, "image_url": "i"}})
        ),
        json!({"event_name": "add_to_cart", "source_event_name": "Product Added",
            "anonymous_id": "a", "cart_id": "k",
            "items": [{"product_id": "p", "price": 18.99, "quantity": 1, "coupon": "MAY", "position": 3}],
            "properties": {"image_url": "i"}})
    );
    assert_eq!(
        fields(
            Some(Call::Track),
            &json!({"event": "Signed Up", "properties": {"name": "n", "price": 1}})
        ),
        json!({"event_name": "custom", "source_event_name": "Signed Up",
            "properties": {"name": "n", "price": 1}})
    );
}

#[test]
fn searches_and_promotions_have_their_columns() {
    assert_eq!(
        fields(
            Some(Call::Track),
            &json!({"event": "Products Searched", "properties": {"query": "shoe"}})
        ),
        json!({"event_name": "search", "source_event_name": "Products Searched", "search_query": "shoe"})
    );
    assert_eq!(
        fields(
            Some(Call::Track),
            &json!({"event": "Promotion Clicked", "properties": {"promotion_id": "p", "position": "top"}})
        ),
        json!({"event_name": "promotion_click", "source_event_name": "Promotion Clicked",
            "promotion_id": "p", "properties": {"position": "top"}})
    );
}

#[test]
fn a_page_call_fills_the_page_from_its_properties_first() {
    assert_eq!(
        fields(
            Some(Call::Page),
            &json!({"name": "Home", "category": "Shop",
                "properties": {"url": "https://shop/", "title": "T", "name": "Home", "category": "Other"},
                "context": {"page": {"url": "https://shop/", "title": "Older", "referrer": "r"}}})
        ),
        json!({"event_name": "page_view", "source_event_name": "page", "page_url": "https://shop/",
            "page_title": "T", "referrer_url": "r",
            "properties": {"name": "Home", "category": "Other"},
            "context": {"page": {"title": "Older"}, "message": {"category": "Shop"}}})
    );
}

#[test]
fn identify_group_and_alias_keep_what_they_say_in_properties() {
    assert_eq!(
        fields(Some(Call::Identify), &json!({"userId": "u", "traits": {"plan": "x"}})),
        json!({"event_name": "identify", "source_event_name": "identify", "user_id": "u",
            "properties": {"traits": {"plan": "x"}}})
    );
    assert_eq!(
        fields(Some(Call::Group), &json!({"userId": "u", "groupId": "g", "traits": {"a": 1}})),
        json!({"event_name": "group", "source_event_name": "group", "user_id": "u",
            "properties": {"traits": {"a": 1}, "groupId": "g"}})
    );
    assert_eq!(
        fields(Some(Call::Alias), &json!({"userId": "u", "previousId": "old"})),
        json!({"event_name": "alias", "source_event_name": "alias", "user_id": "u",
            "properties": {"previousId": "old"}})
    );
    assert_eq!(
        fields(Some(Call::Screen), &json!({"name": "Cart", "properties": {"a": 1}})),
        json!({"event_name": "screen_view", "source_event_name": "screen",
            "properties": {"a": 1, "name": "Cart"}})
    );
}

#[test]
fn what_a_batch_says_holds_for_each_message_that_does_not() {
    let body = json!({
        "writeKey": "k", "sentAt": "2026-11-23T13:00:00Z",
        "context": {"locale": "de", "library": {"name": "analytics-python"}},
        "integrations": {"All": true},
        "batch": [
            {"type": "track", "event": "a", "timestamp": "2026-11-23T12:59:00Z"},
            {"type": "track", "event": "b", "context": {"locale": "fr"}, "integrations": {}}
        ]
    })
    .to_string();
    let opened = Body::open(&body, Some(Call::Track)).expect("opens");
    assert_eq!(opened.write_key(), Some("k"));
    let received = Received { app_id: "shop", at: Timestamp::parse(RECEIVED).expect("time") };
    let events: Vec<Event<'_>> = opened
        .messages()
        .iter()
        .map(|message| opened.decode(message, received).expect("decodes"))
        .collect();
    assert_eq!(events[0].language.as_deref(), Some("de"));
    assert_eq!(events[0].platform.as_deref(), Some("server"));
    assert_eq!(events[0].event_ts().to_string(), "2026-11-23T11:59:00.000000Z");
    assert_eq!(
        events[0].context.as_ref().map(RawJson::get),
        Some(r#"{"library":{"name":"analytics-python"},"message":{"integrations":{"All":true}}}"#)
    );
    assert_eq!(events[1].language.as_deref(), Some("fr"));
    assert_eq!(
        events[1].context.as_ref().map(RawJson::get),
        Some(r#"{"library":{"name":"analytics-python"}}"#)
    );
}

#[test]
fn times_of_every_kind_are_read_and_nonsense_is_kept() {
    let at = |timestamp: Value| {
        let event = decode_one(
            Some(Call::Track),
            &json!({"event": "x", "timestamp": timestamp}).to_string(),
        )
        .expect("decodes");
        (event["event_ts"].clone(), event["context"].clone())
    };
    let expected = json!("2026-11-23T11:00:00.000000Z");
    let kept = |value: Value| json!({"message": {"timestamp": value}});
    assert_eq!(at(json!("2026-11-23T12:00:00+01:00")), (expected.clone(), Value::Null));
    for inexact in
        [json!("2026-11-23T11:00:00"), json!(1_795_431_600), json!(1_795_431_600_000_i64)]
    {
        assert_eq!(at(inexact.clone()), (expected.clone(), kept(inexact)));
    }
    for nonsense in [json!("yesterday"), json!({}), json!(1e300), json!(-1.5)] {
        assert_eq!(at(nonsense.clone()), (json!("2026-11-23T12:00:00.000000Z"), kept(nonsense)));
    }
}

#[test]
fn an_event_without_an_id_gets_a_uuid_of_version_7() {
    let event = decode_one(Some(Call::Track), r#"{"event":"x","messageId":""}"#).expect("decodes");
    let id = Uuid::parse_str(event["event_id"].as_str().expect("text")).expect("uuid");
    assert_eq!(id.get_version_num(), 7);
}

#[test]
fn hostile_texts_pass_through_without_harm() {
    let body = r#"{"event":"\u0000 \ud83d\ude00 \"'","anonymousId":"\ud800","properties":{"\ud83d\ude00\n":"\ud800"}}"#;
    let body = crate::protocol::json::without_lone_surrogates(body);
    let event = decode_one(Some(Call::Track), &body).expect("decodes");
    assert_eq!(event["source_event_name"], "\0 😀 \"'");
    assert_eq!(event["anonymous_id"], "\u{fffd}");
    assert_eq!(event["properties"], json!({"😀\n": "\u{fffd}"}));
}

#[test]
fn what_is_no_event_is_refused_with_its_reason() {
    use RejectReason::{InvalidField, Malformed, MissingField, UnknownType};
    for body in ["", "{", "nul", "{\"batch\":[{}", "\u{0}"] {
        assert_eq!(reason(None, body), Malformed, "{body}");
    }
    for body in ["[]", "5", "null", "\"x\""] {
        assert_eq!(reason(Some(Call::Track), body), Malformed, "{body}");
    }
    assert_eq!(reason(None, "{}"), MissingField);
    assert_eq!(reason(None, r#"{"batch":{}}"#), InvalidField);
    assert_eq!(reason(None, r#"{"batch":[{}]}"#), MissingField);
    assert_eq!(reason(None, r#"{"batch":[null]}"#), Malformed);
    assert_eq!(reason(None, r#"{"batch":[{"type":"dance"}]}"#), UnknownType);
    assert_eq!(reason(Some(Call::Track), r#"{"properties":{}}"#), MissingField);
    let deep = format!(r#"{{"event":"x","properties":{}1{}}}"#, "[".repeat(70), "]".repeat(70));
    assert_eq!(reason(Some(Call::Track), &deep), InvalidField);
    let bottomless = "[".repeat(200_000);
    assert_eq!(reason(None, &bottomless), Malformed);
}
