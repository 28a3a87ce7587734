//! What would hurt: a Kinesis stream's, a delivery stream's and a lake's settings,
//! judged before they do.
//!
//! Rules are pure functions over described values ([`StreamFacts`],
//! [`FirehoseFacts`], [`LakeFacts`]); only [`describe`], [`glue_table_columns`] and [`probe`] ask servers.
//! A finding says what is wrong and how it is put right.
//!
//! # Limits
//! The rate is the caller's, or measured from what the lake's commits landed.

mod describe;
mod firehose;
mod glue;
mod lake;
mod schema;
mod stream;

use serde::Serialize;

pub use describe::{DescribeError, firehose_facts, stream_facts};
pub use firehose::{Conversion, FirehoseFacts, GlueColumn, Source, firehose_findings};
pub use glue::{GlueTable, glue_columns, glue_table_columns};
pub use lake::{LakeFacts, Landed, lake_findings, landed, probe};
pub use stream::{Reading, StreamFacts, stream_findings};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Looked at, and well.
    Ok,
    /// Worth knowing.
    Note,
    /// It will hurt: cost, delay, or answers that readers get wrong.
    Warning,
    /// Data is, or will be, lost.
    Loss,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is of: `kinesis clicks`, `firehose clicks`, `lake`.
    pub subject: String,
    /// A name that stays: `retention`, `shards`, ...
    pub rule: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is so.
    pub text: String,
    /// What to do about it; empty where nothing is to be done.
    pub fix: String,
}

/// What goes through, in a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// Events a second, at the peak.
    pub events: f64,
    /// Bytes of an event as it is sent.
    pub event_bytes: f64,
}

impl Rate {
    /// Bytes a second.
    #[must_use]
    pub fn bytes(&self) -> f64 {
        self.events * self.event_bytes
    }
}

/// Collects findings of one subject.
struct Findings {
    subject: String,
    all: Vec<Finding>,
}

impl Findings {
    fn of(subject: String) -> Self {
        Self { subject, all: Vec::new() }
    }

    fn add(&mut self, rule: &'static str, severity: Severity, text: String, fix: &str) {
        let (subject, fix) = (self.subject.clone(), fix.to_owned());
        self.all.push(Finding { subject, rule, severity, text, fix });
    }

    fn ok(&mut self, rule: &'static str, text: String) {
        self.add(rule, Severity::Ok, text, "");
    }
}
