//! The jobs of a batch, in the order in which their tables commit.
//!
//! A job reads tables at the versions that the batch fixed, or as an earlier
//! job of the same batch left them, and answers the change of each of its
//! tables. It commits nothing itself: see [`crate::run`].

mod category_daily;
mod context;
mod event_items;
mod ingest;
mod orders_enriched;
mod product_daily;
mod products;
mod query;
mod sessions;
mod source_exports;
mod sources;
mod statements;

use std::collections::{BTreeMap, BTreeSet};

use clickmill_lake::table::Change;
use futures::future::BoxFuture;

pub use context::{JobContext, files_in, table_of};

use crate::TransformError;

/// Changes of a job's tables, by name, and what it counted.
#[derive(Debug, Default)]
pub struct Output {
    /// Tables that stay as they are may be absent.
    pub changes: BTreeMap<&'static str, Change>,
    /// What is worth saying: rows by kind.
    pub counts: BTreeMap<&'static str, u64>,
    /// What a person should know about the inputs.
    pub notices: Vec<crate::sources::Notice>,
}

/// A job.
pub struct Job {
    /// Its name: the application of its Delta transactions.
    pub name: &'static str,
    /// The tables that it writes, in the order in which they commit.
    pub tables: &'static [&'static str],
    /// The tables that it derives them from; none for what reads raw objects and exports.
    pub upstream: &'static [&'static str],
    /// Computes the changes.
    pub run: for<'a> fn(&'a JobContext<'a>) -> BoxFuture<'a, Result<Output, TransformError>>,
}

/// Tables that come from the shop's own exports.
pub const SOURCE_TABLES: &[&str] =
    &["orders", "order_items", "customers", "carts", "product_observations", "source_exports"];

/// Every job. The order matters: a job stands after those whose tables it reads.
pub const JOBS: &[Job] = &[
    Job {
        name: "ingest",
        // `events` last: whoever sees it sees what was set aside, too.
        tables: &["rejects", "event_duplicates", "events"],
        upstream: &[],
        run: |context| Box::pin(ingest::run(context)),
    },
    Job {
        name: "sources",
        // `source_keys` last: what it says was said is in the tables.
        tables: &[
            "rejects",
            "customers",
            "carts",
            "product_observations",
            "orders",
            "order_items",
            "source_exports",
            "source_keys",
        ],
        upstream: &[],
        run: |context| Box::pin(sources::run(context)),
    },
    Job {
        name: "products",
        tables: &["products"],
        upstream: &["product_observations"],
        run: |context| Box::pin(products::run(context)),
    },
    Job {
        name: "event_items",
        tables: &["event_items"],
        upstream: &["events"],
        run: |context| Box::pin(event_items::run(context)),
    },
    Job {
        name: "sessions",
        tables: &["sessions"],
        upstream: &["events"],
        run: |context| Box::pin(sessions::run(context)),
    },
    Job {
        name: "orders_enriched",
        tables: &["orders_enriched"],
        upstream: &["orders", "events", "sessions"],
        run: |context| Box::pin(orders_enriched::run(context)),
    },
    Job {
        name: "product_daily",
        tables: &["product_daily"],
        upstream: &["event_items", "order_items", "products"],
        run: |context| Box::pin(product_daily::run(context)),
    },
    Job {
        name: "category_daily",
        tables: &["category_daily"],
        upstream: &["product_daily", "order_items"],
        run: |context| Box::pin(category_daily::run(context)),
    },
];

/// True for a table that is derived from other tables.
#[must_use]
pub fn is_derived(table: &str) -> bool {
    JOBS.iter().any(|job| job.tables.contains(&table) && !job.upstream.is_empty())
}

/// Every table that a job makes.
#[must_use]
pub fn all_tables() -> BTreeSet<String> {
    JOBS.iter().flat_map(|job| job.tables).map(|table| (*table).to_owned()).collect()
}

/// `wanted` with everything that it is derived from, and whatever the same jobs make besides.
///
/// # Errors
/// [`TransformError::UnknownTable`].
pub fn with_upstream(wanted: &[String]) -> Result<BTreeSet<String>, TransformError> {
    let known = all_tables();
    if let Some(name) = wanted.iter().find(|name| !known.contains(*name)) {
        return Err(TransformError::UnknownTable {
            name: name.clone(),
            known: known.into_iter().collect::<Vec<_>>().join(", "),
        });
    }
    let mut tables: BTreeSet<String> = wanted.iter().cloned().collect();
    for job in JOBS.iter().rev() {
        // `rejects` comes out of two jobs: it alone asks for neither.
        let is_wanted = |table: &&&str| tables.contains(**table) && **table != "rejects";
        if job.tables.iter().any(|table| is_wanted(&table)) {
            tables.extend(job.tables.iter().chain(job.upstream).map(|table| (*table).to_owned()));
        }
    }
    if wanted.iter().any(|table| table == "rejects") {
        return Ok(known);
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_stands_after_those_that_it_reads() {
        let mut made: BTreeSet<&str> = BTreeSet::new();
        for job in JOBS {
            for upstream in job.upstream {
                assert!(made.contains(upstream), "{} reads {upstream} too early", job.name);
            }
            made.extend(job.tables);
        }
    }

    #[test]
    fn a_wanted_table_brings_what_it_needs() {
        let tables = with_upstream(&["sessions".to_owned()]).expect("known");
        assert!(tables.contains("events") && tables.contains("event_duplicates"));
        assert!(!tables.contains("orders"));
        assert!(with_upstream(&["sesions".to_owned()]).is_err());
    }
}
