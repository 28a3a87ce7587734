//! Reads tables of PostgreSQL and MySQL, page by page, in one read-only transaction.

use clickmill_schemas::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::cast::Empty;
use super::super::config::SourceConfig;
use super::super::rows::Plan;
use super::config::{DatabaseSource, LiveMapping};
use super::connection::{Connection, Problem, Row};
use super::cursor::{Cursor, State};
use super::dialect::{Dialect, Page, Shape, Term};
use super::parts::TextRows;
use super::{
    Content, Done, Export, Format, Notice, Progress, Severity, SourceError, Table, VERSION, due_at,
    fingerprint,
};
use clickmill_lake::Lake;

/// Reads the tables of a source that are due. What fails is told.
pub(super) async fn pull(
    lake: &Lake,
    name: &str,
    source: &SourceConfig,
    notices: &mut Vec<Notice>,
) {
    let (dialect, config) = match source {
        SourceConfig::Postgresql(config) => (Dialect::Postgresql, config),
        SourceConfig::Mysql(config) => (Dialect::Mysql, config),
        _ => return,
    };
    let mut connected: Option<Connection> = None;
    for (dataset, mapping) in config.mappings() {
        let table = Table { lake, source: name, dataset };
        let read = Read { table, place: source.place(), config, mapping };
        match read.is_due(dialect).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                notices.push(table.notice(&error));
                continue;
            }
        }
        if connected.is_none() {
            match Connection::open(name, dialect, config).await {
                Ok(database) => connected = Some(database),
                Err(error) => {
                    notices.push(super::super::unreachable(name, source, &error));
                    return;
                }
            }
        }
        let Some(database) = connected.as_mut() else { return };
        let is_usable = match read.run(database, notices).await {
            Ok(()) => database.end().await.is_ok(),
            Err(error) => {
                notices.push(table.notice(&error));
                false
            }
        };
        if !is_usable {
            connected = None;
        }
    }
}

/// One table of a source.
struct Read<'a> {
    table: Table<'a>,
    place: String,
    config: &'a DatabaseSource,
    mapping: &'a LiveMapping,
}

/// Raised where the builds before may have passed rows over: each table's next read is then of
/// all rows.
const READS: u32 = 2;

/// What the next part begins behind.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Position {
    /// In which of a read's stretches.
    stretch: usize,
    /// What orders the rows, of the last row.
    after: Option<Vec<String>>,
}

/// Rows that are read in one order, page by page.
struct Stretch {
    /// SQL: which; by default all.
    rows: Option<String>,
    /// What orders them, and tells them apart.
    order: Vec<Term>,
}

impl Read<'_> {
    fn table_name(&self) -> &str {
        self.mapping.table.as_deref().unwrap_or(self.table.dataset.section())
    }

    /// Under other settings a read begins anew, with all rows.
    fn settings(&self, dialect: Dialect) -> String {
        let dialect = format!("{dialect:?}");
        fingerprint(&(READS, dialect, &self.place, self.table.dataset.table(), self.mapping))
    }

    async fn is_due(&self, dialect: Dialect) -> Result<bool, SourceError> {
        let Some((number, done)) = self.table.newest().await? else { return Ok(true) };
        if done.settings != self.settings(dialect)
            || due_at(&done, self.config.read_every) <= Timestamp::now()
        {
            return Ok(true);
        }
        let progress = self.table.progress::<Position>().await?;
        Ok(progress.is_some_and(|progress| progress.number == number + 1))
    }

    fn wrong(&self, problem: String) -> SourceError {
        let place = format!("{} of {}", self.table_name(), self.place);
        self.table.live(&format!("cannot read {place}"), problem)
    }

    fn failed(&self, source: Problem) -> SourceError {
        let place = format!("{} of {}", self.table_name(), self.place);
        self.table.live(&format!("cannot read {place}"), source)
    }

    async fn query(&self, db: &mut Connection, sql: &str) -> Result<Vec<Row>, SourceError> {
        db.rows(sql).await.map_err(|e| self.failed(e))
    }

    /// In a transaction, which it leaves open.
    async fn run(&self, db: &mut Connection, notices: &mut Vec<Notice>) -> Result<(), SourceError> {
        let read_at = Timestamp::now();
        let now = db.begin().await.map_err(|e| self.failed(e))?;
        let columns = self.columns(db).await?;
        let newest = self.table.newest().await?;
        let mut progress =
            self.progress(db, &columns, newest.as_ref(), read_at, now, notices).await?;
        let full_at = match (&progress.content, &newest) {
            (Content::Window { .. }, Some((_, done))) => done.full_at,
            _ => progress.read_at,
        };
        self.pages(db, &columns, &mut progress).await?;
        let (format, mapped) = (Format::Parquet, &self.mapping.columns);
        if !self.table.finish(progress, full_at, format, mapped, self.table_name()).await? {
            notices.push(self.remark(
                "another run read it at the same time".to_owned(),
                "its read is taken, this one is not".to_owned(),
            ));
        }
        Ok(())
    }

    /// Asks the database what the table is like, and settles what to read of it.
    async fn columns(&self, db: &mut Connection) -> Result<Columns, SourceError> {
        let name = self.table_name();
        let (schema, table) = match name.split_once('.') {
            Some((schema, table)) => (Some(schema), table),
            None => (None, name),
        };
        let shape = db.shape(schema, table).await.map_err(|e| self.failed(e))?;
        let shape = shape.ok_or_else(|| {
            self.wrong(format!(
                "{} sees no table or view of that name; correct [sources.{}.{}], or GRANT SELECT",
                self.config.user,
                self.table.source,
                self.table.dataset.section()
            ))
        })?;
        let names: Vec<String> = shape.columns.iter().map(|column| column.name.clone()).collect();
        let position = |wanted: &str| {
            names.iter().position(|name| name == wanted).ok_or_else(|| {
                self.wrong(format!("there is no column `{wanted}`; there are {}", names.join(", ")))
            })
        };
        let plan = Plan::new(&self.export(), Empty::IsText).map_err(|e| self.wrong(e))?;
        let resolved = plan.resolve(&names).map_err(|e| self.wrong(e))?;
        if self.mapping.incremental.is_some() && plan.counts_lines_of(&resolved) {
            return Err(self.wrong(format!(
                "no column says an order's line, and an incremental read sees too few of an \
                 order's lines to count them: name one by [sources.{0}.{1}.columns] line = \
                 \"...\", or leave `incremental` out of [sources.{0}.{1}]",
                self.table.source,
                self.table.dataset.section()
            )));
        }
        let mut taken: Vec<usize> = resolved.into_iter().flatten().collect();
        taken.sort_unstable();
        taken.dedup();
        let is_configured = !self.mapping.key.is_empty();
        let key = match is_configured {
            true => self.mapping.key.iter().map(|name| position(name)).collect::<Result<_, _>>()?,
            false => shape.primary_key.clone(),
        };
        if key.is_empty() {
            return Err(self.wrong(format!(
                "it has no primary key; say in [sources.{}.{}] by key = [...] which columns tell \
                 its rows apart",
                self.table.source,
                self.table.dataset.section()
            )));
        }
        let cursor = match &self.mapping.incremental {
            None => None,
            Some(incremental) => {
                let at = position(&incremental.column)?;
                let cursor = Cursor::new(db.dialect(), &shape, at, incremental.overlap);
                Some(cursor.map_err(|problem| self.wrong(problem))?)
            }
        };
        let mut columns = Columns { shape, taken, key, is_unique: true, cursor };
        if is_configured {
            self.check_key(db, &columns).await?;
            let indexes = self.query(db, &db.dialect().unique_sql(&columns.shape)).await?;
            columns.is_unique = columns.shape.is_unique(&columns.key, &indexes);
        }
        Ok(columns)
    }

    /// What is worth a look although everything is taken.
    fn remark(&self, problem: String, advice: String) -> Notice {
        Notice {
            source: self.table.source.to_owned(),
            subject: self.table.subject(),
            severity: Severity::Remark,
            problem,
            advice,
        }
    }

    /// What a cursor says that costs each read, or is a mistake.
    fn look_at(&self, state: &State, notices: &mut Vec<Notice>) {
        let column = self.mapping.incremental.as_ref().map_or("", |inc| inc.column.as_str());
        if state.ahead > 0 {
            notices.push(self.remark(
                format!(
                    "{} of its rows have a `{column}` that is ahead of the database's clock, up \
                     to {}",
                    state.ahead,
                    state.latest.as_deref().unwrap_or_default()
                ),
                "they are read each time until then; correct them, or the clock that wrote them"
                    .to_owned(),
            ));
        }
        if state.missing > u64::from(self.config.page_rows) {
            notices.push(
                self.remark(
                    format!("{} of its rows have no `{column}`", state.missing),
                    "they are read each time; give them one, and the column a default, or name by \
                 `incremental` a column that every row has"
                        .to_owned(),
                ),
            );
        }
    }

    /// Rows without a key would be passed over in silence.
    async fn check_key(&self, db: &mut Connection, columns: &Columns) -> Result<(), SourceError> {
        let dialect = db.dialect();
        let name = |at: &usize| dialect.quoted(&columns.shape.columns[*at].name);
        let nulls: Vec<String> =
            columns.key.iter().map(|at| format!("{} IS NULL", name(at))).collect();
        let sql =
            format!("SELECT 1 FROM {} WHERE {} LIMIT 1", columns.shape.name, nulls.join(" OR "));
        if self.query(db, &sql).await?.is_empty() {
            return Ok(());
        }
        Err(self.wrong(format!(
            "there are rows without a value in the key {}: choose other columns",
            self.mapping.key.join(", ")
        )))
    }

    /// The mapping as an export would carry it.
    fn export(&self) -> Export {
        Export {
            dataset: self.table.dataset,
            source: self.table.source.to_owned(),
            export_id: String::new(),
            exported_at: Timestamp::now(),
            format: Format::Parquet,
            columns: self.mapping.columns.clone(),
            content: Content::Snapshot,
            changes: None,
            table: None,
            complete: None,
            lines: None,
            files: Vec::new(),
        }
    }

    /// Where the read that was cut off stands, or the beginning of a new one.
    async fn progress(
        &self,
        db: &mut Connection,
        columns: &Columns,
        newest: Option<&(i64, Done)>,
        read_at: Timestamp,
        now: Timestamp,
        notices: &mut Vec<Notice>,
    ) -> Result<Progress<Position>, SourceError> {
        let settings = self.settings(db.dialect());
        let number = newest.map_or(0, |(number, _)| *number) + 1;
        if let Some(progress) = self.table.progress::<Position>().await?
            && progress.number == number
            && progress.settings == settings
            && progress.version == VERSION
        {
            return Ok(progress);
        }
        let bound = match &columns.cursor {
            None => None,
            Some(cursor) => {
                let state = State::of_row(self.query(db, &cursor.state_sql()).await?.pop());
                self.look_at(&state, notices);
                state.bound
            }
        };
        let before = newest.map(|(_, done)| done).filter(|done| done.settings == settings);
        let full_every = self.mapping.incremental.as_ref().and_then(|inc| inc.full_every);
        let is_full_due = |done: &Done| {
            let age = (read_at.micros() - done.full_at.micros()) / 1_000_000;
            full_every
                .is_some_and(|every| u64::try_from(age).is_ok_and(|age| age >= every.seconds()))
        };
        let since = before.filter(|done| !is_full_due(done)).and_then(|done| done.bound.clone());
        let content = match (&since, before) {
            (Some(_), Some(done)) => Content::Window { from: done.export.exported_at, to: now },
            _ => Content::Snapshot,
        };
        Ok(Progress {
            version: VERSION,
            number,
            read_at,
            settings,
            exported_at: now,
            content,
            // Where nothing was there before, or is there now, all rows are few.
            bound: bound.or_else(|| since.clone()),
            since,
            position: Position::default(),
            files: Vec::new(),
        })
    }

    /// Reads what is left, and writes it down part by part.
    async fn pages(
        &self,
        db: &mut Connection,
        columns: &Columns,
        progress: &mut Progress<Position>,
    ) -> Result<(), SourceError> {
        let stretches = columns.stretches(db.dialect(), progress.since.as_deref());
        let mut position = progress.position.clone();
        for stretch in stretches.iter().skip(position.stretch) {
            self.stretch(db, columns, stretch, &mut position, progress).await?;
            position = Position { stretch: position.stretch + 1, after: None };
        }
        Ok(())
    }

    async fn stretch(
        &self,
        db: &mut Connection,
        columns: &Columns,
        Stretch { rows: rows_where, order }: &Stretch,
        position: &mut Position,
        progress: &mut Progress<Position>,
    ) -> Result<(), SourceError> {
        let shape = &columns.shape;
        let mut select: Vec<Term> = columns.taken.iter().map(|at| Term::own(*at)).collect();
        for term in order {
            if !select.contains(term) {
                select.push(*term);
            }
        }
        let place_of = |term: &Term| select.iter().position(|selected| selected == term);
        let order_places: Vec<usize> = order.iter().filter_map(place_of).collect();
        let names: Vec<String> =
            columns.taken.iter().map(|at| shape.columns[*at].name.clone()).collect();
        let mut part = TextRows::new(&names);
        let wanted = self.config.page_rows as usize;
        loop {
            let page = Page {
                shape,
                select: &select,
                order,
                after: position.after.as_deref(),
                rows_where: rows_where.as_deref(),
                // One more, to see whether the order tells it from the last.
                rows: self.config.page_rows + 1,
            };
            let mut rows = self.query(db, &page.sql(db.dialect())).await?;
            let order_of = |row: &Row| -> Option<Vec<String>> {
                order_places.iter().map(|at| row.get(*at).cloned().flatten()).collect()
            };
            let is_last = rows.len() <= wanted;
            if !is_last {
                let next = rows.pop();
                if next.as_ref().and_then(order_of) == rows.last().and_then(order_of) {
                    let key = columns.key.iter().map(|at| shape.columns[*at].name.as_str());
                    return Err(self.wrong(format!(
                        "two rows have the same key {}: choose columns that tell rows apart",
                        key.collect::<Vec<_>>().join(", ")
                    )));
                }
            }
            if let Some(row) = rows.last() {
                position.after = order_of(row);
                if position.after.is_none() {
                    return Err(self.wrong("a row has no value in its key".to_owned()));
                }
            }
            for row in rows {
                let cells: Row = columns
                    .taken
                    .iter()
                    .zip(row)
                    .map(|(at, cell)| cell.map(|value| db.presented(&shape.columns[*at], value)))
                    .collect();
                part.push(cells.iter().map(Option::as_deref));
            }
            if part.is_full() || (is_last && !part.is_empty()) {
                progress.files.push(part.write(&self.table, progress.number).await?);
                progress.position = position.clone();
                self.table.save(progress).await?;
            }
            if is_last {
                return Ok(());
            }
        }
    }
}

/// What is read of a table.
struct Columns {
    shape: Shape,
    /// Positions of the columns that the mapping takes.
    taken: Vec<usize>,
    /// Positions of those that tell rows apart.
    key: Vec<usize>,
    /// Whether an index of the table sees to that.
    is_unique: bool,
    cursor: Option<Cursor>,
}

impl Columns {
    /// What a read asks for, one after the other: of a read of what was written since a bound
    /// those rows, and those that are above no bound.
    fn stretches(&self, dialect: Dialect, since: Option<&str>) -> Vec<Stretch> {
        let order = |columns: &[usize]| dialect.order(&self.shape, columns, self.is_unique);
        let (Some(bound), Some(cursor)) = (since, &self.cursor) else {
            return vec![Stretch { rows: None, order: order(&self.key) }];
        };
        let others = self.key.iter().copied().filter(|at| *at != cursor.at);
        let by_cursor: Vec<usize> = std::iter::once(cursor.at).chain(others).collect();
        let written = Stretch { rows: Some(cursor.since(bound)), order: order(&by_cursor) };
        let missing = Stretch { rows: Some(cursor.missing()), order: order(&self.key) };
        vec![written, missing]
    }
}
