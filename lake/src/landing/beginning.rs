//! Where the delivery of a stream began: at its oldest record, or at a time.
//!
//! `_clickmill/beginnings/<stream>-<creation>.json`, created once by conditional
//! PUT, before the stream's first commit. So all workers of a stream agree, and one
//! that is killed before its first commit starts where it started before.
//! It matters for chains without a commit only: a chain's position always wins.

use object_store::path::Path;
use object_store::{PutMode, PutOptions};

use clickmill_schemas::Timestamp;
use serde::{Deserialize, Serialize};

use super::chain::{content, folders};
use super::{DELIVERY, Source};
use crate::LakeError;
use crate::store::Lake;

/// The folder of all beginnings.
pub const BEGINNINGS: &str = "_clickmill/beginnings";
/// Version of the object's JSON.
pub const BEGINNING_VERSION: u32 = 1;

/// Where the delivery of a stream began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beginning {
    /// [`BEGINNING_VERSION`].
    pub version: u32,
    /// `<stream>-<creation, epoch seconds>`.
    pub stream: String,
    /// Records that arrived at this time or later are delivered; null: all that are there.
    pub from: Option<Timestamp>,
    /// When it was decided, by the writer's clock.
    pub decided_at: Timestamp,
}

/// Who decided where a delivery began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// This call did.
    Now,
    /// It had begun before: what this call wanted was not looked at.
    Before,
}

impl Beginning {
    /// Begins the delivery of the stream `name`, created at that second, at `from`; or
    /// answers where it began already. A stream that has commits but no such object
    /// (a version before this one wrote none) began at its oldest record.
    ///
    /// # Errors
    /// [`LakeError::Source`] for a name that cannot stand in a path,
    /// [`LakeError::Store`], [`LakeError::Corrupt`].
    pub async fn of_stream(
        lake: &Lake,
        name: &str,
        created: i64,
        from: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(Self, Decided), LakeError> {
        let stream = stream(name, created)?;
        let path = path(&stream);
        if let Some(there) = Self::read(lake, &path, &stream).await? {
            return Ok((there, Decided::Before));
        }
        let chains = folders(lake, &Path::from(format!("{DELIVERY}/kinesis/{stream}"))).await?;
        let from = if chains.is_empty() { from } else { None };
        let new = Self { version: BEGINNING_VERSION, stream, from, decided_at: now };
        let corrupt = |error: serde_json::Error| LakeError::Corrupt {
            path: path.to_string(),
            reason: error.to_string(),
        };
        let mut bytes = serde_json::to_vec(&new).map_err(corrupt)?;
        bytes.push(b'\n');
        let options = PutOptions::from(PutMode::Create);
        if let Err(error) = lake.store().put_opts(&path, bytes.into(), options).await {
            // Another worker was first, or this PUT was repeated inside the client.
            match Self::read(lake, &path, &new.stream).await? {
                Some(there) if there != new => return Ok((there, Decided::Before)),
                Some(_) => {}
                None => return Err(LakeError::store("write", &path, error)),
            }
        }
        let decided = if chains.is_empty() { Decided::Now } else { Decided::Before };
        Ok((new, decided))
    }

    /// Where the delivery of that stream began; `None` where nothing says so.
    ///
    /// # Errors
    /// As [`Beginning::of_stream`].
    pub async fn find(lake: &Lake, name: &str, created: i64) -> Result<Option<Self>, LakeError> {
        let stream = stream(name, created)?;
        Self::read(lake, &path(&stream), &stream).await
    }

    async fn read(lake: &Lake, path: &Path, stream: &str) -> Result<Option<Self>, LakeError> {
        let Some(bytes) = content(&**lake.store(), path).await? else { return Ok(None) };
        let corrupt = |reason: String| LakeError::Corrupt { path: path.to_string(), reason };
        let read: Self =
            serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        if read.version != BEGINNING_VERSION || read.stream != stream {
            return Err(corrupt(format!(
                "it is version {} and of {}: a newer clickmill wrote it, or somebody else",
                read.version, read.stream
            )));
        }
        Ok(Some(read))
    }
}

fn stream(name: &str, created: i64) -> Result<String, LakeError> {
    // A stream's name is as restricted as its shards' are.
    Source::kinesis(name, created, "shard")?;
    Ok(format!("{name}-{created}"))
}

fn path(stream: &str) -> Path {
    Path::from(BEGINNINGS).join(format!("{stream}.json"))
}
