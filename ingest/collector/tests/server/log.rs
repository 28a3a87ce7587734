//! What is logged under hostile input: nothing of what came, and of nobody.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use clickmill_collector::server::{Edge, KeySettings, RateLimit, TrustedProxies, WriteKeys};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::support::{exchange, start};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("lock").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// On one thread, so that the subscriber of this test sees all of its server.
#[tokio::test(flavor = "current_thread")]
async fn neither_addresses_nor_payloads_nor_keys_are_logged() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("info,clickmill_collector=trace"))
        .with_writer(log.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    tracing::info!("the log is captured");
    let rate = RateLimit::new(1, Some(5)).expect("a rate");
    let keys =
        WriteKeys::any().with_settings("KEYSECRET", KeySettings::new("shop").with_rate(rate));
    let trusted_proxies = TrustedProxies::parse(["127.0.0.0/8"]).expect("networks");
    let edge = Edge { trusted_proxies, address_limit: Some(rate), ..Edge::default() };
    let server = start(keys, edge).await;
    let address = server.address;
    let headers = "Host: x\r\nX-Forwarded-For: 198.51.100.7\r\nConnection: close\r\n\
        Authorization: Bearer KEYSECRET\r\n";
    let bodies = [
        r#"{"event":"PAYLOAD","ip":"198.51.100.7"}"#,
        r#"{"event":"PAYLOAD""#,
        r#"{"batch":[{"type":"PAYLOAD"},7,{"type":"page","context":{"ip":"198.51.100.7"}}]}"#,
        "\u{1f}PAYLOAD 198.51.100.7",
    ];
    for _ in 0..4 {
        for body in bodies {
            let length = body.len();
            let whole = format!(
                "POST /v1/batch?q=PAYLOAD HTTP/1.1\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
            );
            exchange(address, whole.as_bytes()).await;
            // Labelled as what it is not; cut short; not HTTP at all.
            let labelled = whole.replace("Host: x", "Host: x\r\nContent-Encoding: gzip");
            exchange(address, labelled.as_bytes()).await;
        }
        exchange(address, b"PAYLOAD 198.51.100.7 KEYSECRET\r\n\r\n").await;
        exchange(address, b"\x16\x03\x01PAYLOAD").await;
        let large = format!("GET /?PAYLOAD={} HTTP/1.1\r\n{headers}\r\n", "x".repeat(100_000));
        exchange(address, large.as_bytes()).await;
    }
    assert!(server.metrics().requests.with(["429"]).get() > 0, "limits were met, too");
    server.collector.shutdown(std::time::Duration::from_secs(5)).await;
    let log = String::from_utf8(log.0.lock().expect("lock").clone()).expect("text");
    assert!(log.contains("the log is captured"), "{log}");
    for word in ["198.51.100.7", "127.0.0.1", "PAYLOAD", "KEYSECRET"] {
        assert!(!log.contains(word), "{word} in\n{log}");
    }
}
