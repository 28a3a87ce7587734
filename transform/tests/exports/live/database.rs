//! A database of its own for each test.

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use uuid::Uuid;

pub struct Database {
    pub name: String,
    client: Client,
}

pub fn port() -> u16 {
    std::env::var("CLICKMILL_TEST_POSTGRESQL_PORT").unwrap().parse().unwrap()
}

async fn connect(name: &str) -> Client {
    let (client, connection) = tokio_postgres::Config::new()
        .host("127.0.0.1")
        .port(port())
        .dbname(name)
        .user(std::env::var("CLICKMILL_TEST_POSTGRESQL_USER").unwrap())
        .password(std::env::var("CLICKMILL_TEST_POSTGRESQL_PASSWORD").unwrap())
        .connect(NoTls)
        .await
        .expect("connects");
    tokio::spawn(connection);
    client
}

impl Database {
    /// `None` only where the user asked to skip.
    pub async fn new() -> Option<Self> {
        if !super::has_servers("CLICKMILL_TEST_POSTGRESQL_PORT") {
            return None;
        }
        let name = format!("shop_{}", Uuid::new_v4().simple());
        connect("postgres").await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let client = connect(&name).await;
        Some(Self { name, client })
    }

    pub async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    /// Rows as sorted text, by the server's own printing; NULL as `-`.
    pub async fn sql(&self, sql: &str) -> Vec<String> {
        let mut rows = Vec::new();
        for message in self.client.simple_query(sql).await.expect(sql) {
            if let SimpleQueryMessage::Row(row) = message {
                let cells: Vec<_> = (0..row.len()).map(|at| row.get(at).unwrap_or("-")).collect();
                rows.push(cells.join("|"));
            }
        }
        rows.sort();
        rows
    }

    /// A source that reads it: `sections` follow the connection.
    pub fn source(&self, settings: &str, sections: &str) -> &'static str {
        super::forever(format!(
            "[db]\nkind = \"postgresql\"\nhost = \"127.0.0.1\"\nport = {}\ndatabase = \"{}\"\n\
             user = \"clickmill\"\npassword_env = \"CLICKMILL_TEST_POSTGRESQL_PASSWORD\"\n\
             tls = \"off\"\nread_every = \"0s\"\n{settings}\n{sections}",
            port(),
            self.name
        ))
    }
}
