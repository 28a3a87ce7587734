//! `clickmill.toml`, read once. An unknown key is refused with its name.

use std::path::Path;

use anyhow::Context as _;
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
    /// How orders are attributed.
    #[serde(default)]
    pub attribution: clickmill_transform::AttributionConfig,
    /// Mappings of files to events, by name, for `import events`.
    #[serde(default)]
    pub import: std::collections::BTreeMap<String, clickmill_delivery::import::Mapping>,
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
}
