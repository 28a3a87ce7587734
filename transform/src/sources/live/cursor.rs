//! The column by which an incremental read finds what was written: its cursor. Pure.
//!
//! The bound of a read is the greatest value that its table has, and no later than
//! the database's own clock: a time in the future, or of no end, would pass over
//! everything that is written until then. Rows without a value are never above a
//! bound: they are read each time.

use super::config::Overlap;
use super::connection::Row;
use super::dialect::{Column, Dialect, Shape, Sort};

/// Seconds that an incremental read of times reaches back, where nothing else is said.
const OVERLAP_SECONDS: u64 = 600;
/// The same of numbers.
const OVERLAP_NUMBERS: u64 = 1_000;
/// Seconds that a clock of the shop may be ahead of the database's before it is told.
const AHEAD_SECONDS: u64 = 600;
/// And of a time without a zone, the furthest that a local clock is ahead of UTC.
const EAST_SECONDS: u64 = 14 * 3_600;

/// The cursor of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    dialect: Dialect,
    /// Position of its column.
    pub(super) at: usize,
    /// Quoted, as the table's.
    column: String,
    table: String,
    definition: Column,
    /// Of times seconds, of numbers how many.
    overlap: u64,
    is_time: bool,
}

/// What a table's cursor says as a read begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// The greatest value that bounds the next read.
    pub(super) bound: Option<String>,
    /// Rows without a value.
    pub(super) missing: u64,
    /// Rows in the future.
    pub(super) ahead: u64,
    /// The latest of them.
    pub(super) latest: Option<String>,
}

impl Cursor {
    /// The error is for the user's eyes.
    pub(super) fn new(
        dialect: Dialect,
        shape: &Shape,
        at: usize,
        overlap: Option<Overlap>,
    ) -> Result<Self, String> {
        let definition = shape.columns[at].clone();
        let Column { name, type_name } = &definition;
        let (is_time, overlap) = match (definition.sort(), overlap) {
            (Sort::Integer, None) => (false, OVERLAP_NUMBERS),
            (Sort::Integer, Some(Overlap::Number(by))) => (false, u64::from(by)),
            (Sort::Time, None) => (true, OVERLAP_SECONDS),
            (Sort::Time, Some(Overlap::Time(age))) => (true, age.seconds()),
            (Sort::Integer, Some(Overlap::Time(_))) => {
                return Err(format!("{name} is an integer: its overlap is a number, such as 1000"));
            }
            (Sort::Time, Some(Overlap::Number(_))) => {
                return Err(format!("{name} is a time: its overlap is one, such as \"10m\""));
            }
            _ => {
                return Err(format!(
                    "{name} is {type_name}: incremental reads need a time or an integer that \
                     grows with each write"
                ));
            }
        };
        let (column, table) = (dialect.quoted(name), shape.name.clone());
        Ok(Self { dialect, at, column, table, definition, overlap, is_time })
    }

    /// The rows that a read asks for whose bound was `bound`.
    pub(super) fn since(&self, bound: &str) -> String {
        let Self { column, overlap, .. } = self;
        let bound = self.dialect.literal(&self.definition, bound);
        match (self.is_time, self.dialect) {
            (false, _) => format!("{column} >= {bound} - {overlap}"),
            (true, Dialect::Postgresql) => {
                format!("{column} >= {bound} - INTERVAL '{overlap} seconds'")
            }
            (true, Dialect::Mysql) => {
                format!("{column} >= CAST({bound} AS DATETIME(6)) - INTERVAL {overlap} SECOND")
            }
        }
    }

    /// The rows that are above no bound.
    pub(super) fn missing(&self) -> String {
        let column = &self.column;
        match self.beginning() {
            Some(beginning) => format!("({column} IS NULL OR {column} = {beginning})"),
            None => format!("{column} IS NULL"),
        }
    }

    /// Asks for a [`State`].
    pub(super) fn state_sql(&self) -> String {
        let Self { column, table, .. } = self;
        let of = |what: &str, rows: &str| format!("(SELECT {what} FROM {table} WHERE {rows})");
        let greatest = format!("max({column})");
        let missing = of("count(*)", &self.missing());
        let Some(beginning) = self.beginning() else {
            return format!("SELECT (SELECT {greatest} FROM {table}), {missing}, 0, NULL");
        };
        let (now, ahead) = self.clock();
        let bound = of(&greatest, &format!("{column} > {beginning} AND {column} <= {now}"));
        let is_ahead = format!("{column} > {ahead}");
        format!(
            "SELECT {bound}, {missing}, {}, {}",
            of("count(*)", &is_ahead),
            of(&greatest, &is_ahead)
        )
    }

    /// What stands for no time at all, before all times.
    fn beginning(&self) -> Option<&'static str> {
        match (self.is_time, self.dialect) {
            (false, _) => None,
            (true, Dialect::Postgresql) => Some("'-infinity'"),
            (true, Dialect::Mysql) => Some("'0000-00-00 00:00:00'"),
        }
    }

    /// The database's clock as the column would show it, and what no right clock shows yet.
    ///
    /// A time without a zone is of a clock that nobody names: of UTC and of the server's own zone
    /// the one that is behind, so that a bound is below what is written next by either. What is
    /// between the two is read again.
    fn clock(&self) -> (&'static str, String) {
        let has_zone = match self.dialect {
            Dialect::Postgresql => self.definition.type_name.ends_with("with time zone"),
            // The session's zone is UTC.
            Dialect::Mysql => self.definition.type_name == "timestamp",
        };
        let seconds = if has_zone { AHEAD_SECONDS } else { AHEAD_SECONDS + EAST_SECONDS };
        match (self.dialect, has_zone) {
            (Dialect::Postgresql, true) => {
                ("now()", format!("now() + INTERVAL '{seconds} seconds'"))
            }
            (Dialect::Postgresql, false) => (
                "LEAST(now() AT TIME ZONE 'UTC', now() AT TIME ZONE (SELECT reset_val FROM \
                 pg_catalog.pg_settings WHERE name = 'TimeZone'))",
                format!("now() AT TIME ZONE 'UTC' + INTERVAL '{seconds} seconds'"),
            ),
            (Dialect::Mysql, true) => {
                ("UTC_TIMESTAMP(6)", format!("UTC_TIMESTAMP(6) + INTERVAL {seconds} SECOND"))
            }
            (Dialect::Mysql, false) => (
                // NULL where the server does not know its own zone's name.
                "LEAST(UTC_TIMESTAMP(6), COALESCE(CONVERT_TZ(UTC_TIMESTAMP(6), '+00:00', \
                 @@global.time_zone), UTC_TIMESTAMP(6)))",
                format!("UTC_TIMESTAMP(6) + INTERVAL {seconds} SECOND"),
            ),
        }
    }
}

impl State {
    /// Out of the answer to [`Cursor::state_sql`].
    pub(super) fn of_row(row: Option<Row>) -> Self {
        let mut cells = row.into_iter().flatten();
        let mut next = || cells.next().flatten();
        let count = |cell: Option<String>| cell.and_then(|text| text.parse().ok()).unwrap_or(0);
        let bound = next();
        let (missing, ahead) = (count(next()), count(next()));
        Self { bound, missing, ahead, latest: next() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::config::Age;
    use super::*;

    fn cursor(dialect: Dialect, kind: &str, overlap: Option<Overlap>) -> Result<Cursor, String> {
        let column = Column { name: "u".to_owned(), type_name: kind.to_owned() };
        let shape = Shape::of(dialect, "s", "t", vec![column], Vec::new());
        Cursor::new(dialect, &shape, 0, overlap)
    }

    const PG: Dialect = Dialect::Postgresql;
    const MY: Dialect = Dialect::Mysql;

    #[test]
    fn an_incremental_read_reaches_back_by_its_overlap() {
        let since = |dialect, kind, bound, overlap| {
            cursor(dialect, kind, overlap).map(|cursor| cursor.since(bound))
        };
        assert_eq!(
            since(PG, "timestamp with time zone", "2026-11-23 10:00:00+00", None).unwrap(),
            "\"u\" >= CAST('2026-11-23 10:00:00+00' AS timestamp with time zone) \
             - INTERVAL '600 seconds'"
        );
        assert_eq!(
            since(MY, "datetime", "x", Some(Overlap::Time(Age::from_seconds(60)))).unwrap(),
            "`u` >= CAST(_utf8mb4 x'78' AS DATETIME(6)) - INTERVAL 60 SECOND"
        );
        assert_eq!(since(MY, "bigint", "50", None).unwrap(), "`u` >= 50 - 1000");
        assert_eq!(
            since(PG, "bigint", "50", Some(Overlap::Number(7))).unwrap(),
            "\"u\" >= CAST('50' AS bigint) - 7"
        );
        assert!(since(PG, "text", "x", None).is_err());
        assert!(since(PG, "bigint", "1", Some(Overlap::Time(Age::from_seconds(1)))).is_err());
        assert!(since(PG, "date", "2026-11-23", Some(Overlap::Number(1))).is_err());
    }

    #[test]
    fn a_bound_is_no_later_than_the_databases_own_clock() {
        let sql = |dialect, kind| cursor(dialect, kind, None).unwrap().state_sql();
        assert_eq!(
            sql(PG, "timestamp(3) with time zone"),
            "SELECT (SELECT max(\"u\") FROM \"s\".\"t\" WHERE \"u\" > '-infinity' AND \"u\" <= \
             now()), (SELECT count(*) FROM \"s\".\"t\" WHERE (\"u\" IS NULL OR \"u\" = \
             '-infinity')), (SELECT count(*) FROM \"s\".\"t\" WHERE \"u\" > now() + INTERVAL \
             '600 seconds'), (SELECT max(\"u\") FROM \"s\".\"t\" WHERE \"u\" > now() + INTERVAL \
             '600 seconds')"
        );
        // It may be a clock's in Auckland.
        assert!(sql(PG, "timestamp without time zone").contains("INTERVAL '51000 seconds'"));
        assert!(sql(MY, "datetime").contains("INTERVAL 51000 SECOND"));
        assert!(sql(MY, "timestamp").contains("<= UTC_TIMESTAMP(6))"));
        // A number has no clock.
        assert_eq!(
            sql(MY, "bigint"),
            "SELECT (SELECT max(`u`) FROM `s`.`t`), (SELECT count(*) FROM `s`.`t` WHERE `u` IS \
             NULL), 0, NULL"
        );
    }
}
