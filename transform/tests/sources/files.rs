//! CSV, JSON and Parquet files with a mapping.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array};
use clickmill_transform::sources::{BATCH_ROWS, Dataset, Severity, read};

use crate::support::{Shop, gz, parquet, rejected_bytes, rejects, rows, texts};

const CSV: &str = "[sources.s]\nkind = \"files\"\nformat = \"csv\"\npath = \"FOLDER/in\"\n";

#[tokio::test]
async fn a_csv_with_quotes_a_byte_order_mark_and_other_separators_is_read() {
    let shop = Shop::new().await;
    shop.write(
        "in/orders.csv.gz",
        gz("\u{feff}Bestellung;Datum;Summe;Stadt\r\n\
            A1;23.11.2026 17:40;\"1.234,50 €\";\"K\"\"ö\"\"ln;\nMitte\"\r\n\
            A2;01.07.2026 12:00;(0,05);\r\n"),
    );
    let found = shop
        .only(&format!(
            "{CSV}delimiter = \";\"\n[sources.s.orders.columns]\norder_id = \"Bestellung\"\n\
             ordered_at = {{ column = \"Datum\", format = \"%d.%m.%Y %H:%M\", zone = \"Europe/Berlin\" }}\n\
             total = {{ column = \"Summe\", decimal = \",\", thousands = \".\" }}\ncity = \"Stadt\""
        ))
        .await;
    assert_eq!(rejects(&found), Vec::<String>::new());
    assert_eq!(
        rows(&found, &["order_id", "ordered_at", "total", "city"]),
        ["A1|2026-11-23T16:40:00Z|1234.5000|K\"ö\"ln;\nMitte", "A2|2026-07-01T10:00:00Z|-0.0500|-",]
    );
}

#[tokio::test]
async fn a_row_of_another_width_or_encoding_is_rejected_alone() {
    let shop = Shop::new().await;
    let mut text = b"order_id,ordered_at,total\n1,2026-11-23,1\n2,2026-11-23\n\
                     3,2026-11-23,1,2\n4,2026-11-23,\xff\n5,2026-11-23,5\n"
        .to_vec();
    text.extend_from_slice(b"6,2026-11-23,six\n");
    shop.write("in/orders.csv", &text);
    let found = shop.only(&format!("{CSV}[sources.s.orders]")).await;
    assert_eq!(rows(&found, &["order_id", "total"]), ["1|1.0000", "5|5.0000"]);
    assert_eq!(found.rows_read, 6);
    let mut rejected = rejects(&found);
    rejected.sort();
    let starts = [
        "row 2: malformed: the row has 2 fields, the header 3",
        "row 3: malformed: the row has 4 fields, the header 3",
        "row 4: malformed: the row is not UTF-8",
        "row 6: bad_value: column total: `six`",
    ];
    assert_eq!(rejected.len(), starts.len(), "{rejected:#?}");
    for (reject, start) in rejected.iter().zip(starts) {
        assert!(reject.starts_with(start), "{reject}");
    }
    assert_eq!(rejected_bytes(&found, 0), "6,2026-11-23,six\n");
}

#[tokio::test]
async fn old_encodings_and_files_without_a_header_are_read() {
    let shop = Shop::new().await;
    shop.write("in/customers.csv", b"c1\tK\xf6ln\ttrue\nc2\t\tN\n");
    let found = shop
        .only(&format!(
            "{CSV}delimiter = \"\\t\"\nheader = false\nencoding = \"latin1\"\n\
             names = [\"customer_id\", \"city\", \"marketing_consent\"]\n[sources.s.customers]"
        ))
        .await;
    assert_eq!(
        rows(&found, &["customer_id", "city", "marketing_consent"]),
        ["c1|Köln|true", "c2|-|false"]
    );
}

#[tokio::test]
async fn a_file_without_a_mapped_column_is_one_reject_that_names_its_columns_and_is_told() {
    let shop = Shop::new().await;
    let more: String = (3..25).map(|n| format!(",c{n}")).collect();
    shop.write("in/orders.csv", format!("id,when{more}\n1,2026-11-23{}\n", ",".repeat(22)));
    let table = parquet(vec![("id", texts(&[Some("1")])), ("when", texts(&[Some("x")]))]);
    shop.write("in/orders.parquet", table);
    let parquet_source = CSV.replace("csv", "parquet").replace("FOLDER/in", "FOLDER/in/*.parquet");
    let csv_source = CSV.replace("FOLDER/in", "FOLDER/in/*.csv");
    for (source, there) in
        [(csv_source, "id, when, c3, c4"), (parquet_source, "id, when; correct [sources.s.orders")]
    {
        let found =
            shop.only(&format!("{source}[sources.s.orders.columns]\ntotal = \"sum\"")).await;
        assert_eq!(rows(&found, &["order_id"]), Vec::<String>::new());
        let rejected = rejects(&found);
        assert_eq!(rejected.len(), 1);
        let said = "there is no column `order_id` for order_id, none `ordered_at` for ordered_at, \
                    none `sum` for total; there are ";
        assert!(rejected[0].contains(&format!("{said}{there}")), "{rejected:?}");
        assert_eq!(found.notices.len(), 1);
        assert!(found.notices[0].problem.starts_with(said), "{}", found.notices[0]);
        assert_eq!(found.notices[0].advice, "correct [sources.s.orders.columns]");
        assert_eq!(found.notices[0].severity, Severity::Problem);
        let is_cut = found.notices[0].problem.contains("c19, c20 and 4 more; nothing");
        assert_eq!(is_cut, there.contains("c3"), "{}", found.notices[0]);
    }
}

#[tokio::test]
async fn a_quote_that_is_never_closed_does_not_eat_the_memory() {
    let shop = Shop::new().await;
    let mut text = "order_id,ordered_at\n1,2026-11-23\n\"2".to_owned();
    text.push_str(&"x".repeat(20 * 1024 * 1024));
    shop.write("in/orders.csv", text);
    let found = shop.only(&format!("{CSV}[sources.s.orders]")).await;
    let rejected = rejects(&found);
    assert_eq!(rejected.len(), 1);
    assert!(rejected[0].contains("is a quote not closed?"), "{rejected:?}");
    // What was read before it stays.
    assert_eq!(rows(&found, &["order_id"]), ["1"]);
}

#[tokio::test]
async fn a_truncated_gz_keeps_what_was_readable_and_says_so() {
    let shop = Shop::new().await;
    let mut text = "order_id,ordered_at\n".to_owned();
    let mut noise = 1_u64;
    for _ in 0..3 * BATCH_ROWS {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.push_str(&format!("{noise},2026-11-23\n"));
    }
    let mut bytes = gz(&text);
    bytes.truncate(bytes.len() * 2 / 3);
    shop.write("in/orders.csv.gz", bytes);
    let found = shop.only(&format!("{CSV}[sources.s.orders]")).await;
    assert!(found.rows_read >= BATCH_ROWS as u64 && found.rows_read < 3 * BATCH_ROWS as u64);
    assert_eq!(rejects(&found).len(), 1);
    assert_eq!(rows(&found, &["order_id"]).len() as u64, found.rows_read);
}

#[tokio::test]
async fn files_come_in_the_order_of_their_times_whatever_their_names() {
    let shop = Shop::new().await;
    let csv = "order_id,ordered_at\n1,2026-11-23\n";
    for name in ["b-2026-11-21.csv", "a-2026-11-22.csv", "c-latest.csv"] {
        shop.write(&format!("in/orders/{name}"), csv);
    }
    let found = shop
        .find(&format!(
            "{CSV}exported_at = {{ name = \"%Y-%m-%d\", prefix = \"-\" }}\n[sources.s.orders]"
        ))
        .await;
    let order: Vec<_> = found
        .exports
        .iter()
        .map(|export| (export.export_id.as_str(), export.exported_at.to_string()))
        .collect();
    assert_eq!(
        order,
        [
            ("orders/b-2026-11-21.csv", "2026-11-21T00:00:00.000000Z".to_owned()),
            ("orders/a-2026-11-22.csv", "2026-11-22T00:00:00.000000Z".to_owned()),
        ]
    );
    assert_eq!(found.notices.len(), 1);
    assert!(found.notices[0].subject.ends_with("orders/c-latest.csv"), "{}", found.notices[0]);
}

#[tokio::test]
async fn datasets_find_their_files_by_name_pattern_or_path() {
    let shop = Shop::new().await;
    let csv = "order_id,ordered_at,line,customer_id\n1,2026-11-23,1,c\n";
    for path in ["in/orders-1.csv", "in/order_items.csv", "in/old/customers.csv", "in/sales/x.csv"]
    {
        shop.write(path, csv);
    }
    let taken = |found: &clickmill_transform::sources::Discovery| -> Vec<(Dataset, String)> {
        found
            .exports
            .iter()
            .map(|e| (e.dataset, e.export_id.clone()))
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect()
    };
    let found = shop
        .find(&format!("{CSV}[sources.s.orders]\n[sources.s.order_items]\n[sources.s.customers]"))
        .await;
    assert_eq!(
        taken(&found),
        [
            (Dataset::Orders, "orders-1.csv".to_owned()),
            (Dataset::OrderItems, "order_items.csv".to_owned())
        ]
    );
    assert!(
        found.notices[0].problem.contains("no file there fits customers*"),
        "{}",
        found.notices[0]
    );
    let found = shop.find(&format!("{CSV}[sources.s.orders]\nfiles = \"sales/*.csv\"")).await;
    assert_eq!(taken(&found), [(Dataset::Orders, "sales/x.csv".to_owned())]);
    let glob = CSV.replace("FOLDER/in", "FOLDER/*/old/*.csv");
    let found = shop.find(&format!("{glob}[sources.s.customers]")).await;
    assert_eq!(taken(&found), [(Dataset::Customers, "in/old/customers.csv".to_owned())]);
    let one = CSV.replace("FOLDER/in", "FOLDER/in/sales/x.csv");
    let found = shop.find(&format!("{one}[sources.s.orders]")).await;
    assert_eq!(taken(&found), [(Dataset::Orders, "x.csv".to_owned())]);
}

#[tokio::test]
async fn a_parquet_file_reads_by_the_same_mapping_and_its_lines_are_counted() {
    let shop = Shop::new().await;
    shop.write(
        "in/order_items.parquet",
        parquet(vec![
            ("o", texts(&[Some("a"), Some("b"), Some("a"), Some("a")])),
            ("n", Arc::new(Int64Array::from(vec![1, 2, 3, -1])) as ArrayRef),
            // 0.1 + 0.2 has seventeen places: exact or not at all.
            ("p", Arc::new(Float64Array::from(vec![0.1, 2.5, 0.1 + 0.2, 4.0])) as ArrayRef),
        ]),
    );
    let parquet_source = CSV.replace("csv", "parquet");
    let columns = "[sources.s.order_items.columns]\norder_id = \"o\"\nquantity = \"n\"\n";
    let found = shop.only(&format!("{parquet_source}{columns}unit_price = \"p\"")).await;
    assert_eq!(
        rows(&found, &["order_id", "line", "quantity", "unit_price"]),
        ["a|1|1|0.1000", "b|1|2|2.5000", "a|2|-1|4.0000"]
    );
    assert!(rejects(&found)[0].starts_with("row 3: bad_value: column unit_price"), "{found:?}");
    let rounded = "unit_price = { column = \"p\", round = true }";
    let found = shop.only(&format!("{parquet_source}{columns}{rounded}")).await;
    assert_eq!(rows(&found, &["unit_price"]), ["0.1000", "2.5000", "0.3000", "4.0000"]);
}

#[tokio::test]
async fn json_lines_read_by_the_same_mapping_into_nested_objects() {
    let shop = Shop::new().await;
    let jsonl = CSV.replace("csv", "jsonl");
    shop.write(
        "in/orders.jsonl.gz",
        gz(concat!(
            r#"{"id":17,"at":"2026-11-23T17:40:00+01:00","sum":{"value":12.50,"unit.of":"EUR"},"to":{"city":"K\u00f6ln"}}"#,
            "\n\n",
            r#"{"id":"x\"2","at":"2026-11-23T00:00:00Z","sum":{"value":"0.05"},"to":null,"more":[1]}"#,
            "\r\n",
            "[1,2]\n{\"id\":\"3\"\n",
            r#"{"id":"4","at":"2026-11-23T00:00:00Z","sum":{"value":"five"}}"#,
        )),
    );
    let found = shop
        .only(&format!(
            "{jsonl}[sources.s.orders.columns]\norder_id = \"id\"\nordered_at = \"at\"\n\
             total = \"sum.value\"\ncurrency = \"sum.unit.of\"\ncity = \"to.city\""
        ))
        .await;
    assert_eq!(
        rows(&found, &["order_id", "ordered_at", "total", "currency", "city"]),
        ["17|2026-11-23T16:40:00Z|12.5000|EUR|K\u{f6}ln", "x\"2|2026-11-23T00:00:00Z|0.0500|-|-"]
    );
    assert_eq!(found.rows_read, 5);
    let mut rejected = rejects(&found);
    rejected.sort();
    let starts = [
        "row 3: malformed: the line is no JSON object, of which each has a line",
        "row 4: malformed: the line is no JSON object, of which each has a line",
        "row 5: bad_value: column total: `five`",
    ];
    assert_eq!(rejected.len(), starts.len(), "{rejected:#?}");
    for (reject, start) in rejected.iter().zip(starts) {
        assert!(reject.starts_with(start), "{reject}");
    }
}

#[tokio::test]
async fn a_path_that_no_json_object_has_is_told() {
    let shop = Shop::new().await;
    let jsonl = CSV.replace("csv", "jsonl");
    shop.write(
        "in/orders.jsonl",
        "{\"order_id\":\"1\",\"ordered_at\":\"2026-11-23T00:00:00Z\",\"to\":{\"city\":null}}\n",
    );
    let found = shop
        .only(&format!(
            "{jsonl}[sources.s.orders.columns]\ncity = \"to.city\"\nregion = \"to.regoin\"\n\
             customer_id = \"buyer.id\""
        ))
        .await;
    assert_eq!(rows(&found, &["order_id", "city", "region"]), ["1|-|-"]);
    let told: Vec<&str> = found.notices.iter().map(|notice| notice.problem.as_str()).collect();
    assert_eq!(
        told,
        ["there is no column `buyer.id` for customer_id, none `to.regoin` for region; there are \
          order_id, ordered_at, to; no object has it: its column is empty, or its rows are rejected"],
        "a key that is there without a value is there, and one that nobody mapped need not be"
    );
    shop.write("in/orders.jsonl", "{\"id\":\"1\",\"ordered_at\":\"2026-11-23T00:00:00Z\"}\n");
    let found = shop.only(&format!("{jsonl}[sources.s.orders]")).await;
    assert_eq!(rejects(&found).len(), 1);
    assert!(
        found.notices[0].problem.starts_with("there is no column `order_id` for order_id"),
        "{:?}",
        found.notices
    );
}

#[tokio::test]
async fn order_lines_in_json_give_orders_and_their_items() {
    let shop = Shop::new().await;
    let jsonl = CSV.replace("csv", "jsonl");
    shop.write(
        "in/lines.jsonl",
        r#"{"order":{"no":"a","at":"2026-11-23T10:00:00Z"},"sku":"p1","n":2,"price":9.5}
           {"order":{"no":"a","at":"2026-11-23T10:00:00Z"},"sku":"p2","n":1,"price":1}"#,
    );
    let found = shop
        .find(&format!(
            "{jsonl}[sources.s.lines.columns]\norder_id = \"order.no\"\nordered_at = \"order.at\"\n\
             product_id = \"sku\"\nquantity = \"n\"\nunit_price = \"price\""
        ))
        .await;
    assert_eq!(found.exports.len(), 2, "{:?}", found.notices);
    for export in &found.exports {
        let read = read(&shop.lake, export).await.unwrap();
        assert_eq!(rejects(&read), Vec::<String>::new());
        match export.dataset {
            Dataset::Orders => assert_eq!(rows(&read, &["order_id", "total"]), ["a|20.0000"]),
            _ => assert_eq!(
                rows(&read, &["order_id", "line", "product_id", "quantity", "unit_price"]),
                ["a|1|p1|2|9.5000", "a|2|p2|1|1.0000"]
            ),
        }
    }
}

#[tokio::test]
async fn an_observation_may_carry_its_own_time() {
    let shop = Shop::new().await;
    shop.write("in/products.csv", "product_id,seen\np1,1795455600\np1,\n");
    let found = shop
        .find(&format!(
            "{CSV}exported_at = {{ name = \"%Y\", prefix = \"x\" }}\n[sources.s.products.columns]\n\
             observed_at = {{ column = \"seen\", format = \"epoch_s\" }}"
        ))
        .await;
    assert_eq!(found.exports, [], "the name has no time");
    let found = shop
        .only(&format!(
            "{CSV}[sources.s.products.columns]\n\
             observed_at = {{ column = \"seen\", format = \"epoch_s\" }}"
        ))
        .await;
    let times = rows(&found, &["observed_at"]);
    assert_eq!(times[0], "2026-11-23T17:40:00Z");
    // Without a time of its own it is as of the export.
    let export = shop.find(&format!("{CSV}[sources.s.products]")).await.exports.remove(0);
    let of_export = read(&shop.lake, &export).await.unwrap();
    assert_eq!(times[1], rows(&of_export, &["observed_at"])[0]);
}
