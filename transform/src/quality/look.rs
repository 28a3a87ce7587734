//! One check of one table.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use clickmill_lake::table::{Change, DataFile, Table};
use datafusion::prelude::SessionContext;

use super::{JOB, Outcome, Rule, freshness};
use crate::TransformError;
use crate::jobs::{JobContext, table_of};

/// What a check found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) passed: bool,
    pub(super) observed: Option<f64>,
    pub(super) allowed: Option<f64>,
    pub(super) detail: String,
}

/// As [`super::look_at`], of a table that was committed with its change.
pub(super) async fn at_committed(
    context: &JobContext<'_>,
    table: &Table,
    change: &Change,
) -> Result<Vec<(usize, Outcome)>, TransformError> {
    let mut outcomes = Vec::new();
    for (at, check) in context.options.quality.of(table.spec().name).iter().enumerate() {
        if change.is_empty() && !matches!(check.rule, Rule::Freshness(..)) {
            continue;
        }
        let found = of_files(context, table, table.files().to_vec(), &change.adds, &check.rule);
        let found = found.await?;
        // It is committed: a check that stops now would have stopped it, but for another
        // configuration.
        let status = if found.passed { "passed" } else { "warned" };
        outcomes.push((at, Outcome { check: check.clone(), found, status }));
    }
    Ok(outcomes)
}

/// Looks at a table as `change` would make it.
pub(super) async fn look(
    context: &JobContext<'_>,
    table: &Table,
    change: &Change,
    rule: &Rule,
) -> Result<Found, TransformError> {
    let mut whole: Vec<DataFile> = table.files().to_vec();
    whole.retain(|file| !change.removes.contains(file));
    whole.extend(change.adds.iter().cloned());
    of_files(context, table, whole, &change.adds, rule).await
}

async fn of_files(
    context: &JobContext<'_>,
    table: &Table,
    whole: Vec<DataFile>,
    added: &[DataFile],
    rule: &Rule,
) -> Result<Found, TransformError> {
    let spec = table.spec();
    let rows: u64 = whole.iter().map(|file| file.rows).sum();
    let session = context.session();
    for (name, files) in [("whole", whole.clone()), ("added", added.to_vec())] {
        let files = table_of(spec, files);
        session.register_table(name, files).map_err(TransformError::job(JOB))?;
    }
    let counted = |bad: i64, what: &str| Found {
        passed: bad == 0,
        observed: Some(bad as f64),
        allowed: Some(0.0),
        detail: format!("{bad} {what}"),
    };
    match rule {
        Rule::NotNull(columns) => {
            let any: Vec<String> =
                columns.iter().map(|name| format!("\"{name}\" IS NULL")).collect();
            let sql = format!("SELECT count(*) FROM added WHERE {}", any.join(" OR "));
            let bad = number(&session, &sql).await?;
            Ok(counted(bad, &format!("new rows without {}", columns.join(" or "))))
        }
        Rule::Unique(columns) => {
            let names: Vec<String> = columns.iter().map(|name| format!("\"{name}\"")).collect();
            let there: Vec<String> =
                names.iter().map(|name| format!("{name} IS NOT NULL")).collect();
            let sql = format!(
                "SELECT CAST(coalesce(sum(n - 1), 0) AS BIGINT) FROM (SELECT count(*) AS n \
                 FROM whole WHERE {} GROUP BY {} HAVING count(*) > 1)",
                there.join(" AND "),
                names.join(", ")
            );
            let bad = number(&session, &sql).await?;
            Ok(counted(bad, &format!("rows too many with the same {}", columns.join(", "))))
        }
        Rule::AcceptedValues(column, values) => {
            let values: Vec<String> =
                values.iter().map(|value| format!("'{}'", value.replace('\'', "''"))).collect();
            let sql = format!(
                "SELECT count(*) FROM added WHERE \"{column}\" IS NOT NULL \
                 AND CAST(\"{column}\" AS VARCHAR) NOT IN ({})",
                values.join(", ")
            );
            let bad = number(&session, &sql).await?;
            Ok(counted(bad, &format!("new rows with another {column}")))
        }
        Rule::Freshness(column, max_age) => {
            let newest = freshness::newest(&session, spec, &whole, column).await?;
            Ok(freshness::judge(column, newest, *max_age, context.batch.created_at))
        }
        Rule::RowCountDrift(percent) => {
            let before = context.base(spec).await?.map_or(0, |table| table.rows());
            let drift = match before {
                0 => None,
                before => Some(100.0 * (rows as f64 - before as f64).abs() / before as f64),
            };
            Ok(Found {
                passed: drift.is_none_or(|drift| drift <= *percent),
                observed: drift,
                allowed: Some(*percent),
                detail: format!("{rows} rows, {before} before the batch"),
            })
        }
        Rule::Reconciliation(bounds) => bounds.look(&session).await,
    }
}

async fn number(session: &SessionContext, sql: &str) -> Result<i64, TransformError> {
    let fail = TransformError::job(JOB);
    let batches = session.sql(sql).await.map_err(&fail)?.collect().await.map_err(&fail)?;
    let batch = batches.iter().find(|batch| batch.num_rows() > 0);
    Ok(batch.map_or(0, |batch| batch.column(0).as_primitive::<Int64Type>().value(0)))
}
