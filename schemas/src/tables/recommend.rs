//! What goes together: the material of recommendations.

use super::{Kind, TableSpec, money, optional, required, text};

/// One row a person, product and day.
pub const INTERACTIONS: TableSpec = TableSpec {
    name: "interactions",
    grain: "a customer or visitor, a product and a day",
    doc: "Who was interested in what, and how much: the training set for recommendations. A visitor \
          counts as the customer of the event's user_id, else as the first one that `identity_map` links \
          it with by 7 days after the day; who is none stays a visitor. Purchases are the shop's orders, \
          the rest comes from the tracker, without bots and sessions of bots. `weight` is views + clicks + 3 x wishlists + 5 \
          x carts + 10 x purchases, each counted up to 10 times. A daily job.",
    key: &["subject_type", "subject_id", "product_id", "dt"],
    sort: &["subject_type", "subject_id", "product_id"],
    stats: &["subject_id", "product_id"],
    partitioned: true,
    columns: &[
        required("subject_type", Kind::Utf8, "customer or visitor"),
        required("subject_id", Kind::Utf8, "customer_id or visitor_id"),
        required("product_id", Kind::Utf8, "The shop's product"),
        required("views", Kind::Int64, "product_view events"),
        required("clicks", Kind::Int64, "product_click events"),
        required("wishlists", Kind::Int64, "add_to_wishlist events"),
        required("carts", Kind::Int64, "add_to_cart events"),
        required("purchases", Kind::Int64, "Orders that hold it with a positive quantity"),
        required("units", Kind::Int64, "Pieces in these"),
        money("revenue", "Sum of quantity x unit_price - discount of these; NULL without"),
        text("revenue_currency", "Of revenue; NULL when there is none or more than one"),
        text("reporting_currency", "ISO 4217, of reporting_revenue"),
        money("reporting_revenue", "revenue in reporting_currency, each line at its order's rate"),
        optional("unconverted", Kind::Int64, "Lines that reporting_revenue leaves out: no rate"),
        required("weight", Kind::Int64, "Strength of the interest"),
        required("dt", Kind::Date, "UTC date"),
    ],
};

/// One row a pair of products.
pub const CO_VIEWED: TableSpec = TableSpec {
    name: "co_viewed",
    grain: "a product and another that is viewed with it",
    doc: "Viewed together: in one session, without bots, in the 90 days up to the newest session. Of a \
          session the first 50 different products count; pairs seen together once are left out, and a \
          product keeps its 50 strongest. A daily job.",
    key: &["product_id", "other_product_id"],
    sort: &["product_id", "position"],
    stats: &["product_id"],
    partitioned: false,
    columns: &[
        required("product_id", Kind::Utf8, "A product"),
        required("other_product_id", Kind::Utf8, "Another one"),
        required("position", Kind::Int32, "Among the product's, from 1: by together, lift, id"),
        required("together", Kind::Int64, "Sessions that viewed both"),
        required("views", Kind::Int64, "Sessions that viewed the product"),
        required("other_views", Kind::Int64, "Sessions that viewed the other"),
        required("sessions", Kind::Int64, "Sessions that viewed any product"),
        optional("support", Kind::Float64, "together / sessions"),
        optional(
            "confidence",
            Kind::Float64,
            "together / views: of those who saw it, how many saw the other",
        ),
        optional(
            "lift",
            Kind::Float64,
            "confidence / (other_views / sessions): above 1, more often than by chance",
        ),
    ],
};

/// One row a pair of products.
pub const CO_BOUGHT: TableSpec = TableSpec {
    name: "co_bought",
    grain: "a product and another that is bought with it",
    doc: "Bought together: in one order of the shop, in the 365 days up to the newest order. Of an order \
          the first 50 different products count; pairs bought together once are left out, and a product \
          keeps its 50 strongest. A daily job.",
    key: &["product_id", "other_product_id"],
    sort: &["product_id", "position"],
    stats: &["product_id"],
    partitioned: false,
    columns: &[
        required("product_id", Kind::Utf8, "A product"),
        required("other_product_id", Kind::Utf8, "Another one"),
        required("position", Kind::Int32, "Among the product's, from 1: by together, lift, id"),
        required("together", Kind::Int64, "Orders that hold both"),
        required("bought", Kind::Int64, "Orders that hold the product"),
        required("other_bought", Kind::Int64, "Orders that hold the other"),
        required("orders", Kind::Int64, "Orders with any product"),
        optional("support", Kind::Float64, "together / orders"),
        optional(
            "confidence",
            Kind::Float64,
            "together / bought: of those who bought it, how many bought the other",
        ),
        optional(
            "lift",
            Kind::Float64,
            "confidence / (other_bought / orders): above 1, more often than by chance",
        ),
    ],
};
