//! `event_items` + `sessions` -> `co_viewed`.

use clickmill_schemas::tables::{CO_VIEWED, EVENT_ITEMS, SESSIONS};

use super::context::table_of;
use super::pairs::{Names, recent_files, replace};
use super::{JobContext, Output};
use crate::TransformError;

const JOB: &str = "co_viewed";
/// Sessions of so many days, the newest one's included.
const WINDOW_DAYS: i32 = 90;

const NEWEST: &str = "
SELECT max(dt) FROM sessions WHERE NOT is_bot AND has_product_view AND dt <= {newest_day}";

/// A product's place is that of its first view in the session.
const PLACED: &str = "
CREATE VIEW placed AS
SELECT session_id AS basket, product_id,
  row_number() OVER (PARTITION BY session_id ORDER BY viewed_at, product_id) AS place
FROM (
  SELECT i.session_id, i.product_id, min(i.event_ts) AS viewed_at
  FROM event_items i JOIN sessions s ON i.session_id = s.session_id
  WHERE i.event_name = 'product_view' AND i.product_id IS NOT NULL AND NOT s.is_bot
  GROUP BY i.session_id, i.product_id)";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let fail = TransformError::job(JOB);
    let mut output = Output::default();
    let items = context.change_of(&EVENT_ITEMS, &CO_VIEWED).await?;
    let sessions = context.change_of(&SESSIONS, &CO_VIEWED).await?;
    if items.is_empty() && sessions.is_empty() {
        return Ok(output);
    }
    let sessions = context.current(&SESSIONS).await?;
    let sessions = recent_files(context, JOB, &sessions, NEWEST, WINDOW_DAYS).await?;
    // A session's events lie on its day and the next.
    let from = sessions.iter().filter_map(|file| file.dt).min();
    let items = context.current(&EVENT_ITEMS).await?;
    let items = items.files().iter().filter(|file| from.is_some() && file.dt >= from);
    let items = items.cloned().collect();
    let session = context.session();
    for (name, spec, files) in
        [("sessions", &SESSIONS, sessions), ("event_items", &EVENT_ITEMS, items)]
    {
        session.register_table(name, table_of(spec, files)).map_err(&fail)?;
    }
    session.sql(PLACED).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    let names = Names { own: "views", other: "other_views", all: "sessions" };
    output.add("co_viewed", replace(context, JOB, &session, &CO_VIEWED, &names).await?);
    Ok(output)
}
