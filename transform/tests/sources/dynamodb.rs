//! DynamoDB exports, full and incremental.

use clickmill_transform::sources::{Dataset, read};
use serde_json::json;

use crate::support::{Shop, gz, md5_base64, rejected_bytes, rejects, rows};

const FOLDER: &str = "exports/dynamodb/AWSDynamoDB/0001-abcd";

struct Export<'a> {
    files: Vec<(&'a str, String)>,
    table: &'a str,
    format: &'a str,
    kind: &'a str,
}

impl Default for Export<'_> {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            table: "shop-products",
            format: "DYNAMODB_JSON",
            kind: "FULL_EXPORT",
        }
    }
}

impl Export<'_> {
    /// As AWS writes it: keys are those of the bucket exported to, not of the copy.
    fn write(&self, shop: &Shop, folder: &str) {
        let (mut manifest, mut items) = (String::new(), 0);
        for (name, text) in &self.files {
            let bytes = gz(text);
            let count = text.lines().count();
            items += count;
            manifest.push_str(&format!(
                "{}\n",
                json!({"itemCount": count, "md5Checksum": md5_base64(&bytes), "etag": "x-1",
                       "dataFileS3Key": format!("other/prefix/AWSDynamoDB/0001-abcd/data/{name}")})
            ));
            shop.write(&format!("{folder}/data/{name}"), &bytes);
        }
        let summary = json!({
            "version": "2020-06-30", "exportArn": "arn", "startTime": "2026-11-22T03:00:10Z",
            "endTime": "2026-11-22T03:05:00Z", "itemCount": items, "outputFormat": self.format,
            "tableArn": format!("arn:aws:dynamodb:eu-west-1:1:table/{}", self.table),
            "exportTime": "2026-11-22T03:00:00.123Z", "exportType": self.kind,
            "manifestFilesS3Key": "other/prefix/manifest-files.json",
        })
        .to_string();
        for (name, text) in [("manifest-files", &manifest), ("manifest-summary", &summary)] {
            shop.write(&format!("{folder}/{name}.json"), text);
            shop.write(&format!("{folder}/{name}.checksum"), md5_base64(text.as_bytes()));
        }
        shop.write(&format!("{folder}/_started"), "");
    }
}

fn product(id: &str, price: &str) -> String {
    format!(r#"{{"Item":{{"product_id":{{"S":"{id}"}},"price":{{"N":"{price}"}}}}}}"#)
}

#[tokio::test]
async fn items_of_every_attribute_type_become_observations() {
    let shop = Shop::new().await;
    let full = json!({"Item": {
        "product_id": {"S": "p1"}, "sku": {"N": "00123"}, "name": {"S": "Tea \"Sencha\"\n100 g"},
        "category_path": {"L": [{"S": "Drinks"}, {"S": "Tea"}]}, "price": {"N": "12345678901234.5678"},
        "cost": {"S": "7.10"}, "stock": {"N": "-3"}, "active": {"BOOL": false}, "brand": {"NULL": true},
        "more": {"M": {"x": {"N": "1"}}},
    }});
    let export = Export {
        files: vec![
            ("b.json.gz", format!("{}\n\n", product("p2", "1E+2"))),
            ("a.json.gz", format!("{full}\n")),
            ("empty.json.gz", String::new()),
        ],
        ..Export::default()
    };
    export.write(&shop, FOLDER);
    // The blank line is none of the items that the manifest counts.
    shop.write(&format!("{FOLDER}/data/not-in-the-manifest.json.gz"), gz(&product("px", "1")));
    let found = shop.find("").await;
    assert_eq!(found.exports.len(), 1, "{:?}", found.notices);
    assert_eq!(found.exports[0].dataset, Dataset::ProductObservations);
    let products = read(&shop.lake, &found.exports[0]).await.unwrap();
    assert_eq!(rejects(&products), Vec::<String>::new());
    assert_eq!(
        rows(
            &products,
            &[
                "product_id",
                "sku",
                "name",
                "category_path",
                "price",
                "cost",
                "stock",
                "active",
                "brand",
                "observed_at",
                "export_id"
            ]
        ),
        [
            "p1|00123|Tea \"Sencha\"\n100 g|[\"Drinks\",\"Tea\"]|12345678901234.5678|7.1000|-3|false|-|\
             2026-11-22T03:00:00.123Z|0001-abcd",
            "p2|-|-|-|100.0000|-|-|-|-|2026-11-22T03:00:00.123Z|0001-abcd",
        ]
    );
}

#[tokio::test]
async fn an_item_that_does_not_fit_is_rejected_with_its_line() {
    let shop = Shop::new().await;
    let lines = [
        product("p1", "1"),
        product("p2", "NaN"),
        r#"{"Item":{"price":{"N":"1"}}}"#.to_owned(),
        r#"{"Item":{"product_id":"raw"}}"#.to_owned(),
        r#"{"Item":"#.to_owned(),
        r#"{"Keys":{}}"#.to_owned(),
        r#"{"Item":{"product_id":{"S":"p7"},"price":{"M":{}}}}"#.to_owned(),
    ];
    Export { files: vec![("a.json.gz", lines.join("\n"))], ..Export::default() }
        .write(&shop, FOLDER);
    let found = shop.find("").await;
    let products = read(&shop.lake, &found.exports[0]).await.unwrap();
    assert_eq!(rows(&products, &["product_id"]), ["p1"]);
    assert_eq!(products.rows_read, 7);
    let mut rejected = rejects(&products);
    rejected.sort();
    let starts = [
        "row 2: bad_value: column price: `NaN`",
        "row 3: missing_field: column product_id",
        "row 4: malformed: attribute product_id",
        "row 5: malformed: the line is not",
        "row 6: malformed: the line is not",
        "row 7: bad_value: column price: `{}`",
    ];
    assert_eq!(rejected.len(), starts.len(), "{rejected:#?}");
    for (reject, start) in rejected.iter().zip(starts) {
        assert!(reject.starts_with(start), "{reject}");
    }
    assert_eq!(rejected_bytes(&products, 0), lines[1]);
}

#[tokio::test]
async fn an_export_is_taken_only_when_its_manifests_are_there_and_agree() {
    let two = || Export {
        files: vec![("a.json.gz", product("p1", "1")), ("b.json.gz", product("p2", "1"))],
        ..Export::default()
    };
    type Harm = fn(&Shop);
    let harms: [(&str, Harm); 7] = [
        ("no manifest-summary.json", |shop| {
            std::fs::remove_file(shop.folder.path().join(FOLDER).join("manifest-summary.json"))
                .unwrap();
        }),
        ("no manifest-files.json", |shop| {
            std::fs::remove_file(shop.folder.path().join(FOLDER).join("manifest-files.json"))
                .unwrap();
        }),
        ("is not the one that manifest-files.checksum is of", |shop| {
            shop.write(&format!("{FOLDER}/manifest-files.json"), "{}");
        }),
        ("which is not there", |shop| {
            std::fs::remove_file(shop.folder.path().join(FOLDER).join("data/b.json.gz")).unwrap();
        }),
        ("summary says 2 items, its list of files 1", |shop| {
            let path = shop.folder.path().join(FOLDER).join("manifest-files.json");
            let text = std::fs::read_to_string(path).unwrap();
            let one = text.lines().next().unwrap();
            shop.write(&format!("{FOLDER}/manifest-files.json"), one);
            shop.write(&format!("{FOLDER}/manifest-files.checksum"), md5_base64(one.as_bytes()));
        }),
        ("format ION", |shop| Export { format: "ION", ..Export::default() }.write(shop, FOLDER)),
        ("are no window", |shop| {
            Export { kind: "INCREMENTAL_EXPORT", ..Export::default() }.write(shop, FOLDER);
        }),
    ];
    for (told, harm) in harms {
        let shop = Shop::new().await;
        two().write(&shop, FOLDER);
        assert_eq!(shop.find("").await.exports.len(), 1);
        harm(&shop);
        let found = shop.find("").await;
        assert_eq!(found.exports, [], "{told}");
        assert_eq!(found.notices.len(), 1, "{told}");
        assert!(found.notices[0].problem.contains(told), "{told}: {}", found.notices[0]);
    }
}

#[tokio::test]
async fn a_data_file_with_another_checksum_gives_no_rows_and_one_reject() {
    let shop = Shop::new().await;
    let two = Export {
        files: vec![("a.json.gz", product("p1", "1")), ("b.json.gz", product("p2", "1"))],
        ..Export::default()
    };
    two.write(&shop, FOLDER);
    shop.write(&format!("{FOLDER}/data/a.json.gz"), gz(&product("px", "9")));
    let found = shop.find("").await;
    let products = read(&shop.lake, &found.exports[0]).await.unwrap();
    assert_eq!(rows(&products, &["product_id"]), ["p2"]);
    let rejected = rejects(&products);
    assert_eq!(rejected.len(), 1);
    assert!(rejected[0].contains("its MD5 is"), "{rejected:?}");
}

#[tokio::test]
async fn a_count_that_differs_from_the_manifest_is_noticed() {
    let shop = Shop::new().await;
    let text = product("p1", "1");
    Export { files: vec![("a.json.gz", text)], ..Export::default() }.write(&shop, FOLDER);
    let mut export = shop.find("").await.exports.remove(0);
    export.files[0].items = Some(2);
    let products = read(&shop.lake, &export).await.unwrap();
    assert_eq!(rows(&products, &["product_id"]), ["p1"]);
    assert!(products.notices[0].problem.contains("1 items, its manifest says 2"));
}

#[tokio::test]
async fn a_table_is_taken_by_its_mapping_or_a_telling_name_and_any_other_is_said() {
    let shop = Shop::new().await;
    let of = |table, id: &str| {
        let export =
            Export { table, files: vec![("a.json.gz", product(id, "1"))], ..Export::default() };
        export.write(&shop, &format!("exports/dynamodb/AWSDynamoDB/{id}"));
    };
    of("shop-catalog", "1");
    of("Things", "2");
    let found = shop.find("").await;
    assert_eq!(found.exports.len(), 1);
    assert!(found.notices[0].problem.contains("table `Things`"), "{}", found.notices[0]);
    let mapped = shop
        .find(
            "[sources.d]\nkind = \"dynamodb-export\"\npath = \"FOLDER/exports/dynamodb\"\n\
             [sources.d.products]\ntable = \"Things\"\n[sources.d.products.columns]\nsku = \"product_id\"",
        )
        .await;
    assert_eq!(mapped.exports.len(), 1);
    let products = read(&shop.lake, &mapped.exports[0]).await.unwrap();
    assert_eq!(rows(&products, &["product_id", "sku"]), ["2|2"]);
}
