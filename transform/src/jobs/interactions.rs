//! `event_items` + `sessions` + `order_items` + `orders_enriched` + `identity_map` -> `interactions`.

use std::collections::BTreeSet;

use clickmill_lake::table::{Change, DataFile};
use clickmill_schemas::Date;
use clickmill_schemas::tables::{
    EVENT_ITEMS, IDENTITY_MAP, INTERACTIONS, ORDER_ITEMS, ORDERS_ENRICHED,
};

use super::context::{files_in, table_of, touched_days};
use super::query::{dates, register_changed, register_days, replace_differing_days};
use super::{JobContext, Output, paced};
use crate::TransformError;

const JOB: &str = "interactions";
/// A visitor is whoever it is known to be so many days after the day, as in `attribution`.
const IDENTITY_DAYS: i32 = 7;
/// Days that are computed, and compared with what is there, at once.
const DAYS_AT_ONCE: usize = 31;
const IDENTITY_COLUMNS: &str = "visitor_id, customer_id, status, method, valid_from, valid_to";

/// Days on which somebody was active who is somebody else now.
const AFFECTED: &str = "
SELECT DISTINCT e.dt FROM event_items e JOIN changed_identity i ON e.visitor_id = i.visitor_id
WHERE i.status = 'linked'
  AND CAST(CAST(i.valid_from AS DATE) AS INT) <= CAST(e.dt AS INT) + {identity} + 1";

/// Weights: a purchase says more than a cart, a cart more than a wish, a wish more than a look;
/// ten of a kind are enough, so that a reloading browser is no enthusiast.
const COMPUTED: &str = "
WITH active AS (
  SELECT visitor_id, user_id, product_id, event_name, e.dt FROM event_items e JOIN days d ON e.dt = d.dt
  WHERE NOT is_bot AND NOT EXISTS (SELECT 1 FROM paced p WHERE p.session_id = e.session_id)
    AND product_id IS NOT NULL AND coalesce(user_id, visitor_id) IS NOT NULL
    AND event_name IN ('product_view', 'product_click', 'add_to_wishlist', 'add_to_cart')
),
owners AS (
  SELECT a.visitor_id, a.dt, m.customer_id, row_number() OVER (PARTITION BY a.visitor_id, a.dt
      ORDER BY m.valid_from, m.method = 'joined', m.customer_id) AS nth
  FROM (SELECT DISTINCT visitor_id, dt FROM active) a JOIN identity_map m ON a.visitor_id = m.visitor_id
  WHERE m.status = 'linked'
    AND CAST(CAST(m.valid_from AS DATE) AS INT) < CAST(a.dt AS INT) + {identity}
    AND (m.valid_to IS NULL OR CAST(CAST(m.valid_to AS DATE) AS INT) >= CAST(a.dt AS INT) + {identity})
),
facts AS (
  SELECT CASE WHEN coalesce(a.user_id, o.customer_id) IS NULL THEN 'visitor' ELSE 'customer' END AS subject_type,
    coalesce(a.user_id, o.customer_id, a.visitor_id) AS subject_id, a.product_id, a.dt, a.event_name,
    CAST(NULL AS VARCHAR) AS order_id, CAST(NULL AS BIGINT) AS units,
    CAST(NULL AS DECIMAL(18,4)) AS revenue, CAST(NULL AS VARCHAR) AS currency,
    CAST(NULL AS DECIMAL(18,10)) AS exchange_rate, CAST(NULL AS VARCHAR) AS reporting_currency
  FROM active a LEFT JOIN owners o ON a.visitor_id = o.visitor_id AND a.dt = o.dt AND o.nth = 1
  UNION ALL
  SELECT CASE WHEN o.customer_id IS NULL THEN 'visitor' ELSE 'customer' END,
    coalesce(o.customer_id, o.visitor_id), i.product_id, i.dt, CAST(NULL AS VARCHAR), i.order_id, pieces(i.quantity),
    money(CAST(pieces(i.quantity) AS DECIMAL(18,0)) * i.unit_price
      - coalesce(i.discount, CAST(0 AS DECIMAL(18,4)))),
    o.currency, o.exchange_rate, o.reporting_currency
  FROM order_items i JOIN days d ON i.dt = d.dt
  JOIN orders_enriched o ON i.order_id = o.order_id AND i.dt = o.dt AND o.match_status <> 'event_only'
  WHERE i.product_id IS NOT NULL AND pieces(i.quantity) > 0 AND coalesce(o.customer_id, o.visitor_id) IS NOT NULL
),
converted AS (
  SELECT *, TRY_CAST(revenue * exchange_rate AS DECIMAL(18,4)) AS converted FROM facts
),
summed_in AS (
  SELECT subject_type, subject_id, product_id, dt, order_id,
    count(*) FILTER (WHERE event_name = 'product_view') AS views,
    count(*) FILTER (WHERE event_name = 'product_click') AS clicks,
    count(*) FILTER (WHERE event_name = 'add_to_wishlist') AS wishlists,
    count(*) FILTER (WHERE event_name = 'add_to_cart') AS carts,
    sum(units) AS units, sum(revenue) AS revenue, min(currency) AS least, max(currency) AS greatest,
    count(*) FILTER (WHERE revenue IS NOT NULL AND currency IS NULL) AS bare,
    max(reporting_currency) AS reporting_currency, sum(converted) AS reporting_revenue,
    count(revenue) - count(converted) AS unconverted
  FROM converted GROUP BY subject_type, subject_id, product_id, dt, order_id
),
summed AS (
  SELECT subject_type, subject_id, product_id, dt, sum(views) AS views, sum(clicks) AS clicks,
    sum(wishlists) AS wishlists, sum(carts) AS carts, count(order_id) AS purchases,
    coalesce(sum(units), 0) AS units, sum(revenue) AS revenue,
    CASE WHEN min(least) = max(greatest) AND sum(bare) = 0 THEN min(least) END AS revenue_currency,
    max(reporting_currency) AS reporting_currency, sum(reporting_revenue) AS reporting_revenue,
    CASE WHEN max(reporting_currency) IS NOT NULL THEN sum(unconverted) END AS unconverted
  FROM summed_in GROUP BY subject_type, subject_id, product_id, dt
)
SELECT *, least(views, 10) + least(clicks, 10) + 3 * least(wishlists, 10) + 5 * least(carts, 10)
  + 10 * least(purchases, 10) AS weight
FROM summed";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let mut output = Output::default();
    let mut days = BTreeSet::new();
    for upstream in [&EVENT_ITEMS, &ORDER_ITEMS, &ORDERS_ENRICHED] {
        days.extend(touched_days(&context.change_of(upstream, &INTERACTIONS).await?));
    }
    days.extend(identity_days(context).await?);
    days.extend(paced::changed_days(context, JOB, &INTERACTIONS).await?);
    // Lines that wait for their order have no day yet.
    days.remove(&Date::from_days(0));
    let table = context.current(&INTERACTIONS).await?;
    let sql = COMPUTED.replace("{identity}", &(IDENTITY_DAYS + 1).to_string());
    let mut change = Change::default();
    let all: Vec<Date> = days.into_iter().collect();
    for days in all.chunks(DAYS_AT_ONCE) {
        let days: BTreeSet<Date> = days.iter().copied().collect();
        let session = context.session();
        for (name, spec) in [
            ("event_items", &EVENT_ITEMS),
            ("order_items", &ORDER_ITEMS),
            ("orders_enriched", &ORDERS_ENRICHED),
        ] {
            let files = files_in(&context.current(spec).await?, &days);
            session
                .register_table(name, table_of(spec, files))
                .map_err(TransformError::job(JOB))?;
        }
        let identities = context.current(&IDENTITY_MAP).await?.files().to_vec();
        session
            .register_table("identity_map", table_of(&IDENTITY_MAP, identities))
            .map_err(TransformError::job(JOB))?;
        paced::register(context, JOB, &session, &days).await?;
        register_days(&session, JOB, "days", &days)?;
        let done = replace_differing_days(context, JOB, &session, &table, &days, &sql).await?;
        change.adds.extend(done.adds);
        change.removes.extend(done.removes);
    }
    if !change.is_empty() {
        output.add("interactions", change);
    }
    Ok(output)
}

async fn identity_days(context: &JobContext<'_>) -> Result<BTreeSet<Date>, TransformError> {
    let fail = TransformError::job(JOB);
    let change = context.change_of(&IDENTITY_MAP, &INTERACTIONS).await?;
    if change.is_empty() {
        return Ok(BTreeSet::new());
    }
    let session = context.session();
    let name = "changed_identity";
    register_changed(&session, JOB, name, &IDENTITY_MAP, &change, IDENTITY_COLUMNS, "").await?;
    let sql = "SELECT CAST(min(valid_from) AS DATE) FROM changed_identity WHERE status = 'linked'";
    let Some(since) = dates(&session, JOB, sql).await?.pop_first() else {
        return Ok(BTreeSet::new());
    };
    let since = Date::from_days(since.days() - IDENTITY_DAYS - 1);
    let items = context.current(&EVENT_ITEMS).await?;
    let recent = |file: &&DataFile| file.dt >= Some(since);
    let items = items.files().iter().filter(recent).cloned().collect();
    session.register_table("event_items", table_of(&EVENT_ITEMS, items)).map_err(&fail)?;
    dates(&session, JOB, &AFFECTED.replace("{identity}", &IDENTITY_DAYS.to_string())).await
}
