//! The self check: what the simulator logged, against what the tables hold.

use std::collections::HashMap;

use anyhow::Context as _;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use clickmill_query::Session;

use super::answer::Answer;
use super::shop::Shop;
use super::shop::catalog::{Cents, decimal};
use super::truth::{Comparison, Ledger};

/// One thing that was compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub what: &'static str,
    pub expected: String,
    pub found: String,
    pub passed: bool,
}

/// What the self check found.
#[derive(Debug)]
pub struct Outcome {
    pub checks: Vec<Check>,
    pub events: Comparison,
}

impl Outcome {
    /// True where nothing is amiss.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }
}

/// Compares every run of this lake so far, not only the last one.
///
/// # Errors
/// Where a table cannot be queried.
pub async fn check(
    session: &Session,
    ledger: &Ledger,
    shop: &Shop,
    app_id: &str,
) -> anyhow::Result<Outcome> {
    let counts = event_counts(session, app_id).await?;
    let events = ledger.compare(counts.iter().map(|(id, count)| (id.as_str(), *count)));
    let mut checks = vec![
        compare(
            "event ids that got a 200, in events exactly once",
            ledger.acknowledged.len() as u64,
            (ledger.acknowledged.len() - events.missing.len() - events.repeated.len()) as u64,
        ),
        compare("event ids in events that nobody sent", 0, events.unknown.len() as u64),
    ];
    let duplicates = format!("SELECT count(*) FROM event_duplicates WHERE app_id = '{app_id}'");
    checks.push(compare(
        "extra copies, in event_duplicates",
        ledger.extra_copies(),
        one(session, &duplicates).await?.parse()?,
    ));
    let rejects = "SELECT count(*) FROM rejects WHERE protocol = 'segment'";
    checks.push(compare(
        "wrong messages, in rejects",
        ledger.bad_parts(),
        one(session, rejects).await?.parse()?,
    ));
    orders(session, ledger, shop, &mut checks).await?;
    Ok(Outcome { checks, events })
}

async fn orders(
    session: &Session,
    ledger: &Ledger,
    shop: &Shop,
    checks: &mut Vec<Check>,
) -> anyhow::Result<()> {
    let count = one(session, "SELECT count(*) FROM orders").await?.parse()?;
    checks.push(compare("orders of the shop, in orders", shop.orders.len() as u64, count));
    let lines: usize = shop.orders.iter().map(|order| order.lines.len()).sum();
    let count = one(session, "SELECT count(*) FROM order_items").await?.parse()?;
    checks.push(compare("order lines, in order_items", lines as u64, count));
    let total: Cents = shop.orders.iter().map(|order| order.total).sum();
    let found = one(session, "SELECT sum(total) FROM orders").await?;
    checks.push(amounts("revenue of the shop, in orders", total, &found));

    // What each order should have become, by the simulator's books.
    let (mut matched, mut mismatch, mut order_only) = (0, 0, 0);
    for order in &shop.orders {
        match ledger.purchases.get(&order.id) {
            Some(total) if *total == order.total => matched += 1,
            Some(_) => mismatch += 1,
            None => order_only += 1,
        }
    }
    let known: std::collections::HashSet<&str> =
        shop.orders.iter().map(|order| order.id.as_str()).collect();
    let event_only = ledger.purchases.keys().filter(|id| !known.contains(id.as_str())).count();
    let sql = "SELECT match_status, count(*) FROM orders_enriched GROUP BY match_status";
    let answer = Answer::of(&query(session, sql).await?)?;
    let found: HashMap<&str, u64> = (0..answer.rows.len())
        .map(|row| (answer.text(row, 0), answer.number(row, 1) as u64))
        .collect();
    for (what, status, expected) in [
        ("orders with their purchase event", "matched", matched),
        ("orders whose amounts differ", "value_mismatch", mismatch),
        ("orders that the tracker missed", "order_only", order_only),
        ("purchases without an order", "event_only", event_only as u64),
    ] {
        checks.push(compare(what, expected, found.get(status).copied().unwrap_or(0)));
    }
    Ok(())
}

fn compare(what: &'static str, expected: u64, found: u64) -> Check {
    use super::answer::count;
    Check { what, expected: count(expected), found: count(found), passed: expected == found }
}

fn amounts(what: &'static str, expected: Cents, found: &str) -> Check {
    let parse = |text: &str| clickmill_schemas::Money::parse(text).ok();
    let passed = parse(found).is_some() && parse(found) == parse(&decimal(expected));
    let shown = parse(found).map_or_else(|| found.to_owned(), |money| money.to_string());
    let expected = parse(&decimal(expected)).map(|m| m.to_string()).unwrap_or_default();
    Check { what, expected, found: shown, passed }
}

async fn event_counts(session: &Session, app_id: &str) -> anyhow::Result<Vec<(String, i64)>> {
    let sql = format!(
        "SELECT event_id, count(*) AS copies FROM events WHERE app_id = '{app_id}' GROUP BY event_id"
    );
    let mut counts = Vec::new();
    for batch in query(session, &sql).await? {
        let ids = cast(batch.column(0), &DataType::Utf8)?;
        let ids = ids.as_string_opt::<i32>().context("event_id is no text")?.clone();
        let copies = cast(batch.column(1), &DataType::Int64)?;
        let copies =
            copies.as_primitive_opt::<Int64Type>().context("a count is no number")?.clone();
        for row in 0..ids.len() {
            counts.push((ids.value(row).to_owned(), copies.value(row)));
        }
    }
    Ok(counts)
}

/// Runs one of our own statements.
///
/// # Errors
/// Where it fails, with its text.
pub async fn query(session: &Session, sql: &str) -> anyhow::Result<Vec<RecordBatch>> {
    session.sql(sql).await.with_context(|| format!("in the statement: {sql}"))
}

/// The single value of a statement, as text without separators.
async fn one(session: &Session, sql: &str) -> anyhow::Result<String> {
    let answer = Answer::of(&query(session, sql).await?)?;
    let text = answer.text(0, 0).replace(',', "");
    Ok(if text.is_empty() { "0".to_owned() } else { text })
}
