//! `/health`, `/ready` and `/metrics`: what they say, and to whom.

use clickmill_collector::server::{Edge, WriteKeys};
use serde_json::json;

use crate::support::{answer, event, start};

#[tokio::test]
async fn metrics_count_what_happened_in_prometheus_own_format() {
    let server = start(WriteKeys::any().with("k", "shop"), Edge::default()).await;
    let post = |body: &str| {
        let request = server.client.post(server.url("/v1/batch")).basic_auth("k", Some(""));
        answer(request.body(body.to_owned()))
    };
    let batch = json!({"batch": [{"type": "page"}, {"type": "page"}, {"type": "dance"}]});
    assert_eq!(post(&batch.to_string()).await.0, 200);
    assert_eq!(post("{").await.0, 400);
    let unknown = server.client.post(server.url("/v1/track")).body(event());
    assert_eq!(answer(unknown).await.0, 401);
    let response = server.client.get(server.url("/metrics")).send().await.expect("answers");
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4");
    let text = response.text().await.expect("text");
    let bytes = batch.to_string().len() + 1 + event().len();
    for line in [
        "clickmill_events_accepted_total{protocol=\"segment\"} 2",
        "clickmill_events_rejected_total{protocol=\"segment\",reason=\"malformed\"} 1",
        "clickmill_events_rejected_total{protocol=\"segment\",reason=\"unknown_type\"} 1",
        "clickmill_http_requests_total{status=\"200\"} 1",
        "clickmill_http_requests_total{status=\"400\"} 1",
        "clickmill_http_requests_total{status=\"401\"} 1",
        "clickmill_http_requests_refused_total{reason=\"invalid_write_key\"} 1",
        "clickmill_http_request_seconds_count 3",
        &format!("clickmill_http_body_bytes_total {bytes}"),
        "clickmill_ready 1",
        "clickmill_spool_backlog_records 4",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\n{text}");
    }
    assert!(!text.contains("shop") && !text.contains("127.0.0.1"), "{text}");
}

#[tokio::test]
async fn numbers_are_for_this_machine_and_not_for_whom_a_proxy_speaks_for() {
    let server = start(WriteKeys::any(), Edge::default()).await;
    let get = |path: &str, header: Option<&str>| {
        let request = server.client.get(server.url(path));
        answer(header.into_iter().fold(request, |request, name| request.header(name, "x")))
    };
    let (status, _, body) = get("/health", None).await;
    assert_eq!((status, &body["ok"], &body["backlog"]), (200, &json!(true), &json!(0)));
    assert!(body["collector_id"].is_string());
    for header in ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"] {
        assert_eq!(get("/health", Some(header)).await.2, json!({"ok": true}), "{header}");
        assert_eq!(get("/ready", Some(header)).await.2, json!({"ok": true}), "{header}");
        let (status, _, body) = get("/metrics", Some(header)).await;
        assert_eq!((status, &body["code"]), (403, &json!("not_local")), "{header}");
    }
}

#[tokio::test]
async fn with_an_address_of_their_own_numbers_are_shown_there_only() {
    let admin_listen = Some("127.0.0.1:0".parse().expect("address"));
    let edge = Edge { admin_listen, ..Edge::default() };
    let mut server = start(WriteKeys::any(), edge).await;
    let admin = format!("http://{}", server.admin.expect("listens"));
    assert_eq!(answer(server.client.get(server.url("/metrics"))).await.0, 403);
    assert_eq!(answer(server.client.get(server.url("/ready"))).await.2, json!({"ok": true}));
    let text = server.client.get(format!("{admin}/metrics")).send().await.expect("answers");
    assert!(text.text().await.expect("text").contains("clickmill_ready 1"));
    let (status, _, body) = answer(server.client.get(format!("{admin}/ready"))).await;
    assert_eq!((status, &body["backlog"]), (200, &json!(0)));
    let events = server.client.post(format!("{admin}/v1/track")).body(event()).send().await;
    assert_eq!(events.expect("answers").status(), 404, "no events here");
    server.stop();
    server.task.await.expect("both end");
}
