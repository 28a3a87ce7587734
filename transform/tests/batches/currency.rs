//! Amounts in the reporting currency, and currencies that differ.

use clickmill_schemas::Money;

use crate::purchase;
use crate::support::shop::Shop;

const CONVERTED: &str = "SELECT order_id, exchange_rate, reporting_total, reporting_net_total, \
                         reporting_currency FROM orders_enriched";

fn orders() -> &'static str {
    "order_id,ordered_at,total,refunded,currency\n\
     eur,2026-03-10T10:00:00Z,10.5,0,EUR\n\
     usd,2026-03-10T10:00:00Z,99.99,1.5,USD\n\
     jpy,2026-03-12T10:00:00Z,12345,,JPY\n\
     old,2026-03-20T10:00:00Z,1,,USD\n\
     none,2026-03-10T10:00:00Z,7,,\n"
}

async fn shop() -> Shop {
    let mut shop = Shop::new().await;
    shop.tables = Some(vec!["orders_enriched".to_owned()]);
    shop.currency = "reporting = \"EUR\"\nrates = \"FOLDER/rates.csv\"";
    shop.export("orders", "20260401T000000", orders());
    shop
}

async fn told(shop: &Shop) -> Vec<String> {
    let report = shop.run().await;
    let notices = report.notices.iter().filter(|notice| notice.source == "currency");
    notices.map(ToString::to_string).collect()
}

#[tokio::test]
async fn amounts_are_converted_exactly_by_the_newest_rate_of_a_week() {
    let shop = shop().await;
    // The rate of the 3rd still counts on the 10th; that of the 12th does not on the 20th.
    shop.write(
        "rates.csv",
        "date,currency,rate\n2026-03-02,USD,0.5\n2026-03-03,USD,0.9217\n2026-03-11,USD,0.8\n\
         2026-03-12,USD,0.7\n2026-03-12,JPY,0.0061234567\n2026-03-13,JPY,9\n",
    );
    let notices = told(&shop).await;
    // 99.99 x 0.9217 = 92.160783, 98.49 x 0.9217 = 90.778233; 12345 x 0.0061234567 = 75.5940729...
    assert_eq!(
        shop.sql(CONVERTED).await,
        [
            "eur|1.0000000000|10.5000|10.5000|EUR",
            "jpy|0.0061234567|75.5941|75.5941|EUR",
            "none|-|-|-|EUR",
            "old|-|-|-|EUR",
            "usd|0.9217000000|92.1608|90.7782|EUR",
        ]
    );
    assert_eq!(notices.len(), 2, "{notices:#?}");
    assert!(notices[0].contains("USD") && notices[0].contains("1 orders, the first of 2026-03-20"));
    assert!(notices[1].contains("no currency"), "{notices:#?}");
    // The same file again is nothing new.
    assert!(shop.run().await.batches.is_empty());
}

#[tokio::test]
async fn other_rates_recompute_the_days_that_they_convert_and_no_others() {
    let shop = shop().await;
    shop.write("rates.csv", "date,currency,rate\n2026-03-09,USD,0.5\n2026-03-11,JPY,0.01\n");
    told(&shop).await;
    let rest = shop.files("orders_enriched", "2026-03-12").await;
    let before = shop.files("orders_enriched", "2026-03-10").await;
    shop.write("rates.csv", "date,currency,rate\n2026-03-09,USD,0.6\n2026-03-11,JPY,0.01\n");
    told(&shop).await;
    assert_eq!(shop.files("orders_enriched", "2026-03-12").await, rest);
    assert_ne!(shop.files("orders_enriched", "2026-03-10").await, before);
    let usd = "SELECT reporting_total FROM orders_enriched WHERE order_id = 'usd'";
    assert_eq!(shop.sql(usd).await, ["59.9940"]);
    // What cannot be read leaves the rates as they are, and is told.
    shop.take_away("rates.csv");
    let notices = told(&shop).await;
    assert!(notices.len() == 1 && notices[0].contains("cannot be read"), "{notices:#?}");
    assert_eq!(shop.sql(usd).await, ["59.9940"]);
    // Another reporting currency converts everything anew.
    shop.write("rates.csv", "date,currency,rate\n2026-03-09,EUR,2\n");
    let mut dollars = shop;
    dollars.currency = "reporting = \"USD\"\nrates = \"FOLDER/rates.csv\"";
    told(&dollars).await;
    assert_eq!(dollars.sql(CONVERTED).await[0], "eur|2.0000000000|21.0000|21.0000|USD".to_owned());
    assert_eq!(dollars.sql(usd).await, ["99.9900"]);
}

#[tokio::test]
async fn a_purchase_in_another_currency_is_a_mismatch_of_its_own_kind() {
    let mut shop = Shop::new().await;
    shop.tables = Some(vec!["orders_enriched".to_owned()]);
    let mut events = Vec::new();
    for (order, currency) in [("same", Some("eur")), ("other", Some("USD")), ("silent", None)] {
        let mut event = purchase(order, "v", "2026-03-10T10:00:00Z", order);
        event.currency = currency.map(|code| code.to_owned().into());
        events.push(event);
    }
    // Another amount, and another currency: the currency is said.
    let mut both = purchase("both", "v", "2026-03-10T10:00:00Z", "both");
    both.currency = Some("USD".into());
    both.revenue = Money::parse("11").ok();
    events.push(both);
    shop.land(&events).await;
    let rows = ["same", "other", "silent", "both"];
    let rows: String =
        rows.iter().map(|id| format!("{id},2026-03-10T10:00:00Z,10,EUR\n")).collect();
    shop.export(
        "orders",
        "20260401T000000",
        &format!("order_id,ordered_at,total,currency\n{rows}"),
    );
    shop.run().await;
    assert_eq!(
        shop.sql("SELECT order_id, match_status, currency, event_currency FROM orders_enriched")
            .await,
        [
            "both|currency_mismatch|EUR|USD",
            "other|currency_mismatch|EUR|USD",
            "same|matched|EUR|eur",
            "silent|matched|EUR|-",
        ]
    );
}
