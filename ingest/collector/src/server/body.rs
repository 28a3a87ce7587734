//! Reads a request's body within its limits.

use std::io::Read;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;
use flate2::read::MultiGzDecoder;
use futures::StreamExt;

use super::{BODY_READ_TIMEOUT, MAX_BODY_BYTES, MAX_DISCARDED_BYTES};

/// Why there is no body.
#[derive(Debug)]
pub(super) enum BodyError {
    /// It took longer than [`BODY_READ_TIMEOUT`].
    Slow,
    /// The connection broke.
    Broken,
    /// Over [`MAX_BODY_BYTES`], compressed or not; with what was read so far.
    TooLarge(Vec<u8>),
    /// It says gzip and is not; with the bytes.
    BadGzip(Vec<u8>),
    /// An encoding other than gzip; with the bytes.
    UnknownEncoding(Vec<u8>),
}

/// The body, decompressed. gzip is recognised by its first bytes, too: not
/// every client labels it.
pub(super) async fn read(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, BodyError> {
    let bytes = tokio::time::timeout(BODY_READ_TIMEOUT, receive(body))
        .await
        .map_err(|_| BodyError::Slow)??;
    let encoding = headers.get(CONTENT_ENCODING).map(|value| value.as_bytes().to_ascii_lowercase());
    let gzip = bytes.starts_with(&[0x1f, 0x8b]);
    match encoding.as_deref() {
        _ if gzip => decompress(bytes),
        None | Some(b"" | b"identity") => Ok(bytes),
        Some(b"gzip" | b"x-gzip") if bytes.is_empty() => Ok(bytes),
        // Labelled, but plain: some proxies decompress and leave the label.
        Some(b"gzip" | b"x-gzip") if bytes.starts_with(b"{") => Ok(bytes),
        Some(b"gzip" | b"x-gzip") => Err(BodyError::BadGzip(bytes)),
        Some(_) => Err(BodyError::UnknownEncoding(bytes)),
    }
}

async fn receive(body: Body) -> Result<Vec<u8>, BodyError> {
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.map_err(|_| BodyError::Broken)?);
        if bytes.len() > MAX_BODY_BYTES {
            bytes.truncate(MAX_BODY_BYTES);
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

fn decompress(bytes: Vec<u8>) -> Result<Vec<u8>, BodyError> {
    let mut out = Vec::new();
    let limit = MAX_BODY_BYTES as u64 + 1;
    if MultiGzDecoder::new(bytes.as_slice()).take(limit).read_to_end(&mut out).is_err() {
        return Err(BodyError::BadGzip(bytes));
    }
    if out.len() > MAX_BODY_BYTES {
        out.truncate(MAX_BODY_BYTES);
        return Err(BodyError::TooLarge(out));
    }
    Ok(out)
}
