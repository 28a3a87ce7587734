//! `product_observations` -> `products`: history from successive exports.

use clickmill_schemas::tables::{PRODUCT_OBSERVATIONS, PRODUCTS};

use super::context::table_of;
use super::query::{Spread, write};
use super::{JobContext, Output};
use crate::TransformError;
use clickmill_lake::table::{Change, Table};

const JOB: &str = "products";

/// A version begins with an observation that differs from the one before it.
/// Exports may arrive in any order: all observations of the touched products are read.
const REBUILT: &str = "
WITH touched AS (SELECT DISTINCT product_id FROM changed),
marked AS (
  SELECT o.*,
    lag(observed_at) OVER earlier AS before,
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
  FROM observations o JOIN touched t ON o.product_id = t.product_id
  WINDOW earlier AS (PARTITION BY o.product_id ORDER BY o.observed_at, o.export_id)
),
versions AS (SELECT * FROM marked WHERE before IS NULL OR differs)
SELECT product_id, sku, name, brand, category, category_path, price, cost, currency, stock, active,
  observed_at AS valid_from,
  lead(observed_at) OVER (PARTITION BY product_id ORDER BY observed_at, export_id) AS valid_to,
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
