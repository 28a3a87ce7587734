//! MySQL and MariaDB, by the text protocol: every value comes as the server prints it.

use async_trait::async_trait;
use clickmill_schemas::Timestamp;
use mysql_async::consts::ColumnType;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder, SslOpts, Value};
use tokio::runtime::Handle;

use super::config::{DatabaseSource, Tls};
use super::connection::{CONNECT_TIMEOUT, Database, Problem, Row, moment};
use super::dialect::{Column, Dialect, Shape, hex};
use super::tls;

/// The character set of bytes that are no text.
const BINARY: u16 = 63;
/// How values print, and what a transaction sees, whatever the server's settings.
const SESSION: &str = "SET SESSION time_zone = '+00:00', SESSION sql_mode = ''";
const ISOLATION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ";
const BEGIN: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
const NOW: &str = "SELECT DATE_FORMAT(UTC_TIMESTAMP(6), '%Y-%m-%dT%H:%i:%s.%fZ')";

/// What the limit on the time of a query is called, and how many of its units a second has.
/// <https://mariadb.com/docs/server/ha-and-performance/optimization-and-tuning/query-optimizations/aborting-statements>
/// <https://dev.mysql.com/doc/refman/8.4/en/server-system-variables.html#sysvar_max_execution_time>
const LIMITS: [(&str, u64); 2] = [("max_statement_time", 1), ("max_execution_time", 1_000)];
/// `ER_UNKNOWN_SYSTEM_VARIABLE`.
const UNKNOWN_VARIABLE: u16 = 1193;

pub(super) struct Mysql {
    /// Until it is dropped.
    connection: Option<Conn>,
}

impl Mysql {
    fn connection(&mut self) -> Result<&mut Conn, Problem> {
        self.connection.as_mut().ok_or_else(|| "the connection is closed".into())
    }
}

impl Drop for Mysql {
    /// The driver's own way would wait for what is left of an answer, however long that takes.
    fn drop(&mut self) {
        if let (Some(connection), Ok(runtime)) = (self.connection.take(), Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(CONNECT_TIMEOUT, connection.disconnect()));
        }
    }
}

pub(super) async fn connect(
    source: &DatabaseSource,
    password: Option<String>,
) -> Result<Mysql, Problem> {
    let mut options = OptsBuilder::default()
        .ip_or_hostname(source.host.clone())
        .tcp_port(source.port.unwrap_or(3306))
        .db_name(Some(source.database.clone()))
        .user(Some(source.user.clone()))
        .pass(password)
        // Else it moves to a socket that it finds in the server's settings.
        .prefer_socket(false)
        .stmt_cache_size(0);
    if source.tls == Tls::Verify {
        // The driver asks for the process's provider: there is only this one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let roots = tls::roots(source.ca_file.as_deref())?;
        let roots = roots.into_iter().map(|der| der.to_vec().into());
        options = options.ssl_opts(
            SslOpts::default().with_root_certs(roots.collect()).with_disable_built_in_roots(true),
        );
    }
    let mut mysql = Mysql { connection: Some(Conn::new(options).await?) };
    let connection = mysql.connection()?;
    connection.query_drop(SESSION).await?;
    connection.query_drop(ISOLATION).await?;
    limit(connection, source.query_timeout.seconds()).await?;
    Ok(mysql)
}

/// Has the server end what takes longer, which it would not notice that nobody waits for any
/// more. A limit of the server's that is lower stays; a server of neither name has none.
async fn limit(connection: &mut Conn, seconds: u64) -> Result<(), Problem> {
    for (name, units) in LIMITS {
        let most = seconds * units;
        let sql = format!(
            "SET SESSION {name} = IF(@@{name} > 0 AND @@{name} < {most}, @@{name}, {most})"
        );
        match connection.query_drop(sql).await {
            Err(mysql_async::Error::Server(error)) if error.code == UNKNOWN_VARIABLE => {}
            done => return Ok(done?),
        }
    }
    Ok(())
}

#[async_trait]
impl Database for Mysql {
    fn dialect(&self) -> Dialect {
        Dialect::Mysql
    }

    async fn begin(&mut self) -> Result<Timestamp, Problem> {
        self.connection()?.query_drop(BEGIN).await?;
        let rows = self.rows(NOW).await?;
        moment(&rows)
    }

    async fn shape(&mut self, schema: Option<&str>, table: &str) -> Result<Option<Shape>, Problem> {
        let dialect = self.dialect();
        let in_schema = schema.map_or_else(|| "DATABASE()".to_owned(), |name| dialect.text(name));
        let sql = format!(
            "SELECT c.TABLE_SCHEMA, c.COLUMN_NAME, c.DATA_TYPE, k.ORDINAL_POSITION \
             FROM information_schema.COLUMNS c LEFT JOIN information_schema.KEY_COLUMN_USAGE k \
               ON k.TABLE_SCHEMA = c.TABLE_SCHEMA AND k.TABLE_NAME = c.TABLE_NAME \
               AND k.COLUMN_NAME = c.COLUMN_NAME AND k.CONSTRAINT_NAME = 'PRIMARY' \
             WHERE c.TABLE_SCHEMA = {in_schema} AND c.TABLE_NAME = {} \
             ORDER BY c.ORDINAL_POSITION",
            dialect.text(table)
        );
        Ok(Shape::of_rows(dialect, table, self.rows(&sql).await?))
    }

    async fn rows(&mut self, sql: &str) -> Result<Vec<Row>, Problem> {
        let mut result = self.connection()?.query_iter(sql).await?;
        let columns: Vec<(ColumnType, u16)> = result
            .columns_ref()
            .iter()
            .map(|column| (column.column_type(), column.character_set()))
            .collect();
        let rows: Vec<mysql_async::Row> = result.collect().await?;
        rows.into_iter()
            .map(|row| {
                let cells = row.unwrap().into_iter().zip(&columns);
                cells.map(|(value, (kind, charset))| text(*kind, *charset, value)).collect()
            })
            .collect()
    }

    fn presented(&self, column: &Column, value: String) -> String {
        // A TIMESTAMP is a moment, printed in the session's zone; a DATETIME is what a clock
        // showed somewhere, and the mapping says where.
        match column.type_name.as_str() {
            "timestamp" if !value.starts_with("0000-00-00") => format!("{value}Z"),
            _ => value,
        }
    }

    async fn end(&mut self) -> Result<(), Problem> {
        self.connection()?.query_drop("ROLLBACK").await?;
        Ok(())
    }
}

/// A value of the text protocol as text: bits as the number that they make, bytes that are
/// no text as `\x` and hex.
fn text(kind: ColumnType, charset: u16, value: Value) -> Result<Option<String>, Problem> {
    let bytes = match value {
        Value::NULL => return Ok(None),
        Value::Bytes(bytes) => bytes,
        // Never: these are of the binary protocol.
        other => return Err(format!("the server sent {other:?} in the text protocol").into()),
    };
    let is_binary = charset == BINARY
        && matches!(
            kind,
            ColumnType::MYSQL_TYPE_STRING
                | ColumnType::MYSQL_TYPE_VAR_STRING
                | ColumnType::MYSQL_TYPE_VARCHAR
                | ColumnType::MYSQL_TYPE_TINY_BLOB
                | ColumnType::MYSQL_TYPE_MEDIUM_BLOB
                | ColumnType::MYSQL_TYPE_LONG_BLOB
                | ColumnType::MYSQL_TYPE_BLOB
        );
    if kind == ColumnType::MYSQL_TYPE_BIT && bytes.len() <= 8 {
        let number = bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        return Ok(Some(number.to_string()));
    }
    if is_binary || kind == ColumnType::MYSQL_TYPE_GEOMETRY {
        return Ok(Some(format!("\\x{}", hex(&bytes))));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) => Err(format!("a value of type {kind:?} is not UTF-8: {error}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The character set utf8mb4_general_ci.
    const UTF8: u16 = 45;

    #[test]
    fn values_are_text_as_the_server_prints_them() {
        // The bytes are those of MySQL's text protocol.
        for (kind, charset, bytes, expected) in [
            (
                ColumnType::MYSQL_TYPE_LONGLONG,
                BINARY,
                &b"-9223372036854775808"[..],
                "-9223372036854775808",
            ),
            (
                ColumnType::MYSQL_TYPE_NEWDECIMAL,
                BINARY,
                b"12345678901234.5678",
                "12345678901234.5678",
            ),
            (
                ColumnType::MYSQL_TYPE_DATETIME,
                BINARY,
                b"2026-11-23 17:40:00.123456",
                "2026-11-23 17:40:00.123456",
            ),
            (ColumnType::MYSQL_TYPE_TINY, BINARY, b"1", "1"),
            (ColumnType::MYSQL_TYPE_VAR_STRING, UTF8, "Zoë".as_bytes(), "Zoë"),
            (ColumnType::MYSQL_TYPE_BLOB, UTF8, b"long text", "long text"),
            (ColumnType::MYSQL_TYPE_JSON, BINARY, br#"{"a": 1}"#, r#"{"a": 1}"#),
            (ColumnType::MYSQL_TYPE_STRING, BINARY, &[0xde, 0xad], "\\xdead"),
            (ColumnType::MYSQL_TYPE_BLOB, BINARY, b"ab", "\\x6162"),
            (ColumnType::MYSQL_TYPE_BIT, BINARY, &[0x01], "1"),
            (ColumnType::MYSQL_TYPE_BIT, BINARY, &[0x01, 0x02], "258"),
        ] {
            let value = Value::Bytes(bytes.to_vec());
            assert_eq!(text(kind, charset, value).unwrap().as_deref(), Some(expected), "{kind:?}");
        }
        assert_eq!(text(ColumnType::MYSQL_TYPE_LONG, BINARY, Value::NULL).unwrap(), None);
        let broken = Value::Bytes(vec![0xff]);
        assert!(text(ColumnType::MYSQL_TYPE_VAR_STRING, UTF8, broken).is_err());
    }
}
