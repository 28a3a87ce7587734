//! Files of order lines.

use clickmill_transform::sources::{Dataset, SourceRows, read};

use crate::support::{Shop, rejects, rows};

const SOURCE: &str = r#"
[sources.s]
kind = "files"
format = "csv"
path = "FOLDER/lines.csv"
[sources.s.lines]
yields = ["orders", "order_items", "products"]
return_prefix = "C"
[sources.s.lines.columns]
order_id = "Invoice"
product_id = "Code"
name = "What"
quantity = "Qty"
unit_price = "Price"
ordered_at = { column = "Date", format = "%Y-%m-%d %H:%M:%S" }
customer_id = { column = "Customer", strip = ".0" }
country = "Country"
currency = { constant = "GBP" }
"#;
const HEADER: &str = "Invoice,Code,What,Qty,Date,Price,Customer,Country\n";

async fn all(shop: &Shop, source: &str) -> Vec<SourceRows> {
    let found = shop.find(source).await;
    let datasets: Vec<_> = found.exports.iter().map(|export| export.dataset).collect();
    assert_eq!(
        datasets,
        [Dataset::Orders, Dataset::OrderItems, Dataset::ProductObservations],
        "{:?}",
        found.notices
    );
    let mut all = Vec::new();
    for export in &found.exports {
        let rows = read(&shop.lake, export).await.unwrap();
        for batch in &rows.batches {
            assert_eq!(batch.schema(), export.dataset.schema());
        }
        all.push(rows);
    }
    all
}

#[tokio::test]
async fn lines_become_orders_items_and_products_with_exact_sums() {
    let shop = Shop::new().await;
    shop.write(
        "lines.csv",
        format!(
            "{HEADER}\
             1,A,Cup,6,2026-11-23 08:26:00,2.55,17850.0,United Kingdom\n\
             2,B,Tea,1,2026-11-23 09:00:00,0.001,,France\n\
             1,B,Tea,3,2026-11-23 08:27:00,3.39,17850.0,United Kingdom\n\
             C3,A,,-6,2026-11-24 10:00:00,2.55,17850.0,United Kingdom\n\
             4,A,damaged,-2,2026-11-24 11:00:00,0.0,,United Kingdom\n\
             1,A,Cup blue,1,2026-11-23 08:26:00,2.55,17850.0,United Kingdom\n\
             4,Z,,-1,2026-11-24 11:00:00,-11062.06,,United Kingdom\n"
        ),
    );
    let all = all(&shop, SOURCE).await;
    let orders = [
        "order_id",
        "customer_id",
        "ordered_at",
        "status",
        "currency",
        "subtotal",
        "discount",
        "total",
        "refunded",
        "country",
    ];
    assert_eq!(
        rows(&all[0], &orders),
        [
            // 6 x 2.55 + 3 x 3.39 + 1 x 2.55
            "1|17850|2026-11-23T08:26:00Z|completed|GBP|28.0200|-|28.0200|-|United Kingdom",
            "2|-|2026-11-23T09:00:00Z|completed|GBP|0.0010|-|0.0010|-|France",
            "C3|17850|2026-11-24T10:00:00Z|returned|GBP|-15.3000|-|-15.3000|-|United Kingdom",
            // -2 x 0 + -1 x -11062.06
            "4|-|2026-11-24T11:00:00Z|completed|GBP|11062.0600|-|11062.0600|-|United Kingdom",
        ]
    );
    assert_eq!(
        rows(&all[1], &["order_id", "line", "product_id", "quantity", "unit_price"]),
        [
            "1|1|A|6|2.5500",
            "2|1|B|1|0.0010",
            "1|2|B|3|3.3900",
            "C3|1|A|-6|2.5500",
            "4|1|A|-2|0.0000",
            "1|3|A|1|2.5500",
            "4|2|Z|-1|-11062.0600",
        ]
    );
    assert_eq!(
        rows(&all[2], &["product_id", "name", "price", "currency", "export_id"]),
        [
            "A|Cup blue|2.5500|GBP|lines.csv",
            "B|Tea|3.3900|GBP|lines.csv",
            "Z|-|-11062.0600|GBP|lines.csv"
        ]
    );
    assert!(all.iter().all(|rows| rows.rejects.is_empty() && rows.rows_read == 7));
}

#[tokio::test]
async fn a_bad_line_is_taken_by_none_and_rejected_once() {
    let shop = Shop::new().await;
    shop.write(
        "lines.csv",
        format!(
            "{HEADER}\
             1,A,Cup,six,2026-11-23 08:26:00,2.55,c,UK\n\
             1,A,Cup,2,2026-11-23 08:26:00,2.55,c,UK\n\
             1,A,Cup,2,2026-11-23 08:26:00,,c,UK\n\
             1,A,Cup,2,yesterday,2.55,c,UK\n"
        ),
    );
    let all = all(&shop, SOURCE).await;
    assert_eq!(rows(&all[0], &["order_id", "total"]), ["1|5.1000"]);
    assert_eq!(rows(&all[1], &["order_id", "line", "quantity"]), ["1|1|2"]);
    let rejected = rejects(&all[0]);
    assert_eq!(rejected.len(), 3, "{rejected:?}");
    assert!(rejected[0].starts_with("row 1: bad_value: column quantity"), "{rejected:?}");
    assert!(rejected[1].starts_with("row 3: missing_field: column unit_price"), "{rejected:?}");
    assert!(rejected[2].starts_with("row 4: bad_value: column ordered_at"), "{rejected:?}");
    assert!(all[1].rejects.is_empty() && all[2].rejects.is_empty());
}

#[tokio::test]
async fn a_lines_discount_an_orders_tax_and_a_mapped_total_enter_the_order() {
    let shop = Shop::new().await;
    shop.write(
        "lines.csv",
        "o,p,q,u,t,d,tax,ship,total\n\
         1,A,2,10,2026-11-23,1.50,4,3,\n1,B,1,5,2026-11-23,,4,3,\n2,A,1,10,2026-11-23,,,,9.99\n",
    );
    let found = shop
        .find(
            "[sources.s]\nkind = \"files\"\nformat = \"csv\"\npath = \"FOLDER/lines.csv\"\n\
             [sources.s.lines.columns]\norder_id = \"o\"\nproduct_id = \"p\"\nquantity = \"q\"\n\
             unit_price = \"u\"\nordered_at = \"t\"\ndiscount = \"d\"\ntax = \"tax\"\n\
             shipping = \"ship\"\ntotal = \"total\"",
        )
        .await;
    let orders = read(&shop.lake, &found.exports[0]).await.unwrap();
    assert_eq!(
        rows(&orders, &["order_id", "subtotal", "discount", "tax", "shipping", "total"]),
        ["1|25.0000|1.5000|4.0000|3.0000|30.5000", "2|10.0000|-|-|-|9.9900"]
    );
}

#[tokio::test]
async fn an_order_whose_sum_fits_no_amount_is_rejected_as_a_whole() {
    let shop = Shop::new().await;
    let line = "1,A,Cup,9223372036854775807,2026-11-23 08:26:00,99999999999999.9999,c,UK\n";
    shop.write("lines.csv", format!("{HEADER}{line}{line}2,A,Cup,1,2026-11-23 08:26:00,1,c,UK\n"));
    let all = all(&shop, SOURCE).await;
    assert_eq!(rows(&all[0], &["order_id"]), ["2"]);
    assert!(rejects(&all[0])[0].starts_with("order 1: bad_value"), "{:?}", all[0].rejects);
}

#[tokio::test]
async fn orders_that_span_many_batches_are_summed_over_all_of_them() {
    let shop = Shop::new().await;
    // 30,000 lines of 9,000 orders, each order's lines far apart.
    let lines: String = (0..30_000)
        .map(|n| format!("{},P{},x,1,2026-11-23 08:26:00,0.01,c,UK\n", n % 9_000, n % 7))
        .collect();
    shop.write("lines.csv", format!("{HEADER}{lines}"));
    let all = all(&shop, SOURCE).await;
    let orders = rows(&all[0], &["order_id", "total"]);
    assert_eq!(orders.len(), 9_000);
    // 30,000 = 3 x 9,000 + 3,000: the first 3,000 orders have four lines.
    for (at, order) in orders.iter().enumerate() {
        let total = if at < 3_000 { "0.0400" } else { "0.0300" };
        assert_eq!(*order, format!("{at}|{total}"));
    }
    assert_eq!(rows(&all[1], &["line"]).iter().filter(|line| *line == "4").count(), 3_000);
    assert_eq!(rows(&all[2], &["product_id"]).len(), 7);
}
