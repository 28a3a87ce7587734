//! `events` + `currency_rates` -> `sessions`.
//!
//! A session belongs to the day it starts on. Days on which a touched session
//! starts, or started before, are computed again from that day and the next.
//!
//! A purchase is counted once, however often a browser reports it: one that follows another
//! of the same visitor and order within [`REPEAT_HOURS`] is a page of thanks that was loaded again.
//!
//! A session is a bot's where one of its events is, or where it shows
//! [`RATE_VIEWS`] views of one kind within [`RATE_WINDOW_SECONDS`]: nobody reads that fast,
//! and a browser that restores its tabs stays below it.

use std::collections::BTreeSet;
use std::sync::Arc;

use clickmill_schemas::Date;
use clickmill_schemas::tables::{EVENTS, SESSIONS};

use super::context::{files_in, table_of, touched_days, widened};
use super::exchange::{Exchange, revalued_days};
use super::query::{Spread, dates, register_days, replace_days};
use super::{JobContext, Output};
use crate::TransformError;
use crate::sessionize::LOOKBACK_DAYS;
use clickmill_lake::table::Change;

const JOB: &str = "sessions";

const MICROS_PER_HOUR: i64 = 60 * 60 * 1_000_000;
/// So many page views, screen views or product views ...
const RATE_VIEWS: u32 = 30;
/// ... within less than this are no person's.
const RATE_WINDOW_SECONDS: u32 = 60;

/// See the module's comment; no more than [`LOOKBACK_DAYS`] have.
const REPEAT_HOURS: i64 = 24;

/// Amounts that rates convert, of a purchase on the session's day or the next.
const AMOUNTS: &str = "SELECT dt, currency FROM held WHERE revenue IS NOT NULL";

const STARTS_NOW: &str = "
SELECT DISTINCT dt FROM (
  SELECT CAST(min(e.event_ts) AS DATE) AS dt FROM events e
  JOIN (SELECT DISTINCT session_id FROM changed) c ON e.session_id = c.session_id
  GROUP BY e.session_id HAVING min(e.session_seq) = 1)";

/// Sessions with a purchase that one of the changed ones precedes: what it counts for may change.
const BOUGHT_AFTER: &str = "
SELECT DISTINCT CAST(f.event_ts AS DATE) AS dt
FROM changed c JOIN events e ON c.visitor_id = e.visitor_id AND c.order_id = e.order_id
JOIN events f ON e.session_id = f.session_id
WHERE c.event_name = 'purchase' AND e.event_name = 'purchase' AND f.session_seq = 1
  AND CAST(e.event_ts AS BIGINT) - CAST(c.event_ts AS BIGINT) BETWEEN 0 AND {repeat}";

const STARTED_BEFORE: &str = "
SELECT DISTINCT s.dt FROM sessions s
JOIN (SELECT DISTINCT session_id FROM changed) c ON s.session_id = c.session_id";

/// `{repeat}` stands for [`REPEAT_HOURS`] in microseconds, `{before}` and `{window}` for [`RATE_VIEWS`] less one, and the window in microseconds.
/// Few sessions have as many events at all: only theirs are looked at.
const COMPUTED: &str = "
WITH paced AS (
  SELECT DISTINCT session_id FROM (
    SELECT session_id, CAST(event_ts AS BIGINT) - CAST(lag(event_ts, {before})
      OVER (PARTITION BY session_id, event_name ORDER BY session_seq) AS BIGINT) AS took
    FROM events
    WHERE session_id IN (SELECT session_id FROM events WHERE session_seq = {before} + 1)
      AND event_name IN ('page_view', 'screen_view', 'product_view'))
  WHERE took < {window}
),
steps AS (
  SELECT session_id, visitor_id, user_id, event_name, event_ts, session_seq, page_url, page_path,
    referrer_host, channel, utm_source, utm_medium, utm_campaign, device_class, browser, os,
    language, country, region, is_bot, bot_reason, is_late,
    CASE WHEN session_seq > 1 THEN
      least((CAST(event_ts AS BIGINT) - CAST(lag(event_ts) OVER w AS BIGINT)) / 1000, 300000) END AS engaged
  FROM events WHERE session_id IS NOT NULL
  WINDOW w AS (PARTITION BY session_id ORDER BY session_seq)
),
bought AS (
  SELECT session_id, count(order_id) AS orders, sum(revenue) AS revenue,
    CASE WHEN min(currency) = max(currency)
           AND count(*) FILTER (WHERE revenue IS NOT NULL AND currency IS NULL) = 0
         THEN min(currency) END AS currency,
    CASE WHEN count(revenue) > 0 THEN {reporting} END AS reporting_currency,
    sum(converted) AS reporting_revenue,
    CASE WHEN count(revenue) > 0 AND {reporting} IS NOT NULL THEN count(revenue) - count(converted)
    END AS unconverted
  FROM (
    SELECT session_id, order_id, revenue, currency,
      TRY_CAST(revenue * exchange_rate(currency, dt) AS DECIMAL(18,4)) AS converted
    FROM (
      SELECT session_id, order_id, coalesce(revenue, total) AS revenue, currency, dt,
        CAST(event_ts AS BIGINT) - CAST(lag(event_ts)
          OVER (PARTITION BY visitor_id, is_bot, order_id
            ORDER BY event_ts, event_id, app_id, received_ts) AS BIGINT) AS since
      FROM purchasing WHERE event_name = 'purchase' AND session_id IS NOT NULL)
    WHERE order_id IS NULL OR since IS NULL OR since > {repeat})
  GROUP BY session_id
),
summed AS (
  SELECT session_id, min(visitor_id) AS visitor_id,
    last_value(user_id ORDER BY session_seq) FILTER (WHERE user_id IS NOT NULL) AS user_id,
    min(event_ts) AS started_at, max(event_ts) AS ended_at,
    coalesce(sum(engaged), 0) AS engaged_ms, count(*) AS events,
    count(*) FILTER (WHERE event_name IN ('page_view', 'screen_view')) AS page_views,
    count(*) FILTER (WHERE event_name = 'product_view') AS product_views,
    count(*) FILTER (WHERE event_name = 'add_to_cart') AS add_to_carts,
    count(*) FILTER (WHERE event_name = 'begin_checkout') AS checkouts,
    count(*) FILTER (WHERE event_name = 'search') AS searches,
    count(*) FILTER (WHERE event_name = 'purchase') AS purchases,
    count(*) FILTER (WHERE event_name = 'refund') AS refunds,
    first_value(page_url ORDER BY session_seq) FILTER (WHERE page_url IS NOT NULL) AS landing_url,
    first_value(page_path ORDER BY session_seq) FILTER (WHERE page_path IS NOT NULL) AS landing_path,
    last_value(page_path ORDER BY session_seq) FILTER (WHERE page_path IS NOT NULL) AS exit_path,
    max(referrer_host) FILTER (WHERE session_seq = 1) AS referrer_host,
    max(channel) FILTER (WHERE session_seq = 1) AS channel,
    max(utm_source) FILTER (WHERE session_seq = 1) AS utm_source,
    max(utm_medium) FILTER (WHERE session_seq = 1) AS utm_medium,
    max(utm_campaign) FILTER (WHERE session_seq = 1) AS utm_campaign,
    last_value(channel ORDER BY session_seq)
      FILTER (WHERE channel NOT IN ('internal', 'direct')) AS marked_channel,
    last_value(utm_source ORDER BY session_seq)
      FILTER (WHERE channel NOT IN ('internal', 'direct')) AS last_utm_source,
    last_value(utm_campaign ORDER BY session_seq)
      FILTER (WHERE channel NOT IN ('internal', 'direct')) AS last_utm_campaign,
    max(device_class) FILTER (WHERE session_seq = 1) AS device_class,
    max(browser) FILTER (WHERE session_seq = 1) AS browser,
    max(os) FILTER (WHERE session_seq = 1) AS os,
    max(language) FILTER (WHERE session_seq = 1) AS language,
    max(country) FILTER (WHERE session_seq = 1) AS country,
    max(region) FILTER (WHERE session_seq = 1) AS region,
    bool_or(is_bot) AS has_bot, min(bot_reason) AS event_reason, count(*) FILTER (WHERE is_late) AS late_events
  FROM steps GROUP BY session_id HAVING min(session_seq) = 1
)
SELECT s.*,
  (CAST(ended_at AS BIGINT) - CAST(started_at AS BIGINT)) / 1000 AS duration_ms,
  s.events = 1 AND purchases = 0 AS is_bounce,
  coalesce(b.orders, 0) AS orders, b.revenue, b.currency, b.reporting_currency, b.reporting_revenue,
  b.unconverted,
  product_views > 0 AS has_product_view, add_to_carts > 0 AS has_add_to_cart,
  checkouts > 0 AS has_checkout, b.session_id IS NOT NULL AS has_purchase,
  coalesce(marked_channel, channel) AS last_channel,
  has_bot OR p.session_id IS NOT NULL AS is_bot,
  CASE WHEN has_bot THEN event_reason WHEN p.session_id IS NOT NULL THEN 'rate' END AS bot_reason, d.dt
FROM summed s
JOIN days d ON CAST(s.started_at AS DATE) = d.dt
LEFT JOIN bought b ON s.session_id = b.session_id
LEFT JOIN paced p ON s.session_id = p.session_id";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let fail = TransformError::job(JOB);
    let mut output = Output::default();
    let change = context.change_of(&EVENTS, &SESSIONS).await?;
    let revalued = revalued_days(context, JOB, &SESSIONS, AMOUNTS, LOOKBACK_DAYS).await?;
    if change.is_empty() && revalued.is_empty() {
        return Ok(output);
    }
    let events = context.current(&EVENTS).await?;
    let sessions = context.current(&SESSIONS).await?;
    let mut days = if sessions.files().is_empty() {
        touched_days(&change)
    } else {
        start_days(context, &change).await?
    };
    days.extend(revalued);
    let session = context.session();
    for (name, back) in [("events", 0), ("purchasing", LOOKBACK_DAYS)] {
        let files = files_in(&events, &widened(&days, back, LOOKBACK_DAYS));
        session.register_table(name, table_of(&EVENTS, files)).map_err(&fail)?;
    }
    register_days(&session, JOB, "days", &days)?;
    let exchange = Arc::new(Exchange::now(context).await?);
    exchange.register(&session);
    let sql = exchange
        .in_sql(COMPUTED)
        .replace("{repeat}", &(REPEAT_HOURS * MICROS_PER_HOUR).to_string())
        .replace("{before}", &(RATE_VIEWS - 1).to_string())
        .replace("{window}", &(i64::from(RATE_WINDOW_SECONDS) * 1_000_000).to_string());
    let change = replace_days(context, JOB, &session, &sessions, &days, &sql, Spread::Many).await?;
    output.counts.insert("sessions", change.adds.iter().map(|file| file.rows).sum());
    output.changes.insert("sessions", change);
    Ok(output)
}

/// Days on which a session with a touched event starts now, or started before.
async fn start_days(
    context: &JobContext<'_>,
    change: &Change,
) -> Result<BTreeSet<Date>, TransformError> {
    let fail = TransformError::job(JOB);
    let around = widened(&touched_days(change), 1, 1);
    let session = context.session();
    let changed = change.adds.iter().chain(&change.removes).cloned().collect();
    for (name, spec, files) in [
        ("changed", &EVENTS, changed),
        ("events", &EVENTS, files_in(&context.current(&EVENTS).await?, &around)),
        ("sessions", &SESSIONS, files_in(&context.current(&SESSIONS).await?, &around)),
    ] {
        session.register_table(name, table_of(spec, files)).map_err(&fail)?;
    }
    let after = BOUGHT_AFTER.replace("{repeat}", &(REPEAT_HOURS * MICROS_PER_HOUR).to_string());
    let mut days = BTreeSet::new();
    for sql in [STARTS_NOW, STARTED_BEFORE, &after] {
        days.extend(dates(&session, JOB, sql).await?);
    }
    Ok(days)
}
