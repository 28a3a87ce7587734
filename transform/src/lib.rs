//! Raw zone + the shop's exports -> the lake's tables, batch by batch.
//!
//! [`run`] finds what is new, writes it down as a batch, computes every table
//! from it and commits each exactly once. Same inputs give the same rows,
//! however often a run was interrupted.
//!
//! [`run`]: run::run

pub mod audit;
pub mod backfill;
pub mod batch;
mod columns;
mod credit;
mod currency;
mod decode;
mod dedupe;
mod error;
mod fresh;
mod identity;
pub mod jobs;
mod quality;
mod record;
mod rejects;
pub mod replay;
pub mod run;
mod sessionize;
mod shop;
pub mod sources;
pub mod status;
mod step;
mod watch;

pub use columns::OwnColumns;
pub use currency::CurrencyConfig;
pub use decode::channels::ChannelRules;
pub use error::TransformError;
pub use quality::QualityConfig;
pub use run::{
    AttributionConfig, BatchReport, DailyJobs, JobReport, Progress, RunOptions, RunReport, Silent,
    check, run,
};
pub use sessionize::SessionsConfig;
pub use shop::{Mode, ShopJob, ShopJobError};
