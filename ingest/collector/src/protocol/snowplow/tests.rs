//! Golden cases. The wire's form is that of Snowplow's tracker protocol
//! (docs.snowplow.io, "Snowplow Tracker Protocol"), the schemas' fields those of
//! iglu-central, the base64 of coreutils.

use super::*;
use serde_json::{Value, json};

const AT: &str = "2026-11-23T12:00:00.000000Z";

fn received() -> Received<'static> {
    Received { app_id: "shop", at: Timestamp::parse(AT).expect("time") }
}

fn decode(request: &Request<'_>) -> Vec<Result<Value, Refusal>> {
    let opened = open(request).expect("opens");
    (0..opened.len())
        .map(|part| {
            let event = opened.decode(part, received())?;
            Ok(serde_json::from_str(&event.encode()).expect("json"))
        })
        .collect()
}

fn post(events: &Value) -> Vec<Result<Value, Refusal>> {
    let body = json!({
        "schema": "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4",
        "data": events,
    })
    .to_string();
    decode(&Request { body: &body, ..Request::default() })
}

fn one(event: Value) -> Value {
    post(&json!([event])).remove(0).expect("an event")
}

fn described(schema: &str, data: &Value) -> String {
    json!({
        "schema": "iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0",
        "data": {"schema": schema, "data": data},
    })
    .to_string()
}

fn entity(name: &str, data: &Value) -> Value {
    let schema = format!("iglu:com.snowplowanalytics.snowplow.ecommerce/{name}/jsonschema/1-0-0");
    json!({"schema": schema, "data": data})
}

fn action(data: &Value, entities: &[Value]) -> Value {
    one(json!({
        "e": "ue",
        "eid": "e1",
        "ue_pr": described(
            "iglu:com.snowplowanalytics.snowplow.ecommerce/snowplow_ecommerce_action/jsonschema/1-0-2",
            data,
        ),
        "co": json!({
            "schema": "iglu:com.snowplowanalytics.snowplow/contexts/jsonschema/1-0-0",
            "data": entities,
        })
        .to_string(),
    }))
}

#[test]
fn a_page_view_has_its_columns_and_keeps_the_rest() {
    let event = one(json!({
        "e": "pv", "eid": "f4c1", "p": "web", "tv": "js-4.10.1", "tna": "sp", "aid": "shop",
        "duid": "d-1", "uid": "u-1", "sid": "s-1", "vid": "3", "url": "https://shop.example/a?b=c",
        "page": "A", "refr": "https://search.example/", "res": "1920x1080", "vp": "800x600",
        "lang": "de-DE", "tz": "Europe/Berlin", "dtm": "1795434000000", "stm": "1795434001500",
    }));
    // 1795434000 is 2026-11-23T11:40:00Z: sent 1.5 s after, received at 12:00.
    assert_eq!(
        event,
        json!({
            "event_id": "f4c1", "event_name": "page_view", "source_protocol": "snowplow",
            "source_event_name": "page_view", "app_id": "shop", "platform": "web",
            "event_ts": "2026-11-23T11:59:58.500000Z", "client_ts": "2026-11-23T11:40:00.000000Z",
            "sent_ts": "2026-11-23T11:40:01.500000Z", "received_ts": AT,
            "clock_skew_ms": -1_198_500, "user_id": "u-1", "anonymous_id": "d-1",
            "client_session_id": "s-1", "page_url": "https://shop.example/a?b=c",
            "page_title": "A", "referrer_url": "https://search.example/", "screen_width": 1920,
            "screen_height": 1080, "language": "de-DE", "timezone": "Europe/Berlin",
            "context": {"tv": "js-4.10.1", "tna": "sp", "vid": "3", "vp": "800x600"},
        })
    );
}

#[test]
fn the_same_comes_by_get_with_what_the_headers_say() {
    let request = Request {
        query: "e=pv&eid=g1&page=Hello%20W%C3%B6rld&p=web&nuid=67e55044-10b1-426f-9247-bb680e5fe0c8",
        user_agent: Some("Mozilla/5.0"),
        referer: Some("https://shop.example/"),
        ..Request::default()
    };
    let event = decode(&request).remove(0).expect("an event");
    assert_eq!(event["page_title"], "Hello Wörld");
    assert_eq!(event["page_url"], "https://shop.example/");
    assert_eq!(event["user_agent"], "Mozilla/5.0");
    assert_eq!(event["network_id"], "67e55044-10b1-426f-9247-bb680e5fe0c8");
}

#[test]
fn the_true_time_needs_no_correction() {
    let event = one(json!({"e": "pv", "ttm": "1795434000000", "dtm": "1", "stm": "2"}));
    assert_eq!(event["event_ts"], "2026-11-23T11:40:00.000000Z");
    assert_eq!(event["context"], json!({"dtm": "1", "stm": "2"}));
}

#[test]
fn pings_and_struct_events_keep_their_parameters() {
    let ping = one(json!({"e": "pp", "pp_mix": "0", "pp_max": "7", "pp_miy": "0", "pp_may": "9"}));
    assert_eq!(ping["event_name"], "page_ping");
    assert_eq!(
        ping["properties"],
        json!({"pp_mix": "0", "pp_max": "7", "pp_miy": "0", "pp_may": "9"})
    );
    let known = one(json!({"e": "se", "se_ca": "shop", "se_ac": "add_to_cart", "se_va": "1.5"}));
    assert_eq!(known["event_name"], "add_to_cart");
    assert_eq!(known["properties"], json!({"se_ca": "shop", "se_va": "1.5"}));
    let own = one(json!({"e": "se", "se_ca": "video", "se_ac": "paused"}));
    assert_eq!(
        (&own["event_name"], &own["source_event_name"]),
        (&json!("custom"), &json!("paused"))
    );
}

#[test]
fn an_ecommerce_transaction_is_a_purchase_with_its_order_and_items() {
    let event = action(
        &json!({"type": "transaction"}),
        &[
            entity(
                "transaction",
                &json!({"transaction_id": "T1", "revenue": 119.5,
                "currency": "EUR", "tax": 19.5, "shipping": 4.9, "discount_code": "X",
                "discount_amount": 5, "payment_method": "card", "total_quantity": 3}),
            ),
            entity(
                "product",
                &json!({"id": "p1", "name": "Shirt", "category": "Men/Shirts",
                "price": 49.75, "quantity": 2, "brand": "b", "variant": "red", "position": 1,
                "currency": "EUR"}),
            ),
            entity(
                "product",
                &json!({"id": "p2", "category": "c", "price": 20,
                "currency": "EUR", "size": "XL"}),
            ),
            entity("user", &json!({"id": "u9", "is_guest": false})),
        ],
    );
    assert_eq!(event["event_name"], "purchase");
    assert_eq!(event["source_event_name"], "transaction");
    assert_eq!(
        (&event["order_id"], &event["revenue"], &event["tax"], &event["shipping"]),
        (&json!("T1"), &json!(119.5), &json!(19.5), &json!(4.9))
    );
    assert_eq!((&event["coupon"], &event["discount"]), (&json!("X"), &json!(5)));
    assert_eq!((&event["currency"], &event["user_id"]), (&json!("EUR"), &json!("u9")));
    assert_eq!(
        event["items"][0],
        json!({"product_id": "p1", "name": "Shirt", "brand": "b",
        "category": "Men/Shirts", "variant": "red", "price": 49.75, "quantity": 2, "position": 1})
    );
    assert_eq!(event["items"][1]["product_id"], "p2");
    // What no column holds stays, with its schema; a product that has such stays whole.
    assert_eq!(
        event["context"]["entities"],
        json!([
            entity("transaction", &json!({"payment_method": "card", "total_quantity": 3})),
            entity(
                "product",
                &json!({"id": "p2", "category": "c", "price": 20,
                "currency": "EUR", "size": "XL"})
            ),
            entity("user", &json!({"is_guest": false})),
        ])
    );
    assert_eq!(event["properties"], Value::Null);
}

#[test]
fn every_ecommerce_action_has_its_name_and_columns() {
    for (sent, canonical) in entities::ACTIONS {
        let event = action(&json!({"type": sent, "name": "list-7"}), &[]);
        assert_eq!(
            (event["event_name"].as_str(), event["source_event_name"].as_str()),
            (Some(*canonical), Some(*sent))
        );
        let list = sent.starts_with("list_");
        let (column, property) = (&event["list_id"], &event["properties"]["name"]);
        assert_eq!(if list { column } else { property }, "list-7");
    }
    let cart = action(
        &json!({"type": "add_to_cart"}),
        &[entity("cart", &json!({"cart_id": "c1", "total_value": 9.5, "currency": "EUR"}))],
    );
    assert_eq!((&cart["cart_id"], &cart["currency"]), (&json!("c1"), &json!("EUR")));
    let promotion = action(
        &json!({"type": "promo_view"}),
        &[entity("promotion", &json!({"id": "summer", "slot": "top"}))],
    );
    assert_eq!(promotion["promotion_id"], "summer");
    let refund = action(
        &json!({"type": "refund"}),
        &[entity(
            "refund",
            &json!({"transaction_id": "T1", "currency": "EUR",
            "refund_amount": 10.25, "refund_reason": "size"}),
        )],
    );
    assert_eq!((&refund["order_id"], &refund["total"]), (&json!("T1"), &json!(10.25)));
}

#[test]
fn base64_is_read_padded_or_not() {
    // {"schema":"iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0",
    //  "data":{"schema":"iglu:com.acme/viewed/jsonschema/1-0-0","data":{"a":"ü?>"}}}
    let coded = "eyJzY2hlbWEiOiJpZ2x1OmNvbS5zbm93cGxvd2FuYWx5dGljcy5zbm93cGxvdy91bnN0cnVjdF9ldmVudC9qc29uc2NoZW1hLzEtMC0wIiwiZGF0YSI6eyJzY2hlbWEiOiJpZ2x1OmNvbS5hY21lL3ZpZXdlZC9qc29uc2NoZW1hLzEtMC0wIiwiZGF0YSI6eyJhIjoiw7w_PiJ9fX0";
    for sent in [coded.to_owned(), format!("{coded}="), coded.replace('_', "/")] {
        let event = one(json!({"e": "ue", "ue_px": sent}));
        assert_eq!(event["source_event_name"], "viewed");
        assert_eq!(event["event_name"], "custom");
        assert_eq!(event["properties"], json!({"a": "ü?>"}));
        assert_eq!(event["context"]["schema"], "iglu:com.acme/viewed/jsonschema/1-0-0");
    }
}

#[test]
fn a_legacy_transaction_gets_the_items_of_its_request() {
    let events = post(&json!([
        {"e": "tr", "tr_id": "O1", "tr_af": "web", "tr_tt": "29.90", "tr_tx": "4.77",
         "tr_sh": "3", "tr_cu": "EUR", "tr_ci": "Kiel"},
        {"e": "ti", "ti_id": "O1", "ti_sk": "s1", "ti_nm": "Mug", "ti_ca": "Home",
         "ti_pr": "13.45", "ti_qu": "2", "ti_cu": "EUR"},
        {"e": "ti", "ti_id": "O2", "ti_sk": "s2"},
    ]));
    let item =
        json!({"sku": "s1", "name": "Mug", "category": "Home", "price": 13.45, "quantity": 2});
    let order = events[0].as_ref().expect("an event");
    assert_eq!((&order["event_name"], &order["order_id"]), (&json!("purchase"), &json!("O1")));
    assert_eq!(
        (&order["total"], &order["tax"], &order["shipping"]),
        (&json!(29.9), &json!(4.77), &json!(3))
    );
    assert_eq!(order["items"], json!([item]));
    assert_eq!(order["properties"], json!({"tr_af": "web", "tr_ci": "Kiel"}));
    let line = events[1].as_ref().expect("an event");
    assert_eq!((&line["event_name"], &line["order_id"]), (&json!("custom"), &json!("O1")));
    assert_eq!(line["items"], json!([item]));
}

#[test]
fn sessions_searches_and_consent_have_columns() {
    let contexts = json!({"schema": "", "data": [
        {"schema": "iglu:com.snowplowanalytics.snowplow/client_session/jsonschema/1-0-2",
         "data": {"userId": "d-1", "sessionId": "s-1", "sessionIndex": 2}},
        {"schema": "iglu:com.snowplowanalytics.snowplow/gdpr/jsonschema/1-0-0",
         "data": {"basisForProcessing": "consent"}},
        {"schema": "iglu:com.snowplowanalytics.snowplow/web_page/jsonschema/1-0-0",
         "data": {"id": "w-1"}},
    ]});
    let search = described(
        "iglu:com.snowplowanalytics.snowplow/site_search/jsonschema/1-0-0",
        &json!({"terms": ["red", "shoes"]}),
    );
    let event = one(json!({"e": "ue", "ue_pr": search, "co": contexts.to_string()}));
    assert_eq!(
        (&event["event_name"], &event["search_query"]),
        (&json!("search"), &json!("red shoes"))
    );
    assert_eq!(
        (&event["anonymous_id"], &event["client_session_id"]),
        (&json!("d-1"), &json!("s-1"))
    );
    assert_eq!(event["consent"], json!({"basisForProcessing": "consent"}));
    assert_eq!(event["context"]["entities"][1]["data"], json!({"id": "w-1"}));
    assert_eq!(event["context"]["entities"][0]["data"], json!({"sessionIndex": 2}));
}

#[test]
fn nobody_is_no_visitor() {
    let event = one(json!({"e": "pv", "tnuid": "00000000-0000-0000-0000-000000000000"}));
    assert_eq!(event["network_id"], Value::Null);
}

#[test]
fn webhooks_of_iglu_are_self_describing_events() {
    let by_get = Request {
        query: "schema=iglu%3Acom.acme%2Fcampaign%2Fjsonschema%2F1-0-0&aid=shop&p=srv&user=6353af",
        ..Request::default()
    };
    let event = decode(&by_get).remove(0).expect("an event");
    assert_eq!(event["source_event_name"], "campaign");
    assert_eq!(event["properties"], json!({"user": "6353af"}));
    assert_eq!(event["platform"], "server");
    let by_post = Request {
        body: "{\"schema\":\"iglu:com.acme/campaign/jsonschema/1-0-0\",\"data\":{\"user\":\"6353af\"}}",
        ..Request::default()
    };
    let event = decode(&by_post).remove(0).expect("an event");
    assert_eq!(event["properties"], json!({"user": "6353af"}));
}

#[test]
fn a_bad_event_is_refused_alone() {
    let outcomes = post(&json!([
        {"e": "pv"}, {"x": "y"}, {"e": "zz"}, 7, {"e": "ue"}, {"e": "ue", "ue_px": "%%"},
        {"e": "ue", "ue_pr": "{"}, {"e": "ue", "ue_pr": "{\"data\":7}"}, {"e": "pv", "co": "["},
    ]));
    let codes: Vec<&str> = outcomes
        .iter()
        .map(|outcome| outcome.as_ref().map_or_else(|refusal| refusal.reason.code(), |_| "event"))
        .collect();
    assert_eq!(
        codes,
        [
            "event",
            "missing_field",
            "unknown_type",
            "malformed",
            "missing_field",
            "invalid_field",
            "invalid_field",
            "invalid_field",
            "invalid_field"
        ]
    );
}
