//! Lakes for tests: a folder, and a bucket of the server that `tests/servers.py` starts.
#![allow(dead_code, reason = "each test file uses its part")]

use clickmill_lake::Lake;

pub async fn folder_lake(folder: &std::path::Path) -> Lake {
    Lake::open(&folder.display().to_string()).await.expect("the folder opens")
}

/// A lake of its own in the test bucket. `None` only where the user asked to skip.
pub async fn bucket_lake(name: &str) -> Option<Lake> {
    let Ok(bucket) = std::env::var("CLICKMILL_TEST_BUCKET") else {
        assert!(
            std::env::var("CLICKMILL_SKIP_SERVERS").is_ok_and(|value| value == "1"),
            "no S3 server: run `python3 tests/servers.py run -- cargo test ...`, \
             or set CLICKMILL_SKIP_SERVERS=1 to leave these tests out"
        );
        eprintln!("skipped: no S3 server");
        return None;
    };
    let location = format!("s3://{bucket}/{name}-{}", uuid::Uuid::new_v4());
    Some(Lake::open(&location).await.expect("the bucket opens"))
}
