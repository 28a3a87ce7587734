//! The kinds of commerce events.

use std::borrow::Cow;

use clickmill_schemas::{Event, EventTime, Money, RawJson, Timestamp};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::IntoEvent;
use super::values::{Currency, Product, text};
use crate::layer::Visitor;

/// What all kinds share: an event that lacks its application, and what goes
/// into its properties.
#[derive(Clone, Debug)]
struct Draft<'a> {
    event: Event<'a>,
    properties: Map<String, Value>,
}

impl<'a> Draft<'a> {
    fn new(name: &'static str) -> Self {
        let now = Timestamp::now();
        let time = EventTime::resolve(Some(now), None, now);
        let id = Uuid::now_v7().to_string();
        let mut event = Event::new(id, name, "native", "", time);
        event.platform = Some("server".into());
        Self { event, properties: Map::new() }
    }

    fn finish(self, app_id: &'a str) -> Event<'a> {
        let mut event = self.event;
        event.app_id = app_id.into();
        if !self.properties.is_empty() {
            // String keys, and values that are JSON already: it cannot fail.
            event.properties = RawJson::from_value(&self.properties).ok();
        }
        event
    }
}

macro_rules! common {
    ($($kind:ident),*) => { $(
        /// Of every kind.
        impl<'a> $kind<'a> {
            /// The visitor that [`crate::layer`] found: its ids and its consent.
            pub fn visitor(mut self, visitor: &Visitor) -> Self {
                self.0.event.anonymous_id = visitor.id().map(|id| Cow::Owned(id.to_owned()));
                self.0.event.network_id = visitor.network_id().map(Cow::Owned);
                self.0.event.consent = visitor.consent();
                self
            }

            /// The visitor's id, where a browser or another system has given it one.
            pub fn anonymous_id(mut self, id: impl Into<Cow<'a, str>>) -> Self {
                self.0.event.anonymous_id = text(id);
                self
            }

            /// The shop's own id of the customer, once it is known.
            pub fn user_id(mut self, id: impl Into<Cow<'a, str>>) -> Self {
                self.0.event.user_id = text(id);
                self
            }

            /// The event's id, in place of a new UUIDv7: give one that is the
            /// same whenever you send this event again (`order-A-1001-purchase`),
            /// and it counts once.
            pub fn event_id(mut self, id: impl Into<Cow<'a, str>>) -> Self {
                if let Some(id) = text(id) {
                    self.0.event.event_id = id;
                }
                self
            }

            /// When it happened, in place of now. Over 30 days ago or over an
            /// hour ahead becomes now: see [`EventTime::resolve`].
            pub fn at(mut self, at: Timestamp) -> Self {
                let time = EventTime::resolve(Some(at), None, Timestamp::now());
                self.0.event.set_time(time);
                self
            }

            /// The page it happened on.
            pub fn page_url(mut self, url: impl Into<Cow<'a, str>>) -> Self {
                self.0.event.page_url = text(url);
                self
            }

            /// ISO 4217 currency of every amount in the event.
            pub fn currency(mut self, currency: Currency) -> Self {
                self.0.event.currency = Some(Cow::Owned(currency.code().to_owned()));
                self
            }

            /// Anything that has no column, under a name of your own. Amounts
            /// belong in the typed methods: a float is not exact.
            pub fn property(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
                self.0.properties.insert(name.into(), value.into());
                self
            }
        }

        impl<'a> IntoEvent<'a> for $kind<'a> {
            fn into_event(self, app_id: &'a str) -> Event<'a> {
                self.0.finish(app_id)
            }
        }
    )* };
}

common!(ProductEvent, ListEvent, PromotionEvent, CheckoutEvent, OrderEvent);

/// Constructors that differ in the event's name only: each calls `new` with it.
macro_rules! kinds {
    ($kind:ident $arguments:tt: $($(#[$doc:meta])+ $method:ident = $name:literal),+ $(,)?) => {
        impl<'a> $kind<'a> { $( kinds!(@ $arguments $(#[$doc])+ $method = $name); )+ }
    };
    (@ ($($argument:ident: $type:ty),*) $(#[$doc:meta])+ $method:ident = $name:literal) => {
        $(#[$doc])+
        pub fn $method($($argument: $type),*) -> Self {
            Self::new($name, $($argument),*)
        }
    };
}

/// Methods named as the column that they fill, with a text or an amount.
macro_rules! columns {
    ($kind:ident: $($(#[$doc:meta])+ $column:ident: $of:ident),+ $(,)?) => {
        impl<'a> $kind<'a> { $( columns!(@ $(#[$doc])+ $column: $of); )+ }
    };
    (@ $(#[$doc:meta])+ $column:ident: Text) => {
        $(#[$doc])+
        pub fn $column(mut self, $column: impl Into<Cow<'a, str>>) -> Self {
            self.0.event.$column = text($column);
            self
        }
    };
    (@ $(#[$doc:meta])+ $column:ident: Money) => {
        $(#[$doc])+
        pub fn $column(mut self, $column: Money) -> Self {
            self.0.event.$column = Some($column);
            self
        }
    };
}

macro_rules! products {
    ($($kind:ident: $which:literal),+ $(,)?) => { $(
        impl<'a> $kind<'a> {
            #[doc = concat!("A product ", $which, ".")]
            pub fn product(self, product: Product<'a>) -> Self {
                self.products([product])
            }

            #[doc = concat!("Products ", $which, ".")]
            pub fn products(mut self, products: impl IntoIterator<Item = Product<'a>>) -> Self {
                self.0.event.items.extend(products.into_iter().map(Into::into));
                self
            }
        }
    )+ };
}

products! {
    ListEvent: "that was shown in it",
    PromotionEvent: "that it is for",
    CheckoutEvent: "in the cart",
    OrderEvent: "in the order",
}

/// An event about one product.
#[derive(Clone, Debug)]
#[must_use]
pub struct ProductEvent<'a>(Draft<'a>);

kinds! { ProductEvent(product: Product<'a>):
    /// `product_view`: its page was seen.
    view = "product_view",
    /// `product_click`: it was clicked in a list.
    click = "product_click",
    /// `add_to_cart`: this many were added (give the product's quantity).
    add_to_cart = "add_to_cart",
    /// `remove_from_cart`: this many were taken out.
    remove_from_cart = "remove_from_cart",
    /// `add_to_wishlist`.
    add_to_wishlist = "add_to_wishlist",
    /// `remove_from_wishlist`.
    remove_from_wishlist = "remove_from_wishlist",
    /// `wishlist_to_cart`: from the wish list into the cart.
    wishlist_to_cart = "wishlist_to_cart",
    /// `product_share`: shown to somebody else.
    share = "product_share",
    /// `product_review`: somebody said what it is worth.
    review = "product_review",
}

columns! { ProductEvent:
    /// The list that it was clicked in.
    list_id: Text,
    /// The cart that it went into or came from.
    cart_id: Text,
}

impl<'a> ProductEvent<'a> {
    fn new(name: &'static str, product: Product<'a>) -> Self {
        let mut draft = Draft::new(name);
        draft.event.items.push(product.into());
        Self(draft)
    }
}

/// An event about a list of products.
#[derive(Clone, Debug)]
#[must_use]
pub struct ListEvent<'a>(Draft<'a>);

kinds! { ListEvent(list_id: impl Into<Cow<'a, str>>):
    /// `product_list_view`: a category or another list was seen.
    view = "product_list_view",
    /// `product_list_filter`: it was filtered or sorted; say how by properties.
    filter = "product_list_filter",
}

impl<'a> ListEvent<'a> {
    fn new(name: &'static str, list_id: impl Into<Cow<'a, str>>) -> Self {
        let mut draft = Draft::new(name);
        draft.event.list_id = text(list_id);
        Self(draft)
    }

    /// `search`: what was searched for. With no product, it found none.
    pub fn search(query: impl Into<Cow<'a, str>>) -> Self {
        let mut draft = Draft::new("search");
        draft.event.search_query = text(query);
        Self(draft)
    }
}

/// An event about a banner or another promotion.
#[derive(Clone, Debug)]
#[must_use]
pub struct PromotionEvent<'a>(Draft<'a>);

kinds! { PromotionEvent(promotion_id: impl Into<Cow<'a, str>>):
    /// `promotion_view`: it was seen.
    view = "promotion_view",
    /// `promotion_click`: it was clicked.
    click = "promotion_click",
}

impl<'a> PromotionEvent<'a> {
    fn new(name: &'static str, promotion_id: impl Into<Cow<'a, str>>) -> Self {
        let mut draft = Draft::new(name);
        draft.event.promotion_id = text(promotion_id);
        Self(draft)
    }
}

/// An event on the way from the cart to the order.
#[derive(Clone, Debug)]
#[must_use]
pub struct CheckoutEvent<'a>(Draft<'a>);

kinds! { CheckoutEvent():
    /// `cart_view`: the cart was seen.
    cart_view = "cart_view",
    /// `cart_share`: shown to somebody else.
    cart_share = "cart_share",
    /// `begin_checkout`.
    begin = "begin_checkout",
}

columns! { CheckoutEvent:
    /// The cart's id.
    cart_id: Text,
    /// The checkout's id.
    checkout_id: Text,
}

impl<'a> CheckoutEvent<'a> {
    fn new(name: &'static str) -> Self {
        Self(Draft::new(name))
    }

    fn with(name: &'static str, property: &str, value: impl Into<Value>) -> Self {
        Self::new(name).property(property, value)
    }

    fn of_coupon(name: &'static str, coupon: impl Into<Cow<'a, str>>) -> Self {
        let mut event = Self::new(name);
        event.0.event.coupon = text(coupon);
        event
    }

    /// `checkout_step`: the step of this number, from 1, was seen.
    pub fn step_viewed(step: u32) -> Self {
        Self::with("checkout_step", "step", step)
    }

    /// `checkout_step_completed`: it was left for the next.
    pub fn step_completed(step: u32) -> Self {
        Self::with("checkout_step_completed", "step", step)
    }

    /// `payment_info`: how to pay was chosen. Never the card's number.
    pub fn payment_info(method: impl Into<String>) -> Self {
        Self::with("payment_info", "payment_method", method.into())
    }

    /// `shipping_info`: how to ship was chosen.
    pub fn shipping_info(method: impl Into<String>) -> Self {
        Self::with("shipping_info", "shipping_method", method.into())
    }

    /// `coupon_entered`.
    pub fn coupon_entered(coupon: impl Into<Cow<'a, str>>) -> Self {
        Self::of_coupon("coupon_entered", coupon)
    }

    /// `coupon_applied`: it was good; the discount is what it took off.
    pub fn coupon_applied(coupon: impl Into<Cow<'a, str>>, discount: Money) -> Self {
        let mut event = Self::of_coupon("coupon_applied", coupon);
        event.0.event.discount = Some(discount);
        event
    }

    /// `coupon_denied`, and why.
    pub fn coupon_denied(coupon: impl Into<Cow<'a, str>>, reason: impl Into<String>) -> Self {
        Self::of_coupon("coupon_denied", coupon).property("reason", reason.into())
    }

    /// `coupon_removed`.
    pub fn coupon_removed(coupon: impl Into<Cow<'a, str>>) -> Self {
        Self::of_coupon("coupon_removed", coupon)
    }

    /// What the cart is worth, with shipping and tax as far as they are known.
    pub fn total(mut self, currency: Currency, total: Money) -> Self {
        self.0.event.total = Some(total);
        self.currency(currency)
    }
}

/// An event about an order.
#[derive(Clone, Debug)]
#[must_use]
pub struct OrderEvent<'a>(Draft<'a>);

columns! { OrderEvent:
    /// The goods' worth after discount, without shipping and tax.
    revenue: Money,
    /// The tax in the total.
    tax: Money,
    /// The shipping in the total.
    shipping: Money,
    /// What was taken off, a positive amount.
    discount: Money,
    /// Coupon code on the order.
    coupon: Text,
    /// The cart's id.
    cart_id: Text,
    /// The checkout's id.
    checkout_id: Text,
}

impl<'a> OrderEvent<'a> {
    fn new(name: &'static str, order_id: impl Into<Cow<'a, str>>) -> Self {
        let mut draft = Draft::new(name);
        draft.event.order_id = text(order_id);
        Self(draft)
    }

    fn of_amount(
        name: &'static str,
        order_id: impl Into<Cow<'a, str>>,
        currency: Currency,
        total: Money,
    ) -> Self {
        let mut event = Self::new(name, order_id);
        event.0.event.total = Some(total);
        event.currency(currency)
    }

    /// `purchase`: the order was placed. `order_id` is the shop's own number,
    /// the one that its orders table has; `total` is with shipping and tax.
    pub fn purchase(order_id: impl Into<Cow<'a, str>>, currency: Currency, total: Money) -> Self {
        Self::of_amount("purchase", order_id, currency, total)
    }

    /// `order_updated`: it has this total and these products now.
    pub fn updated(order_id: impl Into<Cow<'a, str>>, currency: Currency, total: Money) -> Self {
        Self::of_amount("order_updated", order_id, currency, total)
    }

    /// `order_cancelled`.
    pub fn cancelled(order_id: impl Into<Cow<'a, str>>) -> Self {
        Self::new("order_cancelled", order_id)
    }

    /// `refund`: `amount`, a positive number, was paid back; with the products
    /// where it is for some of them only.
    pub fn refund(order_id: impl Into<Cow<'a, str>>, currency: Currency, amount: Money) -> Self {
        Self::of_amount("refund", order_id, currency, amount)
    }

    /// `transaction_error`: it could not be paid.
    pub fn failed(order_id: impl Into<Cow<'a, str>>, reason: impl Into<String>) -> Self {
        Self::new("transaction_error", order_id).property("reason", reason.into())
    }
}
