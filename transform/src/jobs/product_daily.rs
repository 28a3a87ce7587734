//! `event_items` + `sessions` + `order_items` + `orders_enriched` + `products` -> `product_daily`.

use std::collections::BTreeSet;

use clickmill_schemas::Date;
use clickmill_schemas::tables::{
    EVENT_ITEMS, ORDER_ITEMS, ORDERS_ENRICHED, PRODUCT_DAILY, PRODUCTS,
};

use super::context::{files_in, table_of, touched_days};
use super::query::{Spread, dates, register_changed, register_days, replace_days};
use super::{JobContext, Output, paced};
use crate::TransformError;

const JOB: &str = "product_daily";
/// What a line takes from its order.
const ORDER_COLUMNS: &str = "order_id, currency, exchange_rate, reporting_currency, dt";

/// Rows whose catalog columns a changed version of a product would change: the
/// product joins as of the end of its day, and the first version reaches back.
/// `valid_to` does not count: where it moves, another version begins or began
/// there, and days before that keep theirs.
const CATALOG_TOUCHED: &str = "
WITH differing AS (
  SELECT product_id, valid_from, is_first FROM (
    SELECT product_id, name, brand, category, price, currency, stock, valid_from, is_first FROM new_products
    EXCEPT
    SELECT product_id, name, brand, category, price, currency, stock, valid_from, is_first FROM old_products)
  UNION ALL
  SELECT product_id, valid_from, is_first FROM (
    SELECT product_id, name, brand, category, price, currency, stock, valid_from, is_first FROM old_products
    EXCEPT
    SELECT product_id, name, brand, category, price, currency, stock, valid_from, is_first FROM new_products)
),
since AS (
  SELECT product_id, min(CASE WHEN is_first THEN DATE '0001-01-01' ELSE CAST(valid_from AS DATE) END) AS from_day
  FROM differing GROUP BY product_id
)
SELECT DISTINCT d.dt FROM daily d JOIN since s ON d.product_id = s.product_id AND d.dt >= s.from_day";

/// Lines on 1970-01-01 wait for their order and have no day yet.
const COMPUTED: &str = "
WITH seen_by AS (
  SELECT product_id, dt, visitor_id,
    count(*) FILTER (WHERE event_name IN ('product_list_view', 'product_list_filter', 'search')) AS impressions,
    count(*) FILTER (WHERE event_name = 'product_click') AS clicks,
    count(*) FILTER (WHERE event_name = 'product_view') AS views,
    count(*) FILTER (WHERE event_name = 'add_to_cart') AS carts,
    min(category) AS sent_category, min(name) AS sent_name, min(brand) AS sent_brand
  FROM event_items i WHERE product_id IS NOT NULL AND NOT is_bot
    AND NOT EXISTS (SELECT 1 FROM paced p WHERE p.session_id = i.session_id)
  GROUP BY product_id, dt, visitor_id
),
seen AS (
  SELECT product_id, dt, sum(impressions) AS impressions, sum(clicks) AS clicks, sum(views) AS views,
    count(visitor_id) FILTER (WHERE views > 0) AS viewers, sum(carts) AS carts,
    min(sent_category) AS sent_category, min(sent_name) AS sent_name, min(sent_brand) AS sent_brand
  FROM seen_by GROUP BY product_id, dt
),
lines AS (
  SELECT i.product_id, i.dt, i.order_id, pieces(i.quantity) AS quantity, o.currency, o.exchange_rate, o.reporting_currency,
    money(CAST(pieces(i.quantity) AS DECIMAL(18,0)) * i.unit_price
      - coalesce(i.discount, CAST(0 AS DECIMAL(18,4)))) AS amount
  FROM order_items i LEFT JOIN orders_enriched o
    ON i.order_id = o.order_id AND i.dt = o.dt AND o.match_status <> 'event_only'
  WHERE i.product_id IS NOT NULL AND i.dt > DATE '1970-01-01'
),
converted AS (
  SELECT *, TRY_CAST(amount * exchange_rate AS DECIMAL(18,4)) AS converted FROM lines
),
sold_in AS (
  SELECT product_id, dt, order_id, bool_or(quantity > 0) AS is_sold,
    sum(quantity) AS units, sum(amount) AS revenue, min(currency) AS least, max(currency) AS greatest,
    count(*) FILTER (WHERE amount IS NOT NULL AND currency IS NULL) AS bare,
    max(reporting_currency) AS reporting_currency, sum(converted) AS reporting_revenue,
    count(amount) - count(converted) AS unconverted
  FROM converted GROUP BY product_id, dt, order_id
),
sold AS (
  SELECT product_id, dt, count(order_id) FILTER (WHERE is_sold) AS orders,
    sum(units) AS units, sum(revenue) AS revenue,
    CASE WHEN min(least) = max(greatest) AND sum(bare) = 0 THEN min(least) END AS revenue_currency,
    max(reporting_currency) AS reporting_currency, sum(reporting_revenue) AS reporting_revenue,
    CASE WHEN max(reporting_currency) IS NOT NULL THEN sum(unconverted) END AS unconverted
  FROM sold_in GROUP BY product_id, dt
),
facts AS (
  SELECT coalesce(v.product_id, s.product_id) AS product_id, coalesce(v.dt, s.dt) AS dt,
    coalesce(impressions, 0) AS impressions, coalesce(clicks, 0) AS clicks, coalesce(views, 0) AS views,
    coalesce(viewers, 0) AS viewers, coalesce(carts, 0) AS carts, coalesce(orders, 0) AS orders,
    coalesce(units, 0) AS units, revenue, revenue_currency, reporting_currency, reporting_revenue,
    unconverted, sent_category, sent_name, sent_brand
  FROM seen v FULL JOIN sold s ON v.product_id = s.product_id AND v.dt = s.dt
),
versions AS (
  SELECT product_id, name, brand, category, price, currency, stock, is_first,
    CAST(valid_from AS DATE) AS from_day, valid_from, CAST(valid_to AS DATE) AS to_day
  FROM products
),
dated AS (
  SELECT f.*, p.name, p.brand, p.category, p.price, p.currency, p.stock, p.product_id IS NOT NULL AS known,
    p.from_day > f.dt AS backfilled,
    row_number() OVER (PARTITION BY f.product_id, f.dt ORDER BY p.valid_from DESC) AS nth
  FROM facts f LEFT JOIN versions p ON f.product_id = p.product_id
    AND (p.from_day <= f.dt OR p.is_first) AND (p.to_day IS NULL OR p.to_day > f.dt OR p.is_first)
)
SELECT product_id, coalesce(name, sent_name) AS name, coalesce(brand, sent_brand) AS brand,
  CASE WHEN known THEN category ELSE sent_category END AS category,
  impressions, clicks, views, viewers, carts, orders, units, revenue,
  revenue_currency, reporting_currency, reporting_revenue, unconverted,
  CASE WHEN views > 0 THEN CAST(orders AS DOUBLE) / CAST(views AS DOUBLE) END AS conversion,
  price, currency, stock, coalesce(backfilled, false) AS asof_backfilled, dt
FROM dated WHERE nth = 1";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let fail = TransformError::job(JOB);
    let mut output = Output::default();
    let daily = context.current(&PRODUCT_DAILY).await?;
    let mut days = BTreeSet::new();
    for upstream in [&EVENT_ITEMS, &ORDER_ITEMS] {
        days.extend(touched_days(&context.change_of(upstream, &PRODUCT_DAILY).await?));
    }
    days.extend(catalog_days(context).await?);
    days.extend(order_days(context).await?);
    days.extend(paced::changed_days(context, JOB, &PRODUCT_DAILY).await?);
    if days.is_empty() {
        return Ok(output);
    }
    let session = context.session();
    for (name, spec) in [
        ("event_items", &EVENT_ITEMS),
        ("order_items", &ORDER_ITEMS),
        ("orders_enriched", &ORDERS_ENRICHED),
    ] {
        let files = files_in(&context.current(spec).await?, &days);
        session.register_table(name, table_of(spec, files)).map_err(&fail)?;
    }
    let products = context.current(&PRODUCTS).await?.files().to_vec();
    session.register_table("products", table_of(&PRODUCTS, products)).map_err(&fail)?;
    paced::register(context, JOB, &session, &days).await?;
    register_days(&session, JOB, "days", &days)?;
    let change = replace_days(context, JOB, &session, &daily, &days, COMPUTED, Spread::One).await?;
    output.counts.insert("product_daily", change.adds.iter().map(|file| file.rows).sum());
    output.changes.insert("product_daily", change);
    Ok(output)
}

/// Days of orders whose currency or rate is another one now.
async fn order_days(context: &JobContext<'_>) -> Result<BTreeSet<Date>, TransformError> {
    let change = context.change_of(&ORDERS_ENRICHED, &PRODUCT_DAILY).await?;
    if change.is_empty() {
        return Ok(BTreeSet::new());
    }
    let session = context.session();
    let (name, filter) = ("changed_orders", "WHERE match_status <> 'event_only'");
    register_changed(&session, JOB, name, &ORDERS_ENRICHED, &change, ORDER_COLUMNS, filter).await?;
    dates(&session, JOB, "SELECT DISTINCT dt FROM changed_orders").await
}

/// Days of the table that a changed catalog changes.
async fn catalog_days(context: &JobContext<'_>) -> Result<BTreeSet<Date>, TransformError> {
    let fail = TransformError::job(JOB);
    let change = context.change_of(&PRODUCTS, &PRODUCT_DAILY).await?;
    let daily = context.current(&PRODUCT_DAILY).await?;
    if change.is_empty() || daily.files().is_empty() {
        return Ok(BTreeSet::new());
    }
    let session = context.session();
    for (name, spec, files) in [
        ("new_products", &PRODUCTS, change.adds),
        ("old_products", &PRODUCTS, change.removes),
        ("daily", &PRODUCT_DAILY, daily.files().to_vec()),
    ] {
        session.register_table(name, table_of(spec, files)).map_err(&fail)?;
    }
    dates(&session, JOB, CATALOG_TOUCHED).await
}
