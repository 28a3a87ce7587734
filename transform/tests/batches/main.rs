//! Do the tables hold the same rows, whatever batches the input came in, and
//! whatever happened on the way?
// A test fails by panicking, in its helpers, too; random histories are nested lists.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::type_complexity)]

mod currency;
mod facts;
mod jobs;
mod quality;
mod support;

use std::time::Duration;

use clickmill_schemas::{Event, Money};
use clickmill_transform::{RunOptions, Silent, run};
use proptest::test_runner::{Config, TestError, TestRunner};
use support::faults::Dying;
use support::history::{BATCHES, History, histories, item, plain};
use support::reference;
use support::shop::{Shop, at};
use support::{people, visits, worth};

async fn check(shop: &Shop, history: &History, how: &str) -> Result<(), String> {
    let events: Vec<_> = history.events.iter().map(|(_, event)| event.clone()).collect();
    let expected = reference::tables(&events, &history.exports);
    let queries = [reference::QUERIES, visits::QUERIES, people::QUERIES, worth::QUERIES].concat();
    for (table, sql) in queries {
        let found = shop.sql(sql).await;
        let wanted = &expected[table];
        if &found != wanted {
            let missing: Vec<_> = wanted.iter().filter(|row| !found.contains(row)).collect();
            let surplus: Vec<_> = found.iter().filter(|row| !wanted.contains(row)).collect();
            return Err(format!(
                "{table}, {how}: {} rows for {}\nmissing {missing:#?}\nsurplus {surplus:#?}",
                found.len(),
                wanted.len()
            ));
        }
    }
    Ok(())
}

#[test]
fn batches_in_any_order_give_the_same_rows_as_one_run_and_as_the_definitions() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(3),
        max_shrink_iters: 8,
        failure_persistence: None,
        ..Config::default()
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let result = TestRunner::new(config).run(&histories(), |history| {
        runtime
            .block_on(async {
                let mut stepwise = Shop::new().await;
                let mut at_once = Shop::new().await;
                for batch in 0..BATCHES {
                    history.land(&mut stepwise, batch).await;
                    stepwise.run().await;
                    history.land(&mut at_once, batch).await;
                }
                at_once.run().await;
                check(&at_once, &history, "in one run").await?;
                check(&stepwise, &history, "batch by batch").await
            })
            .map_err(proptest::test_runner::TestCaseError::fail)
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, history)) => panic!("{reason}\nof {}", history.brief()),
        Err(error) => panic!("{error}"),
    }
}

/// A page view of `visitor`, received a second later.
fn view(id: &str, visitor: &str, time: &str) -> Event<'static> {
    let time = at(time);
    plain(id, "page_view", visitor, time, time.saturating_add(Duration::from_secs(1)))
}

fn purchase(id: &str, visitor: &str, time: &str, order: &str) -> Event<'static> {
    let time = at(time);
    let received = time.saturating_add(Duration::from_secs(1));
    let mut event = plain(id, "purchase", visitor, time, received);
    event.order_id = Some(order.to_owned().into());
    event.revenue = Money::parse("10").ok();
    event
}

fn orders_csv(rows: &[(&str, &str, &str)]) -> String {
    let line = |(order, time, total): &(&str, &str, &str)| format!("{order},{time},{total}\n");
    format!("order_id,ordered_at,total\n{}", rows.iter().map(line).collect::<String>())
}

fn items_csv(rows: &[(&str, u8, &str, i64)]) -> String {
    let line = |(order, line, product, quantity): &(&str, u8, &str, i64)| {
        format!("{order},{line},{product},{quantity},5\n")
    };
    let lines: String = rows.iter().map(line).collect();
    format!("order_id,line,product_id,quantity,unit_price\n{lines}")
}

#[tokio::test]
async fn a_late_event_rewrites_the_days_that_it_touches_and_no_others() {
    let mut shop = Shop::new().await;
    shop.land(&[
        view("a", "v", "2026-03-10T10:00:00Z"),
        view("b", "v", "2026-03-11T10:00:00Z"),
        view("c", "v", "2026-03-12T10:00:00Z"),
    ])
    .await;
    shop.run().await;
    let mut before = Vec::new();
    for table in ["events", "sessions"] {
        for day in ["2026-03-10", "2026-03-12"] {
            before.push(shop.files(table, day).await);
        }
    }
    let appended_to = shop.files("events", "2026-03-11").await;
    // On time, and nothing of the old moves: the day gains a file and keeps the one it has.
    shop.land(&[view("d", "w", "2026-03-11T11:00:00Z")]).await;
    shop.run().await;
    let files = shop.files("events", "2026-03-11").await;
    assert!(files.len() == 2 && appended_to.iter().all(|file| files.contains(file)), "{files:?}");
    // Before `b` in its session: that day is written again.
    shop.land(&[view("late", "v", "2026-03-11T09:50:00Z")]).await;
    shop.run().await;
    let rewritten = shop.files("events", "2026-03-11").await;
    assert!(files.iter().all(|file| !rewritten.contains(file)), "{rewritten:?}");
    let mut after = Vec::new();
    for table in ["events", "sessions"] {
        for day in ["2026-03-10", "2026-03-12"] {
            after.push(shop.files(table, day).await);
        }
    }
    assert_eq!(after, before);
    let sql = "SELECT s.events, f.event_id FROM sessions s JOIN events f \
               ON s.session_id = f.session_id AND f.session_seq = 1";
    assert_eq!(shop.sql(sql).await, ["1|a", "1|c", "1|d", "2|late"]);
}

#[tokio::test]
async fn a_run_without_anything_new_changes_nothing() {
    let mut shop = Shop::new().await;
    assert_eq!(shop.run().await.batches.len(), 0, "of an empty lake");
    shop.land(&[view("a", "v", "2026-03-10T10:00:00Z")]).await;
    shop.export("orders", "20260311T000000", &orders_csv(&[("o1", "2026-03-10T09:00:00Z", "10")]));
    assert_eq!(shop.run().await.batches.len(), 1);
    let versions = shop.versions().await;
    assert_eq!(shop.run().await.batches.len(), 0);
    assert_eq!(shop.versions().await, versions);
}

#[tokio::test]
async fn tables_asked_for_one_by_one_become_what_one_run_makes_of_all() {
    let (mut parts, mut whole) = (Shop::new().await, Shop::new().await);
    for shop in [&mut parts, &mut whole] {
        shop.land(&[
            view("a", "v", "2026-03-10T23:50:00Z"),
            purchase("b", "v", "2026-03-11T00:10:00Z", "o1"),
        ])
        .await;
        let orders = orders_csv(&[("o1", "2026-03-11T00:11:00Z", "10")]);
        shop.export("orders", "20260312T000000", &orders);
        shop.export("order_items", "20260312T000000", &items_csv(&[("o1", 1, "p1", 2)]));
    }
    parts.run_tables(&["sessions"]).await;
    assert_eq!(parts.sql("SELECT events FROM sessions").await, ["2"]);
    assert!(parts.table("orders").await.files().is_empty(), "nobody asked for orders");
    parts.run_tables(&["orders_enriched"]).await;
    for shop in [&mut parts, &mut whole] {
        shop.land(&[view("late", "v", "2026-03-10T23:40:00Z")]).await;
    }
    parts.run_tables(&["events"]).await;
    parts.run().await;
    whole.run().await;
    assert_eq!(parts.everything().await, whole.everything().await);
    let unknown = shop_error(&parts).await;
    assert!(unknown.contains("there is no table `sesions`; known are"), "{unknown}");
}

async fn shop_error(shop: &Shop) -> String {
    let options = RunOptions { tables: Some(vec!["sesions".to_owned()]), ..shop.options() };
    run(&shop.lake, &options, &Silent).await.expect_err("no such table").to_string()
}

#[tokio::test]
async fn an_export_that_says_the_same_again_rewrites_no_partition() {
    let shop = Shop::new().await;
    let orders =
        orders_csv(&[("o1", "2026-03-10T09:00:00Z", "10"), ("o2", "2026-03-11T09:00:00Z", "20")]);
    let items = items_csv(&[("o1", 1, "p1", 2), ("o2", 1, "p1", 1)]);
    for day in ["20260312T000000", "20260313T000000"] {
        shop.export("orders", day, &orders);
        shop.export("order_items", day, &items);
        shop.run().await;
        if day == "20260312T000000" {
            assert_eq!(shop.table("orders").await.files().len(), 2);
        }
    }
    let mut first = shop.versions().await;
    shop.export("orders", "20260314T000000", &orders);
    shop.export("order_items", "20260314T000000", &items);
    assert_eq!(shop.run().await.batches.len(), 1, "it is taken in, and says nothing new");
    let mut again = shop.versions().await;
    for versions in [&mut first, &mut again] {
        versions.retain(|(table, _)| {
            matches!(*table, "orders" | "order_items" | "orders_enriched" | "product_daily")
        });
    }
    assert_eq!(again, first);
}

#[tokio::test]
async fn an_older_export_that_comes_late_fills_gaps_and_changes_nothing() {
    let shop = Shop::new().await;
    shop.export("orders", "20260312T000000", &orders_csv(&[("o1", "2026-03-10T09:00:00Z", "30")]));
    shop.export("order_items", "20260312T000000", &items_csv(&[("o1", 1, "p1", 3)]));
    shop.run().await;
    let day = shop.files("orders", "2026-03-10").await;
    shop.export(
        "orders",
        "20260311T000000",
        &orders_csv(&[("o1", "2026-03-09T09:00:00Z", "10"), ("o2", "2026-03-09T09:00:00Z", "20")]),
    );
    let items = items_csv(&[("o1", 1, "p1", 1), ("o1", 2, "p2", 1), ("o2", 1, "p1", 2)]);
    shop.export("order_items", "20260311T000000", &items);
    shop.run().await;
    assert_eq!(
        shop.sql("SELECT order_id, total, dt FROM orders").await,
        ["o1|30.0000|2026-03-10", "o2|20.0000|2026-03-09"]
    );
    assert_eq!(
        shop.sql("SELECT order_id, line, quantity, dt FROM order_items").await,
        ["o1|1|3|2026-03-10", "o2|1|2|2026-03-09"]
    );
    assert_eq!(shop.files("orders", "2026-03-10").await, day);
}

#[tokio::test]
async fn of_two_exports_in_one_batch_the_older_says_what_the_newer_leaves_out() {
    let shop = Shop::new().await;
    let row = |total| ("o1", "2026-03-10T09:00:00Z", total);
    shop.export("orders", "20260311T000000", &orders_csv(&[row("10")]));
    shop.run().await;
    shop.export("orders", "20260312T000000", &orders_csv(&[row("20")]));
    shop.export("orders", "20260313T000000", &orders_csv(&[("o2", "2026-03-10T09:00:00Z", "5")]));
    shop.run().await;
    assert_eq!(shop.sql("SELECT order_id, total FROM orders").await, ["o1|20.0000", "o2|5.0000"]);
}

#[tokio::test]
async fn an_order_that_moves_to_another_day_takes_its_lines_and_leaves_none_behind() {
    let shop = Shop::new().await;
    let orders = [("o1", "2026-03-10T09:00:00Z", "10"), ("o2", "2026-03-10T09:00:00Z", "5")];
    shop.export("orders", "20260312T000000", &orders_csv(&orders));
    let items = items_csv(&[("o1", 1, "p1", 2), ("o1", 2, "p2", 3), ("o2", 1, "p1", 1)]);
    shop.export("order_items", "20260312T000000", &items);
    shop.run().await;
    // No word on lines: they are as they were, and go with the order.
    shop.export("orders", "20260313T000000", &orders_csv(&[("o1", "2026-03-11T09:00:00Z", "10")]));
    shop.run().await;
    assert_eq!(
        shop.sql("SELECT order_id, dt FROM orders").await,
        ["o1|2026-03-11", "o2|2026-03-10"]
    );
    assert_eq!(
        shop.sql("SELECT order_id, match_status, dt FROM orders_enriched").await,
        ["o1|order_only|2026-03-11", "o2|order_only|2026-03-10"]
    );
    assert_eq!(
        shop.sql("SELECT order_id, line, quantity, dt FROM order_items").await,
        ["o1|1|2|2026-03-11", "o1|2|3|2026-03-11", "o2|1|1|2026-03-10"]
    );
    assert_eq!(
        shop.sql("SELECT product_id, units, revenue, dt FROM product_daily").await,
        ["p1|1|5.0000|2026-03-10", "p1|2|10.0000|2026-03-11", "p2|3|15.0000|2026-03-11"]
    );
}

#[tokio::test]
async fn the_lines_of_an_order_are_those_of_its_newest_export() {
    let shop = Shop::new().await;
    // Lines before their order wait, and count nowhere.
    shop.export(
        "order_items",
        "20260311T000000",
        &items_csv(&[("o1", 1, "p1", 2), ("o1", 2, "p2", 1)]),
    );
    shop.run().await;
    assert_eq!(
        shop.sql("SELECT order_id, line, dt FROM order_items").await,
        ["o1|1|1970-01-01", "o1|2|1970-01-01"]
    );
    assert!(shop.sql("SELECT * FROM product_daily").await.is_empty());
    shop.export("orders", "20260312T000000", &orders_csv(&[("o1", "2026-03-10T09:00:00Z", "15")]));
    shop.run().await;
    let units = "SELECT product_id, units, dt FROM product_daily";
    assert_eq!(shop.sql(units).await, ["p1|2|2026-03-10", "p2|1|2026-03-10"]);
    assert_eq!(
        shop.sql("SELECT category, orders, units, revenue, dt FROM category_daily").await,
        ["(none)|1|3|15.0000|2026-03-10"]
    );
    // A line fewer.
    shop.export("order_items", "20260313T000000", &items_csv(&[("o1", 1, "p1", 2)]));
    shop.run().await;
    assert_eq!(
        shop.sql("SELECT order_id, line, quantity, dt FROM order_items").await,
        ["o1|1|2|2026-03-10"]
    );
    assert_eq!(shop.sql(units).await, ["p1|2|2026-03-10"]);
}

#[tokio::test]
async fn exports_of_the_catalog_give_the_same_history_in_any_order() {
    let exports = [
        ("20260301T120000", "product_id,category,price\np1,hats,10\np2,caps,5\n"),
        ("20260302T120000", "product_id,category,price\np1,hats,10\n"),
        ("20260303T120000", "product_id,category,price\np1,hats,12\np2,caps,5\n"),
        ("20260304T120000", "product_id,category,price\np1,hats,10\n"),
    ];
    let sql = "SELECT product_id, price, CAST(valid_from AS DATE), CAST(valid_to AS DATE), is_first \
               FROM products";
    for order in [[0, 1, 2, 3], [3, 1, 0, 2]] {
        let shop = Shop::new().await;
        for number in order {
            shop.export("products", exports[number].0, exports[number].1);
            shop.run().await;
        }
        assert_eq!(
            shop.sql(sql).await,
            [
                "p1|10.0000|2026-03-01|2026-03-03|true",
                "p1|10.0000|2026-03-04|-|false",
                "p1|12.0000|2026-03-03|2026-03-04|false",
                "p2|5.0000|2026-03-01|-|true",
            ],
            "in the order {order:?}"
        );
    }
}

#[tokio::test]
async fn a_day_shows_the_catalog_as_of_its_end_and_a_new_export_leaves_older_days_alone() {
    let mut shop = Shop::new().await;
    let seen = |id: &'static str, time: &'static str| {
        let mut event = view(id, "v", time);
        event.event_name = "product_view".into();
        event.items = vec![item(1, 1)];
        event
    };
    let days = ["2026-03-01T10:00:00Z", "2026-03-02T10:00:00Z", "2026-03-03T10:00:00Z"];
    shop.land(&[seen("a", days[0]), seen("b", days[1]), seen("c", days[2])]).await;
    shop.export("products", "20260302T230000", "product_id,price,stock\np1,10,7\n");
    shop.run().await;
    let sql = "SELECT dt, views, price, stock, asof_backfilled FROM product_daily";
    assert_eq!(
        shop.sql(sql).await,
        [
            "2026-03-01|1|10.0000|7|true",
            "2026-03-02|1|10.0000|7|false",
            "2026-03-03|1|10.0000|7|false"
        ]
    );
    let old = (
        shop.files("product_daily", "2026-03-01").await,
        shop.files("product_daily", "2026-03-02").await,
    );
    shop.export("products", "20260303T230000", "product_id,price,stock\np1,12,7\n");
    shop.run().await;
    assert_eq!(
        shop.sql(sql).await,
        [
            "2026-03-01|1|10.0000|7|true",
            "2026-03-02|1|10.0000|7|false",
            "2026-03-03|1|12.0000|7|false"
        ]
    );
    let now = (
        shop.files("product_daily", "2026-03-01").await,
        shop.files("product_daily", "2026-03-02").await,
    );
    assert_eq!(now, old);
}

#[tokio::test]
async fn a_displaced_event_leaves_its_session_and_the_rest_of_it_moves_on() {
    let mut shop = Shop::new().await;
    shop.land(&[view("a", "v", "2026-03-10T10:00:00Z"), view("b", "v", "2026-03-10T10:10:00Z")])
        .await;
    shop.run().await;
    // The same id, of somebody else, received before: this one is the event.
    let mut earlier = view("a", "w", "2026-03-10T09:00:00Z");
    earlier.page_url = Some("https://shop.example/".into());
    shop.land(&[earlier]).await;
    shop.run().await;
    let sql = "SELECT e.event_id, e.visitor_id, f.event_id AS first, e.session_seq FROM events e \
               JOIN (SELECT session_id, event_id FROM events WHERE session_seq = 1) f ON e.session_id = f.session_id";
    assert_eq!(shop.sql(sql).await, ["a|w|a|1", "b|v|b|1"]);
    assert_eq!(shop.sql("SELECT visitor_id, events FROM sessions").await, ["v|1", "w|1"]);
    assert_eq!(
        shop.sql("SELECT event_id, visitor_id, reason FROM event_duplicates").await,
        ["a|v|id_collision"]
    );
}

#[tokio::test]
async fn copies_received_over_a_week_apart_are_both_kept_and_told_apart() {
    let mut shop = Shop::new().await;
    let copy = |time: &str, received: &str, wal_seq| {
        let mut event = plain("a", "page_view", "v", at(time), at(received));
        event.wal_seq = Some(wal_seq);
        event
    };
    let time = "2026-03-10T10:00:00Z";
    shop.land(&[
        copy(time, "2026-03-10T10:00:01Z", 1),
        // To the microsecond within the week, and one beyond.
        copy("2026-03-17T09:00:00Z", "2026-03-17T10:00:01Z", 2),
        copy("2026-03-20T10:00:00Z", "2026-03-20T10:00:00Z", 3),
    ])
    .await;
    shop.run().await;
    let sql = "SELECT wal_seq, dt FROM events";
    assert_eq!(shop.sql(sql).await, ["1|2026-03-10", "3|2026-03-20"]);
    assert_eq!(shop.sql("SELECT wal_seq, reason FROM event_duplicates").await, ["2|retry"]);
    // One that displaces the first, within a week of it and not of the second.
    shop.land(&[copy(time, "2026-03-10T10:00:00Z", 4)]).await;
    shop.run().await;
    assert_eq!(shop.sql(sql).await, ["3|2026-03-20", "4|2026-03-10"]);
    assert_eq!(
        shop.sql("SELECT wal_seq, reason FROM event_duplicates").await,
        ["1|retry", "2|retry"]
    );
}

#[tokio::test]
async fn a_copy_is_set_aside_with_its_reason() {
    let mut shop = Shop::new().await;
    let mut first = view("a", "v", "2026-03-10T10:00:00Z");
    first.wal_seq = Some(1);
    let mut retry = first.clone();
    retry.wal_seq = Some(2);
    let mut other = first.clone();
    other.wal_seq = Some(3);
    other.page_url = Some("https://shop.example/other".into());
    shop.land(&[first.clone(), first.clone(), retry]).await;
    shop.run().await;
    shop.land(&[first, other]).await;
    shop.run().await;
    assert_eq!(shop.sql("SELECT wal_seq FROM events").await, ["1"]);
    assert_eq!(
        shop.sql("SELECT wal_seq, reason FROM event_duplicates").await,
        ["1|redelivery", "1|redelivery", "2|retry", "3|id_collision"]
    );
}

#[tokio::test]
async fn an_order_hears_of_what_its_session_saw_after_the_purchase() {
    let mut shop = Shop::new().await;
    shop.export("orders", "20260311T000000", &orders_csv(&[("o1", "2026-03-10T10:00:00Z", "10")]));
    shop.land(&[purchase("a", "v", "2026-03-10T10:00:00Z", "o1")]).await;
    shop.run().await;
    let sql = "SELECT order_id, match_status, channel FROM orders_enriched";
    assert_eq!(shop.sql(sql).await, ["o1|matched|direct"]);
    let mut after = view("b", "v", "2026-03-10T10:05:00Z");
    after.utm_medium = Some("email".into());
    shop.land(&[after]).await;
    shop.run().await;
    assert_eq!(shop.sql("SELECT last_channel FROM sessions").await, ["email"]);
    assert_eq!(shop.sql(sql).await, ["o1|matched|email"]);
}

#[tokio::test]
async fn tracked_purchases_match_within_a_week_of_their_order_in_any_batches() {
    let events = [
        purchase("a", "v", "2026-03-03T10:00:00Z", "o1"),
        purchase("b", "v", "2026-03-17T10:00:00Z", "o1"),
        purchase("c", "v", "2026-03-18T10:00:00Z", "o1"),
        purchase("d", "v", "2026-03-30T10:00:00Z", "o2"),
        purchase("e", "v", "2026-03-10T10:00:00Z", "o2"),
    ];
    let orders = orders_csv(&[("o1", "2026-03-10T23:59:59Z", "10")]);
    let wanted =
        ["o1|matched|a|2026-03-10", "o2|event_only|d|2026-03-30", "o2|event_only|e|2026-03-10"];
    // `a` and `b` lie exactly seven days off; `c` is one more, and follows `b`, which is matched.
    let mut at_once = Shop::new().await;
    at_once.land(&events).await;
    at_once.export("orders", "20260401T000000", &orders);
    at_once.run().await;
    let sql = "SELECT order_id, match_status, event_id, dt FROM orders_enriched";
    let found = at_once.sql(sql).await;
    let mut stepwise = Shop::new().await;
    for event in events.iter().rev() {
        stepwise.land(std::slice::from_ref(event)).await;
        stepwise.run().await;
    }
    stepwise.export("orders", "20260401T000000", &orders);
    stepwise.run().await;
    assert_eq!(stepwise.sql(sql).await, found);
    for row in wanted {
        assert!(found.iter().any(|found| found == row), "{row} is missing: {found:#?}");
    }
}

/// Two batches that make every job rewrite something.
async fn first_batch(shop: &mut Shop) {
    shop.land(&[
        view("a", "v", "2026-03-10T23:50:00Z"),
        view("a", "v", "2026-03-10T23:50:00Z"),
        purchase("b", "v", "2026-03-11T00:10:00Z", "o1"),
    ])
    .await;
    shop.export("order_items", "20260312T000000", &items_csv(&[("o1", 1, "p1", 2)]));
    shop.export("products", "20260312T000000", "product_id,price\np1,10\n");
}

async fn second_batch(shop: &mut Shop) {
    let mut late = view("late", "v", "2026-03-10T23:40:00Z");
    late.utm_medium = Some("cpc".into());
    let mut seen = view("seen", "v", "2026-03-11T00:20:00Z");
    seen.event_name = "product_view".into();
    seen.items = vec![item(1, 1)];
    let mut displacing = view("a", "v", "2026-03-10T23:50:00Z");
    displacing.collector_id = Some("b".into());
    shop.land(&[late, seen, displacing]).await;
    shop.export("orders", "20260313T000000", &orders_csv(&[("o1", "2026-03-11T00:11:00Z", "10")]));
    shop.export("products", "20260311T000000", "product_id,price\np1,9\n");
    shop.export("customers", "20260313T000000", "customer_id,city\nc1,Ulm\n");
}

async fn two_batches_done(mut shop: Shop) -> Vec<(String, Vec<String>)> {
    first_batch(&mut shop).await;
    shop.run().await;
    second_batch(&mut shop).await;
    shop.run().await;
    shop.everything().await
}

/// One job of each kind: appending, replacing days, replacing all. More of them would only make
/// more of the same writes.
async fn some_tables() -> Shop {
    let mut shop = Shop::new().await;
    shop.tables = Some(["attribution", "category_daily", "customers"].map(str::to_owned).to_vec());
    shop
}

#[tokio::test]
async fn a_run_that_dies_after_any_write_is_finished_by_the_next_one() {
    const MOST_WRITES: i64 = 200;
    let wanted = two_batches_done(some_tables().await).await;
    let mut before = some_tables().await;
    first_batch(&mut before).await;
    before.run().await;
    second_batch(&mut before).await;
    let mut writes = 0;
    loop {
        let shop = before.fork().await;
        let died = shop.run_on(&Dying::after(&shop.lake, writes)).await.is_err();
        if died {
            assert_eq!(shop.run().await.batches.len(), 1, "after {writes} writes");
        }
        assert_eq!(shop.everything().await, wanted, "after {writes} writes");
        if !died {
            break;
        }
        writes += 1;
        assert!(writes < MOST_WRITES, "a run needs more than {MOST_WRITES} writes");
    }
    assert!(writes > 20, "only {writes} writes: nothing much can have been torn apart");
}

#[tokio::test]
async fn runs_that_die_one_after_the_other_get_done_in_the_end() {
    let wanted = two_batches_done(some_tables().await).await;
    let mut shop = some_tables().await;
    first_batch(&mut shop).await;
    let mut deaths = die_until_done(&shop).await;
    second_batch(&mut shop).await;
    deaths += die_until_done(&shop).await;
    assert!(deaths >= 4, "only {deaths} deaths");
    assert_eq!(shop.everything().await, wanted);
    let versions = shop.versions().await;
    assert!(shop.run().await.batches.is_empty());
    assert_eq!(shop.versions().await, versions);
}

/// Lets runs die after more and more writes, until one does not.
async fn die_until_done(shop: &Shop) -> u32 {
    const MOST_WRITES: i64 = 200;
    let mut deaths = 0;
    for writes in 0..MOST_WRITES {
        match shop.run_on(&Dying::after(&shop.lake, writes)).await {
            Ok(_) => return deaths,
            Err(_) => deaths += 1,
        }
    }
    panic!("a run needs more than {MOST_WRITES} writes");
}

#[tokio::test]
async fn two_runs_at_once_do_the_work_of_one() {
    let wanted = two_batches_done(Shop::new().await).await;
    let mut shop = Shop::new().await;
    first_batch(&mut shop).await;
    let both = futures::join!(shop.run_on(&shop.lake), shop.run_on(&shop.lake));
    both.0.expect("the one succeeds");
    both.1.expect("and the other");
    second_batch(&mut shop).await;
    let both = futures::join!(shop.run_on(&shop.lake), shop.run_on(&shop.lake));
    both.0.expect("the one succeeds");
    both.1.expect("and the other");
    assert_eq!(shop.everything().await, wanted);
}
