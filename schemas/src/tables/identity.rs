//! Who is who, and what led to an order.

use super::{Kind, TableSpec, money, optional, required, text};

/// One row a sign that a visitor is a customer, and day.
pub const IDENTITY_LINKS: TableSpec = TableSpec {
    name: "identity_links",
    grain: "a visitor, a sign of who it is, and a day",
    doc: "What `identity_map` is made of: logins (events with a user id), orders (purchase events that \
          match an order of a known customer) and hashes of mail addresses in events. Without bots.",
    key: &["visitor_id", "method", "identifier", "dt"],
    sort: &["visitor_id", "method", "identifier"],
    stats: &["visitor_id", "identifier"],
    partitioned: true,
    columns: &[
        required("visitor_id", Kind::Utf8, "As in events"),
        required("method", Kind::Utf8, "login, order or email"),
        required(
            "identifier",
            Kind::Utf8,
            "The customer's id; for email the hash of the address, in lower case",
        ),
        required("first_seen", Kind::Timestamp, "The first such event of the day"),
        required("events", Kind::Int64, "How many there were"),
        required("dt", Kind::Date, "UTC date of the events; for order, of the order"),
    ],
};

/// One row a visitor, a customer and a period.
pub const IDENTITY_MAP: TableSpec = TableSpec {
    name: "identity_map",
    grain: "a visitor and a customer who are one person, and the period in which that was known",
    doc: "Visitors and customers whom a chain of links joins are one person. A row holds from \
          `valid_from` on, until `valid_to`; the identity as of a time is the rows of status `linked` \
          whose period holds it. A visitor with more than 3 customers is a shared device, a customer \
          with more than 500 visitors a shared account: from then on they join nobody (a row of status \
          `shared`). A link that would make a person of more than 1,000 visitors or 10 customers is not \
          followed (`capped`). A daily job.",
    key: &["visitor_id", "customer_id", "valid_from", "status"],
    sort: &["visitor_id", "customer_id", "valid_from"],
    stats: &["visitor_id", "customer_id", "valid_from"],
    partitioned: false,
    columns: &[
        text("visitor_id", "As in events; NULL in a shared row of a customer"),
        text("customer_id", "The shop's customer, or a user id; NULL in a shared row of a visitor"),
        required("status", Kind::Utf8, "linked, shared or capped"),
        text(
            "method",
            "The first link between the two: login, order or email; joined where only others join them",
        ),
        required("valid_from", Kind::Timestamp, "Since when"),
        optional("valid_to", Kind::Timestamp, "Until when; NULL: still"),
        required(
            "is_primary",
            Kind::Bool,
            "Of the visitor's customers of now the one to count it under: linked itself, the earliest",
        ),
        text("person_id", "The least customer_id of the person of now; NULL in rows that ended"),
    ],
};

/// One row an order, a model and a touch.
pub const ATTRIBUTION: TableSpec = TableSpec {
    name: "attribution",
    grain: "an order, a model and a touch with credit",
    doc: "What led to an order. Touches are the sessions, not of bots, of every visitor who is the \
          order's customer as of 7 days after the order, and of the purchase event's visitor, that \
          began within the lookback (30 days) before the order; the newest 100. A session in which \
          nothing was viewed, searched, put in the cart or bought (a server's report) is none. Models: `first`, `last`, \
          `last_non_direct`, `linear`, `position` (40 % first, 40 % last, 20 % between), `time_decay` \
          (half for every 7 days). Of each order and model, credits add up to exactly 1 and revenue to \
          exactly net_total (reporting_revenue to reporting_net_total): shares are cut from the cumulated sum, in the order of the touches. An \
          order without any touch has one row a model, with the channel `(none)`. Purchases without an \
          order (event_only) are not attributed.",
    key: &["order_id", "model", "touch"],
    sort: &["order_id", "model", "touch"],
    stats: &["order_id", "customer_id", "ordered_at"],
    partitioned: true,
    columns: &[
        required("order_id", Kind::Utf8, "The shop's order number"),
        required("model", Kind::Utf8, "The attribution model"),
        required("touch", Kind::Int32, "Position among the order's touches, from 1; 0 without any"),
        required("touches", Kind::Int32, "Touches of the order"),
        text("customer_id", "As in orders"),
        required("ordered_at", Kind::Timestamp, "As in orders"),
        text("visitor_id", "Of the touch"),
        text("session_id", "The touch: a session"),
        optional("touched_at", Kind::Timestamp, "When the session started"),
        required(
            "channel",
            Kind::Utf8,
            "The session's last_channel; internal counts as direct; `(none)` without any touch",
        ),
        text("utm_source", "The session's last_utm_source"),
        text("utm_campaign", "The session's last_utm_campaign"),
        text("device_class", "The session's"),
        optional("credit", Kind::Money, "Share of the order, to four places"),
        money("revenue", "Share of the order's net_total, in currency"),
        text("currency", "ISO 4217"),
        text("reporting_currency", "As in orders_enriched"),
        money("reporting_revenue", "Share of the order's reporting_net_total"),
        required("dt", Kind::Date, "UTC date of ordered_at"),
    ],
};
