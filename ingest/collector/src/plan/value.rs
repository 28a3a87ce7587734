//! Where fields are, and what their values may be.

use std::borrow::Cow;

use clickmill_schemas::{Event, Item, Json, Money, Timestamp};

/// A field's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    String,
    /// Any JSON number.
    Number,
    /// A number without a fraction, 64 bits.
    Integer,
    /// A number that `Decimal(18,4)` holds exactly.
    Money,
    Boolean,
    /// RFC 3339 text.
    Timestamp,
    Object,
    Array,
}

/// A value found in an event.
pub(super) enum Value<'e> {
    Text(&'e str),
    Money(Money),
    Integer(i64),
    Json(Cow<'e, str>),
}

/// What a column can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Text,
    Money,
    Integer,
    Json,
}

/// A column of the event that a plan can name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub name: &'static str,
    pub holds: Holds,
    pub get: for<'e> fn(&'e Event<'_>) -> Option<Value<'e>>,
}

/// A column of an item.
#[derive(Clone, Copy, Debug)]
pub(super) struct ItemColumn {
    pub name: &'static str,
    pub holds: Holds,
    pub get: for<'e> fn(&'e Item<'_>) -> Option<Value<'e>>,
}

macro_rules! columns {
    ($table:ident: $column:ident of $row:ident;
     text $($text:ident)*; money $($money:ident)*; integer $($integer:ident)*; json $($json:ident)*) => {
        /// By name.
        pub(super) const $table: &[$column] = &[
            $($column {
                name: stringify!($text),
                holds: Holds::Text,
                get: |row: &$row<'_>| row.$text.as_deref().map(Value::Text),
            },)*
            $($column {
                name: stringify!($money),
                holds: Holds::Money,
                get: |row: &$row<'_>| row.$money.map(Value::Money),
            },)*
            $($column {
                name: stringify!($integer),
                holds: Holds::Integer,
                get: |row: &$row<'_>| row.$integer.map(|value| Value::Integer(value.into())),
            },)*
            $($column {
                name: stringify!($json),
                holds: Holds::Json,
                get: |row: &$row<'_>| row.$json.as_ref().map(|j| Value::Json(Cow::Borrowed(j.get()))),
            },)*
        ];
    };
}

columns! { COLUMNS: Column of Event;
    text platform user_id anonymous_id network_id device_id client_session_id page_url page_title
        referrer_url utm_source utm_medium utm_campaign utm_term utm_content click_id click_id_type
        user_agent language timezone country region city order_id checkout_id cart_id currency
        coupon search_query list_id promotion_id;
    money revenue total tax shipping discount;
    integer screen_width screen_height;
    json consent
}

columns! { ITEM_COLUMNS: ItemColumn of Item;
    text product_id sku name brand category variant coupon;
    money price;
    integer quantity position;
    json
}

impl Holds {
    /// Whether values of that type can be in such a column.
    pub fn fits(self, kind: Kind) -> bool {
        match self {
            Self::Text => matches!(kind, Kind::String | Kind::Timestamp),
            Self::Money => matches!(kind, Kind::Money | Kind::Number),
            Self::Integer => matches!(kind, Kind::Integer | Kind::Number),
            Self::Json => kind == Kind::Object,
        }
    }

    /// The type to write in its place.
    pub const fn usual(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Money => "money",
            Self::Integer => "integer",
            Self::Json => "object",
        }
    }
}

impl<'e> Value<'e> {
    /// Of JSON text; `None` for null and for the empty string, which clients
    /// send for nothing.
    pub fn json(json: &Json<'e>) -> Option<Self> {
        match json.get() {
            "null" | "\"\"" => None,
            text => Some(Self::Json(Cow::Borrowed(text))),
        }
    }

    /// Whether it is of that type.
    pub fn is(&self, kind: Kind) -> bool {
        match self {
            Self::Text(text) => match kind {
                Kind::String => true,
                Kind::Timestamp => Timestamp::parse(text).is_ok(),
                _ => false,
            },
            Self::Money(_) => matches!(kind, Kind::Money | Kind::Number),
            Self::Integer(_) => matches!(kind, Kind::Integer | Kind::Number),
            Self::Json(json) => {
                let first = json.bytes().next().unwrap_or_default();
                let number = first == b'-' || first.is_ascii_digit();
                match kind {
                    Kind::String => first == b'"',
                    Kind::Number => number,
                    Kind::Integer => json.parse::<i64>().is_ok(),
                    Kind::Money => number && Money::parse(json).is_ok(),
                    Kind::Boolean => matches!(&**json, "true" | "false"),
                    Kind::Timestamp => {
                        self.text().is_some_and(|text| Timestamp::parse(&text).is_ok())
                    }
                    Kind::Object => first == b'{',
                    Kind::Array => first == b'[',
                }
            }
        }
    }

    /// As `allowed` has it: a string's text, an integer's digits.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Integer(number) => Some(Cow::Owned(number.to_string())),
            Self::Money(_) => None,
            Self::Json(json) if json.starts_with('"') => serde_json::from_str(json).ok(),
            Self::Json(json) => Some(Cow::Borrowed(json)),
        }
    }

    /// For `min` and `max`, which are no arithmetic: an approximation will do.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Money(money) => money.to_string().parse().ok(),
            Self::Integer(number) => number.to_string().parse().ok(),
            Self::Json(json) => json.parse().ok(),
            Self::Text(_) => None,
        }
    }
}
