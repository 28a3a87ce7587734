//! Lines of events as columns, and back: the Parquet form of the raw zone.
//!
//! # The schema
//! One column for each key of the wire ([`EVENT_KEYS`]), in that order, named as the
//! key and of the type that the column has in the table `events`; and [`OTHER`], JSON
//! text. All are optional.
//!
//! # Guarantees
//! Nothing of a line is lost: `properties`, `context` and `consent` are kept verbatim,
//! numbers with their digits; keys that have no column stand in `other`, as one
//! object; a line that is no event stands there as it is, and `event_id` is NULL. What is
//! read back is the same event with the same other keys. The order of keys, the form of
//! escapes and NULL against an absent key are not kept: they mean the same.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, Decimal128Array, Int32Array, Int64Array, ListArray,
    RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use clickmill_schemas::tables::{EVENTS, Kind};
use clickmill_schemas::{
    EVENT_KEYS, Event, EventTime, Item, Money, RawJson, TimeReason, Timestamp, WholeEvent,
};

use crate::columns::Columns;
use crate::schema::data_type;

/// The column of what has no column of its own.
pub const OTHER: &str = "other";

/// The columns of an object of events.
pub static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let of_key = |key: &&str| {
        let column = EVENTS.columns.iter().find(|column| column.name == *key);
        // A test holds that every key is a column.
        Field::new(*key, data_type(column.map_or(Kind::Utf8, |column| column.kind)), true)
    };
    let mut fields: Vec<Field> = EVENT_KEYS.iter().map(of_key).collect();
    fields.push(Field::new(OTHER, DataType::Utf8, true));
    Arc::new(Schema::new(fields))
});

/// Rows in the making.
pub(super) struct RowBuilder(Columns);

impl RowBuilder {
    pub fn new() -> Self {
        Self(Columns::new(Arc::clone(&SCHEMA), &[]))
    }

    /// Rows since the last [`RowBuilder::finish`].
    pub fn rows(&self) -> usize {
        self.0.rows()
    }

    /// A row of a line, whatever it is.
    pub fn line(&mut self, line: &[u8]) {
        match WholeEvent::decode(line) {
            Ok(whole) => self.event(&whole),
            Err(_) => {
                self.0.begin_row();
                EVENT_KEYS.iter().for_each(|_| self.0.null());
                self.0.text(Some(&String::from_utf8_lossy(line)));
            }
        }
    }

    /// A row of an event.
    pub fn event(&mut self, whole: &WholeEvent<'_>) {
        append(&mut self.0, &whole.event);
        self.0.text(whole.other.as_ref().map(RawJson::get));
    }

    /// The rows so far.
    ///
    /// # Errors
    /// [`ArrowError`] where this module and the schema disagree.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        self.0.finish()
    }
}

/// In the order of [`EVENT_KEYS`].
fn append(columns: &mut Columns, event: &Event<'_>) {
    columns.begin_row();
    columns.text(Some(&event.event_id));
    columns.text(Some(&event.event_name));
    columns.text(Some(&event.source_protocol));
    columns.text(event.source_event_name.as_deref());
    columns.text(Some(&event.app_id));
    columns.text(event.platform.as_deref());
    columns.instant(Some(event.event_ts()));
    columns.text(event.event_ts_reason().map(TimeReason::code));
    columns.instant(event.client_ts());
    columns.instant(event.sent_ts());
    columns.instant(Some(event.received_ts()));
    columns.int64(event.clock_skew_ms());
    columns.text(event.user_id.as_deref());
    columns.text(event.anonymous_id.as_deref());
    columns.text(event.network_id.as_deref());
    columns.text(event.device_id.as_deref());
    columns.text(event.client_session_id.as_deref());
    columns.text(event.consent.as_ref().map(RawJson::get));
    columns.text(event.page_url.as_deref());
    columns.text(event.page_title.as_deref());
    columns.text(event.referrer_url.as_deref());
    columns.text(event.utm_source.as_deref());
    columns.text(event.utm_medium.as_deref());
    columns.text(event.utm_campaign.as_deref());
    columns.text(event.utm_term.as_deref());
    columns.text(event.utm_content.as_deref());
    columns.text(event.click_id.as_deref());
    columns.text(event.click_id_type.as_deref());
    columns.text(event.user_agent.as_deref());
    columns.int32(event.screen_width);
    columns.int32(event.screen_height);
    columns.text(event.language.as_deref());
    columns.text(event.timezone.as_deref());
    columns.text(event.ip_truncated.as_deref());
    columns.text(event.country.as_deref());
    columns.text(event.region.as_deref());
    columns.text(event.city.as_deref());
    columns.text(event.validation.as_deref());
    columns.text(event.order_id.as_deref());
    columns.text(event.checkout_id.as_deref());
    columns.text(event.cart_id.as_deref());
    columns.text(event.currency.as_deref());
    columns.money(event.revenue);
    columns.money(event.total);
    columns.money(event.tax);
    columns.money(event.shipping);
    columns.money(event.discount);
    columns.text(event.coupon.as_deref());
    columns.text(event.search_query.as_deref());
    columns.text(event.list_id.as_deref());
    columns.text(event.promotion_id.as_deref());
    columns.items(&event.items);
    columns.text(event.properties.as_ref().map(RawJson::get));
    columns.text(event.context.as_ref().map(RawJson::get));
    columns.text(event.collector_id.as_deref());
    columns.int64(event.wal_seq);
    columns.text(event.shard_id.as_deref());
    columns.text(event.sequence_number.as_deref());
}

/// What stands in a row.
pub(super) enum Row<'b> {
    /// An event, and the object of its other keys.
    Event(Box<Event<'b>>, Option<&'b str>),
    /// A line that is no event.
    Line(&'b str),
}

/// Rows of a batch, which may have been written by another version: a column that
/// is not there is NULL, one that is not known is not read.
pub(super) struct Rows<'b> {
    columns: Vec<Values<'b>>,
    other: Values<'b>,
}

impl<'b> Rows<'b> {
    /// # Errors
    /// What is wrong with a column's type.
    pub fn of(batch: &'b RecordBatch) -> Result<Self, String> {
        let values = |name: &str| Values::of(name, batch.column_by_name(name));
        let columns = EVENT_KEYS.iter().map(|key| values(key)).collect::<Result<_, _>>()?;
        Ok(Self { columns, other: values(OTHER)? })
    }

    /// # Errors
    /// What is wrong with the row.
    pub fn row(&self, row: usize) -> Result<Row<'b>, String> {
        let other = self.other.text(row);
        if self.columns[0].text(row).is_none() {
            let line = other.ok_or("it has neither an event_id nor a line")?;
            return Ok(Row::Line(line));
        }
        let cursor = Cursor { columns: &self.columns, row, at: 0 };
        cursor.event().map(|event| Row::Event(Box::new(event), other))
    }
}

/// A column's values.
enum Values<'b> {
    Text(&'b StringArray),
    Int32(&'b Int32Array),
    Int64(&'b Int64Array),
    Money(&'b Decimal128Array),
    Instant(&'b TimestampMicrosecondArray),
    Items(&'b ListArray, Vec<Values<'b>>),
    Absent,
}

impl<'b> Values<'b> {
    fn of(name: &str, column: Option<&'b ArrayRef>) -> Result<Self, String> {
        let Some(column) = column else { return Ok(Self::Absent) };
        match column.data_type() {
            DataType::Utf8 => Ok(Self::Text(column.as_string())),
            DataType::Int32 => Ok(Self::Int32(column.as_primitive::<Int32Type>())),
            DataType::Int64 => Ok(Self::Int64(column.as_primitive::<Int64Type>())),
            DataType::Decimal128(_, 4) => Ok(Self::Money(column.as_primitive::<Decimal128Type>())),
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Ok(Self::Instant(column.as_primitive::<TimestampMicrosecondType>()))
            }
            DataType::List(_) => {
                let list = column.as_list::<i32>();
                let structs = list.values().as_struct_opt();
                let structs = structs.ok_or_else(|| format!("{name} is no list of structs"))?;
                Ok(Self::Items(list, item_values(structs)?))
            }
            other => Err(format!("its column {name} is of the type {other}")),
        }
    }

    fn text(&self, row: usize) -> Option<&'b str> {
        match self {
            Self::Text(array) if array.is_valid(row) => Some(array.value(row)),
            _ => None,
        }
    }

    fn int32(&self, row: usize) -> Option<i32> {
        match self {
            Self::Int32(array) if array.is_valid(row) => Some(array.value(row)),
            _ => None,
        }
    }

    fn int64(&self, row: usize) -> Option<i64> {
        match self {
            Self::Int64(array) if array.is_valid(row) => Some(array.value(row)),
            _ => None,
        }
    }

    fn money(&self, row: usize) -> Result<Option<Money>, String> {
        match self {
            Self::Money(array) if array.is_valid(row) => {
                let unscaled = i64::try_from(array.value(row)).ok();
                let money = unscaled.and_then(Money::from_unscaled);
                money
                    .map(Some)
                    .ok_or_else(|| format!("{} is no amount", array.value_as_string(row)))
            }
            _ => Ok(None),
        }
    }

    fn instant(&self, row: usize) -> Result<Option<Timestamp>, String> {
        match self {
            Self::Instant(array) if array.is_valid(row) => {
                Timestamp::from_micros(array.value(row)).map(Some).map_err(|e| e.to_string())
            }
            _ => Ok(None),
        }
    }
}

/// A struct's fields, in the order of an [`Item`]'s.
fn item_values(structs: &StructArray) -> Result<Vec<Values<'_>>, String> {
    const FIELDS: [&str; 10] = [
        "product_id",
        "sku",
        "name",
        "brand",
        "category",
        "variant",
        "price",
        "quantity",
        "coupon",
        "position",
    ];
    FIELDS.iter().map(|name| Values::of(name, structs.column_by_name(name))).collect()
}

/// Reads a row's columns in the order of [`EVENT_KEYS`].
struct Cursor<'r, 'b> {
    columns: &'r [Values<'b>],
    row: usize,
    at: usize,
}

impl<'r, 'b> Cursor<'r, 'b> {
    fn next(&mut self) -> &'r Values<'b> {
        self.at += 1;
        &self.columns[self.at - 1]
    }

    fn text(&mut self) -> Option<Cow<'b, str>> {
        self.next().text(self.row).map(Cow::Borrowed)
    }

    fn required(&mut self) -> Result<Cow<'b, str>, String> {
        let name = EVENT_KEYS[self.at];
        self.text().ok_or_else(|| format!("it has an event_id but no {name}"))
    }

    fn json(&mut self) -> Result<Option<RawJson<'b>>, String> {
        let name = EVENT_KEYS[self.at];
        let parse = |text| RawJson::parse(text).map_err(|error| format!("{name}: {error}"));
        self.next().text(self.row).map(parse).transpose()
    }

    fn instant(&mut self) -> Result<Option<Timestamp>, String> {
        self.next().instant(self.row)
    }

    fn money(&mut self) -> Result<Option<Money>, String> {
        self.next().money(self.row)
    }

    fn int32(&mut self) -> Option<i32> {
        self.next().int32(self.row)
    }

    fn int64(&mut self) -> Option<i64> {
        self.next().int64(self.row)
    }

    fn items(&mut self) -> Result<Vec<Item<'b>>, String> {
        let Values::Items(list, fields) = self.next() else { return Ok(Vec::new()) };
        if list.is_null(self.row) {
            return Ok(Vec::new());
        }
        let range =
            list.value_offsets()[self.row] as usize..list.value_offsets()[self.row + 1] as usize;
        let item = |row: usize| {
            let text = |at: usize| fields[at].text(row).map(Cow::Borrowed);
            Ok(Item {
                product_id: text(0),
                sku: text(1),
                name: text(2),
                brand: text(3),
                category: text(4),
                variant: text(5),
                price: fields[6].money(row)?,
                quantity: fields[7].int64(row),
                coupon: text(8),
                position: fields[9].int32(row),
            })
        };
        range.map(item).collect()
    }

    fn event(mut self) -> Result<Event<'b>, String> {
        let event_id = self.required()?;
        let event_name = self.required()?;
        let source_protocol = self.required()?;
        let source_event_name = self.text();
        let app_id = self.required()?;
        let platform = self.text();
        let event_ts = self.instant()?.ok_or("it has no event_ts")?;
        let reason = match self.text() {
            Some(code) => Some(
                TimeReason::of_code(&code)
                    .ok_or_else(|| format!("{code} is no event_ts_reason"))?,
            ),
            None => None,
        };
        let (client_ts, sent_ts) = (self.instant()?, self.instant()?);
        let received_ts = self.instant()?.ok_or("it has no received_ts")?;
        let skew = self.int64();
        let time = EventTime::stored(event_ts, reason, client_ts, sent_ts, received_ts, skew);
        let mut event = Event::new(event_id, event_name, source_protocol, app_id, time);
        event.source_event_name = source_event_name;
        event.platform = platform;
        event.user_id = self.text();
        event.anonymous_id = self.text();
        event.network_id = self.text();
        event.device_id = self.text();
        event.client_session_id = self.text();
        event.consent = self.json()?;
        event.page_url = self.text();
        event.page_title = self.text();
        event.referrer_url = self.text();
        event.utm_source = self.text();
        event.utm_medium = self.text();
        event.utm_campaign = self.text();
        event.utm_term = self.text();
        event.utm_content = self.text();
        event.click_id = self.text();
        event.click_id_type = self.text();
        event.user_agent = self.text();
        event.screen_width = self.int32();
        event.screen_height = self.int32();
        event.language = self.text();
        event.timezone = self.text();
        event.ip_truncated = self.text();
        event.country = self.text();
        event.region = self.text();
        event.city = self.text();
        event.validation = self.text();
        event.order_id = self.text();
        event.checkout_id = self.text();
        event.cart_id = self.text();
        event.currency = self.text();
        event.revenue = self.money()?;
        event.total = self.money()?;
        event.tax = self.money()?;
        event.shipping = self.money()?;
        event.discount = self.money()?;
        event.coupon = self.text();
        event.search_query = self.text();
        event.list_id = self.text();
        event.promotion_id = self.text();
        event.items = self.items()?;
        event.properties = self.json()?;
        event.context = self.json()?;
        event.collector_id = self.text();
        event.wal_seq = self.int64();
        event.shard_id = self.text();
        event.sequence_number = self.text();
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use clickmill_schemas::tables::Column;
    use serde_json::{Map, Value, json};

    use super::*;

    /// A value that a column of this kind can hold, told apart from other columns' by `n`.
    fn value(column: &Column, n: usize) -> Value {
        match column.kind {
            Kind::Int32 => json!(-(n as i64)),
            Kind::Int64 => json!(i64::MAX - n as i64),
            Kind::Timestamp => json!(format!("2026-11-23T17:40:00.{n:06}Z")),
            Kind::Money => serde_json::from_str(&format!("-{n}.25")).expect("a number"),
            Kind::List(fields) => {
                let item: Map<String, Value> =
                    fields.iter().map(|field| (field.name.to_owned(), value(field, n))).collect();
                json!([item, {}, item])
            }
            _ if column.name == "event_ts_reason" => json!("past"),
            _ if ["properties", "context", "consent"].contains(&column.name) => {
                json!({"n": n, "ü": [null, "\u{0}\"\\"]})
            }
            _ => json!(format!("{} \"{n}\" é\n", column.name)),
        }
    }

    fn full() -> Map<String, Value> {
        let columns = EVENT_KEYS
            .iter()
            .map(|key| EVENTS.columns.iter().find(|column| column.name == *key).expect("a column"));
        columns.enumerate().map(|(n, column)| (column.name.to_owned(), value(column, n))).collect()
    }

    fn rows_of(lines: &[u8]) -> RecordBatch {
        let mut rows = RowBuilder::new();
        lines.trim_ascii_end().split(|byte| *byte == b'\n').for_each(|line| rows.line(line));
        rows.finish().expect("rows")
    }

    fn back(lines: &[u8]) -> Vec<String> {
        let batch = rows_of(lines);
        let rows = Rows::of(&batch).expect("columns");
        let text = |row| match rows.row(row).expect("a row") {
            Row::Line(line) => line.to_owned(),
            Row::Event(event, other) => {
                let mut line = Vec::new();
                clickmill_schemas::encode_whole(&event, other, &mut line);
                String::from_utf8(line).expect("UTF-8")
            }
        };
        (0..batch.num_rows()).map(text).collect()
    }

    #[test]
    fn every_key_comes_back_and_so_do_those_without_a_column() {
        let mut sent = full();
        let parse = |text: &str| serde_json::from_str::<Map<String, Value>>(text).expect("JSON");
        assert_eq!(parse(&back(Value::from(sent.clone()).to_string().as_bytes())[0]), sent);
        sent.insert("hologram".to_owned(), json!({"depth": [1, null]}));
        sent.insert("zz\"".to_owned(), json!("é"));
        assert_eq!(parse(&back(Value::from(sent.clone()).to_string().as_bytes())[0]), sent);
    }

    #[test]
    fn rows_keep_their_order_and_what_is_no_event_is_kept_as_it_is() {
        let event = r#"{"event_id":"e","event_name":"n","source_protocol":"p","app_id":"a","event_ts":"2026-11-23T17:40:00.000000Z","received_ts":"2026-11-23T17:40:01.000000Z","properties":{"a":1.10,"b":12345678901234567890123,"a":1E+02}}"#;
        let odd = r#"{"event_id":"x","event_ts":"2026-11-23T17:40:00Z" , "wal_seq":"7"}"#;
        assert_eq!(back(format!("{event}\n{odd}\n{event}\n").as_bytes()), [event, odd, event]);
    }

    #[test]
    fn a_column_of_a_newer_version_is_not_read_and_one_of_an_older_is_null() {
        let line = Value::from(full()).to_string();
        let batch = rows_of(line.as_bytes());
        let at = SCHEMA.index_of("coupon").expect("a column");
        let mut fields: Vec<Field> =
            SCHEMA.fields().iter().map(|field| field.as_ref().clone()).collect();
        let mut columns = batch.columns().to_vec();
        fields[at] = fields[at].clone().with_name("hologram");
        columns.reverse();
        fields.reverse();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("a batch");
        let rows = Rows::of(&batch).expect("columns");
        let Row::Event(event, None) = rows.row(0).expect("a row") else { panic!("no event") };
        assert_eq!((event.coupon, event.wal_seq.is_some()), (None, true));
        let wrong = Arc::new(Int32Array::from(vec![1])) as ArrayRef;
        let wrong = RecordBatch::try_from_iter([("event_id", wrong)]).expect("a batch");
        assert!(Rows::of(&wrong).is_ok_and(|rows| rows.row(0).is_err()));
    }
}
