//! Exports as AWS documents them.

use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clickmill_schemas::Timestamp;
use md5::{Digest as _, Md5};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::shop::Shop;

pub fn gz(text: &str) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    writer.write_all(text.as_bytes()).unwrap();
    writer.finish().unwrap()
}

pub fn md5_base64(bytes: &[u8]) -> String {
    STANDARD.encode(Md5::digest(bytes))
}

/// A time of a manifest: seconds and three digits.
pub fn manifest_time(at: Timestamp) -> String {
    let text = at.to_string();
    format!("{}Z", &text[..23])
}

/// One export of a DynamoDB table.
pub struct Dynamo<'a> {
    pub id: &'a str,
    pub table: &'a str,
    /// One data file each.
    pub files: Vec<Vec<Value>>,
    /// The time of a full export, or both ends of a window.
    pub times: (Timestamp, Option<Timestamp>),
    pub view: &'a str,
}

impl<'a> Dynamo<'a> {
    pub fn full(id: &'a str, table: &'a str, at: Timestamp, items: Vec<Value>) -> Self {
        let items = items.into_iter().map(|item| json!({"Item": item})).collect();
        Dynamo { id, table, files: vec![items, Vec::new()], times: (at, None), view: "" }
    }

    pub fn window(
        id: &'a str,
        table: &'a str,
        from: Timestamp,
        to: Timestamp,
        lines: Vec<Value>,
    ) -> Self {
        Dynamo { id, table, files: vec![lines], times: (from, Some(to)), view: "NEW_IMAGE" }
    }

    pub fn folder(&self) -> String {
        format!("dynamodb/AWSDynamoDB/{}", self.id)
    }

    /// Where the data files lie: those of all windows in one folder.
    pub fn data(&self, number: usize) -> String {
        match self.times.1 {
            None => format!("{}/data/file-{number}.json.gz", self.folder()),
            Some(_) => format!("dynamodb/AWSDynamoDB/data/{}-{number}.json.gz", self.id),
        }
    }

    /// Data first, the summary last, as AWS does.
    pub fn write(&self, shop: &Shop) {
        let (mut manifest, mut items) = (String::new(), 0);
        for (number, lines) in self.files.iter().enumerate() {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let bytes = gz(&text);
            items += lines.len();
            // Keys are those of the bucket that was exported to.
            let key = format!("other/prefix/{}", self.data(number));
            let line = json!({"itemCount": lines.len(), "md5Checksum": md5_base64(&bytes),
                              "etag": "x-1", "dataFileS3Key": key});
            manifest.push_str(&format!("{line}\n"));
            shop.write(&self.data(number), bytes);
        }
        let mut summary = json!({
            "version": "2020-06-30", "exportArn": "arn", "startTime": "2026-03-20T00:00:00Z",
            "endTime": "2026-03-20T00:10:00Z", "itemCount": items, "billedSizeBytes": 0,
            "tableArn": format!("arn:aws:dynamodb:eu-west-1:1:table/{}", self.table),
            "tableId": "t", "s3Bucket": "other", "s3Prefix": "prefix", "s3SseAlgorithm": "AES256",
            "s3SseKmsKeyId": null, "outputFormat": "DYNAMODB_JSON", "exportType": "FULL_EXPORT",
            "exportTime": manifest_time(self.times.0),
            "manifestFilesS3Key": format!("other/prefix/{}/manifest-files.json", self.folder()),
        });
        if let Some(to) = self.times.1 {
            summary["version"] = "2023-08-01".into();
            summary["exportType"] = "INCREMENTAL_EXPORT".into();
            summary["exportFromTime"] = manifest_time(self.times.0).into();
            summary["exportToTime"] = manifest_time(to).into();
            summary["outputView"] = self.view.into();
            summary.as_object_mut().unwrap().remove("exportTime");
        }
        for (name, text) in
            [("manifest-files", manifest), ("manifest-summary", summary.to_string())]
        {
            shop.write(&format!("{}/{name}.checksum", self.folder()), md5_base64(text.as_bytes()));
            shop.write(&format!("{}/{name}.json", self.folder()), text);
        }
    }
}

/// A line of an incremental export; the time in one of its three shapes.
pub fn change(keys: Value, at: Timestamp, new: Option<Value>, old: Option<Value>) -> Value {
    let micros = at.micros();
    let written = match micros / 60_000_000 % 3 {
        0 => json!({"N": micros.to_string()}),
        1 => json!(micros.to_string()),
        _ => json!(micros),
    };
    let mut line = json!({"Metadata": {"WriteTimestampMicros": written}, "Keys": keys});
    if let Some(new) = new {
        line["NewImage"] = new;
    }
    if let Some(old) = old {
        line["OldImage"] = old;
    }
    line
}

/// A Parquet file of texts.
pub fn parquet(names: &[&str], rows: &[Vec<Option<String>>]) -> Vec<u8> {
    let column = |at: usize| -> ArrayRef {
        Arc::new(rows.iter().map(|row| row[at].clone()).collect::<StringArray>())
    };
    let columns = names.iter().enumerate().map(|(at, name)| (*name, column(at), true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}
