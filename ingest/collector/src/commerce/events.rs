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
            /// The visitor that [`crate::layer`] found: its id and its consent.
            pub fn visitor(mut self, visitor: &Visitor) -> Self {
                self.0.event.anonymous_id = visitor.id().map(|id| Cow::Owned(id.to_owned()));
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

/// An event about one product.
#[derive(Clone, Debug)]
#[must_use]
pub struct ProductEvent<'a>(Draft<'a>);

impl<'a> ProductEvent<'a> {
    fn new(name: &'static str, product: Product<'a>) -> Self {
        let mut draft = Draft::new(name);
        draft.event.items.push(product.into());
        Self(draft)
    }

    /// `product_view`: its page was seen.
    pub fn view(product: Product<'a>) -> Self {
        Self::new("product_view", product)
    }

    /// `product_click`: it was clicked in a list.
    pub fn click(product: Product<'a>) -> Self {
        Self::new("product_click", product)
    }

    /// `add_to_cart`: this many were added (give the product's quantity).
    pub fn add_to_cart(product: Product<'a>) -> Self {
        Self::new("add_to_cart", product)
    }

    /// `remove_from_cart`: this many were taken out.
    pub fn remove_from_cart(product: Product<'a>) -> Self {
        Self::new("remove_from_cart", product)
    }

    /// `add_to_wishlist`.
    pub fn add_to_wishlist(product: Product<'a>) -> Self {
        Self::new("add_to_wishlist", product)
    }

    /// `remove_from_wishlist`.
    pub fn remove_from_wishlist(product: Product<'a>) -> Self {
        Self::new("remove_from_wishlist", product)
    }

    /// `wishlist_to_cart`: from the wish list into the cart.
    pub fn wishlist_to_cart(product: Product<'a>) -> Self {
        Self::new("wishlist_to_cart", product)
    }

    /// `product_share`: shown to somebody else.
    pub fn share(product: Product<'a>) -> Self {
        Self::new("product_share", product)
    }

    /// `product_review`: somebody said what it is worth.
    pub fn review(product: Product<'a>) -> Self {
        Self::new("product_review", product)
    }

    /// The list that it was clicked in.
    pub fn list_id(mut self, id: impl Into<Cow<'a, str>>) -> Self {
        self.0.event.list_id = text(id);
        self
    }

    /// The cart that it went into or came from.
    pub fn cart_id(mut self, id: impl Into<Cow<'a, str>>) -> Self {
        self.0.event.cart_id = text(id);
        self
    }
}

/// An event about a list of products.
#[derive(Clone, Debug)]
#[must_use]
pub struct ListEvent<'a>(Draft<'a>);

impl<'a> ListEvent<'a> {
    /// `product_list_view`: a category or another list was seen.
    pub fn view(list_id: impl Into<Cow<'a, str>>) -> Self {
        let mut draft = Draft::new("product_list_view");
        draft.event.list_id = text(list_id);
        Self(draft)
    }

    /// `product_list_filter`: it was filtered or sorted; say how by properties.
    pub fn filter(list_id: impl Into<Cow<'a, str>>) -> Self {
        let mut draft = Draft::new("product_list_filter");
        draft.event.list_id = text(list_id);
        Self(draft)
    }

    /// `search`: what was searched for. With no product, it found none.
    pub fn search(query: impl Into<Cow<'a, str>>) -> Self {
        let mut draft = Draft::new("search");
        draft.event.search_query = text(query);
        Self(draft)
    }

    /// A product that was shown in it.
    pub fn product(mut self, product: Product<'a>) -> Self {
        self.0.event.items.push(product.into());
        self
    }

    /// Products that were shown in it.
    pub fn products(mut self, products: impl IntoIterator<Item = Product<'a>>) -> Self {
        self.0.event.items.extend(products.into_iter().map(Into::into));
        self
    }
}

/// An event about a banner or another promotion.
#[derive(Clone, Debug)]
#[must_use]
pub struct PromotionEvent<'a>(Draft<'a>);

impl<'a> PromotionEvent<'a> {
    fn new(name: &'static str, promotion_id: impl Into<Cow<'a, str>>) -> Self {
        let mut draft = Draft::new(name);
        draft.event.promotion_id = text(promotion_id);
        Self(draft)
    }

    /// `promotion_view`: it was seen.
    pub fn view(promotion_id: impl Into<Cow<'a, str>>) -> Self {
        Self::new("promotion_view", promotion_id)
    }

    /// `promotion_click`: it was clicked.
    pub fn click(promotion_id: impl Into<Cow<'a, str>>) -> Self {
        Self::new("promotion_click", promotion_id)
    }

    /// A product that it is for.
    pub fn product(mut self, product: Product<'a>) -> Self {
        self.0.event.items.push(product.into());
        self
    }
}

/// An event on the way from the cart to the order.
#[derive(Clone, Debug)]
#[must_use]
pub struct CheckoutEvent<'a>(Draft<'a>);

impl<'a> CheckoutEvent<'a> {
    fn step(name: &'static str, step: u32) -> Self {
        let mut draft = Draft::new(name);
        draft.properties.insert("step".to_owned(), step.into());
        Self(draft)
    }

    fn coupon(name: &'static str, coupon: impl Into<Cow<'a, str>>) -> Self {
        let mut draft = Draft::new(name);
        draft.event.coupon = text(coupon);
        Self(draft)
    }

    /// `cart_view`: the cart was seen.
    pub fn cart_view() -> Self {
        Self(Draft::new("cart_view"))
    }

    /// `cart_share`: shown to somebody else.
    pub fn cart_share() -> Self {
        Self(Draft::new("cart_share"))
    }

    /// `begin_checkout`.
    pub fn begin() -> Self {
        Self(Draft::new("begin_checkout"))
    }

    /// `checkout_step`: the step of this number, from 1, was seen.
    pub fn step_viewed(step: u32) -> Self {
        Self::step("checkout_step", step)
    }

    /// `checkout_step_completed`: it was left for the next.
    pub fn step_completed(step: u32) -> Self {
        Self::step("checkout_step_completed", step)
    }

    /// `payment_info`: how to pay was chosen. Never the card's number.
    pub fn payment_info(method: impl Into<String>) -> Self {
        let mut draft = Draft::new("payment_info");
        draft.properties.insert("payment_method".to_owned(), Value::String(method.into()));
        Self(draft)
    }

    /// `shipping_info`: how to ship was chosen.
    pub fn shipping_info(method: impl Into<String>) -> Self {
        let mut draft = Draft::new("shipping_info");
        draft.properties.insert("shipping_method".to_owned(), Value::String(method.into()));
        Self(draft)
    }

    /// `coupon_entered`.
    pub fn coupon_entered(coupon: impl Into<Cow<'a, str>>) -> Self {
        Self::coupon("coupon_entered", coupon)
    }

    /// `coupon_applied`: it was good; the discount is what it took off.
    pub fn coupon_applied(coupon: impl Into<Cow<'a, str>>, discount: Money) -> Self {
        let mut event = Self::coupon("coupon_applied", coupon);
        event.0.event.discount = Some(discount);
        event
    }

    /// `coupon_denied`, and why.
    pub fn coupon_denied(coupon: impl Into<Cow<'a, str>>, reason: impl Into<String>) -> Self {
        let mut event = Self::coupon("coupon_denied", coupon);
        event.0.properties.insert("reason".to_owned(), Value::String(reason.into()));
        event
    }

    /// `coupon_removed`.
    pub fn coupon_removed(coupon: impl Into<Cow<'a, str>>) -> Self {
        Self::coupon("coupon_removed", coupon)
    }

    /// The cart's id.
    pub fn cart_id(mut self, id: impl Into<Cow<'a, str>>) -> Self {
        self.0.event.cart_id = text(id);
        self
    }

    /// The checkout's id.
    pub fn checkout_id(mut self, id: impl Into<Cow<'a, str>>) -> Self {
        self.0.event.checkout_id = text(id);
        self
    }

    /// What the cart is worth, with shipping and tax as far as they are known.
    pub fn total(mut self, currency: Currency, total: Money) -> Self {
        self.0.event.total = Some(total);
        self.currency(currency)
    }

    /// A product in the cart.
    pub fn product(mut self, product: Product<'a>) -> Self {
        self.0.event.items.push(product.into());
        self
    }

    /// Products in the cart.
    pub fn products(mut self, products: impl IntoIterator<Item = Product<'a>>) -> Self {
        self.0.event.items.extend(products.into_iter().map(Into::into));
        self
    }
}

/// An event about an order.
#[derive(Clone, Debug)]
#[must_use]
pub struct OrderEvent<'a>(Draft<'a>);

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
        let mut event = Self::new("transaction_error", order_id);
        event.0.properties.insert("reason".to_owned(), Value::String(reason.into()));
        event
    }

    /// The goods' worth after discount, without shipping and tax.
    pub fn revenue(mut self, revenue: Money) -> Self {
        self.0.event.revenue = Some(revenue);
        self
    }

    /// The tax in the total.
    pub fn tax(mut self, tax: Money) -> Self {
        self.0.event.tax = Some(tax);
        self
    }

    /// The shipping in the total.
    pub fn shipping(mut self, shipping: Money) -> Self {
        self.0.event.shipping = Some(shipping);
        self
    }

    /// What was taken off, a positive amount.
    pub fn discount(mut self, discount: Money) -> Self {
        self.0.event.discount = Some(discount);
        self
    }

    /// Coupon code on the order.
    pub fn coupon(mut self, coupon: impl Into<Cow<'a, str>>) -> Self {
        self.0.event.coupon = text(coupon);
        self
    }

    /// The cart's id.
    pub fn cart_id(mut self, id: impl Into<Cow<'a, str>>) -> Self {
        self.0.event.cart_id = text(id);
        self
    }

    /// The checkout's id.
    pub fn checkout_id(mut self, id: impl Into<Cow<'a, str>>) -> Self {
        self.0.event.checkout_id = text(id);
        self
    }

    /// A product in the order.
    pub fn product(mut self, product: Product<'a>) -> Self {
        self.0.event.items.push(product.into());
        self
    }

    /// Products in the order.
    pub fn products(mut self, products: impl IntoIterator<Item = Product<'a>>) -> Self {
        self.0.event.items.extend(products.into_iter().map(Into::into));
        self
    }
}
