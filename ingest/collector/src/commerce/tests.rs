use std::collections::BTreeSet;

use clickmill_schemas::Money;
use clickmill_schemas::names::is_event_name;
use serde_json::{Value, json};

use super::*;

fn money(text: &str) -> Money {
    Money::parse(text).expect(text)
}

/// The event without what differs from one call to the next.
fn encoded<'a>(event: impl IntoEvent<'a>) -> Value {
    let mut event: Value =
        serde_json::from_str(&event.into_event("shop").encode()).expect("an event is JSON");
    let object = event.as_object_mut().expect("an object");
    for key in ["event_id", "event_ts", "client_ts", "received_ts"] {
        object.remove(key).expect(key);
    }
    for (key, value) in [("app_id", "shop"), ("source_protocol", "native"), ("platform", "server")]
    {
        assert_eq!(object.remove(key), Some(json!(value)));
    }
    event
}

#[test]
fn a_purchase_has_every_value_in_its_column() {
    let event = OrderEvent::purchase("A-1001", Currency::EUR, money("31.80"))
        .revenue(money("25"))
        .tax(money("2.80"))
        .shipping(money("4.00"))
        .discount(money("5"))
        .coupon("SPRING")
        .cart_id("c-1")
        .checkout_id("co-1")
        .anonymous_id("3f0c")
        .user_id("customer-7")
        .page_url("https://shop.example/thanks")
        .property("gift", true)
        .product(
            Product::new("tea-7")
                .sku("T7")
                .name("Earl Grey")
                .brand("Leaf")
                .category("tea/black")
                .variant("250 g")
                .price(money("15.90"))
                .quantity(2)
                .coupon("TEA")
                .position(1),
        )
        .products([Product::new("cup-1")]);
    assert_eq!(
        encoded(event),
        json!({
            "event_name": "purchase", "order_id": "A-1001", "currency": "EUR", "total": 31.8,
            "revenue": 25, "tax": 2.8, "shipping": 4, "discount": 5, "coupon": "SPRING",
            "cart_id": "c-1", "checkout_id": "co-1", "anonymous_id": "3f0c",
            "user_id": "customer-7", "page_url": "https://shop.example/thanks",
            "properties": {"gift": true},
            "items": [
                {"product_id": "tea-7", "sku": "T7", "name": "Earl Grey", "brand": "Leaf",
                 "category": "tea/black", "variant": "250 g", "price": 15.9, "quantity": 2,
                 "coupon": "TEA", "position": 1},
                {"product_id": "cup-1"},
            ],
        })
    );
}

#[test]
fn every_kind_has_a_canonical_name_of_its_own_and_what_it_cannot_do_without() {
    let tea = || Product::new("tea-7");
    let mut seen = BTreeSet::new();
    for (event, key, value) in [
        (encoded(ProductEvent::view(tea())), "event_name", json!("product_view")),
        (encoded(ProductEvent::click(tea()).list_id("l")), "list_id", json!("l")),
        (encoded(ProductEvent::add_to_cart(tea()).cart_id("c")), "cart_id", json!("c")),
        (encoded(ProductEvent::remove_from_cart(tea())), "items", json!([{"product_id": "tea-7"}])),
        (encoded(ProductEvent::add_to_wishlist(tea())), "event_name", json!("add_to_wishlist")),
        (
            encoded(ProductEvent::remove_from_wishlist(tea())),
            "event_name",
            json!("remove_from_wishlist"),
        ),
        (encoded(ProductEvent::wishlist_to_cart(tea())), "event_name", json!("wishlist_to_cart")),
        (encoded(ProductEvent::share(tea())), "event_name", json!("product_share")),
        (encoded(ProductEvent::review(tea())), "event_name", json!("product_review")),
        (encoded(ListEvent::view("tea")), "list_id", json!("tea")),
        (encoded(ListEvent::filter("tea")), "event_name", json!("product_list_filter")),
        (encoded(ListEvent::search("green tea")), "search_query", json!("green tea")),
        (encoded(PromotionEvent::view("p")), "promotion_id", json!("p")),
        (encoded(PromotionEvent::click("p")), "event_name", json!("promotion_click")),
        (encoded(CheckoutEvent::cart_view()), "event_name", json!("cart_view")),
        (encoded(CheckoutEvent::cart_share()), "event_name", json!("cart_share")),
        (
            encoded(CheckoutEvent::begin().total(Currency::CHF, money("9.5"))),
            "currency",
            json!("CHF"),
        ),
        (encoded(CheckoutEvent::step_viewed(2)), "properties", json!({"step": 2})),
        (encoded(CheckoutEvent::step_completed(2)), "event_name", json!("checkout_step_completed")),
        (
            encoded(CheckoutEvent::payment_info("invoice")),
            "properties",
            json!({"payment_method": "invoice"}),
        ),
        (
            encoded(CheckoutEvent::shipping_info("post")),
            "properties",
            json!({"shipping_method": "post"}),
        ),
        (encoded(CheckoutEvent::coupon_entered("X")), "coupon", json!("X")),
        (encoded(CheckoutEvent::coupon_applied("X", money("1"))), "discount", json!(1)),
        (
            encoded(CheckoutEvent::coupon_denied("X", "expired")),
            "properties",
            json!({"reason": "expired"}),
        ),
        (encoded(CheckoutEvent::coupon_removed("X")), "event_name", json!("coupon_removed")),
        (
            encoded(OrderEvent::purchase("A", Currency::EUR, money("1"))),
            "event_name",
            json!("purchase"),
        ),
        (encoded(OrderEvent::updated("A", Currency::EUR, money("2"))), "total", json!(2)),
        (encoded(OrderEvent::cancelled("A")), "event_name", json!("order_cancelled")),
        (encoded(OrderEvent::refund("A", Currency::EUR, money("1"))), "order_id", json!("A")),
        (encoded(OrderEvent::failed("A", "declined")), "event_name", json!("transaction_error")),
    ] {
        assert_eq!(event[key], value, "{event}");
        let name = event["event_name"].as_str().expect("a name").to_owned();
        assert!(is_event_name(&name), "{name}");
        assert!(seen.insert(name), "twice: {event}");
    }
    // Whatever the vocabulary has of commerce has a helper.
    let others = ["page_view", "screen_view", "page_ping", "identify", "group", "alias", "custom"];
    let missing: Vec<_> = clickmill_schemas::names::EVENT_NAMES
        .iter()
        .filter(|name| !seen.contains(**name) && !others.contains(name))
        .collect();
    assert_eq!(missing, Vec::<&&str>::new());
}

#[test]
fn ids_are_version_7_uuids_unless_given_and_empty_text_is_nothing() {
    let event = ProductEvent::view(Product::new("")).user_id("").event_id("").into_event("shop");
    let id = uuid::Uuid::parse_str(&event.event_id).expect("a UUID");
    assert_eq!(id.get_version_num(), 7);
    assert_eq!((event.user_id, event.items[0].product_id.as_ref()), (None, None));
    let event = ProductEvent::view(Product::new("p")).event_id("order-1").into_event("shop");
    assert_eq!(event.event_id, "order-1");
}

#[test]
fn a_given_time_is_kept_within_the_window() {
    let now = clickmill_schemas::Timestamp::now();
    let hour_ago = now.saturating_sub(std::time::Duration::from_secs(3_600));
    let event = ListEvent::search("tea").at(hour_ago).into_event("shop");
    assert_eq!((event.event_ts(), event.event_ts_reason()), (hour_ago, None));
}

#[test]
fn currencies_are_three_letters() {
    assert_eq!(Currency::parse("eur"), Ok(Currency::EUR));
    assert_eq!("PLN".parse::<Currency>().map(|c| c.to_string()).as_deref(), Ok("PLN"));
    for wrong in ["", "EU", "EURO", "€", "E1R", "EU\u{e4}"] {
        assert!(Currency::parse(wrong).is_err(), "{wrong}");
    }
}
