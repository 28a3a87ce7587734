//! `orders_enriched` + `order_items` + `products` + `customers` + `attribution` +
//! `currency_rates` -> `customer_ltv`.

use std::sync::Arc;

use clickmill_schemas::tables::{
    ATTRIBUTION, CURRENCY_RATES, CUSTOMER_LTV, CUSTOMERS, ORDER_ITEMS, ORDERS_ENRICHED, PRODUCTS,
};

use super::exchange::Exchange;
use super::query::{date_literal, month_of, replace_all};
use super::{JobContext, Output};
use crate::TransformError;

const JOB: &str = "customer_ltv";

/// Products join as of the order's time. `n - rank` customers are better or as good, so the
/// quintile is 5 less its fifths: most customers have ordered once, and who is like most is not
/// among the best.
const COMPUTED: &str = "
WITH ordered AS (
  SELECT i.order_id, i.line, i.dt, i.product_id, pieces(i.quantity) AS quantity, i.unit_price, i.discount,
    o.ordered_at, o.currency, o.exchange_rate
  FROM order_items i JOIN orders_enriched o ON i.order_id = o.order_id AND o.match_status <> 'event_only'
),
lines AS (
  SELECT o.*, p.cost, p.currency AS cost_currency, p.valid_from > o.ordered_at AS backfilled,
    row_number() OVER (PARTITION BY o.order_id, o.line ORDER BY p.valid_from DESC) AS nth
  FROM ordered o LEFT JOIN products p ON o.product_id = p.product_id
    AND (p.valid_from <= o.ordered_at OR p.is_first)
    AND (p.valid_to IS NULL OR p.valid_to > o.ordered_at OR p.is_first)
),
priced AS (
  SELECT *, money(CAST(quantity AS DECIMAL(18,0)) * unit_price
      - coalesce(discount, CAST(0 AS DECIMAL(18,4)))) AS amount,
    money(CAST(quantity AS DECIMAL(18,0)) * cost) AS spent,
    coalesce(upper(cost_currency) = upper(currency), true) AS same_currency,
    exchange_rate(coalesce(cost_currency, currency), dt) AS cost_rate
  FROM lines WHERE nth = 1
),
earned AS (
  SELECT order_id, quantity, backfilled,
    CASE WHEN same_currency THEN amount - spent END AS margin,
    TRY_CAST(amount * exchange_rate AS DECIMAL(18,4))
      - TRY_CAST(spent * cost_rate AS DECIMAL(18,4)) AS reporting_margin
  FROM priced
),
goods AS (
  SELECT order_id, sum(quantity) AS units,
    count(*) FILTER (WHERE margin IS NULL) AS without_cost, money(sum(margin)) AS margin,
    count(*) FILTER (WHERE reporting_margin IS NULL) AS reporting_without_cost,
    money(sum(reporting_margin)) AS reporting_margin, count(*) FILTER (WHERE backfilled) AS backfilled
  FROM earned GROUP BY order_id
),
facts AS (
  SELECT o.customer_id, o.order_id, o.ordered_at, o.net_total, o.refunded, o.currency, o.country, o.region,
    o.reporting_net_total, o.reporting_refunded, g.units, g.without_cost, g.reporting_without_cost, g.backfilled,
    prorated(g.margin, o.net_total, o.total) AS margin,
    prorated(g.reporting_margin, o.net_total, o.total) AS reporting_margin,
    row_number() OVER (PARTITION BY o.customer_id ORDER BY o.ordered_at, o.order_id) AS nth
  FROM orders_enriched o LEFT JOIN goods g ON o.order_id = g.order_id
  WHERE o.match_status <> 'event_only' AND o.customer_id IS NOT NULL
),
acquired AS (
  SELECT f.customer_id, a.channel, a.utm_source, a.utm_campaign
  FROM facts f JOIN attribution a ON f.order_id = a.order_id AND a.model = 'first'
  WHERE f.nth = 1
),
newest AS (
  SELECT CAST(max(ordered_at) AS DATE) AS as_of FROM orders_enriched
  WHERE match_status <> 'event_only' AND dt <= {newest_day}
),
summed AS (
  SELECT customer_id, count(*) AS orders, coalesce(sum(units), 0) AS units,
    coalesce(sum(net_total), 0) AS revenue, coalesce(sum(refunded), 0) AS refunded,
    sum(margin) AS margin, coalesce(sum(without_cost), 0) AS lines_without_cost,
    coalesce(sum(backfilled), 0) AS lines_asof_backfilled,
    coalesce(sum(reporting_net_total), 0) AS reporting_revenue,
    coalesce(sum(reporting_refunded), 0) AS reporting_refunded, sum(reporting_margin) AS reporting_margin,
    coalesce(sum(reporting_without_cost), 0) AS reporting_lines_without_cost,
    count(net_total) - count(reporting_net_total) AS unconverted,
    CASE WHEN min(currency) = max(currency) AND count(currency) = count(*) THEN min(currency) END AS currency,
    min(ordered_at) AS first_order_at, max(ordered_at) AS last_order_at,
    last_value(country ORDER BY ordered_at, order_id) FILTER (WHERE country IS NOT NULL) AS order_country,
    last_value(region ORDER BY ordered_at, order_id) FILTER (WHERE region IS NOT NULL) AS order_region
  FROM facts GROUP BY customer_id
),
ranked AS (
  SELECT customer_id, count(*) OVER () AS n,
    rank() OVER (ORDER BY CAST(last_order_at AS DATE)) AS recency,
    rank() OVER (ORDER BY orders) AS frequency,
    rank() OVER (ORDER BY CASE WHEN {reporting} IS NULL THEN revenue ELSE reporting_revenue END) AS monetary
  FROM summed
),
scored AS (
  SELECT customer_id,
    CAST(5 - (n - CAST(recency AS BIGINT)) * 5 / n AS INT) AS recency,
    CAST(5 - (n - CAST(frequency AS BIGINT)) * 5 / n AS INT) AS frequency,
    CAST(5 - (n - CAST(monetary AS BIGINT)) * 5 / n AS INT) AS monetary
  FROM ranked
),
everybody AS (
  SELECT customer_id FROM customers UNION SELECT customer_id FROM summed
)
SELECT e.customer_id, coalesce(s.orders, 0) AS orders, coalesce(s.units, 0) AS units,
  coalesce(s.revenue, 0) AS revenue, coalesce(s.refunded, 0) AS refunded, s.margin,
  coalesce(s.lines_without_cost, 0) AS lines_without_cost,
  coalesce(s.lines_asof_backfilled, 0) AS lines_asof_backfilled, s.currency, {reporting} AS reporting_currency,
  CASE WHEN {reporting} IS NOT NULL THEN coalesce(s.reporting_revenue, 0) END AS reporting_revenue,
  CASE WHEN {reporting} IS NOT NULL THEN coalesce(s.reporting_refunded, 0) END AS reporting_refunded,
  CASE WHEN {reporting} IS NOT NULL THEN s.reporting_margin END AS reporting_margin,
  CASE WHEN {reporting} IS NOT NULL THEN coalesce(s.reporting_lines_without_cost, 0)
  END AS reporting_lines_without_cost,
  CASE WHEN {reporting} IS NOT NULL THEN coalesce(s.unconverted, 0) END AS unconverted,
  s.first_order_at, s.last_order_at,
  CAST(CAST(n.as_of AS INT) - CAST(CAST(s.last_order_at AS DATE) AS INT) AS BIGINT) AS days_since_last_order,
  a.channel AS acquisition_channel, a.utm_source AS acquisition_source,
  a.utm_campaign AS acquisition_campaign,
  coalesce(c.country, s.order_country) AS country, coalesce(c.region, s.order_region) AS region,
  r.recency, r.frequency, r.monetary,
  CAST(r.recency AS VARCHAR) || CAST(r.frequency AS VARCHAR) || CAST(r.monetary AS VARCHAR) AS rfm,
  {month_of} AS cohort, n.as_of
FROM everybody e
CROSS JOIN newest n
LEFT JOIN customers c ON e.customer_id = c.customer_id
LEFT JOIN summed s ON e.customer_id = s.customer_id
LEFT JOIN scored r ON e.customer_id = r.customer_id
LEFT JOIN acquired a ON e.customer_id = a.customer_id";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let sources =
        [&ORDERS_ENRICHED, &ORDER_ITEMS, &PRODUCTS, &CUSTOMERS, &ATTRIBUTION, &CURRENCY_RATES];
    let exchange = Arc::new(Exchange::now(context).await?);
    let session = context.session();
    exchange.register(&session);
    let sql = exchange
        .in_sql(COMPUTED)
        .replace("{month_of}", &month_of("CAST(s.first_order_at AS DATE)"))
        .replace("{newest_day}", &date_literal(context.newest_day()));
    replace_all(context, JOB, &session, &CUSTOMER_LTV, &sources, &sql).await
}
