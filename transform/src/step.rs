//! A job of a batch: one of ours, or one of the shop's.

use std::collections::{BTreeMap, BTreeSet};

use clickmill_schemas::tables::TableSpec;

use crate::TransformError;
use crate::batch::{Batch, DEFINITION};
use crate::jobs::{JOBS, Job, JobContext, Output};
use crate::shop::{self, Compiled};

/// A job, with its tables.
pub(crate) struct Step<'a> {
    /// The application of its Delta transactions.
    pub(crate) name: &'static str,
    /// The tables that it writes, in the order in which they commit.
    pub(crate) tables: Vec<&'static TableSpec>,
    /// The tables that it derives them from.
    upstream: Vec<&'static TableSpec>,
    work: Work,
    batch: &'a Batch,
}

enum Work {
    Ours(&'static Job),
    Shop(Box<Compiled>),
}

/// The jobs of a batch that its targets ask for, in the order in which they run.
///
/// # Errors
/// [`TransformError::ShopJob`] where a job of the batch does not fit this version.
pub(crate) async fn steps<'a>(context: &JobContext<'a>) -> Result<Vec<Step<'a>>, TransformError> {
    let batch = context.batch;
    let specs = |names: &[&str]| names.iter().filter_map(|name| TableSpec::find(name)).collect();
    let is_wanted = |name: &str| batch.targets.contains(name);
    // `rejects` comes out of two jobs: it alone asks for neither.
    let is_asked = |job: &&Job| job.tables.iter().any(|name| *name != "rejects" && is_wanted(name));
    let ours = JOBS.iter().filter(is_asked).map(|job| Step {
        name: job.name,
        tables: specs(job.tables),
        upstream: specs(job.upstream),
        work: Work::Ours(job),
        batch,
    });
    let mut steps: Vec<Step<'a>> = ours.collect();
    for one in shop::compile(context.lake, &batch.shop_jobs, context.events).await? {
        if is_wanted(one.spec.name) {
            steps.push(Step {
                name: one.name,
                tables: vec![one.spec],
                upstream: one.depends.clone(),
                work: Work::Shop(Box::new(one)),
                batch,
            });
        }
    }
    Ok(steps)
}

impl Step<'_> {
    /// True where it is made from other tables alone, and so can catch up later.
    pub(crate) fn is_derived(&self) -> bool {
        !self.upstream.is_empty()
    }

    /// The versions of what it takes in, and of its text.
    ///
    /// # Errors
    /// [`TransformError::Lake`].
    pub(crate) async fn upstream_versions(
        &self,
        context: &JobContext<'_>,
    ) -> Result<BTreeMap<String, u64>, TransformError> {
        let mut versions = BTreeMap::new();
        for spec in &self.upstream {
            let table = context.current(spec).await?;
            versions.insert(spec.name.to_owned(), table.version());
        }
        // Tables of one step are made by one definition.
        let definition = self.tables.iter().find_map(|spec| self.batch.definition_of(spec.name));
        versions.extend(definition.map(|definition| (DEFINITION.to_owned(), definition)));
        Ok(versions)
    }

    /// The tables that do not have the batch yet.
    ///
    /// # Errors
    /// [`TransformError::Lake`].
    pub(crate) async fn pending(
        &self,
        context: &JobContext<'_>,
    ) -> Result<BTreeSet<&'static str>, TransformError> {
        let mut pending = BTreeSet::new();
        for spec in &self.tables {
            let table = context.current(spec).await?;
            if table.batch(self.name).await?.is_none_or(|applied| applied < self.batch.batch) {
                pending.insert(spec.name);
            }
        }
        Ok(pending)
    }

    /// Computes the changes of its tables.
    ///
    /// # Errors
    /// [`TransformError`]; [`TransformError::ShopJob`] where the shop's own query fails.
    pub(crate) async fn run(&self, context: &JobContext<'_>) -> Result<Output, TransformError> {
        match &self.work {
            Work::Ours(job) => (job.run)(context).await,
            Work::Shop(one) => shop::run(context, one).await,
        }
    }
}
