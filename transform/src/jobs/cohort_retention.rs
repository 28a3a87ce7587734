//! `orders_enriched` -> `cohort_retention`.

use clickmill_schemas::tables::{COHORT_RETENTION, ORDERS_ENRICHED};

use super::query::{date_literal, month_of, replace_all};
use super::{JobContext, Output};
use crate::TransformError;

const JOB: &str = "cohort_retention";

/// Months count from year 0, so that a difference is an age. An order of a day to come makes no
/// cohort older.
const COMPUTED: &str = "
WITH placed AS (
  SELECT customer_id, net_total, currency, reporting_net_total, reporting_currency, day,
    CAST(date_part('year', day) * 12 + date_part('month', day) AS BIGINT) AS month,
    {month_of} AS month_day
  FROM (SELECT *, CAST(ordered_at AS DATE) AS day FROM orders_enriched WHERE match_status <> 'event_only')
),
facts AS (SELECT * FROM placed WHERE customer_id IS NOT NULL),
joined AS (
  SELECT customer_id, min(month) AS month, min(month_day) AS cohort FROM facts GROUP BY customer_id
),
sizes AS (
  SELECT cohort, month, count(*) AS customers FROM joined GROUP BY cohort, month
),
currencies AS (
  SELECT j.cohort,
    CASE WHEN min(f.currency) = max(f.currency) AND count(f.currency) = count(*) THEN min(f.currency) END AS currency,
    max(f.reporting_currency) AS reporting_currency
  FROM facts f JOIN joined j ON f.customer_id = j.customer_id GROUP BY j.cohort
),
by_customer AS (
  SELECT j.cohort, f.month - j.month AS age, f.customer_id,
    count(*) AS orders, sum(f.net_total) AS revenue, sum(f.reporting_net_total) AS reporting_revenue,
    count(f.net_total) - count(f.reporting_net_total) AS unconverted
  FROM facts f JOIN joined j ON f.customer_id = j.customer_id
  GROUP BY j.cohort, f.month - j.month, f.customer_id
),
active AS (
  SELECT cohort, age, count(*) AS active, sum(orders) AS orders, sum(revenue) AS revenue,
    sum(reporting_revenue) AS reporting_revenue, sum(unconverted) AS unconverted
  FROM by_customer GROUP BY cohort, age
),
months AS (
  SELECT cohort, customers, unnest(range(0, newest - month + 1)) AS age
  FROM sizes CROSS JOIN (SELECT max(month) AS newest FROM placed WHERE day <= {newest_day})
)
SELECT m.cohort, m.age AS age_months, m.customers, coalesce(a.active, 0) AS active,
  CAST(coalesce(a.active, 0) AS DOUBLE) / CAST(m.customers AS DOUBLE) AS retention,
  coalesce(a.orders, 0) AS orders, coalesce(a.revenue, 0) AS revenue,
  coalesce(sum(a.revenue) OVER (PARTITION BY m.cohort ORDER BY m.age), 0) AS cumulative_revenue,
  c.currency, c.reporting_currency,
  CASE WHEN c.reporting_currency IS NOT NULL THEN coalesce(a.reporting_revenue, 0) END AS reporting_revenue,
  CASE WHEN c.reporting_currency IS NOT NULL THEN
    coalesce(sum(a.reporting_revenue) OVER (PARTITION BY m.cohort ORDER BY m.age), 0)
  END AS reporting_cumulative_revenue,
  CASE WHEN c.reporting_currency IS NOT NULL THEN coalesce(a.unconverted, 0) END AS unconverted
FROM months m
JOIN currencies c ON m.cohort = c.cohort
LEFT JOIN active a ON m.cohort = a.cohort AND m.age = a.age";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let sql = COMPUTED
        .replace("{month_of}", &month_of("day"))
        .replace("{newest_day}", &date_literal(context.newest_day()));
    replace_all(context, JOB, &context.session(), &COHORT_RETENTION, &[&ORDERS_ENRICHED], &sql)
        .await
}
