//! A lake and a shop's export folder, both temporary, and tables read back as text.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array as _, RecordBatch};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clickmill_faultstore::{Death, DiesAt, FaultStore};
use clickmill_lake::Lake;
use clickmill_lake::landing::{Chain, NewCommit, Source};
use clickmill_lake::raw::{RawLine, RawWriter};
use clickmill_lake::table::{DataFile, LakeTable, Table, register_store, spec_in_log};
use clickmill_schemas::tables::{TABLES, TableSpec};
use clickmill_schemas::{Event, Timestamp};
use clickmill_transform::sources::SourcesConfig;
use clickmill_transform::{
    QualityConfig, RunOptions, RunReport, ShopJob, Silent, TransformError, run,
};
use datafusion::prelude::{SessionConfig, SessionContext};
use tempfile::TempDir;

/// Where every event of a test lands; positions only count up.
const CHAIN: &str = "landed-here";
/// The shop's exports: CSV files whose names carry the time of their data.
const SOURCES: &str = r#"
[shop]
kind = "files"
format = "csv"
path = "FOLDER"
[shop.exported_at]
name = "%Y%m%dT%H%M%S"
prefix = "-"
[shop.orders]
[shop.order_items]
[shop.customers]
[shop.products]
"#;

pub struct Shop {
    folder: TempDir,
    exports: Arc<TempDir>,
    pub lake: Lake,
    /// What runs bring up to date, with what it is derived from; `None`: everything.
    pub tables: Option<Vec<String>>,
    landed: u64,
    /// The `[sources]` of its configuration; `FOLDER` stands for the folder of exports.
    pub sources: &'static str,
    /// Its own SQL jobs.
    pub jobs: Vec<ShopJob>,
    /// The `[quality]` of its configuration.
    pub quality: &'static str,
    /// The `[currency]` of its configuration; `FOLDER` as in `sources`.
    pub currency: &'static str,
    /// The `[columns]` of its configuration.
    pub columns: &'static str,
    /// The `[channels]` of its configuration.
    pub channels: &'static str,
    /// Streams that a run is spread over.
    pub parallelism: usize,
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("reads") {
        let entry = entry.expect("reads");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("reads").is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("copies");
        }
    }
}

pub fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("a time")
}

/// A shop with other sources, whose folders are there and empty.
pub async fn shop(sources: &'static str) -> Shop {
    let shop = Shop { sources, ..Shop::new().await };
    let paths = sources.split("\"FOLDER/").skip(1).filter_map(|rest| rest.split('"').next());
    for path in paths {
        std::fs::create_dir_all(shop.exports.path().join(path)).expect("a folder");
    }
    shop
}

impl Shop {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let exports = Arc::new(tempfile::tempdir().expect("a folder"));
        let lake = Lake::open(&folder.path().display().to_string()).await.expect("opens");
        Self {
            folder,
            exports,
            lake,
            tables: None,
            landed: 0,
            sources: SOURCES,
            jobs: Vec::new(),
            quality: "",
            currency: "",
            columns: "",
            channels: "",
            parallelism: 2,
        }
    }

    /// A copy of the lake as it is now, with the same exports.
    pub async fn fork(&self) -> Self {
        let copy = Self { exports: Arc::clone(&self.exports), ..Self::new().await };
        copy_folder(self.folder.path(), copy.folder.path());
        Self {
            landed: self.landed,
            tables: self.tables.clone(),
            sources: self.sources,
            jobs: self.jobs.clone(),
            quality: self.quality,
            currency: self.currency,
            columns: self.columns,
            channels: self.channels,
            parallelism: self.parallelism,
            ..copy
        }
    }

    /// The lake as a process sees it that dies behind so many writes.
    pub fn dying_after(&self, writes: u32) -> Lake {
        let death = Death::after(writes, DiesAt::BeforePut);
        self.lake.with_store(FaultStore::new(self.lake.store(), death))
    }

    /// Lands events in one commit.
    pub async fn land(&mut self, events: &[Event<'_>]) {
        if events.is_empty() {
            return;
        }
        let source = Source::collector(CHAIN).expect("a source");
        let mut chain = Chain::open(&self.lake, source.clone()).await.expect("opens");
        let mut writer = RawWriter::new(&self.lake, &source);
        let first = self.landed + 1;
        for event in events {
            self.landed += 1;
            let line = event.encode();
            let line = RawLine::parse(line.as_bytes()).expect("an event");
            writer.push(line, &self.landed.to_string()).await.expect("pushes");
        }
        let objects = writer.finish().await.expect("writes");
        let commit = NewCommit {
            first: Some(first.to_string()),
            last: Some(self.landed.to_string()),
            closed: false,
            objects,
            possible_loss: None,
            read_through: None,
            committed_at: at("2026-03-01T00:00:00Z"),
        };
        chain.append(commit).await.expect("lands");
    }

    /// Writes a CSV export: `orders-20260310T120000.csv`.
    pub fn export(&self, dataset: &str, time: &str, csv: &str) {
        let name = format!("{dataset}-{time}.csv");
        std::fs::write(self.exports.path().join(name), csv).expect("writes");
    }

    /// Writes a file into the folder of exports.
    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.exports.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, bytes).expect("writes");
    }

    /// Removes a file from the folder of exports, and gives it back.
    pub fn take_away(&self, path: &str) -> Vec<u8> {
        let path = self.exports.path().join(path);
        let bytes = std::fs::read(&path).expect("reads");
        std::fs::remove_file(path).expect("removes");
        bytes
    }

    /// Puts other bytes in the place of an object of the lake.
    pub fn overwrite(&self, path: &str, bytes: &[u8]) {
        std::fs::write(self.folder.path().join(path), bytes).expect("writes");
    }

    /// Removes a table from the lake, as if no run had ever made it.
    pub fn forget(&self, table: &str) {
        std::fs::remove_dir_all(self.folder.path().join("tables").join(table)).expect("removes");
    }

    pub fn options(&self) -> RunOptions {
        let folder = self.exports.path().display().to_string();
        let text = self.sources.replace("FOLDER", &folder);
        let sources: SourcesConfig = toml::from_str(&text).expect("a configuration");
        let quality: QualityConfig = toml::from_str(self.quality).expect("a configuration");
        let currency = self.currency.replace("FOLDER", &folder);
        RunOptions {
            tables: self.tables.clone(),
            parallelism: self.parallelism,
            sources,
            columns: toml::from_str(self.columns).expect("columns"),
            channels: Arc::new(toml::from_str(self.channels).expect("channels")),
            shop_jobs: self.jobs.clone().into(),
            quality: Arc::new(quality),
            currency: (!currency.is_empty())
                .then(|| toml::from_str(&currency).expect("a currency")),
            ..RunOptions::default()
        }
    }

    pub async fn run(&self) -> RunReport {
        run(&self.lake, &self.options(), &Silent).await.expect("the run succeeds")
    }

    /// The day on which each batch was planned.
    pub async fn days_of_batches(&self) -> Vec<String> {
        use clickmill_lake::history::{Series, newest, read};
        let last = newest(&self.lake, Series::Batches).await.expect("lists").unwrap_or(0);
        let mut days = Vec::new();
        for number in 1..=last {
            let batch: clickmill_transform::batch::Batch =
                read(&self.lake, Series::Batches, number).await.expect("reads");
            days.push(batch.created_at.date().to_string());
        }
        days
    }

    pub async fn run_on(&self, lake: &Lake) -> Result<RunReport, TransformError> {
        run(lake, &self.options(), &Silent).await
    }

    pub async fn run_tables(&self, tables: &[&str]) -> RunReport {
        let tables = Some(tables.iter().map(|name| (*name).to_owned()).collect());
        let options = RunOptions { tables, ..self.options() };
        run(&self.lake, &options, &Silent).await.expect("the run succeeds")
    }

    pub async fn table(&self, name: &str) -> Table {
        let spec = match TableSpec::find(name) {
            Some(spec) => spec,
            None => spec_in_log(&self.lake, name).await.expect("opens").expect("a table"),
        };
        Table::open_or_create(&self.lake, spec).await.expect("the table opens")
    }

    pub async fn versions(&self) -> Vec<(&'static str, u64)> {
        let mut versions = Vec::new();
        for spec in TABLES {
            if let Some(table) = Table::open(&self.lake, spec).await.expect("opens") {
                versions.push((spec.name, table.version()));
            }
        }
        versions
    }

    /// The files of one day.
    pub async fn files(&self, table: &str, day: &str) -> Vec<DataFile> {
        let files = self.table(table).await.files().to_vec();
        files.into_iter().filter(|f| f.dt.is_some_and(|dt| dt.to_string() == day)).collect()
    }

    /// The rows of a query as sorted text, NULL as `-`.
    pub async fn sql(&self, sql: &str) -> Vec<String> {
        let config = SessionConfig::new().with_target_partitions(1);
        let session = SessionContext::new_with_config(config);
        register_store(&session.runtime_env(), &self.lake).expect("registers");
        let own = self.jobs.iter().map(|job| job.table.as_str());
        for name in TABLES.iter().map(|spec| spec.name).chain(own) {
            if !sql.contains(name) {
                continue;
            }
            let table = LakeTable::new(&self.table(name).await);
            session.register_table(name, Arc::new(table)).expect("registers");
        }
        texts(&session.sql(sql).await.expect(sql).collect().await.expect(sql))
    }

    /// As [`Self::sql`], of what the session of `clickmill sql` sees.
    pub async fn seen(&self, sql: &str) -> Vec<String> {
        let session = clickmill_query::Session::open(&self.lake).await.expect("opens");
        texts(&session.sql(sql).await.expect(sql))
    }

    /// Every row of every table, but for what says when or in which batch it was done.
    pub async fn everything(&self) -> Vec<(String, Vec<String>)> {
        let mut all = Vec::new();
        let own = self.jobs.iter().map(|job| job.table.as_str());
        for name in TABLES.iter().map(|spec| spec.name).chain(own) {
            let rows = self.sql(&format!("SELECT * FROM {name}")).await;
            all.push((name.to_owned(), rows));
        }
        all
    }
}

/// Rows as sorted text, NULL as `-`.
fn texts(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::new().with_null("-");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<ArrayFormatter<'_>> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).expect("formats"))
            .collect();
        for at in 0..batch.num_rows() {
            let mut row = String::new();
            for (number, column) in columns.iter().enumerate() {
                let comma = if number == 0 { "" } else { "|" };
                let null = batch.column(number).is_null(at);
                let value = if null { "-".to_owned() } else { column.value(at).to_string() };
                let _ = write!(row, "{comma}{value}");
            }
            rows.push(row);
        }
    }
    rows.sort();
    rows
}
