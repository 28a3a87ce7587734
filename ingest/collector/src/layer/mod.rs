//! Page views and the visitor's id, recorded by the server that serves the pages.
//!
//! [`PageViews`] is a tower [`Layer`](tower_layer::Layer): put it around the
//! whole application. For each request it finds the visitor (or makes one),
//! hands it to handlers as the request extension [`Visitor`], and records a
//! `page_view` once the answer turns out to be a page. Frameworks without tower
//! call [`PageViews::begin`] and [`PageViews::end`] themselves; see
//! `examples/actix.rs`.
//!
//! ```
//! use clickmill_collector::{Collector, layer::{PageViews, Visitor}};
//! use axum::{Extension, Router, response::Html, routing::get};
//!
//! async fn home(Extension(visitor): Extension<Visitor>) -> Html<String> {
//!     Html(format!("<p>{}", visitor.id().unwrap_or("somebody")))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let collector = Collector::builder(folder.path()).app_id("shop-de").start().await?;
//! let shop: Router = Router::new()
//!     .route("/", get(home))
//!     .layer(PageViews::new(collector).public_url("https://shop.example"));
//! # Ok(()) }
//! ```
//!
//! # Guarantees
//! - The host's request neither waits nor fails: events are handed over by
//!   [`Collector::track`](crate::Collector::track), and one that is refused is
//!   counted ([`PageViews::refused`]), not answered with an error.
//! - No address is kept: the connection's and those in headers are not read,
//!   those in a URL's query (`ip=`) are taken out.
//! - A visitor who sends `DNT: 1` or `Sec-GPC: 1` gets no cookie and no id, and
//!   one that the browser still has is not used ([`PrivacySignals`]).
//! - The cookie is first-party, `SameSite=Lax`, `Path=/`, `HttpOnly` unless a
//!   tracker in the page shall share it, and `Secure` wherever the visitor
//!   came by https. It is set once and not prolonged: it lasts as long as it
//!   says ([`SiteCookie::max_age`]).
//! - A cookie is set only with a page, or where a handler asked for the
//!   visitor's id; never with an answer that a shared cache may keep
//!   (`Cache-Control: public` or `s-maxage`), since that would make one
//!   visitor of many.
//!
//! # What a page view is
//! A GET that is answered 2xx with `text/html` or `application/xhtml+xml`; not
//! a prefetch (`Sec-Purpose`, `Purpose`), and where the browser says what for
//! (`Sec-Fetch-Dest`), only a `document`. [`PageViews::requests`] and
//! [`PageViews::responses`] replace the two halves of this.
//!
//! # Limits
//! A header's value over [`MAX_TEXT_BYTES`] is left out of the event.

mod cookie;
mod page_views;
mod service;

pub use cookie::{CookieError, DEFAULT_COOKIE, DEFAULT_MAX_AGE, MAX_ID_BYTES, Secure, SiteCookie};
pub use page_views::{MAX_TEXT_BYTES, PageViews, PrivacySignals, RequestHead, ResponseHead, Visit};
pub use service::{PageViewsFuture, PageViewsService};

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clickmill_schemas::RawJson;

/// Who sent a request: an extension of it.
///
/// Clones are the same visitor. A visitor's id that was made for this request
/// reaches the browser with a page, or because [`Visitor::id`] was called; so a
/// `purchase` recorded by a handler and the page after it have the same id.
#[derive(Clone, Debug)]
pub struct Visitor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: Option<String>,
    /// The browser does not have the id yet.
    new: bool,
    /// A handler asked for the id.
    used: AtomicBool,
    signals: Signals,
}

/// What the browser said about being tracked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Signals {
    /// `DNT: 1`.
    dnt: bool,
    /// `Sec-GPC: 1`.
    gpc: bool,
}

impl Visitor {
    /// The id, to be set as `anonymous_id`. `None` for a visitor who does not
    /// want one.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.0.used.store(true, Ordering::Relaxed);
        self.0.id.as_deref()
    }

    /// What the browser said, as an event's `consent`: `{"dnt":true}`,
    /// `{"gpc":true}`, both, or `None` where it said nothing.
    #[must_use]
    pub fn consent(&self) -> Option<RawJson<'static>> {
        let Signals { dnt, gpc } = self.0.signals;
        let text = match (dnt, gpc) {
            (false, false) => return None,
            (true, false) => r#"{"dnt":true}"#,
            (false, true) => r#"{"gpc":true}"#,
            (true, true) => r#"{"dnt":true,"gpc":true}"#,
        };
        RawJson::parse(text).ok()
    }

    fn new(id: Option<Cow<'_, str>>, new: bool, signals: Signals) -> Self {
        let id = id.map(Cow::into_owned);
        Self(Arc::new(Inner { id, new, used: AtomicBool::new(false), signals }))
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
