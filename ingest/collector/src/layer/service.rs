//! [`PageViews`] around a tower service.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderValue, Request, Response};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::page_views::{PageViews, RequestHead, ResponseHead, Visit};

/// A service whose page views are recorded.
#[derive(Clone, Debug)]
pub struct PageViewsService<S> {
    inner: S,
    views: PageViews,
}

pin_project! {
    /// The answer of a [`PageViewsService`].
    pub struct PageViewsFuture<F> {
        #[pin]
        inner: F,
        // Taken when the answer is there.
        visit: Option<(PageViews, Visit)>,
    }
}

impl<S> Layer<S> for PageViews {
    type Service = PageViewsService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        PageViewsService { inner, views: self.clone() }
    }
}

impl<S, Body, Answer> Service<Request<Body>> for PageViewsService<S>
where
    S: Service<Request<Body>, Response = Response<Answer>>,
{
    type Response = Response<Answer>;
    type Error = S::Error;
    type Future = PageViewsFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let uri = request.uri().to_string();
        let visit = self.views.begin(&RequestHead {
            method: request.method().as_str(),
            uri: &uri,
            header: &|name| text(request.headers(), name),
        });
        request.extensions_mut().insert(visit.visitor().clone());
        PageViewsFuture {
            inner: self.inner.call(request),
            visit: Some((self.views.clone(), visit)),
        }
    }
}

impl<F, Answer, E> Future for PageViewsFuture<F>
where
    F: Future<Output = Result<Response<Answer>, E>>,
{
    type Output = Result<Response<Answer>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(context))?;
        if let Some((views, visit)) = this.visit.take() {
            let headers = response.headers();
            let set = views.end(
                visit,
                &ResponseHead {
                    status: response.status().as_u16(),
                    header: &|name| text(headers, name),
                },
            );
            if let Some(value) = set.and_then(|set| HeaderValue::try_from(set).ok()) {
                response.headers_mut().append(SET_COOKIE, value);
            }
        }
        Poll::Ready(Ok(response))
    }
}

/// Values that are no text are as good as absent.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<Cow<'a, str>> {
    let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
    let mut joined = [first, second].join("; ");
    for more in values {
        joined.push_str("; ");
        joined.push_str(more);
    }
    Some(Cow::Owned(joined))
}
