//! The rows of the fault matrix that are about exports, by their names.

use clickmill_schemas::Timestamp;
use clickmill_transform::sources::Severity;
use serde_json::{Value, json};

use crate::formats::{Dynamo, change, gz, parquet};
use crate::shop::{Shop, at, shop};

const SOURCES: &str = r#"
[dynamo]
kind = "dynamodb-export"
path = "FOLDER/dynamodb"
[dynamo.products]
[dynamo.carts]
[dms]
kind = "dms"
path = "FOLDER/dms"
time_column = "committed"
header = true
[dms.orders]
[dms.order_items]
[dms.products]
[files]
kind = "files"
format = "csv"
path = "FOLDER/files"
[files.exported_at]
name = "%Y%m%dT%H%M%S"
prefix = "-"
[files.customers]
"#;
const TABLES: [&str; 6] =
    ["orders", "order_items", "customers", "carts", "products", "product_daily"];
const CARTS: &str = "SELECT cart_id, customer_id, items, exported_at, dt FROM carts";

fn hour(hour: u32) -> Timestamp {
    at(&format!("2026-03-10T{hour:02}:00:00Z"))
}

fn cart(id: &str, items: &[&str]) -> Value {
    let items: Vec<Value> = items.iter().map(|item| json!({"M": {"sku": {"S": item}}})).collect();
    json!({"cart_id": {"S": id}, "customer_id": {"S": "c1"}, "items": {"L": items},
           "updated_at": {"S": "2026-03-10T00:10:00Z"}})
}

fn key(id: &str) -> Value {
    json!({"cart_id": {"S": id}})
}

/// What was noticed of a source, but for what other tests are about.
async fn run(shop: &Shop) -> Vec<String> {
    let report = shop.run_tables(&TABLES).await;
    let of = |notice: &clickmill_transform::sources::Notice| notice.to_string();
    let absent = |text: &String| {
        text.contains("no export of the table")
            || text.contains("it has no files")
            || text.contains("no file there")
    };
    report.notices.iter().map(of).filter(|text| !absent(text)).collect()
}

#[tokio::test]
async fn export_without_its_final_manifest() {
    let shop = shop(SOURCES).await;
    let full = Dynamo::full("01-full", "carts", hour(1), vec![cart("k1", &["a"])]);
    full.write(&shop);
    let window = Dynamo::window(
        "02-window",
        "carts",
        hour(1),
        hour(2),
        vec![change(key("k2"), hour(1), Some(cart("k2", &["b"])), None)],
    );
    window.write(&shop);
    let summary = format!("{}/manifest-summary.json", window.folder());
    let bytes = shop.take_away(&summary);
    let told = run(&shop).await;
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(
        told[0].contains("02-window") && told[0].contains("no manifest-summary.json"),
        "{told:#?}"
    );
    assert_eq!(shop.sql("SELECT cart_id FROM carts").await, ["k1"]);
    shop.write(&summary, bytes);
    assert_eq!(run(&shop).await, Vec::<String>::new());
    assert_eq!(shop.sql("SELECT cart_id FROM carts").await, ["k1", "k2"]);
}

#[tokio::test]
async fn manifest_and_files_disagree() {
    let shop = shop(SOURCES).await;
    Dynamo::full("01-full", "carts", hour(1), vec![cart("k1", &[])]).write(&shop);
    // A data file of the shared folder that is not there.
    let lines = || vec![change(key("k2"), hour(1), Some(cart("k2", &[])), None)];
    let missing = Dynamo::window("02-missing", "carts", hour(1), hour(2), lines());
    missing.write(&shop);
    let taken = shop.take_away(&missing.data(0));
    let told = run(&shop).await;
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(
        told[0].contains("AWSDynamoDB/data/02-missing-0.json.gz, which is not there"),
        "{told:#?}"
    );
    // It comes, with bytes that are not those of the manifest.
    shop.write(
        &missing.data(0),
        gz(&format!("{}\n", change(key("kx"), hour(1), Some(cart("kx", &[])), None))),
    );
    run(&shop).await;
    assert_eq!(shop.sql("SELECT cart_id FROM carts").await, ["k1"]);
    let sql = "SELECT reason, detail LIKE '%its MD5 is%' FROM rejects";
    assert_eq!(shop.sql(sql).await, ["malformed|true"]);
    // Put right, it is another export.
    shop.write(&missing.data(0), taken);
    run(&shop).await;
    assert_eq!(shop.sql("SELECT cart_id FROM carts").await, ["k1", "k2"]);
    // A manifest that does not fit its checksum, and one whose counts differ.
    let broken = Dynamo::window("03-broken", "carts", hour(2), hour(3), lines());
    broken.write(&shop);
    shop.write(&format!("{}/manifest-files.json", broken.folder()), "{}");
    let told = run(&shop).await;
    assert!(told[0].contains("is not the one that manifest-files.checksum is of"), "{told:#?}");
    assert_eq!(told.len(), 1, "{told:#?}");
}

#[tokio::test]
async fn an_export_in_ion_is_refused_with_a_clear_error() {
    let shop = shop(SOURCES).await;
    let full = Dynamo::full("01-full", "carts", hour(1), vec![cart("k1", &[])]);
    full.write(&shop);
    let path = format!("{}/manifest-summary.json", full.folder());
    let text = String::from_utf8(shop.take_away(&path)).unwrap().replace("DYNAMODB_JSON", "ION");
    shop.write(&path, text);
    shop.take_away(&format!("{}/manifest-summary.checksum", full.folder()));
    let told = run(&shop).await;
    assert!(told[0].contains("format ION, which is not read"), "{told:#?}");
    assert!(told[0].contains("DYNAMODB_JSON"), "{told:#?}");
}

#[tokio::test]
async fn overlapping_or_gapped_incremental_windows() {
    let shop = shop(SOURCES).await;
    let one = |id: &str, hour_: u32, item: &str| {
        vec![change(key(id), hour(hour_), Some(cart(id, &[item])), None)]
    };
    Dynamo::full("01-full", "carts", hour(1), vec![cart("k1", &["old"]), cart("k2", &["old"])])
        .write(&shop);
    // [2, 3) is missing; [3, 4) is taken all the same.
    Dynamo::window("02-first", "carts", hour(1), hour(2), one("k1", 1, "first")).write(&shop);
    Dynamo::window("04-third", "carts", hour(3), hour(4), one("k1", 3, "third")).write(&shop);
    let gap = "no export covers 2026-03-10T02:00:00.000000Z to 2026-03-10T03:00:00.000000Z";
    for _ in 0..2 {
        // On every run, also where nothing is new.
        let told = run(&shop).await;
        assert!(told.len() == 1 && told[0].contains(gap), "{told:#?}");
    }
    let rows = ["k1|c1|[{\"sku\":\"third\"}]|2026-03-10T03:00:00Z|2026-03-10"];
    assert_eq!(shop.sql(CARTS).await[..1], rows);
    // The window that was missing comes late, overlaps, and must not undo what is newer.
    let mut lines = one("k1", 2, "second");
    lines.extend(one("k2", 2, "second"));
    lines.extend(one("k3", 3, "third"));
    Dynamo::window("03-late", "carts", hour(2), at("2026-03-10T03:30:00Z"), lines).write(&shop);
    assert_eq!(run(&shop).await, Vec::<String>::new());
    assert_eq!(
        shop.sql(CARTS).await,
        [
            "k1|c1|[{\"sku\":\"third\"}]|2026-03-10T03:00:00Z|2026-03-10",
            "k2|c1|[{\"sku\":\"second\"}]|2026-03-10T02:00:00Z|2026-03-10",
            "k3|c1|[{\"sku\":\"third\"}]|2026-03-10T03:00:00Z|2026-03-10",
        ]
    );
    assert_eq!(
        shop.sql(
            "SELECT export_id, content, rows_read, rows_taken, window_from FROM source_exports"
        )
        .await,
        [
            "01-full|snapshot|2|2|-",
            "02-first|window|1|1|2026-03-10T01:00:00Z",
            "03-late|window|3|3|2026-03-10T02:00:00Z",
            "04-third|window|1|1|2026-03-10T03:00:00Z",
        ]
    );
}

#[tokio::test]
async fn deletes_of_a_gap_that_a_full_export_closed_are_told_to_be_unknown_until_the_window_comes()
{
    let shop = shop(SOURCES).await;
    let changed = |id: &str, item: &str, hour_: u32| {
        vec![change(key(id), hour(hour_), Some(cart(id, &[item])), None)]
    };
    Dynamo::full("01-full", "carts", hour(1), vec![cart("k1", &["a"]), cart("k2", &["a"])])
        .write(&shop);
    Dynamo::window("02-first", "carts", hour(1), hour(2), changed("k1", "b", 1)).write(&shop);
    // From two to three o'clock k2 was deleted.
    Dynamo::window("04-third", "carts", hour(3), hour(4), changed("k1", "c", 3)).write(&shop);
    let told = run(&shop).await;
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].contains("those deleted only then stay"), "{told:#?}");
    assert!(told[0].contains("a new full export corrects the rows that it has, and does not say"));
    Dynamo::full("05-full", "carts", hour(5), vec![cart("k1", &["d"])]).write(&shop);
    for _ in 0..2 {
        let report = shop.run_tables(&["carts"]).await;
        let remarks = report.notices.iter().filter(|notice| notice.severity == Severity::Remark);
        let remarks: Vec<String> = remarks.map(ToString::to_string).collect();
        assert_eq!(
            remarks,
            ["source `dynamo`, carts from the table carts: no incremental export covers \
              2026-03-10T02:00:00.000000Z to 2026-03-10T03:00:00.000000Z: a full export of later corrected \
              the rows that it has, and what was deleted only then is still here; add the incremental \
              export of that window, as long as the table's point-in-time recovery reaches back"]
        );
        assert_eq!(run(&shop).await, remarks, "and nothing else");
    }
    assert_eq!(shop.sql("SELECT cart_id FROM carts").await, ["k1", "k2"]);
    let gone = vec![change(key("k2"), hour(2), None, None)];
    Dynamo::window("03-second", "carts", hour(2), hour(3), gone).write(&shop);
    assert_eq!(run(&shop).await, Vec::<String>::new());
    assert_eq!(shop.sql("SELECT cart_id FROM carts").await, ["k1"]);
}

#[tokio::test]
async fn windows_without_the_full_export_before_them_are_told() {
    let shop = shop(SOURCES).await;
    let line = change(key("k1"), hour(1), Some(cart("k1", &[])), None);
    Dynamo::window("02-first", "carts", hour(1), hour(2), vec![line]).write(&shop);
    let told = run(&shop).await;
    assert!(told.len() == 1 && told[0].contains("no full export"), "{told:#?}");
    Dynamo::full("01-full", "carts", hour(1), vec![cart("k0", &[])]).write(&shop);
    assert_eq!(run(&shop).await, Vec::<String>::new());
    assert_eq!(shop.sql("SELECT cart_id FROM carts").await, ["k0", "k1"]);
}

#[tokio::test]
async fn delete_with_no_prior_row() {
    let shop = shop(SOURCES).await;
    let gone = |id: &str, old: Option<Value>| change(key(id), hour(1), None, old);
    // k1 and k2 are not known yet, k3 never will be.
    let lines = vec![gone("k1", None), gone("k2", Some(cart("k2", &[]))), gone("k3", None)];
    let product = change(json!({"product_id": {"S": "p1"}}), hour(1), None, None);
    Dynamo::window("02-window", "carts", hour(1), hour(2), lines).write(&shop);
    Dynamo::window("03-window", "products", hour(1), hour(2), vec![product]).write(&shop);
    run(&shop).await;
    assert_eq!(shop.sql("SELECT cart_id FROM carts").await, Vec::<String>::new());
    assert_eq!(shop.sql("SELECT product_id FROM products").await, Vec::<String>::new());
    // The full export before the deletes comes after them: what is gone stays gone.
    let rows = vec![cart("k0", &[]), cart("k1", &[]), cart("k2", &[])];
    Dynamo::full("00-full", "carts", hour(1), rows).write(&shop);
    let item = json!({"product_id": {"S": "p1"}, "price": {"N": "1"}, "active": {"BOOL": true}});
    Dynamo::full("01-full", "products", at("2026-03-10T00:30:00Z"), vec![item]).write(&shop);
    run(&shop).await;
    assert_eq!(shop.sql("SELECT cart_id FROM carts").await, ["k0"]);
    assert_eq!(
        shop.sql("SELECT product_id, price, active, valid_from, valid_to, is_first FROM products")
            .await,
        [
            "p1|1.0000|false|2026-03-10T01:00:00Z|-|false",
            "p1|1.0000|true|2026-03-10T00:30:00Z|2026-03-10T01:00:00Z|true",
        ]
    );
    assert_eq!(
        shop.sql(
            "SELECT export_id, rows_read, rows_deleted FROM source_exports WHERE content = 'window'"
        )
        .await,
        ["02-window|3|3", "03-window|1|1"]
    );
    assert_eq!(shop.sql("SELECT * FROM rejects").await, Vec::<String>::new());
}

#[tokio::test]
async fn a_delete_that_does_not_say_the_key_of_ours_is_rejected_and_one_with_the_old_row_is_not() {
    let sources = r#"
[dynamo]
kind = "dynamodb-export"
path = "FOLDER/dynamodb"
[dynamo.carts.columns]
cart_id = "name"
updated_at = { constant = "2026-03-10T00:00:00Z" }
"#;
    let shop = shop(sources).await;
    let named = |name: &str| json!({"pk": {"N": "1"}, "name": {"S": name}});
    Dynamo::full("01-full", "carts", hour(1), vec![named("a"), named("b")]).write(&shop);
    let keys = json!({"pk": {"N": "1"}});
    let mut window = Dynamo::window(
        "02-window",
        "carts",
        hour(1),
        hour(2),
        vec![
            change(keys.clone(), hour(1), None, Some(named("a"))),
            change(keys, hour(1), None, None),
        ],
    );
    window.view = "NEW_AND_OLD_IMAGES";
    window.write(&shop);
    shop.run_tables(&["carts"]).await;
    assert_eq!(shop.sql("SELECT cart_id FROM carts").await, ["b"]);
    assert_eq!(
        shop.sql("SELECT reason, detail LIKE '%NEW_AND_OLD_IMAGES%' FROM rejects").await,
        ["missing_field|true"]
    );
}

#[tokio::test]
async fn decimal_and_nan_strings() {
    let shop = shop(SOURCES).await;
    let price = |id: &str, attribute: Value| json!({"product_id": {"S": id}, "price": attribute});
    let items = vec![
        price("p1", json!({"N": "12345678901234.5678"})),
        price("p2", json!({"S": "0.1"})),
        price("p3", json!({"N": "1E+2"})),
        price("p4", json!({"N": "NaN"})),
        price("p5", json!({"S": "Infinity"})),
        price("p6", json!({"N": "0.00001"})),
    ];
    Dynamo::full("01-full", "products", hour(1), items).write(&shop);
    let names = ["Op", "committed", "order_id", "ordered_at", "total"];
    let row = |id: &str, total: &str| {
        ["I", "2026-03-10 01:00:00.000001", id, "2026-03-10 00:00:00", total]
            .map(|text| Some(text.to_owned()))
            .to_vec()
    };
    let rows = [row("o1", "99999999999999.9999"), row("o2", "nan"), row("o3", "-0.10")];
    shop.write("dms/shop/orders/20260310-010000000.parquet", parquet(&names, &rows));
    run(&shop).await;
    assert_eq!(
        shop.sql("SELECT product_id, price FROM products").await,
        ["p1|12345678901234.5678", "p2|0.1000", "p3|100.0000"]
    );
    assert_eq!(
        shop.sql("SELECT order_id, total FROM orders").await,
        ["o1|99999999999999.9999", "o3|-0.1000"]
    );
    assert_eq!(
        shop.sql("SELECT protocol, reason, count(*) FROM rejects GROUP BY protocol, reason").await,
        ["dms|bad_value|1", "dynamo|bad_value|3"]
    );
}

#[tokio::test]
async fn dms_duplicates_and_reordering() {
    let header = "Op,committed,order_id,ordered_at,total\n";
    let load = "committed,order_id,ordered_at,total\n\
                2026-03-10 08:00:00.000000,o1,2026-03-09 00:00:00,1\n\
                2026-03-10 08:00:00.000000,o2,2026-03-09 00:00:00,1\n";
    // The first change was committed while the load ran, before the load's own time.
    let first = "U,2026-03-10 07:59:59.000000,o1,2026-03-09 00:00:00,2\n\
                 I,2026-03-10 09:00:00.000000,o3,2026-03-10 00:00:00,3\n\
                 D,2026-03-10 09:00:00.000001,o2,2026-03-09 00:00:00,1\n";
    // After a restart: the last two again, then two of one instant, in the order of the file.
    let second = "I,2026-03-10 09:00:00.000000,o3,2026-03-10 00:00:00,3\n\
                  D,2026-03-10 09:00:00.000001,o2,2026-03-09 00:00:00,1\n\
                  D,2026-03-10 09:30:00.000000,o3,2026-03-10 00:00:00,3\n\
                  I,2026-03-10 09:30:00.000000,o3,2026-03-10 00:00:00,4\n\
                  I,2026-03-10 09:31:00.000000,o4,2026-03-11 00:00:00,5\n\
                  U,2026-03-10 09:32:00.000000,o4,2026-03-12 00:00:00,5\n";
    let third = "X,2026-03-10 09:40:00.000000,o1,2026-03-09 00:00:00,9\n\
                 U,2026-03-10 09:40:00.000000,o1,2026-03-09 00:00:00,9,extra\n\
                 D,2026-03-10 09:41:00.000000,o9,2026-03-09 00:00:00,9\n";
    let files = [
        ("LOAD00000001.csv", load.to_owned()),
        ("20260310-090001000.csv", format!("{header}{first}")),
        ("20260310-093300000.csv", format!("{header}{second}")),
        ("20260310-094200000.csv", format!("{header}{third}")),
    ];
    // The same of a catalog, whose history is kept: changes of before the load's time, too, stand
    // above it, and what the load says is true until then at most.
    let catalog = [
        "committed,product_id,price,active\n\
         2026-03-10 08:00:00.000000,p1,1,true\n\
         2026-03-10 08:00:00.000000,p2,1,true\n\
         2026-03-10 08:00:00.000000,p4,1,true\n\
         2026-03-10 08:00:00.000000,p5,1,true\n",
        "Op,committed,product_id,price,active\n\
         U,2026-03-10 07:59:58.000000,p1,2,true\n\
         D,2026-03-10 07:59:59.000000,p2,1,true\n\
         I,2026-03-10 09:00:00.000000,p3,3,true\n\
         U,2026-03-10 08:00:00.000000,p5,2,true\n",
        "Op,committed,product_id,price,active\n\
         I,2026-03-10 09:00:00.000000,p3,3,true\n\
         D,2026-03-10 09:30:00.000000,p3,3,true\n\
         I,2026-03-10 09:30:00.000000,p3,4,true\n\
         U,2026-03-10 09:31:00.000000,p1,5,true\n",
        "Op,committed,product_id,price,active\n\
         D,2026-03-10 09:41:00.000000,p4,1,true\n",
    ];
    let products = [
        "p1|2.0000|true|2026-03-10T07:59:58Z|2026-03-10T09:31:00Z|true",
        "p1|5.0000|true|2026-03-10T09:31:00Z|-|false",
        "p2|1.0000|false|2026-03-10T07:59:59Z|-|true",
        "p3|3.0000|true|2026-03-10T09:00:00Z|2026-03-10T09:30:00Z|true",
        "p3|4.0000|true|2026-03-10T09:30:00Z|-|false",
        "p4|1.0000|false|2026-03-10T09:41:00Z|-|false",
        "p4|1.0000|true|2026-03-10T08:00:00Z|2026-03-10T09:41:00Z|true",
        "p5|2.0000|true|2026-03-10T08:00:00Z|-|true",
    ];
    let history = "SELECT product_id, price, active, valid_from, valid_to, is_first FROM products";
    let rows = ["o1|2.0000|2026-03-09", "o3|4.0000|2026-03-10", "o4|5.0000|2026-03-12"];
    let sql = "SELECT order_id, total, dt FROM orders";
    let mut everything = Vec::new();
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let shop = shop(SOURCES).await;
        for at in order {
            let (name, text) = &files[at];
            shop.write(&format!("dms/shop/orders/{name}"), text);
            shop.write(&format!("dms/shop/products/{name}"), catalog[at]);
            run(&shop).await;
        }
        assert_eq!(shop.sql(history).await, products, "{order:?}");
        assert_eq!(shop.sql(sql).await, rows, "{order:?}");
        assert_eq!(run(&shop).await, Vec::<String>::new());
        everything.push(shop.sql("SELECT * FROM orders").await);
        let rejects = shop.sql("SELECT reason, count(*) FROM rejects GROUP BY reason").await;
        assert_eq!(rejects, ["malformed|2"], "{order:?}");
    }
    assert!(everything.iter().all(|rows| *rows == everything[0]), "{everything:#?}");
}

#[tokio::test]
async fn changes_without_their_load_are_told() {
    let shop = shop(SOURCES).await;
    let text = "Op,committed,order_id,ordered_at\nI,2026-03-10 09:00:00,o1,2026-03-09 00:00:00\n";
    shop.write("dms/shop/orders/20260310-090001000.csv", text);
    let told = run(&shop).await;
    assert!(told.len() == 1 && told[0].contains("no full export or load"), "{told:#?}");
    shop.write("dms/shop/orders/LOAD00000001.csv", "order_id,ordered_at\no0,2026-03-09 00:00:00\n");
    assert_eq!(run(&shop).await, Vec::<String>::new());
    assert_eq!(shop.sql("SELECT order_id FROM orders").await, ["o0", "o1"]);
}

#[tokio::test]
async fn lines_follow_their_order_when_change_capture_deletes_it() {
    let shop = shop(SOURCES).await;
    shop.write("dms/shop/orders/LOAD00000001.csv", "order_id,ordered_at\no1,2026-03-09 00:00:00\n");
    shop.write(
        "dms/shop/order_items/LOAD00000001.csv",
        "order_id,line,product_id,quantity\no1,1,p1,1\no1,2,p2,1\no2,1,p3,1\n",
    );
    run(&shop).await;
    let sql = "SELECT order_id, line, quantity, dt FROM order_items";
    assert_eq!(
        shop.sql(sql).await,
        ["o1|1|1|2026-03-09", "o1|2|1|2026-03-09", "o2|1|1|1970-01-01"]
    );
    shop.write(
        "dms/shop/order_items/20260310-090001000.csv",
        "Op,committed,order_id,line,product_id,quantity\n\
         D,2026-03-10 09:00:00,o1,2,p2,1\nU,2026-03-10 09:00:00,o1,1,p1,7\n",
    );
    run(&shop).await;
    assert_eq!(shop.sql(sql).await, ["o1|1|7|2026-03-09", "o2|1|1|1970-01-01"]);
    shop.write(
        "dms/shop/orders/20260310-100001000.csv",
        "Op,committed,order_id,ordered_at\nD,2026-03-10 10:00:00,o1,\n",
    );
    run(&shop).await;
    assert_eq!(shop.sql("SELECT * FROM orders").await, Vec::<String>::new());
    assert_eq!(shop.sql(sql).await, ["o1|1|7|1970-01-01", "o2|1|1|1970-01-01"]);
}

#[tokio::test]
async fn input_overwritten() {
    let shop = shop(SOURCES).await;
    let file = "files/customers-20260310T000000.csv";
    shop.write(file, "customer_id,city\nc1,Ulm\nc2,Ulm\nc3,Ulm\n");
    run(&shop).await;
    // In place, with another content and another order: the export of the same time, said anew.
    shop.write(file, "customer_id,city\nc3,Bonn\nc1,Kiel\n");
    run(&shop).await;
    let sql = "SELECT customer_id, city FROM customers";
    assert_eq!(shop.sql(sql).await, ["c1|Kiel", "c2|Ulm", "c3|Bonn"]);
    // An older file, overwritten, loses to what is newer.
    let older = "files/customers-20260309T000000.csv";
    shop.write(older, "customer_id,city\nc1,Jena\nc4,Jena\n");
    run(&shop).await;
    shop.write(older, "customer_id,city\nc1,Hof\nc4,Hof\n");
    run(&shop).await;
    assert_eq!(shop.sql(sql).await, ["c1|Kiel", "c2|Ulm", "c3|Bonn", "c4|Hof"]);
    // A catalog, too: what its first reading said is not observed any more.
    let price = |price: &str| vec![json!({"product_id": {"S": "p1"}, "price": {"N": price}})];
    Dynamo::full("01-full", "products", hour(1), price("1")).write(&shop);
    run(&shop).await;
    Dynamo::full("01-full", "products", hour(1), price("2")).write(&shop);
    run(&shop).await;
    assert_eq!(shop.sql("SELECT product_id, price, valid_to FROM products").await, ["p1|2.0000|-"]);
    assert_eq!(shop.sql("SELECT price FROM product_observations").await, ["2.0000"]);
}

#[tokio::test]
async fn dimension_arrives_after_the_fact() {
    let product = |category: &str| {
        vec![json!({"product_id": {"S": "p1"}, "category": {"S": category}, "price": {"N": "5"}})]
    };
    let facts = |shop: &Shop| {
        shop.write(
            "dms/shop/orders/LOAD00000001.csv",
            "order_id,ordered_at\no1,2026-03-09 12:00:00\n",
        );
        shop.write(
            "dms/shop/order_items/LOAD00000001.csv",
            "order_id,line,product_id,quantity,unit_price\no1,1,p1,2,5\n",
        );
    };
    let sql = "SELECT product_id, units, category, asof_backfilled, dt FROM product_daily";
    let shop = shop(SOURCES).await;
    facts(&shop);
    run(&shop).await;
    assert_eq!(shop.sql(sql).await, ["p1|2|-|false|2026-03-09"]);
    // A catalog of later: the fact takes its first version, and says so.
    Dynamo::full("03-late", "products", at("2026-03-12T00:00:00Z"), product("Later")).write(&shop);
    run(&shop).await;
    assert_eq!(shop.sql(sql).await, ["p1|2|Later|true|2026-03-09"]);
    // One of before, which arrives after both.
    Dynamo::full("01-early", "products", at("2026-03-08T00:00:00Z"), product("Early")).write(&shop);
    run(&shop).await;
    assert_eq!(shop.sql(sql).await, ["p1|2|Early|false|2026-03-09"]);
}
