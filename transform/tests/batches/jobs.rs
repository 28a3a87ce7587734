//! A shop's own SQL jobs: the same rows as its query gives over the whole tables, whatever
//! batches the input came in; and what is wrong with one is said.

use clickmill_schemas::RawJson;
use clickmill_transform::{ShopJob, TransformError};
use proptest::test_runner::{Config, TestRunner};

use crate::support::history::{BATCHES, histories, plain};
use crate::support::shop::{Shop, at};
use crate::{first_batch, orders_csv, second_batch, view};

pub fn job(text: &str) -> ShopJob {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("job.sql"), text).expect("writes");
    let jobs = ShopJob::load(folder.path()).expect("a job");
    ShopJob { file: "jobs/job.sql".to_owned(), ..jobs[0].clone() }
}

const DAILY: &str = "-- table: daily_views
-- mode: replace partitions
-- partition: dt
-- depends: events
-- key: visitor_id
SELECT visitor_id, count(*) AS views, min(event_ts) AS first_at, dt
FROM events WHERE event_name = 'page_view' AND visitor_id IS NOT NULL GROUP BY visitor_id, dt";

/// Looks two days back, and reads another job's table.
const RUNNING: &str = "-- table: three_days
-- mode: replace partitions
-- partition: dt
-- depends: daily_views
-- lookback: 2 days
SELECT d.dt, CAST(sum(v.views) AS BIGINT) AS views
FROM (SELECT DISTINCT dt FROM daily_views) d
JOIN daily_views v ON v.dt <= d.dt AND CAST(d.dt AS INT) - CAST(v.dt AS INT) <= 2
GROUP BY d.dt";

const LOG: &str = "-- table: order_log
-- mode: append
-- depends: event_items
-- looks up: products
SELECT i.event_id, i.item, i.product_id, p.name
FROM event_items i LEFT JOIN products p ON i.product_id = p.product_id AND p.valid_to IS NULL";

const WHOLE: &str = "-- table: visitors
-- mode: full
-- depends: sessions, orders
SELECT s.visitor_id, count(*) AS sessions, (SELECT count(*) FROM orders) AS orders
FROM sessions s WHERE s.visitor_id IS NOT NULL GROUP BY s.visitor_id";

/// What a query gives over the tables as they are in the end, with the table's columns in order.
async fn directly(shop: &Shop, text: &str, columns: &str) -> Vec<String> {
    shop.sql(&format!("SELECT {columns} FROM ({text}\n)")).await
}

#[tokio::test]
async fn a_jobs_query_reads_what_has_no_column() {
    let mut shop = Shop::new().await;
    shop.jobs = vec![job("-- table: plans\n-- mode: append\n-- depends: events\n\
         SELECT event_id, properties->>'plan' AS plan, properties->'seats'->>'used' AS used,\n\
         json_get_int(properties, 'seats', 'all') AS seats FROM events")];
    let with = |id: &str, properties: Option<&'static str>| {
        let mut event = view(id, "v", "2026-03-10T10:00:00Z");
        event.properties = properties.map(|text| RawJson::parse(text).expect("JSON"));
        event
    };
    shop.land(&[
        with("a", Some(r#"{"plan":"gold","seats":{"used":"3","all":12}}"#)),
        with("b", Some(r#"{"plan":null,"seats":7}"#)),
        with("c", None),
    ])
    .await;
    shop.run().await;
    let rows = shop.sql("SELECT event_id, plan, used, seats FROM plans").await;
    assert_eq!(rows, ["a|gold|3|12", "b|-|-|-", "c|-|-|-"]);
}

#[tokio::test]
async fn a_copy_that_comes_after_a_week_is_appended_like_any_event() {
    let mut shop = Shop::new().await;
    shop.jobs = vec![job("-- table: log\n-- mode: append\n-- depends: events\n\
         SELECT event_id, received_ts FROM events")];
    shop.land(&[view("a", "v", "2026-03-10T10:00:00Z"), view("b", "v", "2026-03-10T10:10:00Z")])
        .await;
    shop.run().await;
    let before = shop.files("events", "2026-03-10").await;
    let sent = at("2026-03-10T10:00:00Z");
    shop.land(&[plain("a", "page_view", "v", sent, at("2026-03-19T10:00:00Z"))]).await;
    shop.run().await;
    assert_ne!(shop.files("events", "2026-03-10").await, before, "the day is written again");
    let rows = "SELECT event_id, received_ts FROM";
    let wanted = shop.sql(&format!("{rows} events")).await;
    assert_eq!(wanted.len(), 3);
    assert_eq!(shop.sql(&format!("{rows} log")).await, wanted);
}

#[test]
fn jobs_give_what_their_queries_give_over_whole_tables_in_any_batches() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let config =
        Config { cases: 2, max_shrink_iters: 4, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&histories(), |history| {
        runtime
            .block_on(async {
                let mut shop = Shop::new().await;
                shop.jobs = vec![job(RUNNING), job(WHOLE), job(DAILY)];
                shop.tables = Some(["three_days", "visitors"].map(str::to_owned).to_vec());
                for batch in 0..BATCHES {
                    history.land(&mut shop, batch).await;
                    shop.run().await;
                }
                for (table, text, columns) in [
                    ("daily_views", DAILY, "visitor_id, views, first_at, dt"),
                    ("three_days", RUNNING, "views, dt"),
                    ("visitors", WHOLE, "visitor_id, sessions, orders"),
                ] {
                    let found = shop.sql(&format!("SELECT {columns} FROM {table}")).await;
                    let wanted = directly(&shop, text, columns).await;
                    if found != wanted {
                        return Err(format!("{table}: {found:#?}\nbut {wanted:#?}"));
                    }
                }
                Ok(())
            })
            .map_err(proptest::test_runner::TestCaseError::fail)
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn only_the_days_that_an_input_touched_are_computed_again() {
    let mut shop = Shop::new().await;
    shop.jobs = vec![job(DAILY), job(RUNNING)];
    shop.tables = Some(vec!["three_days".to_owned()]);
    let days = ["2026-03-09", "2026-03-10", "2026-03-11", "2026-03-12", "2026-03-13"];
    for (at, day) in days.iter().enumerate() {
        shop.land(&[view(&format!("e{at}"), "v", &format!("{day}T10:00:00Z"))]).await;
    }
    shop.run().await;
    let rows = "SELECT dt, views FROM three_days";
    assert_eq!(
        shop.sql(rows).await,
        ["2026-03-09|1", "2026-03-10|2", "2026-03-11|3", "2026-03-12|3", "2026-03-13|3"]
    );
    let mut before = Vec::new();
    for day in days {
        before.push((shop.files("daily_views", day).await, shop.files("three_days", day).await));
    }
    shop.land(&[view("late", "v", "2026-03-10T10:01:00Z")]).await;
    shop.run().await;
    assert_eq!(
        shop.sql(rows).await,
        ["2026-03-09|1", "2026-03-10|3", "2026-03-11|4", "2026-03-12|4", "2026-03-13|3"]
    );
    for (at, day) in days.iter().enumerate() {
        let after = (shop.files("daily_views", day).await, shop.files("three_days", day).await);
        assert_eq!(after.0 == before[at].0, at != 1, "daily_views of {day}");
        assert_eq!(after.1 == before[at].1, !(1..=3).contains(&at), "three_days of {day}");
    }
    // Nothing new, nothing done; another text, everything again.
    assert!(shop.run().await.batches.is_empty());
    shop.jobs[0] = job(&DAILY.replace("count(*) AS views", "2 * count(*) AS views"));
    assert_eq!(shop.run().await.batches.len(), 1);
    assert_eq!(shop.sql("SELECT sum(views) FROM daily_views").await, ["12"]);
    assert_eq!(shop.sql("SELECT views FROM three_days WHERE dt = '2026-03-12'").await, ["8"]);
}

#[tokio::test]
async fn appending_takes_each_row_once_also_where_its_day_is_rewritten() {
    let mut shop = Shop::new().await;
    shop.jobs = vec![job(&LOG
        .replace("event_items", "events")
        .replace(
            "SELECT i.event_id, i.item, i.product_id, p.name",
            "SELECT i.event_id, i.order_id AS product_id, p.name",
        )
        .replace("ON i.product_id", "ON i.order_id"))];
    shop.tables = Some(vec!["order_log".to_owned()]);
    shop.export("products", "20260301T000000", "product_id,name\no1,Shoe\n");
    let mut bought = crate::purchase("a", "v", "2026-03-10T10:00:00Z", "o1");
    bought.properties = None;
    shop.land(&[bought, view("b", "v", "2026-03-10T10:10:00Z")]).await;
    shop.run().await;
    assert_eq!(shop.sql("SELECT event_id, name FROM order_log").await, ["a|Shoe", "b|-"]);
    // It comes before the others of its session: the day of `events` is written anew.
    shop.export("products", "20260302T000000", "product_id,name\no1,Boot\n");
    shop.land(&[view("late", "v", "2026-03-10T09:50:00Z")]).await;
    shop.run().await;
    assert_eq!(
        shop.sql("SELECT event_id, name FROM order_log").await,
        ["a|Shoe", "b|-", "late|-"],
        "what was looked up stays as it was then"
    );
}

#[tokio::test]
async fn a_run_that_dies_after_any_write_has_the_rows_of_every_job_once() {
    async fn shop() -> Shop {
        let mut shop = Shop::new().await;
        shop.jobs = vec![
            job(DAILY),
            job("-- table: log\n-- mode: append\n-- depends: events\nSELECT event_id FROM events"),
            job(&WHOLE.replace(", orders\n", "\n").replace("(SELECT count(*) FROM orders)", "1")),
        ];
        shop.tables = Some(["daily_views", "log", "visitors"].map(str::to_owned).to_vec());
        shop
    }
    async fn rows(shop: &Shop) -> Vec<Vec<String>> {
        let mut all = Vec::new();
        for table in ["daily_views", "log", "visitors"] {
            all.push(shop.sql(&format!("SELECT * FROM {table}")).await);
        }
        all
    }
    async fn done(mut shop: Shop) -> Vec<Vec<String>> {
        first_batch(&mut shop).await;
        shop.run().await;
        second_batch(&mut shop).await;
        shop.run().await;
        rows(&shop).await
    }
    let wanted = done(shop().await).await;
    assert_eq!(wanted[1], ["a", "b", "late", "seen"]);
    let mut before = shop().await;
    first_batch(&mut before).await;
    before.run().await;
    second_batch(&mut before).await;
    // Each third: the tests of runs die at every one.
    for writes in (0..100).step_by(3) {
        let shop = before.fork().await;
        let died = shop.run_on(&shop.dying_after(writes)).await.is_err();
        // Whatever became of the files meanwhile: the batch has its own texts.
        if died && writes == 6 {
            let mut edited = shop.fork().await;
            edited.jobs = Vec::new();
            edited.tables = Some(vec!["sessions".to_owned()]);
            edited.run().await;
            edited.jobs = shop.jobs.clone();
            assert_eq!(rows(&edited).await, wanted);
        }
        if died {
            shop.run().await;
        }
        assert_eq!(rows(&shop).await, wanted, "after {writes} writes");
        if !died {
            assert!(writes > 10, "only {writes} writes");
            return;
        }
    }
    panic!("a run needs more than 100 writes");
}

#[tokio::test]
async fn a_query_that_fails_over_the_data_is_told_and_holds_nothing_else_up() {
    let mut shop = Shop::new().await;
    let broken = "-- table: broken\n-- mode: full\n-- depends: orders\n\
                  SELECT order_id, 1 / CAST(total - 10 AS BIGINT) AS x FROM orders";
    shop.jobs = vec![job(broken), job(WHOLE)];
    shop.land(&[view("a", "v", "2026-03-10T10:00:00Z")]).await;
    shop.export("orders", "20260312T000000", &orders_csv(&[("o1", "2026-03-11T00:00:00Z", "12")]));
    shop.run().await;
    assert_eq!(shop.sql("SELECT * FROM broken").await, ["o1|0"]);
    let orders =
        orders_csv(&[("o1", "2026-03-11T00:00:00Z", "12"), ("o2", "2026-03-11T00:00:00Z", "10")]);
    shop.export("orders", "20260313T000000", &orders);
    let report = shop.run().await;
    let notices = report.notices.iter().filter(|notice| notice.source.starts_with("jobs/"));
    let told: Vec<String> = notices.map(ToString::to_string).collect();
    assert!(
        told.len() == 1
            && told[0].contains("jobs/job.sql:1: ")
            && told[0].contains("ivide by zero"),
        "{told:?}"
    );
    assert_eq!(shop.sql("SELECT * FROM broken").await, ["o1|0"]);
    assert_eq!(shop.sql("SELECT orders FROM visitors").await, ["2"]);
    // It is not tried again and again,
    assert!(shop.run().await.batches.is_empty());
    // but once it is mended, and then has what it missed.
    shop.jobs[0] = job(&broken.replace("total - 10", "total - 9"));
    shop.run().await;
    assert_eq!(shop.sql("SELECT * FROM broken").await, ["o1|0", "o2|1"]);
}

#[tokio::test]
async fn what_is_wrong_with_a_job_is_said_with_file_and_line_before_anything_is_done() {
    let header = "-- table: mine\n-- mode: full\n-- depends: orders\n";
    for (text, line, said) in [
        (format!("{header}SELECT order_id,\n  custmer_id\nFROM orders"), 5, "custmer_id"),
        (format!("{header}SELECT order_id\nFORM orders"), 5, "end of statement, found: orders"),
        (
            format!("{header}SELECT order_id FROM orders o\nJOIN events e ON true"),
            5,
            "header names: orders",
        ),
        (format!("{header}\nDELETE FROM orders"), 5, "DML"),
        (format!("{header}SELECT 1 AS x; SELECT 2 AS x"), 4, "single"),
        (format!("{header}SELECT order_id,\n now() AS at FROM orders"), 5, "now()"),
        (format!("{header}SELECT random() AS x FROM orders"), 4, "random()"),
        (format!("{header}SELECT order_id, dt FROM orders"), 1, "partition: dt"),
        (format!("{header}SELECT make_array(order_id) AS x FROM orders"), 1, "CAST"),
        (format!("{header}SELECT 1 AS x, 2 AS x"), 4, "x"),
        (header.replace("orders", "ordres") + "SELECT 1 AS x", 3, "no table `ordres`"),
        (header.replace("orders", "source_keys") + "SELECT 1 AS x", 3, "no table `source_keys`"),
        (
            header
                .replace("full", "replace partitions\n-- partition: dt")
                .replace("orders", "customers")
                + "SELECT DATE '2026-01-01' AS dt",
            4,
            "none of these tables has days",
        ),
    ] {
        let mut shop = Shop::new().await;
        shop.jobs = vec![job(&text)];
        shop.land(&[view("a", "v", "2026-03-10T10:00:00Z")]).await;
        let error = shop.run_on(&shop.lake).await.expect_err(&text);
        assert!(matches!(error, TransformError::ShopJob(_)), "{error:?}");
        let shown = error.to_string();
        assert!(shown.starts_with(&format!("jobs/job.sql:{line}: ")), "{text}\n{shown}");
        assert!(shown.contains(said), "{text}\n{shown}");
        assert!(shop.days_of_batches().await.is_empty(), "a batch was begun");
    }
}

#[tokio::test]
async fn jobs_that_make_one_table_or_wait_for_each_other_are_refused() {
    let made = |table: &str, from: &str| {
        job(&format!("-- table: {table}\n-- mode: full\n-- depends: {from}\nSELECT 1 AS x"))
    };
    for (jobs, said) in [
        (vec![made("a", "orders"), made("a", "events")], "is made by"),
        (vec![made("a", "b"), made("b", "c"), made("c", "a")], "wait for each other: a, b, c"),
    ] {
        let mut shop = Shop::new().await;
        shop.jobs = jobs;
        let error = shop.run_on(&shop.lake).await.expect_err("is refused").to_string();
        assert!(error.contains(said), "{error}");
    }
    // Other columns than the table has.
    let mut shop = Shop::new().await;
    shop.jobs = vec![made("a", "orders")];
    shop.export("orders", "20260312T000000", &orders_csv(&[("o1", "2026-03-11T00:00:00Z", "12")]));
    shop.run().await;
    shop.jobs = vec![job("-- table: a\n-- mode: full\n-- depends: orders\nSELECT 'x' AS x")];
    let error = shop.run_on(&shop.lake).await.expect_err("is refused").to_string();
    assert!(
        error.starts_with("jobs/job.sql:1: ") && error.contains("other columns: x Int64"),
        "{error}"
    );
}

#[tokio::test]
async fn rows_of_days_that_nobody_asked_for_are_refused() {
    let mut shop = Shop::new().await;
    let text = DAILY.replace(", dt\nFROM", ", CAST('2020-01-01' AS DATE) AS dt\nFROM");
    shop.jobs = vec![job(&text.replace("GROUP BY visitor_id, dt", "GROUP BY visitor_id"))];
    shop.land(&[view("a", "v", "2026-03-10T10:00:00Z")]).await;
    let report = shop.run().await;
    let notices = report.notices.iter().filter(|notice| notice.source.starts_with("jobs/"));
    let told: Vec<String> = notices.map(ToString::to_string).collect();
    assert!(told.len() == 1 && told[0].contains("rows of 2020-01-01"), "{told:?}");
    assert_eq!(shop.sql("SELECT * FROM daily_views").await, Vec::<String>::new());
}
