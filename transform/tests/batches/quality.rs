//! Checks that pass, that warn and that stop, and what becomes of the table.

use clickmill_lake::history::{self, Series, Snapshot};
use clickmill_schemas::Timestamp;
use clickmill_schemas::tables::QUALITY_RESULTS;
use clickmill_transform::sources::Severity;
use clickmill_transform::{TransformError, status};

use crate::support::shop::{Shop, at};
use crate::{first_batch, orders_csv, purchase, second_batch, view};

const RESULTS: &str = "SELECT batch, table_name, check_name, status, observed, allowed \
                       FROM quality_results";

async fn told(shop: &Shop) -> Vec<String> {
    let report = shop.run().await;
    let notices = report.notices.iter().filter(|notice| notice.source == "quality");
    notices.map(ToString::to_string).collect()
}

/// Each check, once where it holds and once where it does not.
#[tokio::test]
async fn every_kind_of_check_passes_and_fails() {
    let mut shop = Shop::new().await;
    shop.quality = r#"
        [[orders]]
        check = "not_null"
        columns = ["order_id", "customer_id"]
        [[orders]]
        check = "not_null"
        columns = ["order_id"]
        [[orders]]
        check = "unique"
        columns = ["customer_id"]
        [[orders]]
        check = "unique"
        columns = ["order_id"]
        [[orders]]
        check = "accepted_values"
        column = "status"
        values = ["paid", "it's open"]
        [[orders]]
        check = "accepted_values"
        column = "currency"
        values = ["EUR"]
        [[orders]]
        check = "freshness"
        column = "ordered_at"
        max_age = "1h"
        [[orders]]
        check = "freshness"
        column = "ordered_at"
        max_age = "99999d"
        [[orders]]
        check = "row_count_drift"
        percent = 60
        [[orders]]
        check = "row_count_drift"
        percent = 40
        [[orders_enriched]]
        check = "reconciliation"
        percent = 50
        [[orders_enriched]]
        check = "reconciliation"
        percent = 80
        days = 1
    "#;
    let header = "order_id,ordered_at,total,customer_id,status,currency\n";
    let first =
        "o1,2026-03-10T10:00:00Z,10,c1,paid,EUR\no2,2026-03-11T10:00:00Z,10,c1,it's open,EUR\n";
    shop.land(&[purchase("p", "v", "2026-03-10T10:00:00Z", "o1")]).await;
    shop.export("orders", "20260312T000000", &format!("{header}{first}"));
    let notices = told(&shop).await;
    // One order is the second of its customer; the newest is long ago; of one day's one order
    // the tracker saw none.
    let of = |name: &str| notices.iter().filter(|text| text.contains(name)).count();
    assert_eq!((of("unique"), of("freshness"), of("reconciliation")), (1, 1, 1), "{notices:#?}");
    assert_eq!(notices.len(), 3, "{notices:#?}");

    let second = "o3,2026-03-11T11:00:00Z,10,,shipped,EUR\n";
    shop.export("orders", "20260313T000000", &format!("{header}{second}"));
    let notices = told(&shop).await;
    let of = |text: &str| notices.iter().filter(|notice| notice.contains(text)).count();
    assert_eq!(of("1 new rows without order_id or customer_id"), 1, "{notices:#?}");
    assert_eq!(of("1 new rows with another status"), 1, "{notices:#?}");
    assert_eq!(of("3 rows, 2 before the batch"), 1, "{notices:#?}");
    assert_eq!(of("0 of 2 orders have a purchase event"), 1, "{notices:#?}");
    // 33 percent are not 50.
    assert_eq!(of("1 of 3 orders have a purchase event"), 1, "{notices:#?}");
    let rows = "SELECT check_number, check_name, status, observed FROM quality_results \
                WHERE batch = 2 AND table_name = 'orders' AND check_name <> 'freshness'";
    assert_eq!(
        shop.sql(rows).await,
        [
            "10|row_count_drift|warned|50.0",
            "1|not_null|warned|1.0",
            "2|not_null|passed|0.0",
            "3|unique|warned|1.0",
            "4|unique|passed|0.0",
            "5|accepted_values|warned|1.0",
            "6|accepted_values|passed|0.0",
            "9|row_count_drift|passed|50.0",
        ]
    );
    let fresh =
        "SELECT status, allowed FROM quality_results WHERE batch = 2 AND check_name = 'freshness'";
    assert_eq!(shop.sql(fresh).await, ["passed|8639913600.0", "warned|3600.0"]);
    // All of it was committed.
    assert_eq!(shop.sql("SELECT count(*) FROM orders").await, ["3"]);
}

#[tokio::test]
async fn a_check_that_stops_a_derived_table_holds_it_back_until_it_passes() {
    let mut shop = Shop::new().await;
    shop.quality =
        "[[orders_enriched]]\ncheck = \"reconciliation\"\npercent = 50\non_failure = \"stop\"";
    shop.land(&[purchase("p", "v", "2026-03-10T10:00:00Z", "o1")]).await;
    shop.export("orders", "20260311T000000", &orders_csv(&[("o1", "2026-03-10T10:00:00Z", "10")]));
    assert_eq!(told(&shop).await, Vec::<String>::new());
    let version = shop.table("orders_enriched").await.version();
    let more =
        orders_csv(&[("o2", "2026-03-11T10:00:00Z", "1"), ("o3", "2026-03-11T10:00:00Z", "2")]);
    shop.export("orders", "20260312T000000", &more);
    let notices = told(&shop).await;
    assert!(notices.len() == 1 && notices[0].contains("1 of 3 orders"), "{notices:#?}");
    // The others went on; it stands as it was.
    assert_eq!(shop.sql("SELECT count(*) FROM orders").await, ["3"]);
    assert_eq!(shop.table("orders_enriched").await.version(), version);
    // Nobody tries again and again.
    assert!(shop.run().await.batches.is_empty());
    // The events come: then it has what it missed, too.
    shop.land(&[purchase("q", "w", "2026-03-11T10:00:00Z", "o2")]).await;
    assert_eq!(told(&shop).await, Vec::<String>::new());
    assert_eq!(
        shop.sql("SELECT order_id, match_status FROM orders_enriched").await,
        ["o1|matched", "o2|value_mismatch", "o3|order_only"]
    );
    let statuses = "SELECT batch, status FROM quality_results";
    assert_eq!(shop.sql(statuses).await, ["1|passed", "2|stopped", "3|passed"]);
}

#[tokio::test]
async fn a_table_that_was_held_back_is_tried_again_when_its_checks_changed_and_only_then() {
    let mut shop = Shop::new().await;
    shop.tables = Some(["orders_enriched".to_owned()].to_vec());
    let stops_at = |percent: u8| {
        format!(
            "[[orders_enriched]]\ncheck = \"reconciliation\"\npercent = {percent}\n\
             on_failure = \"stop\""
        )
    };
    shop.quality = stops_at(50).leak();
    shop.export("orders", "20260311T000000", &orders_csv(&[("o1", "2026-03-10T10:00:00Z", "10")]));
    assert!(told(&shop).await[0].contains("the table stays as it was"));
    assert!(shop.run().await.batches.is_empty());
    // Another check of another table is none of its business.
    let other = "\n[[orders]]\ncheck = \"unique\"\ncolumns = [\"order_id\"]";
    shop.quality = (stops_at(50) + other).leak();
    assert!(shop.run().await.batches.is_empty());
    // Still too much: once more, and then no more.
    shop.quality = stops_at(1).leak();
    assert_eq!(shop.run().await.batches.len(), 1);
    assert!(shop.run().await.batches.is_empty());
    assert_eq!(shop.seen("SELECT count(*) FROM orders_enriched").await, ["0"]);
    // A snapshot of a build that did not note the checks: it is read, and nobody tries for nothing.
    let number = history::newest(&shop.lake, Series::Snapshots).await.unwrap().unwrap();
    let mut old: Snapshot = history::read(&shop.lake, Series::Snapshots, number).await.unwrap();
    let noted = old.held_back.get_mut("orders_enriched").unwrap().remove("@checks");
    assert!(noted.is_some(), "{old:?}");
    let fork = shop.fork().await;
    let path = format!("_clickmill/snapshots/{number:020}.json");
    fork.overwrite(&path, &serde_json::to_vec(&old).unwrap());
    assert!(fork.run().await.batches.is_empty());
    // Corrected: it has what it missed, though nothing came in.
    shop.quality = stops_at(0).leak();
    assert_eq!(shop.run().await.batches.len(), 1);
    let rows = "SELECT order_id, match_status FROM orders_enriched";
    assert_eq!(shop.seen(rows).await, ["o1|order_only"]);
    assert!(shop.run().await.batches.is_empty());
}

#[tokio::test]
async fn an_idle_run_says_what_grew_too_old_and_makes_no_batch_of_it() {
    let mut shop = Shop::new().await;
    let quality = "
        [[events]]
        check = \"freshness\"
        column = \"received_ts\"
        max_age = \"1h\"
        [[events]]
        check = \"freshness\"
        column = \"received_ts\"
        max_age = \"99999d\"
        [[sessions]]
        check = \"freshness\"
        column = \"ended_at\"
        max_age = \"1h\"
        on_failure = \"stop\"
        [[event_items]]
        check = \"freshness\"
        column = \"dt\"
        max_age = \"1h\"
        [[events]]
        check = \"not_null\"
        columns = [\"user_id\"]";
    // Nothing ever came: that is too old, too.
    shop.quality = quality;
    assert!(told(&shop).await[0].contains("event_items: freshness: there is no dt"));
    shop.quality = "";
    shop.land(&[view("a", "v", "2026-03-10T10:00:00Z"), view("b", "v", "2026-03-10T11:00:00Z")])
        .await;
    assert_eq!(shop.run().await.batches.len(), 1);
    let versions = shop.versions().await;
    // The collector is dead: the log's own word, a column that it says nothing of, no rows at all.
    shop.quality = quality;
    let report = shop.run().await;
    assert!(report.batches.is_empty());
    assert!(report.notices.iter().all(|notice| notice.severity == Severity::Problem));
    let first = told(&shop).await;
    assert_eq!(first.len(), 3, "{first:#?}");
    for (number, said) in [
        "event_items: freshness: there is no dt",
        "events: freshness: the newest received_ts is 2026-03-10T11:00:01",
        "sessions: freshness: the newest ended_at is 2026-03-10T11:00:00",
    ]
    .iter()
    .enumerate()
    {
        assert!(first[number].contains(said), "{first:#?}");
    }
    // The same words again, so that who repeats runs need not repeat them; nothing is written.
    assert_eq!(told(&shop).await, first);
    assert_eq!(shop.versions().await, versions);
    // Tables that were not asked for are not looked at.
    let orders = shop.run_tables(&["orders"]).await;
    assert!(orders.notices.iter().all(|notice| notice.source != "quality"), "{orders:?}");
    let stale = status::stale_tables(&shop.lake, &shop.options(), Timestamp::now()).await.unwrap();
    let stale: Vec<&str> = stale.iter().map(|stale| stale.table.as_str()).collect();
    assert_eq!(stale, ["event_items", "events", "sessions"]);
    let then = at("2026-03-10T11:30:00Z");
    let stale = status::stale_tables(&shop.lake, &shop.options(), then).await.unwrap();
    assert!(stale.len() == 1 && stale[0].table == "event_items", "{stale:?}");
    // A batch says of them what an idle run says.
    shop.land(&[view("c", "v", "2026-03-10T10:30:00Z")]).await;
    let report = shop.run().await;
    assert_eq!(report.batches.len(), 1);
    let of_batch: Vec<String> = report.notices.iter().map(ToString::to_string).collect();
    assert!(of_batch.contains(&first[1]), "{of_batch:#?}");
}

#[tokio::test]
async fn reconciliation_bounds_other_amounts_other_currencies_and_purchases_without_an_order() {
    let mut shop = Shop::new().await;
    let mut in_dollars = purchase("d", "v", "2026-03-10T10:00:00Z", "o4");
    in_dollars.currency = Some("USD".into());
    let of = |order: &str| purchase(&format!("p{order}"), "v", "2026-03-10T10:00:00Z", order);
    // o1 as it was, o2 and o3 of another amount, o4 in dollars; o5 is no order, o6 of another time.
    shop.land(&[of("o1"), of("o2"), of("o3"), in_dollars, of("o5")]).await;
    shop.land(&[purchase("p6", "v", "2026-01-10T10:00:00Z", "o6")]).await;
    let line = |order: &str, total: &str| format!("{order},2026-03-10T09:00:00Z,{total},EUR\n");
    let orders = [("o1", "10"), ("o2", "11"), ("o3", "12"), ("o4", "10")];
    let lines: String = orders.iter().map(|(order, total)| line(order, total)).collect();
    let csv = format!("order_id,ordered_at,total,currency\n{lines}");
    shop.export("orders", "20260311T000000", &csv);
    shop.quality = r#"
        [[orders_enriched]]
        check = "reconciliation"
        percent = 100
        [[orders_enriched]]
        check = "reconciliation"
        percent = 100
        max_value_mismatch = 60
        [[orders_enriched]]
        check = "reconciliation"
        max_value_mismatch = 67
        max_currency_mismatch = 25
        max_event_only = 20
        [[orders_enriched]]
        check = "reconciliation"
        max_currency_mismatch = 24
        [[orders_enriched]]
        check = "reconciliation"
        max_event_only = 19
    "#;
    let notices = told(&shop).await;
    assert_eq!(notices.len(), 3, "{notices:#?}");
    let rows = "SELECT check_number, status, round(observed, 1), allowed FROM quality_results \
                WHERE check_name = 'reconciliation'";
    assert_eq!(
        shop.seen(rows).await,
        [
            "1|passed|100.0|100.0",
            "2|warned|66.7|60.0",
            "3|passed|66.7|67.0",
            "4|warned|25.0|24.0",
            "5|warned|20.0|19.0",
        ]
    );
    let detail = "SELECT DISTINCT detail FROM quality_results WHERE check_number = 2";
    assert_eq!(
        shop.seen(detail).await,
        ["4 of 4 orders have a purchase event; of these 1 are in another currency, and 2 of the \
          other 3 say another amount; 1 of 5 purchases have no order; max_value_mismatch = 60 does \
          not hold: 66.7"]
    );
}

#[tokio::test]
async fn a_check_that_stops_what_is_read_in_ends_the_run_and_loses_nothing() {
    let mut shop = Shop::new().await;
    shop.quality = "[[orders]]\ncheck = \"accepted_values\"\ncolumn = \"status\"\nvalues = [\"paid\"]\non_failure = \"stop\"";
    let csv = |status: &str| {
        format!("order_id,ordered_at,total,status\no1,2026-03-10T10:00:00Z,10,{status}\n")
    };
    shop.land(&[view("a", "v", "2026-03-10T10:00:00Z")]).await;
    shop.export("orders", "20260311T000000", &csv("paid"));
    shop.run().await;
    shop.land(&[view("b", "v", "2026-03-11T10:00:00Z")]).await;
    shop.export("orders", "20260312T000000", &csv("stolen"));
    for _ in 0..2 {
        let error = shop.run_on(&shop.lake).await.expect_err("it stops");
        assert!(matches!(error, TransformError::Quality { table: "orders", .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("1 new rows with another status") && text.contains("warn"), "{text}");
        assert_eq!(shop.sql("SELECT status FROM orders").await, ["paid"]);
    }
    assert_eq!(shop.sql(RESULTS).await.len(), 2);
    let stopped = "SELECT batch, status FROM quality_results WHERE status = 'stopped'";
    assert_eq!(shop.sql(stopped).await, ["2|stopped"]);
    // The shop decides to take it.
    shop.quality =
        "[[orders]]\ncheck = \"accepted_values\"\ncolumn = \"status\"\nvalues = [\"paid\"]";
    assert_eq!(told(&shop).await.len(), 1);
    assert_eq!(shop.sql("SELECT status FROM orders").await, ["stolen"]);
    assert_eq!(shop.sql("SELECT count(*) FROM events").await, ["2"]);
    assert_eq!(twice(&shop).await, Vec::<String>::new());
}

/// Keys that more than one row of the results has.
async fn twice(shop: &Shop) -> Vec<String> {
    let key = QUALITY_RESULTS.key.join(", ");
    let sql = format!("SELECT {key} FROM quality_results GROUP BY {key} HAVING count(*) > 1");
    shop.sql(&sql).await
}

#[tokio::test]
async fn what_ended_a_run_is_seen_at_once_and_each_attempt_is_told_apart() {
    let results = "SELECT batch, attempt, table_name, check_number, status FROM quality_results";
    let mut shop = Shop::new().await;
    let accepts = |values: &str, on_failure: &str| {
        let text = format!(
            "[[events]]\ncheck = \"not_null\"\ncolumns = [\"event_id\"]\n\
             [[orders]]\ncheck = \"accepted_values\"\ncolumn = \"status\"\nvalues = [{values}]\n\
             on_failure = \"{on_failure}\""
        );
        &*text.leak()
    };
    shop.land(&[view("a", "v", "2026-03-10T10:00:00Z")]).await;
    let csv = "order_id,ordered_at,total,status\n\
               o1,2026-03-10T10:00:00Z,10,paid\no2,2026-03-10T10:00:00Z,10,stolen\n";
    shop.export("orders", "20260311T000000", csv);
    // The very first run: there is no snapshot yet.
    shop.quality = accepts("\"sold\"", "stop");
    for _ in 0..2 {
        shop.run_on(&shop.lake).await.expect_err("it stops");
    }
    let mut expected = vec!["1|1|events|1|passed", "1|1|orders|1|stopped"];
    assert_eq!(shop.seen(results).await, expected);
    // Corrected, and it stops for another reason.
    shop.quality = accepts("\"paid\"", "stop");
    for _ in 0..2 {
        shop.run_on(&shop.lake).await.expect_err("it stops");
    }
    expected.extend(["1|2|events|1|passed", "1|2|orders|1|stopped"]);
    assert_eq!(shop.seen(results).await, expected);
    shop.quality = accepts("\"paid\"", "warn");
    assert_eq!(told(&shop).await.len(), 1);
    expected.extend(["1|3|events|1|passed", "1|3|orders|1|warned"]);
    assert_eq!(shop.seen(results).await, expected);
    // The next batch begins to count anew, and is seen before its snapshot.
    shop.quality = accepts("\"sold\"", "stop");
    shop.export("orders", "20260312T000000", &csv.replace(",10,", ",11,"));
    shop.run_on(&shop.lake).await.expect_err("it stops");
    let second = format!("{results} WHERE batch = 2");
    assert_eq!(shop.seen(&second).await, ["2|1|orders|1|stopped"]);
    assert_eq!(shop.seen("SELECT DISTINCT total FROM orders").await, ["10.0000"]);
    assert_eq!(twice(&shop).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_run_that_dies_before_a_check_stops_it_tells_what_stopped_it_once() {
    let mut before = Shop::new().await;
    before.tables = Some(["orders".to_owned()].to_vec());
    before.quality =
        "[[orders]]\ncheck = \"not_null\"\ncolumns = [\"customer_id\"]\non_failure = \"stop\"";
    before.export("orders", "20260311T000000", &orders_csv(&[("o1", "2026-03-10T10:00:00Z", "1")]));
    for writes in (0..100).step_by(2) {
        let shop = before.fork().await;
        let first = shop.run_on(&shop.dying_after(writes)).await.expect_err("it ends");
        shop.run_on(&shop.lake).await.expect_err("it stops");
        let rows = "SELECT batch, attempt, status FROM quality_results";
        assert_eq!(shop.seen(rows).await, ["1|1|stopped"], "after {writes} writes");
        if matches!(first, TransformError::Quality { .. }) {
            return;
        }
    }
    panic!("a run needs more than 100 writes");
}

#[tokio::test]
async fn a_run_that_dies_after_any_write_writes_the_same_results_once() {
    async fn shop() -> Shop {
        let mut shop = Shop::new().await;
        shop.tables = Some(["orders_enriched".to_owned()].to_vec());
        shop.quality = "[[orders]]\ncheck = \"unique\"\ncolumns = [\"order_id\"]\n\
                        [[events]]\ncheck = \"not_null\"\ncolumns = [\"user_id\"]\n\
                        [[orders_enriched]]\ncheck = \"reconciliation\"\npercent = 100\non_failure = \"stop\"";
        shop
    }
    let mut whole = shop().await;
    first_batch(&mut whole).await;
    whole.run().await;
    second_batch(&mut whole).await;
    let before = whole.fork().await;
    whole.run().await;
    let wanted = whole.sql(RESULTS).await;
    assert!(wanted.len() >= 5, "{wanted:?}");
    // Each third write: what is committed when, the tests of runs try at every one.
    for writes in (0..100).step_by(3) {
        let shop = before.fork().await;
        let died = shop.run_on(&shop.dying_after(writes)).await.is_err();
        if died {
            shop.run().await;
        }
        assert_eq!(shop.sql(RESULTS).await, wanted, "after {writes} writes");
        if !died {
            return;
        }
    }
    panic!("a run needs more than 100 writes");
}
