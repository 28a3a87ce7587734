//! `[import.NAME]` of clickmill.toml: which column of a shop's files means what.
//!
//! A mapping that was read is valid: its formats are parsed, its event names
//! known, its combinations possible. Whether a file *has* the columns is seen
//! when the file is opened.

use std::collections::BTreeMap;
use std::fmt;

use clickmill_schemas::names;
use clickmill_schemas::values::{MoneyFormat, TimeFormat, parse_integer};
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, Serialize, de};

/// One `[import.NAME]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "MappingTable")]
pub struct Mapping {
    /// What the files are; their compression is seen from their first bytes.
    pub format: FileFormat,
    /// How CSV files are written.
    pub csv: CsvShape,
    /// Texts that stand for "nothing", beside the empty text.
    pub nulls: Vec<String>,
    /// The application that the events belong to.
    pub app_id: AppId,
    /// When the event happened.
    pub event_ts: EventTimeColumn,
    /// What happened.
    pub event_name: EventName,
    /// The shop's own id of the event; without it the id follows from file content and row number.
    pub event_id: Option<String>,
    /// How amounts are written, where a field does not say otherwise.
    pub money: MoneyFormat,
    /// Columns that are left out of `properties`.
    pub ignore: Vec<String>,
    /// Columns of the event.
    pub fields: BTreeMap<Field, Source>,
    /// The one product of a row.
    pub item: BTreeMap<ItemField, Source>,
}

/// The kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// Text in columns.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

/// How a CSV file is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CsvShape {
    /// The byte between fields.
    pub delimiter: u8,
    /// The byte around fields; none where quotes are ordinary text.
    pub quote: Option<u8>,
    /// Names of the columns, for a file without a header line.
    pub columns: Option<Vec<String>>,
}

/// `app_id = "shop"` or `app_id = { column = "site" }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AppId {
    /// The same for every row.
    Constant(String),
    /// As this column says.
    Column(String),
}

/// `event_ts = { column = "...", format = "...", zone = "..." }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "EventTimeTable")]
pub struct EventTimeColumn {
    /// The column.
    pub column: String,
    /// Its format; none for a Parquet timestamp in UTC.
    pub format: Option<TimeFormat>,
}

/// `event_name = { column = "...", map = { ... } }` or `{ constant = "page_view" }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, try_from = "EventNameTable")]
pub enum EventName {
    /// The same for every row.
    Constant(String),
    /// As the column says, translated.
    Column {
        /// The column.
        column: String,
        /// The shop's names to canonical ones.
        map: BTreeMap<String, String>,
        /// What becomes of a name that is neither in `map` nor canonical itself.
        unknown: Unknown,
    },
}

/// What becomes of an event name that the mapping does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// The row is rejected.
    #[default]
    Reject,
    /// It becomes `custom`, its own name in `source_event_name`.
    Custom,
}

/// Where a column of the event comes from: `"column"`, `{ column = "...", ... }`,
/// `{ constant = "..." }` or `{ multiply = ["price", "quantity"] }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Source {
    /// Where its value comes from.
    pub value: SourceValue,
    /// Set on events of these canonical names only; on all where it is empty.
    pub events: Vec<String>,
    /// How the amount is written, where not as the mapping's `money`.
    pub money: Option<MoneyFormat>,
    /// Takes the `.0` off an id that was made a float.
    pub strip_zero_fraction: bool,
}

/// The value itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceValue {
    /// A column of the file.
    Column(String),
    /// The same for every row.
    Constant(String),
    /// An amount column times a whole-number column.
    Multiply(String, String),
}

macro_rules! field_enum {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $kind:ident),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[allow(missing_docs, reason = "each variant is the column of its name in DATA_MODEL")]
        pub enum $name { $($variant),* }
        impl $name {
            /// What its values are.
            #[must_use]
            pub const fn kind(self) -> FieldKind {
                match self { $(Self::$variant => FieldKind::$kind),* }
            }
        }
    };
}

/// What the values of a field are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// Any text.
    Text,
    /// An amount.
    Money,
    /// A whole number of 64 bits.
    Integer,
    /// A whole number of 32 bits.
    Small,
}

field_enum!(
    /// The event's columns that a mapping may set.
    Field {
        Platform = Text, UserId = Text, AnonymousId = Text, NetworkId = Text, DeviceId = Text,
        ClientSessionId = Text, PageUrl = Text, PageTitle = Text, ReferrerUrl = Text,
        UtmSource = Text, UtmMedium = Text, UtmCampaign = Text, UtmTerm = Text, UtmContent = Text,
        ClickId = Text, ClickIdType = Text, UserAgent = Text, ScreenWidth = Small,
        ScreenHeight = Small, Language = Text, Timezone = Text, Country = Text, Region = Text,
        City = Text, OrderId = Text, CheckoutId = Text, CartId = Text, Currency = Text,
        Revenue = Money, Total = Money, Tax = Money, Shipping = Money, Discount = Money,
        Coupon = Text, SearchQuery = Text, ListId = Text, PromotionId = Text,
    }
);

field_enum!(
    /// The columns of the row's product.
    ItemField {
        ProductId = Text, Sku = Text, Name = Text, Brand = Text, Category = Text, Variant = Text,
        Price = Money, Quantity = Integer, Coupon = Text, Position = Small,
    }
);

impl Mapping {
    /// Every column that the mapping names, each once.
    #[must_use]
    pub fn columns(&self) -> Vec<&str> {
        let mut columns = vec![self.event_ts.column.as_str()];
        if let AppId::Column(column) = &self.app_id {
            columns.push(column);
        }
        if let EventName::Column { column, .. } = &self.event_name {
            columns.push(column);
        }
        columns.extend(self.event_id.as_deref());
        for source in self.fields.values().chain(self.item.values()) {
            match &source.value {
                SourceValue::Column(column) => columns.push(column),
                SourceValue::Multiply(a, b) => columns.extend([a.as_str(), b.as_str()]),
                SourceValue::Constant(_) => {}
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        columns.retain(|column| seen.insert(*column));
        columns
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MappingTable {
    format: FileFormat,
    header: Option<bool>,
    delimiter: Option<String>,
    quote: Option<String>,
    columns: Option<Vec<String>>,
    #[serde(default)]
    nulls: Vec<String>,
    app_id: AppId,
    event_ts: EventTimeColumn,
    event_name: EventName,
    event_id: Option<String>,
    #[serde(default)]
    money: MoneyFormat,
    #[serde(default)]
    ignore: Vec<String>,
    #[serde(default)]
    fields: BTreeMap<Field, Source>,
    #[serde(default)]
    item: BTreeMap<ItemField, Source>,
}

impl TryFrom<MappingTable> for Mapping {
    type Error = String;
    fn try_from(t: MappingTable) -> Result<Self, String> {
        let is_csv = t.format == FileFormat::Csv;
        let csv_keys = t.header.is_some() || t.delimiter.is_some() || t.quote.is_some();
        if !is_csv && (csv_keys || t.columns.is_some()) {
            return Err("header, delimiter, quote and columns are for format = \"csv\"".to_owned());
        }
        let header = t.header.unwrap_or(t.columns.is_none());
        let columns = match (is_csv && !header, t.columns) {
            (true, None) => {
                return Err("header = false needs columns = [\"...\"], their names in order".into());
            }
            (false, Some(_)) if is_csv => {
                return Err("columns is for files without a header line: set header = false".into());
            }
            (_, columns) => columns,
        };
        if let Some(twice) = columns.as_deref().and_then(duplicate) {
            return Err(format!("columns names `{twice}` twice"));
        }
        let mapping = Self {
            format: t.format,
            csv: CsvShape {
                delimiter: one_byte("delimiter", t.delimiter.as_deref().unwrap_or(","))?
                    .ok_or("delimiter is empty")?,
                quote: one_byte("quote", t.quote.as_deref().unwrap_or("\""))?,
                columns,
            },
            nulls: t.nulls,
            app_id: t.app_id,
            event_ts: t.event_ts,
            event_name: t.event_name,
            event_id: t.event_id,
            money: t.money,
            ignore: t.ignore,
            fields: t.fields,
            item: t.item,
        };
        if is_csv && mapping.event_ts.format.is_none() {
            return Err("event_ts needs a format, such as \"rfc3339\", \"epoch_s\" or \"%Y-%m-%d %H:%M:%S\"".into());
        }
        for (field, source) in &mapping.fields {
            source.check(&format!("fields.{}", key(field)), field.kind())?;
        }
        for (field, source) in &mapping.item {
            source.check(&format!("item.{}", key(field)), field.kind())?;
        }
        if let Some(known) = &mapping.csv.columns {
            for column in
                mapping.columns().into_iter().chain(mapping.ignore.iter().map(String::as_str))
            {
                if !known.iter().any(|name| name == column) {
                    return Err(format!("the column `{column}` is not in columns = {known:?}"));
                }
            }
        }
        Ok(mapping)
    }
}

impl Source {
    fn check(&self, name: &str, kind: FieldKind) -> Result<(), String> {
        if let Some(event) = self.events.iter().find(|event| !names::is_event_name(event)) {
            return Err(format!("{name}: events has `{event}`, {}", not_canonical()));
        }
        if self.strip_zero_fraction && kind != FieldKind::Text {
            return Err(format!("{name}: strip_zero_fraction is for texts"));
        }
        if kind != FieldKind::Money
            && (self.money.is_some() || matches!(self.value, SourceValue::Multiply(..)))
        {
            return Err(format!("{name}: money and multiply are for amounts"));
        }
        let SourceValue::Constant(constant) = &self.value else { return Ok(()) };
        let refused = match kind {
            FieldKind::Text => None,
            FieldKind::Money => {
                self.money.clone().unwrap_or_default().read(constant).err().map(|e| e.to_string())
            }
            FieldKind::Integer => parse_integer(constant).err().map(|e| e.to_string()),
            FieldKind::Small => match parse_integer(constant).map(i32::try_from) {
                Ok(Ok(_)) => None,
                Ok(Err(_)) => Some(format!("{constant} exceeds 32 bits")),
                Err(e) => Some(e.to_string()),
            },
        };
        refused.map_or(Ok(()), |reason| Err(format!("{name}: constant {reason}")))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventTimeTable {
    column: String,
    format: Option<String>,
    zone: Option<String>,
}

impl TryFrom<EventTimeTable> for EventTimeColumn {
    type Error = String;
    fn try_from(t: EventTimeTable) -> Result<Self, String> {
        let format = match (t.format.as_deref(), t.zone.as_deref()) {
            (None, None) => None,
            (None, Some(_)) => return Err("event_ts: zone needs a format beside it".to_owned()),
            (Some(format), zone) => {
                Some(TimeFormat::new(format, zone).map_err(|e| format!("event_ts: {e}"))?)
            }
        };
        Ok(Self { column: t.column, format })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventNameTable {
    column: Option<String>,
    constant: Option<String>,
    #[serde(default)]
    map: BTreeMap<String, String>,
    unknown: Option<Unknown>,
}

impl TryFrom<EventNameTable> for EventName {
    type Error = String;
    fn try_from(t: EventNameTable) -> Result<Self, String> {
        let known = |name: &str| {
            names::is_event_name(name)
                .then_some(())
                .ok_or_else(|| format!("event_name: `{name}` is {}", not_canonical()))
        };
        match (t.column, t.constant) {
            (Some(column), None) => {
                t.map.values().try_for_each(|name| known(name))?;
                Ok(Self::Column { column, map: t.map, unknown: t.unknown.unwrap_or_default() })
            }
            (None, Some(constant)) if t.map.is_empty() && t.unknown.is_none() => {
                known(&constant)?;
                Ok(Self::Constant(constant))
            }
            (None, Some(_)) => Err("event_name: map and unknown need column, not constant".into()),
            _ => Err("event_name needs one of column and constant".into()),
        }
    }
}

impl<'de> Deserialize<'de> for AppId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            column: String,
        }
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = AppId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the app id itself, or { column = \"...\" }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<AppId, E> {
                if text.is_empty() {
                    return Err(E::custom("app_id is empty"));
                }
                Ok(AppId::Constant(text.to_owned()))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<AppId, A::Error> {
                Ok(AppId::Column(Table::deserialize(MapAccessDeserializer::new(map))?.column))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            column: Option<String>,
            constant: Option<String>,
            multiply: Option<[String; 2]>,
            #[serde(default)]
            events: Vec<String>,
            money: Option<MoneyFormat>,
            #[serde(default)]
            strip_zero_fraction: bool,
        }
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Source;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a column's name, or { column = ... }, { constant = ... }, { multiply = [..., ...] }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Source, E> {
                Ok(Source {
                    value: SourceValue::Column(text.to_owned()),
                    events: Vec::new(),
                    money: None,
                    strip_zero_fraction: false,
                })
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Source, A::Error> {
                let t = Table::deserialize(MapAccessDeserializer::new(map))?;
                let value = match (t.column, t.constant, t.multiply) {
                    (Some(column), None, None) => SourceValue::Column(column),
                    (None, Some(constant), None) => SourceValue::Constant(constant),
                    (None, None, Some([a, b])) => SourceValue::Multiply(a, b),
                    _ => {
                        return Err(de::Error::custom(
                            "exactly one of column, constant and multiply is needed",
                        ));
                    }
                };
                let (events, money) = (t.events, t.money);
                Ok(Source { value, events, money, strip_zero_fraction: t.strip_zero_fraction })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

fn one_byte(key: &str, text: &str) -> Result<Option<u8>, String> {
    match text.as_bytes() {
        [] => Ok(None),
        [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => Ok(Some(*byte)),
        _ => Err(format!("{key} = {text:?} is not one ASCII character")),
    }
}

fn duplicate(names: &[String]) -> Option<&String> {
    names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)).map(|(_, name)| name)
}

fn not_canonical() -> String {
    format!("not a canonical event name (one of {})", names::EVENT_NAMES.join(", "))
}

/// The name of a field as it stands in configuration.
fn key<T: Serialize>(field: &T) -> String {
    serde_json::to_value(field).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}
