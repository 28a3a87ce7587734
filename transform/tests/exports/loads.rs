//! What of a full load stands, beside the changes of its table?

use crate::shop::{Shop, shop};

const SOURCES: &str = r#"
[dms]
kind = "dms"
path = "FOLDER/dms"
time_column = "committed"
header = true
[dms.orders]
[dms.products]
"#;
const ORDERS: &str = "SELECT order_id, total FROM orders";
const PRODUCTS: &str = "SELECT product_id, price, valid_from, valid_to FROM products";

fn orders(at: &str, rows: &[(&str, u32)]) -> String {
    let row = |(id, total): &(&str, u32)| format!("{at},{id},2026-03-09 00:00:00,{total}\n");
    let rows: String = rows.iter().map(row).collect();
    format!("committed,order_id,ordered_at,total\n{rows}")
}

fn products(at: &str, rows: &[(&str, u32)]) -> String {
    let rows: String = rows.iter().map(|(id, price)| format!("{at},{id},{price}\n")).collect();
    format!("committed,product_id,price\n{rows}")
}

async fn run(shop: &Shop) -> Vec<String> {
    let report = shop.run_tables(&["orders", "products"]).await;
    report.notices.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_load_written_anew_behind_changes_is_told_until_it_is_said_when_its_task_began() {
    let mut shop = shop(SOURCES).await;
    let (first, second) = ("2026-03-10 08:00:00.000000", "2026-03-12 08:00:00.000000");
    let (load, catalog) = ("dms/s/orders/LOAD00000001.csv", "dms/s/products/LOAD00000001.csv");
    shop.write(load, orders(first, &[("o1", 1), ("o2", 1)]));
    shop.write(catalog, products(first, &[("p1", 1), ("p2", 1)]));
    run(&shop).await;
    // Before there are changes a load that is written anew is the load.
    shop.write(load, orders(first, &[("o1", 1), ("o2", 2)]));
    assert_eq!(run(&shop).await, Vec::<String>::new());
    shop.write(
        "dms/s/orders/20260310-090001000.csv",
        "Op,committed,order_id,ordered_at,total\nU,2026-03-10 09:00:00,o1,2026-03-09 00:00:00,3\n",
    );
    shop.write(
        "dms/s/products/20260310-090001000.csv",
        "Op,committed,product_id,price\nU,2026-03-10 09:00:00,p1,3\n",
    );
    assert_eq!(run(&shop).await, Vec::<String>::new());
    assert_eq!(shop.sql(ORDERS).await, ["o1|3.0000", "o2|2.0000"]);
    // The task is started again, two days later, and loads into the same folder.
    shop.write(load, orders(second, &[("o1", 5), ("o2", 5)]));
    shop.write(catalog, products(second, &[("p1", 5), ("p2", 5)]));
    let told = run(&shop).await;
    assert_eq!(
        told,
        ["orders", "product_observations"].map(|dataset| {
            let table = if dataset == "orders" { "orders" } else { "products" };
            format!(
                "source `dms`, s/{table}/LOAD00000001.csv: the full load was written anew; of {dataset} that \
                 changed before, it counts for nothing, since changes stand above every load; say when \
                 its task began: started_at in [sources.dms]"
            )
        })
    );
    assert_eq!(shop.sql(ORDERS).await, ["o1|3.0000", "o2|5.0000"]);
    // Said, it stands above what was before, and below what changed while it ran.
    shop.sources = Box::leak(
        SOURCES.replace("header", "started_at = \"2026-03-12T07:00:00Z\"\nheader").into(),
    );
    shop.write(
        "dms/s/orders/20260312-090001000.csv",
        "Op,committed,order_id,ordered_at,total\nU,2026-03-12 07:30:00,o2,2026-03-09 00:00:00,6\n",
    );
    shop.write(
        "dms/s/products/20260312-090001000.csv",
        "Op,committed,product_id,price\nU,2026-03-12 07:30:00,p2,6\n",
    );
    assert_eq!(run(&shop).await, Vec::<String>::new());
    assert_eq!(shop.sql(ORDERS).await, ["o1|5.0000", "o2|6.0000"]);
    let current = format!("{PRODUCTS} WHERE valid_to IS NULL");
    assert_eq!(
        shop.sql(&current).await,
        ["p1|5.0000|2026-03-12T07:00:00Z|-", "p2|6.0000|2026-03-12T07:30:00Z|-"]
    );
}

#[tokio::test]
async fn a_load_of_another_mapping_is_not_one_that_was_written_anew() {
    let mut shop = shop(SOURCES).await;
    shop.write("dms/s/products/LOAD00000001.csv", products("2026-03-10 08:00:00", &[("p1", 1)]));
    shop.write(
        "dms/s/products/20260310-090001000.csv",
        "Op,committed,product_id,price\nU,2026-03-10 09:00:00,p1,3\n",
    );
    shop.sources = "[dms]\nkind = \"dms\"\npath = \"FOLDER/dms\"\ntime_column = \"committed\"\n\
                    header = true\n[dms.products]";
    run(&shop).await;
    shop.sources = "[dms]\nkind = \"dms\"\npath = \"FOLDER/dms\"\ntime_column = \"committed\"\n\
                    header = true\n[dms.products.columns]\nsku = \"product_id\"";
    assert_eq!(run(&shop).await, Vec::<String>::new());
    assert_eq!(
        shop.sql("SELECT sku, price, valid_from, valid_to FROM products").await,
        ["p1|1.0000|2026-03-10T08:00:00Z|2026-03-10T09:00:00Z", "p1|3.0000|2026-03-10T09:00:00Z|-"]
    );
}
