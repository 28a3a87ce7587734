//! Segment's e-commerce vocabulary, version 2 and 1, to canonical names.

use clickmill_schemas::names::EVENT_NAMES;

/// Version 2 names and their canonical ones. Version 1 has the words the other
/// way round ("Viewed Product"), or is in [`OLDER`].
const V2: &[(&str, &str)] = &[
    ("products searched", "search"),
    ("product list viewed", "product_list_view"),
    ("product list filtered", "product_list_filter"),
    ("promotion viewed", "promotion_view"),
    ("promotion clicked", "promotion_click"),
    ("product clicked", "product_click"),
    ("product viewed", "product_view"),
    ("product added", "add_to_cart"),
    ("product removed", "remove_from_cart"),
    ("cart viewed", "cart_view"),
    ("checkout started", "begin_checkout"),
    ("checkout step viewed", "checkout_step"),
    ("checkout step completed", "checkout_step_completed"),
    ("payment info entered", "payment_info"),
    ("order completed", "purchase"),
    ("order updated", "order_updated"),
    ("order refunded", "refund"),
    ("order cancelled", "order_cancelled"),
    ("coupon entered", "coupon_entered"),
    ("coupon applied", "coupon_applied"),
    ("coupon denied", "coupon_denied"),
    ("coupon removed", "coupon_removed"),
    ("product added to wishlist", "add_to_wishlist"),
    ("product removed from wishlist", "remove_from_wishlist"),
    ("wishlist product added to cart", "wishlist_to_cart"),
    ("product shared", "product_share"),
    ("cart shared", "cart_share"),
    ("product reviewed", "product_review"),
];

/// Names that are not a version 2 name with its last word in front.
const OLDER: &[(&str, &str)] = &[
    ("viewed product category", "product_list_view"),
    ("product category viewed", "product_list_view"),
    ("started order", "begin_checkout"),
    ("order started", "begin_checkout"),
    ("order canceled", "order_cancelled"),
    ("canceled order", "order_cancelled"),
    ("added product to wishlist", "add_to_wishlist"),
    ("removed product from wishlist", "remove_from_wishlist"),
    ("added wishlist product to cart", "wishlist_to_cart"),
    ("searched products", "search"),
];

/// The canonical name of a track call's `event`, compared without case and
/// with `_` and `-` read as spaces; `custom` where it is none of the
/// vocabulary. A canonical name means itself.
#[must_use]
pub fn event_name(sent: &str) -> &'static str {
    let words: Vec<String> = sent
        .split(|c: char| c.is_whitespace() || c == '_' || c == '-')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    let name = words.join(" ");
    let known = V2.iter().chain(OLDER).find(|(known, _)| *known == name);
    if let Some((_, canonical)) = known {
        return canonical;
    }
    if let Some((first, rest)) = words.split_first() {
        let turned = format!("{} {first}", rest.join(" "));
        if let Some((_, canonical)) = V2.iter().find(|(known, _)| *known == turned) {
            return canonical;
        }
    }
    EVENT_NAMES.iter().find(|canonical| **canonical == sent).copied().unwrap_or("custom")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_to_a_canonical_one() {
        for (_, canonical) in V2.iter().chain(OLDER) {
            assert!(EVENT_NAMES.contains(canonical), "{canonical}");
        }
    }

    #[test]
    fn both_versions_and_other_spellings_are_known() {
        for (sent, expected) in [
            ("Order Completed", "purchase"),
            ("Completed Order", "purchase"),
            ("order_completed", "purchase"),
            (" PRODUCT  Viewed ", "product_view"),
            ("Viewed Product", "product_view"),
            ("Added Product", "add_to_cart"),
            ("Removed Product", "remove_from_cart"),
            ("Viewed Product Category", "product_list_view"),
            ("Viewed Checkout Step", "checkout_step"),
            ("Completed Checkout Step", "checkout_step_completed"),
            ("Clicked Promotion", "promotion_click"),
            ("Wishlist Product Added to Cart", "wishlist_to_cart"),
            ("Product Removed from Wishlist", "remove_from_wishlist"),
            ("Products Searched", "search"),
            ("add_to_cart", "add_to_cart"),
            ("Newsletter Opened", "custom"),
            ("Product", "custom"),
            ("", "custom"),
        ] {
            assert_eq!(event_name(sent), expected, "{sent}");
        }
    }
}
