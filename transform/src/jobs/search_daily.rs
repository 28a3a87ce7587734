//! `events` + `sessions` -> `search_daily`.
//!
//! A search found nothing where its own event says so. One that says nothing of it, as
//! of a client that does not know, is none of those, whatever other clients of the same
//! application say of theirs.
//!
//! What follows a search lies in its session, which may go on on the next day
//! and began on the day before at the earliest ([`crate::sessionize::CAP`]).

use std::collections::BTreeSet;

use clickmill_lake::table::Change;
use clickmill_schemas::Date;
use clickmill_schemas::tables::{EVENTS, SEARCH_DAILY, SESSIONS};

use super::context::{files_in, table_of, touched_days, widened};
use super::query::{dates, register_changed, register_days, replace_differing_days};
use super::{JobContext, Output, functions};
use crate::TransformError;
use crate::sessionize::LOOKBACK_DAYS;

const JOB: &str = "search_daily";

/// The events that a search is followed by, and the search itself.
const FOLLOWED: &str = "('search', 'product_click', 'product_view', 'add_to_cart', 'purchase')";

/// Days with a search that came or went, or in whose session something did.
const AFFECTED: &str = "
SELECT DISTINCT dt FROM changed_events WHERE event_name = 'search'
UNION
SELECT DISTINCT e.dt FROM events e
JOIN (SELECT session_id FROM changed_events UNION SELECT session_id FROM changed_sessions) c
  ON e.session_id = c.session_id
WHERE e.event_name = 'search'";

const COMPUTED: &str = "
WITH steps AS (
  SELECT e.event_name, e.visitor_id, e.session_id, e.session_seq, e.dt,
    nullif(lower(trim(regexp_replace(e.search_query, '\\s+', ' ', 'g'))), '') AS search_query,
    CASE WHEN e.event_name = 'search' THEN
      coalesce(result_count(e.properties), nullif(CAST(array_length(e.items) AS BIGINT), 0)) END AS shown
  FROM events e LEFT JOIN bots b ON e.session_id = b.session_id
  WHERE e.event_name IN ('search', 'product_click', 'product_view', 'add_to_cart', 'purchase')
    AND NOT e.is_bot AND b.session_id IS NULL
),
placed AS (
  SELECT *, sum(CASE WHEN event_name = 'search' THEN 1 ELSE 0 END)
    OVER (PARTITION BY session_id ORDER BY session_seq) AS nth
  FROM steps WHERE session_id IS NOT NULL
),
followed AS (
  SELECT session_id, nth, bool_or(event_name IN ('product_click', 'product_view')) AS clicked,
    bool_or(event_name = 'add_to_cart') AS carted
  FROM placed WHERE nth > 0 GROUP BY session_id, nth
),
bought AS (
  SELECT session_id, max(session_seq) AS last_seq FROM placed WHERE event_name = 'purchase'
  GROUP BY session_id
),
searched AS (
  SELECT visitor_id, search_query, shown, dt, session_id, session_seq, nth FROM placed
  WHERE event_name = 'search'
  UNION ALL
  SELECT visitor_id, search_query, shown, dt, NULL, NULL, NULL FROM steps
  WHERE event_name = 'search' AND session_id IS NULL
),
judged AS (
  SELECT s.search_query, s.visitor_id, s.dt,
    s.shown IS NOT NULL AS is_known, s.shown = 0 AS found_nothing,
    coalesce(f.clicked, false) AS clicked, coalesce(f.carted, false) AS carted,
    coalesce(b.last_seq > s.session_seq, false) AS purchased
  FROM searched s
  JOIN days d ON s.dt = d.dt
  LEFT JOIN followed f ON s.session_id = f.session_id AND s.nth = f.nth
  LEFT JOIN bought b ON s.session_id = b.session_id
  WHERE s.search_query IS NOT NULL
),
searched_by AS (
  SELECT search_query, dt, visitor_id, count(*) AS searches,
    count(*) FILTER (WHERE is_known) AS with_results_known,
    count(*) FILTER (WHERE found_nothing) AS zero_results,
    count(*) FILTER (WHERE clicked) AS clicks, count(*) FILTER (WHERE carted) AS carts,
    count(*) FILTER (WHERE purchased) AS purchases
  FROM judged GROUP BY search_query, dt, visitor_id
)
SELECT search_query, dt, sum(searches) AS searches, count(visitor_id) AS searchers,
  sum(with_results_known) AS with_results_known, sum(zero_results) AS zero_results, sum(clicks) AS clicks, sum(carts) AS carts,
  sum(purchases) AS purchases,
  CAST(sum(purchases) AS DOUBLE) / CAST(sum(searches) AS DOUBLE) AS conversion
FROM searched_by GROUP BY search_query, dt";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let fail = TransformError::job(JOB);
    let mut output = Output::default();
    let events = context.change_of(&EVENTS, &SEARCH_DAILY).await?;
    let sessions = context.change_of(&SESSIONS, &SEARCH_DAILY).await?;
    let days = affected_days(context, &events, &sessions).await?;
    if days.is_empty() {
        return Ok(output);
    }
    let table = context.current(&SEARCH_DAILY).await?;
    let session = context.session();
    functions::register(&session);
    for (name, spec, days) in [
        ("events", &EVENTS, &widened(&days, 0, LOOKBACK_DAYS)),
        ("sessions", &SESSIONS, &widened(&days, LOOKBACK_DAYS, 0)),
    ] {
        let files = files_in(&context.current(spec).await?, days);
        session.register_table(name, table_of(spec, files)).map_err(&fail)?;
    }
    let bots = "CREATE VIEW bots AS SELECT session_id FROM sessions WHERE is_bot";
    session.sql(bots).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    register_days(&session, JOB, "days", &days)?;
    let change = replace_differing_days(context, JOB, &session, &table, &days, COMPUTED).await?;
    output.add("search_daily", change);
    Ok(output)
}

async fn affected_days(
    context: &JobContext<'_>,
    events: &Change,
    sessions: &Change,
) -> Result<BTreeSet<Date>, TransformError> {
    let fail = TransformError::job(JOB);
    let mut touched = touched_days(events);
    touched.extend(touched_days(sessions));
    if touched.is_empty() {
        return Ok(touched);
    }
    let session = context.session();
    let columns = "app_id, event_id, event_name, visitor_id, session_id, session_seq, \
                   search_query, content_hash, dt";
    let filter = format!("WHERE event_name IN {FOLLOWED} AND NOT is_bot");
    register_changed(&session, JOB, "changed_events", &EVENTS, events, columns, &filter).await?;
    let columns = "session_id, is_bot";
    register_changed(&session, JOB, "changed_sessions", &SESSIONS, sessions, columns, "").await?;
    let around = widened(&touched, LOOKBACK_DAYS, LOOKBACK_DAYS);
    let files = files_in(&context.current(&EVENTS).await?, &around);
    session.register_table("events", table_of(&EVENTS, files)).map_err(&fail)?;
    dates(&session, JOB, AFFECTED).await
}
