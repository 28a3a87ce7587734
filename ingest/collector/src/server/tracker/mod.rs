//! `/t.js`: our own browser tracker, the same for every shop.
//!
//! `t.js` is the source, `t.min.js` what is served: the source through terser,
//! pinned in `tests/clients/package.json`, with the options in that file's
//! `tracker` script; `tests/pipeline/test_tracker.py` holds the two together.
//! It is compressed once. The write key stands in the page's `data-key`, so
//! that caches hold one copy for all. How it is used: docs/tracker.md.
//!
//! # Limits
//! [`MAX_COMPRESSED_BYTES`] over the wire (a test).

use std::io::Write;
use std::sync::LazyLock;

use axum::Router;
use axum::body::Bytes;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;

const SCRIPT: &str = include_str!("t.min.js");

/// What a visitor's browser loads at most, compressed by gzip.
#[cfg(test)]
const MAX_COMPRESSED_BYTES: usize = 3_000;

/// A browser asks again after an hour, and shows the page meanwhile: a new
/// version reaches everybody within a day of the collector's update.
const CACHE: HeaderValue =
    HeaderValue::from_static("public, max-age=3600, stale-while-revalidate=82800");
/// Pages that isolate themselves (COEP) load it, too.
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");

/// `None` is never seen: writing to memory does not fail. It is served plain then.
static COMPRESSED: LazyLock<Option<Bytes>> = LazyLock::new(|| {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(SCRIPT.as_bytes()).ok()?;
    encoder.finish().ok().map(Bytes::from)
});

/// Weak, because it is the same for both encodings.
static TAG: LazyLock<String> =
    LazyLock::new(|| format!("W/\"{:x}-{:08x}\"", SCRIPT.len(), crc32c::crc32c(SCRIPT.as_bytes())));

/// The route, for GET and HEAD.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/t.js", get(|headers: HeaderMap| async move { answer(&headers) }))
}

fn answer(request: &HeaderMap) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(CACHE_CONTROL, CACHE);
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    if let Ok(tag) = HeaderValue::from_str(&TAG) {
        headers.insert(ETAG, tag);
    }
    let listed = |name, wanted: &dyn Fn(&str) -> bool| {
        request
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|one| wanted(one.trim())))
    };
    if listed(IF_NONE_MATCH, &|one| one == "*" || one == *TAG) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/javascript; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));
    match &*COMPRESSED {
        Some(compressed) if listed(ACCEPT_ENCODING, &takes_gzip) => {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            (headers, compressed.clone()).into_response()
        }
        _ => (headers, SCRIPT).into_response(),
    }
}

/// One entry of Accept-Encoding, `gzip;q=0.8`; `q=0` means no.
fn takes_gzip(entry: &str) -> bool {
    let mut parts = entry.split(';').map(str::trim);
    let gzip = parts.next().is_some_and(|coding| coding.eq_ignore_ascii_case("gzip"));
    let refused = parts
        .filter_map(|parameter| parameter.strip_prefix("q="))
        .any(|weight| weight.parse::<f32>().is_ok_and(|weight| weight <= 0.0));
    gzip && !refused
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use axum::body::to_bytes;
    use flate2::read::GzDecoder;

    use super::*;

    async fn get(headers: &[(HeaderName, &str)]) -> (StatusCode, HeaderMap, Bytes) {
        let mut request = HeaderMap::new();
        for (name, value) in headers {
            request.append(name, value.parse().expect("header"));
        }
        let (parts, body) = answer(&request).into_parts();
        (parts.status, parts.headers, to_bytes(body, usize::MAX).await.expect("body"))
    }

    #[tokio::test]
    async fn it_is_small_and_compressed_only_where_that_is_understood() {
        for refusing in
            [&[][..], &[(ACCEPT_ENCODING, "br, gzip;q=0")], &[(ACCEPT_ENCODING, "xgzip")]]
        {
            let (status, headers, body) = get(refusing).await;
            assert_eq!(status, StatusCode::OK);
            assert_eq!(headers.get(CONTENT_ENCODING), None);
            assert_eq!(body, SCRIPT);
        }
        let (status, headers, body) = get(&[(ACCEPT_ENCODING, "deflate, gzip;q=0.8, br")]).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers[CONTENT_ENCODING], "gzip");
        assert_eq!(headers[CONTENT_TYPE], "text/javascript; charset=utf-8");
        assert_eq!(headers[VARY], "Accept-Encoding");
        assert!(body.len() <= MAX_COMPRESSED_BYTES, "{} bytes", body.len());
        let mut text = String::new();
        GzDecoder::new(&*body).read_to_string(&mut text).expect("gzip");
        assert_eq!(text, SCRIPT);
    }

    #[tokio::test]
    async fn a_browser_that_has_it_gets_no_body() {
        let (_, headers, _) = get(&[]).await;
        let tag = headers[ETAG].to_str().expect("text").to_owned();
        for having in [tag.clone(), format!("\"other\", {tag}"), "*".to_owned()] {
            let (status, headers, body) = get(&[(IF_NONE_MATCH, &having)]).await;
            assert_eq!(status, StatusCode::NOT_MODIFIED, "{having}");
            assert_eq!(
                (headers[ETAG].to_str().expect("text"), &headers[CACHE_CONTROL]),
                (&*tag, &CACHE)
            );
            assert!(body.is_empty());
        }
        let (status, ..) = get(&[(IF_NONE_MATCH, "W/\"1-00000000\"")]).await;
        assert_eq!(status, StatusCode::OK);
    }
}
