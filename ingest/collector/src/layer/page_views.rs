//! What is recorded of a request and its answer: no I/O, and no framework.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clickmill_schemas::{Event, EventTime, Timestamp};
use uuid::Uuid;

use super::cookie::SiteCookie;
use super::{Inner, Signals, Visitor};
use crate::Collector;
use crate::protocol::privacy::query_without_addresses;
use crate::server::{DEFAULT_COOKIE_NAME, id_in};

/// A header's value longer than this is left out of the event: the longest
/// line that common servers take for a URL.
pub const MAX_TEXT_BYTES: usize = 8 * 1024;

/// What becomes of a request whose browser sent `DNT: 1` or `Sec-GPC: 1`. The
/// event's `consent` says so in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrivacySignals {
    /// It counts, without an id and without a cookie.
    #[default]
    Anonymous,
    /// It is not recorded at all.
    Skip,
    /// It counts as any other. For shops that have the visitor's consent by
    /// another way.
    Ignore,
}

/// The request, as far as it is looked at.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    /// `GET`, ...
    pub method: &'a str,
    /// The request's target: path and query, or a whole URL.
    pub uri: &'a str,
    /// The value of a header by its lower-case name; several of one name are
    /// joined by `"; "` (HTTP/2 splits `cookie`).
    pub header: &'a dyn Fn(&str) -> Option<Cow<'a, str>>,
}

/// The answer, as far as it is looked at.
#[derive(Clone, Copy)]
pub struct ResponseHead<'a> {
    /// The status code.
    pub status: u16,
    /// The value of a header by its lower-case name.
    pub header: &'a dyn Fn(&str) -> Option<Cow<'a, str>>,
}

/// Between a request and its answer.
#[derive(Debug)]
#[must_use]
pub struct Visit {
    visitor: Visitor,
    by_https: bool,
    /// What to record if the answer is a page.
    page: Option<Box<Page>>,
}

#[derive(Debug)]
struct Page {
    event_id: String,
    at: Timestamp,
    url: Option<String>,
    referrer: Option<String>,
    user_agent: Option<String>,
    language: Option<String>,
}

type CountsRequest = Arc<dyn Fn(&RequestHead<'_>) -> bool + Send + Sync>;
type CountsResponse = Arc<dyn Fn(&ResponseHead<'_>) -> bool + Send + Sync>;

/// Records page views; see [`crate::layer`]. Clones count together.
#[derive(Clone)]
#[must_use]
pub struct PageViews {
    collector: Collector,
    app_id: Arc<str>,
    cookie: Arc<SiteCookie>,
    /// The protocols' cookie.
    network_cookie: Arc<str>,
    signals: PrivacySignals,
    /// Scheme and host, without a slash at the end.
    public_url: Option<Arc<str>>,
    requests: CountsRequest,
    responses: CountsResponse,
    refused: Arc<AtomicU64>,
}

impl PageViews {
    /// Into `collector` and for its `app_id`, with the cookie
    /// [`super::DEFAULT_COOKIE`].
    pub fn new(collector: Collector) -> Self {
        Self {
            app_id: collector.app_id().into(),
            collector,
            cookie: Arc::default(),
            network_cookie: DEFAULT_COOKIE_NAME.into(),
            signals: PrivacySignals::default(),
            public_url: None,
            requests: Arc::new(is_navigation),
            responses: Arc::new(is_page),
            refused: Arc::default(),
        }
    }

    /// The application that the page views belong to, in place of the collector's.
    pub fn app_id(mut self, app_id: impl Into<Arc<str>>) -> Self {
        self.app_id = app_id.into();
        self
    }

    /// The visitor's cookie.
    pub fn cookie(mut self, cookie: SiteCookie) -> Self {
        self.cookie = Arc::new(cookie);
        self
    }

    /// The name of the cookie that the protocols set
    /// ([`VisitorCookie`](crate::server::VisitorCookie)), where it has another than
    /// [`DEFAULT_COOKIE_NAME`]: it is read, so that a visitor has one id for both.
    pub fn network_cookie(mut self, name: &str) -> Self {
        self.network_cookie = name.into();
        self
    }

    /// What `DNT` and `Sec-GPC` do; [`PrivacySignals::Anonymous`] by default.
    pub const fn privacy_signals(mut self, signals: PrivacySignals) -> Self {
        self.signals = signals;
        self
    }

    /// Scheme and host as visitors see them (`https://shop.example`). Without
    /// it they are taken from the request: its `Host`, and `X-Forwarded-Proto`.
    pub fn public_url(mut self, url: &str) -> Self {
        self.public_url = Some(url.trim_end_matches('/').into());
        self
    }

    /// Which requests may be page views, in place of the default.
    pub fn requests(
        mut self,
        counts: impl Fn(&RequestHead<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.requests = Arc::new(counts);
        self
    }

    /// Which answers make them page views, in place of the default.
    pub fn responses(
        mut self,
        counts: impl Fn(&ResponseHead<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.responses = Arc::new(counts);
        self
    }

    /// Page views that the collector did not take: its spool is full or does
    /// not keep up.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Looks at a request before the host handles it.
    pub fn begin(&self, request: &RequestHead<'_>) -> Visit {
        let says = |name: &str| (request.header)(name).is_some_and(|value| value.trim() == "1");
        let signals = Signals { dnt: says("dnt"), gpc: says("sec-gpc") };
        let objects = (signals.dnt || signals.gpc) && self.signals != PrivacySignals::Ignore;
        let visitor = if objects {
            Visitor::anonymous(signals)
        } else {
            let cookies = (request.header)("cookie").unwrap_or_default();
            let of_trackers = id_in(&self.network_cookie, &cookies);
            Visitor::known_by(self.cookie.read(&cookies), of_trackers, signals)
        };
        let by_https = self.base(request).is_some_and(|base| base.starts_with("https://"));
        let recorded = !objects || self.signals != PrivacySignals::Skip;
        let page = (recorded && (self.requests)(request)).then(|| Box::new(self.page(request)));
        Visit { visitor, by_https, page }
    }

    /// Looks at the answer: records the page view if it is one, and returns the
    /// `Set-Cookie` header to be added to it, if any.
    #[must_use]
    pub fn end(&self, visit: Visit, response: &ResponseHead<'_>) -> Option<String> {
        let Visit { visitor, by_https, page } = visit;
        let page = page.filter(|_| (self.responses)(response));
        let used = visitor.0.used.load(Ordering::Relaxed);
        let sets = visitor.0.new && (page.is_some() || used) && !is_shared(response);
        // An id that the browser does not get would be a visitor of one page.
        let known = visitor.0.known || sets || used;
        if let Some(page) = page {
            self.record(*page, known.then_some(&*visitor.0), &visitor);
        }
        visitor.0.id.as_deref().filter(|_| sets).map(|id| self.cookie.write(id, by_https))
    }

    fn record(&self, page: Page, known: Option<&Inner>, visitor: &Visitor) {
        let time = EventTime::resolve(Some(page.at), None, Timestamp::now());
        let mut event = Event::new(page.event_id, "page_view", "native", &*self.app_id, time);
        event.platform = Some("web".into());
        event.anonymous_id = known.and_then(|known| known.id.as_deref()).map(Into::into);
        event.network_id = known.and_then(|known| known.network_id).map(|id| id.to_string().into());
        event.consent = visitor.consent();
        event.page_url = page.url.map(Into::into);
        event.referrer_url = page.referrer.map(Into::into);
        event.user_agent = page.user_agent.map(Into::into);
        event.language = page.language.map(Into::into);
        if self.collector.track(&event).is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn page(&self, request: &RequestHead<'_>) -> Page {
        let header = |name: &str| {
            let value = (request.header)(name)?;
            (!value.is_empty() && value.len() <= MAX_TEXT_BYTES).then(|| value.into_owned())
        };
        let url = self.base(request).map(|base| format!("{base}{}", path_and_query(request.uri)));
        Page {
            event_id: Uuid::now_v7().to_string(),
            at: Timestamp::now(),
            url: url.filter(|url| url.len() <= MAX_TEXT_BYTES).map(without_addresses),
            referrer: header("referer").map(without_addresses),
            user_agent: header("user-agent"),
            language: header("accept-language").and_then(|list| first_language(&list)),
        }
    }

    /// Scheme and host, without a slash at the end.
    fn base<'s>(&'s self, request: &RequestHead<'_>) -> Option<Cow<'s, str>> {
        if let Some(url) = &self.public_url {
            return Some(Cow::Borrowed(url));
        }
        let forwarded = (request.header)("x-forwarded-proto");
        let forwarded = forwarded.as_deref().and_then(|list| list.split(',').next());
        let forwarded =
            forwarded.map(str::trim).filter(|scheme| matches!(*scheme, "http" | "https"));
        let (scheme, host) = match request.uri.split_once("://") {
            Some((scheme, rest)) => {
                let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
                (scheme, Cow::Borrowed(host))
            }
            None => ("http", (request.header)("host")?),
        };
        Some(Cow::Owned(format!("{}://{host}", forwarded.unwrap_or(scheme))))
    }
}

/// A URL whose query gives no address away.
fn without_addresses(url: String) -> String {
    let clean =
        url.split_once('?').and_then(|(page, query)| match query_without_addresses(query) {
            Cow::Borrowed(_) => None,
            Cow::Owned(query) => Some(format!("{page}?{query}")),
        });
    clean.unwrap_or(url)
}

/// The part of a request's target after its host.
fn path_and_query(uri: &str) -> &str {
    let rest = uri
        .split_once("://")
        .map_or(uri, |(_, rest)| rest.find(['/', '?']).map_or("", |at| &rest[at..]));
    if rest.is_empty() { "/" } else { rest }
}

/// `de-CH` of `de-CH,de;q=0.9`.
fn first_language(list: &str) -> Option<String> {
    let first = list.split([',', ';']).next()?.trim();
    (!first.is_empty() && first != "*").then(|| first.to_owned())
}

/// A browser that goes to a page; see [`crate::layer`].
fn is_navigation(request: &RequestHead<'_>) -> bool {
    let is = |name: &str, wanted: &str| {
        (request.header)(name).is_some_and(|value| value.to_ascii_lowercase().contains(wanted))
    };
    request.method == "GET"
        && !is("sec-purpose", "prefetch")
        && !is("purpose", "prefetch")
        && (request.header)("sec-fetch-dest").is_none_or(|dest| dest == "document")
}

/// An answer that a browser shows as a page.
fn is_page(response: &ResponseHead<'_>) -> bool {
    let content = (response.header)("content-type").unwrap_or_default().to_ascii_lowercase();
    let kind = content.split(';').next().unwrap_or_default().trim();
    (200..300).contains(&response.status) && matches!(kind, "text/html" | "application/xhtml+xml")
}

/// A cache may give it to other visitors.
fn is_shared(response: &ResponseHead<'_>) -> bool {
    (response.header)("cache-control").is_some_and(|value| {
        let value = value.to_ascii_lowercase();
        value.split(',').map(str::trim).any(|one| one == "public" || one.starts_with("s-maxage"))
    })
}

impl std::fmt::Debug for PageViews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageViews")
            .field("app_id", &self.app_id)
            .field("cookie", &self.cookie)
            .field("signals", &self.signals)
            .field("public_url", &self.public_url)
            .finish_non_exhaustive()
    }
}

impl Visit {
    /// Who sent the request.
    #[must_use]
    pub const fn visitor(&self) -> &Visitor {
        &self.visitor
    }
}
