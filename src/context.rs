//! What every verb is handed: the configuration and where the lake is.

use crate::config::Config;

/// Typed settings, flags and environment already laid over the file.
pub struct Context {
    pub config: Config,
    /// A folder or a URL, as the user wrote it.
    pub lake: String,
}

impl Context {
    pub fn new(config: Config, lake: Option<String>) -> Self {
        let lake = lake.or_else(|| config.lake.clone()).unwrap_or_else(|| "./lake".to_owned());
        Self { config, lake }
    }
}
