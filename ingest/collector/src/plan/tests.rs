use clickmill_schemas::{Event, EventTime, Item, Money, RawJson, Timestamp};

use super::*;

/// The one in the documentation.
const EXAMPLE: &str = include_str!("../../../../docs/tracking-plan.example.toml");

fn example() -> Plan {
    Plan::parse(EXAMPLE).expect("the example is a plan")
}

fn event(name: &'static str) -> Event<'static> {
    Event::new("e1", name, "native", "shop", EventTime::resolve(None, None, Timestamp::now()))
}

fn own_event(name: &'static str, properties: &'static str) -> Event<'static> {
    let mut event = event("custom");
    event.source_event_name = Some(name.into());
    event.properties = Some(RawJson::parse(properties).expect("json"));
    event
}

fn purchase() -> Event<'static> {
    let mut event = event("purchase");
    event.order_id = Some("A-1".into());
    event.currency = Some("EUR".into());
    event.total = Money::parse("31.80").ok();
    let price = Money::parse("15.90").ok();
    event.items = vec![Item { product_id: Some("tea".into()), price, ..Item::default() }];
    event
}

fn outcome(plan: &Plan, event: &Event<'_>) -> String {
    plan.check(event).map_or_else(|violation| violation.to_string(), |()| "ok".to_owned())
}

fn with(change: impl FnOnce(&mut Event<'static>)) -> String {
    let mut event = purchase();
    change(&mut event);
    outcome(&example(), &event)
}

fn properties(json: &'static str) -> Option<RawJson<'static>> {
    Some(RawJson::parse(json).expect("json"))
}

#[test]
fn an_event_as_planned_is_ok() {
    assert_eq!(example().version(), "2026-11");
    assert_eq!(example().len(), 5);
    assert_eq!(with(|_| ()), "ok");
    assert_eq!(
        with(|event| {
            event.properties = properties(
                r#"{"payment_method":"card","delivery":{"slot":"2026-12-01T08:00:00Z"},"x":[1]}"#,
            );
        }),
        "ok"
    );
}

#[test]
fn every_violation_has_its_code_and_field() {
    assert_eq!(outcome(&example(), &event("product_view")), "unplanned_event");
    assert_eq!(with(|event| event.order_id = None), "missing_property:order_id");
    assert_eq!(with(|event| event.currency = Some("USD".into())), "not_allowed:currency");
    assert_eq!(with(|event| event.total = Money::parse("-0.01").ok()), "out_of_range:total");
    assert_eq!(with(|event| event.items.clear()), "missing_property:items");
    assert_eq!(with(|event| event.items[0].price = None), "missing_property:items.price");
    assert_eq!(
        with(|event| event.items[0].price = Money::parse("-1").ok()),
        "out_of_range:items.price"
    );
    for (json, expected) in [
        (r#"{"payment_method":7}"#, "wrong_type:payment_method"),
        (r#"{"payment_method":"cash"}"#, "not_allowed:payment_method"),
        (r#"{"payment_method":null}"#, "ok"),
        (r#"{"payment_method":""}"#, "ok"),
        (r#"{"delivery":{"slot":"tomorrow"}}"#, "wrong_type:delivery.slot"),
        (r#"{"delivery":"2026-12-01T08:00:00Z"}"#, "ok"),
    ] {
        assert_eq!(with(|event| event.properties = properties(json)), expected, "{json}");
    }
    let mut long = event("page_view");
    long.page_url = Some("x".repeat(2048).into());
    assert_eq!(outcome(&example(), &long), "ok");
    long.page_url = Some("x".repeat(2049).into());
    assert_eq!(outcome(&example(), &long), "out_of_range:page_url");
}

#[test]
fn a_value_that_its_column_could_not_hold_is_of_the_wrong_type_not_missing() {
    let wrong = with(|event| {
        event.total = None;
        event.properties = properties(r#"{"total":"12,30"}"#);
    });
    assert_eq!(wrong, "wrong_type:total");
    let null = with(|event| {
        event.total = None;
        event.properties = properties(r#"{"total":null}"#);
    });
    assert_eq!(null, "missing_property:total");
}

#[test]
fn a_shops_own_event_goes_by_the_name_it_was_sent_with() {
    let plan = example();
    let name = "Newsletter Subscribed";
    for (json, expected) in [
        (r#"{"list":"weekly"}"#, "ok"),
        (r#"{"list":"weekly","double_opt_in":true}"#, "ok"),
        (r#"{"list":"weekly","double_opt_in":"yes"}"#, "wrong_type:double_opt_in"),
        (r#"{"list":"daily"}"#, "not_allowed:list"),
        (r#"{"list":"weekly","color":"red"}"#, "unplanned_property"),
        ("{}", "missing_property:list"),
    ] {
        assert_eq!(outcome(&plan, &own_event(name, json)), expected, "{json}");
    }
    assert_eq!(outcome(&plan, &own_event("Newsletter Opened", "{}")), "unplanned_event");
}

#[test]
fn types_are_those_of_the_json_text() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("string", r#""a""#, &["1", "true", "{}", "[]"]),
        ("number", "-1.5e3", &[r#""1""#, "true"]),
        ("integer", "-7", &["7.5", r#""7""#, "99999999999999999999"]),
        ("money", "12.34", &["0.00001", r#""12.34""#]),
        ("boolean", "false", &["0", r#""true""#]),
        ("timestamp", r#""2026-11-23T10:00:00+01:00""#, &[r#""2026-11-23""#, "1795000000"]),
        ("object", r#"{"a":1}"#, &["[]", "1"]),
        ("array", "[1]", &["{}", "1"]),
    ];
    for (kind, good, wrong) in cases {
        let text = format!(
            "format = 1\nversion = \"1\"\n[events.x]\nfields.v = {{ type = \"{kind}\" }}\n"
        );
        let plan = Plan::parse(&text).expect(kind);
        let check = |value: &str| {
            let mut event = event("custom");
            event.source_event_name = Some("x".into());
            let json = format!("{{\"v\":{value}}}");
            event.properties = Some(RawJson::parse(&json).expect("json").into_owned());
            outcome(&plan, &event)
        };
        assert_eq!(check(good), "ok", "{kind}");
        for wrong in *wrong {
            assert_eq!(check(wrong), "wrong_type:v", "{kind} {wrong}");
        }
    }
}

#[test]
fn what_is_no_plan_is_refused_with_the_place() {
    let fields = |rest: &str| format!("format = 1\nversion = \"1\"\n[events.purchase]\n{rest}\n");
    for (text, parts) in [
        ("version = \"1\"".to_owned(), vec!["format"]),
        ("format = 2\nversion = \"1\"".to_owned(), vec!["format = 2", "format = 1"]),
        ("format = 1\nversion = \"1\"\nevnts = 1".to_owned(), vec!["evnts", "line 3"]),
        (
            "format = 1\nversion = \"1\"\n[events.\"Order Completed\"]".to_owned(),
            vec!["Order Completed", "[events.purchase]"],
        ),
        (fields("fields.total = { type = \"cash\" }"), vec!["cash", "money"]),
        (fields("fields.total = { type = \"money\", requird = true }"), vec!["requird"]),
        (fields("fields.total = { type = \"boolean\" }"), vec!["purchase", "total", "\"money\""]),
        (fields("fields.x = { type = \"string\", min = 1 }"), vec!["`x`", "min"]),
        (fields("fields.x = { type = \"number\", min = 2, max = 1 }"), vec!["`x`", "min is over"]),
        (fields("fields.x = { type = \"number\", max_length = 2 }"), vec!["max_length"]),
        (fields("fields.x = { type = \"string\", allowed = [1] }"), vec!["allowed"]),
        (fields("fields.x = { type = \"money\", allowed = [1] }"), vec!["allowed"]),
        (fields("fields.\"a..b\" = { type = \"string\" }"), vec!["a..b"]),
        (fields("items.colour = { type = \"string\" }"), vec!["items.colour", "product_id"]),
    ] {
        let error = Plan::parse(&text).expect_err(&text);
        let mut shown = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            shown = format!("{shown}: {source}");
        }
        for part in parts {
            assert!(shown.contains(part), "{text}\n{shown}");
        }
    }
    let missing = Plan::load("/no/such/plan.toml").expect_err("no file");
    assert!(missing.to_string().contains("/no/such/plan.toml"));
}
