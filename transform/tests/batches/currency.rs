//! Amounts in the reporting currency, and currencies that differ.

use clickmill_schemas::{Event, Money};

use crate::support::history::item;
use crate::support::shop::Shop;
use crate::{purchase, view};

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
    // A file without a rate leaves what is in dollars already.
    dollars.write("rates.csv", "date,currency,rate\n");
    told(&dollars).await;
    assert_eq!(dollars.sql(CONVERTED).await[0], "eur|-|-|-|USD".to_owned());
    assert_eq!(dollars.sql(usd).await, ["99.9900"]);
}

#[tokio::test]
async fn a_purchase_in_another_currency_is_a_mismatch_of_its_own_kind() {
    let mut shop = Shop::new().await;
    shop.tables = Some(vec!["orders_enriched".to_owned(), "identity_links".to_owned()]);
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
        rows.iter().map(|id| format!("{id},c,2026-03-10T10:00:00Z,10,EUR\n")).collect();
    shop.export(
        "orders",
        "20260401T000000",
        &format!("order_id,customer_id,ordered_at,total,currency\n{rows}"),
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
    // Whoever bought is known all the same.
    let links = "SELECT visitor_id, method, identifier, events FROM identity_links";
    assert_eq!(shop.sql(links).await, ["v|order|c|4"]);
}

/// A purchase of some amount; without a currency where it names none.
fn bought(id: &str, time: &str, order: &str, amount: &str, currency: &str) -> Event<'static> {
    let mut event = purchase(id, "v", time, order);
    event.revenue = Money::parse(amount).ok();
    event.currency = (!currency.is_empty()).then(|| currency.to_owned().into());
    event
}

/// One of a product put in the cart.
fn carted(id: &str, time: &str, product: usize, price: &str, currency: &str) -> Event<'static> {
    let mut event = view(id, "w", time);
    event.event_name = "add_to_cart".into();
    event.currency = Some(currency.to_owned().into());
    let mut put = item(product, 3);
    put.price = Money::parse(price).ok();
    event.items = vec![put];
    event
}

/// A shop in euros that sells in dollars, too, and in yen, of which nobody says a rate.
async fn two_currencies(shop: &mut Shop) {
    shop.currency = "reporting = \"EUR\"\nrates = \"FOLDER/rates.csv\"";
    shop.land(&[
        // One session over midnight: dollars at two rates, euros, yen, and no currency.
        bought("a", "2026-03-10T23:50:00Z", "o1", "10", "USD"),
        bought("b", "2026-03-11T00:10:00Z", "o2", "20", "usd"),
        bought("c", "2026-03-11T00:20:00Z", "o3", "7", "EUR"),
        bought("d", "2026-03-11T00:30:00Z", "o4", "1000", "JPY"),
        bought("e", "2026-03-11T00:40:00Z", "o5", "5", ""),
        // A cart left behind: 3 x 2.50 dollars, 3 x 4 euros, 3 x 100 yen.
        carted("f", "2026-03-11T10:00:00Z", 1, "2.5", "USD"),
        carted("g", "2026-03-11T10:01:00Z", 2, "4", "EUR"),
        carted("h", "2026-03-11T10:02:00Z", 0, "100", "JPY"),
    ])
    .await;
    shop.export(
        "orders",
        "20260320T000000",
        "order_id,customer_id,ordered_at,currency,total,refunded\n\
         o1,c1,2026-03-10T23:50:00Z,USD,10,4\no2,c1,2026-03-11T00:10:00Z,USD,20,\n\
         o3,c1,2026-03-11T00:20:00Z,EUR,7,\no4,c2,2026-03-11T00:30:00Z,JPY,1000,\n\
         o6,c2,2026-03-11T12:00:00Z,USD,15,\n",
    );
    shop.export(
        "order_items",
        "20260320T000000",
        "order_id,line,product_id,quantity,unit_price,discount\no1,1,p1,2,5,\no2,1,p1,4,5,\n\
         o3,1,p1,1,8,1\no4,1,p1,1,1000,\no6,1,p2,1,15,\n",
    );
    // p1 costs 1.20 euros, p2 6 dollars.
    shop.export(
        "products",
        "20260301T000000",
        "product_id,name,category,price,cost,currency\np1,One,Caps,5,1.2,EUR\np2,Two,Caps,15,6,USD\n",
    );
}

const RATES: &str = "date,currency,rate\n2026-03-10,USD,0.9\n2026-03-11,USD,0.8\n";

/// Every table with sums of amounts.
pub const SUMMED_TABLES: [&str; 9] = [
    "sessions",
    "funnel_daily",
    "abandoned_carts",
    "product_daily",
    "category_daily",
    "interactions",
    "attribution",
    "customer_ltv",
    "cohort_retention",
];

/// Query and answer.
type Expected = (&'static str, &'static [&'static str]);

/// By [`RATES`]: 1 dollar is 0.9 euros on the 10th and 0.8 on the 11th.
const SUMMED: &[Expected] = &[
    // 10 x 0.9 + 20 x 0.8 + 7; yen and what names no currency are left out.
    (
        "SELECT revenue, currency, reporting_currency, reporting_revenue, unconverted FROM sessions",
        &["-|-|-|-|-", "1042.0000|-|EUR|32.0000|2"],
    ),
    (
        "SELECT orders, revenue, currency, reporting_currency, reporting_revenue, unconverted, dt \
         FROM funnel_daily",
        &["0|-|-|-|-|-|2026-03-11", "5|1042.0000|-|EUR|32.0000|2|2026-03-10"],
    ),
    // 7.5 x 0.8 + 12.
    (
        "SELECT worth, currency, reporting_currency, reporting_worth, unconverted FROM abandoned_carts",
        &["319.5000|-|EUR|18.0000|1"],
    ),
    // o1: 2 x 5 x 0.9. o2, o3, o4: 4 x 5 x 0.8 + (8 - 1); yen are left out. o6: 15 x 0.8.
    (
        "SELECT product_id, dt, revenue, revenue_currency, reporting_currency, reporting_revenue, \
         unconverted FROM product_daily WHERE orders > 0",
        &[
            "p1|2026-03-10|10.0000|USD|EUR|9.0000|0",
            "p1|2026-03-11|1027.0000|-|EUR|23.0000|1",
            "p2|2026-03-11|15.0000|USD|EUR|12.0000|0",
        ],
    ),
    (
        "SELECT category, dt, revenue, revenue_currency, reporting_currency, reporting_revenue, \
         unconverted FROM category_daily WHERE orders > 0",
        &["Caps|2026-03-10|10.0000|USD|EUR|9.0000|0", "Caps|2026-03-11|1042.0000|-|EUR|35.0000|1"],
    ),
    (
        "SELECT subject_id, product_id, dt, revenue, revenue_currency, reporting_revenue, unconverted \
         FROM interactions WHERE purchases > 0",
        &[
            "c1|p1|2026-03-10|10.0000|USD|9.0000|0",
            "c1|p1|2026-03-11|27.0000|-|23.0000|0",
            "c2|p1|2026-03-11|1000.0000|JPY|-|1",
            "c2|p2|2026-03-11|15.0000|USD|12.0000|0",
        ],
    ),
    // The tracker missed o6, and the shop has no o5, which names no currency.
    (
        "SELECT order_id, reporting_net_total, reporting_missed_total, reporting_event_total \
         FROM orders_enriched",
        &[
            "o1|5.4000|-|9.0000",
            "o2|16.0000|-|16.0000",
            "o3|7.0000|-|7.0000",
            "o4|-|-|-",
            "o5|-|-|-",
            "o6|12.0000|12.0000|-",
        ],
    ),
    (
        "SELECT order_id, touch, revenue, currency, reporting_currency, reporting_revenue FROM \
         attribution WHERE model = 'last'",
        &[
            "o1|1|6.0000|USD|EUR|5.4000",
            "o2|1|20.0000|USD|EUR|16.0000",
            "o3|1|7.0000|EUR|EUR|7.0000",
            "o4|1|1000.0000|JPY|EUR|-",
            "o6|1|15.0000|USD|EUR|12.0000",
        ],
    ),
    // c1's margin as sent: of o3 alone, 8 - 1 - 1.2; of o1 and o2 the cost is in another currency.
    // In euros: (10 x 0.9 - 2.4) x 6 / 10, 20 x 0.8 - 4.8, and 5.8. c2's: 9 dollars of o6.
    // The best by worth is c1: 28.4 euros against 12, though 1015 is more than 33.
    (
        "SELECT customer_id, revenue, refunded, margin, lines_without_cost, currency, \
         reporting_currency, reporting_revenue, reporting_refunded, reporting_margin, \
         reporting_lines_without_cost, unconverted, monetary FROM customer_ltv",
        &[
            "c1|33.0000|4.0000|5.8000|2|-|EUR|28.4000|3.6000|20.9600|0|0|5",
            "c2|1015.0000|0.0000|9.0000|1|-|EUR|12.0000|0.0000|7.2000|1|1|3",
        ],
    ),
    (
        "SELECT cohort, age_months, revenue, currency, reporting_currency, reporting_revenue, \
         reporting_cumulative_revenue, unconverted FROM cohort_retention",
        &["2026-03-01|0|1048.0000|-|EUR|40.4000|40.4000|1"],
    ),
];

async fn summed(shop: &Shop, how: &str) {
    for (sql, expected) in SUMMED {
        assert_eq!(&shop.sql(sql).await, expected, "{how}: {sql}");
    }
}

#[tokio::test]
async fn every_table_that_sums_amounts_sums_them_in_the_reporting_currency_too_whenever_rates_came()
{
    let tables = SUMMED_TABLES.map(str::to_owned);
    let mut shop = Shop::new().await;
    shop.tables = Some(tables.to_vec());
    two_currencies(&mut shop).await;
    shop.write("rates.csv", RATES);
    shop.run().await;
    summed(&shop, "at once").await;
    let expected = shop.everything().await;

    let mut stepwise = Shop::new().await;
    stepwise.tables = Some(tables.to_vec());
    two_currencies(&mut stepwise).await;
    let currency = std::mem::take(&mut stepwise.currency);
    stepwise.run().await;
    let without = stepwise.everything().await;
    assert_ne!(without, expected);
    stepwise.currency = currency;
    for rates in ["date,currency,rate\n2026-03-09,USD,5\n2026-03-10,JPY,0.01\n", RATES] {
        stepwise.write("rates.csv", rates);
        stepwise.run().await;
    }
    assert_eq!(stepwise.everything().await, expected, "in steps");
    // Of a rate that nothing was paid at, nothing is computed again but what has no days.
    let before = stepwise.versions().await;
    stepwise.write("rates.csv", format!("{RATES}2026-03-12,USD,7\n2026-03-13,GBP,1\n"));
    stepwise.run().await;
    let mut after = stepwise.versions().await;
    let is_of_days = |(table, _): &(&str, u64)| !["currency_rates", "customer_ltv"].contains(table);
    after.retain(is_of_days);
    assert_eq!(after, before.into_iter().filter(is_of_days).collect::<Vec<_>>());
    // Nobody reports any more: everything is as it was at first.
    stepwise.currency = "";
    stepwise.run().await;
    assert_eq!(stepwise.everything().await, without, "without [currency]");
}
