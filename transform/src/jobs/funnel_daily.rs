//! `sessions` -> `funnel_daily`.

use clickmill_schemas::tables::{FUNNEL_DAILY, SESSIONS};

use super::context::{files_in, table_of, touched_days};
use super::query::replace_differing_days;
use super::{JobContext, Output};
use crate::TransformError;

const JOB: &str = "funnel_daily";

/// A session of refunds alone is no visit: the shop's server reported them. Files of before do
/// not say how many there were.
const COMPUTED: &str = "
WITH by_visitor AS (
  SELECT channel, device_class, dt, visitor_id, count(*) AS sessions,
    count(*) FILTER (WHERE is_bounce) AS bounces,
    count(*) FILTER (WHERE has_product_view) AS views,
    count(*) FILTER (WHERE has_add_to_cart) AS carts,
    count(*) FILTER (WHERE has_checkout) AS checkouts,
    count(*) FILTER (WHERE has_purchase) AS purchases,
    sum(orders) AS orders, sum(revenue) AS revenue,
    min(currency) AS least, max(currency) AS greatest,
    count(*) FILTER (WHERE revenue IS NOT NULL AND currency IS NULL) AS bare,
    max(reporting_currency) AS reporting_currency, sum(reporting_revenue) AS reporting_revenue,
    sum(unconverted) AS unconverted
  FROM (
    SELECT coalesce(channel, '(none)') AS channel, coalesce(device_class, 'other') AS device_class,
      visitor_id, is_bounce, has_product_view, has_add_to_cart, has_checkout, has_purchase, orders,
      revenue, currency, reporting_currency, reporting_revenue, unconverted, dt
    FROM sessions WHERE NOT is_bot AND events > coalesce(refunds, 0))
  GROUP BY channel, device_class, dt, visitor_id
)
SELECT channel, device_class, dt, sum(sessions) AS sessions, count(visitor_id) AS visitors,
  sum(bounces) AS bounces, sum(views) AS views, sum(carts) AS carts, sum(checkouts) AS checkouts,
  sum(purchases) AS purchases, sum(orders) AS orders, sum(revenue) AS revenue,
  CASE WHEN min(least) = max(greatest) AND sum(bare) = 0 THEN min(least) END AS currency,
  max(reporting_currency) AS reporting_currency, sum(reporting_revenue) AS reporting_revenue,
  sum(unconverted) AS unconverted,
  CAST(sum(purchases) AS DOUBLE) / CAST(sum(sessions) AS DOUBLE) AS conversion
FROM by_visitor GROUP BY channel, device_class, dt";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let mut output = Output::default();
    let days = touched_days(&context.change_of(&SESSIONS, &FUNNEL_DAILY).await?);
    if days.is_empty() {
        return Ok(output);
    }
    let table = context.current(&FUNNEL_DAILY).await?;
    let session = context.session();
    let files = files_in(&context.current(&SESSIONS).await?, &days);
    session
        .register_table("sessions", table_of(&SESSIONS, files))
        .map_err(TransformError::job(JOB))?;
    let change = replace_differing_days(context, JOB, &session, &table, &days, COMPUTED).await?;
    output.add("funnel_daily", change);
    Ok(output)
}
