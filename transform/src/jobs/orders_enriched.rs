//! `orders` + `events` + `sessions` + `currency_rates` -> `orders_enriched`.
//!
//! An order and a purchase event belong together when they name the same order
//! within [`MATCH_DAYS`] of each other; of several events the first counts. Events
//! without an order count once, too, where each follows the one before within
//! [`MATCH_DAYS`]. So a row depends on nothing further away than that, and it does
//! not matter in which batches the rest came.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use clickmill_lake::table::Change;
use clickmill_schemas::Date;
use clickmill_schemas::tables::{EVENTS, ORDERS, ORDERS_ENRICHED, SESSIONS};

use super::context::{files_in, rewritten_days, table_of, touched_days, widened};
use super::exchange::{Exchange, RATE_DAYS, revalued_days};
use super::query::{Spread, dates, register_days, replace_days};
use super::{JobContext, Output};
use crate::TransformError;
use crate::sources::{Notice, Severity};

const JOB: &str = "orders_enriched";
/// How many days an order and its purchase event may lie apart.
const MATCH_DAYS: i32 = 7;

/// Amounts that rates convert; none stands for any currency.
const AMOUNTS: &str = "
SELECT dt, coalesce(currency, '') AS currency FROM held
UNION SELECT dt, coalesce(event_currency, '') FROM held";

const PURCHASES: &str = "
CREATE VIEW purchases AS
SELECT order_id, event_id, app_id, event_ts, received_ts, visitor_id, session_id, user_id, currency,
  coalesce(total, revenue) AS amount, tax, shipping, coupon, country, region, city, dt
FROM events WHERE event_name = 'purchase' AND order_id IS NOT NULL";

/// Days of every row that a touched order or purchase has, had or will have.
const AFFECTED: &str = "
SELECT dt FROM changed_orders
UNION SELECT o.dt FROM orders o JOIN changed_purchases p ON o.order_id = p.order_id
UNION SELECT p.dt FROM changed_purchases p
UNION SELECT x.dt FROM purchases x JOIN changed_orders o ON x.order_id = o.order_id
UNION SELECT x.dt FROM purchases x JOIN changed_purchases p ON x.order_id = p.order_id";

/// Purchases whose row would come out otherwise: those in events that came or went, and those
/// in a session of which something changed that the row shows.
const CHANGED_PURCHASES: &str = "
CREATE VIEW changed_purchases AS
SELECT order_id, dt FROM changed_events WHERE event_name = 'purchase' AND order_id IS NOT NULL
UNION ALL
SELECT p.order_id, p.dt FROM purchases p
JOIN new_sessions n ON p.session_id = n.session_id
JOIN old_sessions o ON p.session_id = o.session_id
WHERE (n.started_at IS DISTINCT FROM o.started_at)
  OR (n.last_channel IS DISTINCT FROM o.last_channel)
  OR (n.last_utm_source IS DISTINCT FROM o.last_utm_source)
  OR (n.last_utm_campaign IS DISTINCT FROM o.last_utm_campaign)
  OR (n.device_class IS DISTINCT FROM o.device_class)";

const COMPUTED: &str = "
WITH pairs AS (
  SELECT p.*, o.order_id AS matched_order,
    row_number() OVER (PARTITION BY p.order_id, o.order_id IS NULL
                       ORDER BY p.event_ts, p.app_id, p.event_id, p.received_ts) AS nth
  FROM purchases p
  LEFT JOIN orders o ON p.order_id = o.order_id
    AND abs(CAST(p.dt AS INT) - CAST(o.dt AS INT)) <= 7
),
first_event AS (SELECT * FROM pairs WHERE nth = 1 AND matched_order IS NOT NULL),
unmatched AS (
  SELECT *,
    lag(dt) OVER (PARTITION BY order_id ORDER BY event_ts, app_id, event_id, received_ts) AS before
  FROM pairs WHERE matched_order IS NULL
),
rows AS (
  SELECT o.order_id,
    CASE WHEN p.order_id IS NULL THEN 'order_only'
         WHEN upper(p.currency) <> upper(o.currency) THEN 'currency_mismatch'
         WHEN p.amount IS NULL OR p.amount = o.total OR p.amount = o.subtotal - coalesce(o.discount, 0)
           OR p.amount = o.subtotal THEN 'matched'
         ELSE 'value_mismatch' END AS match_status,
    o.customer_id, o.ordered_at, o.status, o.currency, o.subtotal, o.discount, o.tax, o.shipping,
    o.total, o.refunded, o.total - coalesce(o.refunded, 0) AS net_total, o.coupon, o.country,
    o.region, o.city, o.channel_hint, p.event_id, p.app_id AS event_app_id, p.event_ts,
    p.amount AS event_total, p.currency AS event_currency,
    CASE WHEN p.order_id IS NULL THEN o.total END AS missed_total,
    p.visitor_id, p.session_id, o.dt
  FROM orders o JOIN days d ON o.dt = d.dt
  LEFT JOIN first_event p ON o.order_id = p.order_id
  UNION ALL
  SELECT p.order_id, 'event_only' AS match_status, p.user_id AS customer_id,
    p.event_ts AS ordered_at, NULL AS status, p.currency, NULL AS subtotal, NULL AS discount, p.tax,
    p.shipping, NULL AS total, NULL AS refunded, NULL AS net_total, p.coupon, p.country, p.region,
    p.city, NULL AS channel_hint, p.event_id, p.app_id AS event_app_id, p.event_ts,
    p.amount AS event_total, p.currency AS event_currency, NULL AS missed_total, p.visitor_id, p.session_id, p.dt
  FROM unmatched p JOIN days d ON p.dt = d.dt
  WHERE p.before IS NULL OR CAST(p.dt AS INT) - CAST(p.before AS INT) > 7
),
rated AS (
  SELECT *, exchange_rate(currency, dt) AS exchange_rate,
    exchange_rate(coalesce(event_currency, currency), dt) AS event_rate
  FROM rows
)
SELECT r.*, {reporting} AS reporting_currency,
  TRY_CAST(r.total * r.exchange_rate AS DECIMAL(18, 4)) AS reporting_total,
  TRY_CAST(r.refunded * r.exchange_rate AS DECIMAL(18, 4)) AS reporting_refunded,
  TRY_CAST(r.net_total * r.exchange_rate AS DECIMAL(18, 4)) AS reporting_net_total,
  TRY_CAST(r.missed_total * r.exchange_rate AS DECIMAL(18, 4)) AS reporting_missed_total,
  TRY_CAST(r.event_total * r.event_rate AS DECIMAL(18, 4)) AS reporting_event_total,
  s.started_at AS session_started_at,
  (CAST(r.ordered_at AS BIGINT) - CAST(s.started_at AS BIGINT)) / 1000 AS latency_ms,
  s.last_channel AS channel, s.last_utm_source AS utm_source, s.last_utm_campaign AS utm_campaign,
  s.device_class
FROM rated r LEFT JOIN sessions s ON r.session_id = s.session_id";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let fail = TransformError::job(JOB);
    let mut output = Output::default();
    let orders_change = context.change_of(&ORDERS, &ORDERS_ENRICHED).await?;
    let events_change = context.change_of(&EVENTS, &ORDERS_ENRICHED).await?;
    let sessions_change = context.change_of(&SESSIONS, &ORDERS_ENRICHED).await?;
    let revalued = revalued_days(context, JOB, &ORDERS_ENRICHED, AMOUNTS, 0).await?;
    let is_unchanged = |change: &&Change| change.is_empty();
    if revalued.is_empty()
        && [&orders_change, &events_change, &sessions_change].iter().all(is_unchanged)
    {
        return Ok(output);
    }
    let enriched = context.current(&ORDERS_ENRICHED).await?;
    let mut days = affected_days(context, &orders_change, &events_change, &sessions_change).await?;
    days.extend(revalued);
    let around = widened(&days, MATCH_DAYS, MATCH_DAYS);
    // One ring wider for the orders: whether an event has one must not depend on `days`.
    let orders_around = widened(&around, MATCH_DAYS, MATCH_DAYS);
    let session = context.session();
    for (name, spec, days) in [
        ("orders", &ORDERS, &orders_around),
        ("events", &EVENTS, &around),
        ("sessions", &SESSIONS, &widened(&around, 1, 0)),
    ] {
        let files = files_in(&context.current(spec).await?, days);
        session.register_table(name, table_of(spec, files)).map_err(&fail)?;
    }
    session.sql(PURCHASES).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    register_days(&session, JOB, "days", &days)?;
    let exchange = Arc::new(Exchange::now(context).await?);
    exchange.register(&session);
    let sql = exchange.in_sql(COMPUTED);
    let change = replace_days(context, JOB, &session, &enriched, &days, &sql, Spread::One).await?;
    if exchange.reporting().is_some() {
        output.notices.extend(unconverted(context, &change).await?);
    }
    output.add("orders_enriched", change);
    Ok(output)
}

/// Says which currencies of the rows written have no rate.
async fn unconverted(
    context: &JobContext<'_>,
    change: &Change,
) -> Result<Vec<Notice>, TransformError> {
    let fail = TransformError::job(JOB);
    let session = context.session();
    let written = table_of(&ORDERS_ENRICHED, change.adds.clone());
    session.register_table("written", written).map_err(&fail)?;
    let sql = "SELECT coalesce(currency, 'no currency'), count(*), CAST(min(dt) AS VARCHAR) \
               FROM written WHERE total IS NOT NULL AND reporting_total IS NULL \
               GROUP BY 1 ORDER BY 1";
    let batches = session.sql(sql).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    let mut notices = Vec::new();
    for batch in &batches {
        let text = |at: usize| batch.column(at).as_string::<i32>();
        let orders = batch.column(1).as_primitive::<Int64Type>();
        notices.extend((0..batch.num_rows()).map(|row| Notice {
            source: "currency".to_owned(),
            subject: text(0).value(row).to_owned(),
            severity: Severity::Problem,
            problem: format!(
                "{} orders, the first of {}, have no rate of the {RATE_DAYS} days up to theirs; \
                 their reporting_total is NULL",
                orders.value(row),
                text(2).value(row)
            ),
            advice: "add the rates to the file of [currency]".to_owned(),
        }));
    }
    Ok(notices)
}

async fn affected_days(
    context: &JobContext<'_>,
    orders_change: &Change,
    events_change: &Change,
    sessions_change: &Change,
) -> Result<BTreeSet<Date>, TransformError> {
    let fail = TransformError::job(JOB);
    let mut touched: BTreeSet<Date> = touched_days(orders_change);
    touched.extend(touched_days(events_change));
    touched.extend(rewritten_days(sessions_change));
    // An order takes an event of its own window; that can free one a window further.
    let around = widened(&touched, 2 * MATCH_DAYS, 2 * MATCH_DAYS);
    // Only a session that was there before can change what a row shows.
    let new_sessions = match sessions_change.removes.is_empty() {
        true => Vec::new(),
        false => sessions_change.adds.clone(),
    };
    let session = context.session();
    let all = |change: &Change| change.adds.iter().chain(&change.removes).cloned().collect();
    let orders = files_in(&context.current(&ORDERS).await?, &around);
    let events = files_in(&context.current(&EVENTS).await?, &around);
    for (name, spec, files) in [
        ("changed_orders", &ORDERS, all(orders_change)),
        ("changed_events", &EVENTS, all(events_change)),
        ("orders", &ORDERS, orders),
        ("events", &EVENTS, events),
        ("new_sessions", &SESSIONS, new_sessions),
        ("old_sessions", &SESSIONS, sessions_change.removes.clone()),
    ] {
        session.register_table(name, table_of(spec, files)).map_err(&fail)?;
    }
    for view in [PURCHASES, CHANGED_PURCHASES] {
        session.sql(view).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    }
    dates(&session, JOB, AFFECTED).await
}
