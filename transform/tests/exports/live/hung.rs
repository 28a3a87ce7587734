//! Servers that stop answering: does a run end, and does the server stop, too?

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::database::{Database, port};
use super::mariadb;
use crate::shop::{Shop, shop};

/// Several times what a run takes of which each answer may take a second.
const LONG: Duration = Duration::from_secs(60);

/// Passes what clients say to the server, and what it says to them, until a client says `word`:
/// from then on nobody hears anything, and no connection ends. Answers its port.
async fn silent_from(word: &'static str, server: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
                });
                let mut said = vec![0; 1 << 16];
                while let Ok(bytes @ 1..) = from_client.read(&mut said).await {
                    if String::from_utf8_lossy(&said[..bytes]).contains(word) {
                        // The server hears nothing more, and so says nothing more.
                        std::future::pending::<()>().await;
                    }
                    if to_server.write_all(&said[..bytes]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    own
}

/// What a run tells, which ends although the server does not answer.
async fn told(shop: &Shop) -> Vec<String> {
    let report = tokio::time::timeout(LONG, shop.run_tables(&["customers"])).await;
    let report = report.expect("a server that hangs hangs the run");
    report.notices.iter().map(ToString::to_string).collect()
}

/// At each of the words that are said one after the other; nothing is lost where it is the last.
async fn ends_at(words: [&'static str; 4], server: u16, source: &str) {
    for word in words {
        let silent = silent_from(word, server).await.to_string();
        let text = source.replace(&format!("port = {server}\n"), &format!("port = {silent}\n"));
        let mut shop = shop(super::forever(text)).await;
        let notices = told(&shop).await;
        let is_read = word == "ROLLBACK";
        assert_eq!(notices.is_empty(), is_read, "{word}: {notices:#?}");
        assert!(notices.iter().all(|notice| notice.contains("no answer in 1s")), "{notices:#?}");
        if !is_read {
            shop.sources = super::forever(source.to_owned());
            assert_eq!(told(&shop).await, Vec::<String>::new(), "{word}");
        }
        assert_eq!(shop.sql("SELECT customer_id FROM customers").await, ["1"], "{word}");
    }
}

#[tokio::test]
async fn a_postgresql_that_stops_answering_does_not_stop_a_run() {
    let Some(db) = Database::new().await else { return };
    db.run(
        "CREATE TABLE customers (customer_id int PRIMARY KEY); INSERT INTO customers VALUES (1)",
    )
    .await;
    let source = db.source("query_timeout = \"1s\"", "[db.customers]");
    ends_at(["BEGIN", "pg_attribute", "\"customers\"", "ROLLBACK"], port(), source).await;
}

#[tokio::test]
async fn a_mariadb_that_stops_answering_does_not_stop_a_run() {
    let Some(mut db) = mariadb::Database::new().await else { return };
    db.run(
        "CREATE TABLE customers (customer_id int PRIMARY KEY);\nINSERT INTO customers VALUES (1)",
    )
    .await;
    let source = db.source("query_timeout = \"1s\"", "[db.customers]");
    let words = ["START TRANSACTION", "information_schema", "`customers`", "ROLLBACK"];
    ends_at(words, mariadb::port(), source).await;
}

/// Polls until the server runs nothing more of a read.
macro_rules! is_idle {
    ($db:expr, $sql:expr) => {
        let mut tries = 0;
        while $db.sql($sql).await != ["0"] {
            tries += 1;
            assert!(tries < 200, "the server still runs what nobody waits for");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
}

#[tokio::test]
async fn postgresql_gives_up_what_is_not_waited_for() {
    let Some(db) = Database::new().await else { return };
    db.run("CREATE VIEW customers AS SELECT 1 AS customer_id, pg_sleep(600)::text AS city").await;
    let sections = "[db.customers]\nkey = [\"customer_id\"]";
    let shop = shop(db.source("query_timeout = \"1s\"", sections)).await;
    let notices = told(&shop).await;
    assert_eq!(notices.len(), 1, "{notices:#?}");
    let running = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name = 'clickmill'";
    is_idle!(db, running);
}

#[tokio::test]
async fn a_lower_limit_of_the_database_stays() {
    let Some(db) = Database::new().await else { return };
    db.run(&format!("ALTER DATABASE {} SET statement_timeout = '200ms'", db.name)).await;
    db.run("CREATE VIEW customers AS SELECT 1 AS customer_id, pg_sleep(30)::text AS city").await;
    let shop = shop(db.source("", "[db.customers]\nkey = [\"customer_id\"]")).await;
    let notices = told(&shop).await;
    assert!(notices.len() == 1 && notices[0].contains("statement timeout"), "{notices:#?}");
}

#[tokio::test]
async fn mariadb_gives_up_what_is_not_waited_for() {
    let Some(mut db) = mariadb::Database::new().await else { return };
    db.run("CREATE VIEW customers AS SELECT 1 AS customer_id, sleep(600) AS city").await;
    let sections = "[db.customers]\nkey = [\"customer_id\"]";
    let shop = shop(db.source("query_timeout = \"1s\"", sections)).await;
    let notices = told(&shop).await;
    assert_eq!(notices.len(), 1, "{notices:#?}");
    let running = "SELECT cast(count(*) AS char) FROM information_schema.PROCESSLIST \
        WHERE DB = database() AND ID <> connection_id()";
    is_idle!(db, running);
}
