//! The jobs of a batch, in the order in which their tables commit.
//!
//! A job reads tables at the versions that the batch fixed, or as an earlier
//! job of the same batch left them, and answers the change of each of its
//! tables. It commits nothing itself: see [`crate::run`].

mod abandoned_carts;
mod attribution;
mod bounds;
mod category_daily;
mod co_bought;
mod co_viewed;
mod cohort_retention;
mod context;
mod copies;
mod currency_rates;
mod customer_ltv;
mod event_items;
mod exchange;
mod functions;
mod funnel_daily;
mod identity_links;
mod identity_map;
mod ingest;
mod interactions;
mod once;
mod order_lines;
mod orders_enriched;
mod paced;
mod pairs;
mod product_daily;
mod products;
mod query;
mod refill;
mod search_daily;
mod sessions;
mod source_exports;
mod sources;
mod statements;

use std::collections::{BTreeMap, BTreeSet};

use clickmill_lake::table::Change;
use clickmill_schemas::tables::INTERNAL_TABLES;
use futures::future::BoxFuture;

pub use context::{JobContext, files_in, table_of};
pub(crate) use context::{touched_days, widened};
pub(crate) use query::{Spread, register_days, replace_differing_rows, same_rows, write};
pub(crate) use refill::stale_days;

use crate::TransformError;
use crate::shop::ShopJob;

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

impl Output {
    /// Takes in the change of a table, and counts the rows that it writes.
    pub fn add(&mut self, table: &'static str, change: Change) {
        self.counts.insert(table, change.adds.iter().map(|file| file.rows).sum());
        self.changes.insert(table, change);
    }
}

/// A job.
pub struct Job {
    /// Its name: the application of its Delta transactions.
    pub name: &'static str,
    /// The tables that it writes, in the order in which they commit.
    pub tables: &'static [&'static str],
    /// The tables that it derives them from; none for what reads raw objects and exports.
    pub upstream: &'static [&'static str],
    /// How often it needs to run.
    pub pace: Pace,
    /// Computes the changes.
    pub run: for<'a> fn(&'a JobContext<'a>) -> BoxFuture<'a, Result<Output, TransformError>>,
}

/// How often a job needs to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// With every batch: its cost follows what is new.
    Batch,
    /// Once a day where runs are frequent: it reads far back.
    Daily,
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
        pace: Pace::Batch,
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
        pace: Pace::Batch,
        run: |context| Box::pin(sources::run(context)),
    },
    Job {
        name: "products",
        tables: &["products"],
        upstream: &["product_observations"],
        pace: Pace::Batch,
        run: |context| Box::pin(products::run(context)),
    },
    Job {
        name: "currency_rates",
        tables: &["currency_rates"],
        upstream: &[],
        pace: Pace::Batch,
        run: |context| Box::pin(currency_rates::run(context)),
    },
    Job {
        name: "event_items",
        tables: &["event_items"],
        upstream: &["events"],
        pace: Pace::Batch,
        run: |context| Box::pin(event_items::run(context)),
    },
    Job {
        name: "sessions",
        tables: &["sessions"],
        upstream: &["events", "currency_rates"],
        pace: Pace::Batch,
        run: |context| Box::pin(sessions::run(context)),
    },
    Job {
        name: "orders_enriched",
        tables: &["orders_enriched"],
        upstream: &["orders", "events", "sessions", "currency_rates"],
        pace: Pace::Batch,
        run: |context| Box::pin(orders_enriched::run(context)),
    },
    Job {
        name: "product_daily",
        tables: &["product_daily"],
        upstream: &["event_items", "sessions", "order_items", "orders_enriched", "products"],
        pace: Pace::Batch,
        run: |context| Box::pin(product_daily::run(context)),
    },
    Job {
        name: "category_daily",
        tables: &["category_daily"],
        upstream: &["product_daily", "order_items"],
        pace: Pace::Batch,
        run: |context| Box::pin(category_daily::run(context)),
    },
    Job {
        name: "search_daily",
        tables: &["search_daily"],
        upstream: &["events", "sessions"],
        pace: Pace::Batch,
        run: |context| Box::pin(search_daily::run(context)),
    },
    Job {
        name: "funnel_daily",
        tables: &["funnel_daily"],
        upstream: &["sessions"],
        pace: Pace::Batch,
        run: |context| Box::pin(funnel_daily::run(context)),
    },
    Job {
        name: "abandoned_carts",
        tables: &["abandoned_carts"],
        upstream: &["sessions", "event_items", "currency_rates"],
        pace: Pace::Batch,
        run: |context| Box::pin(abandoned_carts::run(context)),
    },
    Job {
        name: "identity_links",
        tables: &["identity_links"],
        upstream: &["events", "orders_enriched"],
        pace: Pace::Batch,
        run: |context| Box::pin(identity_links::run(context)),
    },
    Job {
        name: "identity_map",
        tables: &["identity_map"],
        upstream: &["identity_links", "customers"],
        pace: Pace::Daily,
        run: |context| Box::pin(identity_map::run(context)),
    },
    Job {
        name: "attribution",
        tables: &["attribution"],
        upstream: &["orders_enriched", "sessions", "identity_map"],
        pace: Pace::Batch,
        run: |context| Box::pin(attribution::run(context)),
    },
    Job {
        name: "customer_ltv",
        tables: &["customer_ltv"],
        upstream: &[
            "orders_enriched",
            "order_items",
            "products",
            "customers",
            "attribution",
            "currency_rates",
        ],
        pace: Pace::Daily,
        run: |context| Box::pin(customer_ltv::run(context)),
    },
    Job {
        name: "cohort_retention",
        tables: &["cohort_retention"],
        upstream: &["orders_enriched"],
        pace: Pace::Daily,
        run: |context| Box::pin(cohort_retention::run(context)),
    },
    Job {
        name: "interactions",
        tables: &["interactions"],
        upstream: &["event_items", "sessions", "order_items", "orders_enriched", "identity_map"],
        pace: Pace::Daily,
        run: |context| Box::pin(interactions::run(context)),
    },
    Job {
        name: "co_viewed",
        tables: &["co_viewed"],
        upstream: &["event_items", "sessions"],
        pace: Pace::Daily,
        run: |context| Box::pin(co_viewed::run(context)),
    },
    Job {
        name: "co_bought",
        tables: &["co_bought"],
        upstream: &["order_items"],
        pace: Pace::Daily,
        run: |context| Box::pin(co_bought::run(context)),
    },
];

/// True for a table that is derived from other tables.
#[must_use]
pub fn is_derived(table: &str) -> bool {
    JOBS.iter().any(|job| job.tables.contains(&table) && !job.upstream.is_empty())
}

/// True for a table of a daily job.
#[must_use]
pub fn is_daily(table: &str) -> bool {
    JOBS.iter().any(|job| job.tables.contains(&table) && job.pace == Pace::Daily)
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
pub fn with_upstream(
    wanted: &[String],
    shop: &[ShopJob],
) -> Result<BTreeSet<String>, TransformError> {
    let mut known = all_tables();
    known.extend(shop.iter().map(|job| job.table.clone()));
    if let Some(name) = wanted.iter().find(|name| !known.contains(*name)) {
        let is_internal = |name: &String| INTERNAL_TABLES.iter().any(|spec| spec.name == name);
        known.retain(|name| !is_internal(name));
        return Err(TransformError::UnknownTable {
            name: name.clone(),
            known: known.into_iter().collect::<Vec<_>>().join(", "),
        });
    }
    let mut tables: BTreeSet<String> = wanted.iter().cloned().collect();
    // Those of the shop read each other, too: as often as there are jobs is often enough.
    for _ in shop {
        for job in shop.iter().filter(|job| tables.contains(&job.table)).collect::<Vec<_>>() {
            tables.extend(job.depends.iter().chain(&job.looks_up).cloned());
        }
    }
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
        let tables = with_upstream(&["sessions".to_owned()], &[]).expect("known");
        assert!(tables.contains("events") && tables.contains("event_duplicates"));
        assert!(!tables.contains("orders"));
        let told = with_upstream(&["sesions".to_owned()], &[]).expect_err("no table").to_string();
        assert!(told.contains("sesions") && told.contains("source_exports"), "{told}");
        assert!(!told.contains("source_keys"), "{told}");
    }
}
