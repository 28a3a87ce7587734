//! Does a page end between two rows whose keys are equal to the database, and differ?

use super::database::Database;
use super::mariadb;
use crate::shop::{Shop, shop};

const SQL: &str = "SELECT customer_id, city FROM customers";
const CUSTOMERS: &str = "[db.customers]\nkey = [\"customer_id\"]";

async fn told(shop: &Shop) -> Vec<String> {
    let report = shop.run_tables(&["customers"]).await;
    report.notices.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn postgresql_pages_leave_out_no_row_whose_key_is_equal_to_another() {
    let Some(db) = Database::new().await else { return };
    db.run(
        // As a read has them printed.
        "SET IntervalStyle = 'iso_8601';
         CREATE TABLE spans (id interval, city text);
         INSERT INTO spans SELECT n * k::interval, k FROM generate_series(1, 20) n,
           unnest(ARRAY['1 day', '24 hours', '1440 minutes 0.000001 seconds']) k;
         CREATE TABLE numbers (id numeric, city text);
         INSERT INTO numbers SELECT (n || k)::numeric, k FROM generate_series(1, 20) n,
           unnest(ARRAY['.0', '.00', '.000', '']) k;
         CREATE TABLE chars (id bpchar, city text);
         INSERT INTO chars SELECT n || k, k FROM generate_series(1, 20) n,
           unnest(ARRAY['', ' ', '  ']) k;",
    )
    .await;
    for table in ["spans", "numbers", "chars"] {
        db.run(&format!(
            "DROP VIEW IF EXISTS customers;
             CREATE VIEW customers AS SELECT id AS customer_id, city FROM {table}"
        ))
        .await;
        // Whatever a page's end falls on.
        for rows in [1, 2, 5] {
            let shop = shop(db.source(&format!("page_rows = {rows}"), CUSTOMERS)).await;
            assert_eq!(told(&shop).await, Vec::<String>::new(), "{table}");
            assert_eq!(shop.sql(SQL).await, db.sql(SQL).await, "{table}, pages of {rows}");
        }
    }
}

#[tokio::test]
async fn mariadb_pages_leave_out_no_row_whose_key_is_equal_to_another() {
    let Some(mut db) = mariadb::Database::new().await else { return };
    db.run(
        "CREATE TABLE customers (customer_id varchar(20) COLLATE utf8mb4_general_ci, city text,
           KEY (customer_id));
         INSERT INTO customers SELECT concat(k, seq, pad), k FROM seq_1_to_20,
           (SELECT 'a@x' k UNION ALL SELECT CAST('A@x' AS BINARY) UNION ALL SELECT 'A@X') ks,
           (SELECT '' pad UNION ALL SELECT CAST(' ' AS BINARY)) pads",
    )
    .await;
    let expected = db.sql(SQL).await;
    assert_eq!(expected.len(), 120);
    for rows in [1, 2, 5] {
        let shop = shop(db.source(&format!("page_rows = {rows}"), CUSTOMERS)).await;
        assert_eq!(told(&shop).await, Vec::<String>::new());
        assert_eq!(shop.sql(SQL).await, expected, "pages of {rows}");
    }
}

/// Its pages follow each other by that index alone: with no other way to put rows in order than
/// to sort them, a page that needed more than the index would read all that is left.
#[tokio::test]
async fn a_key_that_an_index_keeps_unique_is_read_by_that_index() {
    let Some(db) = Database::new().await else { return };
    db.run(
        "CREATE TABLE customers (customer_id numeric NOT NULL, shop text, city text,
           UNIQUE (customer_id) INCLUDE (city));
         INSERT INTO customers SELECT n, 's', 'x' FROM generate_series(1, 2000) n;
         ANALYZE customers;",
    )
    .await;
    for setting in ["enable_seqscan", "enable_bitmapscan", "enable_incremental_sort"] {
        db.run(&format!("ALTER DATABASE {} SET {setting} = off", db.name)).await;
    }
    let shop = shop(db.source("page_rows = 50", CUSTOMERS)).await;
    assert_eq!(told(&shop).await, Vec::<String>::new());
    assert_eq!(shop.sql(SQL).await, db.sql(SQL).await);
    // A server counts what a connection read when that ends.
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name = 'clickmill'";
    while db.sql(open).await != ["0"] {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let read = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE relname = 'customers'";
    let read: u64 = db.sql(read).await[0].parse().unwrap();
    assert!((2_000..5_000).contains(&read), "{read} rows of the index were read for 2,000");
}
