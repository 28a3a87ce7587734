//! Reads a request's body within its limits.

use std::io::Read;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;
use flate2::read::MultiGzDecoder;
use futures::StreamExt;

use super::MAX_DISCARDED_BYTES;
use super::room::{Crowded, Share};
use crate::metrics::Metrics;

/// The first bytes of gzip (RFC 1952, section 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Why there is no body.
#[derive(Debug)]
pub(super) enum BodyError {
    /// It took too long.
    Slow,
    /// The connection broke.
    Broken,
    /// Over the limit, compressed or not; with what was read so far,
    /// decompressed.
    TooLarge(Vec<u8>),
    /// It says gzip and is not, or breaks off; with what could be decompressed.
    BadGzip(Vec<u8>),
    /// An encoding other than gzip.
    UnknownEncoding,
    /// Too many bytes of other bodies are in work.
    Crowded,
}

/// The body, decompressed. gzip is recognised by its first bytes, too: not
/// every client labels it.
/// `most` holds for it compressed and not.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    most: usize,
    time: Duration,
    share: &mut Share,
    metrics: &Metrics,
) -> Result<Vec<u8>, BodyError> {
    let received = tokio::time::timeout(time, receive(body, most, share, metrics)).await;
    let bytes = match received.map_err(|_| BodyError::Slow)? {
        Err(BodyError::TooLarge(bytes)) if bytes.starts_with(&GZIP) => {
            // What is kept of it has to be readable, so that its addresses can be taken out.
            return Err(match decompress(&bytes, most, share) {
                Ok(out) | Err(BodyError::BadGzip(out)) => BodyError::TooLarge(out),
                Err(error) => error,
            });
        }
        received => received?,
    };
    let encoding = headers.get(CONTENT_ENCODING).map(|value| value.as_bytes().to_ascii_lowercase());
    let gzip = bytes.starts_with(&GZIP);
    match encoding.as_deref() {
        _ if gzip => decompress(&bytes, most, share),
        None | Some(b"" | b"identity") => Ok(bytes),
        Some(b"gzip" | b"x-gzip") if bytes.is_empty() => Ok(bytes),
        // Labelled, but plain: some proxies decompress and leave the label.
        Some(b"gzip" | b"x-gzip") if bytes.starts_with(b"{") => Ok(bytes),
        Some(b"gzip" | b"x-gzip") => Err(BodyError::BadGzip(bytes)),
        Some(_) => Err(BodyError::UnknownEncoding),
    }
}

async fn receive(
    body: Body,
    most: usize,
    share: &mut Share,
    metrics: &Metrics,
) -> Result<Vec<u8>, BodyError> {
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| BodyError::Broken)?;
        metrics.body_bytes.add(chunk.len() as u64);
        share.grow(chunk.len()).map_err(|Crowded| BodyError::Crowded)?;
        bytes.extend_from_slice(&chunk);
        if bytes.len() > most {
            bytes.truncate(most);
            let mut discarded = 0;
            while let Some(Ok(chunk)) = stream.next().await {
                discarded += chunk.len();
                if discarded > MAX_DISCARDED_BYTES {
                    break;
                }
            }
            return Err(BodyError::TooLarge(bytes));
        }
    }
    Ok(bytes)
}

fn decompress(bytes: &[u8], most: usize, share: &mut Share) -> Result<Vec<u8>, BodyError> {
    // No more than it can become: deflate expands 1,032 times at most (zlib's technical details).
    let largest = most.min(bytes.len().saturating_mul(1_032));
    share.grow(largest).map_err(|Crowded| BodyError::Crowded)?;
    let mut out = Vec::new();
    let limit = most as u64 + 1;
    if MultiGzDecoder::new(bytes).take(limit).read_to_end(&mut out).is_err() {
        return Err(BodyError::BadGzip(out));
    }
    if out.len() > most {
        out.truncate(most);
        return Err(BodyError::TooLarge(out));
    }
    Ok(out)
}
