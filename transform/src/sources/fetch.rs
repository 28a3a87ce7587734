//! Bytes of an export's files, of the very version that was found: every GET
//! carries the ETag.

use std::collections::HashMap;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes};
use clickmill_lake::Lake;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use md5::{Digest as _, Md5};
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use tokio::sync::mpsc;

use super::{InputFile, SourceError};

/// The name of the lake itself in [`InputFile::location`].
pub(super) const LAKE: &str = "lake";
/// Pieces of a download that wait to be decoded, at most.
const PIECES_AHEAD: usize = 4;
/// A file with a checksum up to this size is held in memory between checking
/// and decoding; a larger one is downloaded twice.
const MAX_HELD_BYTES: u64 = 64 * 1024 * 1024;
/// Ranges of a Parquet file that lie closer than this are fetched as one.
const COALESCE_BYTES: u64 = 1024 * 1024;

/// Why a file gives no more bytes.
#[derive(Debug)]
pub(super) enum Fault {
    /// Another version lies at its path now.
    Replaced,
    /// Nothing lies at its path now.
    Gone,
    /// The store did not answer, or refused.
    Store(Box<object_store::Error>),
    /// The bytes are not what a manifest or a format says.
    Damaged(String),
}

impl From<object_store::Error> for Fault {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::Precondition { .. } => Self::Replaced,
            object_store::Error::NotFound { .. } => Self::Gone,
            other => Self::Store(Box::new(other)),
        }
    }
}

impl From<ParquetError> for Fault {
    fn from(error: ParquetError) -> Self {
        match error {
            ParquetError::External(inner) => match inner.downcast::<object_store::Error>() {
                Ok(error) => (*error).into(),
                Err(other) => Self::Damaged(other.to_string()),
            },
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl InputFile {
    /// Its name for a person.
    pub(super) fn object(&self) -> String {
        match self.location.as_str() {
            LAKE => self.path.clone(),
            url => format!("{url}{}", self.path),
        }
    }
}

/// The stores of an export's files, each opened once.
pub(super) struct Stores {
    open: HashMap<String, Arc<dyn ObjectStore>>,
}

impl Stores {
    pub(super) fn new(lake: &Lake) -> Self {
        Self { open: HashMap::from([(LAKE.to_owned(), Arc::clone(lake.store()))]) }
    }

    pub(super) async fn get(
        &mut self,
        source_name: &str,
        location: &str,
    ) -> Result<Arc<dyn ObjectStore>, SourceError> {
        if let Some(store) = self.open.get(location) {
            return Ok(Arc::clone(store));
        }
        let (store, _url) =
            clickmill_lake::open_store(location).await.map_err(|source| SourceError::Open {
                source_name: source_name.to_owned(),
                path: location.to_owned(),
                source: Box::new(source),
            })?;
        self.open.insert(location.to_owned(), Arc::clone(&store));
        Ok(store)
    }
}

/// GETs of one version of one file.
#[derive(Clone)]
pub(super) struct Pinned {
    store: Arc<dyn ObjectStore>,
    path: Path,
    etag: Option<String>,
    bytes: u64,
}

impl Pinned {
    pub(super) fn new(store: Arc<dyn ObjectStore>, file: &InputFile) -> Result<Self, Fault> {
        let path = Path::parse(&file.path)
            .map_err(|e| Fault::Damaged(format!("{} is not a path: {e}", file.path)))?;
        let etag = (!file.etag.is_empty()).then(|| file.etag.clone());
        Ok(Self { store, path, etag, bytes: file.bytes })
    }

    async fn get(
        &self,
        range: Option<Range<u64>>,
    ) -> object_store::Result<object_store::GetResult> {
        let options = GetOptions {
            if_match: self.etag.clone(),
            range: range.map(Into::into),
            ..GetOptions::default()
        };
        self.store.get_opts(&self.path, options).await
    }

    /// A reader of the whole file for a blocking decoder, its checksum verified
    /// before the first byte where the manifest gives one.
    pub(super) async fn reader(&self, md5_base64: Option<&str>) -> Result<Body, Fault> {
        if let Some(expected) = md5_base64 {
            let held = self.verify(expected).await?;
            if let Some(bytes) = held {
                return Ok(Body::held(bytes));
            }
        }
        let mut pieces = self.get(None).await?.into_stream();
        let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
        // Ends when the file does, or when the decoder drops the receiver.
        tokio::spawn(async move {
            while let Some(piece) = pieces.next().await {
                if sender.send(piece).await.is_err() {
                    break;
                }
            }
        });
        Ok(Body { pieces: Some(receiver), current: Bytes::new(), failure: Arc::default() })
    }

    /// Checks the MD5; gives the bytes back where they are few.
    async fn verify(&self, expected: &str) -> Result<Option<Bytes>, Fault> {
        let mut md5 = Md5::new();
        let hold = self.bytes <= MAX_HELD_BYTES;
        let mut held = Vec::new();
        let mut pieces = self.get(None).await?.into_stream();
        while let Some(piece) = pieces.try_next().await? {
            md5.update(&piece);
            if hold {
                held.extend_from_slice(&piece);
            }
        }
        let actual = STANDARD.encode(md5.finalize());
        if actual != expected {
            return Err(Fault::Damaged(format!(
                "its MD5 is {actual}, the manifest says {expected}; copy the export again"
            )));
        }
        Ok(hold.then(|| held.into()))
    }
}

/// A download as [`Read`]. Only for threads that may block.
pub(super) struct Body {
    pieces: Option<mpsc::Receiver<object_store::Result<Bytes>>>,
    current: Bytes,
    failure: Failure,
}

/// The store's error behind an [`io::Error`] of a [`Body`], to tell it from damaged data.
pub(super) type Failure = Arc<Mutex<Option<object_store::Error>>>;

impl Body {
    fn held(bytes: Bytes) -> Self {
        Self { pieces: None, current: bytes, failure: Arc::default() }
    }

    /// Where the store's error will be, should reading fail.
    pub(super) fn failure(&self) -> Failure {
        Arc::clone(&self.failure)
    }
}

/// Takes the store's error, if that is why reading failed.
pub(super) fn take_failure(failure: &Failure) -> Option<object_store::Error> {
    failure.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let Some(pieces) = &mut self.pieces else { return Ok(0) };
            match pieces.blocking_recv() {
                Some(Ok(piece)) => self.current = piece,
                Some(Err(error)) => {
                    *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return Err(io::Error::other("the store failed"));
                }
                None => return Ok(0),
            }
        }
        let taken = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}

/// Undoes gz or zstd, told by the first bytes, since names lie.
///
/// # Errors
/// What reading those first bytes, or zstd's set-up, gives.
pub(super) fn decompressed(mut body: Body) -> io::Result<Box<dyn Read + Send>> {
    let mut magic = Vec::with_capacity(4);
    body.by_ref().take(4).read_to_end(&mut magic)?;
    let gz = magic.starts_with(&[0x1f, 0x8b]);
    let zst = magic == [0x28, 0xb5, 0x2f, 0xfd];
    let whole = Read::chain(io::Cursor::new(magic), body);
    Ok(if gz {
        Box::new(flate2::read::MultiGzDecoder::new(whole))
    } else if zst {
        Box::new(zstd::stream::read::Decoder::new(whole)?)
    } else {
        Box::new(whole)
    })
}

impl AsyncFileReader for Pinned {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        async move {
            let piece = self.get(Some(range)).await.map_err(external)?;
            piece.bytes().await.map_err(external)
        }
        .boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        async move {
            let fetch = |range| async { self.get(Some(range)).await?.bytes().await };
            object_store::coalesce_ranges(&ranges, fetch, COALESCE_BYTES).await.map_err(external)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let bytes = self.bytes;
            let metadata = ParquetMetaDataReader::new().load_and_finish(self, bytes).await?;
            Ok(Arc::new(metadata))
        }
        .boxed()
    }
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}
