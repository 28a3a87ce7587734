//! A real PostgreSQL.

use clickmill_lake::Lake;
use clickmill_transform::{RunOptions, Silent, run};

use super::database::{Database, port};
use crate::shop::{Shop, shop};

const SOURCES: &[&str] =
    &["orders", "order_items", "customers", "carts", "product_observations", "source_exports"];

async fn told(shop: &Shop) -> Vec<String> {
    let report = shop.run_tables(SOURCES).await;
    report.notices.iter().map(|notice| format!("{:?} {notice}", notice.severity)).collect()
}

const ORDERS: &str = "CREATE TABLE orders (order_id bigint PRIMARY KEY, ordered_at timestamptz, \
    total numeric(18,4), status text, updated_at timestamptz);";

#[tokio::test]
async fn every_type_arrives_as_it_is() {
    let Some(db) = Database::new().await else { return };
    db.run(
        "CREATE SCHEMA sales; SET search_path = sales;
         CREATE TYPE state AS ENUM ('paid', 'open');
         CREATE TABLE bills (id uuid PRIMARY KEY, placed timestamp, cents bigint, amount numeric,
           state state, cur char(3), note varchar(20), vat double precision);
         INSERT INTO bills VALUES
           ('00000000-0000-0000-0000-000000000001', '2026-07-01 12:00:00.123456', 1999,
             12345678901234.5678, 'paid', 'EUR', '', 0.1),
           ('00000000-0000-0000-0000-000000000002', '2026-01-01 12:00:00', -5, -0.1, NULL, NULL,
             'O''Neill \"x\" \\ ;', 1e-4),
           ('00000000-0000-0000-0000-000000000003', '2026-01-02 00:00:00', 1, 'NaN', 'open', 'EUR',
             NULL, NULL);
         CREATE TABLE people (customer_id int PRIMARY KEY, created_at timestamptz, agreed boolean,
           city text);
         INSERT INTO people VALUES (7, '2026-03-29 01:30:00+01', true, 'Zürich'),
           (8, 'infinity', false, NULL), (9, NULL, NULL, '');
         CREATE TABLE baskets (cart_id text PRIMARY KEY, updated_at timestamptz, items jsonb);
         INSERT INTO baskets VALUES ('c', '2026-02-02 02:02:02.5+00', '[{\"sku\": \"a\", \"n\": 1.50}]');",
    )
    .await;
    let shop = shop(db.source(
        "",
        r#"
        [db.orders]
        table = "sales.bills"
        [db.orders.columns]
        order_id = "id"
        ordered_at = { column = "placed", zone = "Europe/London" }
        total = "amount"
        subtotal = { column = "cents", minor_units = 2 }
        status = "state"
        currency = "cur"
        coupon = "note"
        tax = "vat"
        [db.customers]
        table = "sales.people"
        [db.customers.columns]
        marketing_consent = "agreed"
        [db.carts]
        table = "sales.baskets"
        "#,
    ))
    .await;
    assert_eq!(told(&shop).await, Vec::<String>::new());
    assert_eq!(
        shop.sql(
            "SELECT right(order_id, 1), ordered_at, subtotal, total, status, currency, coupon, tax \
             FROM orders"
        )
        .await,
        [
            // London was an hour ahead of UTC in July.
            "1|2026-07-01T11:00:00.123456Z|19.9900|12345678901234.5678|paid|EUR||0.1000",
            "2|2026-01-01T12:00:00Z|-0.0500|-0.1000|-|-|O'Neill \"x\" \\ ;|0.0001",
        ]
    );
    assert_eq!(
        shop.sql("SELECT customer_id, created_at, marketing_consent, city FROM customers").await,
        ["7|2026-03-29T00:30:00Z|true|Zürich", "9|-|-|"]
    );
    assert_eq!(
        shop.sql("SELECT cart_id, updated_at, items FROM carts").await,
        ["c|2026-02-02T02:02:02.500Z|[{\"n\": 1.50, \"sku\": \"a\"}]"]
    );
    // What no column of ours holds is rejected with its column, and nothing else is.
    let mut rejects = shop.sql("SELECT detail FROM rejects").await;
    rejects.sort();
    assert_eq!(rejects.len(), 2, "{rejects:?}");
    assert!(rejects[0].contains("created_at") && rejects[0].contains("infinity"), "{rejects:?}");
    assert!(rejects[1].contains("total") && rejects[1].contains("NaN"), "{rejects:?}");
}

#[tokio::test]
async fn pages_are_bounded_and_leave_nothing_out() {
    let Some(db) = Database::new().await else { return };
    // A key of two columns, text first: it is ordered by the database's own collation.
    db.run(
        "CREATE TABLE order_items (order_id text, line int, product_id text, quantity int,
           PRIMARY KEY (order_id, line));
         INSERT INTO order_items SELECT (ARRAY['a', 'B', 'ä', '1', 'Z z', ''''])[1 + n % 6] || n / 7,
           n % 7 + 1, 'p' || n, n FROM generate_series(0, 1236) n;",
    )
    .await;
    let shop = shop(db.source("page_rows = 100", "[db.order_items]")).await;
    assert_eq!(told(&shop).await, Vec::<String>::new());
    let sql = "SELECT order_id, line, product_id, quantity FROM order_items";
    assert_eq!(shop.sql(sql).await, db.sql(sql).await);
    assert_eq!(
        shop.sql("SELECT source, dataset, content, rows_read, rows_taken FROM source_exports")
            .await,
        ["db|order_items|snapshot|1237|1237"]
    );
}

#[tokio::test]
async fn an_incremental_read_takes_what_was_written_since_and_what_was_still_open_then() {
    let Some(db) = Database::new().await else { return };
    db.run(ORDERS).await;
    db.run(
        "INSERT INTO orders SELECT n, timestamptz '2026-03-01 00:00+00' + n * interval '1 hour',
           n, 'open', timestamptz '2026-03-01 00:00+00' + n * interval '1 minute'
         FROM generate_series(1, 1000) n",
    )
    .await;
    let shop = shop(db.source(
        "page_rows = 7",
        "[db.orders]\nincremental = { column = \"updated_at\", overlap = \"5m\" }",
    ))
    .await;
    assert_eq!(told(&shop).await, Vec::<String>::new());
    // The greatest is 2026-03-01 16:40. One is written later; one was written 4 minutes before
    // that and committed only now; one says that it is older than the overlap: it is missed.
    db.run(
        "UPDATE orders SET status = 'paid', updated_at = '2026-03-02 00:00+00' WHERE order_id = 3;
         INSERT INTO orders VALUES (2001, '2026-03-01 16:36+00', 1, 'new', '2026-03-01 16:36+00'),
           (2002, '2026-03-01 16:30+00', 1, 'missed', '2026-03-01 16:30+00');",
    )
    .await;
    assert_eq!(told(&shop).await, Vec::<String>::new());
    let sql = "SELECT order_id, total, status FROM orders";
    let except = format!("{sql} WHERE status <> 'missed'");
    assert_eq!(shop.sql(sql).await, db.sql(&except).await);
    // 16:35 to 16:40 are 6 orders; the new and the changed one come on top.
    assert_eq!(
        shop.sql("SELECT content, rows_read FROM source_exports").await,
        ["snapshot|1000", "window|8"]
    );
    // Nothing new: the overlap alone is read, and no table changes but the one of exports.
    let before = shop.table("orders").await.version();
    assert_eq!(told(&shop).await, Vec::<String>::new());
    assert_eq!(shop.table("orders").await.version(), before);
    // Every read of all rows mends what was missed.
    let mut again = shop;
    again.sources = db
        .source("", "[db.orders]\nincremental = { column = \"updated_at\", full_every = \"0s\" }");
    assert_eq!(told(&again).await, Vec::<String>::new());
    assert_eq!(again.sql(sql).await, db.sql(sql).await);
}

#[tokio::test]
async fn a_read_that_was_cut_off_goes_on_behind_its_last_part() {
    let Some(db) = Database::new().await else { return };
    db.run(
        "CREATE TABLE switch (broken boolean); INSERT INTO switch VALUES (true);
         CREATE TABLE people (id int PRIMARY KEY);
         INSERT INTO people SELECT generate_series(1, 120000);
         CREATE VIEW customers AS SELECT id AS customer_id,
           CASE WHEN id = 110000 AND (SELECT broken FROM switch) THEN 1 / (id - 110000) END AS city
         FROM people;",
    )
    .await;
    let shop =
        shop(db.source("page_rows = 20000", "[db.customers]\nkey = [\"customer_id\"]")).await;
    let notices = told(&shop).await;
    assert!(notices.len() == 1 && notices[0].contains("division by zero"), "{notices:#?}");
    assert_eq!(shop.sql("SELECT count(*) FROM customers").await, ["0"]);
    let parts = || async {
        use futures::TryStreamExt as _;
        let folder = object_store::path::Path::from("exports/live/db/customers");
        let listed = shop.lake.store().list(Some(&folder)).map_ok(|meta| meta.location);
        let mut paths: Vec<_> = listed.try_collect::<Vec<_>>().await.unwrap();
        paths.sort();
        paths
    };
    let before = parts().await;
    assert_eq!(before.len(), 1, "60,000 rows were written down, 40,000 not: {before:?}");
    // A row whose turn has passed waits for the next read.
    db.run("UPDATE switch SET broken = false; INSERT INTO people VALUES (-1)").await;
    assert_eq!(told(&shop).await, Vec::<String>::new());
    assert!(parts().await.contains(&before[0]), "the part was read again");
    assert_eq!(
        shop.sql("SELECT count(*), count(DISTINCT customer_id), min(CAST(customer_id AS BIGINT)) FROM customers").await,
        ["120000|120000|1"]
    );
    told(&shop).await;
    assert_eq!(shop.sql("SELECT count(*) FROM customers").await, ["120001"]);
}

#[tokio::test]
async fn whatever_write_a_read_dies_at_the_next_run_has_every_row_once() {
    let Some(db) = Database::new().await else { return };
    db.run(ORDERS).await;
    db.run(
        "INSERT INTO orders SELECT n, timestamptz '2026-03-01 00:00+00', n, 'open', NULL \
         FROM generate_series(1, 50) n",
    )
    .await;
    let source = db.source("page_rows = 20", "[db.orders]");
    let expected = db.sql("SELECT order_id, total, status FROM orders").await;
    let mut survived = false;
    // Each third: the tests of runs die at every one.
    for writes in (0..60).step_by(3) {
        let mut shop = shop(source).await;
        shop.tables = Some(vec!["orders".to_owned()]);
        let dying: Lake = shop.dying_after(writes);
        let outcome = run(&dying, &shop.options(), &Silent).await;
        shop.run().await;
        let rows = shop.sql("SELECT order_id, total, status FROM orders").await;
        assert_eq!(rows, expected, "it died after {writes} writes");
        // Nothing was read twice that had been read to its end.
        let reads = shop.sql("SELECT count(*), min(rows_read) FROM source_exports").await;
        assert!(reads == ["1|50"] || reads == ["2|50"], "after {writes} writes: {reads:?}");
        if outcome.is_ok_and(|report| report.notices.is_empty()) {
            survived = true;
            break;
        }
    }
    assert!(survived, "60 writes did not suffice");
}

#[tokio::test]
async fn a_source_that_fails_is_told_without_its_password_and_empties_nothing() {
    let Some(db) = Database::new().await else { return };
    db.run(ORDERS).await;
    db.run("INSERT INTO orders VALUES (1, '2026-03-01', 5, 'open', NULL)").await;
    let mut shop = shop(db.source("", "[db.orders]")).await;
    assert_eq!(told(&shop).await, Vec::<String>::new());
    let held = shop.sql("SELECT order_id, total FROM orders").await;
    assert_eq!(held, ["1|5.0000"]);

    let secret = "a-password-that-is-wrong";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{secret}\n")).unwrap();
    let address = format!(
        "host = \"127.0.0.1\"\nport = {}\ndatabase = \"{}\"\nuser = \"clickmill\"\n\
         read_every = \"0s\"\n",
        port(),
        db.name
    );
    let with_file = format!("password_file = \"{}\"\n", file.path().display());
    let right = "password_env = \"CLICKMILL_TEST_POSTGRESQL_PASSWORD\"\n";
    for (settings, sections, said) in [
        (
            format!("{address}tls = \"off\"\n{with_file}"),
            "[db.orders]",
            "password authentication failed",
        ),
        (
            format!("{address}tls = \"off\"\npassword_env = \"CLICKMILL_NOT_SET\"\n"),
            "[db.orders]",
            "CLICKMILL_NOT_SET",
        ),
        // The server has no TLS: nothing is sent to it in the clear.
        (format!("{address}{right}"), "[db.orders]", "TLS"),
        (
            format!("{address}tls = \"off\"\n{right}"),
            "[db.orders]\ntable = \"gone\"",
            "no table or view",
        ),
        (
            format!("{address}tls = \"off\"\n{right}"),
            "[db.orders]\ncolumns = { total = \"gone\" }",
            "there is no column `gone`",
        ),
        (
            format!("{address}tls = \"off\"\n{right}").replace(&port().to_string(), "1"),
            "[db.orders]",
            "cannot connect",
        ),
    ] {
        shop.sources = super::forever(format!("[db]\nkind = \"postgresql\"\n{settings}{sections}"));
        let notices = told(&shop).await;
        assert_eq!(notices.len(), 1, "{said}: {notices:#?}");
        assert!(notices[0].starts_with("Problem"), "{notices:#?}");
        assert!(notices[0].contains(said), "{said}: {notices:#?}");
        assert!(!notices[0].contains(secret), "{notices:#?}");
        assert_eq!(shop.sql("SELECT order_id, total FROM orders").await, held);
    }
    // An emptied table is told and empties nothing.
    db.run("DELETE FROM orders").await;
    shop.sources = db.source("", "[db.orders]");
    let notices = told(&shop).await;
    assert!(notices.len() == 1 && notices[0].contains("it has 0 rows"), "{notices:#?}");
    assert_eq!(shop.sql("SELECT order_id, total FROM orders").await, held);
}

#[tokio::test]
async fn a_key_that_does_not_tell_rows_apart_is_refused() {
    let Some(db) = Database::new().await else { return };
    db.run(
        "CREATE TABLE people (customer_id int, city text);
         INSERT INTO people SELECT n / 2, 'x' FROM generate_series(2, 41) n;
         CREATE TABLE carts (cart_id int, updated_at timestamptz);
         INSERT INTO carts VALUES (1, '2026-03-01'), (NULL, '2026-03-01');
         CREATE TABLE orders (order_id int, ordered_at timestamptz);",
    )
    .await;
    let shop = shop(db.source(
        "page_rows = 3",
        "[db.customers]\ntable = \"people\"\nkey = [\"customer_id\"]\n\
         [db.carts]\nkey = [\"cart_id\"]\n[db.orders]",
    ))
    .await;
    let mut notices = told(&shop).await;
    notices.sort();
    assert_eq!(notices.len(), 3, "{notices:#?}");
    assert!(notices[0].contains("carts") && notices[0].contains("without a value in the key"));
    assert!(notices[1].contains("customers") && notices[1].contains("two rows have the same key"));
    assert!(notices[2].contains("orders") && notices[2].contains("no primary key"), "{notices:#?}");
}

#[tokio::test]
async fn lines_without_a_number_are_not_read_incrementally() {
    let Some(db) = Database::new().await else { return };
    db.run(
        "CREATE TABLE order_items (id int PRIMARY KEY, order_id int, product_id int, quantity int,
           updated_at timestamptz, position int);
         INSERT INTO order_items VALUES (1, 7, 1, 1, '2026-03-01', 1), (2, 7, 2, 1, '2026-03-01', 2);",
    )
    .await;
    let incremental = "[db.order_items]\nincremental = { column = \"updated_at\" }\n";
    let lines = "SELECT order_id, line, product_id FROM order_items";
    // A read of all rows counts them; one of some would count anew and is refused from the first.
    let mut shop = shop(db.source("", incremental)).await;
    let notices = told(&shop).await;
    assert!(notices.len() == 1 && notices[0].starts_with("Problem"), "{notices:#?}");
    assert!(notices[0].contains("[sources.db.order_items.columns] line ="), "{notices:#?}");
    assert_eq!(shop.sql("SELECT count(*) FROM source_exports").await, ["0"]);
    shop.sources = db.source("", "[db.order_items]");
    assert_eq!(told(&shop).await, Vec::<String>::new());
    assert_eq!(shop.sql(lines).await, ["7|1|1", "7|2|2"]);
    shop.sources = db.source("", &format!("{incremental}columns = {{ line = \"position\" }}"));
    told(&shop).await;
    db.run("UPDATE order_items SET product_id = 3, updated_at = '2026-03-02' WHERE id = 2").await;
    assert_eq!(told(&shop).await, Vec::<String>::new());
    assert_eq!(shop.sql(lines).await, ["7|1|1", "7|2|3"]);
}

#[tokio::test]
async fn a_read_changes_nothing_in_the_database() {
    let Some(db) = Database::new().await else { return };
    db.run(
        "CREATE TABLE seen (n int);
         CREATE FUNCTION spy() RETURNS int LANGUAGE sql AS 'INSERT INTO seen VALUES (1) RETURNING n';
         CREATE VIEW customers AS SELECT spy() AS customer_id;",
    )
    .await;
    let shop = shop(db.source("", "[db.customers]\nkey = [\"customer_id\"]")).await;
    let notices = told(&shop).await;
    assert!(notices[0].contains("read-only transaction"), "{notices:#?}");
    assert_eq!(db.sql("SELECT count(*) FROM seen").await, ["0"]);
}

#[tokio::test]
async fn a_table_is_not_read_again_before_its_time_unless_its_settings_changed() {
    let Some(db) = Database::new().await else { return };
    db.run(ORDERS).await;
    db.run("INSERT INTO orders VALUES (1, '2026-03-01', 5, 'open', NULL)").await;
    let hourly = |columns: &str| {
        let text = db.source("", &format!("[db.orders]\n{columns}"));
        super::forever(text.replace("read_every = \"0s\"", "read_every = \"1h\""))
    };
    let mut shop = shop(hourly("")).await;
    told(&shop).await;
    db.run("UPDATE orders SET total = 6").await;
    told(&shop).await;
    assert_eq!(shop.sql("SELECT total FROM orders").await, ["5.0000"]);
    shop.sources = hourly("columns = { coupon = \"status\" }");
    told(&shop).await;
    assert_eq!(shop.sql("SELECT total, coupon FROM orders").await, ["6.0000|open"]);
}

#[tokio::test]
async fn two_runs_at_once_take_one_read_each_row_once() {
    let Some(db) = Database::new().await else { return };
    db.run(ORDERS).await;
    db.run(
        "INSERT INTO orders SELECT n, timestamptz '2026-03-01 00:00+00', n, 'open', NULL \
         FROM generate_series(1, 300) n",
    )
    .await;
    let shop = shop(db.source("page_rows = 10", "[db.orders]")).await;
    let options = RunOptions { tables: Some(vec!["orders".to_owned()]), ..shop.options() };
    let (one, other) =
        tokio::join!(run(&shop.lake, &options, &Silent), run(&shop.lake, &options, &Silent));
    assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
    let sql = "SELECT order_id, total, status FROM orders";
    assert_eq!(shop.sql(sql).await, db.sql(sql).await);
}
