//! Checks that pass, that warn and that stop, and what becomes of the table.

use clickmill_transform::TransformError;

use crate::support::shop::Shop;
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
