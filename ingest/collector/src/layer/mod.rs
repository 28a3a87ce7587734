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
//! - The id is the events' `anonymous_id`, and their `network_id`, which trackers'
//!   events get from the same cookie where [`crate::server`] has the same host. Of
//!   a visitor who has the protocols' cookie already, its id is taken over.
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

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clickmill_schemas::RawJson;
use uuid::Uuid;

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
    /// The id that trackers' requests have, too.
    network_id: Option<Uuid>,
    /// The browser has it, in one cookie or the other.
    known: bool,
    /// The layer's own cookie is to be set.
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

    /// The id to be set as `network_id`: that which the requests of trackers in the
    /// page get from the same cookies ([`crate::server::Options`]), so that what the
    /// server and what the page records is one visitor's. `None` as for
    /// [`Visitor::id`], and where the cookie's id is no UUID.
    #[must_use]
    pub fn network_id(&self) -> Option<String> {
        self.0.used.store(true, Ordering::Relaxed);
        self.0.network_id.map(|id| id.to_string())
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

    /// Who does not want an id.
    fn anonymous(signals: Signals) -> Self {
        let used = AtomicBool::new(false);
        let (known, new) = (false, false);
        Self(Arc::new(Inner { id: None, network_id: None, known, new, used, signals }))
    }

    /// `of_site` is the id in the layer's cookie, `of_trackers` that in the protocols'.
    /// Of a visitor with one of them it is the other's, too.
    fn known_by(of_site: Option<&str>, of_trackers: Option<Uuid>, signals: Signals) -> Self {
        let known = of_site.is_some() || of_trackers.is_some();
        let (id, new) = match of_site {
            Some(id) => (id.to_owned(), false),
            // Version 4: an id that says nothing, not even when it was made.
            None => (of_trackers.unwrap_or_else(Uuid::new_v4).to_string(), true),
        };
        let network_id = of_trackers.or_else(|| Uuid::parse_str(&id).ok());
        let used = AtomicBool::new(false);
        Self(Arc::new(Inner { id: Some(id), network_id, known, new, used, signals }))
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
