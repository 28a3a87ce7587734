//! TLS: a certificate chain and a key from PEM files, read again when they change.
//!
//! TLS 1.2 and 1.3 with rustls' own choice of cipher suites; HTTP/2 and
//! HTTP/1.1 by ALPN. New files are taken for new connections, without a
//! restart; a certificate and a key that do not belong together, or do not
//! parse, are reported and the old ones stay (see [`super::reload`]), so it
//! does not matter in which order the two are replaced.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::reload::Reloading;

/// In the order of preference.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A server's certificate and key.
#[derive(Debug)]
pub struct Tls(pub(super) Arc<Reloading<Arc<ServerConfig>>>);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} holds no {wanted} in PEM form", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
        /// What was found instead.
        source: pem::Error,
    },
    /// The two do not make a server.
    #[error("the certificate {} does not go with the key {}", cert.display(), key.display())]
    Refused {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
}

impl Tls {
    /// `cert` is a PEM file with the server's certificate and those between it
    /// and the root; `key` one with its private key (PKCS#8, SEC1 or PKCS#1).
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn open(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self, TlsError> {
        let (cert, key) = (cert.into(), key.into());
        let paths = vec![cert.clone(), key.clone()];
        Reloading::open("tls", paths, move || load(&cert, &key)).map(|files| Self(Arc::new(files)))
    }
}

fn load(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
    };
    let pem = |path: &Path, wanted, source| TlsError::Pem { path: path.to_owned(), wanted, source };
    let chain = CertificateDer::pem_slice_iter(&read(cert)?)
        .collect::<Result<Vec<_>, _>>()
        .and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) })
        .map_err(|source| pem(cert, "certificate", source))?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|source| pem(key, "private key", source))?;
    let refused = |source| TlsError::Refused { cert: cert.to_owned(), key: key.to_owned(), source };
    // With the provider by name: what else the process links must not matter.
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(refused)?;
    config.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}
