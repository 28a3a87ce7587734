//! `sessions` + `event_items` -> `abandoned_carts`.
//!
//! A session's day is rewritten in `sessions` whenever one of its events came
//! or went, so those days are all that can change here.

use clickmill_schemas::tables::{ABANDONED_CARTS, EVENT_ITEMS, SESSIONS};

use super::context::{files_in, table_of, touched_days, widened};
use super::query::replace_differing_days;
use super::{JobContext, Output};
use crate::TransformError;

const JOB: &str = "abandoned_carts";

/// A product is known by its id, else its SKU, else its name.
const COMPUTED: &str = "
WITH moves AS (
  SELECT i.session_id, coalesce(i.product_id, i.sku, i.name) AS product, i.product_id, i.name,
    i.price, i.currency, i.event_ts, i.event_id, i.item_index,
    i.event_name = 'add_to_cart' AS added, coalesce(i.quantity, 1) AS quantity
  FROM event_items i
  JOIN (SELECT session_id FROM sessions WHERE has_add_to_cart AND NOT has_purchase AND NOT is_bot) s
    ON i.session_id = s.session_id
  WHERE i.event_name IN ('add_to_cart', 'remove_from_cart')
    AND coalesce(i.product_id, i.sku, i.name) IS NOT NULL
),
changed AS (SELECT session_id, max(event_ts) AS abandoned_at FROM moves GROUP BY session_id),
lines AS (
  SELECT session_id, product, min(product_id) AS product_id,
    sum(CASE WHEN added THEN quantity ELSE -quantity END) AS quantity,
    last_value(name ORDER BY event_ts, event_id, item_index)
      FILTER (WHERE added AND name IS NOT NULL) AS name,
    last_value(price ORDER BY event_ts, event_id, item_index)
      FILTER (WHERE added AND price IS NOT NULL) AS price,
    last_value(currency ORDER BY event_ts, event_id, item_index)
      FILTER (WHERE added AND price IS NOT NULL) AS currency
  FROM moves GROUP BY session_id, product
  HAVING sum(CASE WHEN added THEN quantity ELSE -quantity END) > 0
),
carts AS (
  SELECT session_id, count(*) AS products, sum(quantity) AS units,
    sum(CAST(quantity AS DECIMAL(18,0)) * price) AS worth,
    count(*) FILTER (WHERE price IS NULL) AS unpriced,
    CASE WHEN count(DISTINCT currency) = 1
           AND count(*) FILTER (WHERE price IS NOT NULL AND currency IS NULL) = 0
         THEN min(currency) END AS currency,
    array_agg(named_struct('product_id', product_id, 'name', name, 'quantity', quantity,
                           'price', price) ORDER BY product) AS items
  FROM lines GROUP BY session_id
)
SELECT s.session_id, s.visitor_id, s.user_id, s.started_at, m.abandoned_at,
  CASE WHEN s.has_checkout THEN 'checkout' ELSE 'cart' END AS reached,
  c.products, c.units, c.worth, c.unpriced, c.currency, c.items,
  s.last_channel AS channel, s.device_class, s.country, s.dt
FROM sessions s
JOIN carts c ON s.session_id = c.session_id
JOIN changed m ON s.session_id = m.session_id";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let mut output = Output::default();
    let days = touched_days(&context.change_of(&SESSIONS, &ABANDONED_CARTS).await?);
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
    let change = replace_differing_days(context, JOB, &session, &table, &days, COMPUTED).await?;
    output.add("abandoned_carts", change);
    Ok(output)
}
