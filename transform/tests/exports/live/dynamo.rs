//! DynamoDB, by moto.

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, KeySchemaElement, KeyType, ProvisionedThroughput,
    ScalarAttributeType,
};
use uuid::Uuid;

use crate::shop::shop;

/// A table of `items` with so many provisioned read units.
async fn table(client: &Client, items: usize, units: i64) -> String {
    let name = format!("things-{}", Uuid::new_v4());
    client
        .create_table()
        .table_name(&name)
        .attribute_definitions(
            AttributeDefinition::builder()
                .attribute_name("sku")
                .attribute_type(ScalarAttributeType::S)
                .build()
                .unwrap(),
        )
        .key_schema(
            KeySchemaElement::builder()
                .attribute_name("sku")
                .key_type(KeyType::Hash)
                .build()
                .unwrap(),
        )
        .provisioned_throughput(
            ProvisionedThroughput::builder()
                .read_capacity_units(units)
                .write_capacity_units(1_000)
                .build()
                .unwrap(),
        )
        .send()
        .await
        .expect("creates");
    for n in 0..items {
        client
            .put_item()
            .table_name(&name)
            .item("sku", AttributeValue::S(format!("p{n}")))
            // More digits than a float has.
            .item("cost", AttributeValue::N(format!("12345678901{n:03}.1234")))
            .item("active", AttributeValue::Bool(n % 2 == 0))
            .item("names", AttributeValue::L(vec![AttributeValue::S(format!("n{n}"))]))
            .send()
            .await
            .expect("puts");
    }
    name
}

#[tokio::test]
async fn a_scan_by_segments_has_every_item_once() {
    if !super::has_servers("AWS_ENDPOINT_URL_DYNAMODB") {
        return;
    }
    let client = Client::new(&clickmill_lake::aws::sdk_config().await);
    let name = table(&client, 137, 40_000).await;
    let source = |name: &str| {
        super::forever(format!(
            "[catalog]\nkind = \"dynamodb-scan\"\nsegments = 3\ncapacity_percent = 100\n\
             read_every = \"0s\"\n[catalog.products]\ntable = \"{name}\"\n\
             [catalog.products.columns]\nproduct_id = \"sku\"\nname = \"names\"\n"
        ))
    };
    let mut shop = shop(source(&name)).await;
    let report = shop.run_tables(&["products"]).await;
    assert_eq!(report.notices, []);
    let mut expected: Vec<String> = (0..137)
        .map(|n| format!("p{n}|[\"n{n}\"]|12345678901{n:03}.1234|{}", n % 2 == 0))
        .collect();
    expected.sort();
    let sql = "SELECT product_id, name, cost, active FROM products";
    assert_eq!(shop.sql(sql).await, expected);
    assert_eq!(
        shop.sql("SELECT source, content, rows_read, rows_rejected FROM source_exports").await,
        ["catalog|snapshot|137|0"]
    );
    // A table that is gone is told, and what was there stays.
    shop.sources = source("no-such-table");
    let report = shop.run_tables(&["products"]).await;
    let notices: Vec<String> = report.notices.iter().map(ToString::to_string).collect();
    assert!(notices.len() == 1 && notices[0].contains("no-such-table"), "{notices:#?}");
    assert_eq!(shop.sql(sql).await, expected);
}

/// moto counts a unit a page. Of 5 units a tenth is half a unit a second: each page but the
/// last is followed by two seconds. The first asks for 25 items, the others for 12.
#[tokio::test]
async fn a_scan_keeps_to_its_share_of_the_capacity() {
    if !super::has_servers("AWS_ENDPOINT_URL_DYNAMODB") {
        return;
    }
    let client = Client::new(&clickmill_lake::aws::sdk_config().await);
    let name = table(&client, 60, 5).await;
    let shop = shop(super::forever(format!(
        "[catalog]\nkind = \"dynamodb-scan\"\nsegments = 1\ncapacity_percent = 10\n\
         [catalog.products]\ntable = \"{name}\"\n\
         [catalog.products.columns]\nproduct_id = \"sku\"\n"
    )))
    .await;
    let started = Instant::now();
    let report = shop.run_tables(&["products"]).await;
    assert!(started.elapsed() >= Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!(report.notices, []);
    assert_eq!(shop.sql("SELECT count(*) FROM products").await, ["60"]);
}
