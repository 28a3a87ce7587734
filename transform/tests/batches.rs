//! Do the tables hold the same rows, whatever batches the input came in, and
//! whatever happened on the way?

mod support;

use std::fmt::Write as _;

use clickmill_schemas::Event;
use proptest::test_runner::{Config, TestError, TestRunner};
use support::history::{BATCHES, Exports, History, histories};
use support::reference;
use support::shop::Shop;

fn write_exports(shop: &Shop, exports: &Exports, batches: &[usize]) {
    for (number, (batch, rows)) in exports.orders.iter().enumerate() {
        let mut csv = "order_id,ordered_at,total\n".to_owned();
        for (order, day, total) in rows {
            let _ = writeln!(csv, "o{order},2026-03-{:02}T09:00:00Z,{}", 10 + day, 10 * total);
        }
        if batches.contains(batch) {
            shop.export("orders", &format!("20260320T00000{number}"), &csv);
        }
    }
    for (number, (batch, rows)) in exports.items.iter().enumerate() {
        let mut csv = "order_id,line,product_id,quantity,unit_price\n".to_owned();
        // Of a repeated order in one file the later lines count.
        let last: std::collections::BTreeMap<_, _> = rows.iter().cloned().collect();
        for (order, lines) in last {
            for (line, (product, quantity)) in lines.iter().enumerate() {
                let _ = writeln!(csv, "o{order},{},p{product},{quantity},5", line + 1);
            }
        }
        if batches.contains(batch) {
            shop.export("order_items", &format!("20260320T00000{number}"), &csv);
        }
    }
    for (batch, day, prices) in &exports.products {
        let mut csv = "product_id,price\n".to_owned();
        for (product, price) in prices.iter().enumerate() {
            let _ = writeln!(csv, "p{product},{price}");
        }
        if batches.contains(batch) {
            shop.export("products", &format!("202603{:02}T120000", 10 + day), &csv);
        }
    }
}

async fn land_batch(shop: &mut Shop, history: &History, batch: usize) {
    let of_batch = |(to, event): &(usize, Event<'static>)| (*to == batch).then(|| event.clone());
    let events: Vec<_> = history.events.iter().filter_map(of_batch).collect();
    shop.land(&events).await;
    write_exports(shop, &history.exports, &[batch]);
}

async fn check(shop: &Shop, history: &History, how: &str) -> Result<(), String> {
    let events: Vec<_> = history.events.iter().map(|(_, event)| event.clone()).collect();
    let expected = reference::tables(&events, &history.exports);
    for (table, sql) in reference::QUERIES {
        let found = shop.sql(sql).await;
        let wanted = &expected[table];
        if &found != wanted {
            let missing: Vec<_> = wanted.iter().filter(|row| !found.contains(row)).collect();
            let surplus: Vec<_> = found.iter().filter(|row| !wanted.contains(row)).collect();
            return Err(format!(
                "{table}, {how}: {} rows for {}\nmissing {missing:#?}\nsurplus {surplus:#?}",
                found.len(),
                wanted.len()
            ));
        }
    }
    Ok(())
}

#[test]
fn batches_in_any_order_give_the_same_rows_as_one_run_and_as_the_definitions() {
    let cases = std::env::var("CLICKMILL_TEST_CASES").ok().and_then(|n| n.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(6),
        max_shrink_iters: 8,
        failure_persistence: None,
        ..Config::default()
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let result = TestRunner::new(config).run(&histories(), |history| {
        runtime
            .block_on(async {
                let mut stepwise = Shop::new().await;
                let mut at_once = Shop::new().await;
                for batch in 0..BATCHES {
                    land_batch(&mut stepwise, &history, batch).await;
                    stepwise.run().await;
                    land_batch(&mut at_once, &history, batch).await;
                }
                at_once.run().await;
                check(&at_once, &history, "in one run").await?;
                check(&stepwise, &history, "batch by batch").await
            })
            .map_err(proptest::test_runner::TestCaseError::fail)
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, history)) => panic!("{reason}\nof {}", history.brief()),
        Err(error) => panic!("{error}"),
    }
}
