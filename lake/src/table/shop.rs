//! Tables and columns that a shop decides: those of its own SQL, and those that it adds to ours.
//!
//! Everything that reads and writes tables takes a [`TableSpec`] that lives as long as the
//! process. Those of the shop are made once for each set of columns and kept: there are as many
//! as it has jobs, and a few more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use clickmill_schemas::tables::{Column, Kind, PARTITION_COLUMN, TableSpec};
use deltalake_core::kernel::engine::arrow_conversion::TryIntoArrow as _;
use deltalake_core::table::state::DeltaTableState;
use deltalake_core::{DeltaTable, DeltaTableError};

use super::log_store;
use crate::{Lake, LakeError, schema};

/// Columns with statistics in the log, at most.
const MAX_STATS_COLUMNS: usize = 8;

static KNOWN: Mutex<Option<HashMap<String, &'static TableSpec>>> = Mutex::new(None);

/// The specification of a table with these columns. With a column `dt` it is partitioned by it.
///
/// # Errors
/// What is wrong with a column, for the user's eyes.
pub fn spec_of(name: &str, columns: &Schema, key: &[String]) -> Result<&'static TableSpec, String> {
    let (mut kept, day): (Vec<_>, Vec<_>) =
        columns.fields().iter().partition(|field| field.name() != PARTITION_COLUMN);
    let is_partitioned = !day.is_empty();
    kept.extend(day);
    let mut described = Vec::new();
    for field in &kept {
        let kind = kind_of(field)?;
        described.push((field.name().clone(), kind, field.name() != PARTITION_COLUMN));
    }
    if let Some(missing) = key.iter().find(|key| kept.iter().all(|field| field.name() != *key)) {
        return Err(format!("the key has `{missing}`, which the query does not give"));
    }
    let identity = format!("{name} {described:?} {key:?}");
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if let Some(spec) = known.get(&identity) {
        return Ok(spec);
    }
    let names = |names: Vec<String>| -> &'static [&'static str] {
        names.into_iter().map(leaked).collect::<Vec<_>>().leak()
    };
    let first = described.first().map(|(name, ..)| name.clone());
    let sort: Vec<String> = match key.is_empty() {
        true => first.into_iter().filter(|name| name != PARTITION_COLUMN).collect(),
        false => key.iter().filter(|name| *name != PARTITION_COLUMN).cloned().collect(),
    };
    let has_stats = |kind: &Kind| matches!(kind, Kind::Utf8 | Kind::Timestamp);
    let stats = described.iter().filter(|(_, kind, _)| has_stats(kind));
    let stats = stats.map(|(name, ..)| name.clone()).take(MAX_STATS_COLUMNS).collect();
    let columns = described.into_iter().map(|(name, kind, nullable)| Column {
        name: leaked(name),
        kind,
        nullable,
        doc: "",
    });
    let spec: &'static TableSpec = Box::leak(Box::new(TableSpec {
        name: leaked(name.to_owned()),
        grain: "a row of a job of the shop",
        doc: "",
        key: names(key.to_vec()),
        sort: names(sort),
        stats: names(stats),
        partitioned: is_partitioned,
        columns: columns.collect::<Vec<_>>().leak(),
    }));
    known.insert(identity, spec);
    Ok(spec)
}

fn leaked(text: String) -> &'static str {
    text.leak()
}

fn kind_of(field: &Field) -> Result<Kind, String> {
    Ok(match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Kind::Utf8,
        DataType::Boolean => Kind::Bool,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => {
            Kind::Int32
        }
        DataType::Int64 | DataType::UInt32 => Kind::Int64,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => Kind::Float64,
        DataType::Date32 => Kind::Date,
        DataType::Timestamp(
            TimeUnit::Second | TimeUnit::Millisecond | TimeUnit::Microsecond,
            _,
        ) => Kind::Timestamp,
        DataType::Decimal128(18, 4) => Kind::Money,
        DataType::Decimal32(digits, scale)
        | DataType::Decimal64(digits, scale)
        | DataType::Decimal128(digits, scale)
            if *scale >= 0 =>
        {
            Kind::Decimal(*digits, *scale)
        }
        DataType::Union(..) => {
            return Err(format!(
                "the column `{}` is JSON of no one type: take its text with ->>, or CAST it",
                field.name()
            ));
        }
        other => {
            return Err(format!(
                "the column `{}` is of type {other}, which not every engine reads: CAST it",
                field.name()
            ));
        }
    })
}

/// The specification with those of `columns` that it lacks, before its partition column: NULL in
/// rows of before. What not every engine reads is left out.
#[must_use]
pub fn with_columns(spec: &'static TableSpec, columns: &Schema) -> &'static TableSpec {
    let lacks = |name: &str| spec.columns.iter().all(|column| column.name != name);
    let added = columns.fields().iter().filter(|field| lacks(field.name()));
    let added: Vec<(&String, Kind)> =
        added.filter_map(|field| Some((field.name(), kind_of(field).ok()?))).collect();
    if added.is_empty() {
        return spec;
    }
    let held = spec.columns.iter().map(|column| column.name).collect::<Vec<_>>();
    let identity = format!("{} {held:?} and {added:?}", spec.name);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    known.entry(identity).or_insert_with(|| {
        let (mut columns, day): (Vec<Column>, Vec<Column>) =
            spec.columns.iter().partition(|column| column.name != PARTITION_COLUMN);
        columns.extend(added.into_iter().map(|(name, kind)| Column {
            name: leaked(name.clone()),
            kind,
            nullable: true,
            doc: "",
        }));
        columns.extend(day);
        Box::leak(Box::new(TableSpec { columns: columns.leak(), ..*spec }))
    })
}

/// The columns of a table in the lake, its partition column last; `None` where it is not there.
///
/// # Errors
/// [`LakeError::Table`] where its log cannot be read.
pub async fn columns_in_log(
    lake: &Lake,
    name: &'static str,
) -> Result<Option<SchemaRef>, LakeError> {
    let fail = |source| LakeError::table(name, "open", source);
    let log = log_store(lake, name)?;
    if !log.is_delta_table_location().await.map_err(fail)? {
        return Ok(None);
    }
    let mut table = DeltaTable::new(log);
    table.load().await.map_err(fail)?;
    let state = table.snapshot().map_err(fail)?;
    Ok(Some(Arc::new(columns_of(state).map_err(fail)?)))
}

/// The columns that a version of a log names.
pub(super) fn columns_of(state: &DeltaTableState) -> Result<Schema, DeltaTableError> {
    let columns = state.schema();
    columns.as_ref().try_into_arrow().map_err(|source| DeltaTableError::Arrow { source })
}

/// The specification of a shop's table as it stands in the lake; `None` where it is not there.
///
/// # Errors
/// [`LakeError::Table`] where its log cannot be read, or has columns that none of ours has.
pub async fn spec_in_log(lake: &Lake, name: &str) -> Result<Option<&'static TableSpec>, LakeError> {
    let known = spec_of(name, &Schema::empty(), &[]).map(|spec| spec.name).unwrap_or_default();
    let Some(columns) = columns_in_log(lake, known).await? else { return Ok(None) };
    let spec = spec_of(name, &columns, &[]);
    let unfit = |problem| LakeError::table(known, "open", DeltaTableError::Generic(problem));
    spec.map(Some).map_err(unfit)
}

/// True where both have the same columns, whatever their order and whether they may be NULL.
#[must_use]
pub fn has_columns_of(spec: &TableSpec, columns: &Schema) -> bool {
    let of = |schema: &Schema| {
        let pairs = schema.fields().iter().map(|f| (f.name().clone(), f.data_type().clone()));
        pairs.collect::<HashMap<_, _>>()
    };
    of(&schema::arrow_schema(spec)) == of(columns)
}
