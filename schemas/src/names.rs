//! The vocabulary: canonical event names and protocols.

/// Every canonical event name. What a shop calls anything else is `custom`,
/// with its own name in `source_event_name`.
pub const EVENT_NAMES: &[&str] = &[
    "page_view",
    "screen_view",
    "page_ping",
    "product_view",
    "product_list_view",
    "product_list_filter",
    "product_click",
    "add_to_cart",
    "remove_from_cart",
    "cart_view",
    "begin_checkout",
    "checkout_step",
    "checkout_step_completed",
    "payment_info",
    "shipping_info",
    "purchase",
    "order_updated",
    "order_cancelled",
    "refund",
    "search",
    "promotion_view",
    "promotion_click",
    "coupon_entered",
    "coupon_applied",
    "coupon_denied",
    "coupon_removed",
    "add_to_wishlist",
    "remove_from_wishlist",
    "wishlist_to_cart",
    "product_share",
    "cart_share",
    "product_review",
    "identify",
    "group",
    "alias",
    "transaction_error",
    "custom",
];

/// Every value of `source_protocol`.
pub const PROTOCOLS: &[&str] = &["segment", "rudderstack", "snowplow", "ga4", "native", "import"];

/// True for a name of [`EVENT_NAMES`].
#[must_use]
pub fn is_event_name(name: &str) -> bool {
    EVENT_NAMES.contains(&name)
}
