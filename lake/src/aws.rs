//! The one place where AWS is configured: profiles, SSO, IMDS, container roles,
//! regions and endpoints as the SDKs define them, for every client of clickmill.
//!
//! Nothing here retries: each client's owner says who does.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_types::service_config::ServiceConfigKey;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use tokio::sync::Mutex;

/// Credentials are fetched again this long before they expire, so that none expires on its way.
const EXPIRY_MARGIN: Duration = Duration::from_secs(300);
/// Credentials that name no expiry are asked for again after this long: a profile may change.
const MAX_CACHE_AGE: Duration = Duration::from_secs(900);

/// Loads the SDK's configuration from the environment and the profile files.
pub async fn sdk_config() -> SdkConfig {
    aws_config::load_defaults(BehaviorVersion::latest()).await
}

/// The endpoint of a service, `S3` for one: `AWS_ENDPOINT_URL_S3`, the profile's own for S3,
/// `AWS_ENDPOINT_URL`, the profile's `endpoint_url`; `None` means AWS itself.
#[must_use]
pub fn endpoint(config: &SdkConfig, service_id: &str) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id(service_id)
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .ok()?;
    config
        .service_config()
        .and_then(|service| service.load_config(key))
        .or_else(|| config.endpoint_url().map(str::to_owned))
}

/// The SDK's credentials chain, for `object_store`'s S3 client.
#[derive(Debug)]
pub struct SdkCredentials {
    provider: SharedCredentialsProvider,
    cached: Mutex<Option<Cached>>,
}

#[derive(Debug)]
struct Cached {
    credential: Arc<AwsCredential>,
    good_until: SystemTime,
}

impl SdkCredentials {
    /// Takes the chain that `config` found. `None` where it found none.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Option<Self> {
        let provider = config.credentials_provider()?;
        Some(Self { provider, cached: Mutex::new(None) })
    }
}

#[async_trait]
impl CredentialProvider for SdkCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let now = SystemTime::now();
        // Held across the fetch, so that many requests at once fetch once.
        let mut cached = self.cached.lock().await;
        if let Some(cached) = cached.as_ref().filter(|cached| now < cached.good_until) {
            return Ok(Arc::clone(&cached.credential));
        }
        let fetched = self.provider.provide_credentials().await.map_err(|source| {
            object_store::Error::Generic { store: "AWS credentials", source: Box::new(source) }
        })?;
        let longest = now + MAX_CACHE_AGE;
        let good_until = fetched.expiry().map_or(longest, |expiry| {
            longest.min(expiry.checked_sub(EXPIRY_MARGIN).unwrap_or(now))
        });
        let credential = Arc::new(AwsCredential {
            key_id: fetched.access_key_id().to_owned(),
            secret_key: fetched.secret_access_key().to_owned(),
            token: fetched.session_token().map(str::to_owned),
        });
        *cached = Some(Cached { credential: Arc::clone(&credential), good_until });
        Ok(credential)
    }
}
