//! `s3://bucket/prefix`: `object_store`'s client, configured by [`crate::aws`].
//!
//! Conditional PUT is by ETag (`If-None-Match: *`), which AWS and the usual
//! compatible servers honour. An endpoint of our own choosing is addressed by
//! path, and plain HTTP is allowed where the endpoint says so.

use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut, resolve_bucket_region};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore};
use url::Url;

use crate::aws;
use crate::error::LakeError;

/// What a server of one's own calls its region, where nothing says otherwise.
const ENDPOINT_REGION: &str = "us-east-1";

/// Opens a bucket, rooted at `prefix` (no slash at either end).
pub(super) async fn open(
    bucket: &str,
    prefix: &str,
) -> Result<(Arc<dyn ObjectStore>, Url), LakeError> {
    let failed = |source| LakeError::Bucket { bucket: bucket.to_owned(), source };
    let config = aws::sdk_config().await;
    let endpoint = aws::endpoint(&config, "S3");
    let region = match (config.region(), &endpoint) {
        (Some(region), _) => region.as_ref().to_owned(),
        (None, Some(_)) => ENDPOINT_REGION.to_owned(),
        (None, None) => {
            resolve_bucket_region(bucket, &ClientOptions::new()).await.map_err(failed)?
        }
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(region)
        .with_conditional_put(S3ConditionalPut::ETagMatch);
    if let Some(endpoint) = endpoint {
        builder = builder
            .with_allow_http(endpoint.starts_with("http://"))
            .with_endpoint(endpoint.trim_end_matches('/'))
            .with_virtual_hosted_style_request(false);
    }
    if let Some(credentials) = aws::SdkCredentials::new(&config) {
        builder = builder.with_credentials(Arc::new(credentials));
    }
    let client = builder.build().map_err(failed)?;

    let wrong = |reason: String| LakeError::Location {
        location: format!("s3://{bucket}/{prefix}"),
        reason,
    };
    let root = Path::parse(prefix).map_err(|error| wrong(error.to_string()))?;
    let url = if prefix.is_empty() {
        format!("s3://{bucket}/")
    } else {
        format!("s3://{bucket}/{prefix}/")
    };
    let url = Url::parse(&url).map_err(|error| wrong(error.to_string()))?;
    let store: Arc<dyn ObjectStore> =
        if prefix.is_empty() { Arc::new(client) } else { Arc::new(PrefixStore::new(client, root)) };
    Ok((store, url))
}
