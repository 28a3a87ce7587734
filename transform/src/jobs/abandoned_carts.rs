//! `sessions` + `event_items` + `currency_rates` -> `abandoned_carts`.
//!
//! A session's day is rewritten in `sessions` whenever one of its events came
//! or went, so those days, and what other rates convert, are all that can change here.

use std::sync::Arc;

use clickmill_schemas::tables::{ABANDONED_CARTS, EVENT_ITEMS, SESSIONS};

use super::context::{files_in, table_of, touched_days, widened};
use super::exchange::{Exchange, revalued_days};
use super::query::replace_differing_days;
use super::{JobContext, Output};
use crate::TransformError;
use crate::sessionize::LOOKBACK_DAYS;

const JOB: &str = "abandoned_carts";

/// Amounts that rates convert, sent on the session's day or the next.
const AMOUNTS: &str = "SELECT dt, currency FROM held WHERE worth IS NOT NULL";

/// A product is known by its id, else its SKU, else its name. What is taken out of a cart that
/// held none was put there in an earlier session: a cart never holds less than nothing, so what
/// the running sum falls below zero is added back.
const COMPUTED: &str = "
WITH moves AS (
  SELECT i.session_id, coalesce(i.product_id, i.sku, i.name) AS product, i.product_id, i.name,
    i.price, i.currency, i.dt, i.event_ts, i.event_id, i.item_index,
    i.event_name = 'add_to_cart' AS added, CASE WHEN i.quantity IS NULL THEN 1 ELSE pieces(i.quantity) END AS quantity
  FROM event_items i
  JOIN (SELECT session_id FROM sessions WHERE has_add_to_cart AND NOT has_purchase AND NOT is_bot) s
    ON i.session_id = s.session_id
  WHERE i.event_name IN ('add_to_cart', 'remove_from_cart')
    AND coalesce(i.product_id, i.sku, i.name) IS NOT NULL
),
changed AS (SELECT session_id, max(event_ts) AS abandoned_at FROM moves GROUP BY session_id),
counted AS (
  SELECT *, sum(CASE WHEN added THEN quantity ELSE -quantity END) OVER (
    PARTITION BY session_id, product ORDER BY event_ts, event_id, item_index, added, quantity
    ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS so_far
  FROM moves
),
lines AS (
  SELECT session_id, product, min(product_id) AS product_id,
    sum(CASE WHEN added THEN quantity ELSE -quantity END) - least(min(so_far), 0) AS quantity,
    last_value(name ORDER BY event_ts, event_id, item_index, price, name, currency)
      FILTER (WHERE added AND name IS NOT NULL) AS name,
    last_value(price ORDER BY event_ts, event_id, item_index, price, name, currency)
      FILTER (WHERE added AND price IS NOT NULL) AS price,
    last_value(currency ORDER BY event_ts, event_id, item_index, price, name, currency)
      FILTER (WHERE added AND price IS NOT NULL) AS currency,
    last_value(dt ORDER BY event_ts, event_id, item_index, price, name, currency)
      FILTER (WHERE added AND price IS NOT NULL) AS priced_on
  FROM counted GROUP BY session_id, product
  HAVING sum(CASE WHEN added THEN quantity ELSE -quantity END) - least(min(so_far), 0) > 0
),
valued AS (
  SELECT *, TRY_CAST(worth * exchange_rate(currency, priced_on) AS DECIMAL(18,4)) AS converted
  FROM (SELECT *, money(CAST(pieces(quantity) AS DECIMAL(18,0)) * price) AS worth FROM lines)
),
carts AS (
  SELECT session_id, count(*) AS products, sum(quantity) AS units, sum(worth) AS worth,
    CASE WHEN count(worth) > 0 THEN {reporting} END AS reporting_currency,
    sum(converted) AS reporting_worth,
    CASE WHEN count(worth) > 0 AND {reporting} IS NOT NULL THEN count(worth) - count(converted)
    END AS unconverted,
    count(*) FILTER (WHERE price IS NULL) AS unpriced,
    CASE WHEN min(currency) = max(currency)
           AND count(*) FILTER (WHERE price IS NOT NULL AND currency IS NULL) = 0
         THEN min(currency) END AS currency,
    array_agg(named_struct('product_id', product_id, 'name', name, 'quantity', quantity,
                           'price', price) ORDER BY product) AS items
  FROM valued GROUP BY session_id
)
SELECT s.session_id, s.visitor_id, s.user_id, s.started_at, m.abandoned_at,
  CASE WHEN s.has_checkout THEN 'checkout' ELSE 'cart' END AS reached,
  c.products, c.units, c.worth, c.unpriced, c.currency, c.reporting_currency,
  c.reporting_worth, c.unconverted, c.items,
  s.last_channel AS channel, s.device_class, s.country, s.dt
FROM sessions s
JOIN carts c ON s.session_id = c.session_id
JOIN changed m ON s.session_id = m.session_id";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let mut output = Output::default();
    let mut days = touched_days(&context.change_of(&SESSIONS, &ABANDONED_CARTS).await?);
    days.extend(revalued_days(context, JOB, &ABANDONED_CARTS, AMOUNTS, LOOKBACK_DAYS).await?);
    if days.is_empty() {
        return Ok(output);
    }
    let table = context.current(&ABANDONED_CARTS).await?;
    let session = context.session();
    for (name, spec, days) in [
        ("sessions", &SESSIONS, &days),
        // A session that crosses midnight goes on on the next day.
        ("event_items", &EVENT_ITEMS, &widened(&days, 0, 1)),
    ] {
        let files = files_in(&context.current(spec).await?, days);
        session.register_table(name, table_of(spec, files)).map_err(TransformError::job(JOB))?;
    }
    let exchange = Arc::new(Exchange::now(context).await?);
    exchange.register(&session);
    let sql = exchange.in_sql(COMPUTED);
    let change = replace_differing_days(context, JOB, &session, &table, &days, &sql).await?;
    output.add("abandoned_carts", change);
    Ok(output)
}
