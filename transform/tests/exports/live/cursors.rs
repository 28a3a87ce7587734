//! Is anything lost by an incremental read whose column says strange things: nothing, times to
//! come, times of no end?

use clickmill_transform::{Silent, run};

use super::database::Database;
use super::mariadb;
use crate::shop::{Shop, shop};

const SQL: &str = "SELECT order_id, status FROM orders";

async fn told(shop: &Shop) -> Vec<String> {
    let report = shop.run_tables(&["orders", "source_exports"]).await;
    report.notices.iter().map(|notice| format!("{:?} {notice}", notice.severity)).collect()
}

fn orders(settings: &str) -> String {
    format!("[db.orders]\nincremental = {{ column = \"changed\"{settings} }}")
}

async fn reads(shop: &Shop) -> Vec<String> {
    shop.sql("SELECT content, rows_read FROM source_exports").await
}

#[tokio::test]
async fn rows_without_a_cursor_are_read_each_time() {
    let Some(db) = Database::new().await else { return };
    db.run(
        "CREATE TABLE orders (order_id bigint PRIMARY KEY, ordered_at timestamptz, status text,
           changed timestamptz);
         INSERT INTO orders SELECT n, '2026-03-01', 'open',
           CASE WHEN n % 2 = 0 THEN timestamptz '2026-03-01' + n * interval '1 day' END
         FROM generate_series(1, 20) n",
    )
    .await;
    let shop = shop(db.source("page_rows = 10", &orders(""))).await;
    assert_eq!(told(&shop).await, Vec::<String>::new());
    // New ones have no cursor until they are changed; one lost its own.
    db.run(
        "INSERT INTO orders VALUES (101, '2026-03-01', 'new', NULL),
           (102, '2026-03-01', 'new', '-infinity'), (103, '2026-03-01', 'new', '2026-04-01');
         UPDATE orders SET status = 'paid', changed = NULL WHERE order_id = 2;
         UPDATE orders SET status = 'paid', changed = '2026-04-01' WHERE order_id = 3;",
    )
    .await;
    let notices = told(&shop).await;
    assert_eq!(shop.sql(SQL).await, db.sql(SQL).await);
    // Behind the bound are the 20th, the 103rd and the 3rd; of the others 9, two new ones, the 2nd.
    assert_eq!(reads(&shop).await, ["snapshot|20", "window|15"]);
    // They are more than a page: that is told, with their number and what to do.
    assert_eq!(notices.len(), 1, "{notices:#?}");
    assert!(notices[0].starts_with("Remark"), "{notices:#?}");
    assert!(notices[0].contains("12 of its rows have no `changed`"), "{notices:#?}");
}

#[tokio::test]
async fn an_incremental_read_that_dies_is_finished_with_the_rows_that_have_no_cursor() {
    let Some(db) = Database::new().await else { return };
    db.run(
        "CREATE TABLE orders (order_id bigint PRIMARY KEY, ordered_at timestamptz, status text,
           changed timestamptz);
         INSERT INTO orders SELECT n, '2026-03-01', 'open', timestamptz '2026-03-01'
         FROM generate_series(1, 20) n",
    )
    .await;
    let mut first = shop(db.source("page_rows = 10", &orders(""))).await;
    first.tables = Some(vec!["orders".to_owned()]);
    first.run().await;
    db.run(
        "UPDATE orders SET status = 'paid', changed = NULL WHERE order_id <= 9;
         UPDATE orders SET status = 'paid', changed = '2026-04-01' WHERE order_id > 15;",
    )
    .await;
    let expected = db.sql(SQL).await;
    // The read's own writes come first: two parts, each with its progress, and its end.
    for writes in 0..6 {
        let shop = first.fork().await;
        let _ = run(&shop.dying_after(writes), &shop.options(), &Silent).await;
        shop.run().await;
        assert_eq!(shop.sql(SQL).await, expected, "it died after {writes} writes");
    }
}

#[tokio::test]
async fn a_cursor_in_the_future_hides_nothing_that_is_written_before() {
    let Some(db) = Database::new().await else { return };
    // Half a day behind UTC: what is in the future there may be past by UTC.
    db.run(&format!("ALTER DATABASE {} SET timezone = 'Etc/GMT+12'", db.name)).await;
    db.run("SET timezone = 'Etc/GMT+12'").await;
    for (kind, soon) in [
        ("timestamptz", "now() + interval '11 minutes'"),
        ("timestamp", "localtimestamp + interval '11 hours'"),
        ("date", "current_date + 10"),
    ] {
        db.run(&format!(
            "DROP TABLE IF EXISTS orders;
             CREATE TABLE orders (order_id bigint PRIMARY KEY, ordered_at timestamptz, status text,
               changed {kind});
             INSERT INTO orders VALUES (1, '2026-03-01', 'open', '2026-03-01'),
               (2, '2026-03-01', 'open', '2026-03-02'), (3, '2026-03-01', 'open', {soon}),
               (4, '2026-03-01', 'open', '9999-12-31'), (5, '2026-03-01', 'open', 'infinity')"
        ))
        .await;
        let shop = shop(db.source("", &orders(", overlap = \"1m\""))).await;
        let notices = told(&shop).await;
        assert!(notices.len() == 1 && notices[0].starts_with("Remark"), "{kind}: {notices:#?}");
        let number = if kind == "timestamp" { 2 } else { 3 };
        let said = format!("{number} of its rows have a `changed` that is ahead");
        assert!(notices[0].contains(&said) && notices[0].contains("infinity"), "{notices:#?}");
        db.run(
            "UPDATE orders SET status = 'paid', changed = now() WHERE order_id = 1;
             UPDATE orders SET status = 'void' WHERE order_id = 5;
             INSERT INTO orders VALUES (6, '2026-03-01', 'new', now())",
        )
        .await;
        assert_eq!(told(&shop).await.len(), 1);
        assert_eq!(shop.sql(SQL).await, db.sql(SQL).await, "{kind}");
        // The second, of the bound, and all but it.
        assert_eq!(reads(&shop).await, ["snapshot|5", "window|6"], "{kind}");
        db.run("UPDATE orders SET status = 'gone', changed = now() WHERE order_id = 2").await;
        told(&shop).await;
        assert_eq!(shop.sql(SQL).await, db.sql(SQL).await, "{kind}");
    }
}

#[tokio::test]
async fn of_mariadb_neither_rows_without_a_cursor_nor_those_behind_a_future_one_are_lost() {
    let Some(mut db) = mariadb::Database::new().await else { return };
    for (kind, zero, end, number) in [
        ("datetime(6)", "0000-00-00", "9999-12-31", 1),
        ("timestamp(6)", "0000-00-00", "2037-12-31", 1),
        ("date", "0000-00-00", "9999-12-31", 1),
    ] {
        db.run(&format!(
            "SET sql_mode = '', time_zone = '+00:00';
             DROP TABLE IF EXISTS orders;
             CREATE TABLE orders (order_id bigint PRIMARY KEY, ordered_at datetime, status text,
               changed {kind} NULL);
             INSERT INTO orders VALUES (1, '2026-03-01', 'open', '2026-03-01'),
               (2, '2026-03-01', 'open', NULL), (3, '2026-03-01', 'open', '{zero}'),
               (4, '2026-03-01', 'open', '{end}')"
        ))
        .await;
        let shop = shop(db.source("", &orders(", overlap = \"1m\""))).await;
        let notices = told(&shop).await;
        let said = format!("{number} of its rows have a `changed` that is ahead");
        assert!(notices.len() == 1 && notices[0].contains(&said), "{kind}: {notices:#?}");
        assert!(notices[0].contains(end), "{kind}: {notices:#?}");
        db.run(&format!(
            "UPDATE orders SET status = 'paid', changed = UTC_TIMESTAMP() WHERE order_id = 1;
             UPDATE orders SET status = 'void' WHERE order_id > 1;
             INSERT INTO orders VALUES (5, '2026-03-01', 'new', NULL),
               (6, '2026-03-01', 'new', '{zero}'), (7, '2026-03-01', 'new', UTC_TIMESTAMP())"
        ))
        .await;
        told(&shop).await;
        assert_eq!(shop.sql(SQL).await, db.sql(SQL).await, "{kind}");
        assert_eq!(reads(&shop).await, ["snapshot|4", "window|7"], "{kind}");
    }
}

#[tokio::test]
async fn a_table_whose_rows_all_lack_a_cursor_is_read_whole() {
    let Some(mut db) = mariadb::Database::new().await else { return };
    db.run(
        "SET sql_mode = '';
         CREATE TABLE orders (order_id bigint PRIMARY KEY, ordered_at datetime, status text,
           changed datetime);
         INSERT INTO orders VALUES (1, '2026-03-01', 'open', '0000-00-00')",
    )
    .await;
    let shop = shop(db.source("", &orders(""))).await;
    told(&shop).await;
    db.run("INSERT INTO orders VALUES (2, '2026-03-01', 'new', '2026-03-01')").await;
    told(&shop).await;
    assert_eq!(shop.sql(SQL).await, db.sql(SQL).await);
}
