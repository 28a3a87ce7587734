//! The shop's own exports -> `orders`, `order_items`, `customers`, `carts`,
//! `product_observations`, and what each export gave -> `source_exports`.
//!
//! The newest statement about a row wins, whatever the order in which exports
//! came ([`super::statements`]). What an export does not mention stays; what its
//! source deleted goes. A row that comes out as it was is left alone, so that a
//! repeated export rewrites nothing.

use clickmill_lake::table::{Change, DataFile, Table};
use clickmill_schemas::tables::{
    CARTS, CUSTOMERS, ORDER_ITEMS, ORDERS, PRODUCT_OBSERVATIONS, TableSpec,
};
use datafusion::prelude::SessionContext;

use super::context::{files_in, table_of};
use super::query::{Spread, dates, write};
use super::statements::{self, Staged, materialize};
use super::{JobContext, Output, order_lines, source_exports};
use crate::TransformError;
use crate::sources::Dataset;

const JOB: &str = "sources";

/// A table with one row a key.
struct Keyed {
    dataset: Dataset,
    spec: &'static TableSpec,
    /// Its day is the date of this column; `None` where it has no partitions.
    day_of: Option<&'static str>,
}

const KEYED: [Keyed; 3] = [
    Keyed { dataset: Dataset::Customers, spec: &CUSTOMERS, day_of: None },
    Keyed { dataset: Dataset::Carts, spec: &CARTS, day_of: Some("updated_at") },
    Keyed { dataset: Dataset::Orders, spec: &ORDERS, day_of: Some("ordered_at") },
];

pub async fn run(context: &JobContext<'_>) -> Result<Output, TransformError> {
    let mut output = Output::default();
    let mut rejected = Vec::new();
    let (mut state, mut exports) = (Vec::new(), Vec::new());

    let mut orders_change = Change::default();
    for keyed in &KEYED {
        let staged = Staged::read(context, keyed.dataset, &mut rejected, &mut output).await?;
        let change = keyed.change(context, &staged, &mut state).await?;
        if keyed.dataset == Dataset::Orders {
            orders_change = change.clone();
        }
        finish(&mut output, keyed.spec.name, change);
        exports.extend(staged.exports);
    }

    let staged =
        Staged::read(context, Dataset::ProductObservations, &mut rejected, &mut output).await?;
    let change = observed(context, &staged).await?;
    finish(&mut output, "product_observations", change);
    exports.extend(staged.exports);

    let staged = Staged::read(context, Dataset::OrderItems, &mut rejected, &mut output).await?;
    let change = lines(context, &orders_change, &staged, &mut state, &mut output).await?;
    finish(&mut output, "order_items", change);
    exports.extend(staged.exports);

    let rejects = crate::rejects::change(context, JOB, rejected).await?;
    finish(&mut output, "rejects", rejects);
    let (change, notices) = source_exports::change(context, JOB, &exports).await?;
    finish(&mut output, "source_exports", change);
    output.notices.extend(notices);
    let change = statements::state_change(context, JOB, state).await?;
    output.changes.insert("source_keys", change);
    Ok(output)
}

fn finish(output: &mut Output, table: &'static str, change: Change) {
    output.counts.insert(table, change.adds.iter().map(|file| file.rows).sum());
    output.changes.insert(table, change);
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

impl Keyed {
    async fn change(
        &self,
        context: &JobContext<'_>,
        staged: &Staged,
        state: &mut Vec<DataFile>,
    ) -> Result<Change, TransformError> {
        if staged.is_empty() {
            return Ok(Change::default());
        }
        let (spec, key) = (self.spec, self.dataset.key()[0]);
        let table = context.current(spec).await?;
        let session = staged.register(context, JOB).await?;
        register(&session, "existing", spec, table.files().to_vec())?;
        let day = self.day_of.map(|time| format!(", CAST({time} AS DATE) AS dt"));
        let wanted = statements::wanted("newest", &columns(spec, &["dt"]), key, "''");
        materialize(
            &session,
            JOB,
            "applied",
            &format!(
                "SELECT {} FROM (SELECT *{} FROM ({wanted})) n LEFT JOIN existing e ON n.{key} = e.{key} \
                 WHERE e.{key} IS NULL OR {}",
                prefixed("n", &columns(spec, &[])),
                day.unwrap_or_default(),
                any_differs(&columns(spec, &[key]))
            ),
        )
        .await?;
        materialize(
            &session,
            JOB,
            "replaced",
            &format!(
                "SELECT {key} FROM applied UNION SELECT e.{key} FROM existing e \
                 JOIN newest n ON e.{key} = n.row_key WHERE n.version = 0"
            ),
        )
        .await?;
        state.extend(staged.state(context, JOB, &session).await?);
        overlay(context, &session, &table, key).await
    }
}

/// `applied` in place of the rows of `existing` whose key is in `replaced`, day by day.
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
                 JOIN replaced a ON e.{key} = a.{key}"
            ),
        )
        .await?;
        files_in(table, &days)
    } else {
        let replaced = session.sql("SELECT 1 FROM replaced LIMIT 1").await.map_err(&fail)?;
        let any = replaced.collect().await.map_err(&fail)?.iter().any(|b| b.num_rows() > 0);
        if any { table.files().to_vec() } else { Vec::new() }
    };
    register(session, "kept_from", spec, removes.clone())?;
    let held = columns(spec, &[]);
    let rows = session
        .sql(&format!(
            "SELECT {} FROM applied a UNION ALL SELECT {} FROM kept_from k \
             LEFT ANTI JOIN replaced a ON k.{key} = a.{key}",
            prefixed("a", &held),
            prefixed("k", &held)
        ))
        .await
        .map_err(&fail)?;
    let adds = write(context, JOB, spec, rows, Spread::One).await?;
    Ok(Change { adds, removes })
}

/// Adds what each export said of each product. An export that is read again, with
/// another mapping or after it was overwritten, takes the place of what it said before.
async fn observed(context: &JobContext<'_>, staged: &Staged) -> Result<Change, TransformError> {
    if staged.is_empty() {
        return Ok(Change::default());
    }
    let fail = TransformError::job(JOB);
    let spec = &PRODUCT_OBSERVATIONS;
    let table = context.current(spec).await?;
    let session = staged.session(context, JOB)?;
    register(&session, "existing", spec, table.files().to_vec())?;
    let held = columns(spec, &["dt"]);
    let same = |a: &str, b: &str| {
        let equal = |name: &&str| format!("{a}.{name} = {b}.{name}");
        spec.key.iter().map(equal).collect::<Vec<_>>().join(" AND ")
    };
    materialize(
        &session,
        JOB,
        "applied",
        &format!(
            "SELECT {}, CAST(n.observed_at AS DATE) AS dt FROM ({}) n LEFT JOIN existing e ON {} \
             WHERE e.product_id IS NULL OR {}",
            prefixed("n", &held),
            statements::observations(&held),
            same("n", "e"),
            any_differs(&columns(spec, &["dt", "product_id", "observed_at", "export_id"]))
        ),
    )
    .await?;
    let replaced = format!("SELECT e.dt FROM existing e JOIN applied a ON {}", same("e", "a"));
    let days = dates(&session, JOB, &replaced).await?;
    let removes = files_in(&table, &days);
    register(&session, "kept_from", spec, removes.clone())?;
    let all = columns(spec, &[]);
    let rows = session
        .sql(&format!(
            "SELECT {} FROM applied a UNION ALL SELECT {} FROM kept_from k LEFT ANTI JOIN applied a ON {}",
            prefixed("a", &all),
            prefixed("k", &all),
            same("k", "a")
        ))
        .await
        .map_err(&fail)?;
    let adds = write(context, JOB, spec, rows, Spread::One).await?;
    Ok(Change { adds, removes })
}

/// The lines of an order are those of the newest export that has them all, and what
/// changed since. They lie on the day of the order, and move with it; those of an
/// order that is not known, not yet or no more, lie on 1970-01-01.
async fn lines(
    context: &JobContext<'_>,
    orders_change: &Change,
    staged: &Staged,
    state: &mut Vec<DataFile>,
    output: &mut Output,
) -> Result<Change, TransformError> {
    // Not by `orders_change`: after a crash between the two commits it is empty,
    // and the lines of the orders that came or moved with it still lie where they lay.
    let has_orders = context.batch.exports.iter().any(|export| export.dataset == Dataset::Orders);
    if staged.is_empty() && !has_orders {
        return Ok(Change::default());
    }
    let spec = &ORDER_ITEMS;
    let table = context.current(spec).await?;
    let session = staged.register(context, JOB).await?;
    register(&session, "existing", spec, table.files().to_vec())?;
    let mut orders = context.current(&ORDERS).await?.files().to_vec();
    orders.retain(|file| !orders_change.removes.contains(file));
    orders.extend(orders_change.adds.iter().cloned());
    register(&session, "orders", &ORDERS, orders)?;

    materialize(&session, JOB, "live", order_lines::LIVE).await?;
    output.notices.extend(order_lines::lacked(context, JOB, &session, staged).await?);
    let held = columns(spec, &["dt"]);
    let wanted = statements::wanted("live", &held, "order_id", "CAST(e.line AS VARCHAR)");
    materialize(
        &session,
        JOB,
        "now",
        &format!(
            "SELECT n.*, coalesce(o.dt, DATE '1970-01-01') AS dt FROM ( \
               {wanted} \
               UNION ALL \
               SELECT {} FROM existing e LEFT JOIN orders o ON e.order_id = o.order_id \
               LEFT ANTI JOIN newest k ON e.order_id = k.row_key \
               WHERE e.dt <> coalesce(o.dt, DATE '1970-01-01') \
             ) n LEFT JOIN orders o ON n.order_id = o.order_id",
            prefixed("e", &held)
        ),
    )
    .await?;
    // An order is touched where a line is new, gone, moved or different.
    materialize(
        &session,
        JOB,
        "replaced",
        &format!(
            "SELECT DISTINCT n.order_id FROM now n LEFT JOIN existing e \
               ON n.order_id = e.order_id AND n.line = e.line WHERE e.line IS NULL OR {} \
             UNION SELECT DISTINCT e.order_id FROM existing e LEFT SEMI JOIN newest k ON e.order_id = k.row_key \
               LEFT ANTI JOIN now n ON e.order_id = n.order_id AND e.line = n.line",
            any_differs(&columns(spec, &["order_id", "line"]))
        ),
    )
    .await?;
    materialize(
        &session,
        JOB,
        "applied",
        &format!(
            "SELECT {} FROM now n JOIN replaced t ON n.order_id = t.order_id",
            prefixed("n", &columns(spec, &[]))
        ),
    )
    .await?;
    state.extend(staged.state(context, JOB, &session).await?);
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
