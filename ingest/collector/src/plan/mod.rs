//! The tracking plan: what a shop says its events look like, and the check of
//! each event against it.
//!
//! # Guarantees
//! - An event is never dropped or changed for the plan's sake. The outcome
//!   stands in its column `validation`: `ok`, or the first violation found.
//! - A violation is `CODE` or `CODE:FIELD`; see [`Violation`]. `FIELD` is a
//!   name out of the plan, never text that a client sent, so the number of
//!   different outcomes is bounded by the plan.
//! - A plan that says something impossible is refused when it is read, with
//!   the event and field at fault ([`PlanError`]).
//!
//! # Format
//! TOML, version 1, described in `docs/tracking-plan.md`; `Plan::parse` reads
//! it. An event's fields are looked for among its columns first (`order_id`,
//! `total`, `user_id`, ...: [`columns`](self)), then in its `properties`, where
//! a dot leads into an object.

mod check;
mod file;
mod reload;
mod value;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

pub(crate) use check::OK;
pub use check::Violation;
pub use reload::{PlanFile, RELOAD_EVERY};

use value::{Column, ItemColumn, Kind};

/// A tracking plan that makes sense.
#[derive(Clone, Debug)]
pub struct Plan {
    version: String,
    unplanned_events: Unplanned,
    events: HashMap<String, EventPlan>,
}

/// What the plan says of one event.
#[derive(Clone, Debug)]
struct EventPlan {
    /// In the order of their names.
    fields: Vec<Rule<Place>>,
    /// Properties that may be there: `None` where any may.
    only: Option<Vec<String>>,
    min_items: usize,
    items: Vec<Rule<ItemColumn>>,
}

/// What the plan says of one field.
#[derive(Clone, Debug)]
struct Rule<P> {
    /// As violations call it.
    name: String,
    place: P,
    kind: Kind,
    required: bool,
    /// Empty where anything goes.
    allowed: Vec<String>,
    min: Option<f64>,
    max: Option<f64>,
    /// Characters.
    max_length: Option<usize>,
}

/// Where a field is.
#[derive(Clone, Debug)]
enum Place {
    /// In a column; a value that its column could not hold is still in the properties.
    Column(Column),
    /// In the properties, level by level.
    Property(Vec<String>),
}

/// What becomes of what the plan does not name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Unplanned {
    #[default]
    Flag,
    Allow,
}

/// Why a file is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// It cannot be read.
    #[error("cannot read the tracking plan {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is not TOML, or has a key that plans do not have.
    #[error("in the tracking plan{}", In(path.as_ref()))]
    Syntax {
        /// The file, where it came from one.
        path: Option<PathBuf>,
        /// What and where.
        source: Box<toml::de::Error>,
    },
    /// It is of a format that this version does not know.
    #[error("the tracking plan has format = {found}; this version reads format = {FORMAT}")]
    Format {
        /// What it says.
        found: u32,
    },
    /// An event's name is another one's.
    #[error(
        "the tracking plan's event `{name}` is recorded as `{canonical}`: write [events.{canonical}]"
    )]
    Name {
        /// As in the plan.
        name: String,
        /// As in the column `event_name`.
        canonical: &'static str,
    },
    /// A field's rule cannot hold.
    #[error("in the tracking plan, event `{event}`, field `{field}`: {problem}")]
    Rule {
        /// The event.
        event: String,
        /// The field.
        field: String,
        /// What is wrong, and what to do.
        problem: String,
    },
}

/// The format that this version reads.
pub const FORMAT: u32 = 1;

/// ` FILE`, or nothing.
struct In<'a>(Option<&'a PathBuf>);

impl fmt::Display for In<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |path| write!(f, " {}", path.display()))
    }
}

impl Plan {
    /// The plan's own version, as its author counts.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// How many events it describes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// True where it describes none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
