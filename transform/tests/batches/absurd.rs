//! Amounts and dates that nobody means: they end no run, and take nothing else with them.

use clickmill_schemas::{Item, Money};

use crate::support::shop::Shop;
use crate::{items_csv, orders_csv, purchase, view};

#[tokio::test]
async fn absurd_amounts_are_left_out_of_sums_and_told() {
    let mut shop = Shop::new().await;
    let mut cart = view("cart", "v", "2026-03-10T10:00:00Z");
    cart.event_name = "add_to_cart".into();
    let item = |product: &'static str, quantity, price| Item {
        product_id: Some(product.into()),
        quantity: Some(quantity),
        price: Money::parse(price).ok(),
        ..Item::default()
    };
    cart.items = vec![
        item("p1", 1, "2"),
        item("p2", 99_999_999_999_999, "100"),
        item("p3", i64::MAX, "99999999999999"),
        item("p4", 1_000_000_000_000, "1000"),
    ];
    let rich = |id, time, order| {
        let mut event = purchase(id, "w", time, order);
        event.revenue = Money::parse("60000000000000").ok();
        event
    };
    shop.land(&[
        cart,
        rich("a", "2026-03-10T10:00:00Z", "o1"),
        rich("b", "2026-03-10T10:01:00Z", "o2"),
        purchase("c", "x", "2026-03-10T10:00:00Z", "o3"),
    ])
    .await;
    let orders = |order| format!("{order},c1,2026-03-10T10:00:00Z,60000000000000\n");
    shop.export(
        "orders",
        "20260311T000000",
        &format!(
            "order_id,customer_id,ordered_at,total\n{}{}o3,c2,2026-03-10T10:00:00Z,10\n",
            orders("o1"),
            orders("o2")
        ),
    );
    shop.export(
        "order_items",
        "20260311T000000",
        "order_id,line,product_id,quantity,unit_price\n\
         o1,1,p1,1000000000000,1000\no2,1,p1,9223372036854775807,99999999999999\n\
         o2,2,p2,9223372036854775807,1\no3,1,p1,2,5\n",
    );
    shop.export(
        "products",
        "20260301T000000",
        "product_id,price,cost\np1,5,1\np2,5,99999999999999\n",
    );
    let report = shop.run().await;
    let told: Vec<&str> = report
        .notices
        .iter()
        .filter(|notice| notice.problem.contains("beyond what a column holds"))
        .map(|notice| notice.subject.as_str())
        .collect();
    for table in ["sessions", "product_daily", "abandoned_carts", "interactions", "customer_ltv"] {
        assert!(told.contains(&table), "{table} of {told:?}");
    }
    // What is in a column stays as it was sent; a sum of what is left is a sum.
    for (sql, rows) in [
        (
            "SELECT visitor_id, orders, revenue FROM sessions ORDER BY 1",
            ["v|0|-", "w|2|-", "x|1|10.0000"].as_slice(),
        ),
        ("SELECT sum(items[3]['quantity']) FROM events", &["9223372036854775807"]),
        (
            "SELECT products, units, worth, unpriced FROM abandoned_carts",
            &["2|1000000000001|2.0000|0"],
        ),
        (
            "SELECT product_id, orders, units, revenue FROM product_daily ORDER BY 1",
            &["p1|2|1000000000002|10.0000", "p2|0|0|-", "p3|0|0|-", "p4|0|0|-"],
        ),
        (
            "SELECT customer_id, orders, revenue, margin FROM customer_ltv ORDER BY 1",
            &["c1|2|-|-", "c2|1|10.0000|8.0000"],
        ),
        ("SELECT orders, revenue FROM cohort_retention", &["3|-"]),
    ] {
        assert_eq!(shop.sql(sql).await, rows, "{sql}");
    }
    assert!(shop.run().await.batches.is_empty());
}

#[tokio::test]
async fn dates_at_the_ends_of_the_calendar_move_no_window() {
    let shop = Shop::new().await;
    let orders = |odd: &[(&str, &str)]| {
        let usual = [("o1", "2026-03-10T10:00:00Z"), ("o2", "2026-04-10T10:00:00Z")];
        let rows: Vec<_> = usual.iter().chain(odd).map(|(order, at)| (*order, *at, "10")).collect();
        orders_csv(&rows).replace("order_id", "customer_id,order_id").replace("\no", "\nc,o")
    };
    let lines = |odd: &[&'static str]| {
        let usual = ["o1", "o2"];
        let orders = usual.iter().chain(odd);
        let lines: Vec<_> =
            orders.flat_map(|order| [(*order, 1, "p1", 1), (*order, 2, "p2", 1)]).collect();
        items_csv(&lines)
    };
    shop.export("orders", "20260411T000000", &orders(&[]));
    shop.export("order_items", "20260411T000000", &lines(&[]));
    shop.run().await;
    let facts = [
        "SELECT product_id, together FROM co_bought ORDER BY 1",
        "SELECT DISTINCT as_of FROM customer_ltv",
        "SELECT cohort, age_months, orders FROM cohort_retention ORDER BY 1, 2",
    ];
    let mut before = Vec::new();
    for sql in facts {
        before.push(shop.sql(sql).await);
    }
    assert_eq!(before[0], ["p1|2", "p2|2"]);
    assert_eq!(before[1], ["2026-04-10"]);
    assert_eq!(before[2], ["2026-03-01|0|1", "2026-03-01|1|1"]);

    let odd = [("o8", "9999-12-31T23:59:59Z"), ("o9", "2100-01-01T00:00:00Z")];
    shop.export("orders", "20260412T000000", &orders(&odd));
    shop.export("order_items", "20260412T000000", &lines(&["o8", "o9"]));
    shop.run().await;
    // The orders of days to come are orders, and their baskets baskets.
    assert_eq!(shop.sql(facts[0]).await, ["p1|4", "p2|4"]);
    assert_eq!(shop.sql(facts[1]).await, before[1]);
    assert_eq!(shop.sql(facts[2]).await, before[2]);
    let worth = "SELECT orders, last_order_at FROM customer_ltv";
    assert_eq!(shop.sql(worth).await, ["4|9999-12-31T23:59:59Z"]);

    shop.export(
        "orders",
        "20260413T000000",
        &orders(&[odd[0], odd[1], ("o7", "0001-01-01T00:00:00Z")]),
    );
    shop.run().await;
    assert_eq!(shop.sql("SELECT orders, cohort FROM customer_ltv").await, ["5|0001-01-01"]);
    let cohorts = "SELECT cohort, sum(orders) FROM cohort_retention GROUP BY 1";
    assert_eq!(shop.sql(cohorts).await, ["0001-01-01|3"]);
}
