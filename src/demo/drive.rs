//! Sends the simulated requests to the collector over real HTTP, many at once
//! but no more than [`IN_FLIGHT`], and logs every attempt.
//!
//! It behaves as the SDKs do: 429, 5xx and broken connections are tried again,
//! a 4xx is not, and a client that sees no answer sends the same request again.

use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use tokio::sync::mpsc;

use super::shop::traffic::{Body, Request};
use super::truth::Entry;
use base64::Engine as _;
use clickmill_schemas::Timestamp;

/// Requests on their way at the same time.
const IN_FLIGHT: usize = 64;
/// Sendings of a request that is never answered with anything final.
const MAX_ATTEMPTS: u32 = 8;
/// The longest wait that a client grants to `Retry-After`.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// How long a client waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The clients of the shop, taken together.
#[derive(Clone)]
pub struct Driver {
    http: reqwest::Client,
    base_url: String,
    write_key: String,
    authorization: String,
}

impl Driver {
    /// Clients that send to the collector at `base_url` (`http://127.0.0.1:1234`).
    ///
    /// # Errors
    /// Where no HTTP client can be built.
    pub fn new(base_url: String, write_key: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .no_proxy()
            .pool_max_idle_per_host(IN_FLIGHT)
            .build()
            .context("cannot build an HTTP client")?;
        let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{write_key}:"));
        let authorization = format!("Basic {credentials}");
        Ok(Self { http, base_url, write_key: write_key.to_owned(), authorization })
    }

    /// Sends all of `requests`, numbered from `first_number`; every attempt goes to `log`.
    ///
    /// # Errors
    /// Where the log no longer takes entries.
    pub async fn send_all(
        &self,
        requests: Vec<Request>,
        first_number: u64,
        log: &mpsc::Sender<Entry>,
    ) -> anyhow::Result<()> {
        let numbered = requests.into_iter().zip(first_number..);
        let mut sending = futures::stream::iter(numbered)
            .map(|(request, number)| {
                let (driver, log) = (self.clone(), log.clone());
                // Its own task, so that sending uses every core.
                tokio::spawn(async move { driver.send(&request, number, &log).await })
            })
            .buffer_unordered(IN_FLIGHT);
        while let Some(sent) = sending.next().await {
            sent.context("a simulated client stopped")??;
        }
        Ok(())
    }

    async fn send(
        &self,
        request: &Request,
        number: u64,
        log: &mpsc::Sender<Entry>,
    ) -> anyhow::Result<()> {
        let mut attempt = 0;
        for _ in 0..request.deliveries {
            for tried in 1..=MAX_ATTEMPTS {
                attempt += 1;
                let body = request.body(&self.write_key, Timestamp::now().micros() / 1_000)?;
                let mut entry = Entry::of(request, number, attempt, body.path);
                let answer = self.post(body).await;
                entry.status = answer.map(|(status, _)| status);
                log.send(entry).await.context("the demo's log stopped")?;
                match answer {
                    Some((status, _)) if status < 500 && status != 429 => break,
                    Some((_, wait)) => tokio::time::sleep(wait).await,
                    None => tokio::time::sleep(Duration::from_millis(100) * tried).await,
                }
            }
        }
        Ok(())
    }

    /// The answer's status and how long it asks to wait; none where the connection broke.
    async fn post(&self, body: Body) -> Option<(u16, Duration)> {
        let mut post = self
            .http
            .post(format!("{}{}", self.base_url, body.path))
            .header(AUTHORIZATION, &self.authorization)
            .header(CONTENT_TYPE, body.content_type);
        if body.gzip {
            post = post.header(CONTENT_ENCODING, "gzip");
        }
        let answer = post.body(body.bytes).send().await.ok()?;
        let wait = answer
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map_or(Duration::from_millis(200), Duration::from_secs)
            .min(MAX_WAIT);
        let status = answer.status().as_u16();
        // Read to the end, so that the connection is used again. A body cut
        // short does not take back the status.
        let _ = answer.bytes().await;
        Some((status, wait))
    }
}
