//! The HTTP server on a [`Collector`]: Segment's tracking API, `/health`,
//! `/ready` and `/metrics`.
//!
//! # Guarantees
//! - `200 {"success":true}` is answered once everything in the request that is
//!   worth keeping is on disk: its events, and as rejects, with their bytes,
//!   the parts that are no events.
//! - What a retry could save is never answered with a 4xx that makes clients
//!   drop it: a full spool, a full queue and a failing disk are 503 with
//!   Retry-After, too much at once is 429 with Retry-After, a body that arrives
//!   too slowly is 408.
//! - Bad input is 400 (and 401, 403, 404, 405, 431), never 500. Every error has
//!   the body `{"code":...,"message":...}`, but for what is no HTTP at all.
//! - IP addresses, payloads and write keys are neither stored nor logged: an
//!   address is seen by the `gate` module only, which every request passes.
//! - Slow and idle clients, and too many of them, do not keep others out: see
//!   [`ConnectionLimits`].
//!
//! # Limits
//! See the constants of this module; a request over them is refused (400, with
//! a reject record), an event over [`MAX_EVENT_BYTES`] in a batch becomes a
//! reject while the others go on.

mod activity;
mod auth;
mod body;
mod client;
mod cookie;
mod cors;
mod gate;
mod geo;
mod intake;
mod limits;
mod listen;
mod ready;
mod reload;
mod reply;
mod room;
mod routes;
mod tail;
mod tls;
mod tracker;
mod visitor;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::middleware;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use auth::{AllowedOrigin, DEFAULT_APP_ID, KeySettings, OriginError, WriteKeys};
pub use client::{MAX_FORWARDED_HOPS, TrustedProxies};
pub(crate) use cookie::id_in;
pub use cookie::{
    CookieError, DEFAULT_COOKIE_MAX_AGE, DEFAULT_COOKIE_NAME, MAX_COOKIE_MAX_AGE, SameSite, Secure,
    VisitorCookie,
};
pub use gate::{MAX_HEADER_BYTES, REQUEST_TIMEOUT};
pub use geo::{GeoIp, GeoIpError, KeepNetwork, TRUNCATED_IPV4_BITS, TRUNCATED_IPV6_BITS};
pub use intake::MAX_REJECT_BYTES;
pub use limits::{ADDRESS_CELLS, MAX_PER_SECOND, RateLimit, RateLimitError};
pub use listen::{
    ACCEPT_PAUSE, ConnectionLimits, HANDSHAKE_TIMEOUT, HEADER_READ_TIMEOUT, IDLE_TIMEOUT,
    IDLE_TIMEOUT_WHEN_FULL, MAX_CONNECTIONS, MAX_HEADERS, MAX_HTTP2_STREAMS,
};
pub use ready::NOT_READY_SPOOL_PERCENT;
pub use reload::RELOAD_EVERY;
pub use room::MAX_BODIES_BYTES;
pub use tail::{TAIL_PATH, TAIL_TOKEN_FILE, TailToken};
pub use tls::{Tls, TlsError};
pub use visitor::{Options, RespectDnt};

use auth::KeyRing;
use gate::Gate;
use limits::AddressLimit;
use listen::Connections;
use ready::Operator;
use room::Room;

use crate::Collector;
pub use crate::protocol::segment::{MAX_BATCH_EVENTS, MAX_BODY_BYTES, MAX_EVENT_BYTES};

/// How long a body may take to arrive; then 408, which SDKs retry.
pub const BODY_READ_TIMEOUT: Duration = Duration::from_secs(15);
/// Requests in work at once; more are answered 503.
pub const MAX_REQUESTS: usize = 2_048;
/// A body that is too large is read on up to this size, so that the client
/// sees the answer instead of a broken connection.
pub const MAX_DISCARDED_BYTES: usize = 8 * 1024 * 1024;
/// How long open connections may go on after the server was told to stop.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// Why a server does not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Without write keys anybody who reaches the server can write to it.
    #[error(
        "refusing to listen on {address} without a write key: give --write-key KEY, or listen on \
         a loopback address such as 127.0.0.1:{}",
        address.port()
    )]
    OpenToAll {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address cannot be had.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// How a server stands towards the network. The default is for a machine's own
/// processes, or for a load balancer in front that does the same.
#[derive(Debug, Default)]
pub struct Edge {
    /// Speak TLS, and nothing else.
    pub tls: Option<Tls>,
    /// How many connections, and how slow.
    pub connections: ConnectionLimits,
    /// Whose `X-Forwarded-For` is believed; nobody's by default.
    pub trusted_proxies: TrustedProxies,
    /// Requests from one address; not limited by default, because behind a
    /// proxy that is not in `trusted_proxies` all of them have the same one.
    pub address_limit: Option<RateLimit>,
    /// Where requests come from.
    pub geo: Option<GeoIp>,
    /// Whether anything of their addresses is stored.
    pub keep_network: KeepNetwork,
    /// Where `/metrics`, and the numbers of `/health` and `/ready`, are shown.
    /// Without one, to this machine's processes on the listener itself.
    pub admin_listen: Option<SocketAddr>,
    /// How often the files of `tls` and `geo` are looked at; [`RELOAD_EVERY`]
    /// where this is `None`.
    pub reload_every: Option<Duration>,
    /// How long it goes on taking requests, while `/ready` is 503 already,
    /// after it was told to stop: as long as the load balancer needs to notice.
    pub stop_delay: Duration,
}

/// A server that has its addresses and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    admin: Option<(TcpListener, SocketAddr)>,
    app: App,
    edge: Edge,
}

#[derive(Debug)]
pub(crate) struct App {
    collector: Collector,
    keys: KeyRing,
    options: Options,
    body_timeout: Duration,
    bodies: Room,
    requests: Semaphore,
}

impl Server {
    /// Binds `address`, with the default [`Edge`]; port 0 takes a free one.
    ///
    /// # Errors
    /// [`ServerError::OpenToAll`] where every write key is good and the address
    /// is not loopback, [`ServerError::Bind`].
    pub async fn bind(
        collector: Collector,
        address: SocketAddr,
        keys: WriteKeys,
    ) -> Result<Self, ServerError> {
        Self::bind_edge(collector, address, keys, Edge::default()).await
    }

    /// Binds `address` and what `edge` says.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub async fn bind_edge(
        collector: Collector,
        address: SocketAddr,
        keys: WriteKeys,
        edge: Edge,
    ) -> Result<Self, ServerError> {
        if keys.is_any() && !address.ip().is_loopback() {
            return Err(ServerError::OpenToAll { address });
        }
        let (listener, address) = bind(address).await?;
        let admin = match edge.admin_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let requests = Semaphore::new(MAX_REQUESTS);
        let app = App {
            collector,
            keys: KeyRing::new(keys),
            options: Options::default(),
            body_timeout: edge.connections.body,
            bodies: Room::new(MAX_BODIES_BYTES),
            requests,
        };
        Ok(Self { listener, address, admin, app, edge })
    }

    /// What the protocols do beyond taking events; nothing by default.
    #[must_use]
    pub fn with_options(mut self, options: Options) -> Self {
        self.app.options = options;
        self
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where the operator's listener listens.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|(_, address)| *address)
    }

    /// Whether it speaks TLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.edge.tls.is_some()
    }

    /// Answers until `stop`, then says that it is not ready for
    /// [`Edge::stop_delay`], takes no more connections and lets requests in
    /// work finish for [`ConnectionLimits::drain`]. The operator's listener ends last. The
    /// collector is the caller's to shut down, afterwards.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) {
        let Self { listener, admin, app, edge, .. } = self;
        let metrics = Arc::clone(app.collector.metrics());
        let watching = CancellationToken::new();
        let _stop_watching = watching.clone().drop_guard();
        let every = edge.reload_every.unwrap_or(RELOAD_EVERY);
        if let Some(Tls(files)) = &edge.tls {
            let files = Arc::clone(files);
            tokio::spawn(files.watch(every, Arc::clone(&metrics), watching.clone()));
        }
        if let Some(GeoIp(file)) = &edge.geo {
            let file = Arc::clone(file);
            tokio::spawn(file.watch(every, Arc::clone(&metrics), watching.clone()));
        }
        let draining = Arc::new(AtomicBool::new(false));
        let operator = Operator {
            collector: app.collector.clone(),
            draining: Arc::clone(&draining),
            elsewhere: admin.is_some(),
        };
        let admin_router = ready::admin(operator.clone()).merge(tail::routes(&app));
        let collector = app.collector.clone();
        let gate = Gate {
            metrics: Arc::clone(&metrics),
            trusted: edge.trusted_proxies,
            addresses: edge.address_limit.map(AddressLimit::new),
            geo: edge.geo,
            keep_network: edge.keep_network,
            started: Instant::now(),
        };
        let router = guarded(app, ready::public(operator), gate);
        let public = Connections::new(router, edge.tls, edge.connections, Arc::clone(&metrics));
        let stop_delay = edge.stop_delay;
        let stop_public = async move {
            stop.await;
            draining.store(true, Ordering::Relaxed);
            tokio::time::sleep(stop_delay).await;
            // They would stay open as long as their readers like.
            collector.close_tails();
        };
        let served = CancellationToken::new();
        let end_of_public = served.clone();
        let operators = async move {
            let Some((listener, _)) = admin else { return };
            let connections =
                Connections::new(admin_router, None, ConnectionLimits::default(), metrics);
            connections.serve(listener, end_of_public.cancelled()).await;
        };
        let public = async move {
            public.serve(listener, stop_public).await;
            served.cancel();
        };
        tokio::join!(public, operators);
    }
}

/// The routes of all protocols, to be nested in an axum application under a
/// path of its choice:
///
/// ```
/// use axum::Router;
/// use clickmill_collector::Collector;
/// use clickmill_collector::server::{self, Options, WriteKeys};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let collector = Collector::builder(folder.path()).start().await?;
/// let keys = WriteKeys::any().with("9hbkJNpR", "shop-de");
/// let app: Router = Router::new()
///     .nest("/collect", server::router(collector, keys, Options::default()));
/// # Ok(()) }
/// ```
///
/// Trackers then have `https://shop.example/collect` as their endpoint;
/// addresses in answers have the path, too. [`MAX_REQUESTS`] and the limits of
/// headers and bodies hold here as well; connections, their time-outs, TLS and
/// the limits and places of addresses are the host's. `/health`, `/ready` and
/// `/metrics` are not among the routes: the host has its own, and
/// [`Collector::status`] and [`Collector::metrics`] say what to show there.
///
/// With [`WriteKeys::any`] whoever reaches the application can write.
///
/// A reader of the tail keeps its request open: a host that waits for open
/// requests when it stops calls [`Collector::close_tails`] first.
pub fn router(collector: Collector, keys: WriteKeys, options: Options) -> Router {
    let gate = Gate {
        metrics: Arc::clone(collector.metrics()),
        trusted: TrustedProxies::default(),
        addresses: None,
        geo: None,
        keep_network: KeepNetwork::default(),
        started: Instant::now(),
    };
    let requests = Semaphore::new(MAX_REQUESTS);
    let body_timeout = ConnectionLimits::default().body;
    let app = App {
        collector,
        keys: KeyRing::new(keys),
        options,
        requests,
        body_timeout,
        bodies: Room::new(MAX_BODIES_BYTES),
    };
    guarded(app, Router::new(), gate)
}

/// All routes of the protocols and those of `others`, with what every request
/// passes. The order, from the outside: the answer is counted; CORS headers
/// stand on every answer, also on those of the gate; the gate; the route.
fn guarded(app: App, others: Router, gate: Gate) -> Router {
    let (app, gate) = (Arc::new(app), Arc::new(gate));
    routes::router(Arc::clone(&app))
        .merge(tail::routes(&app))
        .merge(others)
        .layer(middleware::from_fn_with_state(Arc::clone(&gate), gate::pass))
        .layer(middleware::from_fn_with_state(app, cors::layer))
        .layer(middleware::from_fn_with_state(gate, gate::count))
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServerError> {
    let failed = |source| ServerError::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}
