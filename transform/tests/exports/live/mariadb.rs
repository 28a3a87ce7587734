//! A real MariaDB, with TLS as it comes.

use clickmill_lake::Lake;
use clickmill_transform::{Silent, run};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder, Row, Value};
use uuid::Uuid;

use crate::shop::{Shop, shop};

const PORT: &str = "CLICKMILL_TEST_MARIADB_PORT";
const SOURCES: &[&str] =
    &["orders", "order_items", "customers", "carts", "product_observations", "source_exports"];
/// What connects to the server without TLS.
const CLEAR: &str = "tls = \"off\"\npassword_env = \"CLICKMILL_TEST_POSTGRESQL_PASSWORD\"\n";

fn variable(name: &str) -> String {
    std::env::var(name).unwrap()
}

pub fn port() -> u16 {
    variable(PORT).parse().unwrap()
}

/// A database of its own for each test.
pub struct Database {
    name: String,
    connection: Conn,
}

impl Database {
    /// `None` where this machine has no MariaDB, or the user asked to skip.
    pub async fn new() -> Option<Self> {
        if let Ok(why) = std::env::var("CLICKMILL_TEST_MARIADB_SKIPPED") {
            eprintln!("skipped: {why}");
            return None;
        }
        if !super::has_servers(PORT) {
            return None;
        }
        let options = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(port())
            .user(Some("clickmill"))
            .pass(Some(variable("CLICKMILL_TEST_POSTGRESQL_PASSWORD")))
            .prefer_socket(false);
        let mut connection = Conn::new(options).await.expect("connects");
        let name = format!("shop_{}", Uuid::new_v4().simple());
        connection.query_drop(format!("CREATE DATABASE {name}")).await.unwrap();
        connection.query_drop(format!("USE {name}")).await.unwrap();
        Some(Self { name, connection })
    }

    pub async fn run(&mut self, statements: &str) {
        for sql in statements.split(";\n").map(str::trim).filter(|sql| !sql.is_empty()) {
            self.connection.query_drop(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
    }

    /// Rows as sorted text, as the server prints them; NULL as `-`.
    pub async fn sql(&mut self, sql: &str) -> Vec<String> {
        let rows: Vec<Row> = self.connection.query(sql).await.expect(sql);
        let text = |value: Value| match value {
            Value::Bytes(bytes) => String::from_utf8(bytes).unwrap(),
            _ => "-".to_owned(),
        };
        let row = |row: Row| row.unwrap().into_iter().map(text).collect::<Vec<_>>().join("|");
        let mut rows: Vec<String> = rows.into_iter().map(row).collect();
        rows.sort();
        rows
    }

    pub fn source(&self, settings: &str, sections: &str) -> &'static str {
        self.source_at("127.0.0.1", &format!("{CLEAR}{settings}"), sections)
    }

    fn source_at(&self, host: &str, settings: &str, sections: &str) -> &'static str {
        super::forever(format!(
            "[db]\nkind = \"mysql\"\nhost = \"{host}\"\nport = {}\ndatabase = \"{}\"\n\
             user = \"clickmill\"\nread_every = \"0s\"\n{settings}\n{sections}",
            port(),
            self.name
        ))
    }
}

async fn told(shop: &Shop) -> Vec<String> {
    let report = shop.run_tables(SOURCES).await;
    report.notices.iter().map(|notice| format!("{:?} {notice}", notice.severity)).collect()
}

const ORDERS: &str = "CREATE TABLE orders (order_id bigint PRIMARY KEY, ordered_at datetime(6), \
    total decimal(18,4), status text, updated_at timestamp(6) NULL, KEY (updated_at));\n";

#[tokio::test]
async fn every_type_arrives_as_it_is() {
    let Some(mut db) = Database::new().await else { return };
    db.run(
        "CREATE TABLE bills (id bigint unsigned PRIMARY KEY, placed datetime(6), cents int unsigned,
           amount decimal(18,4), state enum('open', 'paid'), cur char(3), note varchar(20),
           vat double, token varbinary(4));
         SET time_zone = '+05:00', sql_mode = '';
         INSERT INTO bills VALUES
           (18446744073709551615, '2026-07-01 12:00:00.123456', 4294967295, 12345678901234.5678,
             'paid', 'EUR', '', 0.1, x'deadbeef'),
           (2, '2026-01-01 12:00:00', 5, -0.1, NULL, NULL, 'O''Neill \"x\" \\\\ ;', 1e-4, NULL),
           (3, '0000-00-00 00:00:00', 1, 1, 'open', 'EUR', NULL, NULL, x''),
           (4, '2026-00-00', 1, 1, 'open', 'EUR', NULL, NULL, NULL);
         CREATE TABLE people (customer_id int PRIMARY KEY, created_at timestamp(3) NULL, agreed bit(1),
           city text CHARACTER SET latin1);
         INSERT INTO people VALUES (7, '2026-03-29 06:30:00.5', b'1', 'Zürich'),
           (8, '0000-00-00 00:00:00', b'0', NULL), (9, NULL, NULL, '');
         CREATE TABLE baskets (cart_id char(1) PRIMARY KEY, updated_at timestamp(6), items json);
         INSERT INTO baskets VALUES ('c', '2026-02-02 07:02:02.5', '[{\"sku\": \"ü\", \"n\": 1.50}]');
         CREATE TABLE goods (product_id smallint unsigned PRIMARY KEY, stock mediumint unsigned,
           active tinyint(1), category set('a', 'b'), cost decimal(30,10));
         INSERT INTO goods VALUES (65535, 16777215, 1, 'a,b', 1.2500000000), (1, 0, 0, '', NULL),
           (2, NULL, NULL, NULL, 0.0000000001)",
    )
    .await;
    let shop = shop(db.source(
        "page_rows = 1",
        r#"
        [db.orders]
        table = "bills"
        [db.orders.columns]
        order_id = "id"
        ordered_at = { column = "placed", zone = "Europe/London" }
        total = "amount"
        subtotal = { column = "cents", minor_units = 2 }
        status = "state"
        currency = "cur"
        coupon = "note"
        tax = "vat"
        city = "token"
        [db.customers]
        table = "people"
        [db.customers.columns]
        marketing_consent = "agreed"
        [db.carts]
        table = "baskets"
        [db.products]
        table = "goods"
        "#,
    ))
    .await;
    assert_eq!(told(&shop).await, Vec::<String>::new());
    assert_eq!(
        shop.sql(
            "SELECT order_id, ordered_at, subtotal, total, status, currency, coupon, tax, city FROM orders"
        )
        .await,
        [
            // London was an hour ahead of UTC in July.
            "18446744073709551615|2026-07-01T11:00:00.123456Z|42949672.9500|12345678901234.5678|paid|EUR||\
             0.1000|\\xdeadbeef",
            "2|2026-01-01T12:00:00Z|0.0500|-0.1000|-|-|O'Neill \"x\" \\ ;|0.0001|-",
        ]
    );
    // A TIMESTAMP is a moment: it was written five hours ahead of UTC.
    assert_eq!(
        shop.sql("SELECT customer_id, created_at, marketing_consent, city FROM customers").await,
        ["7|2026-03-29T01:30:00.500Z|true|Zürich", "9|-|-|"]
    );
    assert_eq!(
        shop.sql("SELECT cart_id, updated_at, items FROM carts").await,
        ["c|2026-02-02T02:02:02.500Z|[{\"sku\": \"ü\", \"n\": 1.50}]"]
    );
    assert_eq!(
        shop.sql("SELECT product_id, stock, active, category, cost FROM product_observations")
            .await,
        ["1|0|false||-", "65535|16777215|true|a,b|1.2500"]
    );
    // What is no time, or needs more places than an amount has, is rejected with its column.
    let rejects = shop.sql("SELECT detail FROM rejects ORDER BY detail").await;
    assert_eq!(rejects.len(), 4, "{rejects:#?}");
    for (reject, said) in rejects.iter().zip([
        ["cost", "0.0000000001"],
        ["created_at", "0000-00-00"],
        ["ordered_at", "0000-00-00"],
        ["ordered_at", "2026-00-00"],
    ]) {
        assert!(said.iter().all(|part| reject.contains(part)), "{said:?}: {rejects:#?}");
    }
}

#[tokio::test]
async fn pages_are_bounded_and_leave_nothing_out() {
    let Some(mut db) = Database::new().await else { return };
    // A key of two columns, text first, in the order of its collation; and one of an enum, which
    // is ordered by place and compared as text.
    db.run(
        "CREATE TABLE order_items (order_id varchar(20), line int, product_id text, quantity int,
           PRIMARY KEY (order_id, line)) COLLATE utf8mb4_unicode_ci;
         INSERT INTO order_items SELECT concat(elt(1 + seq % 6, 'a', 'B', 'ß', '1', 'Z z', ''''), seq div 7),
           seq % 7 + 1, concat('p', seq), seq FROM seq_0_to_1236;
         CREATE TABLE people (kind enum('new', 'gone', 'kept'), city bit(9), customer_id int,
           PRIMARY KEY (kind, city, customer_id));
         INSERT INTO people SELECT 1 + seq % 3, 200 + seq % 113, seq FROM seq_0_to_1236",
    )
    .await;
    let shop = shop(
        db.source("page_rows = 100", "[db.order_items]\n[db.customers]\ntable = \"people\"\n"),
    )
    .await;
    assert_eq!(told(&shop).await, Vec::<String>::new());
    let sql = "SELECT order_id, line, product_id, quantity FROM order_items";
    assert_eq!(shop.sql(sql).await, db.sql(sql).await);
    assert_eq!(
        shop.sql("SELECT customer_id, city FROM customers").await,
        db.sql("SELECT customer_id, city + 0 FROM people").await
    );
    assert_eq!(
        shop.sql("SELECT dataset, rows_read FROM source_exports").await,
        ["customers|1237", "order_items|1237"]
    );
}

#[tokio::test]
async fn an_incremental_read_takes_what_was_written_since() {
    let Some(mut db) = Database::new().await else { return };
    db.run(ORDERS).await;
    db.run(
        "SET time_zone = '+00:00';
         INSERT INTO orders SELECT seq, timestamp '2026-03-01 00:00:00' + INTERVAL seq MINUTE, seq, 'open',
           timestamp '2026-03-01 00:00:00' + INTERVAL seq MINUTE FROM seq_1_to_1000",
    )
    .await;
    let source = db.source(
        "page_rows = 70",
        "[db.orders]\nincremental = { column = \"updated_at\", overlap = \"5m\" }",
    );
    let shop = shop(source).await;
    assert_eq!(told(&shop).await, Vec::<String>::new());
    let sql = "SELECT order_id, total, status FROM orders";
    assert_eq!(shop.sql(sql).await, db.sql(sql).await);
    // The newest was of 16:40. One is written later, one was a minute before the newest, one is
    // older than the overlap and missed.
    db.run(
        "UPDATE orders SET status = 'paid', updated_at = '2026-03-02' WHERE order_id = 3;
         INSERT INTO orders VALUES (2001, '2026-03-01', 1, 'new', '2026-03-01 16:39'),
           (2002, '2026-03-01', 1, 'missed', '2026-03-01 16:30')",
    )
    .await;
    assert_eq!(told(&shop).await, Vec::<String>::new());
    let except = format!("{sql} WHERE status <> 'missed'");
    assert_eq!(shop.sql(sql).await, db.sql(&except).await);
    // 16:35 to 16:40 are 6 orders; the new and the changed one come on top.
    assert_eq!(
        shop.sql("SELECT content, rows_read FROM source_exports").await,
        ["snapshot|1000", "window|8"]
    );
}

#[tokio::test]
async fn whatever_write_a_read_dies_at_the_next_run_has_every_row_once() {
    let Some(mut db) = Database::new().await else { return };
    db.run(ORDERS).await;
    db.run("INSERT INTO orders SELECT seq, '2026-03-01', seq, 'open', NULL FROM seq_1_to_50").await;
    let source = db.source("page_rows = 20", "[db.orders]");
    let expected = db.sql("SELECT order_id, total, status FROM orders").await;
    // The first writes are the read's own: its part, its progress, its end.
    for writes in 0..4 {
        let mut shop = shop(source).await;
        shop.tables = Some(vec!["orders".to_owned()]);
        let dying: Lake = shop.dying_after(writes);
        let _ = run(&dying, &shop.options(), &Silent).await;
        shop.run().await;
        let rows = shop.sql("SELECT order_id, total, status FROM orders").await;
        assert_eq!(rows, expected, "it died after {writes} writes");
        let reads = shop.sql("SELECT count(*), min(rows_read) FROM source_exports").await;
        assert!(reads == ["1|50"] || reads == ["2|50"], "after {writes} writes: {reads:?}");
    }
}

#[tokio::test]
async fn a_read_that_was_cut_off_goes_on_behind_its_last_part() {
    let Some(mut db) = Database::new().await else { return };
    db.run(
        "CREATE TABLE switch (broken bool);
         INSERT INTO switch VALUES (true);
         CREATE TABLE people (id int PRIMARY KEY);
         INSERT INTO people SELECT seq FROM seq_1_to_120000;
         CREATE FUNCTION fail_at(id int) RETURNS text READS SQL DATA
           IF id = 110000 AND (SELECT broken FROM switch) THEN SIGNAL SQLSTATE '45000'
             SET MESSAGE_TEXT = 'the disk is on fire'\\; ELSE RETURN NULL\\; END IF;
         CREATE VIEW customers AS SELECT id AS customer_id, fail_at(id) AS city FROM people"
            .replace("\\;", ";")
            .as_str(),
    )
    .await;
    let shop =
        shop(db.source("page_rows = 20000", "[db.customers]\nkey = [\"customer_id\"]")).await;
    let notices = told(&shop).await;
    assert!(notices.len() == 1 && notices[0].contains("the disk is on fire"), "{notices:#?}");
    assert_eq!(shop.sql("SELECT count(*) FROM customers").await, ["0"]);
    // A row whose turn has passed waits for the next read: what was read is not read again.
    db.run("UPDATE switch SET broken = false;\nINSERT INTO people VALUES (-1)").await;
    assert_eq!(told(&shop).await, Vec::<String>::new());
    let sql = "SELECT count(*), count(DISTINCT customer_id), min(CAST(customer_id AS BIGINT)) FROM customers";
    assert_eq!(shop.sql(sql).await, ["120000|120000|1"]);
}

#[tokio::test]
async fn a_read_changes_nothing_in_the_database() {
    let Some(mut db) = Database::new().await else { return };
    db.run(
        "CREATE TABLE seen (n int);
         CREATE FUNCTION spy() RETURNS int MODIFIES SQL DATA BEGIN INSERT INTO seen VALUES (1)\\; RETURN 1\\; END;
         CREATE VIEW customers AS SELECT spy() AS customer_id"
            .replace("\\;", ";")
            .as_str(),
    )
    .await;
    let shop = shop(db.source("", "[db.customers]\nkey = [\"customer_id\"]")).await;
    // Whoever may write does, by reading it; a read of ours is told, and does not.
    assert_eq!(db.sql("SELECT customer_id FROM customers").await, ["1"]);
    assert_eq!(db.sql("SELECT count(*) FROM seen").await, ["1"]);
    let notices = told(&shop).await;
    assert!(notices.len() == 1 && notices[0].starts_with("Problem"), "{notices:#?}");
    assert_eq!(db.sql("SELECT count(*) FROM seen").await, ["1"]);
}

#[tokio::test]
async fn a_server_must_prove_who_it_is_and_a_password_is_never_told() {
    let Some(mut db) = Database::new().await else { return };
    db.run(
        "CREATE TABLE customers (customer_id int PRIMARY KEY);\nINSERT INTO customers VALUES (1)",
    )
    .await;
    let folder = variable("CLICKMILL_TEST_MARIADB_CA");
    let ca = |name: &str| format!("ca_file = \"{folder}/{name}/ca.pem\"\n");
    let secret = "a-password-that-is-wrong";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{secret}\n")).unwrap();
    let wrong = format!("password_file = \"{}\"\n", file.path().display());
    let right = "password_env = \"CLICKMILL_TEST_POSTGRESQL_PASSWORD\"\n";
    for (host, settings, rows, said) in [
        ("localhost", format!("{right}{}", ca("mariadb")), "1", ""),
        ("localhost", format!("{right}{}", ca("other-ca")), "0", "certificate"),
        // The certificate is not for this name.
        ("127.0.0.1", format!("{right}{}", ca("mariadb")), "0", "certificate"),
        // Nobody told whom to trust: the machine's own authorities did not sign it.
        ("localhost", right.to_owned(), "0", "certificate"),
        ("localhost", format!("{right}{}", ca("missing")), "0", "missing/ca.pem"),
        (
            "localhost",
            format!("{wrong}{}", ca("mariadb")),
            "0",
            "access denied for user 'clickmill'",
        ),
    ] {
        let shop = shop(db.source_at(host, &settings, "[db.customers]")).await;
        let notices = told(&shop).await;
        assert_eq!(shop.sql("SELECT count(*) FROM customers").await, [rows], "{host} {settings}");
        assert_eq!(notices.len(), usize::from(!said.is_empty()), "{said}: {notices:#?}");
        for notice in notices {
            assert!(notice.to_lowercase().contains(said), "{said}: {notice}");
            assert!(!notice.contains(secret), "{notice}");
            assert!(
                notice.contains("cannot connect")
                    && notice.contains("localhost") | notice.contains("127.0.0.1"),
                "{notice}"
            );
        }
    }
}
