//! TLS, before a real PostgreSQL.

use std::sync::Arc;

use rcgen::generate_simple_self_signed;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::database::{Database, port};
use crate::shop::shop;

/// What a client sends that wants TLS: its length, and a code.
/// <https://www.postgresql.org/docs/current/protocol-message-formats.html>
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Speaks TLS with clients and passes what they say to the server: its port.
async fn terminator(certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> u16 {
    let key = PrivatePkcs8KeyDer::from(certificate.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut asked = [0; 8];
                client.read_exact(&mut asked).await.unwrap();
                assert_eq!(asked, SSL_REQUEST, "it did not ask for TLS first");
                client.write_all(b"S").await.unwrap();
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = TcpStream::connect(("127.0.0.1", port())).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    own
}

#[tokio::test]
async fn a_server_must_prove_who_it_is() {
    let Some(db) = Database::new().await else { return };
    db.run(
        "CREATE TABLE customers (customer_id int PRIMARY KEY); INSERT INTO customers VALUES (1)",
    )
    .await;
    let localhost = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let port = terminator(&localhost).await;
    let folder = tempfile::tempdir().unwrap();
    for (name, certificate) in [("right.pem", &localhost), ("wrong.pem", &other)] {
        std::fs::write(folder.path().join(name), certificate.cert.pem()).unwrap();
    }
    let source = |host: &str, ca: &str| {
        super::forever(format!(
            "[db]\nkind = \"postgresql\"\nhost = \"{host}\"\nport = {port}\ndatabase = \"{}\"\n\
             user = \"clickmill\"\npassword_env = \"CLICKMILL_TEST_POSTGRESQL_PASSWORD\"\n\
             ca_file = \"{}\"\nread_every = \"0s\"\n[db.customers]\n",
            db.name,
            folder.path().join(ca).display()
        ))
    };
    for (host, ca, rows, said) in [
        ("localhost", "wrong.pem", "0", "certificate"),
        // The certificate is not for this name.
        ("127.0.0.1", "right.pem", "0", "certificate"),
        ("localhost", "missing.pem", "0", "missing.pem"),
        ("localhost", "right.pem", "1", ""),
    ] {
        let shop = shop(source(host, ca)).await;
        let report = shop.run_tables(&["customers"]).await;
        assert_eq!(shop.sql("SELECT count(*) FROM customers").await, [rows], "{host} {ca}");
        let notices: Vec<String> = report.notices.iter().map(ToString::to_string).collect();
        assert_eq!(notices.is_empty(), said.is_empty(), "{notices:#?}");
        assert!(notices.iter().all(|text| text.to_lowercase().contains(said)), "{notices:#?}");
    }
}
