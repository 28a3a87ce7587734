//! The SQL of a read, in each database's own words. Pure.

use std::fmt::Write as _;

use super::config::Overlap;
use super::connection::Row;

/// Seconds that an incremental read of times reaches back, where nothing else is said.
const OVERLAP_SECONDS: u64 = 600;
/// The same of numbers.
const OVERLAP_NUMBERS: u64 = 1_000;

/// Whose SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Postgresql,
    Mysql,
}

/// A table as its database describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Quoted, with its schema.
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    /// Positions of the primary key's columns, in its order.
    pub(super) primary_key: Vec<usize>,
}

/// A column as its database describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    /// The database's word for its type.
    pub(super) type_name: String,
}

/// What sort of values a column has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Integer,
    Number,
    Time,
    Binary,
    Bits,
    Other,
}

impl Shape {
    /// Out of a row a column: the schema, its name, its type, and its place in the primary key,
    /// from 1. `None` where there is no row.
    pub(super) fn of_rows(dialect: Dialect, table: &str, rows: Vec<Row>) -> Option<Self> {
        let schema = rows.first().and_then(|row| row.first())?.clone()?;
        let mut columns = Vec::new();
        let mut key = Vec::new();
        for (at, row) in rows.into_iter().enumerate() {
            let mut row = row.into_iter().skip(1).map(Option::unwrap_or_default);
            let mut next = || row.next().unwrap_or_default();
            columns.push(Column { name: next(), type_name: next() });
            if let Ok(nth) = next().parse::<usize>() {
                key.push((nth, at));
            }
        }
        key.sort_unstable();
        Some(Self {
            name: format!("{}.{}", dialect.quoted(&schema), dialect.quoted(table)),
            columns,
            primary_key: key.into_iter().map(|(_, at)| at).collect(),
        })
    }
}

impl Column {
    fn sort(&self) -> Sort {
        let name = self.type_name.to_ascii_lowercase();
        let word = name.split(['(', ' ']).next().unwrap_or_default();
        match word {
            "smallint" | "integer" | "bigint" | "tinyint" | "mediumint" | "int" | "year" => {
                Sort::Integer
            }
            "numeric" | "decimal" | "real" | "double" | "float" => Sort::Number,
            "timestamp" | "timestamptz" | "datetime" | "date" => Sort::Time,
            "binary" | "varbinary" | "blob" | "tinyblob" | "mediumblob" | "longblob" => {
                Sort::Binary
            }
            "bit" => Sort::Bits,
            _ => Sort::Other,
        }
    }
}

impl Dialect {
    /// A name, quoted.
    pub(super) fn quoted(self, name: &str) -> String {
        match self {
            Self::Postgresql => format!("\"{}\"", name.replace('"', "\"\"")),
            Self::Mysql => format!("`{}`", name.replace('`', "``")),
        }
    }

    /// Text, quoted.
    pub(super) fn text(self, value: &str) -> String {
        match self {
            // The session sets standard_conforming_strings.
            Self::Postgresql => format!("'{}'", value.replace('\'', "''")),
            // Hex needs no escapes, whatever the session's sql_mode.
            Self::Mysql => format!("_utf8mb4 x'{}'", hex(value.as_bytes())),
        }
    }

    /// A column by which rows are ordered and compared.
    fn ordered(self, column: &Column) -> String {
        let quoted = self.quoted(&column.name);
        match (self, column.type_name.as_str()) {
            // MySQL orders them by place and compares them as text: pages would leave rows out.
            (Self::Mysql, "enum" | "set") => format!("CAST({quoted} AS CHAR)"),
            _ => quoted,
        }
    }

    /// A value of a column as the database printed it, for a comparison with the column.
    fn literal(self, column: &Column, value: &str) -> String {
        match (self, column.sort()) {
            (Self::Postgresql, _) => {
                format!("CAST({} AS {})", self.text(value), column.type_name)
            }
            // As text it would be compared as a double, which has 53 bits.
            (Self::Mysql, Sort::Integer | Sort::Number | Sort::Bits) if is_number(value) => {
                value.to_owned()
            }
            (Self::Mysql, Sort::Binary) => {
                format!("x'{}'", value.strip_prefix("\\x").unwrap_or_default())
            }
            (Self::Mysql, _) => self.text(value),
        }
    }

    /// `bound` less the overlap. The error is for the user's eyes.
    fn below(
        self,
        column: &Column,
        bound: &str,
        overlap: Option<Overlap>,
    ) -> Result<String, String> {
        let literal = self.literal(column, bound);
        match (column.sort(), overlap) {
            (Sort::Integer, None) => Ok(format!("{literal} - {OVERLAP_NUMBERS}")),
            (Sort::Integer, Some(Overlap::Number(by))) => Ok(format!("{literal} - {by}")),
            (Sort::Time, None | Some(Overlap::Time(_))) => {
                let seconds = match overlap {
                    Some(Overlap::Time(age)) => age.seconds(),
                    _ => OVERLAP_SECONDS,
                };
                Ok(match self {
                    Self::Postgresql => format!("{literal} - INTERVAL '{seconds} seconds'"),
                    Self::Mysql => {
                        format!("CAST({literal} AS DATETIME(6)) - INTERVAL {seconds} SECOND")
                    }
                })
            }
            (Sort::Integer, Some(Overlap::Time(_))) => {
                Err(format!("{} is an integer: its overlap is a number, such as 1000", column.name))
            }
            (Sort::Time, Some(Overlap::Number(_))) => {
                Err(format!("{} is a time: its overlap is one, such as \"10m\"", column.name))
            }
            _ => Err(format!(
                "{} is {}: incremental reads need a time or an integer that grows with each write",
                column.name, column.type_name
            )),
        }
    }

    /// Rows behind `after`, by the columns `order`.
    fn behind(self, order: &[&Column], after: &[String]) -> String {
        let pairs: Vec<(String, String)> = order
            .iter()
            .zip(after)
            .map(|(column, value)| (self.ordered(column), self.literal(column, value)))
            .collect();
        if self == Self::Postgresql {
            let names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
            let values: Vec<&str> = pairs.iter().map(|(_, value)| value.as_str()).collect();
            return format!("({}) > ({})", names.join(", "), values.join(", "));
        }
        // MySQL finds no index for a comparison of rows: a > x OR (a = x AND b > y) ...
        let alternatives = pairs.iter().enumerate().map(|(last, (name, value))| {
            let mut all: Vec<String> =
                pairs[..last].iter().map(|(name, value)| format!("{name} = {value}")).collect();
            all.push(format!("{name} > {value}"));
            format!("({})", all.join(" AND "))
        });
        let alternatives: Vec<String> = alternatives.collect();
        let (first, value) = &pairs[0];
        format!("{first} >= {value} AND ({})", alternatives.join(" OR "))
    }
}

/// One page of a read.
pub(super) struct Page<'a> {
    pub(super) shape: &'a Shape,
    /// Positions of the columns to select.
    pub(super) select: &'a [usize],
    /// Positions of the columns that order the rows, and tell them apart.
    pub(super) order: &'a [usize],
    /// The values of `order` in the last row seen.
    pub(super) after: Option<&'a [String]>,
    /// The incremental column and the greatest value seen by the read before.
    pub(super) since: Option<(usize, &'a str, Option<Overlap>)>,
    pub(super) rows: u32,
}

impl Page<'_> {
    /// Its query. The error is for the user's eyes.
    pub(super) fn sql(&self, dialect: Dialect) -> Result<String, String> {
        let column = |at: &usize| &self.shape.columns[*at];
        let quoted = |at: &usize| dialect.quoted(&column(at).name);
        let list = |at: &[usize]| at.iter().map(quoted).collect::<Vec<_>>().join(", ");
        let order: Vec<&Column> = self.order.iter().map(column).collect();
        let mut conditions = Vec::new();
        match (self.after, self.since) {
            (Some(after), _) => conditions.push(dialect.behind(&order, after)),
            (None, Some((at, bound, overlap))) => {
                let below = dialect.below(column(&at), bound, overlap)?;
                conditions.push(format!("{} >= {below}", quoted(&at)));
            }
            (None, None) => {}
        }
        let mut sql = format!("SELECT {} FROM {}", list(self.select), self.shape.name);
        if !conditions.is_empty() {
            // Writing to a String does not fail.
            let _ = write!(sql, " WHERE {}", conditions.join(" AND "));
        }
        let order: Vec<String> = order.iter().map(|column| dialect.ordered(column)).collect();
        let _ = write!(sql, " ORDER BY {} LIMIT {}", order.join(", "), self.rows);
        Ok(sql)
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b))
}

/// Bytes as hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::config::Age;
    use super::*;

    fn column(name: &str, type_name: &str) -> Column {
        Column { name: name.to_owned(), type_name: type_name.to_owned() }
    }

    fn shape(columns: &[(&str, &str)]) -> Shape {
        Shape {
            name: "t".to_owned(),
            columns: columns.iter().map(|(name, kind)| column(name, kind)).collect(),
            primary_key: vec![0],
        }
    }

    fn sql(dialect: Dialect, shape: &Shape, order: &[usize], after: &[&str]) -> String {
        let after: Vec<String> = after.iter().map(|text| (*text).to_owned()).collect();
        let page = Page {
            shape,
            select: &[0, 1],
            order,
            after: (!after.is_empty()).then_some(&after),
            since: None,
            rows: 3,
        };
        page.sql(dialect).unwrap()
    }

    #[test]
    fn pages_follow_each_other_by_key() {
        let pg = shape(&[("a\"b", "bigint"), ("line", "integer")]);
        assert_eq!(
            sql(Dialect::Postgresql, &pg, &[0, 1], &[]),
            r#"SELECT "a""b", "line" FROM t ORDER BY "a""b", "line" LIMIT 3"#
        );
        assert_eq!(
            sql(Dialect::Postgresql, &pg, &[0, 1], &["9007199254740993", "2"]),
            "SELECT \"a\"\"b\", \"line\" FROM t WHERE (\"a\"\"b\", \"line\") > \
             (CAST('9007199254740993' AS bigint), CAST('2' AS integer)) \
             ORDER BY \"a\"\"b\", \"line\" LIMIT 3"
        );
        let my = shape(&[("a`b", "bigint"), ("name", "varchar")]);
        assert_eq!(
            sql(Dialect::Mysql, &my, &[0, 1], &["9007199254740993", "O'N"]),
            "SELECT `a``b`, `name` FROM t WHERE `a``b` >= 9007199254740993 AND \
             ((`a``b` > 9007199254740993) OR (`a``b` = 9007199254740993 AND \
             `name` > _utf8mb4 x'4f274e')) ORDER BY `a``b`, `name` LIMIT 3"
        );
    }

    #[test]
    fn a_key_cannot_break_out_of_its_quotes() {
        let text = shape(&[("id", "text"), ("x", "text")]);
        let evil = "'; DROP TABLE t; --\\";
        assert!(
            sql(Dialect::Postgresql, &text, &[0], &[evil])
                .contains("CAST('''; DROP TABLE t; --\\' AS text)")
        );
        // A number that is none is text, not SQL.
        let number = shape(&[("id", "bigint"), ("x", "text")]);
        assert!(!sql(Dialect::Mysql, &number, &[0], &["1 OR 1=1"]).contains("OR 1=1"));
        let binary = shape(&[("id", "binary"), ("x", "text")]);
        assert!(
            sql(Dialect::Mysql, &binary, &[0], &["\\xdeadbeef"]).contains("`id` > x'deadbeef'")
        );
        // What has an order of its own is ordered as it is compared.
        let kind = shape(&[("id", "enum"), ("x", "text")]);
        assert_eq!(
            sql(Dialect::Mysql, &kind, &[0], &["a"]),
            "SELECT `id`, `x` FROM t WHERE CAST(`id` AS CHAR) >= _utf8mb4 x'61' AND \
             ((CAST(`id` AS CHAR) > _utf8mb4 x'61')) ORDER BY CAST(`id` AS CHAR) LIMIT 3"
        );
    }

    #[test]
    fn an_incremental_read_reaches_back_by_its_overlap() {
        let since = |dialect: Dialect, kind: &str, bound: &str, overlap: Option<Overlap>| {
            let shape = shape(&[("id", "bigint"), ("u", kind)]);
            let page = Page {
                shape: &shape,
                select: &[0],
                order: &[1, 0],
                after: None,
                since: Some((1, bound, overlap)),
                rows: 1,
            };
            let sql = page.sql(dialect)?;
            let (_, condition) = sql.split_once(" WHERE ").unwrap_or_default();
            Ok::<_, String>(condition.split(" ORDER").next().unwrap_or_default().to_owned())
        };
        let (pg, my) = (Dialect::Postgresql, Dialect::Mysql);
        assert_eq!(
            since(pg, "timestamp with time zone", "2026-11-23 10:00:00+00", None).unwrap(),
            "\"u\" >= CAST('2026-11-23 10:00:00+00' AS timestamp with time zone) \
             - INTERVAL '600 seconds'"
        );
        assert_eq!(
            since(my, "datetime", "x", Some(Overlap::Time(Age::from_seconds(60)))).unwrap(),
            "`u` >= CAST(_utf8mb4 x'78' AS DATETIME(6)) - INTERVAL 60 SECOND"
        );
        assert_eq!(since(my, "bigint", "50", None).unwrap(), "`u` >= 50 - 1000");
        assert_eq!(
            since(pg, "bigint", "50", Some(Overlap::Number(7))).unwrap(),
            "\"u\" >= CAST('50' AS bigint) - 7"
        );
        assert!(since(pg, "text", "x", None).is_err());
        assert!(since(pg, "bigint", "1", Some(Overlap::Time(Age::from_seconds(1)))).is_err());
        assert!(since(pg, "date", "2026-11-23", Some(Overlap::Number(1))).is_err());
    }
}
