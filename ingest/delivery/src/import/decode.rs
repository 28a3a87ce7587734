//! A row and a mapping make an event, or a reason why not. Pure.
//!
//! What the mapping does not take goes into `properties`, under the file's own
//! column names, as it stands there. A value leaves `properties` only where the
//! event holds it exactly: a rounded amount, or an id that lost its `.0`, stays
//! there too.

use std::borrow::Cow;

use clickmill_schemas::values::{MoneyFormat, TimeFormat, parse_integer, strip_zero_fraction};
use clickmill_schemas::{Event, EventTime, Item, Money, RawJson, RejectReason, Timestamp, names};
use uuid::Uuid;

use super::config::{
    AppId, EventName, Field, FieldKind, ItemField, Mapping, Source, SourceValue, Unknown,
};
use super::row::{Bad, Cell, Row, Slot, push_json_string};

/// Namespace of the ids that follow from file content and row number. Never changes:
/// it is what makes a second import of the same file change nothing.
const ID_NAMESPACE: Uuid = Uuid::from_u128(0x6b1f_3a0e_52c4_5d0b_9a51_0d1c_7f2e_8c94);
/// `source_protocol` of imported events and `protocol` of their rejects.
pub(crate) const PROTOCOL: &str = "import";
/// Longest id, name or other short text that an event takes from a column.
pub(crate) const MAX_TEXT_BYTES: usize = 64 * 1024;

/// A mapping made ready for many rows.
pub(crate) struct Decoder {
    app_id: Result<String, usize>,
    time: (usize, Option<TimeFormat>),
    name: NameRule,
    event_id: Option<usize>,
    fields: Vec<(Field, Rule)>,
    item: Vec<(ItemField, Rule)>,
    ignore: Vec<String>,
    nulls: Vec<String>,
    columns: Vec<String>,
}

enum NameRule {
    Constant(String),
    Column { slot: usize, map: std::collections::BTreeMap<String, String>, unknown: Unknown },
}

struct Rule {
    value: RuleValue,
    events: Vec<String>,
    money: MoneyFormat,
    strip_zero_fraction: bool,
}

enum RuleValue {
    Constant(String),
    Slot(usize),
    Multiply(usize, usize),
}

/// What belongs to the file and the run, not to the row.
pub(crate) struct Origin<'a> {
    /// Hash of the file's content, in hex.
    pub content: &'a str,
    /// The landing source, which is the events' `collector_id`.
    pub source: &'a str,
    /// The row's number, from 1.
    pub row: u64,
    /// When this run reads it.
    pub received_ts: Timestamp,
}

impl Decoder {
    pub(crate) fn new(mapping: &Mapping) -> Self {
        let columns: Vec<String> = mapping.columns().into_iter().map(str::to_owned).collect();
        let slot = |name: &str| columns.iter().position(|c| c == name).unwrap_or(usize::MAX);
        let rule = |source: &Source| Rule {
            value: match &source.value {
                SourceValue::Constant(text) => RuleValue::Constant(text.clone()),
                SourceValue::Column(column) => RuleValue::Slot(slot(column)),
                SourceValue::Multiply(a, b) => RuleValue::Multiply(slot(a), slot(b)),
            },
            events: source.events.clone(),
            money: source.money.clone().unwrap_or_else(|| mapping.money.clone()),
            strip_zero_fraction: source.strip_zero_fraction,
        };
        Self {
            app_id: match &mapping.app_id {
                AppId::Constant(app_id) => Ok(app_id.clone()),
                AppId::Column(column) => Err(slot(column)),
            },
            time: (slot(&mapping.event_ts.column), mapping.event_ts.format.clone()),
            name: match &mapping.event_name {
                EventName::Constant(name) => NameRule::Constant(name.clone()),
                EventName::Column { column, map, unknown } => {
                    NameRule::Column { slot: slot(column), map: map.clone(), unknown: *unknown }
                }
            },
            event_id: mapping.event_id.as_deref().map(slot),
            fields: mapping.fields.iter().map(|(field, s)| (*field, rule(s))).collect(),
            item: mapping.item.iter().map(|(field, s)| (*field, rule(s))).collect(),
            ignore: mapping.ignore.clone(),
            nulls: mapping.nulls.clone(),
            columns,
        }
    }

    /// The columns that a reader is to find, in the order of the slots.
    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Makes the event.
    pub(crate) fn decode<'r>(
        &'r self,
        row: &'r Row<'_>,
        origin: &Origin<'r>,
    ) -> Result<Event<'r>, Bad> {
        let taken = vec![false; row.fields.len()];
        let mut taking = Taking { columns: &self.columns, nulls: &self.nulls, row, taken };

        let event_ts = taking.time(self.time.0, self.time.1.as_ref())?;
        let (name, source_name) = self.event_name(&mut taking)?;
        let app_id = match &self.app_id {
            Ok(constant) => Cow::Borrowed(constant.as_str()),
            Err(slot) => taking.required_text(*slot)?,
        };
        let event_id = match self.event_id {
            None => Cow::Owned(content_id(origin.content, origin.row)),
            Some(slot) => taking.required_text(slot)?,
        };
        let time = EventTime::historic(event_ts, origin.received_ts);
        let mut event = Event::new(event_id, name, PROTOCOL, app_id, time);
        event.source_event_name = source_name;
        for (field, rule) in &self.fields {
            if rule.applies_to(name) {
                set_field(&mut event, *field, taking.value(rule, field.kind())?);
            }
        }
        let mut item = Item::default();
        for (field, rule) in &self.item {
            if rule.applies_to(name) {
                set_item_field(&mut item, *field, taking.value(rule, field.kind())?);
            }
        }
        if item != Item::default() {
            event.items.push(item);
        }
        if let Some(currency) = &mut event.currency
            && currency.bytes().any(|b| b.is_ascii_lowercase())
        {
            *currency = Cow::Owned(currency.to_ascii_uppercase());
        }
        event.properties = self.properties(&taking)?;
        event.collector_id = Some(Cow::Borrowed(origin.source));
        event.wal_seq = i64::try_from(origin.row).ok();
        Ok(event)
    }

    fn event_name<'r>(
        &'r self,
        taking: &mut Taking<'r, '_>,
    ) -> Result<(&'r str, Option<Cow<'r, str>>), Bad> {
        let (slot, map, unknown) = match &self.name {
            NameRule::Constant(name) => return Ok((name, None)),
            NameRule::Column { slot, map, unknown } => (*slot, map, *unknown),
        };
        let sent = taking.required_text(slot)?;
        let canonical = match map.get(sent.as_ref()) {
            Some(name) => name.as_str(),
            None => match names::EVENT_NAMES.iter().find(|name| **name == sent) {
                Some(name) => name,
                None if unknown == Unknown::Custom => "custom",
                None => {
                    return Err(Bad::new(
                        RejectReason::UnknownType,
                        format!(
                            "column {}: `{}` is in no map of event_name; add it, or set unknown = \"custom\"",
                            self.columns[slot],
                            sent.chars().take(64).collect::<String>(),
                        ),
                    ));
                }
            },
        };
        Ok((canonical, Some(sent)))
    }

    /// Everything that was not taken, under its own name.
    fn properties<'r>(&self, taking: &Taking<'r, '_>) -> Result<Option<RawJson<'r>>, Bad> {
        let mut json = String::new();
        for ((name, cell), taken) in taking.row.fields.iter().zip(&taking.taken) {
            if *taken || *cell == Cell::Missing || self.ignore.iter().any(|i| i == name.as_ref()) {
                continue;
            }
            json.push(if json.is_empty() { '{' } else { ',' });
            push_json_string(name, &mut json);
            json.push(':');
            cell.push_json(&mut json);
        }
        if json.is_empty() {
            return Ok(None);
        }
        json.push('}');
        match RawJson::parse(&json) {
            Ok(raw) => Ok(Some(raw.into_owned())),
            Err(e) => Err(Bad::new(RejectReason::Malformed, format!("the rest of the row: {e}"))),
        }
    }
}

impl Rule {
    fn applies_to(&self, event_name: &str) -> bool {
        self.events.is_empty() || self.events.iter().any(|name| name == event_name)
    }
}

/// The id of a row without an id of its own.
fn content_id(content: &str, row: u64) -> String {
    Uuid::new_v5(&ID_NAMESPACE, format!("{content}/{row}").as_bytes()).to_string()
}

/// The id of a reject: the same whenever the same row is rejected by the same mapping.
pub(crate) fn reject_id(source: &str, row: u64) -> String {
    Uuid::new_v5(&ID_NAMESPACE, format!("reject/{source}/{row}").as_bytes()).to_string()
}

/// A row of which values are taken, and which of its columns were.
struct Taking<'r, 'c> {
    columns: &'r [String],
    nulls: &'r [String],
    row: &'r Row<'c>,
    taken: Vec<bool>,
}

enum Value<'r> {
    None,
    Text(Cow<'r, str>),
    Money(Money),
    Integer(i64),
}

impl<'r, 'c> Taking<'r, 'c> {
    fn take(&mut self, slot: usize) {
        if let Some(Slot::Field(at)) = self.row.slots.get(slot) {
            self.taken[*at] = true;
        }
    }

    fn bad(&self, slot: usize, what: impl std::fmt::Display) -> Bad {
        Bad::new(RejectReason::BadValue, format!("column {}: {what}", self.columns[slot]))
    }

    /// The value, where it is none of the texts that stand for nothing.
    fn cell(&self, slot: usize) -> &'r Cell<'c> {
        let row: &'r Row<'c> = self.row;
        match row.cell(slot) {
            Cell::Text(text) if text.is_empty() || self.nulls.iter().any(|n| n == text) => {
                &Cell::Missing
            }
            Cell::Json(json) if json == "null" => &Cell::Missing,
            cell => cell,
        }
    }

    fn text(&self, slot: usize) -> Result<Option<Cow<'r, str>>, Bad> {
        let text = self
            .cell(slot)
            .text()
            .map_err(|()| self.bad(slot, "a JSON array or object where one value is expected"))?;
        if text.as_ref().is_some_and(|t| t.len() > MAX_TEXT_BYTES) {
            return Err(Bad::new(
                RejectReason::TooLarge,
                format!("column {}: longer than {MAX_TEXT_BYTES} bytes", self.columns[slot]),
            ));
        }
        Ok(text)
    }

    fn required_text(&mut self, slot: usize) -> Result<Cow<'r, str>, Bad> {
        let text = self.text(slot)?.ok_or_else(|| self.missing(slot))?;
        self.take(slot);
        Ok(text)
    }

    fn missing(&self, slot: usize) -> Bad {
        Bad::new(RejectReason::MissingField, format!("column {}: no value", self.columns[slot]))
    }

    fn time(&mut self, slot: usize, format: Option<&TimeFormat>) -> Result<Timestamp, Bad> {
        let at = match (self.cell(slot), format) {
            (Cell::Missing, _) => return Err(self.missing(slot)),
            (Cell::Instant(at), _) => *at,
            (Cell::Local(micros), Some(format)) => {
                format.local_micros(*micros).map_err(|e| self.bad(slot, e))?
            }
            (Cell::Local(micros), None) => {
                Timestamp::from_micros(*micros).map_err(|e| self.bad(slot, e))?
            }
            (_, Some(format)) => {
                let text = self.text(slot)?.unwrap_or_default();
                format.read(&text).map_err(|e| self.bad(slot, e))?
            }
            (_, None) => {
                return Err(self.bad(slot, "no timestamp; event_ts needs a format to read it"));
            }
        };
        self.take(slot);
        Ok(at)
    }

    fn value(&mut self, rule: &'r Rule, kind: FieldKind) -> Result<Value<'r>, Bad> {
        match &rule.value {
            RuleValue::Constant(text) => match kind {
                FieldKind::Text => Ok(Value::Text(Cow::Borrowed(text))),
                // Checked when the mapping was read.
                FieldKind::Money => Ok(rule.money.read(text).map_or(Value::None, Value::Money)),
                FieldKind::Integer | FieldKind::Small => {
                    Ok(parse_integer(text).map_or(Value::None, Value::Integer))
                }
            },
            RuleValue::Multiply(amount, times) => self.product(rule, *amount, *times),
            RuleValue::Slot(slot) => {
                let slot = *slot;
                let Some(text) = self.text(slot)? else { return Ok(Value::None) };
                let value = match kind {
                    FieldKind::Text if rule.strip_zero_fraction => {
                        let stripped = strip_zero_fraction(&text);
                        if stripped.len() != text.len() {
                            return Ok(Value::Text(Cow::Owned(stripped.to_owned())));
                        }
                        Value::Text(text)
                    }
                    FieldKind::Text => Value::Text(text),
                    FieldKind::Money => {
                        let amount = rule.money.read(&text).map_err(|e| self.bad(slot, e))?;
                        if rule.money.rounds() && !is_exact(&rule.money, &text) {
                            return Ok(Value::Money(amount));
                        }
                        Value::Money(amount)
                    }
                    FieldKind::Integer | FieldKind::Small => {
                        let integer = parse_integer(&text).map_err(|e| self.bad(slot, e))?;
                        if kind == FieldKind::Small && i32::try_from(integer).is_err() {
                            return Err(self.bad(slot, format_args!("{integer} exceeds 32 bits")));
                        }
                        Value::Integer(integer)
                    }
                };
                self.take(slot);
                Ok(value)
            }
        }
    }

    /// An amount times a count. Both columns stay in `properties` unless another rule takes them.
    fn product(&self, rule: &Rule, amount: usize, times: usize) -> Result<Value<'r>, Bad> {
        let (Some(price), Some(count)) = (self.text(amount)?, self.text(times)?) else {
            return Ok(Value::None);
        };
        let price = rule.money.read(&price).map_err(|e| self.bad(amount, e))?;
        let count = parse_integer(&count).map_err(|e| self.bad(times, e))?;
        price
            .unscaled()
            .checked_mul(count)
            .and_then(Money::from_unscaled)
            .map(Value::Money)
            .ok_or_else(|| self.bad(amount, "times the quantity it has more than fourteen digits"))
    }
}

/// Whether an amount was read without rounding.
fn is_exact(format: &MoneyFormat, text: &str) -> bool {
    format.exact().read(text).is_ok()
}

fn set_field<'r>(event: &mut Event<'r>, field: Field, value: Value<'r>) {
    let text = match field {
        Field::Platform => &mut event.platform,
        Field::UserId => &mut event.user_id,
        Field::AnonymousId => &mut event.anonymous_id,
        Field::NetworkId => &mut event.network_id,
        Field::DeviceId => &mut event.device_id,
        Field::ClientSessionId => &mut event.client_session_id,
        Field::PageUrl => &mut event.page_url,
        Field::PageTitle => &mut event.page_title,
        Field::ReferrerUrl => &mut event.referrer_url,
        Field::UtmSource => &mut event.utm_source,
        Field::UtmMedium => &mut event.utm_medium,
        Field::UtmCampaign => &mut event.utm_campaign,
        Field::UtmTerm => &mut event.utm_term,
        Field::UtmContent => &mut event.utm_content,
        Field::ClickId => &mut event.click_id,
        Field::ClickIdType => &mut event.click_id_type,
        Field::UserAgent => &mut event.user_agent,
        Field::Language => &mut event.language,
        Field::Timezone => &mut event.timezone,
        Field::Country => &mut event.country,
        Field::Region => &mut event.region,
        Field::City => &mut event.city,
        Field::OrderId => &mut event.order_id,
        Field::CheckoutId => &mut event.checkout_id,
        Field::CartId => &mut event.cart_id,
        Field::Currency => &mut event.currency,
        Field::Coupon => &mut event.coupon,
        Field::SearchQuery => &mut event.search_query,
        Field::ListId => &mut event.list_id,
        Field::PromotionId => &mut event.promotion_id,
        Field::Revenue => return event.revenue = value.money(),
        Field::Total => return event.total = value.money(),
        Field::Tax => return event.tax = value.money(),
        Field::Shipping => return event.shipping = value.money(),
        Field::Discount => return event.discount = value.money(),
        Field::ScreenWidth => return event.screen_width = value.small(),
        Field::ScreenHeight => return event.screen_height = value.small(),
    };
    *text = value.text();
}

fn set_item_field<'r>(item: &mut Item<'r>, field: ItemField, value: Value<'r>) {
    let text = match field {
        ItemField::ProductId => &mut item.product_id,
        ItemField::Sku => &mut item.sku,
        ItemField::Name => &mut item.name,
        ItemField::Brand => &mut item.brand,
        ItemField::Category => &mut item.category,
        ItemField::Variant => &mut item.variant,
        ItemField::Coupon => &mut item.coupon,
        ItemField::Price => return item.price = value.money(),
        ItemField::Quantity => return item.quantity = value.integer(),
        ItemField::Position => return item.position = value.small(),
    };
    *text = value.text();
}

impl<'r> Value<'r> {
    fn text(self) -> Option<Cow<'r, str>> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
    fn money(self) -> Option<Money> {
        if let Self::Money(money) = self { Some(money) } else { None }
    }
    fn integer(self) -> Option<i64> {
        if let Self::Integer(integer) = self { Some(integer) } else { None }
    }
    fn small(self) -> Option<i32> {
        self.integer().and_then(|integer| i32::try_from(integer).ok())
    }
}
