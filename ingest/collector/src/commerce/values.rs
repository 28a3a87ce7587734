//! What commerce events are made of.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use clickmill_schemas::{Item, Money};

/// A currency's code: three upper-case letters, as ISO 4217 has them. Whether
/// such a currency exists is not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Currency([u8; 3]);

/// The text is not three ASCII letters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no currency; give the three letters of ISO 4217, such as EUR")]
pub struct CurrencyError(String);

macro_rules! currencies {
    ($($code:ident $bytes:literal),* $(,)?) => {
        /// Codes at hand; any other by [`Currency::parse`].
        impl Currency {
            $(#[doc = concat!("`", stringify!($code), "`.")] pub const $code: Self = Self(*$bytes);)*
        }
    };
}

currencies! {
    AUD b"AUD", BRL b"BRL", CAD b"CAD", CHF b"CHF", CNY b"CNY", CZK b"CZK", DKK b"DKK",
    EUR b"EUR", GBP b"GBP", HUF b"HUF", INR b"INR", JPY b"JPY", MXN b"MXN", NOK b"NOK",
    NZD b"NZD", PLN b"PLN", SEK b"SEK", TRY b"TRY", USD b"USD", ZAR b"ZAR",
}

impl Currency {
    /// From its code, in upper or lower case.
    ///
    /// # Errors
    /// [`CurrencyError`] where it is not three ASCII letters.
    pub fn parse(code: &str) -> Result<Self, CurrencyError> {
        match code.as_bytes() {
            &[a, b, c] if [a, b, c].iter().all(u8::is_ascii_alphabetic) => {
                Ok(Self([a, b, c].map(|letter| letter.to_ascii_uppercase())))
            }
            _ => Err(CurrencyError(code.chars().take(16).collect())),
        }
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> &str {
        // ASCII letters only, whichever way it was made.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for Currency {
    type Err = CurrencyError;

    fn from_str(code: &str) -> Result<Self, CurrencyError> {
        Self::parse(code)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A product in an event. One that has none of its values but the id is fine:
/// the shop's own export knows the rest.
///
/// ```
/// use clickmill_collector::{Money, commerce::Product};
/// let tea = Product::new("tea-7").name("Earl Grey").price(Money::parse("15.90")?).quantity(2);
/// # Ok::<(), clickmill_collector::MoneyError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Product<'a>(Item<'a>);

impl<'a> Product<'a> {
    /// By the shop's product id, the one that its export of products has.
    pub fn new(product_id: impl Into<Cow<'a, str>>) -> Self {
        Self(Item { product_id: text(product_id), ..Item::default() })
    }

    /// Stock keeping unit.
    pub fn sku(mut self, sku: impl Into<Cow<'a, str>>) -> Self {
        self.0.sku = text(sku);
        self
    }

    /// Name, as the visitor sees it.
    pub fn name(mut self, name: impl Into<Cow<'a, str>>) -> Self {
        self.0.name = text(name);
        self
    }

    /// Brand.
    pub fn brand(mut self, brand: impl Into<Cow<'a, str>>) -> Self {
        self.0.brand = text(brand);
        self
    }

    /// Category, levels separated by `/`.
    pub fn category(mut self, category: impl Into<Cow<'a, str>>) -> Self {
        self.0.category = text(category);
        self
    }

    /// Variant: size, colour, ...
    pub fn variant(mut self, variant: impl Into<Cow<'a, str>>) -> Self {
        self.0.variant = text(variant);
        self
    }

    /// Price of *one*, in the event's currency.
    pub fn price(mut self, price: Money) -> Self {
        self.0.price = Some(price);
        self
    }

    /// How many.
    pub fn quantity(mut self, quantity: u32) -> Self {
        self.0.quantity = Some(quantity.into());
        self
    }

    /// Coupon code on this product.
    pub fn coupon(mut self, coupon: impl Into<Cow<'a, str>>) -> Self {
        self.0.coupon = text(coupon);
        self
    }

    /// Position in its list, from 1. Past 2,147,483,647 it stays there.
    pub fn position(mut self, position: u32) -> Self {
        self.0.position = Some(i32::try_from(position).unwrap_or(i32::MAX));
        self
    }
}

impl<'a> From<Product<'a>> for Item<'a> {
    fn from(product: Product<'a>) -> Self {
        product.0
    }
}

/// Empty text is what clients mean by nothing.
pub(super) fn text<'a>(text: impl Into<Cow<'a, str>>) -> Option<Cow<'a, str>> {
    let text = text.into();
    (!text.is_empty()).then_some(text)
}
