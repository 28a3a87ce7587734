//! `orders_enriched` + `sessions` + `identity_map` -> `attribution`.
//!
//! An order depends on the sessions of the lookback before it, and on who its
//! customer is [`IDENTITY_DAYS`] after it: what is learnt later changes it no more. Another
//! lookback makes every order anew.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Int32Array, RecordBatch, StringArray, UInt32Array,
};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{Decimal128Type, Int64Type};
use clickmill_lake::schema::{MONEY, arrow_schema};
use clickmill_lake::table::{Change, DataFile};
use clickmill_schemas::Date;
use clickmill_schemas::tables::{
    ATTRIBUTION, Column, IDENTITY_MAP, ORDERS_ENRICHED, SESSIONS, TableSpec,
};
use datafusion::prelude::SessionContext;

use super::context::{files_in, table_of, touched_days, widened};
use super::query::{dates, register_changed, register_days, replace_differing_rows};
use super::{JobContext, Output};
use crate::TransformError;
use crate::credit::{Model, Touch, WHOLE, divide};

const JOB: &str = "attribution";
/// An order's customer is whoever it is known to be so many days after it.
const IDENTITY_DAYS: i32 = 7;
/// How far the purchase event, and with it the session, may lie from its order: as in `orders_enriched`.
const MATCH_DAYS: i32 = 7;
/// The newest touches of an order that count.
const MAX_TOUCHES: usize = 100;
/// Days of orders whose touches are in memory at once.
const DAYS_AT_ONCE: usize = 31;

/// Columns of which an order's rows are made.
const ORDER_COLUMNS: &str = "order_id, customer_id, ordered_at, net_total, currency, \
                             reporting_net_total, reporting_currency, visitor_id, session_id, \
                             match_status, dt";
const SESSION_COLUMNS: &str = "session_id, visitor_id, started_at, last_channel, last_utm_source, \
                               last_utm_campaign, device_class, is_bot, page_views, product_views, \
                               searches, add_to_carts, checkouts, has_purchase, dt";
const IDENTITY_COLUMNS: &str = "visitor_id, customer_id, status, valid_from, valid_to";

/// `{back}` and `{ahead}` stand for how many days before and after an order its sessions start,
/// `{identity}` for [`IDENTITY_DAYS`].
const AFFECTED: &str = "
SELECT dt FROM changed_orders
UNION
SELECT o.dt FROM orders_enriched o JOIN changed_sessions s ON o.visitor_id = s.visitor_id
WHERE CAST(o.dt AS INT) - CAST(s.dt AS INT) BETWEEN -{ahead} AND {back}
UNION
SELECT o.dt FROM orders_enriched o JOIN identity_map m ON o.customer_id = m.customer_id
JOIN changed_sessions s ON m.visitor_id = s.visitor_id
WHERE CAST(o.dt AS INT) - CAST(s.dt AS INT) BETWEEN -{ahead} AND {back}
UNION
SELECT o.dt FROM orders_enriched o JOIN changed_identity i ON o.customer_id = i.customer_id
WHERE i.status = 'linked'
  AND CAST(CAST(i.valid_from AS DATE) AS INT) <= CAST(o.dt AS INT) + {identity} + 1
UNION
SELECT o.dt FROM orders_enriched o JOIN changed_identity i ON o.visitor_id = i.visitor_id
WHERE i.status = 'shared'
  AND CAST(CAST(i.valid_from AS DATE) AS INT) <= CAST(o.dt AS INT) + {identity} + 1";

/// One row an order and touch, an order without any once, in the order of the touches. Of a shared
/// device only the session of the order itself is one: who sat there before is not known.
const TOUCHED: &str = "
WITH placed AS (
  SELECT o.* FROM orders_enriched o JOIN days d ON o.dt = d.dt WHERE o.match_status <> 'event_only'
),
shared AS (
  SELECT visitor_id, min(valid_from) AS since FROM identity_map
  WHERE status = 'shared' AND visitor_id IS NOT NULL GROUP BY visitor_id
),
owners AS (
  SELECT o.order_id, m.visitor_id, CAST(NULL AS VARCHAR) AS only_session
  FROM placed o JOIN identity_map m ON o.customer_id = m.customer_id
  WHERE m.status = 'linked' AND m.valid_from <= o.ordered_at + INTERVAL '{identity} days'
    AND (m.valid_to IS NULL OR m.valid_to > o.ordered_at + INTERVAL '{identity} days')
  UNION
  SELECT o.order_id, o.visitor_id,
    CASE WHEN m.since <= o.ordered_at + INTERVAL '{identity} days' THEN coalesce(o.session_id, '') END
  FROM placed o LEFT JOIN shared m ON o.visitor_id = m.visitor_id WHERE o.visitor_id IS NOT NULL
),
touches AS (
  SELECT o.order_id, s.session_id, s.visitor_id, s.started_at AS touched_at,
    CASE WHEN s.last_channel = 'internal' THEN 'direct' ELSE coalesce(s.last_channel, 'direct') END AS channel,
    s.last_utm_source AS utm_source, s.last_utm_campaign AS utm_campaign, s.device_class,
    row_number() OVER (PARTITION BY o.order_id ORDER BY s.started_at DESC, s.session_id DESC) AS back
  FROM placed o JOIN owners w ON o.order_id = w.order_id
  JOIN sessions s ON s.visitor_id = w.visitor_id
  WHERE NOT s.is_bot
    AND (s.has_purchase OR s.page_views + s.product_views + s.searches + s.add_to_carts + s.checkouts > 0)
    AND s.started_at >= o.ordered_at - INTERVAL '{lookback} days'
    AND (s.started_at <= o.ordered_at OR s.session_id = o.session_id)
    AND (w.only_session IS NULL OR s.session_id = w.only_session)
)
SELECT o.order_id, o.customer_id, o.ordered_at, o.net_total, o.currency, o.reporting_net_total,
  o.reporting_currency, o.dt, t.session_id,
  t.visitor_id, t.touched_at, coalesce(t.channel, '(none)') AS channel, t.utm_source, t.utm_campaign,
  t.device_class, coalesce(t.channel, 'direct') = 'direct' AS is_direct,
  CAST(o.ordered_at AS BIGINT) - CAST(t.touched_at AS BIGINT) AS age
FROM placed o LEFT JOIN (SELECT * FROM touches WHERE back <= {touches}) t ON o.order_id = t.order_id
ORDER BY o.order_id, t.touched_at, t.session_id";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let fail = TransformError::job(JOB);
    let mut output = Output::default();
    let days = affected_days(context).await?;
    if days.is_empty() {
        return Ok(output);
    }
    let table = context.current(&ATTRIBUTION).await?;
    let mut change = Change::default();
    let all: Vec<Date> = days.into_iter().collect();
    for days in all.chunks(DAYS_AT_ONCE) {
        let days: BTreeSet<Date> = days.iter().copied().collect();
        let session = context.session();
        register(context, &session, &days).await?;
        let sql = TOUCHED
            .replace("{identity}", &IDENTITY_DAYS.to_string())
            .replace("{lookback}", &context.batch.attribution.lookback_days.to_string())
            .replace("{touches}", &MAX_TOUCHES.to_string());
        let rows = session.sql(&sql).await.map_err(&fail)?;
        let schema = Arc::new(rows.schema().as_arrow().clone());
        let touched = rows.collect().await.map_err(&fail)?;
        let credited = credited(&concat_batches(&schema, &touched)?)?;
        let rows = session.read_batch(credited).map_err(&fail)?;
        let done = replace_differing_rows(context, JOB, &session, &table, &days, rows).await?;
        change.adds.extend(done.adds);
        change.removes.extend(done.removes);
    }
    output.add("attribution", change);
    Ok(output)
}

fn lookback(context: &JobContext<'_>) -> i32 {
    i32::from(context.batch.attribution.lookback_days)
}

async fn register(
    context: &JobContext<'_>,
    session: &SessionContext,
    days: &BTreeSet<Date>,
) -> Result<(), TransformError> {
    let orders = files_in(&context.current(&ORDERS_ENRICHED).await?, days);
    let around = widened(days, lookback(context) + 1, MATCH_DAYS);
    let sessions = files_in(&context.current(&SESSIONS).await?, &around);
    let identities = context.current(&IDENTITY_MAP).await?.files().to_vec();
    for (name, spec, files) in [
        ("orders_enriched", &ORDERS_ENRICHED, orders),
        ("sessions", &SESSIONS, sessions),
        ("identity_map", &IDENTITY_MAP, identities),
    ] {
        session.register_table(name, table_of(spec, files)).map_err(TransformError::job(JOB))?;
    }
    register_days(session, JOB, "days", days)
}

/// Days with an order that came out otherwise, or of which a session or the customer's
/// identity did; more of them than must be, but no fewer.
async fn affected_days(context: &JobContext<'_>) -> Result<BTreeSet<Date>, TransformError> {
    let fail = TransformError::job(JOB);
    if context.taken_definition(ATTRIBUTION.name) != context.batch.definition_of(ATTRIBUTION.name) {
        // Another lookback, or other rules: every order.
        let orders = context.current(&ORDERS_ENRICHED).await?;
        return Ok(orders.files().iter().filter_map(|file| file.dt).collect());
    }
    let orders = context.change_of(&ORDERS_ENRICHED, &ATTRIBUTION).await?;
    let sessions = context.change_of(&SESSIONS, &ATTRIBUTION).await?;
    let identity = context.change_of(&IDENTITY_MAP, &ATTRIBUTION).await?;
    if orders.is_empty() && sessions.is_empty() && identity.is_empty() {
        return Ok(BTreeSet::new());
    }
    let session = context.session();
    for (name, spec, change, columns) in [
        ("changed_orders", &ORDERS_ENRICHED, &orders, ORDER_COLUMNS),
        ("changed_sessions", &SESSIONS, &sessions, SESSION_COLUMNS),
        ("changed_identity", &IDENTITY_MAP, &identity, IDENTITY_COLUMNS),
    ] {
        register_changed(&session, JOB, name, spec, change, columns, "").await?;
    }
    // Where nobody's identity changed, orders far from what did are not read.
    let mut since = touched_days(&sessions).first().map(|day| day.days() - MATCH_DAYS);
    let sql = "SELECT CAST(min(valid_from) AS DATE) FROM changed_identity \
               WHERE status IN ('linked', 'shared')";
    if let Some(learnt) = dates(&session, JOB, sql).await?.first() {
        let learnt = learnt.days() - IDENTITY_DAYS - 1;
        since = Some(since.map_or(learnt, |since| since.min(learnt)));
    }
    let recent =
        |file: &&DataFile| since.is_some_and(|since| file.dt.is_none_or(|dt| dt.days() >= since));
    let orders = context.current(&ORDERS_ENRICHED).await?;
    let orders = orders.files().iter().filter(recent).cloned().collect();
    let identities = context.current(&IDENTITY_MAP).await?.files().to_vec();
    for (name, spec, files) in
        [("orders_enriched", &ORDERS_ENRICHED, orders), ("identity_map", &IDENTITY_MAP, identities)]
    {
        session.register_table(name, table_of(spec, files)).map_err(&fail)?;
    }
    let sql = AFFECTED
        .replace("{back}", &(lookback(context) + 1).to_string())
        .replace("{ahead}", &MATCH_DAYS.to_string())
        .replace("{identity}", &IDENTITY_DAYS.to_string());
    dates(&session, JOB, &sql).await
}

/// Rows of the table: of each order and model the touches with weight.
struct Credited {
    /// Which input row each comes from.
    from: Vec<u32>,
    models: Vec<&'static str>,
    touch: Vec<i32>,
    touches: Vec<i32>,
    credit: Vec<i128>,
    revenue: Vec<Option<i128>>,
    reporting_revenue: Vec<Option<i128>>,
}

/// Divides each order of `rows`, which are in the order of [`TOUCHED`].
fn credited(rows: &RecordBatch) -> Result<RecordBatch, TransformError> {
    let column = |name: &str| -> Result<&ArrayRef, arrow::error::ArrowError> {
        Ok(rows.column(rows.schema().index_of(name)?))
    };
    let orders = column("order_id")?.as_string::<i32>();
    let sessions = column("session_id")?.as_string::<i32>();
    let net = column("net_total")?.as_primitive::<Decimal128Type>();
    let reporting = column("reporting_net_total")?.as_primitive::<Decimal128Type>();
    let direct = column("is_direct")?.as_boolean();
    let age = column("age")?.as_primitive::<Int64Type>();
    let mut done = Credited {
        from: Vec::new(),
        models: Vec::new(),
        touch: Vec::new(),
        touches: Vec::new(),
        credit: Vec::new(),
        revenue: Vec::new(),
        reporting_revenue: Vec::new(),
    };
    let mut start = 0;
    while start < rows.num_rows() {
        let same = |row: &usize| orders.value(*row) == orders.value(start);
        let end = (start..rows.num_rows()).take_while(same).count() + start;
        let touches: Vec<Touch> = (start..end)
            .map(|row| Touch {
                is_direct: direct.value(row),
                age_micros: if age.is_null(row) { 0 } else { age.value(row) },
            })
            .collect();
        let is_touched = !sessions.is_null(start);
        let count = if is_touched { i32::try_from(touches.len()).unwrap_or(i32::MAX) } else { 0 };
        for model in Model::ALL {
            let weights = model.weights(&touches);
            let credits = divide(WHOLE, &weights);
            let shares = |amounts: &Decimal128Array| {
                (!amounts.is_null(start)).then(|| divide(amounts.value(start), &weights))
            };
            let (revenue, converted) = (shares(net), shares(reporting));
            for (at, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
                debug_assert!(*weight > 0);
                done.from.push(u32::try_from(start + at).unwrap_or(u32::MAX));
                done.models.push(model.name());
                done.touch.push(if is_touched {
                    i32::try_from(at + 1).unwrap_or(i32::MAX)
                } else {
                    0
                });
                done.touches.push(count);
                done.credit.push(credits[at]);
                done.revenue.push(revenue.as_ref().map(|shares| shares[at]));
                done.reporting_revenue.push(converted.as_ref().map(|shares| shares[at]));
            }
        }
        start = end;
    }
    done.into_batch(rows, &ATTRIBUTION)
}

impl Credited {
    fn into_batch(
        self,
        rows: &RecordBatch,
        spec: &TableSpec,
    ) -> Result<RecordBatch, TransformError> {
        let from = UInt32Array::from(self.from);
        let money = |amounts: Decimal128Array| amounts.with_data_type(MONEY);
        let models: ArrayRef = Arc::new(StringArray::from(self.models));
        let touch: ArrayRef = Arc::new(Int32Array::from(self.touch));
        let touches: ArrayRef = Arc::new(Int32Array::from(self.touches));
        let credit: ArrayRef =
            Arc::new(money(self.credit.into_iter().map(Some).collect::<Decimal128Array>()));
        let revenue: ArrayRef =
            Arc::new(money(self.revenue.into_iter().collect::<Decimal128Array>()));
        let reporting_revenue: ArrayRef =
            Arc::new(money(self.reporting_revenue.into_iter().collect::<Decimal128Array>()));
        let column = |column: &Column| -> Result<ArrayRef, arrow::error::ArrowError> {
            Ok(match column.name {
                "model" => Arc::clone(&models),
                "touch" => Arc::clone(&touch),
                "touches" => Arc::clone(&touches),
                "credit" => Arc::clone(&credit),
                "revenue" => Arc::clone(&revenue),
                "reporting_revenue" => Arc::clone(&reporting_revenue),
                name => take(rows.column(rows.schema().index_of(name)?), &from, None)?,
            })
        };
        let columns: Result<Vec<ArrayRef>, _> = spec.columns.iter().map(column).collect();
        Ok(RecordBatch::try_new(arrow_schema(spec), columns?)?)
    }
}
