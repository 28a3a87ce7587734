//! Hashes that tables and batches rely on. They are part of the data: changing
//! one changes `content_hash` in every table.

use clickmill_schemas::Event;
use twox_hash::{XxHash3_64, XxHash3_128};

/// Tells one event from another: a 128-bit hash of (`app_id`, `event_id`).
#[must_use]
pub fn identity(app_id: &str, event_id: &str) -> u128 {
    let mut hasher = XxHash3_128::new();
    hasher.write(app_id.as_bytes());
    hasher.write(&[0xff]);
    hasher.write(event_id.as_bytes());
    hasher.finish_128()
}

/// Tells one record of a stream from another; 0 where no stream carried it.
#[must_use]
pub fn carrier(shard_id: Option<&str>, sequence_number: Option<&str>) -> u64 {
    let (Some(shard), Some(number)) = (shard_id, sequence_number) else { return 0 };
    let mut hasher = XxHash3_64::new();
    std::hash::Hasher::write(&mut hasher, shard.as_bytes());
    std::hash::Hasher::write(&mut hasher, &[0xff]);
    std::hash::Hasher::write(&mut hasher, number.as_bytes());
    std::hash::Hasher::finish(&hasher)
}

/// A hash of what the client sent, without clocks and lineage, which differ between copies.
#[must_use]
pub fn content(event: &Event<'_>) -> i64 {
    use std::hash::Hasher as _;
    let mut hasher = XxHash3_64::new();
    let mut text = |value: Option<&str>| match value {
        Some(value) => {
            hasher.write(value.as_bytes());
            hasher.write(&[0xff]);
        }
        None => hasher.write(&[0xfe]),
    };
    text(Some(&event.event_name));
    text(event.source_event_name.as_deref());
    for field in [
        &event.user_id,
        &event.anonymous_id,
        &event.device_id,
        &event.page_url,
        &event.order_id,
        &event.checkout_id,
        &event.cart_id,
        &event.currency,
        &event.coupon,
        &event.search_query,
        &event.list_id,
        &event.promotion_id,
    ] {
        text(field.as_deref());
    }
    text(event.properties.as_ref().map(|json| json.get()));
    for item in &event.items {
        text(item.product_id.as_deref());
        text(item.sku.as_deref());
        text(item.variant.as_deref());
    }
    for amount in [event.revenue, event.total, event.tax, event.shipping, event.discount] {
        hasher.write_i64(amount.map_or(i64::MIN, |money| money.unscaled()));
    }
    for item in &event.items {
        hasher.write_i64(item.price.map_or(i64::MIN, |money| money.unscaled()));
        hasher.write_i64(item.quantity.unwrap_or(i64::MIN));
    }
    hasher.finish() as i64
}
