//! The mapping tables' vocabulary: a protocol's field goes to a [`Column`], a
//! product's to an [`ItemColumn`]. The tables are data: decoders follow them,
//! and `docs/protocols.md` is printed from them.
//!
//! A value leaves what was sent only where the column holds it exactly; the
//! first field that fills a column wins, and others stay where they were.

use std::borrow::Cow;

use clickmill_schemas::{Event, Item, Money};

use super::json::{Object, elements};

/// A protocol's fields and their columns, in the order in which they are tried.
pub(crate) type Fields = &'static [(&'static str, Column)];
/// A product's fields and theirs.
pub(crate) type ItemFields = &'static [(&'static str, ItemColumn)];

/// How a protocol writes numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// As JSON numbers: a string that says one is read, and kept as well.
    Json,
    /// As strings, as all its values: one that is read is held exactly.
    Text,
}

macro_rules! columns {
    ($(#[$doc:meta])* $kind:ident: $($variant:ident => $name:ident,)+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $kind { $($variant,)+ }
        impl $kind {
            /// The column's name in tables.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($name),)+ }
            }
        }
    };
}

columns! {
    /// A column of [`Event`] that one field fills.
    Column:
    UserId => user_id,
    AnonymousId => anonymous_id,
    NetworkId => network_id,
    DeviceId => device_id,
    ClientSessionId => client_session_id,
    PageUrl => page_url,
    PageTitle => page_title,
    ReferrerUrl => referrer_url,
    UtmSource => utm_source,
    UtmMedium => utm_medium,
    UtmCampaign => utm_campaign,
    UtmTerm => utm_term,
    UtmContent => utm_content,
    ClickId => click_id,
    ClickIdType => click_id_type,
    UserAgent => user_agent,
    ScreenWidth => screen_width,
    ScreenHeight => screen_height,
    Language => language,
    Timezone => timezone,
    Platform => platform,
    OrderId => order_id,
    CheckoutId => checkout_id,
    CartId => cart_id,
    Currency => currency,
    Revenue => revenue,
    Total => total,
    Tax => tax,
    Shipping => shipping,
    Discount => discount,
    Coupon => coupon,
    SearchQuery => search_query,
    ListId => list_id,
    PromotionId => promotion_id,
}

columns! {
    /// A field of [`Item`].
    ItemColumn:
    ProductId => product_id,
    Sku => sku,
    Name => name,
    Brand => brand,
    Category => category,
    Variant => variant,
    Price => price,
    Quantity => quantity,
    Coupon => coupon,
    Position => position,
}

/// Where a column's value goes.
enum Slot<'e, 'a> {
    Text(&'e mut Option<Cow<'a, str>>),
    Money(&'e mut Option<Money>),
    Pixels(&'e mut Option<i32>),
    Count(&'e mut Option<i64>),
}

impl Column {
    fn slot<'e, 'a>(self, event: &'e mut Event<'a>) -> Slot<'e, 'a> {
        match self {
            Self::UserId => Slot::Text(&mut event.user_id),
            Self::AnonymousId => Slot::Text(&mut event.anonymous_id),
            Self::NetworkId => Slot::Text(&mut event.network_id),
            Self::DeviceId => Slot::Text(&mut event.device_id),
            Self::ClientSessionId => Slot::Text(&mut event.client_session_id),
            Self::PageUrl => Slot::Text(&mut event.page_url),
            Self::PageTitle => Slot::Text(&mut event.page_title),
            Self::ReferrerUrl => Slot::Text(&mut event.referrer_url),
            Self::UtmSource => Slot::Text(&mut event.utm_source),
            Self::UtmMedium => Slot::Text(&mut event.utm_medium),
            Self::UtmCampaign => Slot::Text(&mut event.utm_campaign),
            Self::UtmTerm => Slot::Text(&mut event.utm_term),
            Self::UtmContent => Slot::Text(&mut event.utm_content),
            Self::ClickId => Slot::Text(&mut event.click_id),
            Self::ClickIdType => Slot::Text(&mut event.click_id_type),
            Self::UserAgent => Slot::Text(&mut event.user_agent),
            Self::ScreenWidth => Slot::Pixels(&mut event.screen_width),
            Self::ScreenHeight => Slot::Pixels(&mut event.screen_height),
            Self::Language => Slot::Text(&mut event.language),
            Self::Timezone => Slot::Text(&mut event.timezone),
            Self::Platform => Slot::Text(&mut event.platform),
            Self::OrderId => Slot::Text(&mut event.order_id),
            Self::CheckoutId => Slot::Text(&mut event.checkout_id),
            Self::CartId => Slot::Text(&mut event.cart_id),
            Self::Currency => Slot::Text(&mut event.currency),
            Self::Revenue => Slot::Money(&mut event.revenue),
            Self::Total => Slot::Money(&mut event.total),
            Self::Tax => Slot::Money(&mut event.tax),
            Self::Shipping => Slot::Money(&mut event.shipping),
            Self::Discount => Slot::Money(&mut event.discount),
            Self::Coupon => Slot::Text(&mut event.coupon),
            Self::SearchQuery => Slot::Text(&mut event.search_query),
            Self::ListId => Slot::Text(&mut event.list_id),
            Self::PromotionId => Slot::Text(&mut event.promotion_id),
        }
    }
}

impl ItemColumn {
    fn slot<'e, 'a>(self, item: &'e mut Item<'a>) -> Slot<'e, 'a> {
        match self {
            Self::ProductId => Slot::Text(&mut item.product_id),
            Self::Sku => Slot::Text(&mut item.sku),
            Self::Name => Slot::Text(&mut item.name),
            Self::Brand => Slot::Text(&mut item.brand),
            Self::Category => Slot::Text(&mut item.category),
            Self::Variant => Slot::Text(&mut item.variant),
            Self::Price => Slot::Money(&mut item.price),
            Self::Quantity => Slot::Count(&mut item.quantity),
            Self::Coupon => Slot::Text(&mut item.coupon),
            Self::Position => Slot::Pixels(&mut item.position),
        }
    }
}

impl<'a> Slot<'_, 'a> {
    /// Fills it from `key`, if it is empty. What is there already and says the
    /// same goes, too.
    fn take(self, key: &str, from: &mut Object<'a>, numbers: Numbers) {
        match self {
            Slot::Text(slot) => match slot {
                None => *slot = from.take_text(key),
                Some(held) => {
                    if from.text(key).is_some_and(|same| same == *held) {
                        from.remove(key);
                    }
                }
            },
            Slot::Money(slot @ None) => {
                *slot = from.take_money(key);
                if numbers == Numbers::Text && slot.is_some() {
                    from.remove(key);
                }
            }
            Slot::Pixels(slot @ None) => {
                *slot = from.take_integer(key);
                if numbers == Numbers::Text && slot.is_some() {
                    from.remove(key);
                }
            }
            Slot::Count(slot @ None) => {
                *slot = from.take_integer(key);
                if numbers == Numbers::Text && slot.is_some() {
                    from.remove(key);
                }
            }
            Slot::Money(_) | Slot::Pixels(_) | Slot::Count(_) => {}
        }
    }
}

/// Fills `event` from `from`, as `fields` say.
pub(crate) fn take<'a>(
    event: &mut Event<'a>,
    fields: Fields,
    from: &mut Object<'a>,
    numbers: Numbers,
) {
    for (key, column) in fields {
        if *column == Column::Currency {
            take_currency(event, key, from);
        } else {
            column.slot(event).take(key, from, numbers);
        }
    }
}

/// Three letters; in lower case they are read, and kept as well.
pub(crate) fn take_currency<'a>(event: &mut Event<'a>, key: &str, from: &mut Object<'a>) {
    let Some(sent) = from.text(key) else { return };
    if sent.len() != 3 || !sent.bytes().all(|b| b.is_ascii_alphabetic()) {
        return;
    }
    let upper = sent.to_ascii_uppercase();
    let exact = upper == sent;
    let held = match &event.currency {
        Some(held) => *held == upper,
        None => {
            event.currency = Some(upper.into());
            true
        }
    };
    if exact && held {
        from.remove(key);
    }
}

/// One product; what has no column stays in `from`.
pub(crate) fn take_item<'a>(
    fields: ItemFields,
    from: &mut Object<'a>,
    numbers: Numbers,
) -> Item<'a> {
    let mut item = Item::default();
    for (key, column) in fields {
        column.slot(&mut item).take(key, from, numbers);
    }
    item
}

/// The products of the array at `key`. It goes where all of them are held exactly.
pub(crate) fn take_items<'a>(
    event: &mut Event<'a>,
    key: &str,
    fields: ItemFields,
    from: &mut Object<'a>,
) {
    let Some(sent) = from.get(key).and_then(elements) else { return };
    let mut exact = true;
    for product in sent {
        let Some(mut product) = Object::of(&product) else {
            exact = false;
            continue;
        };
        let item = take_item(fields, &mut product, Numbers::Json);
        exact &= product.is_empty();
        // An element that says nothing that a column holds is no product.
        if item == Item::default() {
            exact = false;
        } else {
            event.items.push(item);
        }
    }
    if exact && !event.items.is_empty() {
        from.remove(key);
    }
}

/// `1920x1080`, as Snowplow and Google write a screen.
pub(crate) fn take_screen(event: &mut Event<'_>, key: &str, from: &mut Object<'_>) {
    let Some(text) = from.text(key) else { return };
    let Some((width, height)) = text.split_once('x') else { return };
    let (Ok(width), Ok(height)) = (width.parse::<i32>(), height.parse::<i32>()) else { return };
    let exact = format!("{width}x{height}") == text;
    event.screen_width = Some(width);
    event.screen_height = Some(height);
    if exact {
        from.remove(key);
    }
}
