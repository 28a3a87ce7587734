//! The catalog as a DynamoDB full export to S3
//! (`exports/dynamodb/AWSDynamoDB/<export id>/...`, format DYNAMODB_JSON).
//!
//! The data comes first and `manifest-summary.json` last: without it an export
//! is not complete. Numbers are decimal text (`{"N":"19.95"}`).

use std::io::Write as _;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clickmill_lake::Lake;
use flate2::Compression;
use flate2::write::GzEncoder;
use md5::{Digest as _, Md5};
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use serde_json::{Value, json};

use super::Shop;
use super::catalog::{CURRENCY, Product, decimal};
use super::journey::rfc3339;
use super::rng::Rng;

/// Data files of one export; real ones have one for each partition, some of them empty.
const FILES: usize = 4;

/// Writes the catalog as of `as_of_ms`; returns the export's folder.
///
/// # Errors
/// Where the store cannot be written.
pub async fn write(shop: &Shop, lake: &Lake, as_of_ms: i64) -> anyhow::Result<String> {
    let mut rng = Rng::of(&[shop.seed, 0xDD80, as_of_ms.unsigned_abs()]);
    let export_id = format!("{as_of_ms:014}-{:08x}", rng.next() >> 32);
    let prefix = "exports/dynamodb";
    let folder = format!("{prefix}/AWSDynamoDB/{export_id}");
    put(lake, &format!("{folder}/_started"), Vec::new()).await?;

    // The last file stays empty, as happens in real exports.
    let per_file = shop.catalog.products.len().div_ceil(FILES - 1);
    let mut manifest = String::new();
    for nth in 0..FILES {
        let products = shop.catalog.products.iter().skip(nth * per_file).take(per_file);
        let (mut gzip, mut count) = (GzEncoder::new(Vec::new(), Compression::default()), 0);
        for product in products {
            writeln!(gzip, "{}", json!({"Item": item(product)}))?;
            count += 1;
        }
        let bytes = gzip.finish()?;
        let key = format!("{folder}/data/{}.json.gz", rng.uuid().replace('-', ""));
        let entry = json!({
            "itemCount": count,
            "md5Checksum": STANDARD.encode(Md5::digest(&bytes)),
            "etag": hex(&Md5::digest(&bytes)),
            "dataFileS3Key": key,
        });
        manifest.push_str(&format!("{entry}\n"));
        put(lake, &key, bytes).await?;
    }

    let table = "arn:aws:dynamodb:eu-central-1:123456789012:table/catalog";
    let summary = json!({
        "version": "2020-06-30",
        "exportArn": format!("{table}/export/{export_id}"),
        "startTime": rfc3339(as_of_ms),
        "endTime": rfc3339(as_of_ms),
        "tableArn": table,
        "tableId": "3d4f6a0c-5f0e-4f57-8d11-0d0c5be7a111",
        "exportTime": rfc3339(as_of_ms),
        "s3Bucket": "household-shop-exports",
        "s3Prefix": prefix,
        "s3SseAlgorithm": "AES256",
        "s3SseKmsKeyId": null,
        "manifestFilesS3Key": format!("{folder}/manifest-files.json"),
        "billedSizeBytes": 0,
        "itemCount": shop.catalog.products.len(),
        "outputFormat": "DYNAMODB_JSON",
        "exportType": "FULL_EXPORT",
    });
    for (name, text) in [("manifest-files", manifest), ("manifest-summary", summary.to_string())] {
        let checksum = STANDARD.encode(Md5::digest(text.as_bytes()));
        put(lake, &format!("{folder}/{name}.checksum"), checksum.into_bytes()).await?;
        put(lake, &format!("{folder}/{name}.json"), text.into_bytes()).await?;
    }
    Ok(folder)
}

async fn put(lake: &Lake, path: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
    lake.store()
        .put(&Path::from(path), PutPayload::from(bytes))
        .await
        .with_context(|| format!("cannot write {}{path}", lake.url()))?;
    Ok(())
}

fn item(product: &Product) -> Value {
    json!({
        "product_id": {"S": product.id},
        "sku": {"S": product.sku},
        "name": {"S": product.name},
        "brand": {"S": product.brand},
        "category": {"S": product.category},
        "category_path": {"S": product.category_path()},
        "price": {"N": decimal(product.price)},
        "cost": {"N": decimal(product.cost)},
        "currency": {"S": CURRENCY},
        "stock": {"N": product.stock.to_string()},
        "active": {"BOOL": product.active},
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[tokio::test]
    async fn the_manifest_names_every_file_and_every_product_is_in_one() {
        let folder = tempfile::tempdir().expect("temp");
        let lake = Lake::open(&folder.path().display().to_string()).await.expect("opens");
        let shop = Shop::new(5);
        let export = write(&shop, &lake, 1_700_000_000_000).await.expect("writes");
        let read = |path: &str| std::fs::read(folder.path().join(path)).expect(path);
        let summary: Value =
            serde_json::from_slice(&read(&format!("{export}/manifest-summary.json")))
                .expect("JSON");
        assert_eq!(summary["itemCount"], shop.catalog.products.len());
        let manifest = read(summary["manifestFilesS3Key"].as_str().expect("a key"));
        let mut ids = std::collections::BTreeSet::new();
        for line in String::from_utf8(manifest).expect("text").lines() {
            let entry: Value = serde_json::from_str(line).expect("JSON");
            let bytes = read(entry["dataFileS3Key"].as_str().expect("a key"));
            assert_eq!(entry["md5Checksum"], STANDARD.encode(Md5::digest(&bytes)));
            let mut text = String::new();
            flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).expect("gzip");
            assert_eq!(entry["itemCount"], text.lines().count());
            for line in text.lines() {
                let item: Value = serde_json::from_str(line).expect("JSON");
                ids.insert(item["Item"]["product_id"]["S"].to_string());
            }
        }
        assert_eq!(ids.len(), shop.catalog.products.len());
    }
}
