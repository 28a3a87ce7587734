//! A lake in a temporary folder, files beside it, and a reader of the raw zone that
//! knows nothing of the importer.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{Read, Write};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, Int64Array, ListBuilder, RecordBatch, StringBuilder,
    TimestampMicrosecondArray, TimestampNanosecondArray,
};
use base64::Engine as _;
use clickmill_delivery::import::{ImportError, Mapping, Progress, Summary, import_events};
use clickmill_faultstore::{Death, DiesAt, FaultStore};
use clickmill_lake::Lake;
use clickmill_lake::landing::{commits_after, list_sources};
use clickmill_lake::raw::RawKind;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde_json::Value;

pub type TestResult = std::result::Result<(), Box<dyn std::error::Error>>;

pub struct Shop {
    folder: tempfile::TempDir,
    pub lake: Lake,
}

pub struct RejectedRow {
    pub wal_seq: i64,
    pub origin: String,
    pub detail: String,
    pub bytes: Vec<u8>,
}

impl Shop {
    pub async fn new() -> std::result::Result<Self, Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let lake = Lake::open(&folder.path().join("lake").display().to_string()).await?;
        Ok(Self { folder, lake })
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join("in").join(name).display().to_string()
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> std::io::Result<String> {
        let path = self.path(name);
        if let Some(parent) = std::path::Path::new(&path).parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, bytes)?;
        Ok(path)
    }

    /// Three rows; the last one has an amount only.
    pub fn parquet(&self, name: &str) -> std::result::Result<String, Box<dyn std::error::Error>> {
        let path = self.file(name, b"")?;
        // 2026-07-15T12:00:00Z
        let noon = 1_784_116_800_000_000_i64;
        let at = TimestampNanosecondArray::from(vec![Some(noon * 1_000 + 1_999), Some(0), None]);
        let local = TimestampMicrosecondArray::from(vec![Some(noon), Some(0), None]);
        let amounts = vec![Some(123_456_789_012_345_678_i128), None, Some(10_000)];
        let mut tags = ListBuilder::new(StringBuilder::new());
        tags.values().append_value("a");
        tags.values().append_value("b");
        tags.append(true);
        tags.append_null();
        tags.append_null();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("at", Arc::new(at.with_timezone("UTC"))),
            ("local", Arc::new(local)),
            ("user", Arc::new(Int64Array::from(vec![Some(-7), Some(8), None]))),
            ("amount", Arc::new(Decimal128Array::from(amounts).with_precision_and_scale(18, 4)?)),
            ("tags", Arc::new(tags.finish())),
        ];
        let batch = RecordBatch::try_from_iter(columns)?;
        let file = std::fs::File::create(&path)?;
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None)?;
        writer.write(&batch)?;
        writer.close()?;
        Ok(path)
    }

    pub async fn import(
        &self,
        mapping: &str,
        paths: &[&str],
    ) -> std::result::Result<Summary, ImportError> {
        self.import_into(&self.lake, mapping, paths).await
    }

    pub async fn import_into(
        &self,
        lake: &Lake,
        mapping: &str,
        paths: &[&str],
    ) -> std::result::Result<Summary, ImportError> {
        let mapping: Mapping = match toml::from_str(mapping) {
            Ok(mapping) => mapping,
            Err(error) => panic!("{error}"),
        };
        let paths: Vec<String> = paths.iter().map(|p| (*p).to_owned()).collect();
        import_events(lake, &mapping, &paths, &Arc::new(Progress::default())).await
    }

    /// Every object in the lake with its ETag.
    pub async fn objects(&self) -> object_store::Result<Vec<(String, Option<String>)>> {
        let mut objects: Vec<_> = self
            .lake
            .store()
            .list(None)
            .map_ok(|meta| (meta.location.to_string(), meta.e_tag))
            .try_collect()
            .await?;
        objects.sort();
        Ok(objects)
    }

    /// The lines of every committed object of a kind, chain by chain, in the order of rows.
    async fn lines(
        &self,
        kind: RawKind,
    ) -> std::result::Result<Vec<String>, Box<dyn std::error::Error>> {
        let mut lines = Vec::new();
        let mut commits = Vec::new();
        for source in list_sources(&self.lake).await? {
            commits.extend(commits_after(&self.lake, &source, 0).await?);
        }
        commits.sort_by_key(|commit| commit.committed_at);
        for object in commits.iter().flat_map(|c| &c.objects).filter(|o| o.kind == kind) {
            let bytes =
                self.lake.store().get(&Path::from(object.path.as_str())).await?.bytes().await?;
            let mut text = String::new();
            flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text)?;
            assert_eq!(text.lines().count() as u64, object.records);
            lines.extend(text.lines().map(str::to_owned));
        }
        Ok(lines)
    }

    pub async fn event_lines(
        &self,
    ) -> std::result::Result<Vec<String>, Box<dyn std::error::Error>> {
        self.lines(RawKind::Events).await
    }

    pub async fn events(&self) -> std::result::Result<Vec<Value>, Box<dyn std::error::Error>> {
        let lines = self.lines(RawKind::Events).await?;
        Ok(lines
            .iter()
            .map(|line| serde_json::from_str(line))
            .collect::<std::result::Result<_, _>>()?)
    }

    pub async fn rejects(
        &self,
    ) -> std::result::Result<Vec<RejectedRow>, Box<dyn std::error::Error>> {
        let mut rejects = Vec::new();
        for line in self.lines(RawKind::Rejects).await? {
            let json: Value = serde_json::from_str(&line)?;
            let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
            rejects.push(RejectedRow {
                wal_seq: json["wal_seq"].as_i64().unwrap_or_default(),
                origin: text("origin"),
                detail: text("detail"),
                bytes: base64::engine::general_purpose::STANDARD.decode(text("bytes_base64"))?,
            });
        }
        Ok(rejects)
    }
}

pub fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(bytes)?;
    gzip.finish()
}

pub fn zstd(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    zstd::stream::encode_all(bytes, 1)
}

/// The lake as a process sees it that dies around its writes: an even `n` lets
/// n / 2 writes through and fails from then on, an odd one also stores the next
/// but never says so. What is read after that fails too.
pub fn crash_after(lake: &Lake, n: u32) -> Lake {
    let at = if n % 2 == 1 { DiesAt::AfterPut } else { DiesAt::BeforePut };
    lake.with_store(FaultStore::new(lake.store(), Death::after(n / 2, at)))
}
