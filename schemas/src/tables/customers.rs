//! What customers are worth, and whether they come back.

use super::{Kind, TableSpec, money, optional, required, text};

/// One row a customer.
pub const CUSTOMER_LTV: TableSpec = TableSpec {
    name: "customer_ltv",
    grain: "a customer",
    doc: "Lifetime value as of `as_of`, the day of the shop's newest order. \
          Every customer of `customers` and of `orders`; those without an order have no scores. Scores \
          are quintiles from 1 to 5 (best) over the customers with an order; equal values have equal \
          scores, that of the least of them: where most have ordered once, that is a 1. Revenue is net of refunds, in the orders' currency; what may be of several is summed in the \
          reporting currency beside it. A daily job.",
    key: &["customer_id"],
    sort: &["customer_id"],
    stats: &["customer_id", "cohort"],
    partitioned: false,
    columns: &[
        required("customer_id", Kind::Utf8, "The shop's customer"),
        required("orders", Kind::Int64, "Orders"),
        required("units", Kind::Int64, "Pieces in their lines"),
        money("revenue", "Sum of net_total; 0 without orders"),
        money("refunded", "Sum of what was paid back; 0 without orders"),
        money(
            "margin",
            "Sum of quantity x (unit_price - cost) - discount over lines whose product's cost is known \
             as of the order's time in the order's currency, each order's cut in proportion to what was \
             paid back; NULL where no cost is known",
        ),
        required("lines_without_cost", Kind::Int64, "Lines that margin leaves out"),
        optional(
            "lines_asof_backfilled",
            Kind::Int64,
            "Lines ordered before the first export of their product: its first version was taken",
        ),
        text("currency", "Of the amounts; NULL when there is none or more than one"),
        text("reporting_currency", "ISO 4217, of the amounts below; NULL where none is configured"),
        money("reporting_revenue", "Sum of reporting_net_total; 0 without orders"),
        money("reporting_refunded", "Sum of reporting_refunded; 0 without orders"),
        money(
            "reporting_margin",
            "As margin, at the rates of each order's day; a cost may be in any currency that has one",
        ),
        optional(
            "reporting_lines_without_cost",
            Kind::Int64,
            "Lines that reporting_margin leaves out: no cost, or no rate",
        ),
        optional("unconverted", Kind::Int64, "Orders that reporting_revenue leaves out: no rate"),
        optional("first_order_at", Kind::Timestamp, "The first order"),
        optional("last_order_at", Kind::Timestamp, "The last order"),
        optional("days_since_last_order", Kind::Int64, "From the last order's day to as_of"),
        text(
            "acquisition_channel",
            "Channel of the first touch of the first order, as in attribution",
        ),
        text("acquisition_source", "utm_source of that touch"),
        text("acquisition_campaign", "utm_campaign of that touch"),
        text("country", "The customer's; else that of the last order with one"),
        text("region", "The customer's; else that of the last order with one"),
        optional("recency", Kind::Int32, "Quintile by last_order_at"),
        optional("frequency", Kind::Int32, "Quintile by orders"),
        optional(
            "monetary",
            Kind::Int32,
            "Quintile by reporting_revenue; by revenue where none is configured",
        ),
        text("rfm", "The three scores as text: 555 is best"),
        optional("cohort", Kind::Date, "First day of the month of the first order, UTC"),
        optional(
            "as_of",
            Kind::Date,
            "Day of the shop's newest order; one dated later than a day after the run does not count",
        ),
    ],
};

/// One row a cohort and age.
pub const COHORT_RETENTION: TableSpec = TableSpec {
    name: "cohort_retention",
    grain: "a month of first orders and a number of months since",
    doc: "How many customers of a cohort order again, and for how much. Every month from the cohort's own \
          (age 0) to that of `as_of` in customer_ltv has a row, also one in which nobody came. Orders without \
          a customer are left out. A daily job.",
    key: &["cohort", "age_months"],
    sort: &["cohort", "age_months"],
    stats: &["cohort"],
    partitioned: false,
    columns: &[
        required("cohort", Kind::Date, "First day of the month of the first order, UTC"),
        required("age_months", Kind::Int32, "Months since"),
        required("customers", Kind::Int64, "Customers of the cohort"),
        required("active", Kind::Int64, "Of them, those who ordered in that month"),
        optional("retention", Kind::Float64, "active / customers"),
        required("orders", Kind::Int64, "Their orders in that month"),
        money("revenue", "Sum of net_total of these; 0 without"),
        money("cumulative_revenue", "The same from the cohort's month on"),
        text("currency", "Of the cohort's amounts; NULL when there is none or more than one"),
        text("reporting_currency", "ISO 4217, of the amounts below; NULL where none is configured"),
        money("reporting_revenue", "Sum of reporting_net_total; 0 without orders"),
        money("reporting_cumulative_revenue", "The same from the cohort's month on"),
        optional(
            "unconverted",
            Kind::Int64,
            "Orders of the month that reporting_revenue leaves out: no rate",
        ),
    ],
};
