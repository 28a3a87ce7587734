//! From the shop's own systems: orders, customers, products.

use super::{Kind, TableSpec, money, optional, required, text};

/// One row an order.
pub const ORDERS: TableSpec = TableSpec {
    name: "orders",
    grain: "an order",
    doc: "The shop's own orders: the truth about revenue. The newest statement wins; an order that is \
          absent from a newer export stays, one that its source deleted goes.",
    key: &["order_id"],
    sort: &["order_id"],
    stats: &["order_id", "customer_id", "ordered_at"],
    partitioned: true,
    columns: &[
        required("order_id", Kind::Utf8, "The shop's order number"),
        text("customer_id", "The shop's customer"),
        required("ordered_at", Kind::Timestamp, "When it was placed"),
        text("status", "As the shop calls it"),
        text("currency", "ISO 4217, of every amount in the row"),
        money("subtotal", "Sum of the lines before discount"),
        money("discount", "A positive amount"),
        money("tax", "Tax"),
        money("shipping", "Shipping"),
        money("total", "What the customer was charged"),
        money("refunded", "What was paid back, a positive amount"),
        text("coupon", "Coupon code"),
        text("country", "ISO 3166-1 alpha-2, or as the shop writes it"),
        text("region", "Region"),
        text("city", "City"),
        text("channel_hint", "The channel as the shop recorded it"),
        required("exported_at", Kind::Timestamp, "Time of the first export that says this of it"),
        required("dt", Kind::Date, "UTC date of ordered_at"),
    ],
};

/// One row an order line.
pub const ORDER_ITEMS: TableSpec = TableSpec {
    name: "order_items",
    grain: "a line of an order",
    doc: "What was ordered: the lines of the newest export that has the order, and what changed of \
          them since.",
    key: &["order_id", "line"],
    sort: &["order_id", "line"],
    stats: &["order_id", "product_id"],
    partitioned: true,
    columns: &[
        required("order_id", Kind::Utf8, "The order"),
        required("line", Kind::Int32, "Line number, from 1"),
        text("product_id", "The shop's product"),
        optional("quantity", Kind::Int64, "How many; negative for a return"),
        money("unit_price", "Price of one, in the order's currency"),
        money("discount", "Discount on the line, a positive amount"),
        required("exported_at", Kind::Timestamp, "Time of the first export that says this of it"),
        required(
            "dt",
            Kind::Date,
            "UTC date of the order; 1970-01-01 while the order is not known",
        ),
    ],
};

/// One row a customer.
pub const CUSTOMERS: TableSpec = TableSpec {
    name: "customers",
    grain: "a customer",
    doc: "The shop's customers, as of the newest export that has them.",
    key: &["customer_id"],
    sort: &["customer_id"],
    stats: &["customer_id"],
    partitioned: false,
    columns: &[
        required("customer_id", Kind::Utf8, "The shop's customer"),
        optional("created_at", Kind::Timestamp, "When the account was opened"),
        text("country", "ISO 3166-1 alpha-2, or as the shop writes it"),
        text("region", "Region"),
        text("city", "City"),
        text("email_hash", "Hash of the mail address, as exported"),
        optional("marketing_consent", Kind::Bool, "May be written to"),
        required("exported_at", Kind::Timestamp, "Time of the first export that says this of it"),
    ],
};

/// One row a product and export.
pub const PRODUCT_OBSERVATIONS: TableSpec = TableSpec {
    name: "product_observations",
    grain: "a product in one export of the catalog",
    doc: "What each export said of each product. `products` is built from it, so exports may arrive \
          in any order.",
    key: &["product_id", "observed_at", "export_id"],
    sort: &["product_id"],
    stats: &["product_id", "observed_at"],
    partitioned: true,
    columns: &[
        required("product_id", Kind::Utf8, "The shop's product"),
        required("observed_at", Kind::Timestamp, "Time of the export; of a change its own"),
        text("sku", "Stock keeping unit"),
        text("name", "Name"),
        text("brand", "Brand"),
        text("category", "Category"),
        text("category_path", "Path from the root, parts joined by ` > ` or as exported"),
        money("price", "Price of one, in currency"),
        money("cost", "Cost of one, in currency"),
        text("currency", "ISO 4217"),
        optional("stock", Kind::Int64, "Pieces in stock"),
        optional("active", Kind::Bool, "On sale"),
        required("deleted", Kind::Bool, "Its source deleted it then: the rest is NULL"),
        text(
            "standing",
            "load: of a full load, which stands below every change of the product; change: of a \
             change; NULL: it stands at its time",
        ),
        required("export_id", Kind::Utf8, "The export"),
        required("dt", Kind::Date, "UTC date of observed_at"),
    ],
};

/// One row a product and period.
pub const PRODUCTS: TableSpec = TableSpec {
    name: "products",
    grain: "a product over a period in which nothing of it changed",
    doc: "The catalog with its history (SCD2). A fact joins the version whose [`valid_from`, \
          `valid_to`) holds its time; one before the first export joins the first version. A product \
          that its source deleted stays, as a version that is not active.",
    key: &["product_id", "valid_from"],
    sort: &["product_id", "valid_from"],
    stats: &["product_id", "valid_from"],
    partitioned: false,
    columns: &[
        required("product_id", Kind::Utf8, "The shop's product"),
        text("sku", "Stock keeping unit"),
        text("name", "Name"),
        text("brand", "Brand"),
        text("category", "Category"),
        text("category_path", "Path from the root"),
        money("price", "Price of one, in currency"),
        money("cost", "Cost of one, in currency"),
        text("currency", "ISO 4217"),
        optional("stock", Kind::Int64, "Pieces in stock"),
        optional("active", Kind::Bool, "On sale"),
        required(
            "valid_from",
            Kind::Timestamp,
            "Time of the first export that says so; of a full load not later than of the first change",
        ),
        optional(
            "valid_to",
            Kind::Timestamp,
            "Time of the first export that says otherwise; NULL for the current version",
        ),
        required("is_first", Kind::Bool, "The first version known"),
    ],
};

/// One row an order, as the shop and the tracker saw it.
pub const ORDERS_ENRICHED: TableSpec = TableSpec {
    name: "orders_enriched",
    grain: "an order, or a tracked purchase without an order",
    doc: "Order rows are the truth; the purchase event and its session are joined to them, within 7 \
          days of the order. `match_status` is `matched`, `currency_mismatch` (the currencies \
          differ), `value_mismatch` (the amounts differ), `order_only` (the tracker missed it) or \
          `event_only` (no such order within 7 days: where there is one beyond, both have a row).",
    key: &["order_id", "dt"],
    sort: &["order_id"],
    stats: &["order_id", "customer_id", "ordered_at"],
    partitioned: true,
    columns: &[
        required("order_id", Kind::Utf8, "The shop's order number"),
        required(
            "match_status",
            Kind::Utf8,
            "matched, currency_mismatch, value_mismatch, order_only or event_only",
        ),
        text("customer_id", "The shop's customer"),
        required(
            "ordered_at",
            Kind::Timestamp,
            "When it was placed; of an event_only row: event_ts",
        ),
        text("status", "As the shop calls it"),
        text("currency", "ISO 4217"),
        money("subtotal", "Sum of the lines before discount"),
        money("discount", "A positive amount"),
        money("tax", "Tax"),
        money("shipping", "Shipping"),
        money("total", "What the customer was charged"),
        money("refunded", "What was paid back"),
        money("net_total", "total less refunded; NULL for event_only"),
        text("reporting_currency", "ISO 4217, as configured; NULL where none is"),
        optional(
            "exchange_rate",
            Kind::Decimal(18, 10),
            "Units of reporting_currency for one of currency: the newest rate of the 7 days up to the \
             order's; NULL where there is none",
        ),
        money("reporting_total", "total at exchange_rate, rounded to four places"),
        money("reporting_refunded", "refunded at exchange_rate"),
        money("reporting_net_total", "net_total at exchange_rate"),
        money("reporting_missed_total", "missed_total at exchange_rate"),
        money(
            "reporting_event_total",
            "event_total at the rate of event_currency, where it names none of currency, on dt",
        ),
        text("coupon", "Coupon code"),
        text("country", "As in orders"),
        text("region", "As in orders"),
        text("city", "As in orders"),
        text("channel_hint", "As in orders"),
        text("event_id", "The purchase event: the first of the order"),
        text("event_app_id", "Its app_id"),
        optional("event_ts", Kind::Timestamp, "Its time"),
        money("event_total", "Its total, else its revenue"),
        text("event_currency", "The currency that it names"),
        money("missed_total", "total of an order_only row: the revenue that the tracker missed"),
        text("visitor_id", "Of the purchase event"),
        text("session_id", "The session of the purchase: the last touch"),
        optional("session_started_at", Kind::Timestamp, "When that session started"),
        optional(
            "latency_ms",
            Kind::Int64,
            "From the start of that session to the order, milliseconds",
        ),
        text("channel", "Last touch: the session's last_channel"),
        text("utm_source", "Last touch"),
        text("utm_campaign", "Last touch"),
        text("device_class", "Of the session"),
        required("dt", Kind::Date, "UTC date of ordered_at"),
    ],
};

/// One row a day and currency of the rates file.
pub const CURRENCY_RATES: TableSpec = TableSpec {
    name: "currency_rates",
    grain: "a day and a currency",
    doc: "The rates file of `[currency]` as it was last taken in, and the reporting currency itself \
          at 1 on 1970-01-01. The newest rate of the 7 days up to an amount's day converts it; the \
          reporting currency is 1 on every day.",
    key: &["currency", "rate_date"],
    sort: &["currency", "rate_date"],
    stats: &["currency"],
    partitioned: false,
    columns: &[
        required("currency", Kind::Utf8, "ISO 4217"),
        required("rate_date", Kind::Date, "The day of the rate"),
        required("rate", Kind::Decimal(18, 10), "Units of reporting_currency for one of currency"),
        required("reporting_currency", Kind::Utf8, "ISO 4217"),
    ],
};
