//! The memory that bodies may take together.
//!
//! Requests in work are many and a body may be megabytes: without a common
//! bound their product would decide how much memory the collector needs. A body
//! takes its share as it arrives and gives it back when it is answered.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of all bodies in work, as they arrived and decompressed. Usual batches
/// are 10 KB: enough for [`super::MAX_REQUESTS`] of ten times that.
pub const MAX_BODIES_BYTES: usize = 256 * 1024 * 1024;

/// All of it.
#[derive(Debug)]
pub(super) struct Room(Arc<Semaphore>);

/// What one request holds of it.
#[derive(Debug)]
pub(super) struct Share {
    room: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

/// There is no more: the client should come again shortly.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Crowded;

impl Room {
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    pub fn share(&self) -> Share {
        Share { room: Arc::clone(&self.0), held: None }
    }
}

impl Share {
    /// Takes `bytes` more, until the share is dropped.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Crowded> {
        let wanted = u32::try_from(bytes).map_err(|_| Crowded)?;
        let more = Arc::clone(&self.room).try_acquire_many_owned(wanted).map_err(|_| Crowded)?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_bounded_together_and_given_back() {
        let room = Room::new(10);
        let (mut first, mut second) = (room.share(), room.share());
        assert_eq!(first.grow(4), Ok(()));
        assert_eq!(second.grow(6), Ok(()));
        assert_eq!(first.grow(1), Err(Crowded));
        drop(second);
        assert_eq!(first.grow(6), Ok(()));
        assert_eq!(room.share().grow(1), Err(Crowded));
        drop(first);
        assert_eq!(room.share().grow(10), Ok(()));
    }
}
