//! `sessions`, and what comes out of single sessions.

use super::{Column, Kind, TableSpec, money, optional, required, text};

/// One row a session.
pub const SESSIONS: TableSpec = TableSpec {
    name: "sessions",
    grain: "a session",
    doc: "A visitor's events without a gap of 30 minutes (or `gap_minutes`) or more, at most 24 hours; a bot's and others' apart. It belongs to the \
          date it starts on and may cross midnight. `session_id` is a hash of the visitor and the \
          session's first event, so it stays the same when the session grows.",
    key: &["session_id"],
    sort: &["visitor_id", "started_at"],
    stats: &["visitor_id", "started_at", "session_id"],
    partitioned: true,
    columns: &[
        required("session_id", Kind::Utf8, "Hash of visitor_id and the first event_id"),
        required("visitor_id", Kind::Utf8, "As in events"),
        text("user_id", "The last user id seen in it"),
        required("started_at", Kind::Timestamp, "Its first event"),
        required("ended_at", Kind::Timestamp, "Its last event"),
        required("duration_ms", Kind::Int64, "From the first to the last event, milliseconds"),
        required(
            "engaged_ms",
            Kind::Int64,
            "Sum of the gaps between its events, each counted up to 5 minutes, milliseconds",
        ),
        required("is_bounce", Kind::Bool, "A single event other than a purchase"),
        required("events", Kind::Int64, "Events"),
        required("page_views", Kind::Int64, "page_view and screen_view events"),
        required("product_views", Kind::Int64, "product_view events"),
        required("add_to_carts", Kind::Int64, "add_to_cart events"),
        required("checkouts", Kind::Int64, "begin_checkout events"),
        required("searches", Kind::Int64, "search events"),
        required(
            "orders",
            Kind::Int64,
            "Distinct order ids of purchase events; one that follows another of the same visitor and \
             order within 24 hours, in whatever session, repeats it and does not count",
        ),
        money("revenue", "Revenue of the purchase events that count, in currency"),
        text("currency", "The currency of revenue; NULL when there is none or more than one"),
        text("reporting_currency", "ISO 4217, of reporting_revenue"),
        money(
            "reporting_revenue",
            "revenue in reporting_currency, each purchase at the rate of its day",
        ),
        optional(
            "unconverted",
            Kind::Int64,
            "Purchases that reporting_revenue leaves out: no rate",
        ),
        required("has_product_view", Kind::Bool, "Funnel: saw a product"),
        required("has_add_to_cart", Kind::Bool, "Funnel: put one in the cart"),
        required("has_checkout", Kind::Bool, "Funnel: began the checkout"),
        required("has_purchase", Kind::Bool, "Funnel: bought; a repeated purchase event is none"),
        text("landing_url", "page_url of its first event that has one"),
        text("landing_path", "page_path likewise"),
        text("exit_path", "page_path of its last event that has one"),
        text("referrer_host", "Of its first event"),
        text("channel", "First touch: channel of its first event"),
        text("utm_source", "First touch"),
        text("utm_medium", "First touch"),
        text("utm_campaign", "First touch"),
        text(
            "last_channel",
            "Last touch: the last channel in it that is neither internal nor direct, else channel",
        ),
        text("last_utm_source", "Last touch"),
        text("last_utm_campaign", "Last touch"),
        text("device_class", "Of its first event"),
        text("browser", "Of its first event"),
        text("os", "Of its first event"),
        text("language", "Of its first event"),
        text("country", "Of its first event"),
        text("region", "Of its first event"),
        required("is_bot", Kind::Bool, "Any of its events is a bot's, or its rate is no person's"),
        text(
            "bot_reason",
            "Why: declared, headless (as in events), or rate: 30 page views, screen views or product \
             views within 60 seconds",
        ),
        optional("refunds", Kind::Int64, "refund events, which servers report"),
        optional("late_events", Kind::Int64, "How many of its events were late"),
        required("dt", Kind::Date, "UTC date of started_at"),
    ],
};

/// One product left in a cart.
const LEFT_ITEM: &[Column] = &[
    text("product_id", "The shop's product id"),
    text("name", "As last sent with add_to_cart"),
    optional("quantity", Kind::Int64, "How many: added less removed"),
    money("price", "Price of one, as last sent with add_to_cart"),
];

/// One row a session that left a cart behind.
pub const ABANDONED_CARTS: TableSpec = TableSpec {
    name: "abandoned_carts",
    grain: "a session that left products in its cart",
    doc: "What was added and not removed, in sessions without a purchase; without bots. What is removed \
          and was not added in the session counts for nothing. A session that \
          goes on leaves the table when it buys.",
    key: &["session_id"],
    sort: &["visitor_id", "started_at"],
    stats: &["visitor_id", "started_at"],
    partitioned: true,
    columns: &[
        required("session_id", Kind::Utf8, "As in sessions"),
        required("visitor_id", Kind::Utf8, "As in sessions"),
        text("user_id", "As in sessions"),
        required("started_at", Kind::Timestamp, "When the session started"),
        required("abandoned_at", Kind::Timestamp, "The last change of the cart"),
        required("reached", Kind::Utf8, "cart or checkout: how far the session came"),
        required("products", Kind::Int64, "Different products left"),
        required("units", Kind::Int64, "Pieces left"),
        money("worth", "Sum of quantity x price where a price is known; NULL where none is"),
        required("unpriced", Kind::Int64, "Products left without a known price"),
        text("currency", "Of worth; NULL when there is none or more than one"),
        text("reporting_currency", "ISO 4217, of reporting_worth"),
        money(
            "reporting_worth",
            "worth in reporting_currency, each product at the rate of the day on which its price was sent",
        ),
        optional(
            "unconverted",
            Kind::Int64,
            "Priced products that reporting_worth leaves out: no rate",
        ),
        optional("items", Kind::List(LEFT_ITEM), "What was left, by product_id"),
        text("channel", "Last touch: the session's last_channel"),
        text("device_class", "Of the session"),
        text("country", "Of the session"),
        required("dt", Kind::Date, "UTC date of started_at"),
    ],
};
