use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use serde_json::Value;
use tower_layer::Layer;
use tower_service::Service;

use super::*;
use crate::Collector;
use crate::sink::RecordKind;
use crate::spool::read_all;

/// A shop behind the layer, and the spool that it records in.
struct Shop {
    collector: Collector,
    folder: tempfile::TempDir,
    views: PageViews,
}

impl Shop {
    async fn open(change: impl FnOnce(PageViews) -> PageViews) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let builder = Collector::builder(folder.path()).app_id("shop-de");
        let collector = builder.start().await.expect("starts");
        let views = change(PageViews::new(collector.clone()));
        Self { collector, folder, views }
    }

    /// Sends a request through the layer to a handler that answers so.
    async fn get(
        &self,
        request: &[(&'static str, &str)],
        answer: impl FnOnce(&Visitor) -> Response<()>,
    ) -> Option<String> {
        let mut built = Request::get("/tea?utm_source=mail").header("host", "shop.example");
        for (name, value) in request {
            built = built.header(*name, *value);
        }
        self.send(built.body(()).expect("a request"), answer).await
    }

    /// The answer's Set-Cookie.
    async fn send(
        &self,
        request: Request<()>,
        answer: impl FnOnce(&Visitor) -> Response<()>,
    ) -> Option<String> {
        let mut service = self.views.layer(Handler(Some(answer)));
        let Ok(response) = service.call(request).await;
        let mut set = response.headers().get_all("set-cookie").iter();
        let first = set.next().map(|value| value.to_str().expect("text").to_owned());
        assert_eq!(set.next(), None);
        first
    }

    /// The events in the spool.
    async fn recorded(self) -> Vec<Value> {
        self.collector.shutdown(std::time::Duration::ZERO).await;
        let spool = read_all(self.folder.path()).expect("reads");
        let events = spool.records.iter().filter(|record| record.kind == RecordKind::Event);
        events.map(|record| serde_json::from_slice(&record.line).expect("JSON")).collect()
    }
}

struct Handler<F>(Option<F>);

impl<F: FnOnce(&Visitor) -> Response<()>> Service<Request<()>> for Handler<F> {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<()>, Infallible>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let visitor = request.extensions().get::<Visitor>().expect("the extension");
        let answer = self.0.take().expect("called once")(visitor);
        Box::pin(std::future::ready(Ok(answer)))
    }
}

fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> Response<()> {
    let mut built = Response::builder().status(status);
    for (name, value) in headers {
        built = built.header(*name, *value);
    }
    built.body(()).expect("an answer")
}

fn page(_: &Visitor) -> Response<()> {
    answer(200, &[("content-type", "text/html; charset=utf-8")])
}

fn id_in(set_cookie: &str) -> &str {
    let value = set_cookie.strip_prefix("clickmill_id=").expect("its name");
    value.split(';').next().expect("a value")
}

#[tokio::test]
async fn a_page_is_recorded_with_what_the_browser_said_and_the_id_of_its_cookie() {
    let shop = Shop::open(|views| views).await;
    let set = shop
        .get(
            &[
                ("referer", "https://search.example/?q=tea&ip=192.0.2.7"),
                ("user-agent", "Browser/1"),
                ("accept-language", "de-CH,de;q=0.9"),
                ("x-forwarded-for", "192.0.2.7"),
                ("x-forwarded-proto", "https"),
            ],
            page,
        )
        .await
        .expect("a cookie");
    let id = id_in(&set).to_owned();
    assert_eq!(uuid::Uuid::parse_str(&id).expect("a UUID").get_version_num(), 4);
    assert_eq!(
        set,
        format!("clickmill_id={id}; Path=/; Max-Age=34128000; SameSite=Lax; Secure; HttpOnly")
    );
    let events = shop.recorded().await;
    assert_eq!(events.len(), 1);
    assert!(!events[0].to_string().contains("192.0.2.7"));
    for (key, expected) in [
        ("event_name", "page_view"),
        ("app_id", "shop-de"),
        ("source_protocol", "native"),
        ("platform", "web"),
        ("anonymous_id", id.as_str()),
        ("page_url", "https://shop.example/tea?utm_source=mail"),
        ("referrer_url", "https://search.example/?q=tea&ip="),
        ("user_agent", "Browser/1"),
        ("language", "de-CH"),
    ] {
        assert_eq!(events[0][key], expected, "{key}");
    }
}

#[tokio::test]
async fn a_known_visitor_keeps_the_id_and_gets_no_new_cookie() {
    let shop = Shop::open(|views| views).await;
    let known = [("cookie", "a=b; clickmill_id=known-1; c=d")];
    assert_eq!(shop.get(&known, page).await, None);
    // HTTP/2 splits the header.
    let split = [("cookie", "a=b"), ("cookie", "clickmill_id=known-1")];
    assert_eq!(shop.get(&split, page).await, None);
    let ids: Vec<_> = shop.recorded().await.iter().map(|e| e["anonymous_id"].clone()).collect();
    assert_eq!(ids, ["known-1", "known-1"]);
}

#[tokio::test]
async fn a_visitor_of_the_trackers_cookie_keeps_its_id_and_a_new_one_gets_one_id_for_both() {
    const ID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let (html, public) = (("content-type", "text/html"), ("cache-control", "public"));
    let shop = Shop::open(|views| views).await;
    let trackers = [("cookie", &*format!("a=b; sp={ID}"))];
    let set = shop.get(&trackers, page).await.expect("its own cookie");
    assert_eq!(id_in(&set), ID);
    // Where no cookie may be set, the id is as good.
    assert_eq!(shop.get(&trackers, |_| answer(200, &[html, public])).await, None);
    // Two ids from before they were one: the page view names both.
    let both = format!("sp={ID}; clickmill_id=known-1");
    assert_eq!(shop.get(&[("cookie", &both)], page).await, None);
    let new = shop.get(&[], page).await.expect("a cookie");
    // One that is no UUID is no network_id.
    assert_eq!(shop.get(&[("cookie", "sp=me; clickmill_id=known-1")], page).await, None);
    let recorded = shop.recorded().await;
    let ids = |n: usize| (recorded[n]["anonymous_id"].as_str(), recorded[n]["network_id"].as_str());
    assert_eq!(ids(0), (Some(ID), Some(ID)));
    assert_eq!(ids(1), (Some(ID), Some(ID)));
    assert_eq!(ids(2), (Some("known-1"), Some(ID)));
    assert_eq!(ids(3), (Some(id_in(&new)), Some(id_in(&new))));
    assert_eq!(ids(4), (Some("known-1"), None));

    let shop = Shop::open(|views| views.network_cookie("nid")).await;
    shop.get(&[("cookie", &format!("sp=x; nid={ID}"))], page).await.expect("its own cookie");
    assert_eq!(shop.recorded().await[0]["network_id"], ID);
    let shop = Shop::open(|views| views).await;
    shop.get(&[("dnt", "1"), trackers[0]], page).await;
    assert_eq!(shop.recorded().await[0].get("network_id"), None);
}

#[tokio::test]
async fn a_cookie_that_we_could_not_have_set_is_replaced() {
    let long = format!("clickmill_id={}", "x".repeat(MAX_ID_BYTES + 1));
    for wrong in ["clickmill_id=", "clickmill_id=a b", "clickmill_id=<script>", long.as_str()] {
        let shop = Shop::open(|views| views).await;
        let set = shop.get(&[("cookie", wrong)], page).await.expect("a new one");
        let recorded = shop.recorded().await;
        assert_eq!(recorded[0]["anonymous_id"], id_in(&set), "{wrong}");
    }
    let longest = "x".repeat(MAX_ID_BYTES);
    let shop = Shop::open(|views| views).await;
    assert_eq!(shop.get(&[("cookie", &format!("clickmill_id={longest}"))], page).await, None);
    assert_eq!(shop.recorded().await[0]["anonymous_id"], longest);
}

#[tokio::test]
async fn what_is_no_page_is_neither_recorded_nor_given_a_cookie() {
    let shop = Shop::open(|views| views).await;
    let html = ("content-type", "text/html");
    for (request, response) in [
        (vec![], answer(200, &[("content-type", "application/json")])),
        (vec![], answer(200, &[])),
        (vec![], answer(304, &[html])),
        (vec![], answer(404, &[html])),
        (vec![], answer(500, &[html])),
        (vec![("sec-purpose", "prefetch;prerender")], answer(200, &[html])),
        (vec![("purpose", "prefetch")], answer(200, &[html])),
        (vec![("sec-fetch-dest", "iframe")], answer(200, &[html])),
        (vec![("sec-fetch-dest", "empty")], answer(200, &[html])),
    ] {
        let said = format!("{request:?} {response:?}");
        assert_eq!(shop.get(&request, move |_| response).await, None, "{said}");
    }
    let post = Request::post("/cart").header("host", "shop.example").body(()).expect("a request");
    assert_eq!(shop.send(post, page).await, None);
    assert_eq!(shop.recorded().await, Vec::<Value>::new());
}

#[tokio::test]
async fn what_counts_is_the_hosts_to_say() {
    let shop = Shop::open(|views| {
        views
            .requests(|request| request.method == "POST" && request.uri.starts_with("/app"))
            .responses(|response| response.status == 201)
    })
    .await;
    let post = |path: &str| Request::post(path).body(()).expect("a request");
    shop.send(post("/app/start"), |_| answer(201, &[])).await.expect("a cookie");
    assert_eq!(shop.send(post("/app/start"), |_| answer(200, &[])).await, None);
    assert_eq!(shop.send(post("/other"), |_| answer(201, &[])).await, None);
    let recorded = shop.recorded().await;
    assert_eq!(recorded.len(), 1);
    // Without a Host header nobody knows the page's address.
    assert_eq!(recorded[0].get("page_url"), None);
}

#[tokio::test]
async fn an_id_that_a_handler_used_reaches_the_browser_without_a_page() {
    let shop = Shop::open(|views| views).await;
    let mut used = String::new();
    let set = shop
        .get(&[], |visitor| {
            used = visitor.id().expect("an id").to_owned();
            answer(303, &[])
        })
        .await
        .expect("a cookie");
    assert_eq!(id_in(&set), used);
}

#[tokio::test]
async fn an_answer_for_shared_caches_gets_no_cookie_and_its_page_view_no_id_of_one_page() {
    let html = ("content-type", "text/html");
    for control in ["public, max-age=60", "max-age=0, S-MaxAge=60"] {
        let shop = Shop::open(|views| views).await;
        let shared = || answer(200, &[html, ("cache-control", control)]);
        assert_eq!(shop.get(&[], |_| shared()).await, None);
        let known = [("cookie", "clickmill_id=known-1")];
        assert_eq!(shop.get(&known, |_| shared()).await, None);
        let recorded = shop.recorded().await;
        assert_eq!(recorded.len(), 2);
        assert_eq!(recorded[0].get("anonymous_id"), None);
        assert_eq!(recorded[1]["anonymous_id"], "known-1");
    }
}

#[tokio::test]
async fn who_objects_is_counted_without_an_id() {
    let known = ("cookie", "clickmill_id=known-1");
    for (header, consent) in [("dnt", r#"{"dnt":true}"#), ("sec-gpc", r#"{"gpc":true}"#)] {
        let consent: Value = serde_json::from_str(consent).expect("json");
        let shop = Shop::open(|views| views).await;
        let objects = |visitor: &Visitor| {
            assert_eq!(visitor.id(), None);
            assert!(visitor.consent().is_some());
            page(visitor)
        };
        assert_eq!(shop.get(&[(header, "1"), known], objects).await, None);
        assert_eq!(shop.get(&[(header, "0"), known], page).await, None);
        let recorded = shop.recorded().await;
        assert_eq!(recorded[0].get("anonymous_id"), None);
        assert_eq!(recorded[0]["consent"], consent);
        assert_eq!(recorded[1]["anonymous_id"], "known-1");
        assert_eq!(recorded[1].get("consent"), None);

        let shop = Shop::open(|views| views.privacy_signals(PrivacySignals::Skip)).await;
        assert_eq!(shop.get(&[(header, "1"), known], page).await, None);
        assert_eq!(shop.recorded().await, Vec::<Value>::new());

        let shop = Shop::open(|views| views.privacy_signals(PrivacySignals::Ignore)).await;
        assert_eq!(shop.get(&[(header, "1"), known], page).await, None);
        let recorded = shop.recorded().await;
        assert_eq!(recorded[0]["anonymous_id"], "known-1");
        assert_eq!(recorded[0]["consent"], consent);
    }
}

#[tokio::test]
async fn the_hosts_answer_goes_out_where_the_collector_takes_nothing() {
    let shop = Shop::open(|views| views).await;
    shop.collector.shutdown(std::time::Duration::ZERO).await;
    assert!(shop.get(&[], page).await.is_some());
    assert_eq!(shop.views.refused(), 1);
}

#[tokio::test]
async fn a_header_over_its_limit_is_left_out() {
    let shop = Shop::open(|views| views.public_url("https://shop.example/")).await;
    let (fits, over) = ("x".repeat(MAX_TEXT_BYTES), "x".repeat(MAX_TEXT_BYTES + 1));
    shop.get(&[("user-agent", &fits), ("referer", &over)], page).await;
    let recorded = shop.recorded().await;
    assert_eq!(recorded[0]["user_agent"], fits);
    assert_eq!(recorded[0].get("referrer_url"), None);
    assert_eq!(recorded[0]["page_url"], "https://shop.example/tea?utm_source=mail");
}

#[test]
fn cookies_are_written_as_set() {
    let cookie = |cookie: SiteCookie| cookie.write("id", false);
    assert_eq!(
        cookie(SiteCookie::default()),
        "clickmill_id=id; Path=/; Max-Age=34128000; SameSite=Lax; HttpOnly"
    );
    let other = SiteCookie::named("ajs_anonymous_id").expect("a name");
    let other = other.domain("shop.example").expect("a domain").readable_by_scripts();
    let other = other.max_age(std::time::Duration::from_secs(60)).secure(Secure::Always);
    assert_eq!(
        cookie(other),
        "ajs_anonymous_id=id; Path=/; Domain=shop.example; Max-Age=60; SameSite=Lax; Secure"
    );
    for name in ["", "a b", "a=b", "a;b", "ü"] {
        assert!(SiteCookie::named(name).is_err(), "{name}");
    }
    for domain in ["", "a..b", "a;b", "a b", "a/b"] {
        assert!(SiteCookie::default().domain(domain).is_err(), "{domain}");
    }
}
