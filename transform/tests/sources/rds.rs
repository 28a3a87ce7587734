//! RDS snapshot exports.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array,
    TimestampMicrosecondArray, UInt64Array,
};
use clickmill_transform::sources::{Dataset, SourceError, read};

use crate::support::{Shop, config, parquet, rejected_bytes, rejects, rows, texts};

const INFO: &str = r#"{"exportTaskIdentifier":"snap-1","sourceArn":"arn","exportOnly":[],
    "snapshotTime":"2026-11-22T03:00:00Z","status":"COMPLETE"}"#;

fn order(id: &str, at: &str, total: &str) -> Vec<u8> {
    parquet(vec![
        ("order_id", texts(&[Some(id)])),
        ("ordered_at", texts(&[Some(at)])),
        ("total", texts(&[Some(total)])),
    ])
}

#[tokio::test]
async fn every_type_that_a_database_exports_is_cast_exactly() {
    let shop = Shop::new().await;
    shop.write("exports/rds/snap-1/export_info_snap-1.json", INFO);
    let micros = |n| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(vec![n, n])) };
    let decimal = Decimal128Array::from(vec![1999, -5]).with_precision_and_scale(10, 2).unwrap();
    shop.write(
        "exports/rds/snap-1/shop/public.orders/1/part-00000-a.gz.parquet",
        parquet(vec![
            ("order_id", Arc::new(Int64Array::from(vec![7, 8])) as ArrayRef),
            ("customer_id", Arc::new(UInt64Array::from(vec![u64::MAX, 1])) as ArrayRef),
            ("ordered_at", micros(1_795_455_600_000_001)),
            ("status", Arc::new(BinaryArray::from(vec![b"paid".as_ref(), b"open"])) as ArrayRef),
            ("subtotal", texts(&[Some("12345678901234.5678"), Some("-0.0001")])),
            ("total", Arc::new(decimal) as ArrayRef),
            ("tax", Arc::new(Float64Array::from(vec![0.1, 2.0])) as ArrayRef),
            ("shipping", Arc::new(Int32Array::from(vec![Some(4), None])) as ArrayRef),
            ("a_column_more", texts(&[None, Some("ignored")])),
        ]),
    );
    shop.write(
        "exports/rds/snap-1/shop/public.customers/part-00000-a.gz.parquet",
        parquet(vec![
            ("customer_id", texts(&[Some("c1")])),
            ("created_at", texts(&[Some("2026-01-02 03:04:05.5+02")])),
            ("marketing_consent", Arc::new(BooleanArray::from(vec![true])) as ArrayRef),
        ]),
    );
    let found = shop.find("").await;
    let datasets: Vec<_> = found.exports.iter().map(|export| export.dataset).collect();
    assert_eq!(datasets, [Dataset::Orders, Dataset::Customers]);
    let orders = read(&shop.lake, &found.exports[0]).await.unwrap();
    assert_eq!(rejects(&orders), Vec::<String>::new());
    assert_eq!(
        rows(
            &orders,
            &[
                "order_id",
                "customer_id",
                "ordered_at",
                "status",
                "subtotal",
                "total",
                "tax",
                "shipping",
                "coupon",
                "exported_at"
            ]
        ),
        [
            "7|18446744073709551615|2026-11-23T17:40:00.000001Z|paid|12345678901234.5678|19.9900|\
             0.1000|4.0000|-|2026-11-22T03:00:00Z",
            "8|1|2026-11-23T17:40:00.000001Z|open|-0.0001|-0.0500|2.0000|-|-|2026-11-22T03:00:00Z",
        ]
    );
    assert_eq!(orders.batches[0].schema(), Dataset::Orders.schema());
    let customers = read(&shop.lake, &found.exports[1]).await.unwrap();
    assert_eq!(
        rows(&customers, &["customer_id", "created_at", "marketing_consent"]),
        ["c1|2026-01-02T01:04:05.500Z|true"]
    );
    // order_items is wanted and not there.
    assert_eq!(found.notices.len(), 1);
    assert!(found.notices[0].problem.contains("no table `order_items`"), "{}", found.notices[0]);
}

#[tokio::test]
async fn a_row_with_a_hostile_value_goes_to_the_rejects_alone() {
    let shop = Shop::new().await;
    shop.write("exports/rds/snap-1/export_info_snap-1.json", INFO);
    let at = Some("2026-11-23 17:40:00");
    let hostile = [
        (Some("1"), at, Some("1.00")),
        (Some("2"), at, Some("NaN")),
        (Some("3"), at, Some("1e400")),
        (Some("4"), at, Some("")),
        (Some("5"), at, Some("0.00001")),
        (None, at, Some("1.00")),
        (Some("7"), Some("infinity"), Some("1.00")),
        (Some("8"), None, Some("1.00")),
        (Some("9"), at, None),
    ];
    shop.write(
        "exports/rds/snap-1/shop/public.orders/1/part-00000-a.gz.parquet",
        parquet(vec![
            ("order_id", texts(&hostile.map(|row| row.0))),
            ("ordered_at", texts(&hostile.map(|row| row.1))),
            ("total", texts(&hostile.map(|row| row.2))),
        ]),
    );
    let config = "[sources.rds]\nkind = \"rds-export\"\npath = \"FOLDER/exports/rds\"\n\
                  [sources.rds.orders]\ntable = \"public.orders\"";
    let found = shop.only(config).await;
    assert_eq!(rows(&found, &["order_id", "total"]), ["1|1.0000", "9|-"]);
    let rejected = rejects(&found);
    let starts = [
        "row 2: bad_value: column total: `NaN`",
        "row 3: bad_value: column total: `1e400`",
        "row 4: bad_value: column total: ``",
        "row 5: bad_value: column total: `0.00001`",
        "row 6: missing_field: column order_id:",
        "row 7: bad_value: column ordered_at: `infinity`",
        "row 8: missing_field: column ordered_at:",
    ];
    assert_eq!(rejected.len(), starts.len(), "{rejected:#?}");
    for (reject, start) in rejected.iter().zip(starts) {
        assert!(reject.starts_with(start), "{reject}");
    }
    assert_eq!(found.rows_read, 9);
    assert_eq!(
        rejected_bytes(&found, 0),
        r#"{"order_id":"2","ordered_at":"2026-11-23 17:40:00","total":"NaN"}"#
    );
    // The same row read again is the same reject.
    let again = shop.only(config).await;
    assert_eq!(again.rejects, found.rejects);
}

#[tokio::test]
async fn batches_with_gaps_and_tables_without_a_batch_folder_are_read_whole() {
    let shop = Shop::new().await;
    shop.write("exports/rds/snap-1/export_info_snap-1.json", INFO);
    for (path, id) in
        [("1/part-0.gz.parquet", "a"), ("7/part-3.gz.parquet", "b"), ("x.parquet", "c")]
    {
        let file = order(id, "2026-11-23", "1");
        shop.write(&format!("exports/rds/snap-1/shop/shop.orders/{path}"), file);
    }
    shop.write("exports/rds/snap-1/shop/shop.orders/1/_SUCCESS", "");
    let found = shop
        .only("[sources.s]\nkind = \"rds-export\"\npath = \"lake:exports/rds\"\n[sources.s.orders]")
        .await;
    assert_eq!(rows(&found, &["order_id"]), ["a", "b", "c"]);
}

#[tokio::test]
async fn an_export_that_is_not_complete_is_not_taken_and_said() {
    let shop = Shop::new().await;
    let file = order("1", "2026-11-23", "1");
    shop.write("exports/rds/running/shop/public.orders/1/part-0.gz.parquet", &file);
    shop.write("exports/rds/running/export_info_running.json", r#"{"Status":"IN_PROGRESS"}"#);
    shop.write("exports/rds/loose/shop/public.orders/1/part-0.gz.parquet", &file);
    shop.write("exports/rds/torn/export_info_torn.json", r#"{"status":"#);
    let found = shop.find("").await;
    assert_eq!(found.exports, []);
    let problems: Vec<_> =
        found.notices.iter().map(|n| (n.subject.as_str(), n.problem.as_str())).collect();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert_eq!(problems[0].0, "exports/rds/loose");
    assert!(problems[0].1.contains("no export_info_"), "{problems:?}");
    assert!(problems[1].1.contains("IN_PROGRESS"), "{problems:?}");
    assert!(problems[2].1.contains("not JSON"), "{problems:?}");
}

#[tokio::test]
async fn a_table_that_failed_or_lacks_a_mapped_column_is_said_before_anything_is_read() {
    let shop = Shop::new().await;
    shop.write("exports/rds/snap-1/export_info_snap-1.json", INFO);
    shop.write(
        "exports/rds/snap-1/export_tables_info_snap-1_from_1_to_2.json",
        r#"{"PerTableStatus":[
          {"target":"shop.public.orders","status":"COMPLETE","schemaMetadata":{"originalTypeMappings":[
            {"columnName":"order_id","originalType":"text"},
            {"columnName":"ordered_at","originalType":"timestamp"}]}},
          {"target":"shop.public.customers","status":"FAILED"},
          {"target":"shop.public.order_items","status":"COMPLETE"}]}"#,
    );
    for table in ["orders", "customers"] {
        let file = order("1", "2026-11-23", "1");
        shop.write(&format!("exports/rds/snap-1/shop/public.{table}/1/part-0.gz.parquet"), file);
    }
    let found = shop
        .find(
            "[sources.s]\nkind = \"rds-export\"\npath = \"FOLDER/exports/rds\"\n\
             [sources.s.orders.columns]\ntotal = \"amount\"\n[sources.s.customers]\n[sources.s.order_items]",
        )
        .await;
    // order_items is complete and without files: an export of no rows.
    let taken: Vec<_> = found.exports.iter().map(|e| (e.dataset, e.files.len())).collect();
    assert_eq!(taken, [(Dataset::OrderItems, 0)]);
    let empty = read(&shop.lake, &found.exports[0]).await.unwrap();
    assert_eq!((empty.rows_read, empty.batches.len(), empty.rejects.len()), (0, 0, 0));
    let problems: Vec<_> = found.notices.iter().map(|n| n.problem.as_str()).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("no column `amount` for total"), "{problems:?}");
    assert!(problems[1].contains("FAILED"), "{problems:?}");
}

#[tokio::test]
async fn a_table_name_that_fits_two_tables_takes_neither() {
    let shop = Shop::new().await;
    shop.write("exports/rds/snap-1/export_info_snap-1.json", INFO);
    for schema in ["public", "archive"] {
        let file = order("1", "2026-11-23", "1");
        shop.write(&format!("exports/rds/snap-1/shop/{schema}.orders/1/p.gz.parquet"), file);
    }
    let source =
        "[sources.s]\nkind = \"rds-export\"\npath = \"FOLDER/exports/rds\"\n[sources.s.orders]";
    let found = shop.find(source).await;
    assert_eq!(found.exports, []);
    assert!(found.notices[0].problem.contains("may be any of"), "{}", found.notices[0]);
    let found = shop.find(&format!("{source}\ntable = \"public.orders\"")).await;
    assert_eq!((found.exports.len(), found.notices.len()), (1, 0));
}

#[tokio::test]
async fn a_mapping_renames_translates_and_fills_in() {
    let shop = Shop::new().await;
    shop.write("exports/rds/snap-1/export_info_snap-1.json", INFO);
    shop.write(
        "exports/rds/snap-1/shop/public.sales/1/part-0.gz.parquet",
        parquet(vec![
            ("id", Arc::new(Int32Array::from(vec![1])) as ArrayRef),
            ("placed", texts(&[Some("2026-07-01 12:00:00")])),
            ("state", texts(&[Some("P")])),
            ("gross", Arc::new(Int64Array::from(vec![1999])) as ArrayRef),
        ]),
    );
    let found = shop
        .only(
            "[sources.s]\nkind = \"rds-export\"\npath = \"FOLDER/exports/rds\"\n\
             [sources.s.orders]\ntable = \"sales\"\n[sources.s.orders.columns]\n\
             order_id = \"ID\"\nordered_at = { column = \"placed\", zone = \"Europe/London\" }\n\
             status = { column = \"state\", map = { P = \"paid\" } }\n\
             total = { column = \"gross\", minor_units = 2 }\ncurrency = { constant = \"GBP\" }",
        )
        .await;
    assert_eq!(
        rows(&found, &["order_id", "ordered_at", "status", "total", "currency"]),
        ["1|2026-07-01T11:00:00Z|paid|19.9900|GBP"]
    );
}

#[tokio::test]
async fn damaged_and_replaced_files_become_one_reject_and_a_deleted_one_an_error() {
    let shop = Shop::new().await;
    shop.write("exports/rds/snap-1/export_info_snap-1.json", INFO);
    let path = |n| format!("exports/rds/snap-1/shop/public.orders/1/part-{n}.gz.parquet");
    for n in 0..3 {
        shop.write(&path(n), order(&n.to_string(), "2026-11-23", "1"));
    }
    let mut torn = order("1", "2026-11-23", "1");
    torn.truncate(torn.len() / 2);
    shop.write(&path(1), &torn);
    let found = shop.find("").await;
    let export = &found.exports[0];
    shop.write(&path(2), order("a longer id, so another size", "2026-11-23", "1"));
    let orders = read(&shop.lake, export).await.unwrap();
    assert_eq!(rows(&orders, &["order_id"]), ["0"]);
    let rejected = rejects(&orders);
    assert_eq!(rejected.len(), 2, "{rejected:?}");
    assert!(rejected[0].starts_with("as a whole: malformed: the rest of the file"), "{rejected:?}");
    assert!(rejected[1].contains("was replaced"), "{rejected:?}");
    std::fs::remove_file(shop.folder.path().join(path(0))).unwrap();
    let gone = read(&shop.lake, export).await.unwrap_err();
    assert!(matches!(gone, SourceError::Gone { .. }), "{gone:?}");
}

#[tokio::test]
async fn an_export_survives_being_stored_and_its_identity_follows_its_mapping() {
    let shop = Shop::new().await;
    shop.write("exports/rds/snap-1/export_info_snap-1.json", INFO);
    shop.write(
        "exports/rds/snap-1/shop/public.orders/1/p.gz.parquet",
        order("1", "2026-11-23", "1"),
    );
    let source =
        "[sources.s]\nkind = \"rds-export\"\npath = \"lake:exports/rds\"\n[sources.s.orders]\n";
    let before = shop.find(source).await.exports.remove(0);
    let stored = serde_json::to_string(&before).unwrap();
    let back: clickmill_transform::sources::Export = serde_json::from_str(&stored).unwrap();
    assert_eq!((&back, back.identity()), (&before, before.identity()));
    let after = shop
        .find(&format!("{source}[sources.s.orders.columns]\ncurrency = {{ constant = \"GBP\" }}"))
        .await;
    assert_ne!(after.exports[0].identity(), before.identity());
}

#[test]
fn a_configuration_with_a_mistake_is_refused_with_its_name() {
    for (text, told) in [
        ("kind = \"rds-export\"\npath = \"x\"\ntabel = 1", "tabel"),
        ("kind = \"oracle\"\npath = \"x\"", "oracle"),
        ("kind = \"rds-export\"\npath = \"x\"\norders = { columns = { totl = \"t\" } }", "totl"),
        (
            "kind = \"rds-export\"\npath = \"x\"\norders = { columns = { total = { column = \"t\", format = \"rfc3339\" } } }",
            "total",
        ),
        (
            "kind = \"rds-export\"\npath = \"x\"\norders = { columns = { tax = { constant = \"free\" } } }",
            "free",
        ),
        ("kind = \"files\"\nformat = \"csv\"\npath = \"x\"", "no dataset"),
        ("kind = \"files\"\nformat = \"csv\"\npath = \"x\"\nheader = false\norders = {}", "names"),
        (
            "kind = \"files\"\nformat = \"csv\"\npath = \"x\"\nlines = { columns = { order_id = \"o\" } }",
            "ordered_at",
        ),
        (
            "kind = \"mysql\"\nhost = \"x\"\ndatabase = \"x\"\nuser = \"x\"\nquery_timeout = \"0s\"\norders = {}",
            "query_timeout must be from 1s",
        ),
    ] {
        let error = config(&format!("[sources.shop]\n{text}")).unwrap_err();
        assert!(error.contains(told), "{text}\n{error}");
    }
    let datasets = "`orders`, `order_items`, `customers`, `products`, `carts`";
    let sources = [
        ("rds-export", "path = \"x\""),
        ("dynamodb-export", "path = \"x\""),
        ("dms", "path = \"x\""),
        ("files", "path = \"x\"\nformat = \"csv\""),
        ("postgresql", "host = \"x\"\ndatabase = \"x\"\nuser = \"x\""),
        ("mysql", "host = \"x\"\ndatabase = \"x\"\nuser = \"x\""),
        ("dynamodb-scan", ""),
    ];
    for (kind, needed) in sources {
        let error =
            |text: &str| config(&format!("[sources.shop]\nkind = \"{kind}\"\n{text}")).unwrap_err();
        for (text, unknown) in [
            // A key that is needed and lacks says less than the one in its place.
            ("pathh = \"x\"".to_owned(), "pathh"),
            (format!("{needed}\n[sources.shop.orderz]"), "orderz"),
        ] {
            let told = error(&text);
            assert!(told.contains(&format!("unknown field `{unknown}`")), "{kind}: {told}");
            assert!(told.contains(datasets), "{kind}: {told}");
        }
        let told =
            error(&format!("{needed}\n[sources.shop.orders.columns]\ntotal = {{ colum = \"t\" }}"));
        assert!(
            told.contains("unknown field `colum`, expected one of `column`,"),
            "{kind}: {told}"
        );
        let told = error(&format!("{needed}\n[sources.shop.orders.columns]\ntotal = 7"));
        assert!(told.contains("expected the name of a column, or {"), "{kind}: {told}");
    }
}
