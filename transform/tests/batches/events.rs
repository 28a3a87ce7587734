//! Days and late events: which days an event touches, and what becomes of copies.

use std::time::Duration;

use clickmill_schemas::Event;

use crate::support::history::plain;
use crate::support::shop::{Shop, at};
use crate::{orders_csv, purchase, view};

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

/// A page view of one id and time, received at noon of a day.
fn received(day: u32, wal_seq: i64) -> Event<'static> {
    let received = at(&format!("2026-03-{day:02}T12:00:00Z"));
    let mut event = plain("a", "page_view", "v", at("2026-03-01T10:00:00Z"), received);
    event.wal_seq = Some(wal_seq);
    event
}

const KEPT: &str = "SELECT wal_seq, dt, session_seq FROM events";
const SET_ASIDE: &str = "SELECT wal_seq, reason FROM event_duplicates";

#[tokio::test]
async fn copies_received_over_a_week_after_the_one_before_are_kept_and_told_apart() {
    let mut shop = Shop::new().await;
    // A week to the microsecond, and one more.
    let beyond = received(15, 3).received_ts().saturating_add(Duration::from_micros(1));
    let mut third = plain("a", "page_view", "v", at("2026-03-01T10:00:00Z"), beyond);
    third.wal_seq = Some(3);
    shop.land(&[received(1, 1), received(8, 2), third]).await;
    shop.run().await;
    // Of equal time, in the order of their receipt.
    assert_eq!(shop.sql(KEPT).await, ["1|2026-03-01|1", "3|2026-03-01|2"]);
    assert_eq!(shop.sql(SET_ASIDE).await, ["2|retry"]);
    // One that displaces the first, and leaves the third.
    let mut earlier =
        plain("a", "page_view", "v", at("2026-03-01T10:00:00Z"), at("2026-03-01T11:00:00Z"));
    earlier.wal_seq = Some(4);
    shop.land(&[earlier]).await;
    shop.run().await;
    assert_eq!(shop.sql(KEPT).await, ["3|2026-03-01|2", "4|2026-03-01|1"]);
    assert_eq!(shop.sql(SET_ASIDE).await, ["1|retry", "2|retry"]);
}

#[tokio::test]
async fn which_copy_stays_and_why_not_does_not_depend_on_the_order_of_batches() {
    let mut other = received(5, 4);
    other.page_url = Some("https://shop.example/other".into());
    let copies = [received(1, 1), received(7, 2), received(9, 3), other, received(17, 5)];
    let wanted = [
        vec!["1|2026-03-01|1".to_owned(), "5|2026-03-01|2".to_owned()],
        ["2|id_collision", "3|retry", "4|id_collision"].map(str::to_owned).to_vec(),
    ];
    // Some of them: an extra copy is in sight without the kept one; one comes between two.
    for order in
        [[0, 1, 2, 3, 4], [1, 2, 0, 3, 4], [4, 2, 3, 1, 0], [2, 0, 4, 1, 3], [0, 4, 2, 1, 3]]
    {
        let mut shop = Shop::new().await;
        shop.tables = Some(vec!["events".to_owned()]);
        for number in order {
            shop.land(&copies[number..=number]).await;
            shop.run().await;
        }
        assert_eq!([shop.sql(KEPT).await, shop.sql(SET_ASIDE).await], wanted, "{order:?}");
    }
}

#[tokio::test]
async fn an_on_time_run_writes_no_old_copy_again() {
    let mut shop = Shop::new().await;
    shop.land(&[received(1, 1), received(2, 2)]).await;
    shop.run().await;
    let before = shop.files("event_duplicates", "2026-03-02").await;
    shop.land(&[received(2, 3)]).await;
    shop.run().await;
    let after = shop.files("event_duplicates", "2026-03-02").await;
    assert!(after.len() == 2 && before.iter().all(|file| after.contains(file)), "{after:?}");
}

#[tokio::test]
async fn places_in_a_session_do_not_depend_on_cores_or_batches_where_time_and_id_are_equal() {
    let of = |app: &'static str| {
        let mut event = view("same", "v", "2026-03-10T10:00:00Z");
        event.app_id = app.into();
        event
    };
    let apps = ["d", "b", "e", "a", "c"];
    let sql = "SELECT app_id, session_seq FROM events";
    let wanted = ["a|1", "b|2", "c|3", "d|4", "e|5"];
    let (mut at_once, mut stepwise) = (Shop::new().await, Shop::new().await);
    for shop in [&mut at_once, &mut stepwise] {
        shop.tables = Some(vec!["events".to_owned()]);
    }
    at_once.land(&apps.map(of)).await;
    at_once.run().await;
    assert_eq!(at_once.sql(sql).await, wanted);
    for app in apps {
        stepwise.land(&[of(app)]).await;
        stepwise.run().await;
    }
    assert_eq!(stepwise.sql(sql).await, wanted);
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
