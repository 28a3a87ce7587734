//! What every request passes before its route sees it, and its answer after.
//!
//! The client's address comes in here and goes no further: it pays for the
//! request ([`AddressLimit`]), becomes a [`Place`], and is dropped. Routes find
//! the place and [`Local`] among the request's extensions.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;

use super::client::{TrustedProxies, is_local};
use super::geo::{GeoIp, KeepNetwork, Place};
use super::limits::AddressLimit;
use super::reply::{self, Code};
use crate::metrics::Metrics;

/// The request line and headers of a request: path and query, and each header
/// with its name, its value and four bytes of punctuation. Pixel requests
/// carry whole events in their query; the longest URLs that browsers and
/// proxies let through are around 64 KB.
pub const MAX_HEADER_BYTES: usize = 64 * 1024;
/// From a request's headers to its answer. Reading the body has its own,
/// shorter limit; beyond that only a disk that hangs takes so long.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The address at the other end of the connection.
#[derive(Clone, Copy)]
pub(super) struct Peer(pub IpAddr);

/// A process on this machine asks for itself.
#[derive(Clone, Copy)]
pub(super) struct Local;

/// What the gate knows.
#[derive(Debug)]
pub(super) struct Gate {
    pub metrics: Arc<Metrics>,
    pub trusted: TrustedProxies,
    pub addresses: Option<AddressLimit>,
    pub geo: Option<GeoIp>,
    pub keep_network: KeepNetwork,
    pub started: Instant,
}

/// Outermost: counts the answer.
pub(super) async fn count(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let response = next.run(request).await;
    gate.metrics.request_seconds.observe(began.elapsed());
    gate.metrics.requests.with([response.status().as_str()]).inc();
    if let Some(Code(code)) = response.extensions().get::<Code>() {
        gate.metrics.requests_refused.with([code]).inc();
    }
    response
}

/// Inside of CORS, so that a browser can read what it is refused for.
pub(super) async fn pass(
    State(gate): State<Arc<Gate>>,
    mut request: Request,
    next: Next,
) -> Response {
    if header_bytes(&request) > MAX_HEADER_BYTES {
        let message = format!("path, query and headers have at most {MAX_HEADER_BYTES} bytes");
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return reply::error(status, "headers_too_large", &message);
    }
    if let Some(peer) = take_peer(&mut request) {
        let client = gate.trusted.client(peer, request.headers());
        if let Some(limit) = &gate.addresses
            && let Err(wait) = limit.take(client, gate.started.elapsed())
        {
            return reply::too_many("address_rate_limit", "too many requests", wait);
        }
        if is_local(peer, request.headers()) {
            request.extensions_mut().insert(Local);
        }
        let place = Place::of(client, gate.geo.as_ref(), gate.keep_network);
        request.extensions_mut().insert(place);
    }
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => reply::hanging(),
    }
}

/// From our own listener, or from the host's where it serves the router.
fn take_peer(request: &mut Request) -> Option<IpAddr> {
    let extensions = request.extensions_mut();
    let peer = extensions.remove::<Peer>().map(|Peer(address)| address);
    peer.or_else(|| extensions.remove::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip()))
}

fn header_bytes(request: &Request) -> usize {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let headers = request.headers().iter();
    target + headers.map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>()
}
