//! Every table: its columns, types, key, partition and sort order.
//!
//! The Arrow schema, the Delta schema and `docs/tables.md` are derived from
//! here and from nowhere else. Adding a column is free; renaming or removing
//! one breaks users.
//!
//! Types are few on purpose, so that every engine reads them: money is
//! `Decimal(18,4)`, an instant is `Timestamp(µs, UTC)`, nothing is unsigned,
//! and no partition value is NULL.

mod commerce;
mod customers;
mod daily;
mod events;
mod identity;
mod quality;
mod recommend;
mod sessions;
mod sources;

pub use commerce::{
    CURRENCY_RATES, CUSTOMERS, ORDER_ITEMS, ORDERS, ORDERS_ENRICHED, PRODUCT_OBSERVATIONS, PRODUCTS,
};
pub use customers::{COHORT_RETENTION, CUSTOMER_LTV};
pub use daily::{CATEGORY_DAILY, FUNNEL_DAILY, PRODUCT_DAILY, SEARCH_DAILY};
pub use events::{EVENT_DUPLICATES, EVENT_ITEMS, EVENTS, REJECTS};
pub use identity::{ATTRIBUTION, IDENTITY_LINKS, IDENTITY_MAP};
pub use quality::QUALITY_RESULTS;
pub use recommend::{CO_BOUGHT, CO_VIEWED, INTERACTIONS};
pub use sessions::{ABANDONED_CARTS, SESSIONS};
pub use sources::{CARTS, SOURCE_EXPORTS, SOURCE_KEYS};

use std::borrow::Cow;
use std::fmt::Write as _;

/// The partition column of every partitioned table: a UTC date.
pub const PARTITION_COLUMN: &str = "dt";

/// Every table, in the order in which a reader would want to meet them.
pub const TABLES: &[&TableSpec] = &[
    &EVENTS,
    &EVENT_ITEMS,
    &EVENT_DUPLICATES,
    &SESSIONS,
    &ORDERS,
    &ORDER_ITEMS,
    &CUSTOMERS,
    &PRODUCTS,
    &PRODUCT_OBSERVATIONS,
    &CARTS,
    &ORDERS_ENRICHED,
    &CURRENCY_RATES,
    &PRODUCT_DAILY,
    &CATEGORY_DAILY,
    &SEARCH_DAILY,
    &FUNNEL_DAILY,
    &ABANDONED_CARTS,
    &IDENTITY_MAP,
    &IDENTITY_LINKS,
    &ATTRIBUTION,
    &CUSTOMER_LTV,
    &COHORT_RETENTION,
    &INTERACTIONS,
    &CO_VIEWED,
    &CO_BOUGHT,
    &REJECTS,
    &SOURCE_EXPORTS,
    &QUALITY_RESULTS,
];

/// Tables that jobs keep for themselves: no part of a snapshot, and not for queries.
pub const INTERNAL_TABLES: &[&TableSpec] = &[&SOURCE_KEYS];

/// What a table is.
#[derive(Debug)]
pub struct TableSpec {
    /// Its name in SQL and its folder under `tables/`.
    pub name: &'static str,
    /// What one row stands for.
    pub grain: &'static str,
    /// What it answers, and what a user must know of it.
    pub doc: &'static str,
    /// Columns that together tell rows apart.
    pub key: &'static [&'static str],
    /// The order of rows inside a file that we write.
    pub sort: &'static [&'static str],
    /// Columns with minimum, maximum and null count of each file in the Delta log.
    pub stats: &'static [&'static str],
    /// True where it is partitioned by [`PARTITION_COLUMN`], then its last column.
    pub partitioned: bool,
    /// Its columns in order.
    pub columns: &'static [Column],
}

/// A column, or a field of a struct.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// False where every row has a value.
    pub nullable: bool,
    /// Meaning and unit.
    pub doc: &'static str,
}

/// The type of a column.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Text.
    Utf8,
    /// True or false.
    Bool,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Ratio or score; never money.
    Float64,
    /// Civil date, UTC.
    Date,
    /// Instant, microseconds, UTC.
    Timestamp,
    /// `Decimal(18,4)`.
    Money,
    /// An exact decimal of other digits: how many, and how many of them after the point.
    Decimal(u8, i8),
    /// Text to text.
    Map,
    /// A list of structs with these fields.
    List(&'static [Column]),
}

impl TableSpec {
    /// The table of that name, internal ones included.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static TableSpec> {
        let mut all = TABLES.iter().chain(INTERNAL_TABLES);
        all.find(|table| table.name == name).copied()
    }
}

const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Column {
    Column { name, kind, nullable: false, doc }
}

const fn optional(name: &'static str, kind: Kind, doc: &'static str) -> Column {
    Column { name, kind, nullable: true, doc }
}

const fn text(name: &'static str, doc: &'static str) -> Column {
    optional(name, Kind::Utf8, doc)
}

const fn money(name: &'static str, doc: &'static str) -> Column {
    optional(name, Kind::Money, doc)
}

impl Kind {
    /// Its name as Arrow writes it.
    #[must_use]
    pub fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Utf8 => "Utf8",
            Self::Bool => "Boolean",
            Self::Int32 => "Int32",
            Self::Int64 => "Int64",
            Self::Float64 => "Float64",
            Self::Date => "Date32",
            Self::Timestamp => "Timestamp(µs, UTC)",
            Self::Money => "Decimal128(18, 4)",
            Self::Decimal(digits, scale) => {
                return Cow::Owned(format!("Decimal128({digits}, {scale})"));
            }
            Self::Map => "Map<Utf8, Utf8>",
            Self::List(_) => "List<Struct>",
        })
    }
}

/// `docs/tables.md`: every table with the meaning of its columns.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(
        "# Tables\n\nDerived from `schemas/src/tables/`; a test keeps this page equal to it.\n\n\
         | table | one row is | partitioned by |\n|---|---|---|\n",
    );
    for table in TABLES {
        let partition = if table.partitioned { "`dt`" } else { "-" };
        let _ = writeln!(page, "| [{0}](#{0}) | {1} | {partition} |", table.name, table.grain);
    }
    for table in TABLES {
        let _ = write!(page, "\n## {}\n\n{}\n\n", table.name, table.doc);
        let _ =
            writeln!(page, "Key: {}. Files sorted by: {}.\n", list(table.key), list(table.sort));
        page.push_str("| column | type | NULL | meaning |\n|---|---|---|---|\n");
        for column in table.columns {
            row(&mut page, column, "");
        }
    }
    page
}

fn list(names: &[&str]) -> String {
    if names.is_empty() {
        return "nothing".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn row(page: &mut String, column: &Column, prefix: &str) {
    let nullable = if column.nullable { "yes" } else { "no" };
    let _ = writeln!(
        page,
        "| `{prefix}{}` | {} | {nullable} | {} |",
        column.name,
        column.kind.name(),
        column.doc.replace('|', "\\|"),
    );
    if let Kind::List(fields) = column.kind {
        for field in fields {
            row(page, field, &format!("{}[].", column.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_a_spec_mentions_is_one_of_its_columns() {
        for table in TABLES.iter().chain(INTERNAL_TABLES) {
            let names: Vec<_> = table.columns.iter().map(|c| c.name).collect();
            for name in table.key.iter().chain(table.sort).chain(table.stats) {
                assert!(names.contains(name), "{}: {name}", table.name);
            }
            let unique: std::collections::BTreeSet<_> = names.iter().collect();
            assert_eq!(unique.len(), names.len(), "{}: a column twice", table.name);
            assert_eq!(
                table.partitioned,
                names.last() == Some(&PARTITION_COLUMN),
                "{}",
                table.name
            );
        }
    }

    #[test]
    fn the_page_in_docs_is_the_one_derived() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/tables.md");
        if std::env::var_os("CLICKMILL_BLESS").is_some() {
            std::fs::write(path, markdown()).expect("docs/tables.md can be written");
        }
        let page = std::fs::read_to_string(path).expect("docs/tables.md exists");
        assert!(
            page == markdown(),
            "docs/tables.md is stale: run the tests once with CLICKMILL_BLESS=1"
        );
    }
}
