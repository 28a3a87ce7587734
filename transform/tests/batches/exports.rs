//! Exports in any order, repeated, late, or without a record of what they said.

use crate::support::history::item;
use crate::support::shop::Shop;
use crate::{items_csv, orders_csv, view};

#[tokio::test]
async fn an_export_that_says_the_same_again_rewrites_no_partition() {
    let shop = Shop::new().await;
    let orders =
        orders_csv(&[("o1", "2026-03-10T09:00:00Z", "10"), ("o2", "2026-03-11T09:00:00Z", "20")]);
    let items = items_csv(&[("o1", 1, "p1", 2), ("o2", 1, "p1", 1)]);
    for day in ["20260312T000000", "20260313T000000"] {
        shop.export("orders", day, &orders);
        shop.export("order_items", day, &items);
        shop.run().await;
        if day == "20260312T000000" {
            assert_eq!(shop.table("orders").await.files().len(), 2);
        }
    }
    let mut first = shop.versions().await;
    shop.export("orders", "20260314T000000", &orders);
    shop.export("order_items", "20260314T000000", &items);
    assert_eq!(shop.run().await.batches.len(), 1, "it is taken in, and says nothing new");
    let mut again = shop.versions().await;
    for versions in [&mut first, &mut again] {
        versions.retain(|(table, _)| {
            matches!(*table, "orders" | "order_items" | "orders_enriched" | "product_daily")
        });
    }
    assert_eq!(again, first);
}

#[tokio::test]
async fn an_older_export_that_comes_late_fills_gaps_and_changes_nothing() {
    let shop = Shop::new().await;
    shop.export("orders", "20260312T000000", &orders_csv(&[("o1", "2026-03-10T09:00:00Z", "30")]));
    shop.export("order_items", "20260312T000000", &items_csv(&[("o1", 1, "p1", 3)]));
    shop.run().await;
    let day = shop.files("orders", "2026-03-10").await;
    shop.export(
        "orders",
        "20260311T000000",
        &orders_csv(&[("o1", "2026-03-09T09:00:00Z", "10"), ("o2", "2026-03-09T09:00:00Z", "20")]),
    );
    let items = items_csv(&[("o1", 1, "p1", 1), ("o1", 2, "p2", 1), ("o2", 1, "p1", 2)]);
    shop.export("order_items", "20260311T000000", &items);
    shop.run().await;
    assert_eq!(
        shop.sql("SELECT order_id, total, dt FROM orders").await,
        ["o1|30.0000|2026-03-10", "o2|20.0000|2026-03-09"]
    );
    assert_eq!(
        shop.sql("SELECT order_id, line, quantity, dt FROM order_items").await,
        ["o1|1|3|2026-03-10", "o2|1|2|2026-03-09"]
    );
    assert_eq!(shop.files("orders", "2026-03-10").await, day);
}

#[tokio::test]
async fn of_two_exports_in_one_batch_the_older_says_what_the_newer_leaves_out() {
    let shop = Shop::new().await;
    let row = |total| ("o1", "2026-03-10T09:00:00Z", total);
    shop.export("orders", "20260311T000000", &orders_csv(&[row("10")]));
    shop.run().await;
    shop.export("orders", "20260312T000000", &orders_csv(&[row("20")]));
    shop.export("orders", "20260313T000000", &orders_csv(&[("o2", "2026-03-10T09:00:00Z", "5")]));
    shop.run().await;
    assert_eq!(shop.sql("SELECT order_id, total FROM orders").await, ["o1|20.0000", "o2|5.0000"]);
}

#[tokio::test]
async fn an_order_that_moves_to_another_day_takes_its_lines_and_leaves_none_behind() {
    let shop = Shop::new().await;
    let orders = [("o1", "2026-03-10T09:00:00Z", "10"), ("o2", "2026-03-10T09:00:00Z", "5")];
    shop.export("orders", "20260312T000000", &orders_csv(&orders));
    let items = items_csv(&[("o1", 1, "p1", 2), ("o1", 2, "p2", 3), ("o2", 1, "p1", 1)]);
    shop.export("order_items", "20260312T000000", &items);
    shop.run().await;
    // No word on lines: they are as they were, and go with the order.
    shop.export("orders", "20260313T000000", &orders_csv(&[("o1", "2026-03-11T09:00:00Z", "10")]));
    shop.run().await;
    assert_eq!(
        shop.sql("SELECT order_id, dt FROM orders").await,
        ["o1|2026-03-11", "o2|2026-03-10"]
    );
    assert_eq!(
        shop.sql("SELECT order_id, match_status, dt FROM orders_enriched").await,
        ["o1|order_only|2026-03-11", "o2|order_only|2026-03-10"]
    );
    assert_eq!(
        shop.sql("SELECT order_id, line, quantity, dt FROM order_items").await,
        ["o1|1|2|2026-03-11", "o1|2|3|2026-03-11", "o2|1|1|2026-03-10"]
    );
    assert_eq!(
        shop.sql("SELECT product_id, units, revenue, dt FROM product_daily").await,
        ["p1|1|5.0000|2026-03-10", "p1|2|10.0000|2026-03-11", "p2|3|15.0000|2026-03-11"]
    );
}

#[tokio::test]
async fn the_lines_of_an_order_are_those_of_its_newest_export() {
    let shop = Shop::new().await;
    // Lines before their order wait, and count nowhere.
    shop.export(
        "order_items",
        "20260311T000000",
        &items_csv(&[("o1", 1, "p1", 2), ("o1", 2, "p2", 1)]),
    );
    shop.run().await;
    assert_eq!(
        shop.sql("SELECT order_id, line, dt FROM order_items").await,
        ["o1|1|1970-01-01", "o1|2|1970-01-01"]
    );
    assert!(shop.sql("SELECT * FROM product_daily").await.is_empty());
    shop.export("orders", "20260312T000000", &orders_csv(&[("o1", "2026-03-10T09:00:00Z", "15")]));
    shop.run().await;
    let units = "SELECT product_id, units, dt FROM product_daily";
    assert_eq!(shop.sql(units).await, ["p1|2|2026-03-10", "p2|1|2026-03-10"]);
    assert_eq!(
        shop.sql("SELECT category, orders, units, revenue, dt FROM category_daily").await,
        ["(none)|1|3|15.0000|2026-03-10"]
    );
    // A line fewer.
    shop.export("order_items", "20260313T000000", &items_csv(&[("o1", 1, "p1", 2)]));
    shop.run().await;
    assert_eq!(
        shop.sql("SELECT order_id, line, quantity, dt FROM order_items").await,
        ["o1|1|2|2026-03-10"]
    );
    assert_eq!(shop.sql(units).await, ["p1|2|2026-03-10"]);
}

#[tokio::test]
async fn exports_of_the_catalog_give_the_same_history_in_any_order() {
    let exports = [
        ("20260301T120000", "product_id,category,price\np1,hats,10\np2,caps,5\n"),
        ("20260302T120000", "product_id,category,price\np1,hats,10\n"),
        ("20260303T120000", "product_id,category,price\np1,hats,12\np2,caps,5\n"),
        ("20260304T120000", "product_id,category,price\np1,hats,10\n"),
    ];
    let sql = "SELECT product_id, price, CAST(valid_from AS DATE), CAST(valid_to AS DATE), is_first \
               FROM products";
    for order in [[0, 1, 2, 3], [3, 1, 0, 2]] {
        let shop = Shop::new().await;
        for number in order {
            shop.export("products", exports[number].0, exports[number].1);
            shop.run().await;
        }
        assert_eq!(
            shop.sql(sql).await,
            [
                "p1|10.0000|2026-03-01|2026-03-03|true",
                "p1|10.0000|2026-03-04|-|false",
                "p1|12.0000|2026-03-03|2026-03-04|false",
                "p2|5.0000|2026-03-01|-|true",
            ],
            "in the order {order:?}"
        );
    }
}

#[tokio::test]
async fn a_day_shows_the_catalog_as_of_its_end_and_a_new_export_leaves_older_days_alone() {
    let mut shop = Shop::new().await;
    let seen = |id: &'static str, time: &'static str| {
        let mut event = view(id, "v", time);
        event.event_name = "product_view".into();
        event.items = vec![item(1, 1)];
        event
    };
    let days = ["2026-03-01T10:00:00Z", "2026-03-02T10:00:00Z", "2026-03-03T10:00:00Z"];
    shop.land(&[seen("a", days[0]), seen("b", days[1]), seen("c", days[2])]).await;
    shop.export("products", "20260302T230000", "product_id,price,stock\np1,10,7\n");
    shop.run().await;
    let sql = "SELECT dt, views, price, stock, asof_backfilled FROM product_daily";
    assert_eq!(
        shop.sql(sql).await,
        [
            "2026-03-01|1|10.0000|7|true",
            "2026-03-02|1|10.0000|7|false",
            "2026-03-03|1|10.0000|7|false"
        ]
    );
    let old = (
        shop.files("product_daily", "2026-03-01").await,
        shop.files("product_daily", "2026-03-02").await,
    );
    shop.export("products", "20260303T230000", "product_id,price,stock\np1,12,7\n");
    shop.run().await;
    assert_eq!(
        shop.sql(sql).await,
        [
            "2026-03-01|1|10.0000|7|true",
            "2026-03-02|1|10.0000|7|false",
            "2026-03-03|1|12.0000|7|false"
        ]
    );
    let now = (
        shop.files("product_daily", "2026-03-01").await,
        shop.files("product_daily", "2026-03-02").await,
    );
    assert_eq!(now, old);
}

#[tokio::test]
async fn a_lake_without_a_record_of_its_exports_makes_one_out_of_the_exports_that_it_took() {
    let orders = |total: &str| orders_csv(&[("o1", "2026-03-09T09:00:00Z", total)]);
    let (kept, lost) = (Shop::new().await, Shop::new().await);
    for shop in [&kept, &lost] {
        // Said on the 12th and again on the 14th; the lines change in between.
        shop.export("orders", "20260312T000000", &orders("30"));
        shop.export("order_items", "20260312T000000", &items_csv(&[("o1", 1, "p1", 3)]));
        shop.run().await;
        shop.export("orders", "20260314T000000", &orders("30"));
        let items = items_csv(&[("o1", 1, "p1", 1), ("o1", 2, "p2", 1)]);
        shop.export("order_items", "20260314T000000", &items);
        shop.run().await;
    }
    let before = kept.everything().await;
    lost.forget("source_keys");
    // Nothing is new, and the run mends the record; what is in the tables stays in its files.
    let versions = lost.versions().await;
    let report = lost.run().await;
    assert_eq!(report.batches.len(), 1);
    assert_eq!(lost.versions().await, versions);
    let said = report.notices.iter().any(|notice| notice.subject == "source_keys");
    assert!(said, "{:?}", report.notices);
    assert!(lost.run().await.batches.is_empty(), "once is enough");
    assert_eq!(lost.everything().await, before);
    // An export of the 13th loses to what was said on the 14th.
    for shop in [&kept, &lost] {
        shop.export("orders", "20260313T000000", &orders("99"));
        shop.export("order_items", "20260313T000000", &items_csv(&[("o1", 3, "p3", 9)]));
        shop.run().await;
    }
    assert_eq!(lost.sql("SELECT total FROM orders").await, ["30.0000"]);
    assert_eq!(lost.sql("SELECT line, quantity FROM order_items").await, ["1|1", "2|1"]);
    assert_eq!(lost.everything().await, kept.everything().await);
}

#[tokio::test]
async fn without_the_exports_that_it_took_a_lake_without_a_record_is_left_alone() {
    let shop = Shop::new().await;
    shop.export("orders", "20260312T000000", &orders_csv(&[("o1", "2026-03-09T09:00:00Z", "30")]));
    shop.run().await;
    shop.forget("source_keys");
    let export = shop.take_away("orders-20260312T000000.csv");
    let before = shop.versions().await;
    let error = shop.run_on(&shop.lake).await.expect_err("a file is gone").to_string();
    assert!(
        error.contains("orders-20260312T000000.csv") && error.contains("Put it back"),
        "{error}"
    );
    assert_eq!(shop.versions().await, before);
    assert_eq!(shop.days_of_batches().await.len(), 1, "nothing was begun");
    // Another file of the same name is not the one that was taken.
    shop.export("orders", "20260312T000000", "order_id,ordered_at,total\n");
    assert!(shop.run_on(&shop.lake).await.is_err());
    let _ = export;
}
