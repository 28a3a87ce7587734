//! Arrow columns that are filled value by value, in the order of a schema.
//!
//! The types are those that tables have ([`crate::schema::data_type`]).

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    ArrayBuilder, ArrayRef, BooleanBuilder, Date32Builder, Decimal128Builder, Int32Builder,
    Int64Builder, ListBuilder, MapBuilder, MapFieldNames, RecordBatch, StringBuilder,
    StructBuilder, TimestampMicrosecondBuilder, new_null_array,
};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::error::ArrowError;
use clickmill_schemas::{Item, Money, Timestamp};

use crate::schema::MONEY;

/// Builds batches of a schema: [`Columns::begin_row`], then one call for each
/// column, in order. [`Columns::finish`] fails where a column was left out. Builders
/// take memory for what is in them only: many can be open at once.
pub struct Columns {
    schema: SchemaRef,
    columns: Vec<Column>,
    at: usize,
    rows: usize,
}

/// A builder for each type that tables have.
enum Column {
    Text(StringBuilder),
    Bool(BooleanBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Money(Decimal128Builder),
    Instant(TimestampMicrosecondBuilder),
    Date(Date32Builder),
    Map(MapBuilder<StringBuilder, StringBuilder>),
    Items(ListBuilder<StructBuilder>),
    /// Filled in later, by somebody else: NULL here.
    Null(DataType),
}

impl Columns {
    /// Empty builders. Columns of the names in `null` stay NULL: [`Columns::skip`] them.
    #[must_use]
    pub fn new(schema: SchemaRef, null: &[&str]) -> Self {
        let columns = schema.fields().iter().map(|field| {
            if null.contains(&field.name().as_str()) {
                return Column::Null(field.data_type().clone());
            }
            Column::new(field)
        });
        Self { columns: columns.collect(), schema, at: 0, rows: 0 }
    }

    /// Rows since the last [`Columns::finish`].
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The next value is the first of a new row.
    pub fn begin_row(&mut self) {
        self.at = 0;
        self.rows += 1;
    }

    /// The rows so far as a batch; the builders are empty again.
    ///
    /// # Errors
    /// [`ArrowError`] where the values and the schema disagree about the columns.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        let rows = std::mem::take(&mut self.rows);
        let columns = self.columns.iter_mut().map(|column| column.finish(rows)).collect();
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }

    fn next(&mut self) -> &mut Column {
        let at = self.at;
        self.at += 1;
        &mut self.columns[at]
    }

    /// A text.
    pub fn text(&mut self, value: Option<&str>) {
        if let Column::Text(builder) = self.next() {
            builder.append_option(value);
        }
    }

    /// True or false.
    pub fn bool(&mut self, value: bool) {
        if let Column::Bool(builder) = self.next() {
            builder.append_value(value);
        }
    }

    /// A small number.
    pub fn int32(&mut self, value: Option<i32>) {
        if let Column::Int32(builder) = self.next() {
            builder.append_option(value);
        }
    }

    /// A number.
    pub fn int64(&mut self, value: Option<i64>) {
        if let Column::Int64(builder) = self.next() {
            builder.append_option(value);
        }
    }

    /// An amount.
    pub fn money(&mut self, value: Option<Money>) {
        if let Column::Money(builder) = self.next() {
            builder.append_option(value.map(|money| i128::from(money.unscaled())));
        }
    }

    /// A time.
    pub fn instant(&mut self, value: Option<Timestamp>) {
        if let Column::Instant(builder) = self.next() {
            builder.append_option(value.map(Timestamp::micros));
        }
    }

    /// The UTC date of a time.
    pub fn date(&mut self, value: Timestamp) {
        if let Column::Date(builder) = self.next() {
            builder.append_value(value.date().days());
        }
    }

    /// A column that stays NULL in every row.
    pub fn skip(&mut self) {
        self.next();
    }

    /// No value, whatever the column's type.
    pub fn null(&mut self) {
        match self.next() {
            Column::Text(builder) => builder.append_null(),
            Column::Bool(builder) => builder.append_null(),
            Column::Int32(builder) => builder.append_null(),
            Column::Int64(builder) => builder.append_null(),
            Column::Money(builder) => builder.append_null(),
            Column::Instant(builder) => builder.append_null(),
            Column::Date(builder) => builder.append_null(),
            // Nothing was appended to its keys and values: it cannot fail.
            Column::Map(builder) => drop(builder.append(false)),
            Column::Items(builder) => builder.append_null(),
            Column::Null(_) => {}
        }
    }

    /// Names and values; NULL where there are none.
    pub fn map(&mut self, pairs: &[(Cow<'_, str>, Cow<'_, str>)]) {
        if let Column::Map(builder) = self.next() {
            for (key, value) in pairs {
                builder.keys().append_value(key);
                builder.values().append_value(value);
            }
            // Keys and values were appended in pairs: it cannot fail.
            let _ = builder.append(!pairs.is_empty());
        }
    }

    /// Products; NULL where there are none.
    pub fn items(&mut self, items: &[Item<'_>]) {
        if let Column::Items(builder) = self.next() {
            for item in items {
                append_item(builder.values(), item);
            }
            builder.append(!items.is_empty());
        }
    }
}

impl Column {
    fn new(field: &Field) -> Self {
        match field.data_type() {
            DataType::Utf8 => Self::Text(StringBuilder::with_capacity(0, 0)),
            DataType::Boolean => Self::Bool(BooleanBuilder::with_capacity(0)),
            DataType::Int32 => Self::Int32(Int32Builder::with_capacity(0)),
            DataType::Int64 => Self::Int64(Int64Builder::with_capacity(0)),
            DataType::Decimal128(..) => Self::Money(money_builder()),
            DataType::Timestamp(..) => {
                Self::Instant(TimestampMicrosecondBuilder::with_capacity(0).with_timezone("UTC"))
            }
            DataType::Date32 => Self::Date(Date32Builder::with_capacity(0)),
            DataType::Map(..) => {
                let names = MapFieldNames {
                    entry: "key_value".to_owned(),
                    key: "key".to_owned(),
                    value: "value".to_owned(),
                };
                Self::Map(MapBuilder::new(
                    Some(names),
                    StringBuilder::with_capacity(0, 0),
                    StringBuilder::with_capacity(0, 0),
                ))
            }
            DataType::List(element) => {
                let DataType::Struct(fields) = element.data_type() else {
                    return Self::Null(field.data_type().clone());
                };
                let builders = fields.iter().map(|field| item_builder(field.data_type())).collect();
                let structs = StructBuilder::new(fields.clone(), builders);
                Self::Items(ListBuilder::new(structs).with_field(Arc::clone(element)))
            }
            other => Self::Null(other.clone()),
        }
    }

    fn finish(&mut self, rows: usize) -> ArrayRef {
        match self {
            Self::Text(builder) => Arc::new(builder.finish()),
            Self::Bool(builder) => Arc::new(builder.finish()),
            Self::Int32(builder) => Arc::new(builder.finish()),
            Self::Int64(builder) => Arc::new(builder.finish()),
            Self::Money(builder) => Arc::new(builder.finish()),
            Self::Instant(builder) => Arc::new(builder.finish()),
            Self::Date(builder) => Arc::new(builder.finish()),
            Self::Map(builder) => Arc::new(builder.finish()),
            Self::Items(builder) => Arc::new(builder.finish()),
            Self::Null(data_type) => new_null_array(data_type, rows),
        }
    }
}

fn money_builder() -> Decimal128Builder {
    Decimal128Builder::with_capacity(0).with_data_type(MONEY)
}

fn item_builder(data_type: &DataType) -> Box<dyn ArrayBuilder> {
    match data_type {
        DataType::Int32 => Box::new(Int32Builder::with_capacity(0)),
        DataType::Int64 => Box::new(Int64Builder::with_capacity(0)),
        DataType::Decimal128(..) => Box::new(money_builder()),
        _ => Box::new(StringBuilder::with_capacity(0, 0)),
    }
}

/// In the order of the struct in the `events` table.
fn append_item(builder: &mut StructBuilder, item: &Item<'_>) {
    let texts = [
        (0, &item.product_id),
        (1, &item.sku),
        (2, &item.name),
        (3, &item.brand),
        (4, &item.category),
        (5, &item.variant),
        (8, &item.coupon),
    ];
    for (at, text) in texts {
        if let Some(field) = builder.field_builder::<StringBuilder>(at) {
            field.append_option(text.as_deref());
        }
    }
    if let Some(field) = builder.field_builder::<Decimal128Builder>(6) {
        field.append_option(item.price.map(|price| i128::from(price.unscaled())));
    }
    if let Some(field) = builder.field_builder::<Int64Builder>(7) {
        field.append_option(item.quantity);
    }
    if let Some(field) = builder.field_builder::<Int32Builder>(9) {
        field.append_option(item.position);
    }
    builder.append(true);
}
