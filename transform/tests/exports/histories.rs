//! Random histories of exports.

use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use crate::model::{History, QUERIES, RUNS, SOURCES, histories};
use crate::shop::{Shop, shop};

const TABLES: [&str; 5] = ["orders", "order_items", "customers", "carts", "products"];

async fn check(shop: &Shop, history: &History, how: &str) -> Result<(), String> {
    let expected = history.expected();
    for (table, sql) in QUERIES {
        let found = shop.sql(sql).await;
        if found != expected[table] {
            return Err(format!(
                "{table}, {how}:\nfound    {found:#?}\nexpected {:#?}",
                expected[table]
            ));
        }
    }
    Ok(())
}

async fn holds(history: &History) -> Result<(), String> {
    // The reference against the databases themselves, wherever nothing is left out.
    for (of, rows) in history.truth() {
        if history.values(of) != rows {
            return Err(format!("the reference is wrong of {of:?}: {:?}", history.values(of)));
        }
    }
    let stepwise = shop(SOURCES).await;
    let at_once = shop(SOURCES).await;
    for run in 0..RUNS {
        history.export(&stepwise, Some(run));
        stepwise.run_tables(&TABLES).await;
    }
    check(&stepwise, history, "run by run").await?;
    history.export(&at_once, None);
    at_once.run_tables(&TABLES).await;
    check(&at_once, history, "in one run").await?;
    // Another run finds nothing to do.
    let again = stepwise.run_tables(&TABLES).await;
    if !again.batches.is_empty() {
        return Err("a run without anything new made a batch".to_owned());
    }
    Ok(())
}

#[test]
fn exports_in_any_order_and_number_of_runs_give_the_rows_that_the_newest_statements_say() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(6),
        max_shrink_iters: 40,
        failure_persistence: None,
        ..Config::default()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let result = TestRunner::new(config).run(&histories(), |history| {
        runtime.block_on(holds(&history)).map_err(TestCaseError::fail)
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, history)) => panic!("{reason}\nof {history:#?}"),
        Err(error) => panic!("{error}"),
    }
}
