//! `events` -> `event_items`: one row an event and item.
//!
//! Days of which `events` only gained files gain files here, too; days that
//! were rewritten there are rewritten here.

use clickmill_lake::table::{Change, DataFile};
use clickmill_schemas::tables::{EVENT_ITEMS, EVENTS};

use super::context::{files_in, rewritten_days, table_of};
use super::query::{Spread, write};
use super::{JobContext, Output};
use crate::TransformError;

const JOB: &str = "event_items";

const EXPLODED: &str = "
SELECT app_id, event_id, item_index, event_name, event_ts, visitor_id, user_id, session_id, is_bot,
  item['product_id'] AS product_id, item['sku'] AS sku, item['name'] AS name,
  item['brand'] AS brand, item['category'] AS category, item['variant'] AS variant,
  item['price'] AS price, item['quantity'] AS quantity, item['coupon'] AS coupon,
  item['position'] AS position, currency, order_id, list_id, search_query, dt
FROM (
  SELECT app_id, event_id, event_name, event_ts, visitor_id, user_id, session_id, is_bot,
    currency, order_id, list_id, search_query, dt,
    unnest(items) AS item, unnest(range(1, CAST(array_length(items) AS BIGINT) + 1)) AS item_index
  FROM events WHERE items IS NOT NULL
)";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let fail = TransformError::job(JOB);
    let mut output = Output::default();
    let change = context.change_of(&EVENTS, &EVENT_ITEMS).await?;
    if change.is_empty() {
        return Ok(output);
    }
    let items = context.current(&EVENT_ITEMS).await?;
    let rewritten = rewritten_days(&change);
    let appended = |file: &&DataFile| file.dt.is_some_and(|dt| !rewritten.contains(&dt));
    let mut files: Vec<DataFile> = change.adds.iter().filter(appended).cloned().collect();
    files.extend(files_in(&context.current(&EVENTS).await?, &rewritten));
    let session = context.session();
    session.register_table("events", table_of(&EVENTS, files)).map_err(&fail)?;
    let rows = session.sql(EXPLODED).await.map_err(&fail)?;
    let adds = write(context, JOB, &EVENT_ITEMS, rows, Spread::Many).await?;
    output.counts.insert("event_items", adds.iter().map(|file| file.rows).sum());
    output.changes.insert("event_items", Change { adds, removes: files_in(&items, &rewritten) });
    Ok(output)
}
