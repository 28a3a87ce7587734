//! Do the tables hold the same rows, whatever batches the input came in, and
//! whatever happened on the way?
// A test fails by panicking, in its helpers, too; random histories are nested lists.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::type_complexity)]

mod absurd;
mod columns;
mod currency;
mod events;
mod exports;
mod facts;
mod jobs;
mod quality;
mod sessions;
mod support;

use std::time::Duration;

use clickmill_schemas::{Event, Money};
use clickmill_transform::{RunOptions, Silent, run};
use proptest::test_runner::{Config, TestError, TestRunner};
use support::history::{BATCHES, History, histories, item, plain};
use support::reference;
use support::shop::{Shop, at};
use support::{people, visits, worth};

async fn check(shop: &Shop, history: &History, how: &str) -> Result<(), String> {
    let events: Vec<_> = history.events.iter().map(|(_, event)| event.clone()).collect();
    let expected = reference::tables(&events, &history.exports);
    let queries = [reference::QUERIES, visits::QUERIES, people::QUERIES, worth::QUERIES].concat();
    for (table, sql) in queries {
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

/// Rates as the shop knows them with a batch: wrong, then of some days, then right.
fn rates(batch: usize) -> String {
    let rate = if batch == 0 { "3" } else { "1.25" };
    let days = if batch + 1 < BATCHES { 10..=11 } else { 10..=45 };
    let line = |day: i32| format!("{},EUR,{rate}\n", support::reference::day(day - 10));
    let lines: String = days.map(line).collect();
    format!("date,currency,rate\n{lines}")
}

#[test]
fn batches_in_any_order_give_the_same_rows_as_one_run_and_as_the_definitions() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(3),
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
                // The rows do not depend on the cores.
                (stepwise.parallelism, at_once.parallelism) = (1, 3);
                for shop in [&mut stepwise, &mut at_once] {
                    shop.currency = "reporting = \"USD\"\nrates = \"FOLDER/rates.csv\"";
                }
                for batch in 0..BATCHES {
                    history.land(&mut stepwise, batch).await;
                    stepwise.write("rates.csv", rates(batch));
                    stepwise.run().await;
                    history.land(&mut at_once, batch).await;
                    at_once.write("rates.csv", rates(batch));
                }
                at_once.run().await;
                check(&at_once, &history, "in one run").await?;
                check(&stepwise, &history, "batch by batch").await?;
                let tables =
                    stepwise.everything().await.into_iter().zip(at_once.everything().await);
                let differing: Vec<String> = tables
                    .filter(|(stepwise, at_once)| stepwise != at_once)
                    .map(|((table, _), _)| table)
                    .collect();
                if !differing.is_empty() {
                    return Err(format!("{differing:?} differ batch by batch and in one run"));
                }
                Ok(())
            })
            .map_err(proptest::test_runner::TestCaseError::fail)
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, history)) => panic!("{reason}\nof {}", history.brief()),
        Err(error) => panic!("{error}"),
    }
}

/// A page view of `visitor`, received a second later.
fn view(id: &str, visitor: &str, time: &str) -> Event<'static> {
    let time = at(time);
    plain(id, "page_view", visitor, time, time.saturating_add(Duration::from_secs(1)))
}

fn purchase(id: &str, visitor: &str, time: &str, order: &str) -> Event<'static> {
    let time = at(time);
    let received = time.saturating_add(Duration::from_secs(1));
    let mut event = plain(id, "purchase", visitor, time, received);
    event.order_id = Some(order.to_owned().into());
    event.revenue = Money::parse("10").ok();
    event
}

fn orders_csv(rows: &[(&str, &str, &str)]) -> String {
    let line = |(order, time, total): &(&str, &str, &str)| format!("{order},{time},{total}\n");
    format!("order_id,ordered_at,total\n{}", rows.iter().map(line).collect::<String>())
}

fn items_csv(rows: &[(&str, u8, &str, i64)]) -> String {
    let line = |(order, line, product, quantity): &(&str, u8, &str, i64)| {
        format!("{order},{line},{product},{quantity},5\n")
    };
    let lines: String = rows.iter().map(line).collect();
    format!("order_id,line,product_id,quantity,unit_price\n{lines}")
}

#[tokio::test]
async fn a_run_without_anything_new_changes_nothing() {
    let mut shop = Shop::new().await;
    assert_eq!(shop.run().await.batches.len(), 0, "of an empty lake");
    shop.land(&[view("a", "v", "2026-03-10T10:00:00Z")]).await;
    shop.export("orders", "20260311T000000", &orders_csv(&[("o1", "2026-03-10T09:00:00Z", "10")]));
    assert_eq!(shop.run().await.batches.len(), 1);
    let versions = shop.versions().await;
    assert_eq!(shop.run().await.batches.len(), 0);
    assert_eq!(shop.versions().await, versions);
}

#[tokio::test]
async fn tables_asked_for_one_by_one_become_what_one_run_makes_of_all() {
    let (mut parts, mut whole) = (Shop::new().await, Shop::new().await);
    for shop in [&mut parts, &mut whole] {
        shop.land(&[
            view("a", "v", "2026-03-10T23:50:00Z"),
            purchase("b", "v", "2026-03-11T00:10:00Z", "o1"),
        ])
        .await;
        let orders = orders_csv(&[("o1", "2026-03-11T00:11:00Z", "10")]);
        shop.export("orders", "20260312T000000", &orders);
        shop.export("order_items", "20260312T000000", &items_csv(&[("o1", 1, "p1", 2)]));
    }
    parts.run_tables(&["sessions"]).await;
    assert_eq!(parts.sql("SELECT events FROM sessions").await, ["2"]);
    assert!(parts.table("orders").await.files().is_empty(), "nobody asked for orders");
    parts.run_tables(&["orders_enriched"]).await;
    for shop in [&mut parts, &mut whole] {
        shop.land(&[view("late", "v", "2026-03-10T23:40:00Z")]).await;
    }
    parts.run_tables(&["events"]).await;
    parts.run().await;
    whole.run().await;
    assert_eq!(parts.everything().await, whole.everything().await);
    let unknown = shop_error(&parts).await;
    assert!(unknown.contains("there is no table `sesions`; known are"), "{unknown}");
}

async fn shop_error(shop: &Shop) -> String {
    let options = RunOptions { tables: Some(vec!["sesions".to_owned()]), ..shop.options() };
    run(&shop.lake, &options, &Silent).await.expect_err("no such table").to_string()
}

/// Two batches that make every job rewrite something.
async fn first_batch(shop: &mut Shop) {
    shop.land(&[
        view("a", "v", "2026-03-10T23:50:00Z"),
        view("a", "v", "2026-03-10T23:50:00Z"),
        purchase("b", "v", "2026-03-11T00:10:00Z", "o1"),
    ])
    .await;
    shop.export("order_items", "20260312T000000", &items_csv(&[("o1", 1, "p1", 2)]));
    shop.export("products", "20260312T000000", "product_id,price\np1,10\n");
}

async fn second_batch(shop: &mut Shop) {
    let mut late = view("late", "v", "2026-03-10T23:40:00Z");
    late.utm_medium = Some("cpc".into());
    let mut seen = view("seen", "v", "2026-03-11T00:20:00Z");
    seen.event_name = "product_view".into();
    seen.items = vec![item(1, 1)];
    let mut displacing = view("a", "v", "2026-03-10T23:50:00Z");
    displacing.collector_id = Some("b".into());
    shop.land(&[late, seen, displacing]).await;
    shop.export("orders", "20260313T000000", &orders_csv(&[("o1", "2026-03-11T00:11:00Z", "10")]));
    shop.export("products", "20260311T000000", "product_id,price\np1,9\n");
    shop.export("customers", "20260313T000000", "customer_id,city\nc1,Ulm\n");
}

async fn two_batches_done(mut shop: Shop) -> Vec<(String, Vec<String>)> {
    first_batch(&mut shop).await;
    shop.run().await;
    second_batch(&mut shop).await;
    shop.run().await;
    shop.everything().await
}

/// One job of each kind: appending, replacing days, replacing all. More of them would only make
/// more of the same writes.
async fn some_tables() -> Shop {
    let mut shop = Shop::new().await;
    shop.tables = Some(["attribution", "category_daily", "customers"].map(str::to_owned).to_vec());
    shop
}

#[tokio::test]
async fn crash_at_every_point_of_output_and_commit() {
    const MOST_WRITES: u32 = 200;
    let wanted = two_batches_done(some_tables().await).await;
    let mut before = some_tables().await;
    first_batch(&mut before).await;
    before.run().await;
    second_batch(&mut before).await;
    let (mut writes, mut finished) = (0, 0);
    loop {
        let shop = before.fork().await;
        let died = shop.run_on(&shop.dying_after(writes)).await.is_err();
        if died {
            let batches = shop.run().await.batches.len();
            // Up to where the batch is done the next run finishes it, and from there on has nothing to do.
            let expected = if finished == writes { 0..=1 } else { 0..=0 };
            assert!(expected.contains(&batches), "{batches} batches after {writes} writes");
            finished += batches as u32;
        }
        assert_eq!(shop.everything().await, wanted, "after {writes} writes");
        if !died {
            break;
        }
        writes += 1;
        assert!(writes < MOST_WRITES, "a run needs more than {MOST_WRITES} writes");
    }
    assert!(finished > 20, "only {finished} of {writes} writes tore something apart");
}

#[tokio::test]
async fn runs_that_die_one_after_the_other_get_done_in_the_end() {
    let wanted = two_batches_done(some_tables().await).await;
    let mut shop = some_tables().await;
    first_batch(&mut shop).await;
    let mut deaths = die_until_done(&shop).await;
    second_batch(&mut shop).await;
    deaths += die_until_done(&shop).await;
    assert!(deaths >= 4, "only {deaths} deaths");
    assert_eq!(shop.everything().await, wanted);
    let versions = shop.versions().await;
    assert!(shop.run().await.batches.is_empty());
    assert_eq!(shop.versions().await, versions);
}

/// Lets runs die after more and more writes, until one does not.
async fn die_until_done(shop: &Shop) -> u32 {
    const MOST_WRITES: u32 = 200;
    let mut deaths = 0;
    for writes in 0..MOST_WRITES {
        match shop.run_on(&shop.dying_after(writes)).await {
            Ok(_) => return deaths,
            Err(_) => deaths += 1,
        }
    }
    panic!("a run needs more than {MOST_WRITES} writes");
}

#[tokio::test]
async fn two_runs_of_one_job_at_once() {
    let wanted = two_batches_done(Shop::new().await).await;
    let mut shop = Shop::new().await;
    first_batch(&mut shop).await;
    let both = futures::join!(shop.run_on(&shop.lake), shop.run_on(&shop.lake));
    both.0.expect("the one succeeds");
    both.1.expect("and the other");
    second_batch(&mut shop).await;
    let both = futures::join!(shop.run_on(&shop.lake), shop.run_on(&shop.lake));
    both.0.expect("the one succeeds");
    both.1.expect("and the other");
    assert_eq!(shop.everything().await, wanted);
}
