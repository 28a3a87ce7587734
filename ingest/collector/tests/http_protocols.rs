//! Every protocol's routes and answers, over real sockets.

#![allow(clippy::expect_used, reason = "a test fails by panicking, also in its helpers")]

use std::time::Duration;

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use clickmill_collector::Collector;
use clickmill_collector::layer::PageViews;
use clickmill_collector::protocol::snowplow;
use clickmill_collector::server::{
    self, MAX_BODY_BYTES, Options, RespectDnt, SameSite, Secure, Server, VisitorCookie, WriteKeys,
};
use clickmill_collector::sink::RecordKind;
use clickmill_collector::spool::read_all;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

struct Running {
    url: String,
    folder: tempfile::TempDir,
    client: reqwest::Client,
}

async fn start(keys: WriteKeys, options: Options) -> Running {
    let folder = tempfile::tempdir().expect("folder");
    let collector = Collector::builder(folder.path()).start().await.expect("starts");
    let address = "127.0.0.1:0".parse().expect("address");
    let server = Server::bind(collector, address, keys).await.expect("binds");
    let server = server.with_options(options);
    let url = format!("http://{}", server.local_addr());
    tokio::spawn(server.run(std::future::pending()));
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client");
    Running { url, folder, client }
}

impl Running {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.expect("answers")
    }

    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        self.request(Method::POST, path).body(body).send().await.expect("answers")
    }

    fn stored(&self) -> Vec<Value> {
        read_all(self.folder.path())
            .expect("reads")
            .records
            .iter()
            .filter(|record| record.kind != RecordKind::Heartbeat)
            .map(|record| serde_json::from_slice(&record.line).expect("json"))
            .collect()
    }
}

async fn is_pixel(response: Response) {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "image/gif");
    assert_eq!(response.headers()["cache-control"], "no-cache, no-store, must-revalidate");
    let bytes = response.bytes().await.expect("a body");
    assert_eq!(bytes.len(), 43);
    assert!(bytes.starts_with(b"GIF89a\x01\x00\x01\x00") && bytes.ends_with(b";"));
}

async fn is_ok(response: Response) {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/plain");
    assert_eq!(response.text().await.expect("text"), "ok");
}

async fn error(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.expect("json");
    assert!(body["message"].is_string(), "{body}");
    (status, body["code"].as_str().expect("a code").to_owned())
}

fn tp2(events: &Value) -> String {
    json!({"schema": "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4",
        "data": events})
    .to_string()
}

const TP2: &str = "/com.snowplowanalytics.snowplow/tp2";

#[tokio::test]
async fn snowplow_is_answered_as_its_trackers_want_it() {
    let server = start(WriteKeys::any(), Options::default()).await;
    is_ok(server.post(TP2, tp2(&json!([{"e": "pv", "eid": "a"}, {"e": "pv", "eid": "b"}]))).await)
        .await;
    for path in ["/i", "/ice.png", "/com.acme/track"] {
        is_pixel(server.get(&format!("{path}?e=pv&eid=c")).await).await;
    }
    is_ok(server.post("/com.acme/track", tp2(&json!([{"e": "pv", "eid": "d"}]))).await).await;
    let head = server.request(Method::HEAD, "/i?e=pv&eid=e").send().await.expect("answers");
    assert_eq!(
        (head.status().as_u16(), &head.headers()["content-type"]),
        (200, &"image/gif".parse().expect("value"))
    );
    // Refused input is a bad row, not an error: the tracker would send it for ever.
    is_ok(server.post(TP2, "{").await).await;
    is_pixel(server.get("/i").await).await;
    let stored = server.stored();
    let ids: Vec<&str> =
        stored.iter().map(|event| event["event_id"].as_str().unwrap_or("reject")).collect();
    assert_eq!(ids, ["a", "b", "c", "c", "c", "d", "e", "reject", "reject"]);
    assert!(
        stored
            .iter()
            .all(|event| event["source_protocol"] == "snowplow" || event["protocol"] == "snowplow")
    );
    // Of a path without a vendor's dot nothing is a tracker's.
    assert_eq!(server.get("/nothing/here?e=pv").await.status(), 404);
    assert_eq!(
        server.get("/robots.txt").await.text().await.expect("text"),
        "User-agent: *\nDisallow: /\n"
    );
}

#[tokio::test]
async fn a_large_snowplow_event_is_a_bad_row_and_a_larger_body_413() {
    let server = start(WriteKeys::any(), Options::default()).await;
    let large = |bytes: usize| tp2(&json!([{"e": "pv", "eid": "x", "page": "x".repeat(bytes)}]));
    is_ok(server.post(TP2, large(snowplow::MAX_EVENT_BYTES)).await).await;
    let stored = server.stored();
    assert_eq!(stored[0]["reason"], "too_large");
    assert!(stored[0]["bytes_base64"].as_str().expect("bytes").len() < 1_000_000);
    let mut exact = large(0);
    exact.extend(std::iter::repeat_n(' ', snowplow::MAX_BODY_BYTES - exact.len()));
    is_ok(server.post(TP2, exact.clone()).await).await;
    exact.push(' ');
    assert_eq!(error(server.post(TP2, exact).await).await, (413, "too_large".to_owned()));
}

#[tokio::test]
async fn a_trackers_application_is_its_write_key() {
    let keys = WriteKeys::any().with("site", "shop-de");
    let server = start(keys, Options::default()).await;
    is_pixel(server.get("/i?e=pv&aid=site").await).await;
    is_ok(server.post(TP2, tp2(&json!([{"e": "pv", "aid": "site"}]))).await).await;
    let refused = server.post(TP2, tp2(&json!([{"e": "pv", "aid": "other"}]))).await;
    assert_eq!(error(refused).await, (401, "invalid_write_key".to_owned()));
    assert_eq!(server.post("/g/collect?tid=site&en=a", "").await.status(), 204);
    assert_eq!(server.post("/g/collect?tid=other&en=a", "").await.status(), 401);
    let measured = json!({"client_id": "1", "events": [{"name": "a"}]}).to_string();
    let path = "/mp/collect?measurement_id=G-1&api_secret=site";
    assert_eq!(server.post(path, measured).await.status(), 204);
    let own = "{\"event_name\":\"a\"}";
    assert_eq!(server.post("/clickmill/v1/events?key=site", own).await.status(), 200);
    let stored = server.stored();
    assert_eq!(stored.len(), 5);
    assert!(stored.iter().all(|event| event["app_id"] == "shop-de"));
    assert!(!format!("{stored:?}").contains("api_secret"));
}

#[tokio::test]
async fn google_gets_204_whatever_came() {
    let server = start(WriteKeys::any(), Options::default()).await;
    let get = server.get("/g/collect?v=2&tid=G-1&cid=1&en=page_view").await;
    assert_eq!((get.status().as_u16(), get.bytes().await.expect("a body").len()), (204, 0));
    assert_eq!(server.post("/g/collect?v=2&cid=1", "en=a\nen=b").await.status(), 204);
    assert_eq!(server.post("/mp/collect", "{").await.status(), 204);
    let kinds: Vec<String> = server
        .stored()
        .iter()
        .map(|line| line["event_name"].as_str().unwrap_or("reject").to_owned())
        .collect();
    assert_eq!(kinds, ["page_view", "custom", "custom", "reject"]);
}

#[tokio::test]
async fn rudderstacks_clients_are_told_from_segments() {
    let server = start(WriteKeys::any(), Options::default()).await;
    let library = |name: &str| {
        json!({"batch": [{"type": "page", "channel": "server",
            "context": {"library": {"name": name}}}]})
        .to_string()
    };
    let with_key = json!({"writeKey": "k", "batch": [{"type": "page", "channel": "server",
        "context": {"library": {"name": "analytics-python"}}}]})
    .to_string();
    let expected = [
        (library("RudderLabs JavaScript SDK"), "rudderstack"),
        (library("@rudderstack/rudder-sdk-node"), "rudderstack"),
        (library("analytics-python"), "rudderstack"),
        (library("analytics-node"), "rudderstack"),
        (with_key, "segment"),
        (library("analytics.js"), "segment"),
    ];
    for (body, _) in &expected {
        let response = server.post("/v1/batch", body.clone()).await;
        assert_eq!(response.json::<Value>().await.expect("json"), json!({"success": true}));
    }
    let by_header =
        server.request(Method::POST, "/v1/page").header("AnonymousId", "abc").body("{}");
    assert_eq!(by_header.send().await.expect("answers").status(), 200);
    let found: Vec<String> = server
        .stored()
        .iter()
        .map(|event| event["source_protocol"].as_str().expect("text").to_owned())
        .collect();
    let mut wanted: Vec<&str> = expected.iter().map(|(_, protocol)| *protocol).collect();
    wanted.push("rudderstack");
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn rudderstacks_own_routes_work() {
    let keys = WriteKeys::any().with("k1", "shop");
    let server = start(keys, Options::default()).await;
    let batch = json!({"batch": [{"type": "track", "event": "Order Completed", "messageId": "b",
        "properties": {"order_id": "O1"}}]})
    .to_string();
    assert_eq!(server.post("/beacon/v1/batch?writeKey=k1", batch.clone()).await.status(), 200);
    assert_eq!(server.post("/beacon/v1/batch?writeKey=k2", batch).await.status(), 401);
    let pixel = "/pixel/v1/track?writeKey=k1&anonymousId=v1&event=Product%20Viewed\
                 &properties.product_id=p1&properties.price=9.90";
    is_pixel(server.get(pixel).await).await;
    is_pixel(server.get("/pixel/v1/page?writeKey=k1&anonymousId=v1&name=Home").await).await;
    let nameless = server.get("/pixel/v1/track?writeKey=k1&anonymousId=v1").await;
    is_pixel(nameless).await;
    let history = json!({"batch": [{"type": "track", "event": "e", "messageId": "h",
        "timestamp": "2020-01-02T03:04:05Z"}]})
    .to_string();
    let post = server.request(Method::POST, "/v1/import").basic_auth("k1", Some("")).body(history);
    assert_eq!(post.send().await.expect("answers").status(), 200);
    let merge = json!({"mergeProperties": [{"type": "email", "value": "a@example.com"}]});
    let post = server.request(Method::POST, "/v1/merge").basic_auth("k1", Some(""));
    assert_eq!(post.body(merge.to_string()).send().await.expect("answers").status(), 200);
    let stored = server.stored();
    assert_eq!(
        (&stored[0]["event_name"], &stored[0]["order_id"]),
        (&json!("purchase"), &json!("O1"))
    );
    assert_eq!(
        (&stored[1]["event_name"], &stored[1]["anonymous_id"]),
        (&json!("product_view"), &json!("v1"))
    );
    assert_eq!(stored[1]["items"][0]["product_id"], "p1");
    assert_eq!(stored[2]["event_name"], "page_view");
    // A pixel's reject is its query string. Nothing is left of the write key.
    assert_eq!(stored[3]["reason"], "missing_field");
    assert_eq!(stored[4]["event_ts"], "2020-01-02T03:04:05.000000Z");
    assert_eq!(
        (&stored[5]["event_name"], &stored[5]["source_event_name"]),
        (&json!("alias"), &json!("merge"))
    );
    assert!(
        stored
            .iter()
            .all(|line| line["source_protocol"] == "rudderstack"
                || line["protocol"] == "rudderstack")
    );
    let config = server.get("/sourceConfig/?p=web&v=3&writeKey=k1").await;
    let config: Value = config.json().await.expect("json");
    assert_eq!(config["source"]["enabled"], true);
    assert_eq!(
        (&config["source"]["destinations"], &config["source"]["dataplanes"]),
        (&json!([]), &json!({}))
    );
    assert_eq!(server.get("/sourceConfig/?writeKey=k2").await.status(), 401);
    let huge = vec![b' '; MAX_BODY_BYTES + 1];
    let refused = server.post("/beacon/v1/batch?writeKey=k1", huge).await;
    assert_eq!(error(refused).await, (413, "too_large".to_owned()));
}

#[tokio::test]
async fn native_events_are_answered_one_by_one() {
    let server = start(WriteKeys::any(), Options::default()).await;
    let response =
        server.post("/clickmill/v1/events", "[{\"event_name\":\"page_view\"},{\"x\":1},7]").await;
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.expect("json");
    assert_eq!((&body["success"], &body["accepted"]), (&json!(false), &json!(1)));
    let rejected: Vec<(u64, &str)> = body["rejected"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| (one["index"].as_u64().expect("index"), one["code"].as_str().expect("code")))
        .collect();
    assert_eq!(rejected, [(1, "missing_field"), (2, "malformed")]);
    assert_eq!(error(server.post("/clickmill/v1/events", "{").await).await.0, 400);
    assert_eq!(server.stored().len(), 4);
}

fn cookie() -> Options {
    let year = Duration::from_secs(365 * 86_400);
    let cookie = VisitorCookie::new("sp", None, year, SameSite::None, Secure::Https);
    Options { cookie: Some(cookie.expect("valid")), ..Options::default() }
}

fn set_cookie(response: &Response) -> Option<String> {
    Some(response.headers().get("set-cookie")?.to_str().expect("text").to_owned())
}

const ID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

#[tokio::test]
async fn a_browser_gets_a_visitor_cookie_and_keeps_it() {
    let server = start(WriteKeys::any(), cookie()).await;
    let get =
        |path: &str| server.request(Method::GET, path).header("Origin", "https://shop.example");
    let first = get("/i?e=pv").send().await.expect("answers");
    let set = set_cookie(&first).expect("a cookie");
    let (pair, attributes) = set.split_once("; ").expect("attributes");
    assert_eq!(attributes, "Max-Age=31536000; Path=/; Secure; HttpOnly; SameSite=None");
    let again = get("/g/collect?en=a").header("Cookie", pair).send().await.expect("answers");
    assert!(set_cookie(&again).expect("renewed").starts_with(pair));
    // A Snowplow client's own network id wins; a server gets no cookie.
    let own = get(&format!("/i?e=pv&nuid={ID}")).header("Cookie", pair).send().await;
    assert!(
        set_cookie(&own.expect("answers")).expect("a cookie").starts_with(&format!("sp={ID};"))
    );
    assert_eq!(set_cookie(&server.get("/i?e=pv").await), None);
    let ids: Vec<Value> = server.stored().iter().map(|event| event["network_id"].clone()).collect();
    let given = pair.strip_prefix("sp=").expect("the name");
    assert_eq!(ids, [json!(given), json!(given), json!(ID), Value::Null]);
}

/// A shop with the layer around its pages and the protocols' routes beside them.
async fn shop(options: Options) -> Running {
    let folder = tempfile::tempdir().expect("folder");
    let collector = Collector::builder(folder.path()).start().await.expect("starts");
    let trackers = server::router(collector.clone(), WriteKeys::any(), options);
    let shop = Router::new()
        .route("/", get(|| async { Html("<h1>Tea</h1>") }))
        .layer(PageViews::new(collector))
        .nest("/collect", trackers);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async { axum::serve(listener, shop).await });
    Running { url, folder, client: reqwest::Client::new() }
}

/// `name=value` of an answer's cookie.
fn pair(response: &Response) -> Option<String> {
    Some(set_cookie(response)?.split(';').next().expect("a pair").to_owned())
}

#[tokio::test]
async fn a_visitor_has_one_id_in_page_views_and_in_what_trackers_send() {
    for options in [Options::default(), cookie()] {
        let shop = shop(options).await;
        let page = shop.get("/").await;
        let site = pair(&page).expect("the layer's cookie");
        let id = site.strip_prefix("clickmill_id=").expect("its name").to_owned();
        let body = json!({"event": "Product Viewed", "anonymousId": "of-the-tracker"});
        let track = |cookie: String| {
            let request = shop.request(Method::POST, "/collect/v1/track").body(body.to_string());
            request.basic_auth("K", Some("")).header("Cookie", cookie).send()
        };
        let tracked = track(site.clone()).await.expect("answers");
        assert_eq!(tracked.status(), 200);
        // The protocols' own cookie, where there is one, gets the same id.
        if let Some(own) = pair(&tracked) {
            assert_eq!(own, format!("sp={id}"));
            track(own).await.expect("answers");
        }
        let stored = shop.stored();
        assert_eq!(stored[0]["anonymous_id"], id.as_str());
        for event in &stored {
            assert_eq!(event["network_id"], id.as_str(), "{event}");
        }
        assert!(stored.len() >= 2);
    }
    // Whoever objects has none, here and there.
    let shop = shop(cookie()).await;
    let request = shop.request(Method::POST, "/collect/v1/track").header("DNT", "1");
    let request = request.header("Cookie", format!("clickmill_id={ID}")).basic_auth("K", Some(""));
    request.body(r#"{"event":"x","anonymousId":"a"}"#).send().await.expect("answers");
    assert_eq!(shop.stored()[0].get("network_id"), None);
}

#[tokio::test]
async fn a_visitor_who_asks_for_it_gets_no_cookie_and_no_id() {
    for (header, value, signal) in
        [("SP-Anonymous", "*", None), ("DNT", "1", Some("dnt")), ("Sec-GPC", "1", Some("gpc"))]
    {
        let server = start(WriteKeys::any(), cookie()).await;
        let get = server
            .request(Method::GET, "/i?e=pv&duid=d1")
            .header("Origin", "https://shop.example")
            .header("Cookie", format!("sp={ID}"))
            .header(header, value);
        let response = get.send().await.expect("answers");
        assert!(set_cookie(&response).expect("expired").starts_with("sp=; Max-Age=0; "));
        let event = &server.stored()[0];
        assert_eq!(event["network_id"], Value::Null);
        assert_eq!(event["anonymous_id"], "d1");
        let consent = signal.map_or(Value::Null, |signal| json!({signal: true}));
        assert_eq!(event["consent"], consent);
    }
    let options = Options { respect_dnt: RespectDnt::Anonymous, ..cookie() };
    let server = start(WriteKeys::any(), options).await;
    let get = server.request(Method::GET, "/i?e=pv&duid=d1&uid=u1&sid=s1").header("Sec-GPC", "1");
    is_pixel(get.send().await.expect("answers")).await;
    let event = &server.stored()[0];
    for column in ["anonymous_id", "user_id", "network_id", "client_session_id"] {
        assert_eq!(event[column], Value::Null, "{column}");
    }
}

#[tokio::test]
async fn redirects_go_to_listed_hosts_only() {
    let off = start(WriteKeys::any(), Options::default()).await;
    assert_eq!(off.get("/r/tp2?u=https%3A%2F%2Fshop.example%2F").await.status(), 404);
    let options = Options { redirect_hosts: vec!["shop.example".to_owned()], ..Options::default() };
    let server = start(WriteKeys::any(), options).await;
    let response = server.get("/r/tp2?u=https%3A%2F%2Fshop.example%2Fa%3Fb%3Dc&p=web").await;
    assert_eq!(response.status(), 302);
    assert_eq!(response.headers()["location"], "https://shop.example/a?b=c");
    for u in [
        "https%3A%2F%2Fevil.example%2F",
        "https%3A%2F%2Fshop.example%40evil.example%2F",
        "javascript%3Aalert(1)",
        "%2F%2Fevil.example",
        "https%3A%2F%2Fshop.example.evil.example",
        "",
    ] {
        let refused = server.get(&format!("/r/tp2?u={u}")).await;
        assert_eq!(error(refused).await.0, 400, "{u}");
    }
    let stored = server.stored();
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0]["source_event_name"], "uri_redirect");
    assert_eq!(stored[0]["properties"], json!({"uri": "https://shop.example/a?b=c"}));
}

#[tokio::test]
async fn no_protocol_stores_an_address() {
    let server = start(WriteKeys::any(), Options::default()).await;
    // Base64 of {"data":[{"schema":"a","data":{"ip":"192.0.2.7"}}]}
    let cx = "eyJkYXRhIjpbeyJzY2hlbWEiOiJhIiwiZGF0YSI6eyJpcCI6IjE5Mi4wLjIuNyJ9fV19";
    for path in [
        "/i?e=pv&ip=192.0.2.7",
        "/i?ip=192.0.2.7",
        "/g/collect?en=a&uip=192.0.2.7&_uip=192.0.2.7&ep.ip=192.0.2.7",
        "/pixel/v1/track?event=e&context.ip=192.0.2.7",
        "/pixel/v1/track?context.ip=192.0.2.7",
        &format!("/i?e=pv&cx={cx}"),
    ] {
        server.get(path).await;
    }
    for (path, body) in [
        (
            TP2,
            tp2(&json!([{"e": "pv", "ip": "192.0.2.7", "cx": cx}, {"ip": "192.0.2.7", "cx": cx}])),
        ),
        (TP2, tp2(&json!([{"e": "pv", "co": "{\"data\":[{\"ip\":\"192.0.2.7\"}]}"}]))),
        ("/mp/collect", json!({"ip_override": "192.0.2.7", "events": [{"name": "a"}]}).to_string()),
        ("/g/collect?v=2", "en=a&uip=192.0.2.7".to_owned()),
        ("/clickmill/v1/events", json!({"event_name": "a", "ip": "192.0.2.7"}).to_string()),
        ("/clickmill/v1/events", "{\"ip\":\"192.0.2.7\"".to_owned()),
    ] {
        let sent = server.request(Method::POST, path).header("X-Forwarded-For", "192.0.2.7");
        sent.body(body).send().await.expect("answers");
    }
    let stored = server.stored();
    assert_eq!(stored.len(), 13);
    let text = format!("{stored:?}");
    assert!(!text.contains("192.0.2"), "{text}");
    // Base64 of 192.0.2.7 at each of its three offsets, without the ends.
    for coded in ["MTkyLjAuMi43", "OTIuMC4yLj", "kyLjAuMi"] {
        assert!(!text.contains(coded), "{text}");
    }
}

#[tokio::test]
async fn preflights_are_answered_on_every_route() {
    let server = start(WriteKeys::any(), Options::default()).await;
    for path in [
        TP2,
        "/i",
        "/com.acme/track",
        "/v1/batch",
        "/beacon/v1/batch",
        "/sourceConfig/",
        "/g/collect",
        "/mp/collect",
        "/clickmill/v1/events",
        "/no/such",
    ] {
        let response = server
            .request(Method::OPTIONS, path)
            .header("Origin", "https://shop.example")
            .header("Access-Control-Request-Method", "POST")
            .send()
            .await
            .expect("answers");
        assert_eq!(response.status(), 200, "{path}");
        let headers = response.headers();
        assert_eq!(headers["access-control-allow-origin"], "https://shop.example");
        assert_eq!(headers["access-control-allow-credentials"], "true");
        assert!(
            headers["access-control-allow-headers"]
                .to_str()
                .expect("text")
                .contains("SP-Anonymous")
        );
    }
}
