//! The accept loop, and the life of a connection.
//!
//! # Guarantees
//! - At most [`ConnectionLimits::max_connections`] are open. While all are
//!   taken, new ones wait in the system's backlog, and connections without a
//!   request in work are closed after [`ConnectionLimits::idle_when_full`]
//!   instead of [`ConnectionLimits::idle`], so that a herd of idle ones does
//!   not lock others out.
//! - A client that is slow with its handshake, its headers or with reading the
//!   answer is cut off; a slow body is the route's to end.
//! - An accept that fails (no file descriptors) is tried again after
//!   [`ACCEPT_PAUSE`]; it never ends the server.
//! - At the end: no new connections, the request that each connection is at is
//!   answered with `Connection: close` (HTTP/2: GOAWAY), and what takes longer
//!   than the grace is cut off.
//!
//! HTTP/1.1 in the clear; over TLS HTTP/2 or HTTP/1.1, as ALPN says.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use super::activity::{Activity, Expired};
use super::gate::{MAX_HEADER_BYTES, Peer};
use super::tls::Tls;
use super::{BODY_READ_TIMEOUT, STOP_GRACE};
use crate::metrics::Metrics;

/// Connections that are open at once. Each needs a file descriptor; the usual
/// limit of a service is raised with `LimitNOFILE=` or `ulimit -n`.
pub const MAX_CONNECTIONS: usize = 8_192;
/// How long headers may take from their first byte on.
pub const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a TLS handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection stays open without a request: longer than the 60 s
/// that load balancers keep theirs by default, so that they close first.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// The same while all connections are taken.
pub const IDLE_TIMEOUT_WHEN_FULL: Duration = Duration::from_secs(2);
/// Requests at once on one HTTP/2 connection.
pub const MAX_HTTP2_STREAMS: u32 = 100;
/// Header lines of a request.
pub const MAX_HEADERS: usize = 100;
/// After an accept that failed.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An accept error is logged once in so many.
const LOG_ACCEPT_ERROR_EVERY: u64 = 600;
/// How long a connection that is being closed may take to say so.
const CLOSE_GRACE: Duration = Duration::from_secs(1);
/// An HTTP/2 peer that is silent for so long is asked for a sign of life.
const HTTP2_PING_EVERY: Duration = Duration::from_secs(30);
/// hyper's buffer for headers is somewhat larger than what is allowed, so that
/// it is the gate that refuses, with a body that says why.
const HEADER_BUFFER_BYTES: usize = MAX_HEADER_BYTES + 16 * 1024;

/// How many connections, and how slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open at once.
    pub max_connections: usize,
    /// From the first byte of a request's headers to the last one.
    pub header: Duration,
    /// A TLS handshake.
    pub handshake: Duration,
    /// Without a request in work.
    pub idle: Duration,
    /// The same while `max_connections` are open.
    pub idle_when_full: Duration,
    /// A request's body, from its headers on.
    pub body: Duration,
    /// Requests in work when the server was told to stop.
    pub drain: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_connections: MAX_CONNECTIONS,
            header: HEADER_READ_TIMEOUT,
            handshake: HANDSHAKE_TIMEOUT,
            idle: IDLE_TIMEOUT,
            idle_when_full: IDLE_TIMEOUT_WHEN_FULL,
            body: BODY_READ_TIMEOUT,
            drain: STOP_GRACE,
        }
    }
}

/// A listener's connections.
pub(super) struct Connections {
    pub router: Router,
    pub tls: Option<Tls>,
    pub limits: ConnectionLimits,
    pub metrics: Arc<Metrics>,
    /// Finish what is in work, take nothing new.
    drain: CancellationToken,
    /// End at once.
    cut: CancellationToken,
    /// All connections are taken.
    full: watch::Sender<bool>,
}

impl Connections {
    pub fn new(
        router: Router,
        tls: Option<Tls>,
        limits: ConnectionLimits,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (drain, cut) = (CancellationToken::new(), CancellationToken::new());
        Self { router, tls, limits, metrics, drain, cut, full: watch::Sender::new(false) }
    }

    /// Accepts until `stop`, then drains. Dropped earlier, it cuts
    /// all connections off.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let this = Arc::new(self);
        let _cut_at_the_end = this.cut.clone().drop_guard();
        let most = this.limits.max_connections.clamp(1, u32::MAX as usize);
        let slots = Arc::new(Semaphore::new(most));
        tokio::select! {
            () = Arc::clone(&this).accept(&listener, &slots) => {}
            () = stop => {}
        }
        drop(listener);
        this.drain.cancel();
        // Every connection holds a slot until it ends.
        let all = u32::try_from(most).unwrap_or(u32::MAX);
        if tokio::time::timeout(this.limits.drain, slots.acquire_many(all)).await.is_err() {
            let left = most - slots.available_permits();
            this.metrics.connections_closed.with(["drain"]).add(left as u64);
            tracing::warn!(connections = left, "cut off what was not done when the grace ended");
        }
    }

    async fn accept(self: Arc<Self>, listener: &TcpListener, slots: &Arc<Semaphore>) {
        let mut failures = 0;
        loop {
            let slot = match Arc::clone(slots).try_acquire_owned() {
                Ok(slot) => slot,
                Err(_) => {
                    self.full.send_replace(true);
                    let slot = Arc::clone(slots).acquire_owned().await;
                    self.full.send_replace(false);
                    let Ok(slot) = slot else { return };
                    slot
                }
            };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    self.metrics.connections_accepted.inc();
                    let this = Arc::clone(&self);
                    tokio::spawn(async move {
                        let _open = Open::count(&this.metrics);
                        this.connection(stream, peer.ip()).await;
                        drop(slot);
                    });
                }
                Err(error) if is_the_peers(&error) => {}
                Err(error) => {
                    self.metrics.accept_errors.inc();
                    if failures % LOG_ACCEPT_ERROR_EVERY == 0 {
                        tracing::error!(%error, "cannot accept connections; trying again (raise the limit of open files?)");
                    }
                    failures += 1;
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection(&self, stream: TcpStream, peer: IpAddr) {
        // Answers are small and whole: nothing is gained by waiting for more.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return self.http1(stream, peer).await };
        let handshake = TlsAcceptor::from(Arc::clone(&*tls.0.get())).accept(stream);
        let stream = tokio::select! {
            () = self.drain.cancelled() => return,
            done = tokio::time::timeout(self.limits.handshake, handshake) => match done {
                Ok(Ok(stream)) => stream,
                Ok(Err(_)) | Err(_) => {
                    self.metrics.connections_closed.with(["handshake"]).inc();
                    return;
                }
            },
        };
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.http2(stream, peer).await;
        } else {
            self.http1(stream, peer).await;
        }
    }

    async fn http1(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: IpAddr,
    ) {
        let activity = Arc::new(Activity::new(Instant::now()));
        let io = TokioIo::new(Watched { stream, activity: Arc::clone(&activity) });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            // hyper's runs while a connection idles, too; ours does not.
            .header_read_timeout(None)
            .max_buf_size(HEADER_BUFFER_BYTES)
            .max_headers(MAX_HEADERS)
            .serve_connection(io, service!(self, activity, peer));
        self.drive(connection, |connection| connection.graceful_shutdown(), &activity).await;
    }

    async fn http2(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: IpAddr,
    ) {
        let activity = Arc::new(Activity::new(Instant::now()));
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(HTTP2_PING_EVERY)
            .max_concurrent_streams(MAX_HTTP2_STREAMS)
            .max_header_list_size(HEADER_BUFFER_BYTES as u32)
            .serve_connection(TokioIo::new(stream), service!(self, activity, peer));
        self.drive(connection, |connection| connection.graceful_shutdown(), &activity).await;
    }

    /// Until it ends by itself, is idle or slow for too long, or all end.
    async fn drive<C: Future>(
        &self,
        connection: C,
        finish: impl Fn(Pin<&mut C>),
        activity: &Activity,
    ) {
        let mut connection = pin!(connection);
        let mut full = self.full.subscribe();
        let mut draining = false;
        loop {
            let idle = if *full.borrow_and_update() {
                self.limits.idle_when_full
            } else {
                self.limits.idle
            };
            let look_again = activity.look_again(Instant::now(), idle, self.limits.header);
            tokio::select! {
                biased;
                () = self.cut.cancelled() => return,
                // How it ended is the peer's business.
                _ = connection.as_mut() => return,
                () = self.drain.cancelled(), if !draining => {
                    draining = true;
                    finish(connection.as_mut());
                }
                Ok(()) = full.changed() => {}
                () = tokio::time::sleep_until(look_again) => {
                    let Some(reason) = activity.expired(Instant::now(), idle, self.limits.header) else { continue };
                    let reason = match reason {
                        Expired::Idle => "idle",
                        Expired::Header => "header_timeout",
                    };
                    self.metrics.connections_closed.with([reason]).inc();
                    finish(connection.as_mut());
                    let _ = tokio::time::timeout(CLOSE_GRACE, connection).await;
                    return;
                }
            }
        }
    }
}

/// The router for one connection: it tells where a request comes from, and
/// `activity` that there is one.
macro_rules! service {
    ($connections:expr, $activity:expr, $peer:expr) => {{
        let (router, activity, peer) = ($connections.router.clone(), Arc::clone(&$activity), $peer);
        service_fn(move |request: hyper::Request<Incoming>| {
            let in_work = activity.begin();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer));
            let answer = router.clone().call(request);
            async move {
                let answer = answer.await;
                drop(in_work);
                Ok::<_, Infallible>(answer.unwrap_or_else(|never| match never {}))
            }
        })
    }};
}
use service;

/// An open connection, as long as it is counted.
struct Open(Arc<Metrics>);

impl Open {
    fn count(metrics: &Arc<Metrics>) -> Self {
        metrics.connections.add(1);
        Self(Arc::clone(metrics))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.add(-1);
    }
}

/// A stream that tells when something arrives.
struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.activity.received(Instant::now());
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Errors of a connection that was waiting, not of the listener (accept(2)).
fn is_the_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
