//! Daily facts by product and category.

use super::{Kind, TableSpec, money, optional, required, text};

/// One row a product and day.
pub const PRODUCT_DAILY: TableSpec = TableSpec {
    name: "product_daily",
    grain: "a product and a day",
    doc: "Impressions, views and carts from the tracker without bots; orders, units and revenue from \
          the shop's orders. Price and stock are the catalog's as of the end of the day.",
    key: &["product_id", "dt"],
    sort: &["product_id"],
    stats: &["product_id"],
    partitioned: true,
    columns: &[
        required("product_id", Kind::Utf8, "The shop's product"),
        text("name", "As of the day"),
        text("brand", "As of the day"),
        text(
            "category",
            "As of the day; as the tracker sent it for a product that the catalog does not have",
        ),
        required("impressions", Kind::Int64, "Times it stood in a list that was viewed"),
        required("clicks", Kind::Int64, "product_click events"),
        required("views", Kind::Int64, "product_view events"),
        required("viewers", Kind::Int64, "Visitors who viewed it"),
        required("carts", Kind::Int64, "add_to_cart events"),
        required("orders", Kind::Int64, "Orders that hold it with a positive quantity"),
        required("units", Kind::Int64, "Pieces ordered, less returned lines"),
        money("revenue", "Sum of quantity x unit_price - discount of its order lines"),
        optional("conversion", Kind::Float64, "orders / views; NULL without views"),
        money("price", "Catalog price at the end of the day"),
        text("currency", "Of price"),
        optional("stock", Kind::Int64, "Catalog stock at the end of the day"),
        required(
            "asof_backfilled",
            Kind::Bool,
            "The day lies before the first export: its first version was taken",
        ),
        required("dt", Kind::Date, "UTC date"),
    ],
};

/// One row a category and day.
pub const CATEGORY_DAILY: TableSpec = TableSpec {
    name: "category_daily",
    grain: "a category and a day",
    doc: "product_daily summed by category. Products without one are under `(none)`.",
    key: &["category", "dt"],
    sort: &["category"],
    stats: &["category"],
    partitioned: true,
    columns: &[
        required("category", Kind::Utf8, "Category as of the day, `(none)` where there is none"),
        required("products", Kind::Int64, "Products that were seen or sold"),
        required("impressions", Kind::Int64, "As in product_daily"),
        required("clicks", Kind::Int64, "As in product_daily"),
        required("views", Kind::Int64, "As in product_daily"),
        required("carts", Kind::Int64, "As in product_daily"),
        required("orders", Kind::Int64, "Orders that hold a product of it; an order counts once"),
        required("units", Kind::Int64, "As in product_daily"),
        money("revenue", "As in product_daily"),
        required("dt", Kind::Date, "UTC date"),
    ],
};
