//! Events as Arrow columns, in the order of the `events` table.

use std::sync::Arc;

use arrow::array::{
    ArrayBuilder, ArrayRef, BooleanBuilder, Date32Builder, Decimal128Builder, Int32Builder,
    Int64Builder, ListBuilder, MapBuilder, MapFieldNames, RecordBatch, StringBuilder,
    StructBuilder, TimestampMicrosecondBuilder, new_null_array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use clickmill_lake::schema::{MONEY, arrow_schema};
use clickmill_schemas::tables::EVENTS;
use clickmill_schemas::{Event, Item, Money, Timestamp};

use super::channels::{ChannelRules, Traffic};
use super::enrich::{Agent, Agents, Campaign, LATE_AFTER, language, parameters, split_url};
use super::hash;

/// Column that tells the rows of a batch apart: object and line. Not stored.
pub const ROW_COLUMN: &str = "__row";
/// Column that tells rows of the table, read as context, from new ones. Not stored.
pub const OLD_COLUMN: &str = "__old";

/// The `events` schema and the two working columns.
#[must_use]
pub fn staged_schema() -> SchemaRef {
    let mut fields: Vec<_> = arrow_schema(&EVENTS).fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(ROW_COLUMN, DataType::Int64, true)));
    fields.push(Arc::new(Field::new(OLD_COLUMN, DataType::Boolean, false)));
    Arc::new(Schema::new(fields))
}

/// Builds batches of [`staged_schema`].
pub struct EventColumns {
    schema: SchemaRef,
    columns: Vec<Column>,
    agents: Agents,
    channels: Arc<ChannelRules>,
    at: usize,
    rows: usize,
}

/// A builder for each type that the table has.
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
    /// Filled in later (session columns): NULL here.
    Null(DataType),
}

/// What a row is, beyond its event.
#[derive(Clone, Copy)]
pub struct RowId(pub i64);

impl EventColumns {
    /// Empty builders.
    #[must_use]
    pub fn new(channels: Arc<ChannelRules>) -> Self {
        let schema = staged_schema();
        let columns = schema.fields().iter().map(|field| Column::new(field)).collect();
        Self { schema, columns, agents: Agents::default(), channels, at: 0, rows: 0 }
    }

    /// Rows since the last [`Self::finish`].
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Appends an event; answers its content hash.
    pub fn append(&mut self, event: &Event<'_>, row: RowId) -> i64 {
        let page = event.page_url.as_deref().map(split_url).unwrap_or_default();
        let query = page.query.map(parameters).unwrap_or_default();
        let referrer = event.referrer_url.as_deref().map(split_url).unwrap_or_default();
        let campaign = Campaign::of(event, &query);
        let channels = Arc::clone(&self.channels);
        let channel = channels.channel(&Traffic {
            source: campaign.source,
            medium: campaign.medium,
            campaign: campaign.campaign,
            click_id_type: campaign.click_id_type,
            page_host: page.host.as_deref(),
            referrer_host: referrer.host.as_deref(),
        });
        let agent = match event.user_agent.as_deref() {
            Some(user_agent) => self.agents.get(user_agent).clone(),
            None => Agent::default(),
        };
        let content_hash = hash::content(event);
        let late = event.event_ts().saturating_add(LATE_AFTER) < event.received_ts();

        self.at = 0;
        self.rows += 1;
        // The order of the `events` table; `finish` checks that no column was left out.
        self.text(Some(&event.event_id));
        self.text(Some(&event.event_name));
        self.text(Some(&event.source_protocol));
        self.text(event.source_event_name.as_deref());
        self.text(Some(&event.app_id));
        self.text(event.platform.as_deref());
        self.instant(Some(event.event_ts()));
        self.text(event.event_ts_reason().map(|reason| reason.code()));
        self.instant(event.client_ts());
        self.instant(event.sent_ts());
        self.instant(Some(event.received_ts()));
        self.int64(event.clock_skew_ms());
        self.bool(late);
        self.text(event.visitor_id());
        self.text(event.user_id.as_deref());
        self.text(event.anonymous_id.as_deref());
        self.text(event.network_id.as_deref());
        self.text(event.device_id.as_deref());
        self.text(event.client_session_id.as_deref());
        self.skip(); // session_id
        self.skip(); // session_seq
        self.text(event.consent.as_ref().map(|json| json.get()));
        self.text(event.page_url.as_deref());
        self.text(page.host.as_deref());
        self.text(page.path);
        self.map(&query);
        self.text(event.page_title.as_deref());
        self.text(event.referrer_url.as_deref());
        self.text(referrer.host.as_deref());
        self.text(campaign.source);
        self.text(campaign.medium);
        self.text(campaign.campaign);
        self.text(campaign.term);
        self.text(campaign.content);
        self.text(campaign.click_id);
        self.text(campaign.click_id_type);
        self.text(Some(channel));
        self.int32(Some(channels.version()));
        self.text(event.user_agent.as_deref());
        self.text(agent.browser.as_deref());
        self.text(agent.browser_version.as_deref());
        self.text(agent.os.as_deref());
        self.text(agent.os_version.as_deref());
        self.text(agent.device_class);
        self.int32(event.screen_width);
        self.int32(event.screen_height);
        self.text(event.language.as_deref().and_then(language).as_deref());
        self.text(event.timezone.as_deref());
        self.text(event.ip_truncated.as_deref());
        self.text(event.country.as_deref());
        self.text(event.region.as_deref());
        self.text(event.city.as_deref());
        self.bool(agent.bot_reason.is_some());
        self.text(agent.bot_reason);
        self.text(Some(event.validation.as_deref().unwrap_or("ok")));
        self.text(event.order_id.as_deref());
        self.text(event.checkout_id.as_deref());
        self.text(event.cart_id.as_deref());
        self.text(event.currency.as_deref());
        self.money(event.revenue);
        self.money(event.total);
        self.money(event.tax);
        self.money(event.shipping);
        self.money(event.discount);
        self.text(event.coupon.as_deref());
        self.text(event.search_query.as_deref());
        self.text(event.list_id.as_deref());
        self.text(event.promotion_id.as_deref());
        self.items(&event.items);
        self.text(event.properties.as_ref().map(|json| json.get()));
        self.text(event.context.as_ref().map(|json| json.get()));
        self.text(event.collector_id.as_deref());
        self.int64(event.wal_seq);
        self.text(event.shard_id.as_deref());
        self.text(event.sequence_number.as_deref());
        self.int64(Some(content_hash));
        self.date(event.event_ts());
        self.int64(Some(row.0));
        self.bool(false);
        content_hash
    }

    /// The rows so far as a batch; the builders are empty again.
    ///
    /// # Errors
    /// [`ArrowError`] where `append` and the table disagree about the columns.
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

    fn text(&mut self, value: Option<&str>) {
        if let Column::Text(builder) = self.next() {
            builder.append_option(value);
        }
    }

    fn bool(&mut self, value: bool) {
        if let Column::Bool(builder) = self.next() {
            builder.append_value(value);
        }
    }

    fn int32(&mut self, value: Option<i32>) {
        if let Column::Int32(builder) = self.next() {
            builder.append_option(value);
        }
    }

    fn int64(&mut self, value: Option<i64>) {
        if let Column::Int64(builder) = self.next() {
            builder.append_option(value);
        }
    }

    fn money(&mut self, value: Option<Money>) {
        if let Column::Money(builder) = self.next() {
            builder.append_option(value.map(|money| i128::from(money.unscaled())));
        }
    }

    fn instant(&mut self, value: Option<Timestamp>) {
        if let Column::Instant(builder) = self.next() {
            builder.append_option(value.map(Timestamp::micros));
        }
    }

    fn date(&mut self, value: Timestamp) {
        if let Column::Date(builder) = self.next() {
            builder.append_value(value.date().days());
        }
    }

    fn skip(&mut self) {
        self.next();
    }

    fn map(&mut self, pairs: &[(std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)]) {
        if let Column::Map(builder) = self.next() {
            for (key, value) in pairs {
                builder.keys().append_value(key);
                builder.values().append_value(value);
            }
            // Keys and values were appended in pairs: it cannot fail.
            let _ = builder.append(!pairs.is_empty());
        }
    }

    fn items(&mut self, items: &[Item<'_>]) {
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
            _ if matches!(field.name().as_str(), "session_id" | "session_seq") => {
                Self::Null(field.data_type().clone())
            }
            DataType::Utf8 => Self::Text(StringBuilder::new()),
            DataType::Boolean => Self::Bool(BooleanBuilder::new()),
            DataType::Int32 => Self::Int32(Int32Builder::new()),
            DataType::Int64 => Self::Int64(Int64Builder::new()),
            DataType::Decimal128(..) => Self::Money(money_builder()),
            DataType::Timestamp(..) => {
                Self::Instant(TimestampMicrosecondBuilder::new().with_timezone("UTC"))
            }
            DataType::Date32 => Self::Date(Date32Builder::new()),
            DataType::Map(..) => {
                let names = MapFieldNames {
                    entry: "key_value".to_owned(),
                    key: "key".to_owned(),
                    value: "value".to_owned(),
                };
                Self::Map(MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new()))
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
    Decimal128Builder::new().with_data_type(MONEY)
}

fn item_builder(data_type: &DataType) -> Box<dyn ArrayBuilder> {
    match data_type {
        DataType::Int32 => Box::new(Int32Builder::new()),
        DataType::Int64 => Box::new(Int64Builder::new()),
        DataType::Decimal128(..) => Box::new(money_builder()),
        _ => Box::new(StringBuilder::new()),
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
