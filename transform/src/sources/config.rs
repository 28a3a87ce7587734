//! `[sources.*]` of `clickmill.toml`: where a shop's exports lie, and which of
//! their columns are which of ours. `docs/sources.md` shows it by example.
//!
//! A value of [`SourcesConfig`] is checked: every key is known, every column
//! named is a column of its table, every format parses.

use std::collections::BTreeMap;
use std::fmt;

use clickmill_schemas::tables::Kind;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::Dataset;
use super::columns;
use super::datasets::{check_any, with_datasets};
use super::lines;
use super::value::Rule;

pub use super::dms_config::{DmsMapping, DmsSource};
pub use super::expect::{Age, Expect};
pub use super::live::config::{DatabaseSource, Incremental, LiveMapping, Overlap, ScanSource, Tls};

/// Every `[sources.NAME]`, by name.
///
/// Without the section: RDS snapshot exports under `exports/rds` and DynamoDB
/// exports under `exports/dynamodb` of the lake.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, SourceConfig>")]
pub struct SourcesConfig(BTreeMap<String, SourceConfig>);

/// One `[sources.NAME]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum SourceConfig {
    /// RDS or Aurora snapshot exports.
    RdsExport(ExportSource),
    /// DynamoDB exports, full and incremental.
    DynamodbExport(ExportSource),
    /// Full loads and change capture that DMS wrote to S3.
    Dms(Box<DmsSource>),
    /// CSV, JSON or Parquet files.
    Files(Box<FilesSource>),
    /// A PostgreSQL database, read live.
    Postgresql(Box<DatabaseSource>),
    /// A MySQL or MariaDB database, read live.
    Mysql(Box<DatabaseSource>),
    /// Tables of DynamoDB, scanned live.
    DynamodbScan(Box<ScanSource>),
}

with_datasets! {
    /// A folder of database exports.
    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct ExportSource<TableMapping> {
        /// The folder that holds the exports, or one export: a path, `file:///...`,
        /// `s3://bucket/prefix`, or `lake:exports/rds` for a folder of the lake.
        pub path: String,
        /// What would be strange of it.
        #[serde(default)]
        pub expect: Expect,
    }
}

/// One table of a database export.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableMapping {
    /// Its name: `schema.table` or `table`; by default the name of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Our column = theirs. A column that is not named comes from the one with its own name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, ColumnMapping>,
}

with_datasets! {
    /// CSV, JSON or Parquet files.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct FilesSource<FilesMapping> {
        /// A file, a folder, or either with `*`, `?`, `[...]` and `**` in it.
        pub path: String,
        /// `csv`, `jsonl` or `parquet`.
        pub format: FileFormat,
        /// Of a CSV: what stands between the values, one ASCII character.
        #[serde(default = "comma")]
        pub delimiter: char,
        /// Of a CSV: whether the first row names the columns.
        #[serde(default = "yes")]
        pub header: bool,
        /// Of a CSV: the columns' names where no header gives them, or in its place.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub names: Vec<String>,
        /// Of a CSV's text.
        #[serde(default)]
        pub encoding: Encoding,
        /// When the data was like this; by default the object's last modification.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub exported_at: Option<ExportedAt>,
        /// Files of order lines, each with its order's fields.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub lines: Option<LinesMapping>,
        /// What would be strange of it.
        #[serde(default)]
        pub expect: Expect,
    }
}

/// The encoding of `kind = "files"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// Separated values; plain, gz or zstd.
    Csv,
    /// A JSON object a line; plain, gz or zstd.
    Jsonl,
    /// Parquet.
    Parquet,
}

/// How separated values are laid out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CsvLayout {
    /// One ASCII character.
    pub delimiter: char,
    /// Whether the first row names the columns.
    pub header: bool,
    /// The columns' names where no header gives them, or in its place.
    pub names: Vec<String>,
    /// Of the text.
    pub encoding: Encoding,
    /// What stands for NULL, beside nothing at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null: Option<String>,
}

/// Encoding of a CSV's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// UTF-8, with or without a byte order mark. A row that is not goes to the rejects.
    #[default]
    Utf8,
    /// ISO 8859-1.
    Latin1,
}

/// Where the time of a file's data stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportedAt {
    /// A strftime pattern that the file's name starts with or contains after
    /// `prefix`: `%Y-%m-%d`, `%Y%m%dT%H%M%S`. UTC.
    pub name: String,
    /// What stands before the time in the file's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
}

/// Files of one dataset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesMapping {
    /// A pattern below the source's folder; by default the dataset's name and anything after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<String>,
    /// Our column = theirs. A column that is not named comes from the one with its own name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, ColumnMapping>,
    /// Of `order_items`: what a file has of an order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete: Option<Complete>,
}

/// What files have of the orders whose lines they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Complete {
    /// All lines, each file by itself.
    Order,
    /// All lines, together with the other files of the same time in their names.
    Time,
    /// All lines, together with the other files of the folder.
    Folder,
    /// Single lines, each of which stands for itself.
    Line,
}

/// One file of order lines that yields orders, their items, and products.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinesMapping {
    /// A pattern below the source's folder; by default every file of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<String>,
    /// What to make of the lines: `orders`, `order_items`, `products`.
    #[serde(default = "orders_and_items")]
    pub yields: Vec<LinesYield>,
    /// Orders whose id starts with this are returns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_prefix: Option<String>,
    /// The status of an order, where no column gives it.
    #[serde(default = "completed")]
    pub status: String,
    /// The status of a return, where no column gives it.
    #[serde(default = "returned")]
    pub return_status: String,
    /// Our column of orders, order_items or products = theirs.
    pub columns: BTreeMap<String, ColumnMapping>,
}

/// What order lines are made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinesYield {
    /// One row an order id.
    Orders,
    /// One row a line.
    OrderItems,
    /// One row a product.
    Products,
}

/// Where a column's values come from: the name of a column, or more.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ColumnMapping {
    /// `total = "order_total"`
    Column(String),
    /// `ordered_at = { column = "date", format = "%d/%m/%Y", zone = "Europe/London" }`
    Rule(Box<ColumnRule>),
}

/// A column with its format, or a constant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnRule {
    /// Their column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The same value in every row, in place of a column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constant: Option<String>,
    /// Of a time: `rfc3339`, `epoch_s`, `epoch_ms`, `epoch_us`, or a strftime pattern.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Of a time without an offset: an IANA zone; UTC by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Of an amount: the decimal separator, `.` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decimal: Option<char>,
    /// Of an amount: the separator of thousands; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thousands: Option<char>,
    /// Of an amount: round half away from zero at four places, in place of rejecting the row.
    #[serde(default, skip_serializing_if = "is_false")]
    pub round: bool,
    /// Of an amount: how many decimal places a whole number leaves out: 2 where it counts cents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minor_units: Option<u32>,
    /// Removed from the end of the value where it is there: `.0` of `17850.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strip: Option<String>,
    /// Their value = ours. Others stay as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub map: BTreeMap<String, String>,
}

impl SourcesConfig {
    /// The source of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&SourceConfig> {
        self.0.get(name)
    }

    /// The sources, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &SourceConfig)> {
        self.0.iter().map(|(name, source)| (name.as_str(), source))
    }
}

impl Default for SourcesConfig {
    fn default() -> Self {
        let at = |path: &str| ExportSource { path: path.to_owned(), ..ExportSource::default() };
        Self(BTreeMap::from([
            ("dynamodb".to_owned(), SourceConfig::DynamodbExport(at("lake:exports/dynamodb"))),
            ("rds".to_owned(), SourceConfig::RdsExport(at("lake:exports/rds"))),
        ]))
    }
}

impl TryFrom<BTreeMap<String, SourceConfig>> for SourcesConfig {
    type Error = String;

    fn try_from(sources: BTreeMap<String, SourceConfig>) -> Result<Self, String> {
        for (name, source) in &sources {
            source.check().map_err(|problem| format!("[sources.{name}{problem}"))?;
        }
        Ok(Self(sources))
    }
}

impl SourceConfig {
    /// The error continues a section's name: `.orders] ...`.
    fn check(&self) -> Result<(), String> {
        match self {
            Self::RdsExport(source) | Self::DynamodbExport(source) => {
                for (dataset, mapping) in source.mappings() {
                    check_columns(dataset.section(), &[dataset], &mapping.columns)?;
                }
                Ok(())
            }
            Self::Dms(source) => source.check(),
            Self::Files(source) => source.check(),
            Self::Postgresql(source) | Self::Mysql(source) => source.check(),
            Self::DynamodbScan(source) => source.check(),
        }
    }

    /// Where it lies: as written, or the address of a database.
    #[must_use]
    pub fn place(&self) -> String {
        let address = |scheme: &str, source: &DatabaseSource| {
            let port = source.port.map(|port| format!(":{port}")).unwrap_or_default();
            format!("{scheme}://{}{port}/{}", source.host, source.database)
        };
        match self {
            Self::RdsExport(source) | Self::DynamodbExport(source) => source.path.clone(),
            Self::Dms(source) => source.path.clone(),
            Self::Files(source) => source.path.clone(),
            Self::Postgresql(source) => address("postgresql", source),
            Self::Mysql(source) => address("mysql", source),
            Self::DynamodbScan(_) => "DynamoDB".to_owned(),
        }
    }

    /// What would be strange of it.
    #[must_use]
    pub fn expect(&self) -> &Expect {
        match self {
            Self::RdsExport(source) | Self::DynamodbExport(source) => &source.expect,
            Self::Dms(source) => &source.expect,
            Self::Files(source) => &source.expect,
            Self::Postgresql(source) | Self::Mysql(source) => &source.expect,
            Self::DynamodbScan(source) => &source.expect,
        }
    }
}

impl FilesSource {
    /// The layout of its CSV.
    pub(super) fn csv(&self) -> CsvLayout {
        CsvLayout {
            delimiter: self.delimiter,
            header: self.header,
            names: self.names.clone(),
            encoding: self.encoding,
            null: None,
        }
    }

    fn check(&self) -> Result<(), String> {
        if !self.delimiter.is_ascii() {
            return Err(format!("] delimiter `{}` is not one ASCII character", self.delimiter));
        }
        if self.format == FileFormat::Csv && !self.header && self.names.is_empty() {
            return Err("] header = false needs names = [...], the columns' names in order".into());
        }
        for (dataset, mapping) in self.mappings() {
            let section = dataset.section();
            check_columns(section, &[dataset], &mapping.columns)?;
            if mapping.complete.is_some() && dataset != Dataset::OrderItems {
                return Err(format!(
                    ".{section}] complete is of the lines of orders: .order_items"
                ));
            }
            if mapping.complete == Some(Complete::Time) && self.exported_at.is_none() {
                return Err(format!(
                    ".{section}] complete = \"time\" goes by the times in files' names: say in \
                     exported_at where they stand"
                ));
            }
        }
        let Some(mapping) = &self.lines else {
            return check_any(self.mappings(), ", .carts or .lines");
        };
        check_columns("lines", &lines::DATASETS, &mapping.columns)?;
        for needed in lines::REQUIRED {
            if !mapping.columns.contains_key(needed) {
                return Err(format!(".lines.columns] lacks `{needed}`: an order line has one"));
            }
        }
        Ok(())
    }
}

pub(super) fn check_columns(
    section: &str,
    datasets: &[Dataset],
    mappings: &BTreeMap<String, ColumnMapping>,
) -> Result<(), String> {
    for (name, mapping) in mappings {
        let kind =
            datasets.iter().find_map(|dataset| columns::find(*dataset, name).map(|c| c.kind));
        let at = |problem: String| format!(".{section}.columns] {name}: {problem}");
        let Some(kind) = kind else {
            let known: Vec<&str> = datasets
                .iter()
                .flat_map(|dataset| columns::of(*dataset).map(|column| column.name))
                .collect();
            return Err(at(format!("there is no such column; there are {}", known.join(", "))));
        };
        mapping.check(kind).map_err(at)?;
    }
    Ok(())
}

/// By hand, since of an untagged enum serde does not say which key is wrong.
impl<'de> Deserialize<'de> for ColumnMapping {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NameOrRule;

        impl<'de> Visitor<'de> for NameOrRule {
            type Value = ColumnMapping;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a column, or { column = \"...\", ... }")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<ColumnMapping, E> {
                Ok(ColumnMapping::Column(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, rule: A) -> Result<ColumnMapping, A::Error> {
                let rule = ColumnRule::deserialize(MapAccessDeserializer::new(rule))?;
                Ok(ColumnMapping::Rule(Box::new(rule)))
            }
        }

        from.deserialize_any(NameOrRule)
    }
}

impl ColumnMapping {
    fn check(&self, kind: Kind) -> Result<(), String> {
        let Self::Rule(rule) = self else { return Ok(()) };
        match (&rule.column, &rule.constant) {
            (Some(_), Some(_)) => return Err("has both `column` and `constant`".into()),
            (None, None) => return Err("needs `column` or `constant`".into()),
            _ => {}
        }
        let parse = Rule::new(kind, self.rule())?;
        match &rule.constant {
            Some(constant) => parse.check_constant(constant),
            None => Ok(()),
        }
    }

    /// The column that it reads, unless it is a constant.
    pub(super) fn column(&self) -> Option<&str> {
        match self {
            Self::Column(name) => Some(name),
            Self::Rule(rule) => rule.column.as_deref(),
        }
    }

    pub(super) fn rule(&self) -> Option<&ColumnRule> {
        match self {
            Self::Column(_) => None,
            Self::Rule(rule) => Some(rule),
        }
    }
}

pub(super) const fn comma() -> char {
    ','
}

const fn yes() -> bool {
    true
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's skip_serializing_if hands a reference"
)]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

fn orders_and_items() -> Vec<LinesYield> {
    vec![LinesYield::Orders, LinesYield::OrderItems]
}

fn completed() -> String {
    "completed".to_owned()
}

fn returned() -> String {
    "returned".to_owned()
}
