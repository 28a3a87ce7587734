//! `[columns]`: columns of the shop's own in `events`, taken from the JSON that came with them.
//!
//! ```toml
//! [columns]
//! plan = "properties.plan:Utf8"
//! seats = "properties.team.seats:Int64"
//! ```
//!
//! A value is what `properties->>'plan'` says, cast to its type. One that does not fit is
//! NULL, counted, and still in `properties`. Events that are taken in get the columns as they
//! are configured by then; those of before keep what they have until a backfill
//! ([`crate::backfill`]). A column that is no longer configured stays, NULL in new rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array as _, ArrayRef, AsArray, RecordBatch, StringArray, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema};
use clickmill_lake::Lake;
use clickmill_lake::schema::{arrow_schema, data_type};
use clickmill_lake::table::{columns_in_log, with_columns};
use clickmill_schemas::tables::{EVENTS, Kind, TableSpec};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs};
use datafusion_functions_json::udfs::json_as_text_udf;
use serde::{Deserialize, Deserializer, Serialize};

use crate::TransformError;
use crate::decode::columns::{OLD_COLUMN, ROW_COLUMN};
use crate::sources::{Notice, Severity};

/// Columns of JSON text that a column may be taken from.
const JSON_SOURCES: &[&str] = &["properties", "context", "consent"];
/// A map that a column may be taken from: the page's query parameters.
const MAP_SOURCE: &str = "page_query";
/// Types that a column may have, as Arrow names them.
const TYPES: &str =
    "Utf8, Boolean, Int32, Int64, Float64, Date32, Timestamp, Decimal(digits, scale)";
/// Digits of a decimal at most.
const MAX_DIGITS: u8 = 38;
/// Bytes of a column's name at most: what the engines that read the lake take.
const MAX_NAME_BYTES: usize = 128;

/// The shop's own columns of `events`, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct OwnColumns(BTreeMap<String, OwnColumn>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct OwnColumn {
    /// As it is written in the configuration.
    text: String,
    /// A column of `events`.
    source: &'static str,
    path: Vec<Step>,
    data_type: DataType,
}

/// One step into JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    /// Of an array, from 0.
    Index(i64),
}

impl TryFrom<BTreeMap<String, String>> for OwnColumns {
    type Error = String;

    fn try_from(columns: BTreeMap<String, String>) -> Result<Self, String> {
        let read = columns.into_iter().map(|(name, text)| {
            let wrong = |problem| format!("[columns] {name} = {text:?}: {problem}");
            check_name(&name).map_err(wrong)?;
            let column = OwnColumn::parse(&text).map_err(wrong)?;
            Ok((name, column))
        });
        read.collect::<Result<_, String>>().map(Self)
    }
}

/// `deserialize_with` for those of a batch that was written down: a column that `events` has got
/// of its own since, by another build, is that one now.
pub(crate) fn stored<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OwnColumns, D::Error> {
    let mut columns = BTreeMap::<String, String>::deserialize(deserializer)?;
    columns.retain(|name, _| EVENTS.columns.iter().all(|column| column.name != name));
    OwnColumns::try_from(columns).map_err(serde::de::Error::custom)
}

impl From<OwnColumns> for BTreeMap<String, String> {
    fn from(columns: OwnColumns) -> Self {
        columns.0.into_iter().map(|(name, column)| (name, column.text)).collect()
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let starts_well = name.starts_with(|first: char| first.is_ascii_lowercase());
    if !starts_well || !name.bytes().all(is_plain) || name.len() > MAX_NAME_BYTES {
        return Err("a column's name is made of a-z, 0-9 and _, and begins with a letter".into());
    }
    let is_taken = EVENTS.columns.iter().any(|column| column.name == name);
    if is_taken || [ROW_COLUMN, OLD_COLUMN].contains(&name) {
        return Err("`events` has a column of that name: take another one".into());
    }
    Ok(())
}

impl OwnColumn {
    /// `properties.team.seats:Int64`, `properties."a.b":Utf8`, `properties.tags.0:Utf8`.
    fn parse(text: &str) -> Result<Self, String> {
        let form = || "it is written SOURCE.PATH:TYPE, as in \"properties.plan:Utf8\"".to_owned();
        let (place, kind) = text.rsplit_once(':').ok_or_else(form)?;
        let (source, rest) = place.trim().split_once('.').ok_or_else(form)?;
        let known = JSON_SOURCES.iter().chain([&MAP_SOURCE]).find(|known| **known == source);
        let source = *known.ok_or_else(|| {
            let known = JSON_SOURCES.join(", ");
            format!("`{source}` is nothing to take it from: {known} and {MAP_SOURCE} are")
        })?;
        let path = match source {
            // Parameters are flat, and their names may have dots.
            MAP_SOURCE => vec![Step::Key(rest.trim_matches('"').to_owned())],
            _ => parse_path(rest).ok_or_else(form)?,
        };
        Ok(Self { text: text.to_owned(), source, path, data_type: data_type(parse_kind(kind)?) })
    }
}

fn parse_path(mut rest: &str) -> Option<Vec<Step>> {
    let mut path = Vec::new();
    loop {
        let (key, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (key, after) = quoted.split_once('"')?;
                path.push(Step::Key(key.to_owned()));
                (key, after)
            }
            None => {
                let (key, after) = rest.split_at(rest.find('.').unwrap_or(rest.len()));
                path.push(key.parse().map_or_else(|_| Step::Key(key.to_owned()), Step::Index));
                (key, after)
            }
        };
        if key.is_empty() {
            return None;
        }
        if after.is_empty() {
            return Some(path);
        }
        rest = after.strip_prefix('.')?;
    }
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    let text = text.trim().to_ascii_lowercase();
    let unknown = || format!("`{text}` is no type of a column: {TYPES} are");
    Ok(match text.as_str() {
        "utf8" => Kind::Utf8,
        "boolean" => Kind::Bool,
        "int32" => Kind::Int32,
        "int64" => Kind::Int64,
        "float64" => Kind::Float64,
        "date32" => Kind::Date,
        "timestamp" => Kind::Timestamp,
        other => {
            let inside = other.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')'));
            let (digits, scale) =
                inside.and_then(|text| text.split_once(',')).ok_or_else(unknown)?;
            let digits: u8 = digits.trim().parse().map_err(|_| unknown())?;
            let scale: i8 = scale.trim().parse().map_err(|_| unknown())?;
            let fits = (1..=MAX_DIGITS).contains(&digits) && (0..=digits as i8).contains(&scale);
            match (digits, scale) {
                _ if !fits => return Err(format!("a decimal has 1 to {MAX_DIGITS} digits")),
                (18, 4) => Kind::Money,
                _ => Kind::Decimal(digits, scale),
            }
        }
    })
}

impl OwnColumns {
    /// True without any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What to say where events of before were taken in with other columns.
    pub(crate) fn unlike(&self, before: &Self) -> Option<Notice> {
        let is_new = |(name, column): &(&String, &OwnColumn)| before.0.get(*name) != Some(*column);
        let names: Vec<&str> =
            self.0.iter().filter(is_new).map(|(name, _)| name.as_str()).collect();
        (!names.is_empty()).then(|| Notice {
            source: EVENTS.name.to_owned(),
            subject: format!("[columns] {}", names.join(", ")),
            severity: Severity::Remark,
            problem: "new, or taken from elsewhere now: events of before stay as they are"
                .to_owned(),
            advice: "`clickmill etl backfill` gives them their values".to_owned(),
        })
    }

    /// The table `events` as it is in the lake, and with these columns.
    ///
    /// # Errors
    /// [`TransformError::UnfitColumn`] where it has one of them with another type,
    /// [`TransformError::Lake`].
    pub(crate) async fn events(&self, lake: &Lake) -> Result<&'static TableSpec, TransformError> {
        let held = columns_in_log(lake, EVENTS.name).await?;
        let held = held.as_deref().map_or(&EVENTS, |held| with_columns(&EVENTS, held));
        let wanted: Vec<Field> = self
            .0
            .iter()
            .map(|(name, column)| Field::new(name, column.data_type.clone(), true))
            .collect();
        for field in arrow_schema(held).fields() {
            if let Some(column) = self.0.get(field.name())
                && column.data_type != *field.data_type()
            {
                return Err(TransformError::UnfitColumn {
                    name: field.name().clone(),
                    held: field.data_type().to_string(),
                    wanted: column.data_type.to_string(),
                });
            }
        }
        Ok(with_columns(held, &Schema::new(wanted)))
    }
}

/// Takes the values of own columns out of rows.
pub(crate) struct Filler {
    spec: &'static TableSpec,
    columns: Vec<(OwnColumn, &'static str, AtomicU64)>,
}

impl Filler {
    /// For rows of `spec`, which has the columns ([`OwnColumns::events`]).
    pub(crate) fn new(own: &OwnColumns, spec: &'static TableSpec) -> Self {
        let columns = spec.columns.iter().filter_map(|column| {
            Some((own.0.get(column.name)?.clone(), column.name, AtomicU64::new(0)))
        });
        Self { spec, columns: columns.collect() }
    }

    /// What the rows are rows of.
    pub(crate) fn spec(&self) -> &'static TableSpec {
        self.spec
    }

    /// The columns of `events` that values are taken from, and the own ones.
    pub(crate) fn needs(&self) -> Vec<&'static str> {
        let sources = self.columns.iter().map(|(column, ..)| column.source);
        let own = self.columns.iter().map(|(_, name, _)| *name);
        sources.chain(own).collect()
    }

    /// The values of each own column for these rows.
    pub(crate) fn values(
        &self,
        rows: &RecordBatch,
    ) -> Result<BTreeMap<&'static str, ArrayRef>, TransformError> {
        let mut values = BTreeMap::new();
        for (column, name, misfits) in &self.columns {
            let (array, misfit) = column.values(rows)?;
            misfits.fetch_add(misfit as u64, Ordering::Relaxed);
            values.insert(*name, array);
        }
        Ok(values)
    }

    /// The rows with all columns of the table: those that `rows` has, own ones computed, and
    /// NULL in the rest.
    pub(crate) fn fill(&self, rows: &RecordBatch) -> Result<RecordBatch, TransformError> {
        let schema = arrow_schema(self.spec);
        let mut own = self.values(rows)?;
        let column = |field: &Arc<Field>| match own.remove(field.name().as_str()) {
            Some(values) => values,
            None => match rows.column_by_name(field.name()) {
                Some(held) => Arc::clone(held),
                None => new_null_array(field.data_type(), rows.num_rows()),
            },
        };
        let columns = schema.fields().iter().map(column).collect();
        Ok(RecordBatch::try_new(schema, columns)?)
    }

    /// Values that did not fit their column.
    pub(crate) fn notices(&self) -> Vec<Notice> {
        let misfits = self
            .columns
            .iter()
            .map(|(column, name, misfits)| (column, *name, misfits.load(Ordering::Relaxed)));
        misfits
            .filter(|(.., misfits)| *misfits > 0)
            .map(|(column, name, misfits)| Notice {
                source: EVENTS.name.to_owned(),
                subject: format!("[columns] {name}"),
                severity: Severity::Problem,
                problem: format!(
                    "values that are no {}: {misfits}; they are NULL there, and still in {}",
                    column.data_type, column.source
                ),
                advice: format!(
                    "give {name} another type under another name, or correct what is sent"
                ),
            })
            .collect()
    }
}

impl OwnColumn {
    /// Its values, and how many of them did not fit.
    fn values(&self, rows: &RecordBatch) -> Result<(ArrayRef, usize), TransformError> {
        let source = rows.column(rows.schema().index_of(self.source)?);
        let text = match (self.source, self.path.first()) {
            (MAP_SOURCE, Some(Step::Key(key))) => Arc::new(of_map(source, key)) as ArrayRef,
            _ => self.of_json(source).map_err(TransformError::job("ingest"))?,
        };
        let options = CastOptions { safe: true, ..CastOptions::default() };
        let values = cast_with_options(&text, &self.data_type, &options)?;
        let misfits = values.null_count() - text.null_count();
        Ok((values, misfits))
    }

    /// As `source->>'key'` in SQL.
    fn of_json(&self, source: &ArrayRef) -> Result<ArrayRef, DataFusionError> {
        let path = self.path.iter().map(|step| {
            ColumnarValue::Scalar(match step {
                Step::Key(key) => ScalarValue::Utf8(Some(key.clone())),
                Step::Index(at) => ScalarValue::Int64(Some(*at)),
            })
        });
        let args: Vec<ColumnarValue> =
            std::iter::once(ColumnarValue::Array(Arc::clone(source))).chain(path).collect();
        let field = |value: &ColumnarValue| Arc::new(Field::new("", value.data_type(), true));
        json_as_text_udf()
            .invoke_with_args(ScalarFunctionArgs {
                arg_fields: args.iter().map(field).collect(),
                args,
                number_rows: source.len(),
                return_field: Arc::new(Field::new("", DataType::Utf8, true)),
                config_options: Arc::new(ConfigOptions::default()),
            })?
            .into_array(source.len())
    }
}

/// What a map has under a key: the last one, where a key is there twice.
fn of_map(source: &ArrayRef, key: &str) -> StringArray {
    let maps = source.as_map();
    let (keys, values) = (maps.keys().as_string::<i32>(), maps.values().as_string::<i32>());
    let offsets = maps.value_offsets();
    let of_row = |row: usize| {
        let (from, to) = (offsets[row] as usize, offsets[row + 1] as usize);
        let at = (from..to).rev().find(|at| keys.value(*at) == key)?;
        (maps.is_valid(row) && values.is_valid(at)).then(|| values.value(at))
    };
    (0..maps.len()).map(of_row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<OwnColumns, String> {
        OwnColumns::try_from(BTreeMap::from([(name.to_owned(), text.to_owned())]))
    }

    #[test]
    fn what_is_wrong_with_a_column_is_said() {
        for (name, text, said) in [
            ("plan", "properties.plan", "SOURCE.PATH:TYPE"),
            ("plan", "properties:Utf8", "SOURCE.PATH:TYPE"),
            ("plan", "properties.a..b:Utf8", "SOURCE.PATH:TYPE"),
            ("plan", "properties.\"a:Utf8", "SOURCE.PATH:TYPE"),
            ("plan", "items.sku:Utf8", "`items` is nothing to take it from"),
            ("plan", "properties.plan:varchar", "`varchar` is no type"),
            ("plan", "properties.plan:Decimal(39, 2)", "1 to 38 digits"),
            ("plan", "properties.plan:Decimal(4, 5)", "1 to 38 digits"),
            ("revenue", "properties.r:Utf8", "has a column of that name"),
            ("Plan", "properties.plan:Utf8", "made of a-z"),
            ("1st", "properties.plan:Utf8", "begins with a letter"),
        ] {
            let error = read(name, text).expect_err(text);
            assert!(error.contains(said) && error.contains("[columns] "), "{text}: {error}");
        }
    }

    #[test]
    fn paths_lead_into_objects_arrays_and_keys_with_dots() {
        let rows = RecordBatch::try_from_iter([(
            "properties",
            Arc::new(StringArray::from(vec![
                Some(r#"{"plan":"pro","team":{"seats":7},"tags":["a","b"],"a.b":true}"#),
                Some(r#"{"plan":3,"team":{"seats":"many"},"tags":[],"a.b":null}"#),
                Some("{not json"),
                None,
            ])) as ArrayRef,
        )])
        .expect("rows");
        let of = |text: &str| {
            let column = OwnColumn::parse(text).expect(text);
            let (values, misfits) = column.values(&rows).expect(text);
            let shown = arrow::util::display::ArrayFormatter::try_new(&values, &Default::default());
            let shown = shown.expect("shown");
            let rows = (0..4).map(|at| shown.value(at).to_string()).collect::<Vec<_>>();
            (rows.join("|"), misfits)
        };
        assert_eq!(of("properties.plan:Utf8"), ("pro|3||".into(), 0));
        assert_eq!(of("properties.plan:int64"), ("|3||".into(), 1));
        assert_eq!(of("properties.team.seats:Int32"), ("7|||".into(), 1));
        assert_eq!(of("properties.team.seats:Decimal(10, 2)"), ("7.00|||".into(), 1));
        assert_eq!(of("properties.tags.1:Utf8"), ("b|||".into(), 0));
        assert_eq!(of("properties.\"a.b\":Boolean"), ("true|||".into(), 0));
        assert_eq!(of("properties.team:Utf8"), ("{\"seats\":7}|{\"seats\":\"many\"}||".into(), 0));
    }
}
