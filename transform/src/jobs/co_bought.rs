//! `order_items` -> `co_bought`.

use clickmill_schemas::tables::{CO_BOUGHT, ORDER_ITEMS};

use super::context::table_of;
use super::pairs::{Names, recent_files, replace};
use super::{JobContext, Output};
use crate::TransformError;

const JOB: &str = "co_bought";
/// Orders of so many days, the newest one's included.
const WINDOW_DAYS: i32 = 365;

/// Lines on 1970-01-01 wait for their order.
const NEWEST: &str = "
SELECT max(dt) FROM order_items WHERE dt > DATE '1970-01-01' AND dt <= {newest_day}";

/// A product's place is that of its first line.
const PLACED: &str = "
CREATE VIEW placed AS
SELECT order_id AS basket, product_id,
  row_number() OVER (PARTITION BY order_id ORDER BY line, product_id) AS place
FROM (
  SELECT order_id, product_id, min(line) AS line FROM order_items
  WHERE product_id IS NOT NULL AND quantity > 0 AND dt > DATE '1970-01-01'
  GROUP BY order_id, product_id)";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let fail = TransformError::job(JOB);
    let mut output = Output::default();
    if context.change_of(&ORDER_ITEMS, &CO_BOUGHT).await?.is_empty() {
        return Ok(output);
    }
    let items = context.current(&ORDER_ITEMS).await?;
    let items = recent_files(context, JOB, &items, NEWEST, WINDOW_DAYS).await?;
    let session = context.session();
    session.register_table("order_items", table_of(&ORDER_ITEMS, items)).map_err(&fail)?;
    session.sql(PLACED).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    let names = Names { own: "bought", other: "other_bought", all: "orders" };
    output.add("co_bought", replace(context, JOB, &session, &CO_BOUGHT, &names).await?);
    Ok(output)
}
