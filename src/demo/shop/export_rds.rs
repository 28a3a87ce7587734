//! The shop's orders, order lines and customers as an RDS snapshot export to S3
//! lays them out (`exports/rds/<export id>/...`).
//!
//! As with a Postgres source, decimals and timestamps are *text*. The data
//! comes first and `export_info_<id>.json` last: without it an export is not
//! complete.

use std::sync::Arc;

use anyhow::Context as _;
use arrow::array::{ArrayRef, BooleanArray, Int32Array, RecordBatch, StringArray};
use clickmill_lake::Lake;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

use super::Shop;
use super::catalog::{CURRENCY, Cents, decimal};
use super::journey::rfc3339;
use super::orders::{Customer, Order};
use super::rng::Rng;

/// Database and schema as they stand in the export's folders.
const DATABASE: &str = "shop";
/// Rows of one Parquet file at most.
const ROWS_PER_FILE: usize = 200_000;

/// A column: its name, the type it has in Postgres, and its values.
type Column = (&'static str, &'static str, ArrayRef);

/// Writes the snapshot as of `as_of_ms`; returns the export's folder.
///
/// # Errors
/// Where the store cannot be written.
pub async fn write(shop: &Shop, lake: &Lake, as_of_ms: i64) -> anyhow::Result<String> {
    let export_id = format!("household-shop-{}", &rfc3339(as_of_ms)[..10]);
    let folder = format!("exports/rds/{export_id}");
    let customers: Vec<&Customer> = shop.customers.values().collect();
    let tables = [
        table(&shop.orders, "orders", orders)?,
        table(&lines(shop), "order_items", order_items)?,
        table(&customers, "customers", self::customers)?,
    ];
    let mut rng = Rng::of(&[shop.seed, 0xEC90, as_of_ms.unsigned_abs()]);
    let (mut status, mut gigabytes) = (Vec::new(), 0.0);
    for Table { name, types, files } in &tables {
        for (nth, bytes) in files.iter().enumerate() {
            let part = format!("part-{nth:05}-{}-c000.gz.parquet", rng.uuid());
            put(lake, &format!("{folder}/{DATABASE}/public.{name}/1/{part}"), bytes.clone())
                .await?;
            gigabytes += bytes.len() as f64 / 1e9;
        }
        status.push(json!({
            "tableStatistics": {"extractionStartTime": rfc3339(as_of_ms), "extractionEndTime": rfc3339(as_of_ms)},
            "schemaMetadata": {"originalTypeMappings": types},
            "status": "COMPLETE",
            "sizeGB": gigabytes,
            "target": format!("{DATABASE}.public.{name}"),
        }));
    }
    let tables_info = json!({"perTableStatus": status});
    let path = format!("{folder}/export_tables_info_{export_id}_from_1_to_{}.json", tables.len());
    put(lake, &path, serde_json::to_vec_pretty(&tables_info)?).await?;
    let info = json!({
        "exportTaskIdentifier": export_id,
        "sourceArn": format!("arn:aws:rds:eu-central-1:123456789012:snapshot:{export_id}"),
        "exportOnly": [],
        "snapshotTime": rfc3339(as_of_ms),
        "taskStartTime": rfc3339(as_of_ms),
        "taskEndTime": rfc3339(as_of_ms),
        "s3Bucket": "household-shop-exports",
        "s3Prefix": "exports/rds",
        "exportedFilesPath": folder,
        "iamRoleArn": "arn:aws:iam::123456789012:role/rds-export",
        "kmsKeyId": "arn:aws:kms:eu-central-1:123456789012:key/demo",
        "status": "COMPLETE",
        "percentProgress": 100,
        "totalExportedDataInGB": gigabytes,
    });
    put(lake, &format!("{folder}/export_info_{export_id}.json"), serde_json::to_vec_pretty(&info)?)
        .await?;
    Ok(folder)
}

async fn put(lake: &Lake, path: &str, bytes: Vec<u8>) -> anyhow::Result<()> {
    lake.store()
        .put(&Path::from(path), PutPayload::from(bytes))
        .await
        .with_context(|| format!("cannot write {}{path}", lake.url()))?;
    Ok(())
}

struct Table {
    name: &'static str,
    types: Vec<Value>,
    files: Vec<Vec<u8>>,
}

fn table<T>(
    rows: &[T],
    name: &'static str,
    columns: impl Fn(&[T]) -> Vec<Column>,
) -> anyhow::Result<Table> {
    let mut types = Vec::new();
    for (name, original, array) in columns(&[]) {
        let exported = match array.data_type() {
            arrow::datatypes::DataType::Int32 => "int32",
            arrow::datatypes::DataType::Boolean => "boolean",
            _ => "binary (UTF8)",
        };
        types.push(json!({
            "columnName": name,
            "originalType": original,
            "originalCharMaxLength": 0,
            "expectedExportedType": exported,
        }));
    }
    let chunks: Vec<&[T]> =
        if rows.is_empty() { vec![rows] } else { rows.chunks(ROWS_PER_FILE).collect() };
    let files = chunks.into_iter().map(|rows| encode(columns(rows))).collect::<Result<_, _>>()?;
    Ok(Table { name, types, files })
}

fn encode(columns: Vec<Column>) -> anyhow::Result<Vec<u8>> {
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, _, array)| (name, array, true)),
    )?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::GZIP(parquet::basic::GzipLevel::default()))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?)
}

fn texts<T>(rows: &[T], of: impl Fn(&T) -> Option<String>) -> ArrayRef {
    Arc::new(rows.iter().map(of).collect::<StringArray>())
}

fn amounts<T>(rows: &[T], of: impl Fn(&T) -> Cents) -> ArrayRef {
    texts(rows, |row| Some(decimal(of(row))))
}

fn integers<T>(rows: &[T], of: impl Fn(&T) -> i64) -> ArrayRef {
    Arc::new(rows.iter().map(|row| i32::try_from(of(row)).ok()).collect::<Int32Array>())
}

/// A `timestamptz` as Postgres prints it.
fn timestamptz(ms: i64) -> String {
    let text = rfc3339(ms);
    format!("{} {}+00", &text[..10], &text[11..23])
}

fn orders(rows: &[Order]) -> Vec<Column> {
    vec![
        ("order_id", "text", texts(rows, |o| Some(o.id.clone()))),
        ("customer_id", "text", texts(rows, |o| Some(o.customer_id.clone()))),
        ("ordered_at", "timestamptz", texts(rows, |o| Some(timestamptz(o.ordered_ms)))),
        ("status", "text", texts(rows, |o| Some(o.status.code().to_owned()))),
        ("currency", "bpchar", texts(rows, |_| Some(CURRENCY.to_owned()))),
        ("subtotal", "numeric", amounts(rows, |o| o.subtotal)),
        ("discount", "numeric", amounts(rows, |o| o.discount)),
        ("tax", "numeric", amounts(rows, |o| o.tax)),
        ("shipping", "numeric", amounts(rows, |o| o.shipping)),
        ("total", "numeric", amounts(rows, |o| o.total)),
        ("refunded", "numeric", amounts(rows, |o| o.refunded)),
        ("coupon", "text", texts(rows, |o| o.coupon.clone())),
        ("country", "bpchar", texts(rows, |o| Some(o.country.clone()))),
        ("region", "text", texts(rows, |o| Some(o.region.clone()))),
        ("city", "text", texts(rows, |o| Some(o.city.clone()))),
        ("channel_hint", "text", texts(rows, |o| o.channel_hint.clone())),
    ]
}

/// (order, line number from 1)
fn lines(shop: &Shop) -> Vec<(&Order, usize)> {
    shop.orders.iter().flat_map(|o| (1..=o.lines.len()).map(move |nth| (o, nth))).collect()
}

fn order_items(rows: &[(&Order, usize)]) -> Vec<Column> {
    let line = |(order, nth): &(&Order, usize)| order.lines[nth - 1].clone();
    vec![
        ("order_id", "text", texts(rows, |(order, _)| Some(order.id.clone()))),
        ("line", "int4", integers(rows, |(_, nth)| *nth as i64)),
        ("product_id", "text", texts(rows, |row| Some(line(row).product_id))),
        ("quantity", "int4", integers(rows, |row| line(row).quantity)),
        ("unit_price", "numeric", amounts(rows, |row| line(row).unit_price)),
        ("discount", "numeric", amounts(rows, |row| line(row).discount)),
    ]
}

fn customers(rows: &[&Customer]) -> Vec<Column> {
    let consent: BooleanArray = rows.iter().map(|c| Some(c.marketing_consent)).collect();
    vec![
        ("customer_id", "text", texts(rows, |c| Some(c.id.clone()))),
        ("created_at", "timestamptz", texts(rows, |c| Some(timestamptz(c.created_ms)))),
        ("country", "bpchar", texts(rows, |c| Some(c.country.clone()))),
        ("region", "text", texts(rows, |c| Some(c.region.clone()))),
        ("city", "text", texts(rows, |c| Some(c.city.clone()))),
        ("email_hash", "text", texts(rows, |c| Some(c.email_hash.clone()))),
        ("marketing_consent", "bool", Arc::new(consent)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    #[tokio::test]
    async fn the_parquet_files_hold_every_order_with_text_amounts() {
        let folder = tempfile::tempdir().expect("temp");
        let lake = Lake::open(&folder.path().display().to_string()).await.expect("opens");
        let mut shop = Shop::new(5);
        let plan = shop.plan(1, 20_000, 2, 600);
        for day in 20_000..20_002 {
            let _ = shop.day(&plan, day);
        }
        let export = write(&shop, &lake, 20_002 * super::super::DAY_MS).await.expect("writes");
        assert_eq!(export, "exports/rds/household-shop-2024-10-06");
        let root = folder.path().join(&export);
        assert!(root.join("export_info_household-shop-2024-10-06.json").exists());
        let part = std::fs::read_dir(root.join("shop/public.orders/1"))
            .expect("the table's folder")
            .next()
            .expect("a file")
            .expect("readable");
        let file = std::fs::File::open(part.path()).expect("opens");
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build();
        let batches: Vec<_> = reader.expect("reader").map(|b| b.expect("batch")).collect();
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        assert!(rows > 0 && rows == shop.orders.len());
        let totals = batches[0].column_by_name("total").expect("total");
        let totals = totals.as_any().downcast_ref::<StringArray>().expect("text");
        assert_eq!(totals.value(0), decimal(shop.orders[0].total));
    }

    #[test]
    fn timestamps_print_as_postgres_does() {
        assert_eq!(timestamptz(1_700_000_000_123), "2023-11-14 22:13:20.123+00");
    }
}
