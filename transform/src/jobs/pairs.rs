//! What `co_viewed` and `co_bought` share: pairs of products in baskets.
//!
//! Pairs grow with the square of a basket, so a basket counts its first
//! [`MAX_PRODUCTS_OF_A_BASKET`] products only, and a product that goes with
//! everything keeps its [`MAX_PARTNERS`] strongest.

use clickmill_schemas::Date;
use clickmill_schemas::tables::TableSpec;

use super::JobContext;
use super::context::table_of;
use super::query::{Spread, dates, write};
use crate::TransformError;
use clickmill_lake::table::{Change, DataFile, Table};
use datafusion::prelude::SessionContext;

/// The first so many different products of a session or an order: 2,450 pairs.
const MAX_PRODUCTS_OF_A_BASKET: u32 = 50;
/// The strongest so many of a product.
const MAX_PARTNERS: u32 = 50;
/// Together once is chance.
const MIN_TOGETHER: u32 = 2;

/// `baskets` has a row a basket and product, with its place in the basket from 1. `{own}`,
/// `{other}` and `{all}` stand for the names of the counts.
const COMPUTED: &str = "
WITH baskets AS (SELECT basket, product_id FROM placed WHERE place <= {products}),
counts AS (SELECT product_id, count(*) AS n FROM baskets GROUP BY product_id),
whole AS (SELECT count(DISTINCT basket) AS n FROM baskets),
pairs AS (
  SELECT a.product_id, b.product_id AS other_product_id, count(*) AS together
  FROM baskets a JOIN baskets b ON a.basket = b.basket
  WHERE a.product_id <> b.product_id
  GROUP BY a.product_id, b.product_id HAVING count(*) >= {together}
),
measured AS (
  SELECT p.product_id, p.other_product_id, p.together, a.n AS own, b.n AS other, w.n AS baskets,
    CAST(p.together AS DOUBLE) / CAST(w.n AS DOUBLE) AS support,
    CAST(p.together AS DOUBLE) / CAST(a.n AS DOUBLE) AS confidence,
    CAST(p.together * w.n AS DOUBLE) / CAST(a.n * b.n AS DOUBLE) AS lift
  FROM pairs p JOIN counts a ON p.product_id = a.product_id
  JOIN counts b ON p.other_product_id = b.product_id CROSS JOIN whole w
)
SELECT product_id, other_product_id, position, together, own AS {own}, other AS {other},
  baskets AS {all}, support, confidence, lift
FROM (
  SELECT *, row_number() OVER (PARTITION BY product_id
    ORDER BY together DESC, lift DESC, other_product_id) AS position FROM measured)
WHERE position <= {partners}";

/// The names of the counts in a table.
pub struct Names {
    /// Baskets that hold the product.
    pub own: &'static str,
    /// Baskets that hold the other one.
    pub other: &'static str,
    /// All baskets.
    pub all: &'static str,
}

/// The files of a table within `days` of the newest of its partitions that holds rows of
/// interest, as `newest` (a query of a date) says.
///
/// # Errors
/// [`TransformError`].
pub async fn recent_files(
    context: &JobContext<'_>,
    job: &'static str,
    table: &Table,
    newest: &str,
    days: i32,
) -> Result<Vec<DataFile>, TransformError> {
    let session = context.session();
    let all = table_of(table.spec(), table.files().to_vec());
    session.register_table(table.spec().name, all).map_err(TransformError::job(job))?;
    let newest = dates(&session, job, newest).await?;
    let from = newest.first().map(|newest| newest.days() - days);
    let is_recent = |file: &&DataFile| from.is_some() && file.dt.map(Date::days) > from;
    Ok(table.files().iter().filter(is_recent).cloned().collect())
}

/// Replaces the table of pairs by those of `placed` (`basket`, `product_id`, `place`).
///
/// # Errors
/// [`TransformError`].
pub async fn replace(
    context: &JobContext<'_>,
    job: &'static str,
    session: &SessionContext,
    spec: &'static TableSpec,
    names: &Names,
) -> Result<Change, TransformError> {
    let table = context.current(spec).await?;
    let sql = COMPUTED
        .replace("{products}", &MAX_PRODUCTS_OF_A_BASKET.to_string())
        .replace("{partners}", &MAX_PARTNERS.to_string())
        .replace("{together}", &MIN_TOGETHER.to_string())
        .replace("{own}", names.own)
        .replace("{other}", names.other)
        .replace("{all}", names.all);
    let rows = session.sql(&sql).await.map_err(TransformError::job(job))?;
    let adds = write(context, job, spec, rows, Spread::One).await?;
    Ok(Change { adds, removes: table.files().to_vec() })
}
