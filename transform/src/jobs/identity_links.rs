//! `events` + `orders_enriched` -> `identity_links`.
//!
//! Days of which `events` only gained files are not read again: their new rows
//! are added to what is there, which gives the same, since a row is a minimum
//! and a count.

use clickmill_lake::table::DataFile;
use clickmill_schemas::tables::{EVENTS, IDENTITY_LINKS, ORDERS_ENRICHED};

use super::context::{files_in, rewritten_days, table_of, touched_days};
use super::query::replace_differing_days;
use super::{JobContext, Output, functions};
use crate::TransformError;

const JOB: &str = "identity_links";

/// Most events say nothing of a mail address: only those that mention one are parsed.
const COMPUTED: &str = "
WITH mailed AS (
  SELECT visitor_id, email_hash(properties, context) AS identifier, event_ts, dt FROM events
  WHERE visitor_id IS NOT NULL AND NOT is_bot
    AND (strpos(properties, 'email') > 0 OR strpos(context, 'email') > 0)
),
seen AS (
  SELECT visitor_id, method, identifier, first_seen, events, dt FROM kept WHERE method <> 'order'
  UNION ALL
  SELECT visitor_id, 'login', user_id, event_ts, 1, dt FROM events
  WHERE visitor_id IS NOT NULL AND user_id IS NOT NULL AND NOT is_bot
  UNION ALL
  SELECT visitor_id, 'email', identifier, event_ts, 1, dt FROM mailed WHERE identifier IS NOT NULL
  UNION ALL
  SELECT visitor_id, 'order', customer_id, event_ts, 1, dt FROM orders_enriched
  WHERE match_status IN ('matched', 'value_mismatch', 'currency_mismatch')
    AND visitor_id IS NOT NULL AND customer_id IS NOT NULL
)
SELECT visitor_id, method, identifier, min(first_seen) AS first_seen, sum(events) AS events, dt
FROM seen GROUP BY visitor_id, method, identifier, dt";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let mut output = Output::default();
    let events = context.change_of(&EVENTS, &IDENTITY_LINKS).await?;
    let orders = context.change_of(&ORDERS_ENRICHED, &IDENTITY_LINKS).await?;
    let mut days = touched_days(&events);
    days.extend(touched_days(&orders));
    if days.is_empty() {
        return Ok(output);
    }
    let table = context.current(&IDENTITY_LINKS).await?;
    let rewritten = rewritten_days(&events);
    let appended = |file: &&DataFile| file.dt.is_some_and(|dt| !rewritten.contains(&dt));
    let mut fresh: Vec<DataFile> = events.adds.iter().filter(appended).cloned().collect();
    fresh.extend(files_in(&context.current(&EVENTS).await?, &rewritten));
    let kept = days.difference(&rewritten).copied().collect();
    let orders = files_in(&context.current(&ORDERS_ENRICHED).await?, &days);
    let session = context.session();
    functions::register(&session);
    for (name, spec, files) in [
        ("events", &EVENTS, fresh),
        ("kept", &IDENTITY_LINKS, files_in(&table, &kept)),
        ("orders_enriched", &ORDERS_ENRICHED, orders),
    ] {
        session.register_table(name, table_of(spec, files)).map_err(TransformError::job(JOB))?;
    }
    let change = replace_differing_days(context, JOB, &session, &table, &days, COMPUTED).await?;
    output.add("identity_links", change);
    Ok(output)
}
