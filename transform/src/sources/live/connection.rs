//! Connections to databases. Whatever is asked of a server is waited for so long and no longer.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use clickmill_schemas::Timestamp;

use super::config::DatabaseSource;
use super::dialect::{Column, Dialect, Shape};
use super::{SourceError, mysql, postgresql};

/// To connect, and to log in; to say goodbye.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// What a driver, or the database, has to say.
pub(super) type Problem = Box<dyn Error + Send + Sync>;
/// The values of a row as the database prints them.
pub(super) type Row = Vec<Option<String>>;

/// What a driver does. Nothing here ends by itself where the server hangs: ask a [`Connection`].
#[async_trait]
pub(super) trait Database: Send {
    fn dialect(&self) -> Dialect;

    /// Begins a read-only transaction that sees the data as of one moment, and says when that
    /// is by the database's own clock.
    async fn begin(&mut self) -> Result<Timestamp, Problem>;

    /// A table or view; `None` where there is none of that name.
    async fn shape(&mut self, schema: Option<&str>, table: &str) -> Result<Option<Shape>, Problem>;

    /// Runs a query.
    async fn rows(&mut self, sql: &str) -> Result<Vec<Row>, Problem>;

    /// A value as it goes into a part, where the database's print leaves something out.
    fn presented(&self, column: &Column, value: String) -> String;

    /// Ends the transaction.
    async fn end(&mut self) -> Result<(), Problem>;
}

/// A connection, with a limit on the time that an answer takes.
///
/// After an error it is of no more use: an answer may still be on its way. Dropped, it is closed
/// without a word with the server, which ends the transaction, too.
pub(super) struct Connection {
    database: Box<dyn Database>,
    query_timeout: Duration,
}

impl Connection {
    /// Connects and logs in.
    ///
    /// # Errors
    /// [`SourceError::Live`] where that fails, takes longer than [`CONNECT_TIMEOUT`], or there is
    /// no password.
    pub(super) async fn open(
        name: &str,
        dialect: Dialect,
        config: &DatabaseSource,
    ) -> Result<Self, SourceError> {
        let password = password(name, config)?;
        let connecting = async {
            Ok::<Box<dyn Database>, Problem>(match dialect {
                Dialect::Postgresql => Box::new(postgresql::connect(config, password).await?),
                Dialect::Mysql => Box::new(mysql::connect(config, password).await?),
            })
        };
        let database =
            within(CONNECT_TIMEOUT, connecting).await.map_err(|source| SourceError::Live {
                source_name: name.to_owned(),
                problem: format!("cannot connect as {}", config.user),
                source,
            })?;
        Ok(Self { database, query_timeout: config.query_timeout() })
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.database.dialect()
    }

    /// As [`Database::presented`].
    pub(super) fn presented(&self, column: &Column, value: String) -> String {
        self.database.presented(column, value)
    }

    /// As [`Database::begin`].
    pub(super) async fn begin(&mut self) -> Result<Timestamp, Problem> {
        within(self.query_timeout, self.database.begin()).await
    }

    /// As [`Database::shape`].
    pub(super) async fn shape(
        &mut self,
        schema: Option<&str>,
        table: &str,
    ) -> Result<Option<Shape>, Problem> {
        within(self.query_timeout, self.database.shape(schema, table)).await
    }

    /// As [`Database::rows`].
    pub(super) async fn rows(&mut self, sql: &str) -> Result<Vec<Row>, Problem> {
        within(self.query_timeout, self.database.rows(sql)).await.map_err(|problem| {
            match problem.downcast::<NoAnswer>() {
                Ok(problem) => format!(
                    "{problem}; is there an index on its key, and on the incremental column? \
                     `query_timeout` gives it longer"
                )
                .into(),
                Err(problem) => problem,
            }
        })
    }

    /// As [`Database::end`].
    pub(super) async fn end(&mut self) -> Result<(), Problem> {
        within(self.query_timeout.min(CONNECT_TIMEOUT), self.database.end()).await
    }
}

/// A server did not answer in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer in {0:?}")]
struct NoAnswer(Duration);

/// An answer, or that there was none in time.
async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(NoAnswer(limit).into()),
    }
}

/// The time in the only column of the last of some rows.
pub(super) fn moment(rows: &[Row]) -> Result<Timestamp, Problem> {
    let text = rows.last().and_then(|row| row.first()).cloned().flatten();
    Ok(Timestamp::parse(&text.unwrap_or_default())?)
}

/// The password of a source, where its configuration names one.
///
/// # Errors
/// [`SourceError::Live`], which names the variable or file and never what is in it.
fn password(name: &str, source: &DatabaseSource) -> Result<Option<String>, SourceError> {
    let fail = |problem: String, source: Problem| SourceError::Live {
        source_name: name.to_owned(),
        problem,
        source,
    };
    if let Some(variable) = &source.password_env {
        // The configuration names the variable; it is read here, each time, so that the
        // password is in no structure that is printed or written down.
        let value = std::env::var(variable).map_err(|_| {
            fail(
                format!("there is no password in the environment variable {variable}"),
                "it is not set, or not UTF-8".into(),
            )
        })?;
        return Ok(Some(value));
    }
    let Some(path) = &source.password_file else { return Ok(None) };
    let text = std::fs::read_to_string(path).map_err(|error| {
        fail(format!("cannot read the password in {}", path.display()), error.into())
    })?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}
