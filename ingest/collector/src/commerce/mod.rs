//! E-commerce events as typed values, for shops that record on the server.
//!
//! ```
//! use clickmill_collector::commerce::{Currency, OrderEvent, Product};
//! use clickmill_collector::{Collector, Money};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let collector = Collector::builder(folder.path()).app_id("shop-de").start().await?;
//! let total = Money::parse("31.80")?;
//! let purchase = OrderEvent::purchase("A-1001", Currency::EUR, total)
//!     .anonymous_id("3f0c")
//!     .product(Product::new("tea-7").price(Money::parse("15.90")?).quantity(2));
//! collector.record_durable(purchase).await?; // on disk when it returns
//! # Ok(()) }
//! ```
//!
//! # Guarantees
//! What a kind of event cannot do without is an argument of its constructor,
//! what it cannot have it has no method for; amounts, currencies and
//! quantities are types that hold nothing else. The event's id is a UUIDv7
//! and its time is now, unless you say otherwise. Text is taken as it is;
//! empty text is left out.
//!
//! # Which value for which event
//!
//! | type | events |
//! |---|---|
//! | [`ProductEvent`] | `product_view`, `product_click`, `add_to_cart`, `remove_from_cart`, `add_to_wishlist`, `remove_from_wishlist`, `wishlist_to_cart`, `product_share`, `product_review` |
//! | [`ListEvent`] | `product_list_view`, `product_list_filter`, `search` |
//! | [`PromotionEvent`] | `promotion_view`, `promotion_click` |
//! | [`CheckoutEvent`] | `cart_view`, `cart_share`, `begin_checkout`, `checkout_step`, `checkout_step_completed`, `payment_info`, `shipping_info`, `coupon_entered`, `coupon_applied`, `coupon_denied`, `coupon_removed` |
//! | [`OrderEvent`] | `purchase`, `order_updated`, `order_cancelled`, `refund`, `transaction_error` |

mod events;
mod values;

pub use events::{CheckoutEvent, ListEvent, OrderEvent, ProductEvent, PromotionEvent};
pub use values::{Currency, CurrencyError, Product};

use clickmill_schemas::Event;

/// Anything that makes one [`Event`]: the types of this module.
pub trait IntoEvent<'a> {
    /// The event, for the application `app_id`.
    fn into_event(self, app_id: &'a str) -> Event<'a>;
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
