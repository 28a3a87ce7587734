//! PostgreSQL, by its simple protocol: every value comes as the server prints it.

use std::time::Duration;

use async_trait::async_trait;
use clickmill_schemas::Timestamp;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::config::{DatabaseSource, Tls};
use super::connection::{CONNECT_TIMEOUT, Database, Problem, Row, moment};
use super::dialect::{Column, Dialect, Shape};
use super::tls;

/// What the server calls us.
const APPLICATION: &str = "clickmill";
/// How values print, whatever the server's and the role's settings.
const BEGIN: &str = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; \
    SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD'; \
    SET LOCAL IntervalStyle = 'iso_8601'; SET LOCAL bytea_output = 'hex'; \
    SET LOCAL extra_float_digits = 1; SET LOCAL standard_conforming_strings = on";
const NOW: &str = "SELECT to_char(now(), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";

pub(super) struct Postgresql {
    client: Client,
    /// After so long the server gives a query up.
    query_timeout: Duration,
    /// Moves the bytes; ends with the client.
    driver: JoinHandle<()>,
}

impl Drop for Postgresql {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

pub(super) async fn connect(
    source: &DatabaseSource,
    password: Option<String>,
) -> Result<Postgresql, Problem> {
    let mut config = Config::new();
    config
        .host(&source.host)
        .port(source.port.unwrap_or(5432))
        .dbname(&source.database)
        .user(&source.user)
        .application_name(APPLICATION)
        .connect_timeout(CONNECT_TIMEOUT);
    if let Some(password) = password {
        config.password(password);
    }
    let (client, driver) = match source.tls {
        Tls::Off => {
            config.ssl_mode(SslMode::Disable);
            let (client, connection) = config.connect(NoTls).await?;
            (client, tokio::spawn(async move { log(connection.await) }))
        }
        Tls::Verify => {
            config.ssl_mode(SslMode::Require);
            let tls = tls::Connector::new(source.ca_file.as_deref())?;
            let (client, connection) = config.connect(tls).await?;
            (client, tokio::spawn(async move { log(connection.await) }))
        }
    };
    Ok(Postgresql { client, query_timeout: source.query_timeout(), driver })
}

/// The query in flight fails with the same error, and is told.
fn log(ended: Result<(), tokio_postgres::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to PostgreSQL ended");
    }
}

impl Postgresql {
    async fn texts(&self, sql: &str) -> Result<Vec<Row>, Problem> {
        let messages = self.client.simple_query(sql).await?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
            }
            _ => None,
        });
        Ok(rows.collect())
    }
}

#[async_trait]
impl Database for Postgresql {
    fn dialect(&self) -> Dialect {
        Dialect::Postgresql
    }

    async fn begin(&mut self) -> Result<Timestamp, Problem> {
        let limit = limit(self.query_timeout);
        let rows = self.texts(&format!("{BEGIN}; {limit}; {NOW}")).await?;
        moment(&rows)
    }

    async fn shape(&mut self, schema: Option<&str>, table: &str) -> Result<Option<Shape>, Problem> {
        let dialect = self.dialect();
        let in_schema = match schema {
            Some(schema) => format!("n.nspname = {}", dialect.text(schema)),
            None => "pg_catalog.pg_table_is_visible(c.oid)".to_owned(),
        };
        let sql = format!(
            "SELECT n.nspname, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), \
               (SELECT k.nth FROM pg_catalog.pg_index i, \
                  unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k (attnum, nth) \
                WHERE i.indrelid = c.oid AND i.indisprimary AND k.attnum = a.attnum) \
             FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
             WHERE c.relname = {} AND {in_schema} AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
               AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            dialect.text(table)
        );
        Ok(Shape::of_rows(dialect, table, self.texts(&sql).await?))
    }

    async fn rows(&mut self, sql: &str) -> Result<Vec<Row>, Problem> {
        self.texts(sql).await
    }

    fn presented(&self, column: &Column, value: String) -> String {
        // It prints t and f.
        match (column.type_name.as_str(), value.as_str()) {
            ("boolean", "t") => "true".to_owned(),
            ("boolean", "f") => "false".to_owned(),
            _ => value,
        }
    }

    async fn end(&mut self) -> Result<(), Problem> {
        self.client.simple_query("ROLLBACK").await?;
        Ok(())
    }
}

/// Has the server end what takes longer, which it would not notice that nobody waits for any
/// more. A limit of the role's that is lower stays.
fn limit(query_timeout: Duration) -> String {
    let most = query_timeout.as_millis();
    format!(
        "SELECT set_config(name, CASE WHEN setting::bigint BETWEEN 1 AND {most} THEN setting \
           ELSE '{most}' END, true) \
         FROM pg_catalog.pg_settings WHERE name = 'statement_timeout'"
    )
}
