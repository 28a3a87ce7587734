//! What `co_viewed` and `co_bought` share: pairs of products in baskets.
//!
//! Pairs grow with the square of a basket, so a basket counts its first
//! [`MAX_PRODUCTS_OF_A_BASKET`] products only, and a product that goes with
//! everything keeps its [`MAX_PARTNERS`] strongest.
//!
//! Baskets are read once, one after the other, and each of their pairs is named
//! once, as two numbers: a join of the baskets with themselves gives every pair
//! twice, as texts. The engine sorts the baskets and counts the pairs, and may
//! spill both; the products' numbers, and the pairs that came more than once, are
//! held in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, AsArray as _, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use clickmill_lake::table::{Change, DataFile, Table};
use clickmill_schemas::Date;
use clickmill_schemas::tables::TableSpec;
use datafusion::catalog::MemTable;
use datafusion::common::DataFusionError;
use datafusion::prelude::SessionContext;
use futures::StreamExt as _;

use super::JobContext;
use super::context::table_of;
use super::once;
use super::query::{Spread, date_literal, dates, write};
use super::statements::materialize;
use crate::TransformError;

/// The first so many different products of a session or an order: 1,225 pairs.
const MAX_PRODUCTS_OF_A_BASKET: u32 = 50;
/// The strongest so many of a product.
const MAX_PARTNERS: u32 = 50;
/// Together once is chance.
const MIN_TOGETHER: u32 = 2;

/// `placed` has a row a basket and product, with its place in the basket from 1.
const BASKETS: &str = "
SELECT basket, product_id FROM placed WHERE place <= {products} ORDER BY basket, place";

/// How often two products stand in one basket.
const TOGETHER: &str = "
SELECT one, other, count(*) AS together FROM paired GROUP BY one, other HAVING count(*) >= {together}";

/// `{own}`, `{other}` and `{all}` stand for the names of the counts.
const COMPUTED: &str = "
WITH pairs AS (
  SELECT CASE WHEN side = 1 THEN one ELSE other END AS product,
    CASE WHEN side = 1 THEN other ELSE one END AS partner, together
  FROM together CROSS JOIN (VALUES (1), (2)) AS sides (side)
),
measured AS (
  SELECT a.product_id, b.product_id AS other_product_id, p.together, a.baskets AS own,
    b.baskets AS other, w.baskets,
    CAST(p.together AS DOUBLE) / CAST(w.baskets AS DOUBLE) AS support,
    CAST(p.together AS DOUBLE) / CAST(a.baskets AS DOUBLE) AS confidence,
    CAST(p.together * w.baskets AS DOUBLE) / CAST(a.baskets * b.baskets AS DOUBLE) AS lift
  FROM pairs p JOIN products a ON p.product = a.number
  JOIN products b ON p.partner = b.number CROSS JOIN (SELECT {baskets} AS baskets) w
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
/// interest, as `newest` (a query of a date, `{newest_day}` stands for the last that counts) says.
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
    let newest = newest.replace("{newest_day}", &date_literal(context.newest_day()));
    let newest = dates(&session, job, &newest).await?;
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
    let fail = TransformError::job(job);
    let table = context.current(spec).await?;
    let sql = BASKETS.replace("{products}", &MAX_PRODUCTS_OF_A_BASKET.to_string());
    let baskets = session.sql(&sql).await.map_err(&fail)?;
    let baskets = baskets.execute_stream().await.map_err(&fail)?;
    let pairing = Arc::new(Mutex::new(Pairing::default()));
    let shared = Arc::clone(&pairing);
    let paired = baskets
        .map(move |rows| shared.lock().unwrap_or_else(PoisonError::into_inner).pairs(&rows?));
    let paired = once::table(&pair_schema(), paired).map_err(&fail)?;
    session.register_table("paired", paired).map_err(&fail)?;
    let sql = TOGETHER.replace("{together}", &MIN_TOGETHER.to_string());
    materialize(session, job, "together", &sql).await?;

    let (products, baskets) = {
        let pairing = pairing.lock().unwrap_or_else(PoisonError::into_inner);
        (pairing.products()?, pairing.baskets)
    };
    let products = MemTable::try_new(products.schema(), vec![vec![products]]).map_err(&fail)?;
    session.register_table("products", Arc::new(products)).map_err(&fail)?;
    let sql = COMPUTED
        .replace("{baskets}", &format!("CAST({baskets} AS BIGINT)"))
        .replace("{partners}", &MAX_PARTNERS.to_string())
        .replace("{own}", names.own)
        .replace("{other}", names.other)
        .replace("{all}", names.all);
    let rows = session.sql(&sql).await.map_err(&fail)?;
    let adds = write(context, job, spec, rows, Spread::One).await?;
    Ok(Change { adds, removes: table.files().to_vec() })
}

fn pair_schema() -> SchemaRef {
    let field = |name| Field::new(name, DataType::Int32, false);
    Arc::new(Schema::new(vec![field("one"), field("other")]))
}

/// Turns baskets into pairs of numbers, and remembers which product has which.
#[derive(Debug, Default)]
struct Pairing {
    numbers: HashMap<String, i32>,
    /// Of each number how many baskets hold it.
    held_by: Vec<i64>,
    /// Baskets begun so far, and the name of the last one.
    baskets: i64,
    basket: String,
    /// The numbers in that one.
    in_basket: Vec<i32>,
}

impl Pairing {
    /// The pairs that these rows complete: each with those before it in its basket.
    fn pairs(&mut self, rows: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
        let (baskets, products) =
            (rows.column(0).as_string::<i32>(), rows.column(1).as_string::<i32>());
        let (mut ones, mut others) = (Vec::new(), Vec::new());
        for row in 0..rows.num_rows() {
            let basket = baskets.value(row);
            if self.baskets == 0 || basket != self.basket {
                self.baskets += 1;
                basket.clone_into(&mut self.basket);
                self.in_basket.clear();
            }
            let number = self.number(products.value(row));
            for &before in &self.in_basket {
                ones.push(before.min(number));
                others.push(before.max(number));
            }
            self.in_basket.push(number);
        }
        let columns: [Int32Array; 2] = [ones.into(), others.into()];
        let columns = columns.map(|column| Arc::new(column) as ArrayRef).to_vec();
        Ok(RecordBatch::try_new(pair_schema(), columns)?)
    }

    fn number(&mut self, product: &str) -> i32 {
        let number = match self.numbers.get(product) {
            Some(&number) => number,
            None => {
                let number = self.held_by.len() as i32;
                self.numbers.insert(product.to_owned(), number);
                self.held_by.push(0);
                number
            }
        };
        self.held_by[number as usize] += 1;
        number
    }

    /// The products that were seen: `number`, `product_id`, and `baskets` that hold it.
    fn products(&self) -> Result<RecordBatch, arrow::error::ArrowError> {
        let mut products = vec![""; self.held_by.len()];
        for (product, &number) in &self.numbers {
            products[number as usize] = product;
        }
        let numbers = Int32Array::from_iter_values(0..products.len() as i32);
        RecordBatch::try_from_iter([
            ("number", Arc::new(numbers) as ArrayRef),
            ("product_id", Arc::new(StringArray::from(products)) as _),
            ("baskets", Arc::new(Int64Array::from(self.held_by.clone())) as _),
        ])
    }
}
