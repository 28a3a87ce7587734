//! Rates, origins, header sizes, and where a request comes from.

use std::time::Duration;

use clickmill_collector::protocol::MAX_DEPTH;
use clickmill_collector::server::{
    Edge, GeoIp, KeepNetwork, KeySettings, MAX_HEADER_BYTES, MAX_HEADERS, RateLimit,
    TrustedProxies, WriteKeys,
};
use serde_json::{Value, json};

use crate::support::{answer, event, eventually, exchange, start};

/// A database of MaxMind's own for tests.
const GEO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/GeoIP2-City-Test.mmdb");

fn rate(per_second: u32, burst: u32) -> RateLimit {
    RateLimit::new(per_second, Some(burst)).expect("a rate")
}

fn behind_a_local_proxy() -> Edge {
    let trusted_proxies = TrustedProxies::parse(["127.0.0.0/8"]).expect("networks");
    Edge { trusted_proxies, ..Edge::default() }
}

#[tokio::test]
async fn a_key_over_its_rate_gets_429_and_another_key_does_not() {
    let limited = KeySettings::new("shop").with_rate(rate(1, 3));
    let keys = WriteKeys::any().with_settings("k1", limited).with("k2", "other");
    let server = start(keys, Edge::default()).await;
    let batch = json!({"batch": vec![json!({"type": "page"}); 3]}).to_string();
    let post = |key: &str, path: &str, body: String| {
        let request = server.client.post(server.url(path)).basic_auth(key, Some(""));
        answer(request.header("Origin", "https://shop.example").body(body))
    };
    assert_eq!(post("k1", "/v1/batch", batch.clone()).await.0, 200);
    // Input that is refused is stored, too, and so is limited alike.
    for body in [batch.clone(), "{".to_owned()] {
        let (status, headers, body) = post("k1", "/v1/batch", body).await;
        assert_eq!((status, &body["code"]), (429, &json!("key_rate_limit")));
        assert!(body["message"].is_string());
        let seconds: u64 = headers["retry-after"].to_str().expect("text").parse().expect("number");
        assert!((1..=3).contains(&seconds), "{seconds}");
        // A browser can read it.
        assert_eq!(headers["access-control-allow-origin"], "https://shop.example");
        assert_eq!(headers["access-control-expose-headers"], "Retry-After");
    }
    assert_eq!(post("k2", "/v1/batch", batch).await.0, 200);
    let apps: Vec<Value> = server.stored().iter().map(|e| e["app_id"].clone()).collect();
    assert_eq!(apps, ["shop", "shop", "shop", "other", "other", "other"]);
    assert_eq!(server.metrics().requests_refused.with(["key_rate_limit"]).get(), 2);
}

#[tokio::test]
async fn an_address_over_its_rate_gets_429_and_another_address_does_not() {
    // One token in a thousand seconds would not be a rate; the burst is what counts here.
    let edge = Edge { address_limit: Some(rate(1, 2)), ..behind_a_local_proxy() };
    let server = start(WriteKeys::any(), edge).await;
    let post = |from: &str| {
        let request = server.client.post(server.url("/v1/track")).header("X-Forwarded-For", from);
        answer(request.body(event()))
    };
    let mut refused = None;
    // More than two at once: each of these takes far less than a second.
    for _ in 0..50 {
        let (status, headers, body) = post("198.51.100.7").await;
        if status != 200 {
            refused = Some((status, headers, body));
            break;
        }
    }
    let (status, headers, body) = refused.expect("refused in the end");
    assert_eq!((status, &body["code"]), (429, &json!("address_rate_limit")));
    assert!(headers.contains_key("retry-after"));
    assert_eq!(post("198.51.100.8").await.0, 200);
}

#[tokio::test]
async fn without_a_trusted_proxy_a_forged_address_changes_nothing() {
    let edge = Edge { address_limit: Some(rate(1, 2)), ..Edge::default() };
    let server = start(WriteKeys::any(), edge).await;
    let mut statuses = Vec::new();
    for n in 0..50 {
        let request = server.client.post(server.url("/v1/track")).body(event());
        let forged = format!("198.51.100.{n}");
        statuses.push(answer(request.header("X-Forwarded-For", forged)).await.0);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
}

#[tokio::test]
async fn pages_of_other_sites_are_refused_so_that_their_sdks_stop() {
    let shop = "https://*.shop.example".parse().expect("origin");
    let keys =
        WriteKeys::any().with_settings("k1", KeySettings::new("shop").with_origins(vec![shop]));
    let server = start(keys, Edge::default()).await;
    let url = server.url("/v1/track");
    let preflight = |origin: &str| {
        let request = server.client.request(reqwest::Method::OPTIONS, &url);
        answer(request.header("Origin", origin).header("Access-Control-Request-Method", "POST"))
    };
    let post = |origin: Option<&str>| {
        let request = server.client.post(&url).basic_auth("k1", Some("")).body(event());
        answer(match origin {
            Some(origin) => request.header("Origin", origin),
            None => request,
        })
    };
    let (status, headers, _) = preflight("https://www.shop.example").await;
    assert_eq!(
        (status, &headers["access-control-allow-origin"]),
        (200, &"https://www.shop.example".parse().expect("value"))
    );
    let (status, headers, body) = preflight("https://evil.test").await;
    assert_eq!((status, &body["code"]), (403, &json!("origin_not_allowed")));
    assert!(!headers.contains_key("access-control-allow-origin"));
    assert_eq!(post(Some("https://www.shop.example")).await.0, 200);
    assert_eq!(post(None).await.0, 200);
    for other in ["https://evil.test", "null", "https://shop.example.evil.test"] {
        let (status, headers, body) = post(Some(other)).await;
        assert_eq!((status, &body["code"]), (403, &json!("origin_not_allowed")), "{other}");
        assert_eq!(headers["access-control-allow-origin"], other, "the page can read why");
    }
    assert_eq!(server.stored().len(), 2);
}

/// A request whose path and headers have exactly so many bytes, as the limit counts them.
fn sized(bytes: usize) -> String {
    let fixed =
        "/health".len() + "host".len() + "x".len() + 4 + "connection".len() + "close".len() + 4;
    let padding = "x".repeat(bytes - fixed - "pad".len() - 4);
    format!("GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nPad: {padding}\r\n\r\n")
}

#[tokio::test]
async fn headers_are_taken_up_to_their_limit() {
    let server = start(WriteKeys::any(), Edge::default()).await;
    let at = exchange(server.address, sized(MAX_HEADER_BYTES).as_bytes()).await;
    assert!(at.starts_with("HTTP/1.1 200"), "{at}");
    let over = exchange(server.address, sized(MAX_HEADER_BYTES + 1).as_bytes()).await;
    assert!(over.starts_with("HTTP/1.1 431"), "{over}");
    assert!(over.contains("\"code\":\"headers_too_large\""), "{over}");
    // Far over it, nobody keeps them to count.
    let far = exchange(server.address, sized(4 * MAX_HEADER_BYTES).as_bytes()).await;
    assert!(far.is_empty() || far.starts_with("HTTP/1.1 431"), "{far}");
    let lines = |n: usize| {
        let more: String = (0..n - 2).map(|i| format!("X-{i}: y\r\n")).collect();
        format!("GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n")
    };
    let at = exchange(server.address, lines(MAX_HEADERS).as_bytes()).await;
    assert!(at.starts_with("HTTP/1.1 200"), "{at}");
    let over = exchange(server.address, lines(MAX_HEADERS + 1).as_bytes()).await;
    assert!(over.starts_with("HTTP/1.1 431"), "{over}");
}

#[tokio::test]
async fn an_event_gets_its_place_and_the_address_is_gone() {
    let geo = Some(GeoIp::open(GEO).expect("opens"));
    let edge = Edge { geo, ..behind_a_local_proxy() };
    let server = start(WriteKeys::any(), edge).await;
    let post = |from: &str, header: Option<&str>| {
        let request = server.client.post(server.url("/v1/track")).header("X-Forwarded-For", from);
        let request = header.into_iter().fold(request, |request, name| request.header(name, "*"));
        answer(request.body(event()))
    };
    // MaxMind's source-data/GeoIP2-City-Test.json says where these are.
    assert_eq!(post("81.2.69.160", None).await.0, 200);
    assert_eq!(post("203.0.113.1", None).await.0, 200);
    assert_eq!(post("81.2.69.160", Some("SP-Anonymous")).await.0, 200);
    let stored = server.stored();
    let place = |n: usize| ["country", "region", "city"].map(|name| stored[n][name].clone());
    assert_eq!(place(0), [json!("GB"), json!("England"), json!("London")]);
    assert_eq!(place(1), [Value::Null, Value::Null, Value::Null]);
    assert_eq!(place(2), [Value::Null, Value::Null, Value::Null]);
    assert!(!format!("{stored:?}").contains("81.2.69"));
    assert!(stored.iter().all(|event| event.get("ip_truncated").is_none()));
}

#[tokio::test]
async fn the_network_of_an_address_is_kept_where_the_shop_says_so() {
    let edge = Edge { keep_network: KeepNetwork::Truncated, ..behind_a_local_proxy() };
    let server = start(WriteKeys::any(), edge).await;
    for from in ["81.2.69.160", "2001:db8:1:2:3::4"] {
        let request = server.client.post(server.url("/v1/track")).header("X-Forwarded-For", from);
        assert_eq!(answer(request.body(event())).await.0, 200);
    }
    let stored = server.stored();
    assert_eq!(stored[0]["ip_truncated"], "81.2.69.0/24");
    assert_eq!(stored[1]["ip_truncated"], "2001:db8:1::/48");
}

#[tokio::test]
async fn a_damaged_database_of_places_leaves_the_old_one_in_use() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("places.mmdb");
    std::fs::copy(GEO, &file).expect("copies");
    let geo = Some(GeoIp::open(&file).expect("opens"));
    let reload_every = Some(Duration::from_millis(10));
    let server =
        start(WriteKeys::any(), Edge { geo, reload_every, ..behind_a_local_proxy() }).await;
    std::fs::write(&file, "no database").expect("writes");
    let reloads = |outcome| server.metrics().reloads.with(["geoip", outcome]).get();
    eventually("reported", async || reloads("failed") == 1).await;
    let post = || {
        let request = server.client.post(server.url("/v1/track")).body(event());
        answer(request.header("X-Forwarded-For", "81.2.69.160"))
    };
    assert_eq!(post().await.0, 200);
    std::fs::copy(GEO, &file).expect("copies");
    eventually("read again", async || reloads("ok") > 0).await;
    assert_eq!(post().await.0, 200);
    assert!(server.stored().iter().all(|event| event["city"] == "London"));
    assert!(GeoIp::open(folder.path().join("missing")).is_err());
}

#[tokio::test]
async fn json_is_nested_up_to_its_limit_and_no_depth_ends_the_server() {
    let server = start(WriteKeys::any(), Edge::default()).await;
    let nested = |levels: usize| {
        // The message and its properties are two levels.
        let (open, close) = ("[".repeat(levels - 2), "]".repeat(levels - 2));
        format!("{{\"event\":\"e\",\"properties\":{{\"x\":{open}{close}}}}}")
    };
    let post = |body: String| answer(server.client.post(server.url("/v1/track")).body(body));
    for levels in [MAX_DEPTH, MAX_DEPTH + 1] {
        assert_eq!(post(nested(levels)).await.0, 200, "{levels}");
    }
    assert!(post(nested(15_000)).await.0 < 500);
    let (status, ..) = post("[".repeat(500_000)).await;
    assert_eq!(status, 400);
    let stored = server.stored();
    let reasons: Vec<&str> =
        stored.iter().map(|line| line["reason"].as_str().unwrap_or("event")).collect();
    assert_eq!(reasons[0], "event");
    assert!(reasons[1..].iter().all(|reason| *reason != "event"), "{reasons:?}");
    assert_eq!(reasons.len(), 4);
}
