//! A lake in a temporary folder, and rows as text.

use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, RecordBatch, StringArray};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clickmill_lake::Lake;
use clickmill_transform::sources::{Discovery, SourceRows, SourcesConfig, discover, read};
use md5::{Digest as _, Md5};
use parquet::arrow::ArrowWriter;
use tempfile::TempDir;

pub struct Shop {
    pub folder: TempDir,
    pub lake: Lake,
}

impl Shop {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open(&folder.path().display().to_string()).await.unwrap();
        Self { folder, lake }
    }

    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub async fn find(&self, config: &str) -> Discovery {
        discover(&self.lake, &self.config(config), &std::collections::BTreeMap::new()).await
    }

    /// `FOLDER` in the text stands for the shop's folder.
    pub fn config(&self, text: &str) -> SourcesConfig {
        config(&text.replace("FOLDER", &self.folder.path().display().to_string())).unwrap()
    }

    /// Reads the one export that there is.
    pub async fn only(&self, config: &str) -> SourceRows {
        let found = self.find(config).await;
        assert_eq!((found.exports.len(), &found.notices), (1, &Vec::new()), "{:?}", found.exports);
        read(&self.lake, &found.exports[0]).await.unwrap()
    }
}

pub fn config(text: &str) -> Result<SourcesConfig, String> {
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(default)]
        sources: SourcesConfig,
    }
    toml::from_str::<File>(text).map(|file| file.sources).map_err(|e| e.to_string())
}

/// Every row's values of these columns, NULL as `-`.
pub fn rows(found: &SourceRows, columns: &[&str]) -> Vec<String> {
    let options = FormatOptions::new().with_null("-");
    found
        .batches
        .iter()
        .flat_map(|batch| {
            let cells: Vec<_> = columns
                .iter()
                .map(|name| {
                    let array = batch.column_by_name(name).unwrap_or_else(|| panic!("no {name}"));
                    ArrayFormatter::try_new(array, &options).unwrap()
                })
                .collect();
            (0..batch.num_rows())
                .map(|row| {
                    let row: Vec<_> =
                        cells.iter().map(|cell| cell.value(row).to_string()).collect();
                    row.join("|")
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Each reject's place in its file, reason code and detail.
pub fn rejects(found: &SourceRows) -> Vec<String> {
    found
        .rejects
        .iter()
        .map(|reject| {
            let place = reject.origin.split_once(' ').unwrap().1;
            format!("{place}: {}: {}", reject.reason.code(), reject.detail)
        })
        .collect()
}

pub fn rejected_bytes(found: &SourceRows, at: usize) -> String {
    String::from_utf8(STANDARD.decode(&*found.rejects[at].bytes_base64).unwrap()).unwrap()
}

pub fn parquet(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

pub fn texts(values: &[Option<&str>]) -> ArrayRef {
    let array = StringArray::from(values.to_vec());
    assert_eq!(array.len(), values.len());
    Arc::new(array)
}

pub fn gz(text: &str) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    writer.write_all(text.as_bytes()).unwrap();
    writer.finish().unwrap()
}

pub fn md5_base64(bytes: &[u8]) -> String {
    STANDARD.encode(Md5::digest(bytes))
}
