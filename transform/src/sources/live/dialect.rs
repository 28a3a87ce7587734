//! The SQL of a read, in each database's own words. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::connection::Row;

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
    schema: String,
    table: String,
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

/// A column as rows are selected, ordered and compared by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Term {
    /// Position of the column.
    pub(super) at: usize,
    pub(super) form: Form,
}

/// By what of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// By itself, by its type and collation: an index serves that.
    Own,
    /// By the bytes of its print: what differs in print differs.
    Bytes,
}

/// What sort of values a column has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
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
        let key = key.into_iter().map(|(_, at)| at).collect();
        Some(Self::of(dialect, &schema, table, columns, key))
    }

    pub(super) fn of(
        dialect: Dialect,
        schema: &str,
        table: &str,
        columns: Vec<Column>,
        primary_key: Vec<usize>,
    ) -> Self {
        Self {
            name: format!("{}.{}", dialect.quoted(schema), dialect.quoted(table)),
            schema: schema.to_owned(),
            table: table.to_owned(),
            columns,
            primary_key,
        }
    }

    /// Whether these columns have those of a unique index, out of the answer to
    /// [`Dialect::unique_sql`].
    pub(super) fn is_unique(&self, columns: &[usize], indexes: &[Row]) -> bool {
        let mut found: BTreeMap<&str, bool> = BTreeMap::new();
        for row in indexes {
            let mut cells = row.iter().map(Option::as_deref);
            let (index, column) = (cells.next().flatten(), cells.next().flatten());
            let is_among = columns.iter().any(|at| column == Some(&self.columns[*at].name));
            *found.entry(index.unwrap_or_default()).or_insert(true) &= is_among;
        }
        found.into_values().any(|has_all| has_all)
    }
}

impl Term {
    pub(super) const fn own(at: usize) -> Self {
        Self { at, form: Form::Own }
    }
}

impl Column {
    /// The first word of its type.
    fn word(&self) -> &str {
        self.type_name.split(['(', ' ']).next().unwrap_or_default()
    }

    pub(super) fn sort(&self) -> Sort {
        match self.word().to_ascii_lowercase().as_str() {
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

    /// What orders rows by these columns, and tells all of them apart.
    ///
    /// To a database two values may be equal that differ: `a` and `A`, 1.0 and 1.00. A page that
    /// ended between their rows would leave the second one out, so they are told apart by their
    /// bytes as well; unless an index keeps the columns unique, and so has no such rows.
    pub(super) fn order(self, shape: &Shape, columns: &[usize], is_unique: bool) -> Vec<Term> {
        let is_inexact = |at: &&usize| !is_unique && !self.is_exact(&shape.columns[**at]);
        let bytes = |at: &usize| Term { at: *at, form: Form::Bytes };
        let mut terms: Vec<Term> = columns
            .iter()
            .map(|at| match (self, shape.columns[*at].word()) {
                // MySQL orders them by place and compares them as text; and it prints fewer
                // digits than they have.
                (Self::Mysql, "enum" | "set" | "float" | "double") => bytes(at),
                _ => Term::own(*at),
            })
            .collect();
        // Behind all others, so that an index of the columns serves those.
        terms.extend(columns.iter().filter(is_inexact).map(bytes));
        terms
    }

    /// Whether values of a column that are equal to the database are printed alike.
    fn is_exact(self, column: &Column) -> bool {
        match self {
            Self::Postgresql => {
                matches!(column.sort(), Sort::Integer | Sort::Time)
                    || matches!(column.word(), "uuid" | "boolean" | "bytea" | "oid")
                    // With a scale.
                    || column.type_name.starts_with("numeric(")
            }
            Self::Mysql => !column.word().ends_with("char") && !column.word().ends_with("text"),
        }
    }

    /// Asks for the columns of a table's unique indexes: the index and a column of it, NULL
    /// where the index has no column itself there, or not by the column's own collation.
    pub(super) fn unique_sql(self, shape: &Shape) -> String {
        match self {
            Self::Postgresql => format!(
                "SELECT i.indexrelid, a.attname FROM pg_catalog.pg_index i \
                 CROSS JOIN unnest(i.indkey::pg_catalog.int2[], i.indcollation::pg_catalog.oid[]) \
                   AS k (attnum, collation_oid) \
                 LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid \
                   AND a.attnum = k.attnum AND a.attcollation = k.collation_oid \
                 WHERE i.indrelid = CAST({} AS pg_catalog.regclass) \
                   AND i.indisunique AND i.indisvalid AND i.indpred IS NULL \
                   AND k.collation_oid IS NOT NULL",
                self.text(&shape.name)
            ),
            Self::Mysql => format!(
                "SELECT INDEX_NAME, COLUMN_NAME FROM information_schema.STATISTICS \
                 WHERE NON_UNIQUE = 0 AND TABLE_SCHEMA = {} AND TABLE_NAME = {}",
                self.text(&shape.schema),
                self.text(&shape.table)
            ),
        }
    }

    /// A column as rows are selected, ordered and compared by it.
    fn expression(self, column: &Column, form: Form) -> String {
        let quoted = self.quoted(&column.name);
        match (form, self) {
            (Form::Own, _) => quoted,
            // A cast to text would take the spaces from the end of a `bpchar`.
            (Form::Bytes, Self::Postgresql) => {
                format!("pg_catalog.concat({quoted}) COLLATE \"C\"")
            }
            (Form::Bytes, Self::Mysql) => format!("CAST({quoted} AS BINARY)"),
        }
    }

    /// A value as the database printed it, for a comparison with the expression.
    fn value(self, column: &Column, form: Form, value: &str) -> String {
        match (form, self) {
            (Form::Own, _) => self.literal(column, value),
            (Form::Bytes, Self::Postgresql) => self.text(value),
            (Form::Bytes, Self::Mysql) => bytes(value),
        }
    }

    /// A value of a column as the database printed it, for a comparison with the column.
    pub(super) fn literal(self, column: &Column, value: &str) -> String {
        match (self, column.sort()) {
            (Self::Postgresql, _) => {
                format!("CAST({} AS {})", self.text(value), column.type_name)
            }
            // As text it would be compared as a double, which has 53 bits.
            (Self::Mysql, Sort::Integer | Sort::Number | Sort::Bits) if is_number(value) => {
                value.to_owned()
            }
            (Self::Mysql, Sort::Binary) => bytes(value),
            (Self::Mysql, _) => self.text(value),
        }
    }

    /// Rows behind `after`, in the order of `terms`.
    fn behind(self, shape: &Shape, terms: &[Term], after: &[String]) -> String {
        let pair = |(term, value): (&Term, &String)| {
            let column = &shape.columns[term.at];
            (self.expression(column, term.form), self.value(column, term.form, value))
        };
        let pairs: Vec<(String, String)> = terms.iter().zip(after).map(pair).collect();
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
    /// What to select.
    pub(super) select: &'a [Term],
    /// What orders the rows, and tells them apart.
    pub(super) order: &'a [Term],
    /// The values of `order` in the last row seen.
    pub(super) after: Option<&'a [String]>,
    /// SQL: of which rows; by default of all.
    pub(super) rows_where: Option<&'a str>,
    pub(super) rows: u32,
}

impl Page<'_> {
    /// Its query.
    pub(super) fn sql(&self, dialect: Dialect) -> String {
        let expression = |t: &Term| dialect.expression(&self.shape.columns[t.at], t.form);
        let list = |terms: &[Term]| terms.iter().map(expression).collect::<Vec<_>>().join(", ");
        let after = self.after.map(|after| dialect.behind(self.shape, self.order, after));
        let conditions: Vec<&str> = self.rows_where.into_iter().chain(after.as_deref()).collect();
        let mut sql = format!("SELECT {} FROM {}", list(self.select), self.shape.name);
        if !conditions.is_empty() {
            // Writing to a String does not fail.
            let _ = write!(sql, " WHERE {}", conditions.join(" AND "));
        }
        let _ = write!(sql, " ORDER BY {} LIMIT {}", list(self.order), self.rows);
        sql
    }
}

/// Bytes that were printed as `\x` and hex.
fn bytes(printed: &str) -> String {
    format!("x'{}'", printed.strip_prefix("\\x").unwrap_or_default())
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
    use super::*;

    fn column(name: &str, type_name: &str) -> Column {
        Column { name: name.to_owned(), type_name: type_name.to_owned() }
    }

    fn shape(dialect: Dialect, columns: &[(&str, &str)]) -> Shape {
        let columns = columns.iter().map(|(name, kind)| column(name, kind)).collect();
        Shape::of(dialect, "s", "t", columns, vec![0])
    }

    /// The page behind `after`, in the order of columns that an index keeps unique.
    fn sql(dialect: Dialect, shape: &Shape, order: &[usize], after: &[&str]) -> String {
        let order = dialect.order(shape, order, true);
        let after: Vec<String> = after.iter().map(|text| (*text).to_owned()).collect();
        let page = Page {
            shape,
            select: &[Term::own(0), Term::own(1)],
            order: &order,
            after: (!after.is_empty()).then_some(&after),
            rows_where: None,
            rows: 3,
        };
        page.sql(dialect)
    }

    #[test]
    fn pages_follow_each_other_by_key() {
        let pg = shape(Dialect::Postgresql, &[("a\"b", "bigint"), ("line", "integer")]);
        assert_eq!(
            sql(Dialect::Postgresql, &pg, &[0, 1], &[]),
            r#"SELECT "a""b", "line" FROM "s"."t" ORDER BY "a""b", "line" LIMIT 3"#
        );
        assert_eq!(
            sql(Dialect::Postgresql, &pg, &[0, 1], &["9007199254740993", "2"]),
            "SELECT \"a\"\"b\", \"line\" FROM \"s\".\"t\" WHERE (\"a\"\"b\", \"line\") > \
             (CAST('9007199254740993' AS bigint), CAST('2' AS integer)) \
             ORDER BY \"a\"\"b\", \"line\" LIMIT 3"
        );
        let my = shape(Dialect::Mysql, &[("a`b", "bigint"), ("name", "varchar")]);
        assert_eq!(
            sql(Dialect::Mysql, &my, &[0, 1], &["9007199254740993", "O'N"]),
            "SELECT `a``b`, `name` FROM `s`.`t` WHERE `a``b` >= 9007199254740993 AND \
             ((`a``b` > 9007199254740993) OR (`a``b` = 9007199254740993 AND \
             `name` > _utf8mb4 x'4f274e')) ORDER BY `a``b`, `name` LIMIT 3"
        );
    }

    #[test]
    fn a_key_cannot_break_out_of_its_quotes() {
        let text = shape(Dialect::Postgresql, &[("id", "text"), ("x", "text")]);
        let evil = "'; DROP TABLE t; --\\";
        assert!(
            sql(Dialect::Postgresql, &text, &[0], &[evil])
                .contains("CAST('''; DROP TABLE t; --\\' AS text)")
        );
        // A number that is none is text, not SQL.
        let number = shape(Dialect::Mysql, &[("id", "bigint"), ("x", "text")]);
        assert!(!sql(Dialect::Mysql, &number, &[0], &["1 OR 1=1"]).contains("OR 1=1"));
        let binary = shape(Dialect::Mysql, &[("id", "binary"), ("x", "text")]);
        assert!(
            sql(Dialect::Mysql, &binary, &[0], &["\\xdeadbeef"]).contains("`id` > x'deadbeef'")
        );
        // What has an order of its own is ordered as it is compared.
        let kind = shape(Dialect::Mysql, &[("id", "enum"), ("x", "text")]);
        assert_eq!(
            sql(Dialect::Mysql, &kind, &[0], &["\\x61"]),
            "SELECT `id`, `x` FROM `s`.`t` WHERE CAST(`id` AS BINARY) >= x'61' AND \
             ((CAST(`id` AS BINARY) > x'61')) ORDER BY CAST(`id` AS BINARY) LIMIT 3"
        );
    }

    #[test]
    fn a_key_that_no_index_keeps_unique_is_told_apart_by_its_bytes_too() {
        let page = |dialect: Dialect, kinds: &[(&str, &str)], after: &[&str]| {
            let shape = shape(dialect, kinds);
            let columns: Vec<usize> = (0..kinds.len()).collect();
            let after: Vec<String> = after.iter().map(|text| (*text).to_owned()).collect();
            let page = Page {
                shape: &shape,
                select: &[Term::own(0)],
                order: &dialect.order(&shape, &columns, false),
                after: Some(&after),
                rows_where: Some("TRUE"),
                rows: 3,
            };
            page.sql(dialect)
        };
        assert_eq!(
            page(
                Dialect::Postgresql,
                &[("e", "citext"), ("n", "numeric"), ("d", "numeric(9,2)"), ("i", "bigint")],
                &["A", "1.0", "1.00", "1", "A'b", "1.0"]
            ),
            "SELECT \"e\" FROM \"s\".\"t\" WHERE TRUE AND (\"e\", \"n\", \"d\", \"i\", \
             pg_catalog.concat(\"e\") COLLATE \"C\", pg_catalog.concat(\"n\") COLLATE \"C\") > \
             (CAST('A' AS citext), CAST('1.0' AS numeric), CAST('1.00' AS numeric(9,2)), \
             CAST('1' AS bigint), 'A''b', '1.0') ORDER BY \"e\", \"n\", \"d\", \"i\", \
             pg_catalog.concat(\"e\") COLLATE \"C\", pg_catalog.concat(\"n\") COLLATE \"C\" LIMIT 3"
        );
        assert_eq!(
            page(Dialect::Mysql, &[("e", "varchar"), ("i", "int")], &["a", "1", "\\x61"]),
            "SELECT `e` FROM `s`.`t` WHERE TRUE AND `e` >= _utf8mb4 x'61' AND \
             ((`e` > _utf8mb4 x'61') OR (`e` = _utf8mb4 x'61' AND `i` > 1) OR \
             (`e` = _utf8mb4 x'61' AND `i` = 1 AND CAST(`e` AS BINARY) > x'61')) \
             ORDER BY `e`, `i`, CAST(`e` AS BINARY) LIMIT 3"
        );
    }

    #[test]
    fn columns_are_unique_that_have_those_of_a_unique_index() {
        let shape = shape(Dialect::Mysql, &[("a", "text"), ("b", "text"), ("c", "text")]);
        let row = |index: &str, column: Option<&str>| {
            vec![Some(index.to_owned()), column.map(str::to_owned)]
        };
        let indexes = [row("x", Some("a")), row("x", Some("b")), row("y", None)];
        assert!(shape.is_unique(&[1, 0], &indexes));
        assert!(shape.is_unique(&[2, 1, 0], &indexes));
        assert!(!shape.is_unique(&[0, 2], &indexes));
        // An index of an expression, or none at all.
        assert!(!shape.is_unique(&[0, 1, 2], &indexes[2..]));
        assert!(!shape.is_unique(&[0], &[]));
    }
}
