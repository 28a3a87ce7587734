//! `product_daily` + `order_items` -> `category_daily`.

use clickmill_schemas::tables::{CATEGORY_DAILY, ORDER_ITEMS, PRODUCT_DAILY};

use super::context::{files_in, table_of, touched_days};
use super::query::{Spread, replace_days};
use super::{JobContext, Output};
use crate::TransformError;

const JOB: &str = "category_daily";

/// Orders are counted from the lines: one that holds two products of a category counts once.
const COMPUTED: &str = "
WITH ordered AS (
  SELECT category, dt, count(*) AS orders FROM (
    SELECT DISTINCT coalesce(p.category, '(none)') AS category, i.dt, i.order_id
    FROM order_items i JOIN product_daily p ON i.product_id = p.product_id AND i.dt = p.dt
    WHERE pieces(i.quantity) > 0)
  GROUP BY category, dt
),
summed AS (
  SELECT coalesce(category, '(none)') AS category, dt, count(*) AS products,
    sum(impressions) AS impressions, sum(clicks) AS clicks, sum(views) AS views,
    sum(carts) AS carts, sum(units) AS units, sum(revenue) AS revenue,
    CASE WHEN min(revenue_currency) = max(revenue_currency)
           AND count(*) FILTER (WHERE revenue IS NOT NULL AND revenue_currency IS NULL) = 0
         THEN min(revenue_currency) END AS revenue_currency,
    max(reporting_currency) AS reporting_currency, sum(reporting_revenue) AS reporting_revenue,
    sum(unconverted) AS unconverted
  FROM product_daily GROUP BY coalesce(category, '(none)'), dt
)
SELECT s.*, coalesce(o.orders, 0) AS orders
FROM summed s LEFT JOIN ordered o ON s.category = o.category AND s.dt = o.dt";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let fail = TransformError::job(JOB);
    let mut output = Output::default();
    let mut days = touched_days(&context.change_of(&PRODUCT_DAILY, &CATEGORY_DAILY).await?);
    days.extend(touched_days(&context.change_of(&ORDER_ITEMS, &CATEGORY_DAILY).await?));
    if days.is_empty() {
        return Ok(output);
    }
    let table = context.current(&CATEGORY_DAILY).await?;
    let session = context.session();
    for (name, spec) in [("product_daily", &PRODUCT_DAILY), ("order_items", &ORDER_ITEMS)] {
        let files = files_in(&context.current(spec).await?, &days);
        session.register_table(name, table_of(spec, files)).map_err(&fail)?;
    }
    let change = replace_days(context, JOB, &session, &table, &days, COMPUTED, Spread::One).await?;
    output.counts.insert("category_daily", change.adds.iter().map(|file| file.rows).sum());
    output.changes.insert("category_daily", change);
    Ok(output)
}
