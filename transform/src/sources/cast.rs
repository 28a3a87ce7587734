//! A column of an export, of whatever type it came in, as a column of ours.
//! Exact or not at all: a cell that does not cast is NULL here and named in `bad`.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBuilder, Decimal128Builder, Int32Builder, Int64Builder,
    StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::compute::cast as arrow_cast;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, Float64Type, Int64Type, TimeUnit,
    TimestampMicrosecondType, UInt64Type,
};
use arrow::error::ArrowError;
use clickmill_schemas::Timestamp;
use clickmill_schemas::tables::Kind;

use super::columns::{MONEY_PRECISION, MONEY_SCALE};
use super::value::{Rule, shown};

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// What an empty text stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Empty {
    /// No value: a CSV has no other way to write it.
    IsNull,
    /// Itself.
    IsText,
}

/// A cast column.
pub(super) struct Cast {
    /// Of the target's type, as long as the input.
    pub array: ArrayRef,
    /// Rows that did not cast, ascending, each with the reason.
    pub bad: Vec<(usize, String)>,
}

/// Casts `array` to the type of `rule`'s column.
pub(super) fn cast(array: &ArrayRef, rule: &Rule, empty: Empty) -> Result<Cast, ArrowError> {
    let cells = Cells::new(array)?;
    if let Some(array) = unchanged(array, rule, empty) {
        return Ok(Cast { array, bad: Vec::new() });
    }
    let rows = array.len();
    let mut bad = Vec::new();
    // The one loop over cells; `$read` turns one into what the builder takes.
    macro_rules! build {
        ($builder:expr, $read:expr) => {{
            let mut builder = $builder;
            for row in 0..rows {
                match cells.get(row, empty) {
                    Ok(None) => builder.append_null(),
                    Ok(Some(cell)) => match $read(&cell) {
                        Ok(value) => builder.append_value(value),
                        Err(reason) => {
                            bad.push((row, reason));
                            builder.append_null();
                        }
                    },
                    Err(reason) => {
                        bad.push((row, reason));
                        builder.append_null();
                    }
                }
            }
            Arc::new(builder.finish()) as ArrayRef
        }};
    }
    let array = match rule.kind() {
        Kind::Money => build!(
            Decimal128Builder::with_capacity(rows)
                .with_precision_and_scale(MONEY_PRECISION, MONEY_SCALE)?,
            |cell: &Cell<'_>| rule
                .money(&rule.text(&cell.text()))
                .map(|money| i128::from(money.unscaled()))
        ),
        Kind::Int32 => build!(Int32Builder::with_capacity(rows), |cell: &Cell<'_>| {
            let text = cell.text();
            let text = rule.text(&text);
            rule.integer(&text).and_then(|n| {
                i32::try_from(n).map_err(|_| format!("`{}` does not fit 32 bits", shown(&text)))
            })
        }),
        Kind::Int64 => build!(Int64Builder::with_capacity(rows), |cell: &Cell<'_>| rule
            .integer(&rule.text(&cell.text()))),
        Kind::Bool => build!(BooleanBuilder::with_capacity(rows), |cell: &Cell<'_>| rule
            .boolean(&rule.text(&cell.text()))),
        Kind::Timestamp => build!(
            TimestampMicrosecondBuilder::with_capacity(rows).with_timezone("UTC"),
            |cell: &Cell<'_>| time(cell, rule).map(Timestamp::micros)
        ),
        // Sources have no column of the other kinds.
        Kind::Utf8 | Kind::Float64 | Kind::Date | Kind::Decimal(..) | Kind::Map | Kind::List(_) => {
            build!(StringBuilder::with_capacity(rows, rows * 16), |cell: &Cell<'_>| Ok::<
                String,
                String,
            >(
                rule.text(&cell.text()).into_owned()
            ))
        }
    };
    Ok(Cast { array, bad })
}

/// The input itself, where it is of the target's type and no cell can be out of it.
fn unchanged(array: &ArrayRef, rule: &Rule, empty: Empty) -> Option<ArrayRef> {
    let same = match (rule.kind(), array.data_type()) {
        (Kind::Utf8, DataType::Utf8) => rule.is_verbatim() && empty == Empty::IsText,
        (Kind::Bool, DataType::Boolean)
        | (Kind::Int64, DataType::Int64)
        | (Kind::Int32, DataType::Int32) => rule.is_verbatim(),
        _ => false,
    };
    same.then(|| Arc::clone(array))
}

fn time(cell: &Cell<'_>, rule: &Rule) -> Result<Timestamp, String> {
    match cell {
        Cell::Instant(micros) => Timestamp::from_micros(*micros)
            .map_err(|_| "a time outside the years 0001 to 9999".into()),
        Cell::Local(micros) => rule.local_time(*micros),
        other => rule.time(&rule.text(&other.text())),
    }
}

/// One value of an export.
enum Cell<'a> {
    Text(Cow<'a, str>),
    /// Microseconds since the epoch.
    Instant(i64),
    /// Microseconds since 1970-01-01 by a clock whose zone is not told.
    Local(i64),
}

impl Cell<'_> {
    fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Instant(micros) | Self::Local(micros) => match Timestamp::from_micros(*micros) {
                Ok(at) => Cow::Owned(at.to_string()),
                Err(_) => Cow::Owned(format!("{micros} µs since 1970")),
            },
        }
    }
}

/// Access to a column's cells, with Arrow's many types brought down to a few.
pub(super) struct Cells {
    /// As it came: tells NULL from a value that Arrow's cast gave up on.
    source: ArrayRef,
    array: ArrayRef,
    shape: Shape,
}

#[derive(Clone, Copy)]
enum Shape {
    Text,
    Binary,
    Bool,
    Int,
    Unsigned,
    Float,
    Decimal128,
    Decimal256,
    Date,
    Instant,
    Local,
    Null,
    Nested,
}

impl Cells {
    pub(super) fn new(array: &ArrayRef) -> Result<Self, ArrowError> {
        let source = || Arc::clone(array);
        let to = |to: &DataType, shape| {
            Ok(Self { source: source(), array: arrow_cast(array, to)?, shape })
        };
        let as_is = |shape| Ok(Self { source: source(), array: source(), shape });
        let micros = |zone: Option<Arc<str>>| DataType::Timestamp(TimeUnit::Microsecond, zone);
        match array.data_type() {
            DataType::Dictionary(_, values) => Self::new(&arrow_cast(array, values)?),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                to(&DataType::Utf8, Shape::Text)
            }
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => to(&DataType::Binary, Shape::Binary),
            DataType::Boolean => as_is(Shape::Bool),
            DataType::UInt64 => to(&DataType::UInt64, Shape::Unsigned),
            kind if kind.is_integer() => to(&DataType::Int64, Shape::Int),
            // A 32-bit float keeps its own shortest text: 0.1 stays 0.1.
            DataType::Float32 | DataType::Float16 => to(&DataType::Utf8, Shape::Text),
            DataType::Float64 => to(&DataType::Float64, Shape::Float),
            DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => {
                to(&DataType::Decimal128(*p, *s), Shape::Decimal128)
            }
            DataType::Decimal128(..) => as_is(Shape::Decimal128),
            DataType::Decimal256(..) => as_is(Shape::Decimal256),
            DataType::Date32 | DataType::Date64 => to(&DataType::Date32, Shape::Date),
            DataType::Timestamp(_, Some(_)) => to(&micros(Some("UTC".into())), Shape::Instant),
            DataType::Timestamp(_, None) => to(&micros(None), Shape::Local),
            DataType::Null => as_is(Shape::Null),
            _ => as_is(Shape::Nested),
        }
    }

    fn get(&self, row: usize, empty: Empty) -> Result<Option<Cell<'_>>, String> {
        if matches!(self.shape, Shape::Null) || self.source.is_null(row) {
            return Ok(None);
        }
        if self.array.is_null(row) {
            return Err(format!("a {} out of range", self.source.data_type()));
        }
        let array = &self.array;
        let owned = |text: String| Cell::Text(Cow::Owned(text));
        let cell = match self.shape {
            Shape::Text => Cell::Text(Cow::Borrowed(array.as_string::<i32>().value(row))),
            Shape::Binary => match std::str::from_utf8(array.as_binary::<i32>().value(row)) {
                Ok(text) => Cell::Text(Cow::Borrowed(text)),
                Err(_) => return Err("the bytes are not UTF-8".to_owned()),
            },
            Shape::Bool => owned(array.as_boolean().value(row).to_string()),
            Shape::Int => owned(array.as_primitive::<Int64Type>().value(row).to_string()),
            Shape::Unsigned => owned(array.as_primitive::<UInt64Type>().value(row).to_string()),
            // The shortest text that reads back as the same float.
            Shape::Float => owned(array.as_primitive::<Float64Type>().value(row).to_string()),
            Shape::Decimal128 => owned(array.as_primitive::<Decimal128Type>().value_as_string(row)),
            Shape::Decimal256 => owned(array.as_primitive::<Decimal256Type>().value_as_string(row)),
            Shape::Date => {
                let days = array.as_primitive::<Date32Type>().value(row);
                Cell::Local(i64::from(days) * MICROS_PER_DAY)
            }
            Shape::Instant => {
                Cell::Instant(array.as_primitive::<TimestampMicrosecondType>().value(row))
            }
            Shape::Local => {
                Cell::Local(array.as_primitive::<TimestampMicrosecondType>().value(row))
            }
            Shape::Null => return Ok(None),
            Shape::Nested => {
                return Err(format!("a value of type {} has no place here", array.data_type()));
            }
        };
        if empty == Empty::IsNull
            && let Cell::Text(text) = &cell
            && text.trim().is_empty()
        {
            return Ok(None);
        }
        Ok(Some(cell))
    }

    /// The cell's text, for a reject's bytes; `None` where it is NULL or has no text.
    pub(super) fn display(&self, row: usize) -> Option<String> {
        let cell = self.get(row, Empty::IsText).ok()??;
        Some(cell.text().into_owned())
    }
}
