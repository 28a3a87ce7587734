//! `clickmill.toml`, read once. An unknown key is refused with its name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clickmill_transform::{RunOptions, ShopJob, ShopJobError};
use serde::Deserialize;

/// The whole file. Every section is optional.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The lake's URL, when `--lake` and `CLICKMILL_LAKE` do not give one.
    pub lake: Option<String>,
    /// The HTTP collector.
    #[serde(default)]
    pub collector: clickmill_collector::CollectorConfig,
    /// The Kinesis worker.
    #[serde(default)]
    pub deliver: clickmill_delivery::kinesis::DeliverSettings,

    /// Where Firehose delivers to.
    #[serde(default)]
    pub raw: Vec<clickmill_delivery::firehose::RawLocation>,
    /// Where the shop's exports are, by name.
    #[serde(default)]
    pub sources: clickmill_transform::sources::SourcesConfig,
    /// How sessions end.
    #[serde(default)]
    pub sessions: clickmill_transform::SessionsConfig,
    /// How orders are attributed.
    #[serde(default)]
    pub attribution: clickmill_transform::AttributionConfig,
    /// The shop's own columns of `events`.
    #[serde(default)]
    pub columns: clickmill_transform::OwnColumns,
    /// How events get their channel.
    #[serde(default)]
    pub channels: clickmill_transform::ChannelRules,
    /// The currency to report in, and its rates.
    pub currency: Option<clickmill_transform::CurrencyConfig>,
    /// Where the shop's own SQL jobs are.
    #[serde(default)]
    pub jobs: JobsSettings,
    /// What must hold of tables.
    #[serde(default)]
    pub quality: clickmill_transform::QualityConfig,
    /// Mappings of files to events, by name, for `import events`.
    #[serde(default)]
    pub import: std::collections::BTreeMap<String, clickmill_delivery::import::Mapping>,
}

/// Where jobs are looked for when nothing else is said.
const JOBS_FOLDER: &str = "jobs";

/// `[jobs]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobsSettings {
    /// The folder of `*.sql`; `./jobs` where it exists.
    pub path: Option<PathBuf>,
}

impl Config {
    /// Reads `path`, or `./clickmill.toml` where it exists, or the defaults.
    pub fn load(path: Option<&Path>) -> anyhow::Result<Self> {
        let default = Path::new("clickmill.toml");
        let path = match path {
            Some(path) => path,
            None if default.exists() => default,
            None => return Ok(Self::default()),
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("in the configuration {}", path.display()))
    }

    /// What it says of runs.
    pub fn run_options(&self) -> Result<RunOptions, ShopJobError> {
        let default = Path::new(JOBS_FOLDER);
        let shop_jobs = match &self.jobs.path {
            Some(path) => ShopJob::load(path)?,
            None if default.is_dir() => ShopJob::load(default)?,
            None => Vec::new(),
        };
        Ok(RunOptions {
            memory_limit_bytes: crate::memory::default_limit(),
            shop_jobs: shop_jobs.into(),
            quality: Arc::new(self.quality.clone()),
            sources: self.sources.clone(),
            sessions: self.sessions,
            attribution: self.attribution.clone(),
            columns: self.columns.clone(),
            channels: Arc::new(self.channels.clone()),
            currency: self.currency.clone(),
            ..RunOptions::default()
        })
    }
}
