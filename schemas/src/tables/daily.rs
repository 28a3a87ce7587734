//! Daily facts: by product, category, search and funnel.

use super::{Kind, TableSpec, money, optional, required, text};

/// One row a product and day.
pub const PRODUCT_DAILY: TableSpec = TableSpec {
    name: "product_daily",
    grain: "a product and a day",
    doc: "Impressions, views and carts from the tracker without bots and sessions of bots; orders, units and revenue from \
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
        text("revenue_currency", "Of revenue; NULL when there is none or more than one"),
        text("reporting_currency", "ISO 4217, of reporting_revenue"),
        money("reporting_revenue", "revenue in reporting_currency, each line at its order's rate"),
        optional("unconverted", Kind::Int64, "Lines that reporting_revenue leaves out: no rate"),
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
        text("revenue_currency", "Of revenue; NULL when there is none or more than one"),
        text("reporting_currency", "As in product_daily"),
        money("reporting_revenue", "As in product_daily"),
        optional("unconverted", Kind::Int64, "As in product_daily"),
        required("dt", Kind::Date, "UTC date"),
    ],
};

/// One row a search query and day.
pub const SEARCH_DAILY: TableSpec = TableSpec {
    name: "search_daily",
    grain: "a search query and a day",
    doc: "What visitors looked for, what they found, and what came of it; without bots and sessions \
          of bots. A search is followed by what comes in its session before the next search; a purchase \
          counts for every search before it in the session. A search found nothing where its event says \
          so: a number of results in its properties is 0 (`results`, `result_count`, `total_results`, \
          `nbHits`, ...: see docs/etl.md), or its list of products is empty. \
          One that says neither a number nor products is not among those.",
    key: &["search_query", "dt"],
    sort: &["search_query"],
    stats: &["search_query"],
    partitioned: true,
    columns: &[
        required("search_query", Kind::Utf8, "As typed, in lower case, spaces trimmed and joined"),
        required("searches", Kind::Int64, "search events"),
        required("searchers", Kind::Int64, "Visitors who searched for it"),
        optional(
            "with_results_known",
            Kind::Int64,
            "Searches that say how much they found: `zero_results` is a share of these",
        ),
        required("zero_results", Kind::Int64, "Searches that say that they found nothing"),
        required("clicks", Kind::Int64, "Searches followed by a click on, or a view of, a product"),
        required("carts", Kind::Int64, "Searches followed by an add_to_cart"),
        required("purchases", Kind::Int64, "Searches with a purchase later in their session"),
        optional("conversion", Kind::Float64, "purchases / searches"),
        required("dt", Kind::Date, "UTC date of the search"),
    ],
};

/// One row a day, channel and device class.
pub const FUNNEL_DAILY: TableSpec = TableSpec {
    name: "funnel_daily",
    grain: "a day, a channel and a device class",
    doc: "How far sessions came: view, cart, checkout, purchase; without sessions of bots. Each step \
          counts sessions that reached it, whether or not they went through those before it. A session \
          counts on the day it starts; one of refund events alone, which a server reports, does not.",
    key: &["channel", "device_class", "dt"],
    sort: &["channel", "device_class"],
    stats: &["channel", "device_class"],
    partitioned: true,
    columns: &[
        required("channel", Kind::Utf8, "First touch: the session's channel; `(none)` without one"),
        required("device_class", Kind::Utf8, "The session's; `other` where it is not known"),
        required("sessions", Kind::Int64, "Sessions"),
        required("visitors", Kind::Int64, "Visitors in them"),
        required("bounces", Kind::Int64, "Sessions of a single event other than a purchase"),
        required("views", Kind::Int64, "Sessions that saw a product"),
        required("carts", Kind::Int64, "Sessions that put one in the cart"),
        required("checkouts", Kind::Int64, "Sessions that began the checkout"),
        required("purchases", Kind::Int64, "Sessions that bought"),
        required("orders", Kind::Int64, "As in sessions: a repeated purchase does not count"),
        money("revenue", "Revenue of their purchases as tracked, in currency"),
        text("currency", "The currency of revenue; NULL when there is none or more than one"),
        text("reporting_currency", "ISO 4217, of reporting_revenue"),
        money("reporting_revenue", "revenue in reporting_currency, as in sessions"),
        optional(
            "unconverted",
            Kind::Int64,
            "Purchases that reporting_revenue leaves out: no rate",
        ),
        optional("conversion", Kind::Float64, "purchases / sessions"),
        required("dt", Kind::Date, "UTC date on which the sessions start"),
    ],
};
