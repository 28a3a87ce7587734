//! Which rule distinct traffic had: events of one campaign or site ask for the same.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// Distinct traffic whose channel is kept; beyond it the cache starts anew.
const MAX_KNOWN: usize = 100_000;

/// By a key of the traffic. It is no part of what the rules are: a copy knows nothing, and
/// all are equal.
#[derive(Debug, Default)]
pub(super) struct Known(RwLock<HashMap<Box<str>, Found>>);

/// What decides a channel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    /// The shop's rule of that place.
    Own(usize),
    /// A default one.
    Default(&'static str),
}

impl Known {
    /// What was found for the key, or is by `decide` now.
    pub fn of(&self, key: String, decide: impl FnOnce() -> Found) -> Found {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(key.as_str()).copied();
        drop(known);
        found.unwrap_or_else(|| {
            let found = decide();
            let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
            known.insert(key.into_boxed_str(), found);
            found
        })
    }
}

impl Clone for Known {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Known {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Known {}
