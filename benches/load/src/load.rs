//! Connections that send and time requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::body::{self, Body, EVENTS};

/// An answer's head is no longer than this.
const HEAD_BYTES: usize = 16 * 1024;

pub struct Plan {
    pub to: SocketAddr,
    pub connections: usize,
    pub time: Duration,
    pub rate: Option<f64>,
    pub requests: Option<u64>,
}

/// What a connection saw.
#[derive(Default)]
struct Seen {
    /// Microseconds a request.
    latencies: Vec<u32>,
    /// Answers other than 200.
    refused: u64,
}

pub async fn run(plan: Plan) -> anyhow::Result<serde_json::Value> {
    let plan = Arc::new(plan);
    let left = Arc::new(AtomicU64::new(plan.requests.unwrap_or(u64::MAX)));
    let started = Instant::now();
    let tasks: Vec<_> = (0..plan.connections)
        .map(|connection| {
            tokio::spawn(one(Arc::clone(&plan), connection, started, Arc::clone(&left)))
        })
        .collect();
    let mut all = Seen::default();
    for task in tasks {
        let seen = task.await??;
        all.latencies.extend(seen.latencies);
        all.refused += seen.refused;
    }
    let seconds = started.elapsed().as_secs_f64();
    all.latencies.sort_unstable();
    let quantile = |q: f64| {
        let at = ((all.latencies.len() as f64 * q) as usize).min(all.latencies.len().max(1) - 1);
        all.latencies.get(at).map_or(0.0, |micros| f64::from(*micros) / 1e3)
    };
    let requests = all.latencies.len() as u64;
    Ok(serde_json::json!({
        "requests": requests,
        "refused": all.refused,
        "events": (requests - all.refused) * EVENTS,
        "seconds": seconds,
        "rate": requests as f64 / seconds,
        "p50_ms": quantile(0.5),
        "p99_ms": quantile(0.99),
        "max_ms": quantile(1.0),
        "body_bytes": Body::new(0).text().len(),
    }))
}

async fn one(
    plan: Arc<Plan>,
    connection: usize,
    started: Instant,
    left: Arc<AtomicU64>,
) -> anyhow::Result<Seen> {
    let mut stream = TcpStream::connect(plan.to).await.context("cannot connect")?;
    stream.set_nodelay(true)?;
    let (mut request, ids) = Body::new(connection).request(&plan.to.to_string());
    let every = plan.rate.map(|rate| Duration::from_secs_f64(plan.connections as f64 / rate));
    // Spread over one period, so that connections are not due together.
    let offset = every.map(|every| every.mul_f64(connection as f64 / plan.connections as f64));
    let mut seen = Seen::default();
    let mut buffer = Vec::with_capacity(HEAD_BYTES);
    for number in 0.. {
        let due = match (every, offset) {
            (Some(every), Some(offset)) => {
                let due = started + offset + every.mul_f64(number as f64);
                sleep_until(due).await;
                due
            }
            _ => Instant::now(),
        };
        if started.elapsed() >= plan.time
            || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_err()
        {
            break;
        }
        body::number(&mut request, &ids, connection, number);
        stream.write_all(&request).await?;
        let status = answer(&mut stream, &mut buffer).await?;
        seen.latencies.push(u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX));
        seen.refused += u64::from(status != 200);
    }
    Ok(seen)
}

/// Reads one answer; its body's length must be said.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<u16> {
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            bail!("the server closed the connection");
        }
        let Some(head) = buffer.windows(4).position(|w| w == b"\r\n\r\n") else {
            if buffer.len() > HEAD_BYTES {
                bail!("an answer without an end of its head");
            }
            continue;
        };
        let text = std::str::from_utf8(&buffer[..head])?;
        let status = text.get(9..12).context("no status")?.parse()?;
        let length: usize = text
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(|l| l.trim().parse()))
            .context("an answer without Content-Length")??;
        let mut missing = (head + 4 + length).saturating_sub(buffer.len());
        while missing > 0 {
            let read = stream.read_buf(buffer).await?;
            if read == 0 {
                bail!("the server closed the connection in an answer");
            }
            missing = missing.saturating_sub(read);
        }
        return Ok(status);
    }
}
