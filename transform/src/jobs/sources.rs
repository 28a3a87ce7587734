//! The shop's own exports -> `orders`, `order_items`, `customers`,
//! `product_observations`.
//!
//! Rows are put over those of the same key: the newest export wins, what is
//! absent from it stays, and a row that says the same as before is left alone,
//! so that a repeated export rewrites nothing. An export that is older than
//! one already taken from the same source fills gaps and changes nothing.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use clickmill_lake::table::{Change, DataFile, Table};
use clickmill_schemas::tables::{CUSTOMERS, ORDER_ITEMS, ORDERS, PRODUCT_OBSERVATIONS, TableSpec};
use clickmill_schemas::{Reject, Timestamp};
use datafusion::catalog::MemTable;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt as _;

use super::context::{files_in, table_of};
use super::query::{Spread, dates, write};
use super::{JobContext, Output};
use crate::TransformError;
use crate::batch::newest_key;
use crate::sources::{self, Dataset, Export};

const JOB: &str = "sources";
/// Position of a row among all that the batch reads: the later wins a tie.
const ORDER: &str = "__order";
/// Number of the export that a row comes from.
const EXPORT: &str = "__export";
/// False for rows of an export older than one taken before.
const MAY_UPDATE: &str = "__may_update";

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let mut output = Output::default();
    let mut rejected = Vec::new();

    let customers = stage(context, Dataset::Customers, &mut rejected, &mut output).await?;
    let change = keyed(context, &CUSTOMERS, "customer_id", customers).await?;
    finish(&mut output, "customers", change);

    let observations =
        stage(context, Dataset::ProductObservations, &mut rejected, &mut output).await?;
    let change = observed(context, observations).await?;
    finish(&mut output, "product_observations", change);

    let orders = stage(context, Dataset::Orders, &mut rejected, &mut output).await?;
    let orders_change = keyed(context, &ORDERS, "order_id", orders).await?;
    let items = stage(context, Dataset::OrderItems, &mut rejected, &mut output).await?;
    let change = lines(context, &orders_change, items).await?;
    finish(&mut output, "orders", orders_change);
    finish(&mut output, "order_items", change);

    let rejects = crate::rejects::change(context, JOB, rejected).await?;
    finish(&mut output, "rejects", rejects);
    Ok(output)
}

fn finish(output: &mut Output, table: &'static str, change: Change) {
    output.counts.insert(table, change.adds.iter().map(|file| file.rows).sum());
    output.changes.insert(table, change);
}

/// The rows of the batch's exports of one dataset, with working columns.
async fn stage(
    context: &JobContext<'_>,
    dataset: Dataset,
    rejected: &mut Vec<Reject<'static>>,
    output: &mut Output,
) -> Result<Vec<RecordBatch>, TransformError> {
    let mut staged = Vec::new();
    let mut order = 0_i64;
    let exports = context.batch.exports.iter().filter(|export| export.dataset == dataset);
    for (number, export) in (0_i64..).zip(exports) {
        let may_update = is_newest(context, export);
        let mut chunks = sources::stream(context.lake, export);
        while let Some(chunk) = chunks.try_next().await? {
            rejected.extend(chunk.rejects);
            output.notices.extend(chunk.notices);
            let rows = chunk.batch.num_rows();
            if rows == 0 {
                continue;
            }
            let mut columns = chunk.batch.columns().to_vec();
            columns.push(Arc::new(Int64Array::from_iter_values(order..order + rows as i64)));
            columns.push(Arc::new(Int64Array::from(vec![number; rows])) as ArrayRef);
            columns.push(Arc::new(BooleanArray::from(vec![may_update; rows])));
            order += rows as i64;
            staged.push(RecordBatch::try_new(staged_schema(dataset), columns)?);
        }
    }
    Ok(staged)
}

fn staged_schema(dataset: Dataset) -> SchemaRef {
    let mut fields: Vec<_> = dataset.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(ORDER, DataType::Int64, false)));
    fields.push(Arc::new(Field::new(EXPORT, DataType::Int64, false)));
    fields.push(Arc::new(Field::new(MAY_UPDATE, DataType::Boolean, false)));
    Arc::new(Schema::new(fields))
}

/// Against earlier batches only: of two exports in one batch the newer wins row by
/// row, and what it does not have the older one says, as if each had come alone.
fn is_newest(context: &JobContext<'_>, export: &Export) -> bool {
    let newest = context.batch.newest_before.get(&newest_key(export));
    newest.is_none_or(|newest: &Timestamp| export.exported_at >= *newest)
}

fn register_staged(
    session: &SessionContext,
    dataset: Dataset,
    rows: Vec<RecordBatch>,
) -> Result<(), TransformError> {
    let table = MemTable::try_new(staged_schema(dataset), vec![rows]);
    let table = table.map_err(TransformError::job(JOB))?;
    session.register_table("staged", Arc::new(table)).map_err(TransformError::job(JOB))?;
    Ok(())
}

async fn view(session: &SessionContext, name: &str, sql: &str) -> Result<(), TransformError> {
    let fail = TransformError::job(JOB);
    let create = format!("CREATE VIEW {name} AS {sql}");
    session.sql(&create).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    Ok(())
}

/// The names of a table's columns, but for `without`.
fn columns(spec: &TableSpec, without: &[&str]) -> Vec<&'static str> {
    spec.columns.iter().map(|column| column.name).filter(|name| !without.contains(name)).collect()
}

fn prefixed(prefix: &str, names: &[&str]) -> String {
    names.iter().map(|name| format!("{prefix}.{name}")).collect::<Vec<_>>().join(", ")
}

fn any_differs(names: &[&str]) -> String {
    let differs = names.iter().map(|name| format!("(n.{name} IS DISTINCT FROM e.{name})"));
    differs.collect::<Vec<_>>().join(" OR ")
}

/// One row a key: `orders` and `customers`.
async fn keyed(
    context: &JobContext<'_>,
    spec: &'static TableSpec,
    key: &str,
    rows: Vec<RecordBatch>,
) -> Result<Change, TransformError> {
    if rows.is_empty() {
        return Ok(Change::default());
    }
    let dataset = if spec.name == "orders" { Dataset::Orders } else { Dataset::Customers };
    let table = context.current(spec).await?;
    let session = context.session();
    register_staged(&session, dataset, rows)?;
    register(&session, "existing", spec, table.files().to_vec())?;
    let dt = if spec.partitioned { ", CAST(ordered_at AS DATE) AS dt" } else { "" };
    view(
        &session,
        "newest",
        &format!(
            "SELECT *{dt} FROM (SELECT *, row_number() OVER (PARTITION BY {key} \
             ORDER BY exported_at DESC, {ORDER} DESC) AS nth FROM staged) WHERE nth = 1"
        ),
    )
    .await?;
    let held = columns(spec, &[]);
    let compared = columns(spec, &[key, "exported_at"]);
    view(
        &session,
        "applied",
        &format!(
            "SELECT {} FROM newest n LEFT JOIN existing e ON n.{key} = e.{key} \
             WHERE e.{key} IS NULL OR (n.{MAY_UPDATE} AND ({}))",
            prefixed("n", &held),
            any_differs(&compared)
        ),
    )
    .await?;
    overlay(context, &session, &table, key).await
}

/// `applied` over the rows of `existing` with the same key, day by day.
async fn overlay(
    context: &JobContext<'_>,
    session: &SessionContext,
    table: &Table,
    key: &str,
) -> Result<Change, TransformError> {
    let spec = table.spec();
    let fail = TransformError::job(JOB);
    let removes: Vec<DataFile> = if spec.partitioned {
        let days = dates(
            session,
            JOB,
            &format!(
                "SELECT dt FROM applied UNION SELECT e.dt FROM existing e \
                 JOIN (SELECT DISTINCT {key} FROM applied) a ON e.{key} = a.{key}"
            ),
        )
        .await?;
        files_in(table, &days)
    } else {
        let applied = session.sql("SELECT 1 FROM applied LIMIT 1").await.map_err(&fail)?;
        let any = applied.collect().await.map_err(&fail)?.iter().any(|batch| batch.num_rows() > 0);
        if any { table.files().to_vec() } else { Vec::new() }
    };
    register(session, "kept_from", spec, removes.clone())?;
    let held = columns(spec, &[]);
    let rows = session
        .sql(&format!(
            "SELECT {} FROM applied a UNION ALL SELECT {} FROM kept_from k \
             LEFT ANTI JOIN applied a ON k.{key} = a.{key}",
            prefixed("a", &held),
            prefixed("k", &held)
        ))
        .await
        .map_err(&fail)?;
    let adds = write(context, JOB, spec, rows, Spread::One).await?;
    Ok(if adds.is_empty() { Change::default() } else { Change { adds, removes } })
}

/// Appends what each export said of each product, once an export.
async fn observed(
    context: &JobContext<'_>,
    rows: Vec<RecordBatch>,
) -> Result<Change, TransformError> {
    if rows.is_empty() {
        return Ok(Change::default());
    }
    let fail = TransformError::job(JOB);
    let spec = &PRODUCT_OBSERVATIONS;
    let table = context.current(spec).await?;
    let session = context.session();
    register_staged(&session, Dataset::ProductObservations, rows)?;
    register(&session, "existing", spec, table.files().to_vec())?;
    let held = columns(spec, &["dt"]);
    let rows = session
        .sql(&format!(
            "SELECT {}, CAST(n.observed_at AS DATE) AS dt FROM (SELECT *, row_number() OVER \
             (PARTITION BY product_id, export_id ORDER BY {ORDER} DESC) AS nth FROM staged) n \
             LEFT ANTI JOIN existing e ON n.product_id = e.product_id AND n.export_id = e.export_id \
             WHERE n.nth = 1",
            prefixed("n", &held)
        ))
        .await
        .map_err(&fail)?;
    let adds = write(context, JOB, spec, rows, Spread::One).await?;
    Ok(Change { adds, removes: Vec::new() })
}

/// Lines replace all lines of their order. They lie on the day of the order, and
/// move with it; those of an order that is not known yet wait on 1970-01-01.
async fn lines(
    context: &JobContext<'_>,
    orders_change: &Change,
    rows: Vec<RecordBatch>,
) -> Result<Change, TransformError> {
    // Not by `orders_change`: after a crash between the two commits it is empty,
    // and the lines of the orders that came or moved with it still lie where they lay.
    let has_orders = context.batch.exports.iter().any(|export| export.dataset == Dataset::Orders);
    if rows.is_empty() && !has_orders {
        return Ok(Change::default());
    }
    let table = context.current(&ORDER_ITEMS).await?;
    let session = context.session();
    register_staged(&session, Dataset::OrderItems, rows)?;
    register(&session, "existing", &ORDER_ITEMS, table.files().to_vec())?;
    let mut orders = context.current(&ORDERS).await?.files().to_vec();
    orders.retain(|file| !orders_change.removes.contains(file));
    orders.extend(orders_change.adds.iter().cloned());
    register(&session, "orders", &ORDERS, orders)?;

    let held = columns(&ORDER_ITEMS, &["dt"]);
    let list = held.join(", ");
    // An export that may not change rows still says what nothing said before.
    view(
        &session,
        "usable",
        &format!(
            "SELECT * FROM staged WHERE {MAY_UPDATE} UNION ALL SELECT s.* FROM staged s \
             LEFT ANTI JOIN existing e ON s.order_id = e.order_id WHERE NOT s.{MAY_UPDATE}"
        ),
    )
    .await?;
    view(
        &session,
        "newest",
        &format!(
            "SELECT n.*, coalesce(o.dt, DATE '1970-01-01') AS dt FROM ( \
               SELECT {list} FROM ( \
                 SELECT *, rank() OVER (PARTITION BY order_id ORDER BY exported_at DESC, {EXPORT} DESC) AS of_export, \
                   row_number() OVER (PARTITION BY order_id, line ORDER BY exported_at DESC, {EXPORT} DESC, {ORDER} DESC) AS nth \
                 FROM usable) WHERE of_export = 1 AND nth = 1 \
               UNION ALL \
               SELECT {} FROM existing e JOIN orders o ON e.order_id = o.order_id AND e.dt <> o.dt \
               LEFT ANTI JOIN usable u ON e.order_id = u.order_id \
             ) n LEFT JOIN orders o ON n.order_id = o.order_id",
            prefixed("e", &held)
        ),
    )
    .await?;
    let compared = columns(&ORDER_ITEMS, &["order_id", "line", "exported_at"]);
    // An order is touched where a line is new, gone or different.
    view(
        &session,
        "touched",
        &format!(
            "SELECT DISTINCT n.order_id FROM newest n LEFT JOIN existing e \
               ON n.order_id = e.order_id AND n.line = e.line WHERE e.line IS NULL OR {} \
             UNION SELECT DISTINCT e.order_id FROM existing e \
               JOIN (SELECT DISTINCT order_id FROM newest) k ON e.order_id = k.order_id \
               LEFT ANTI JOIN newest n ON e.order_id = n.order_id AND e.line = n.line",
            any_differs(&compared)
        ),
    )
    .await?;
    let all = columns(&ORDER_ITEMS, &[]);
    view(
        &session,
        "applied",
        &format!(
            "SELECT {} FROM newest n JOIN touched t ON n.order_id = t.order_id",
            prefixed("n", &all)
        ),
    )
    .await?;
    overlay(context, &session, &table, "order_id").await
}

fn register(
    session: &SessionContext,
    name: &str,
    spec: &'static TableSpec,
    files: Vec<DataFile>,
) -> Result<(), TransformError> {
    session.register_table(name, table_of(spec, files)).map_err(TransformError::job(JOB))?;
    Ok(())
}
