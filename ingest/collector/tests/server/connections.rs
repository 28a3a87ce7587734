//! Slow, idle and too many clients; pipelining; the end.

use std::time::Duration;

use clickmill_collector::server::{ConnectionLimits, Edge, WriteKeys};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{answer, event, eventually, exchange, head, one_answer, start, until_closed};

const SHORT: Duration = Duration::from_millis(200);

fn limited(change: impl FnOnce(&mut ConnectionLimits)) -> Edge {
    let mut edge = Edge::default();
    change(&mut edge.connections);
    edge
}

#[tokio::test]
async fn headers_that_do_not_end_are_cut_off() {
    let server = start(WriteKeys::any(), limited(|limits| limits.header = SHORT)).await;
    let mut slow = server.connect().await;
    slow.write_all(b"POST /v1/track HTTP/1.1\r\nX-Slow: ").await.expect("writes");
    assert_eq!(until_closed(&mut slow).await, "");
    let closed = &server.metrics().connections_closed;
    assert_eq!(closed.with(["header_timeout"]).get(), 1);
    assert_eq!(closed.with(["idle"]).get(), 0);
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_before_and_after_one() {
    let server = start(WriteKeys::any(), limited(|limits| limits.idle = SHORT)).await;
    let mut silent = server.connect().await;
    assert_eq!(until_closed(&mut silent).await, "");
    let mut once = server.connect().await;
    once.write_all(format!("{}{}", head(event().len()), event()).as_bytes()).await.expect("writes");
    assert!(until_closed(&mut once).await.starts_with("HTTP/1.1 200"));
    assert_eq!(server.metrics().connections_closed.with(["idle"]).get(), 2);
    eventually("all closed", async || server.metrics().connections.get() == 0).await;
}

#[tokio::test]
async fn a_request_in_work_is_no_idle_connection() {
    let edge = limited(|limits| (limits.idle, limits.header) = (SHORT, SHORT));
    let server = start(WriteKeys::any(), edge).await;
    let mut working = server.connect().await;
    working.write_all(head(event().len()).as_bytes()).await.expect("writes");
    // Idle ones come and go meanwhile: more than the limit passes.
    for _ in 0..2 {
        until_closed(&mut server.connect().await).await;
    }
    working.write_all(event().as_bytes()).await.expect("writes");
    assert!(one_answer(&mut working).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn idle_connections_make_room_where_all_are_taken() {
    let edge = limited(|limits| (limits.max_connections, limits.idle_when_full) = (3, SHORT));
    let server = start(WriteKeys::any(), edge).await;
    let mut working = server.connect().await;
    working.write_all(head(event().len()).as_bytes()).await.expect("writes");
    let mut idle = [server.connect().await, server.connect().await];
    eventually("all taken", async || server.metrics().connections.get() == 3).await;
    let (status, ..) = answer(server.client.post(server.url("/v1/track")).body(event())).await;
    assert_eq!(status, 200);
    for idle in &mut idle {
        assert_eq!(until_closed(idle).await, "");
    }
    working.write_all(event().as_bytes()).await.expect("writes");
    assert!(one_answer(&mut working).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn no_more_than_the_cap_are_open_and_the_next_one_waits() {
    let server = start(WriteKeys::any(), limited(|limits| limits.max_connections = 1)).await;
    let mut first = server.connect().await;
    first.write_all(head(event().len()).as_bytes()).await.expect("writes");
    eventually("accepted", async || server.metrics().connections_accepted.get() == 1).await;
    let mut second = server.connect().await;
    let whole = format!("{}{}", head(event().len()), event());
    second.write_all(whole.as_bytes()).await.expect("writes");
    first.write_all(event().as_bytes()).await.expect("writes");
    assert!(one_answer(&mut first).await.starts_with("HTTP/1.1 200"));
    assert_eq!(server.metrics().connections_accepted.get(), 1, "the second one still waits");
    drop(first);
    assert!(one_answer(&mut second).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = start(WriteKeys::any(), Edge::default()).await;
    let good = format!("{}{}", head(event().len()), event());
    let bad = format!("{}{{", head(1));
    let last = "GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let text = exchange(server.address, format!("{good}{bad}{good}{last}").as_bytes()).await;
    let statuses: Vec<&str> = text.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "400", "200", "404"]);
    assert_eq!(server.stored().len(), 3);
}

#[tokio::test]
async fn a_drain_finishes_the_request_in_work_and_closes_the_rest() {
    let mut server = start(WriteKeys::any(), Edge::default()).await;
    let mut working = server.connect().await;
    working.write_all(head(event().len()).as_bytes()).await.expect("writes");
    let mut idle = server.connect().await;
    eventually("both accepted", async || server.metrics().connections.get() == 2).await;
    server.stop();
    assert_eq!(until_closed(&mut idle).await, "");
    eventually("it no longer listens", async || TcpStream::connect(server.address).await.is_err())
        .await;
    working.write_all(event().as_bytes()).await.expect("writes");
    let text = until_closed(&mut working).await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.to_ascii_lowercase().contains("connection: close"), "{text}");
    server.task.await.expect("ends");
    assert_eq!(server.collector.status().spool.last_wal_seq, 1);
}

#[tokio::test]
async fn before_it_drains_it_says_so_and_goes_on_for_the_delay() {
    let edge = Edge { stop_delay: Duration::from_secs(3_600), ..Edge::default() };
    let mut server = start(WriteKeys::any(), edge).await;
    let ready = || answer(server.client.get(server.url("/ready")));
    assert_eq!(ready().await.0, 200);
    server.stop();
    let ready = || answer(server.client.get(server.url("/ready")));
    eventually("not ready", async || ready().await.0 == 503).await;
    assert_eq!(ready().await.2["code"], "draining");
    assert_eq!(answer(server.client.get(server.url("/health"))).await.0, 200);
    let (status, ..) = answer(server.client.post(server.url("/v1/track")).body(event())).await;
    assert_eq!(status, 200);
    server.task.abort();
}

#[tokio::test]
async fn what_is_not_done_when_the_grace_ends_is_cut_off() {
    let mut server = start(WriteKeys::any(), limited(|limits| limits.drain = SHORT)).await;
    let mut working = server.connect().await;
    working.write_all(head(event().len()).as_bytes()).await.expect("writes");
    eventually("accepted", async || server.metrics().connections.get() == 1).await;
    server.stop();
    assert_eq!(until_closed(&mut working).await, "");
    (&mut server.task).await.expect("ends");
    assert_eq!(server.metrics().connections_closed.with(["drain"]).get(), 1);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_408_which_sdks_try_again() {
    let server = start(WriteKeys::any(), limited(|limits| limits.body = SHORT)).await;
    let mut slow = server.connect().await;
    slow.write_all(format!("{}{{", head(event().len())).as_bytes()).await.expect("writes");
    let text = one_answer(&mut slow).await;
    assert!(text.starts_with("HTTP/1.1 408") && text.contains("\"code\":\"timeout\""), "{text}");
    assert!(server.stored().is_empty());
}
