//! From a job's text to a plan that is known to run: against tables without rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use clickmill_lake::Lake;
use clickmill_lake::schema::arrow_schema;
use clickmill_lake::table::{columns_in_log, has_columns_of, spec_of};
use clickmill_schemas::tables::{INTERNAL_TABLES, PARTITION_COLUMN, TableSpec};
use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::datasource::MemTable;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::prelude::{DataFrame, SQLOptions, SessionConfig, SessionContext};

use super::{ShopJob, ShopJobError};
use crate::TransformError;

/// A job with the tables that it reads and makes.
#[derive(Clone, Debug)]
pub(crate) struct Compiled {
    pub(crate) job: ShopJob,
    /// The application of its Delta transactions.
    pub(crate) name: &'static str,
    pub(crate) spec: &'static TableSpec,
    pub(crate) depends: Vec<&'static TableSpec>,
    pub(crate) looks_up: Vec<&'static TableSpec>,
}

/// Checks the jobs, and puts them in an order in which each stands after those that it reads.
/// They see `events` with the shop's own columns.
///
/// # Errors
/// [`TransformError::ShopJob`] for the first that is wrong, [`TransformError::Lake`] where the
/// lake does not answer.
pub(crate) async fn compile(
    lake: &Lake,
    jobs: &[ShopJob],
    events: &'static TableSpec,
) -> Result<Vec<Compiled>, TransformError> {
    let mut made: BTreeMap<&str, &ShopJob> = BTreeMap::new();
    for job in jobs {
        if let Some(other) = made.insert(&job.table, job) {
            let problem = format!("the table `{}` is made by {}, too", job.table, other.file);
            return Err(job.wrong(job.line_of("table"), problem).into());
        }
    }
    let mut compiled: Vec<Compiled> = Vec::new();
    for job in in_order(jobs, &made)? {
        let of = |names: &[String]| -> Vec<&'static TableSpec> {
            let shop =
                |name: &String| compiled.iter().find(|c| c.spec.name == name).map(|c| c.spec);
            let ours = |name: &String| match name == events.name {
                true => Some(events),
                false => TableSpec::find(name),
            };
            names.iter().filter_map(|name| shop(name).or_else(|| ours(name))).collect()
        };
        let (depends, looks_up) = (of(&job.depends), of(&job.looks_up));
        let spec = specify(job, depends.iter().chain(&looks_up)).await?;
        let name = format!("jobs/{}", job.table).leak();
        let one = Compiled { job: job.clone(), name, spec, depends, looks_up };
        one.check(lake).await?;
        compiled.push(one);
    }
    Ok(compiled)
}

/// The order of the files' names, but for what must come first.
fn in_order<'a>(
    jobs: &'a [ShopJob],
    made: &BTreeMap<&str, &ShopJob>,
) -> Result<Vec<&'a ShopJob>, ShopJobError> {
    for job in jobs {
        for (key, names) in [("depends", &job.depends), ("looks up", &job.looks_up)] {
            let is_internal = |name: &str| INTERNAL_TABLES.iter().any(|spec| spec.name == name);
            let is_known = |name: &&String| {
                made.contains_key(name.as_str())
                    || (TableSpec::find(name).is_some() && !is_internal(name))
            };
            if let Some(name) = names.iter().find(|name| !is_known(name)) {
                return Err(job.wrong(
                    job.line_of(key),
                    format!("there is no table `{name}`, neither of clickmill nor of a job"),
                ));
            }
        }
    }
    let mut ordered: Vec<&ShopJob> = Vec::new();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    while ordered.len() < jobs.len() {
        let is_ready = |job: &&ShopJob| {
            let mut reads = job.depends.iter().chain(&job.looks_up);
            !done.contains(job.table.as_str())
                && reads
                    .all(|name| !made.contains_key(name.as_str()) || done.contains(name.as_str()))
        };
        match jobs.iter().find(is_ready) {
            Some(job) => {
                done.insert(&job.table);
                ordered.push(job);
            }
            None => {
                let stuck: Vec<&ShopJob> =
                    jobs.iter().filter(|job| !done.contains(job.table.as_str())).collect();
                let tables: Vec<&str> = stuck.iter().map(|job| job.table.as_str()).collect();
                let line = stuck[0].line_of("depends");
                return Err(stuck[0].wrong(
                    line,
                    format!("these jobs wait for each other: {}", tables.join(", ")),
                ));
            }
        }
    }
    Ok(ordered)
}

/// Gives a session what reads JSON text: `properties->>'x'`, `json_get_int(context, 'x', 'y')`.
pub(super) fn register_json(session: &mut SessionContext) -> Result<(), TransformError> {
    datafusion_functions_json::register_all(session).map_err(TransformError::job("setup"))
}

/// The table that a job's query makes.
async fn specify(
    job: &ShopJob,
    reads: impl Iterator<Item = &&'static TableSpec>,
) -> Result<&'static TableSpec, TransformError> {
    let mut config = SessionConfig::new();
    config.options_mut().sql_parser.collect_spans = true;
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    let mut session = SessionContext::new_with_config(config);
    register_json(&mut session)?;
    let mut names = Vec::new();
    for spec in reads {
        let table = MemTable::try_new(arrow_schema(spec), vec![Vec::new()]);
        let table = table.map_err(TransformError::job("setup"))?;
        session.register_table(spec.name, Arc::new(table)).map_err(TransformError::job("setup"))?;
        names.push(spec.name);
    }
    let rows = query(&session, job).await.map_err(|error| {
        let mut problem = error.strip_backtrace();
        if problem.contains("table") && problem.contains("not found") {
            problem =
                format!("{problem}; a query sees what its header names: {}", names.join(", "));
        }
        job.wrong(line_of(&error, job), problem)
    })?;
    if let Some(function) = unsteady(rows.logical_plan())? {
        let line = job.sql.lines().position(|line| line.contains(&format!("{function}(")));
        let line = line.map_or(1, |at| at as u64 + 1);
        return Err(job
            .wrong(
                line,
                format!("{function}() answers otherwise each time: take times from the data"),
            )
            .into());
    }
    let columns = rows.schema().as_arrow().clone();
    let day = columns.fields().iter().find(|field| field.name() == PARTITION_COLUMN);
    match (job.partitioned, day) {
        (true, None) => {
            let problem = "it is partitioned by dt, and the query gives no column `dt`";
            return Err(job.wrong(job.line_of("partition"), problem).into());
        }
        (true, Some(field)) if *field.data_type() != arrow::datatypes::DataType::Date32 => {
            let problem = format!("`dt` is a {}, not a date: CAST(... AS DATE)", field.data_type());
            return Err(job.wrong(job.line_of("partition"), problem).into());
        }
        (false, Some(_)) => {
            let problem =
                "the query gives a column `dt`: say `-- partition: dt`, or name it otherwise";
            return Err(job.wrong(job.line_of("partition"), problem).into());
        }
        _ => {}
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = columns.fields().iter().find(|field| !seen.insert(field.name())) {
        let problem = format!("the query gives two columns `{}`", twice.name());
        return Err(job.wrong(1, problem).into());
    }
    Ok(spec_of(&job.table, &columns, &job.key).map_err(|problem| job.wrong(1, problem))?)
}

/// A job's query in a session that has its tables.
pub(super) async fn query(
    session: &SessionContext,
    job: &ShopJob,
) -> Result<DataFrame, DataFusionError> {
    let options =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    session.sql_with_options(&job.sql, options).await
}

/// The line that an error is about: where it says none, that of the query's beginning.
fn line_of(error: &DataFusionError, job: &ShopJob) -> u64 {
    if let Some(span) = error.diagnostic().and_then(|diagnostic| diagnostic.span) {
        return span.start.line;
    }
    let text = error.to_string();
    let after = text.split("Line: ").nth(1).unwrap_or_default();
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    let is_code = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with("--");
    let first = job.sql.lines().position(is_code).map_or(1, |at| at as u64 + 1);
    digits.parse().unwrap_or(first)
}

/// A function in the plan that does not give the same answer for the same input.
fn unsteady(plan: &LogicalPlan) -> Result<Option<String>, TransformError> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            expression.apply(|part| {
                if let Expr::ScalarFunction(call) = part
                    && call.func.signature().volatility != Volatility::Immutable
                {
                    found = Some(call.func.name().to_owned());
                    return Ok(TreeNodeRecursion::Stop);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })
    .map_err(TransformError::job("setup"))?;
    Ok(found)
}

impl Compiled {
    async fn check(&self, lake: &Lake) -> Result<(), TransformError> {
        let job = &self.job;
        if job.mode == super::Mode::ReplacePartitions
            && !self.depends.iter().any(|spec| spec.partitioned)
        {
            let problem = "none of these tables has days: take mode full";
            return Err(job.wrong(job.line_of("depends"), problem).into());
        }
        if job.mode == super::Mode::Append && self.depends[0].key.is_empty() {
            let problem = format!(
                "`{}` has no key, so nobody can say which of its rows are new: give that job a `key`",
                self.depends[0].name
            );
            return Err(job.wrong(job.line_of("depends"), problem).into());
        }
        match columns_in_log(lake, self.spec.name).await? {
            Some(columns) if !has_columns_of(self.spec, &columns) => {
                let names: Vec<String> = columns
                    .fields()
                    .iter()
                    .map(|field| format!("{} {}", field.name(), field.data_type()))
                    .collect();
                let problem = format!(
                    "the table `{}` is there with other columns: {}; give them, or make another table",
                    job.table,
                    names.join(", ")
                );
                Err(job.wrong(job.line_of("table"), problem).into())
            }
            _ => Ok(()),
        }
    }
}
