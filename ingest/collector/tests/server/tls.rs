//! TLS: both protocols, reload, and who does not speak it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clickmill_collector::server::{Edge, Tls, TlsError, WriteKeys};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{Running, event, eventually, exchange, head, one_answer, start};

/// A new certificate in `folder`, signed by itself; returned in DER.
fn certify(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("certifies");
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).expect("writes");
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("writes");
    made.cert.der().clone()
}

async fn serving(folder: &Path) -> Running {
    let tls = Tls::open(folder.join("cert.pem"), folder.join("key.pem")).expect("opens");
    let reload_every = Some(Duration::from_millis(10));
    start(WriteKeys::any(), Edge { tls: Some(tls), reload_every, ..Edge::default() }).await
}

/// Trusts `certificate` and nothing else; fails where another one is shown.
async fn connect(
    server: &Running,
    certificate: &CertificateDer<'static>,
    protocol: &[u8],
) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, server.connect().await).await
}

#[tokio::test]
async fn http_1_and_2_are_spoken_over_tls() {
    let folder = tempfile::tempdir().expect("folder");
    let certificate = certify(folder.path());
    let server = serving(folder.path()).await;
    let mut first = connect(&server, &certificate, b"http/1.1").await.expect("connects");
    let whole = format!("{}{}", head(event().len()), event());
    first.write_all(whole.as_bytes()).await.expect("writes");
    assert!(one_answer(&mut first).await.starts_with("HTTP/1.1 200"));

    let second = connect(&server, &certificate, b"h2").await.expect("connects");
    assert_eq!(second.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(second))
            .await
            .expect("speaks HTTP/2");
    tokio::spawn(connection);
    for _ in 0..3 {
        let request = hyper::Request::post("https://localhost/v1/track").body(event());
        let answer = send.send_request(request.expect("a request")).await.expect("answers");
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(server.stored().len(), 4);
}

#[tokio::test]
async fn a_new_certificate_is_used_without_a_restart_and_a_bad_one_never() {
    let folder = tempfile::tempdir().expect("folder");
    let old = certify(folder.path());
    let server = serving(folder.path()).await;
    connect(&server, &old, b"http/1.1").await.expect("connects");
    std::fs::write(folder.path().join("cert.pem"), "garbage").expect("writes");
    let failed = || server.metrics().reloads.with(["tls", "failed"]).get();
    eventually("reported", async || failed() > 0).await;
    connect(&server, &old, b"http/1.1").await.expect("the old one is still there");
    let new = certify(folder.path());
    eventually("the new one", async || connect(&server, &new, b"http/1.1").await.is_ok()).await;
    assert!(connect(&server, &old, b"http/1.1").await.is_err(), "the old one is gone");
}

#[tokio::test]
async fn a_client_without_tls_gets_no_answer_and_disturbs_nobody() {
    let folder = tempfile::tempdir().expect("folder");
    let certificate = certify(folder.path());
    let server = serving(folder.path()).await;
    let text = exchange(server.address, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(!text.contains("HTTP/1.1"), "{text}");
    let closed = || server.metrics().connections_closed.with(["handshake"]).get();
    eventually("counted", async || closed() == 1).await;
    connect(&server, &certificate, b"http/1.1").await.expect("connects");
}

#[test]
fn files_that_make_no_server_are_named() {
    let folder = tempfile::tempdir().expect("folder");
    certify(folder.path());
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let missing = folder.path().join("missing.pem");
    assert!(
        matches!(Tls::open(&missing, &key), Err(TlsError::Read { path, .. }) if path == missing)
    );
    assert!(matches!(Tls::open(&key, &key), Err(TlsError::Pem { wanted: "certificate", .. })));
    assert!(matches!(Tls::open(&cert, &cert), Err(TlsError::Pem { wanted: "private key", .. })));
    let other = tempfile::tempdir().expect("folder");
    certify(other.path());
    let mixed = Tls::open(&cert, other.path().join("key.pem"));
    assert!(matches!(mixed, Err(TlsError::Refused { .. })), "{mixed:?}");
}
