//! Lines of one source, of one kind and one hour, on their way into an object.

use std::collections::BTreeSet;
use std::sync::Arc;

use clickmill_schemas::{Date, Timestamp};
use object_store::path::Path;
use object_store::{Error, ObjectStore, PutMode, PutOptions, PutPayload};

use super::RawKind;
use super::body::{Body, RawFormat};
use crate::LakeError;
use crate::landing::{LandedObject, Section};

/// An hour of one kind, in one format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Partition {
    pub kind: RawKind,
    pub date: Date,
    pub hour: u8,
    pub format: RawFormat,
}

impl Partition {
    pub fn of(kind: RawKind, received: Timestamp, format: RawFormat) -> Self {
        Self { kind, date: received.date(), hour: received.hour(), format }
    }

    fn folder(self) -> Path {
        Path::from(format!("raw/{}/dt={}/hour={:02}", self.kind, self.date, self.hour))
    }

    /// Writes an object of this name, or of that name and eight hex digits where it is taken.
    /// `crc` is the payload's.
    pub async fn put(
        self,
        store: &dyn ObjectStore,
        name: &str,
        payload: PutPayload,
        crc: u32,
    ) -> Result<StoredObject, LakeError> {
        let bytes = payload.content_length() as u64;
        let extension = self.format.extension();
        let mut path = self.folder().join(format!("{name}.{extension}"));
        let create = || PutOptions::from(PutMode::Create);
        clickmill_failpoint::hit("raw.before_put");
        let mut put = store.put_opts(&path, payload.clone(), create()).await;
        if let Err(Error::AlreadyExists { .. }) = put {
            // An attempt that never committed, or this one, repeated inside the
            // client. Either way nobody may count on what lies there.
            let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
            path = self.folder().join(format!("{name}.{:08x}.{extension}", random >> 32));
            put = store.put_opts(&path, payload, create()).await;
        }
        let put = put.map_err(|error| LakeError::store("write", &path, error))?;
        clickmill_failpoint::hit("raw.put");
        let (path, etag) = (path.to_string(), put.e_tag);
        Ok(StoredObject { path, kind: self.kind, bytes, crc32c: format!("{crc:08x}"), etag })
    }
}

/// An object that was written, as all commits that name it say.
pub(super) struct StoredObject {
    path: String,
    kind: RawKind,
    bytes: u64,
    crc32c: String,
    etag: Option<String>,
}

impl StoredObject {
    /// What the commit of these lines is to name; `None` where there are none.
    pub fn landed(&self, run: Run, section: Option<Section>) -> Option<LandedObject> {
        let (min_received_ts, max_received_ts) = run.received_ts?;
        Some(LandedObject {
            path: self.path.clone(),
            kind: self.kind,
            records: run.records,
            section,
            bytes: self.bytes,
            crc32c: self.crc32c.clone(),
            etag: self.etag.clone(),
            event_dates: run.event_dates.into_iter().collect(),
            min_received_ts,
            max_received_ts,
        })
    }
}

/// Lines that a [`super::RawWriter`] gathered and did not write; see [`super::RawWriter::pieces`].
pub struct Piece {
    pub(super) partition: Partition,
    pub(super) body: Body,
    pub(super) bytes_in: u64,
    pub(super) run: Run,
}

/// What is known of lines that stand one after the other, beside the lines themselves.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// Of their source.
    pub stem: Arc<str>,
    pub records: u64,
    /// Positions of the first and last of them.
    pub first: String,
    pub last: String,
    pub event_dates: BTreeSet<Date>,
    /// Least and greatest; `None` before the first line.
    pub received_ts: Option<(Timestamp, Timestamp)>,
}

impl Piece {
    pub(super) fn new(partition: Partition, stem: &Arc<str>, first: &str) -> Self {
        let run = Run {
            stem: Arc::clone(stem),
            records: 0,
            first: first.to_owned(),
            last: first.to_owned(),
            event_dates: BTreeSet::new(),
            received_ts: None,
        };
        Self { partition, body: Body::new(partition.format), bytes_in: 0, run }
    }

    /// Memory that it takes, about.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.body.memory()
    }

    /// Bytes that it would have in the store, about.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.body.stored_bytes()
    }

    /// Takes note of a line that was added to the body.
    pub(super) fn note(
        &mut self,
        received: Timestamp,
        event_date: Option<Date>,
        bytes: usize,
        position: &str,
    ) {
        self.bytes_in += bytes as u64 + 1;
        let run = &mut self.run;
        run.records += 1;
        if run.last != position {
            position.clone_into(&mut run.last);
        }
        run.event_dates.extend(event_date);
        let (min, max) = run.received_ts.unwrap_or((received, received));
        run.received_ts = Some((min.min(received), max.max(received)));
    }
}

impl Run {
    /// Both, one after the other.
    pub fn and(mut self, next: Self) -> Self {
        let both = self.received_ts.zip(next.received_ts);
        self.received_ts = both
            .map(|((min, max), (low, high))| (min.min(low), max.max(high)))
            .or(self.received_ts)
            .or(next.received_ts);
        self.records += next.records;
        self.last = next.last;
        self.event_dates.extend(next.event_dates);
        self
    }
}
