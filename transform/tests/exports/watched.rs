//! Is what is strange of a source told, without ever emptying a table?

use serde_json::{Value, json};

use crate::formats::{Dynamo, parquet};
use crate::shop::{Shop, at, shop};

const SOURCES: &str = r#"
[dynamo]
kind = "dynamodb-export"
path = "FOLDER/dynamodb"
[dynamo.products]
[dynamo.expect]
every = "36h"
"#;

fn products(count: usize, price: usize) -> Vec<Value> {
    let item = |number: usize| json!({"product_id": {"S": format!("p{number}")}, "price": {"N": price.to_string()}});
    (0..count).map(item).collect()
}

async fn told(shop: &Shop) -> Vec<String> {
    told_of(shop, "products").await
}

async fn told_of(shop: &Shop, table: &str) -> Vec<String> {
    let report = shop.run_tables(&[table]).await;
    let texts = report.notices.iter().map(|notice| format!("{:?} {notice}", notice.severity));
    // The clock is none of these tests' business.
    texts.filter(|text| !text.contains("hours old")).collect()
}

#[tokio::test]
async fn a_full_export_that_is_suddenly_much_smaller_is_told_and_taken_and_removes_nothing() {
    let shop = shop(SOURCES).await;
    let day = |day: u32| at(&format!("2026-03-{day:02}T00:00:00Z"));
    Dynamo::full("01", "products", day(1), products(100, 1)).write(&shop);
    assert_eq!(told(&shop).await, Vec::<String>::new());
    // Half is not less than half.
    Dynamo::full("02", "products", day(2), products(50, 2)).write(&shop);
    assert_eq!(told(&shop).await, Vec::<String>::new());
    Dynamo::full("03", "products", day(3), products(24, 3)).write(&shop);
    let notices = told(&shop).await;
    assert_eq!(notices.len(), 1, "{notices:#?}");
    assert!(
        notices[0].starts_with("Problem") && notices[0].contains("it has 24 rows"),
        "{notices:#?}"
    );
    Dynamo::full("04", "products", day(4), Vec::new()).write(&shop);
    let notices = told(&shop).await;
    assert!(notices.len() == 1 && notices[0].contains("it has 0 rows"), "{notices:#?}");
    // Which exports there were does not hang on the order in which they came.
    let prices = "SELECT price, count(*) FROM products WHERE valid_to IS NULL GROUP BY price";
    assert_eq!(shop.sql(prices).await, ["1.0000|50", "2.0000|26", "3.0000|24"]);
    assert_eq!(
        shop.sql("SELECT export_id, rows_read, rows_taken, rows_rejected FROM source_exports")
            .await,
        ["01|100|100|0", "02|50|50|0", "03|24|24|0", "04|0|0|0"]
    );
}

#[tokio::test]
async fn an_export_that_says_the_very_same_is_remarked_whatever_the_order_of_its_rows() {
    let shop = shop(SOURCES).await;
    Dynamo::full("01", "products", at("2026-03-01T00:00:00Z"), products(9, 1)).write(&shop);
    assert_eq!(told(&shop).await, Vec::<String>::new());
    let mut again = products(9, 1);
    again.reverse();
    Dynamo::full("02", "products", at("2026-03-02T00:00:00Z"), again).write(&shop);
    let notices = told(&shop).await;
    assert_eq!(notices.len(), 1, "{notices:#?}");
    assert!(
        notices[0].starts_with("Remark") && notices[0].contains("nothing changed"),
        "{notices:#?}"
    );
    let mut other = products(8, 1);
    other.extend(products(1, 2));
    Dynamo::full("03", "products", at("2026-03-03T00:00:00Z"), other).write(&shop);
    assert_eq!(told(&shop).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_source_that_is_missing_or_has_nothing_new_for_long_is_told() {
    let shop = shop(SOURCES).await;
    let notices = told(&shop).await;
    assert!(
        notices.len() == 1 && notices[0].contains("no export of the table `products`"),
        "{notices:#?}"
    );
    let export = Dynamo::full("01", "products", at("2026-03-01T00:00:00Z"), products(9, 1));
    export.write(&shop);
    let report = shop.run_tables(&["products"]).await;
    assert_eq!(report.notices.len(), 1, "{:#?}", report.notices);
    assert!(report.notices[0].problem.contains("the newest export is of 2026-03-01T00:00:00"));
    // Gone again: told, and the table keeps its rows.
    shop.take_away(&format!("{}/manifest-summary.json", export.folder()));
    let notices = told(&shop).await;
    assert!(notices.iter().any(|text| text.contains("no manifest-summary.json")), "{notices:#?}");
    assert_eq!(shop.sql("SELECT count(*) FROM products").await, ["9"]);
}

#[tokio::test]
async fn a_source_that_cannot_be_reached_is_told_and_the_others_go_on() {
    let sources = r#"
[dynamo]
kind = "dynamodb-export"
path = "FOLDER/dynamodb"
[dynamo.products]
[unplugged]
kind = "dms"
path = "/no/such/folder/of-clickmill"
[unplugged.orders]
"#;
    let shop = shop(sources).await;
    Dynamo::full("01", "products", at("2026-03-01T00:00:00Z"), products(3, 1)).write(&shop);
    let notices = told(&shop).await;
    assert_eq!(notices.len(), 1, "{notices:#?}");
    assert!(notices[0].starts_with("Problem source `unplugged`"), "{notices:#?}");
    assert_eq!(shop.sql("SELECT count(*) FROM products").await, ["3"]);
}

#[tokio::test]
async fn a_table_that_an_rds_export_lists_without_any_file_is_an_export_of_no_rows() {
    let sources = "[rds]\nkind = \"rds-export\"\npath = \"FOLDER/rds\"\n[rds.orders]";
    let shop = shop(sources).await;
    let orders = |count: usize| {
        let text = |text: String| Some(text);
        let row = |n: usize| vec![text(format!("o{n}")), text("2026-03-01T00:00:00Z".to_owned())];
        parquet(&["order_id", "ordered_at"], &(0..count).map(row).collect::<Vec<_>>())
    };
    let describe = |day: u32| {
        let tables = r#"{"perTableStatus":[{"target":"shop.public.orders","status":"COMPLETE"}]}"#;
        shop.write(&format!("rds/{day}/export_tables_info_{day}_from_1_to_1.json"), tables);
        let info = format!(r#"{{"status":"COMPLETE","snapshotTime":"2026-03-0{day}T00:00:00Z"}}"#);
        shop.write(&format!("rds/{day}/export_info_{day}.json"), info);
    };
    shop.write("rds/1/shop/public.orders/1/part-0.parquet", orders(5));
    describe(1);
    assert_eq!(told_of(&shop, "orders").await, Vec::<String>::new());
    describe(2);
    let notices = told_of(&shop, "orders").await;
    assert_eq!(notices.len(), 1, "{notices:#?}");
    assert!(
        notices[0].starts_with("Problem source `rds`, 2: it has 0 rows for orders, 1 had 5"),
        "{notices:#?}"
    );
    assert_eq!(shop.sql("SELECT count(*) FROM orders").await, ["5"]);
    assert_eq!(
        shop.sql("SELECT export_id, files, rows_taken FROM source_exports").await,
        ["1|1|5", "2|0|0"]
    );
    let report = shop.run_tables(&["orders"]).await;
    assert_eq!((report.batches.len(), report.notices.len()), (0, 0), "told once, taken once");
}

/// A CSV of so many orders with this status.
fn orders(count: usize, status: &str) -> String {
    let rows = (0..count).map(|n| format!("o{n},2026-03-01T00:00:00Z,{status}\n"));
    format!("order_id,ordered_at,status\n{}", rows.collect::<String>())
}

#[tokio::test]
async fn a_file_is_compared_with_its_former_self_and_with_others_where_a_share_is_expected() {
    let files =
        "[dumps]\nkind = \"files\"\nformat = \"csv\"\npath = \"FOLDER/in\"\n[dumps.orders]\n";
    let mut shop = shop(files).await;
    shop.write("in/orders-1.csv", orders(9, "open"));
    assert_eq!(told_of(&shop, "orders").await, Vec::<String>::new());
    shop.write("in/orders-2.csv", orders(2, "open"));
    assert_eq!(told_of(&shop, "orders").await, Vec::<String>::new(), "what was new that day");
    shop.write("in/orders-2.csv", orders(2, "open"));
    let notices = told_of(&shop, "orders").await;
    assert!(notices.len() == 1 && notices[0].contains("nothing changed"), "{notices:#?}");
    shop.write("in/orders-2.csv", orders(0, "open"));
    shop.write("in/orders-1.csv", orders(9, "paid"));
    let notices = told_of(&shop, "orders").await;
    assert!(notices.len() == 1 && notices[0].starts_with("Problem"), "{notices:#?}");
    assert!(notices[0].contains("it has 0 rows for orders, orders-2.csv had 2"), "{notices:#?}");
    for file in ["in/orders-3.csv", "in/orders-1.csv", "in/orders-3.csv"] {
        shop.write(file, orders(9, "paid"));
        shop.run_tables(&["orders"]).await;
    }
    for file in ["in/orders-3.csv", "in/orders-1.csv"] {
        shop.write(file, orders(9, "paid"));
    }
    let notices = told_of(&shop, "orders").await;
    assert_eq!(notices.len(), 1, "of a folder that was copied again: {notices:#?}");
    assert!(
        notices[0].contains(" and 1 more: it says the same of orders as before"),
        "{notices:#?}"
    );
    assert_eq!(shop.sql("SELECT count(*) FROM orders").await, ["9"]);

    shop.sources = Box::leak(format!("{files}[dumps.expect]\nat_least_percent = 50").into());
    shop.write("in/orders-4.csv", orders(9, "sent"));
    assert_eq!(told_of(&shop, "orders").await, Vec::<String>::new());
    shop.write("in/orders-5.csv", orders(4, "sent"));
    let notices = told_of(&shop, "orders").await;
    assert!(notices.len() == 1 && notices[0].contains("orders-4.csv had 9"), "{notices:#?}");
}

#[tokio::test]
async fn a_file_of_a_full_load_is_compared_with_its_former_self_and_never_with_the_load_s_others() {
    let sources = "[dms]\nkind = \"dms\"\npath = \"FOLDER/dms\"\nheader = true\n[dms.orders]";
    let shop = shop(sources).await;
    shop.write("dms/public/orders/LOAD00000001.csv", orders(9, "open"));
    shop.write("dms/public/orders/LOAD00000002.csv", orders(2, "paid"));
    assert_eq!(told_of(&shop, "orders").await, Vec::<String>::new());
    shop.write("dms/public/orders/LOAD00000001.csv", orders(3, "open"));
    let notices = told_of(&shop, "orders").await;
    assert_eq!(notices.len(), 1, "{notices:#?}");
    assert!(notices[0].contains("it has 3 rows for orders"), "{notices:#?}");
}

#[tokio::test]
async fn a_mapping_that_fits_no_file_is_told_once_with_the_columns_that_there_are() {
    let sources = "[dumps]\nkind = \"files\"\nformat = \"csv\"\npath = \"FOLDER/in\"\n\
                   [dumps.orders.columns]\norder_id = \"nr\"";
    let shop = shop(sources).await;
    for day in 1..4 {
        shop.write(&format!("in/orders-{day}.csv"), orders(day, "open"));
    }
    let notices = told_of(&shop, "orders").await;
    assert_eq!(notices.len(), 1, "{notices:#?}");
    assert!(notices[0].starts_with("Problem source `dumps`, "), "{notices:#?}");
    assert!(
        notices[0].ends_with(
            "orders-1.csv and 2 more: there is no column `nr` for order_id; there are order_id, \
             ordered_at, status; nothing of it is taken; correct [sources.dumps.orders.columns]"
        ),
        "{notices:#?}"
    );
}
