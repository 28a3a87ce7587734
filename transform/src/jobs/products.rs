//! `product_observations` -> `products`: history from successive exports.

use clickmill_schemas::tables::{PRODUCT_OBSERVATIONS, PRODUCTS};

use super::context::table_of;
use super::query::{Spread, write};
use super::{JobContext, Output};
use crate::TransformError;
use clickmill_lake::table::{Change, Table};

const JOB: &str = "products";

/// A version begins with an observation that differs from the one before it. Of several
/// of one instant the last export counts. A product that its source deleted goes on as it
/// was and is not active; a delete of what was never seen says nothing.
/// A full load stands below the changes of its product, whatever the clocks say: where one was
/// committed before the load's time, the load was true until then at most.
/// Exports may arrive in any order: all observations of the touched products are read.
const REBUILT: &str = "
WITH touched AS (SELECT DISTINCT product_id FROM changed),
observed AS (
  SELECT o.*, CASE WHEN o.standing = 'load' THEN least(o.observed_at,
      min(CASE WHEN o.standing = 'change' THEN o.observed_at END) OVER (PARTITION BY o.product_id))
    ELSE o.observed_at END AS since
  FROM observations o JOIN touched t ON o.product_id = t.product_id
),
placed AS (
  SELECT *, row_number() OVER (PARTITION BY product_id
    ORDER BY since, CASE WHEN standing = 'load' THEN 0 ELSE 1 END, observed_at, export_id) AS place
  FROM observed
),
runs AS (
  SELECT *, sum(CASE WHEN deleted THEN 0 ELSE 1 END) OVER (PARTITION BY product_id ORDER BY place) AS seen
  FROM placed
),
told AS (
  SELECT product_id, since, lead(since) OVER (PARTITION BY product_id ORDER BY place) AS next_since,
    first_value(sku) OVER run AS sku,
    first_value(name) OVER run AS name,
    first_value(brand) OVER run AS brand,
    first_value(category) OVER run AS category,
    first_value(category_path) OVER run AS category_path,
    first_value(price) OVER run AS price,
    first_value(cost) OVER run AS cost,
    first_value(currency) OVER run AS currency,
    first_value(stock) OVER run AS stock,
    CASE WHEN deleted THEN false ELSE active END AS active
  FROM runs WHERE seen > 0
  WINDOW run AS (PARTITION BY product_id, seen ORDER BY place)
),
marked AS (
  SELECT *, lag(since) OVER earlier AS before,
    coalesce((lag(sku) OVER earlier IS DISTINCT FROM sku)
      OR (lag(name) OVER earlier IS DISTINCT FROM name)
      OR (lag(brand) OVER earlier IS DISTINCT FROM brand)
      OR (lag(category) OVER earlier IS DISTINCT FROM category)
      OR (lag(category_path) OVER earlier IS DISTINCT FROM category_path)
      OR (lag(price) OVER earlier IS DISTINCT FROM price)
      OR (lag(cost) OVER earlier IS DISTINCT FROM cost)
      OR (lag(currency) OVER earlier IS DISTINCT FROM currency)
      OR (lag(stock) OVER earlier IS DISTINCT FROM stock)
      OR (lag(active) OVER earlier IS DISTINCT FROM active), true) AS differs
  FROM told WHERE next_since IS DISTINCT FROM since
  WINDOW earlier AS (PARTITION BY product_id ORDER BY since)
),
versions AS (SELECT * FROM marked WHERE before IS NULL OR differs)
SELECT product_id, sku, name, brand, category, category_path, price, cost, currency, stock, active,
  since AS valid_from,
  lead(since) OVER (PARTITION BY product_id ORDER BY since) AS valid_to,
  before IS NULL AS is_first
FROM versions
UNION ALL
SELECT p.product_id, p.sku, p.name, p.brand, p.category, p.category_path, p.price, p.cost,
  p.currency, p.stock, p.active, p.valid_from, p.valid_to, p.is_first
FROM products p LEFT ANTI JOIN touched t ON p.product_id = t.product_id";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let fail = TransformError::job(JOB);
    let mut output = Output::default();
    let change = context.change_of(&PRODUCT_OBSERVATIONS, &PRODUCTS).await?;
    if change.is_empty() {
        return Ok(output);
    }
    let products: Table = context.current(&PRODUCTS).await?;
    let observations = context.current(&PRODUCT_OBSERVATIONS).await?;
    let session = context.session();
    for (name, spec, files) in [
        ("changed", &PRODUCT_OBSERVATIONS, [change.adds, change.removes].concat()),
        ("observations", &PRODUCT_OBSERVATIONS, observations.files().to_vec()),
        ("products", &PRODUCTS, products.files().to_vec()),
    ] {
        session.register_table(name, table_of(spec, files)).map_err(&fail)?;
    }
    let rows = session.sql(REBUILT).await.map_err(&fail)?;
    let adds = write(context, JOB, &PRODUCTS, rows, Spread::One).await?;
    output.counts.insert("products", adds.iter().map(|file| file.rows).sum());
    output.changes.insert("products", Change { adds, removes: products.files().to_vec() });
    Ok(output)
}
