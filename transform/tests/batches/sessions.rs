//! Sessions and what is configured of them: bots apart, another gap, another lookback.

use std::time::Duration;

use super::support::history::{BOT, item};
use super::support::shop::{Shop, at};
use super::{orders_csv, purchase, view};
use clickmill_schemas::{Event, EventTime, Timestamp};
use clickmill_transform::{
    AttributionConfig, RunOptions, SessionsConfig, Silent, TransformError, run,
};

const SESSIONS: &str = "SELECT visitor_id, started_at, events, is_bot FROM sessions";

fn bots(mut event: Event<'static>) -> Event<'static> {
    event.user_agent = Some(BOT.into());
    event
}

#[tokio::test]
async fn a_bots_events_neither_join_nor_split_a_humans_sessions() {
    let humans = [
        view("a", "v", "2026-03-10T10:00:00Z"),
        view("b", "v", "2026-03-10T10:50:00Z"),
        purchase("c", "v", "2026-03-10T11:00:00Z", "o1"),
    ];
    let between = [
        bots(view("x", "v", "2026-03-10T10:25:00Z")),
        bots(view("y", "v", "2026-03-10T10:55:00Z")),
    ];
    let order = orders_csv(&[("o1", "2026-03-10T11:00:00Z", "10")]);
    let mut without = Shop::new().await;
    without.export("orders", "20260311T000000", &order);
    without.land(&humans).await;
    without.run().await;
    let expected = without.sql(SESSIONS).await;
    assert_eq!(expected, ["v|2026-03-10T10:00:00Z|1|false", "v|2026-03-10T10:50:00Z|2|false"]);

    // At once, and the bot's later than the human's.
    for bots_come_late in [false, true] {
        let mut with = Shop::new().await;
        with.export("orders", "20260311T000000", &order);
        with.land(&humans).await;
        if bots_come_late {
            with.run().await;
        }
        with.land(&between).await;
        with.run().await;
        let found = with.sql(SESSIONS).await;
        let (of_bots, of_humans): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|row| row.ends_with("true"));
        assert_eq!(of_humans, expected, "late {bots_come_late}");
        assert_eq!(
            of_bots,
            ["v|2026-03-10T10:25:00Z|1|true", "v|2026-03-10T10:55:00Z|1|true"],
            "late {bots_come_late}"
        );
        for table in ["funnel_daily", "attribution"] {
            let sql = format!("SELECT * FROM {table}");
            assert_eq!(with.sql(&sql).await, without.sql(&sql).await, "{table}");
        }
    }
}

#[tokio::test]
async fn a_configured_gap_ends_sessions_and_holds_for_the_whole_lake() {
    let mut shop = Shop::new().await;
    let with_gap = |shop: &Shop, gap_minutes| RunOptions {
        sessions: SessionsConfig { gap_minutes },
        ..shop.options()
    };
    shop.land(&[view("a", "v", "2026-03-10T10:00:00Z"), view("b", "v", "2026-03-10T10:40:00Z")])
        .await;
    run(&shop.lake, &with_gap(&shop, 60), &Silent).await.expect("runs");
    assert_eq!(shop.sql(SESSIONS).await, ["v|2026-03-10T10:00:00Z|2|false"]);

    shop.land(&[view("c", "v", "2026-03-10T11:30:00Z")]).await;
    let before = shop.versions().await;
    let refused = run(&shop.lake, &shop.options(), &Silent).await;
    let Err(error @ TransformError::OtherSessions { cut: 60, wanted: 30 }) = refused else {
        panic!("{refused:?}")
    };
    assert!(error.to_string().contains("gap_minutes"), "{error}");
    assert_eq!(shop.versions().await, before);

    run(&shop.lake, &with_gap(&shop, 60), &Silent).await.expect("runs");
    assert_eq!(shop.sql(SESSIONS).await, ["v|2026-03-10T10:00:00Z|3|false"]);
}

#[tokio::test]
async fn another_lookback_attributes_every_order_anew() {
    let lookback = |shop: &Shop, lookback_days| RunOptions {
        attribution: AttributionConfig { lookback_days },
        ..shop.options()
    };
    let mut shop = Shop::new().await;
    shop.land(&[
        view("a", "v", "2026-03-01T10:00:00Z"),
        purchase("b", "v", "2026-03-10T10:00:00Z", "o1"),
        view("c", "w", "2026-04-01T10:00:00Z"),
        purchase("d", "w", "2026-04-10T10:00:00Z", "o2"),
    ])
    .await;
    let orders = [("o1", "2026-03-10T10:00:00Z", "10"), ("o2", "2026-04-10T10:00:00Z", "20")];
    shop.export("orders", "20260411T000000", &orders_csv(&orders));
    let touches =
        "SELECT order_id, count(*) FROM attribution WHERE model = 'linear' GROUP BY order_id";
    shop.run().await;
    assert_eq!(shop.sql(touches).await, ["o1|2", "o2|2"]);

    // Nothing else is new.
    run(&shop.lake, &lookback(&shop, 5), &Silent).await.expect("runs");
    assert_eq!(shop.sql(touches).await, ["o1|1", "o2|1"]);
    let again = run(&shop.lake, &lookback(&shop, 5), &Silent).await.expect("runs");
    assert!(again.batches.is_empty(), "{again:?}");

    shop.run().await;
    assert_eq!(shop.sql(touches).await, ["o1|2", "o2|2"]);
    assert_eq!(shop.sql("SELECT count(*) FROM events").await, ["4"]);
}

#[tokio::test]
async fn a_page_of_thanks_that_is_loaded_again_is_no_second_purchase() {
    let first = purchase("a", "v", "2026-03-10T23:50:00Z", "o1");
    let again = purchase("b", "v", "2026-03-11T00:40:00Z", "o1");
    // The day after the last report, to the second, and one later.
    let a_day_later = purchase("c", "v", "2026-03-12T00:40:00Z", "o1");
    let later = purchase("d", "v", "2026-03-13T00:40:01Z", "o1");
    let of_somebody_else = purchase("e", "w", "2026-03-11T00:00:00Z", "o1");
    let all = [first, again, a_day_later, later, of_somebody_else];
    let expected = [
        "v|2026-03-10T23:50:00Z|1|10.0000|true",
        "v|2026-03-11T00:40:00Z|0|-|false",
        "v|2026-03-12T00:40:00Z|0|-|false",
        "v|2026-03-13T00:40:01Z|1|10.0000|true",
        "w|2026-03-11T00:00:00Z|1|10.0000|true",
    ];
    let sql = "SELECT visitor_id, started_at, orders, revenue, has_purchase FROM sessions";
    // At once, and the first one last.
    for order in [vec![vec![0, 1, 2, 3, 4]], vec![vec![2, 3, 4], vec![1], vec![0]]] {
        let mut shop = Shop::new().await;
        for batch in &order {
            let events: Vec<_> = batch.iter().map(|at: &usize| all[*at].clone()).collect();
            shop.land(&events).await;
            shop.run().await;
        }
        assert_eq!(shop.sql(sql).await, expected, "{order:?}");
        assert_eq!(
            shop.sql("SELECT dt, purchases, orders, revenue FROM funnel_daily WHERE orders > 0")
                .await,
            ["2026-03-10|1|1|10.0000", "2026-03-11|1|1|10.0000", "2026-03-13|1|1|10.0000"]
        );
    }
}

#[tokio::test]
async fn an_amount_without_a_currency_leaves_the_sum_without_one() {
    let mut shop = Shop::new().await;
    let mut dollars = purchase("a", "v", "2026-03-10T10:00:00Z", "o1");
    dollars.currency = Some("USD".into());
    shop.land(&[dollars, purchase("b", "v", "2026-03-10T10:01:00Z", "o2")]).await;
    shop.run().await;
    assert_eq!(shop.sql("SELECT revenue, currency FROM sessions").await, ["20.0000|-"]);
    assert_eq!(shop.sql("SELECT revenue, currency FROM funnel_daily").await, ["20.0000|-"]);
}

#[tokio::test]
async fn what_a_server_reports_is_no_visit_of_the_funnel() {
    let mut shop = Shop::new().await;
    let mut refund = view("a", "v", "2026-03-10T10:00:00Z");
    refund.event_name = "refund".into();
    // Who only put something on a list was here.
    let mut wish = view("c", "x", "2026-03-10T10:00:00Z");
    wish.event_name = "add_to_wishlist".into();
    shop.land(&[refund, view("b", "w", "2026-03-10T10:00:00Z"), wish]).await;
    shop.run().await;
    assert_eq!(shop.sql("SELECT sessions, visitors, bounces FROM funnel_daily").await, ["2|2|2"]);
    assert_eq!(shop.sql("SELECT count(*) FROM sessions").await, ["3"]);
}

#[tokio::test]
async fn a_cart_of_an_earlier_session_never_holds_less_than_nothing() {
    let mut shop = Shop::new().await;
    let change = |id, name: &'static str, time, quantity| {
        let mut event = view(id, "v", time);
        event.event_name = name.into();
        event.items = vec![item(1, quantity)];
        event
    };
    shop.land(&[
        change("a", "remove_from_cart", "2026-03-10T10:00:00Z", 2),
        change("b", "add_to_cart", "2026-03-10T10:01:00Z", 3),
        change("c", "remove_from_cart", "2026-03-10T10:02:00Z", 5),
        change("d", "add_to_cart", "2026-03-10T10:03:00Z", 1),
    ])
    .await;
    shop.run().await;
    assert_eq!(shop.sql("SELECT products, units FROM abandoned_carts").await, ["1|1"]);
}

#[tokio::test]
async fn a_clock_that_is_wrong_or_set_in_between_neither_splits_nor_joins_a_visit() {
    let minute = Duration::from_secs(60);
    let hours = |n: u64| Duration::from_secs(n * 3_600);
    // When it happened, and what the device's clock is ahead (or behind) of it.
    let by_clock = |id: &str, visitor: &str, time: &str, ahead: Duration, behind: Duration| {
        let shown = |time: Timestamp| time.saturating_add(ahead).saturating_sub(behind);
        let (happened, sent) = (at(time), at(time).saturating_add(minute));
        let resolved = EventTime::resolve(Some(shown(happened)), Some(shown(sent)), sent);
        let mut event =
            Event::new(id.to_owned(), "page_view".to_owned(), "segment", "web", resolved);
        event.anonymous_id = Some(visitor.to_owned().into());
        event.collector_id = Some("c".into());
        event
    };
    let none = Duration::ZERO;
    let all = [
        by_clock("a", "v", "2026-03-10T10:00:00Z", hours(3), none),
        // The clock is set while the page is open, and by another program to last month.
        by_clock("b", "v", "2026-03-10T10:10:00Z", none, none),
        by_clock("c", "v", "2026-03-10T10:20:00Z", none, hours(24 * 40)),
        // By its clock within the visit, and in truth 30 minutes after it.
        by_clock("d", "v", "2026-03-10T10:50:00Z", none, minute * 25),
        by_clock("e", "w", "2026-03-10T10:00:00Z", hours(24 * 400), none),
    ];
    let sessions = "SELECT visitor_id, started_at, ended_at, events, engaged_ms FROM sessions";
    for batches in [vec![vec![0, 1, 2, 3, 4]], vec![vec![3, 1], vec![4, 2, 0]]] {
        let mut shop = Shop::new().await;
        for batch in &batches {
            let events: Vec<_> = batch.iter().map(|at: &usize| all[*at].clone()).collect();
            shop.land(&events).await;
            shop.run().await;
        }
        assert_eq!(
            shop.sql(sessions).await,
            [
                "v|2026-03-10T10:00:00Z|2026-03-10T10:20:00Z|3|600000",
                "v|2026-03-10T10:50:00Z|2026-03-10T10:50:00Z|1|0",
                "w|2026-03-10T10:00:00Z|2026-03-10T10:00:00Z|1|0",
            ],
            "{batches:?}"
        );
        assert_eq!(
            shop.sql("SELECT event_id, clock_skew_ms FROM events ORDER BY 1").await,
            ["a|10800000", "b|0", "c|-3456000000", "d|-1500000", "e|34560000000"]
        );
    }
}
