//! Orders and products among an event's properties.

use clickmill_schemas::{Event, Item};

use crate::protocol::json::{Object, elements};

/// Events about one product, which stands at the top of the properties.
const OF_ONE_PRODUCT: &[&str] = &[
    "product_view",
    "product_click",
    "add_to_cart",
    "remove_from_cart",
    "add_to_wishlist",
    "remove_from_wishlist",
    "wishlist_to_cart",
    "product_share",
    "product_review",
];

/// Fills the commerce columns.
pub(super) fn take<'a>(event: &mut Event<'a>, properties: &mut Object<'a>) {
    if properties.is_empty() {
        return;
    }
    take_items(event, properties);
    event.order_id = properties.take_text("order_id").or_else(|| properties.take_text("orderId"));
    event.checkout_id =
        properties.take_text("checkout_id").or_else(|| properties.take_text("checkoutId"));
    event.cart_id = properties.take_text("cart_id").or_else(|| properties.take_text("cartId"));
    event.revenue = properties.take_money("revenue");
    event.total = properties.take_money("total");
    event.tax = properties.take_money("tax");
    event.shipping = properties.take_money("shipping");
    event.discount = properties.take_money("discount");
    event.coupon = properties.take_text("coupon");
    event.list_id = properties.take_text("list_id");
    event.promotion_id = properties.take_text("promotion_id");
    if event.event_name == "search" {
        event.search_query = properties.take_text("query");
    }
    if let Some(currency) = properties.text("currency")
        && currency.len() == 3
        && currency.bytes().all(|b| b.is_ascii_alphabetic())
    {
        if currency.bytes().all(|b| b.is_ascii_uppercase()) {
            properties.remove("currency");
            event.currency = Some(currency);
        } else {
            event.currency = Some(currency.to_ascii_uppercase().into());
        }
    }
}

/// `products`, or the one product of an event about one.
fn take_items<'a>(event: &mut Event<'a>, properties: &mut Object<'a>) {
    if let Some(sent) = properties.get("products").and_then(elements) {
        let mut exact = true;
        for product in sent {
            let Some(mut product) = Object::of(&product) else {
                exact = false;
                continue;
            };
            let item = take_item(&mut product);
            exact &= product.is_empty();
            // An element that says nothing that a column holds is no product.
            if item == Item::default() {
                exact = false;
            } else {
                event.items.push(item);
            }
        }
        if exact && !event.items.is_empty() {
            properties.remove("products");
        }
        return;
    }
    if OF_ONE_PRODUCT.contains(&event.event_name.as_ref()) {
        let item = take_item(properties);
        if item != Item::default() {
            event.items.push(item);
        }
    }
}

fn take_item<'a>(product: &mut Object<'a>) -> Item<'a> {
    Item {
        // Version 1 calls it `id`.
        product_id: product
            .take_text("product_id")
            .or_else(|| product.take_text("productId"))
            .or_else(|| product.take_text("id")),
        sku: product.take_text("sku"),
        name: product.take_text("name"),
        brand: product.take_text("brand"),
        category: product.take_text("category"),
        variant: product.take_text("variant"),
        price: product.take_money("price"),
        quantity: product.take_integer("quantity"),
        coupon: product.take_text("coupon"),
        position: product.take_integer("position"),
    }
}
