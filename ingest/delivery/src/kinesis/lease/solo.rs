//! No table: this worker reads every shard, whoever else does.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::{Change, Held, Lease, LeaseError, LeaseTable, View};

/// Leases that nobody else sees.
#[derive(Debug)]
pub(in super::super) struct SoloTable {
    me: String,
    leases: Mutex<BTreeMap<String, Lease>>,
}

impl SoloTable {
    pub fn new(me: &str) -> Self {
        Self { me: me.to_owned(), leases: Mutex::default() }
    }
}

#[async_trait]
impl LeaseTable for SoloTable {
    async fn view(&self) -> Result<View, LeaseError> {
        let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(View { leases, pulses: Vec::new() })
    }

    async fn beat(&self, _: &[Held]) -> Result<(), LeaseError> {
        Ok(())
    }

    async fn change(
        &self,
        shard: &str,
        seen: Option<&Lease>,
        change: Change,
    ) -> Result<Option<Lease>, LeaseError> {
        let lease = Lease::next(shard, seen, change, &self.me);
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.insert(shard.to_owned(), lease.clone());
        Ok(Some(lease))
    }

    async fn forget(&self, gone: &[Lease]) -> Result<(), LeaseError> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.retain(|shard, _| gone.iter().all(|lease| lease.shard != *shard));
        Ok(())
    }

    async fn bury(&self, _: &[String]) -> Result<(), LeaseError> {
        Ok(())
    }
}
