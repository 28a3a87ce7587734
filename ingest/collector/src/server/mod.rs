//! The HTTP server on a [`Collector`]: Segment's tracking API and `/health`.
//!
//! # Guarantees
//! - `200 {"success":true}` is answered once everything in the request that is
//!   worth keeping is on disk: its events, and as rejects, with their bytes,
//!   the parts that are no events.
//! - What a retry could save is never answered with a 4xx that makes clients
//!   drop it: a full spool, a full queue and a failing disk are 503 with
//!   Retry-After, a body that arrives too slowly is 408.
//! - Bad input is 400 (and 401, 404, 405), never 500. Every error has the body
//!   `{"code":...,"message":...}`.
//! - IP addresses, payloads and write keys are neither stored nor logged.
//!
//! # Limits
//! See the constants of this module; a request over them is refused (400, with
//! a reject record), an event over [`MAX_EVENT_BYTES`] in a batch becomes a
//! reject while the others go on.

mod auth;
mod body;
mod cookie;
mod cors;
mod intake;
mod reply;
mod routes;
mod tracker;
mod visitor;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use auth::{DEFAULT_APP_ID, WriteKeys};
pub use cookie::{
    CookieError, DEFAULT_COOKIE_MAX_AGE, DEFAULT_COOKIE_NAME, MAX_COOKIE_MAX_AGE, SameSite, Secure,
    VisitorCookie,
};
pub use intake::MAX_REJECT_BYTES;
pub use visitor::{Options, RespectDnt};

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
    /// Accepting connections failed for good.
    #[error("the HTTP server ended")]
    Serve(#[source] io::Error),
}

/// A server that has its address and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: App,
}

#[derive(Debug)]
pub(crate) struct App {
    collector: Collector,
    keys: WriteKeys,
    options: Options,
    requests: Semaphore,
}

impl Server {
    /// Binds `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`ServerError::OpenToAll`] where every write key is good and the address
    /// is not loopback, [`ServerError::Bind`].
    pub async fn bind(
        collector: Collector,
        address: SocketAddr,
        keys: WriteKeys,
    ) -> Result<Self, ServerError> {
        if keys.is_any() && !address.ip().is_loopback() {
            return Err(ServerError::OpenToAll { address });
        }
        let bind = |source| ServerError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let requests = Semaphore::new(MAX_REQUESTS);
        Ok(Self {
            listener,
            address,
            app: App { collector, keys, options: Options::default(), requests },
        })
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

    /// Answers until `stop`, then lets requests in work finish for
    /// [`STOP_GRACE`]. The collector is the caller's to shut down, afterwards.
    ///
    /// # Errors
    /// [`ServerError::Serve`].
    pub async fn run(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServerError> {
        let (stopped, stopping) = tokio::sync::oneshot::channel();
        let serve = axum::serve(self.listener, routes::router(Arc::new(self.app)))
            .with_graceful_shutdown(async move {
                stop.await;
                let _ = stopped.send(());
            })
            .into_future();
        let too_long = async move {
            // An error means that `serve` has ended by itself.
            if stopping.await.is_ok() {
                tokio::time::sleep(STOP_GRACE).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            ended = serve => ended.map_err(ServerError::Serve),
            () = too_long => Ok(()),
        }
    }
}
