//! A server with the collector inside: its own events by [`Collector::track`],
//! those of tracker SDKs over HTTP, both in one spool and out of one sink.
//!
//! `cargo run -p clickmill-collector --example embedded -- 127.0.0.1:8080 ./spool`

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use clickmill_collector::server::{Server, WriteKeys};
use clickmill_collector::sink::{Sink, SinkBatch, SinkError};
use clickmill_collector::{Collector, Event, EventTime, Timestamp};

/// Prints what it gets; a real one stores it before it answers.
struct Stdout;

#[async_trait::async_trait]
impl Sink for Stdout {
    async fn resume_after(&self, _collector_id: &str) -> Result<Option<i64>, SinkError> {
        Ok(None)
    }

    async fn send(&self, batch: SinkBatch) -> Result<(), SinkError> {
        for record in batch.records {
            println!("{}", String::from_utf8_lossy(&record.line));
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:0".to_owned()).parse()?;
    let spool = args.next().unwrap_or_else(|| "./clickmill-spool".to_owned());

    let collector = Collector::builder(spool).sink(Arc::new(Stdout)).start().await?;
    let now = Timestamp::now();
    let time = EventTime::resolve(Some(now), None, now);
    let id = format!("started-{}", now.micros());
    collector.track(&Event::new(id, "custom", "native", "shop", time))?;

    let server = Server::bind(collector.clone(), address, WriteKeys::any()).await?;
    eprintln!("listening on http://{}", server.local_addr());
    server
        .run(async {
            // Without a signal to wait for, it serves until it is killed.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
        .await;
    let drained = collector.shutdown(Duration::from_secs(10)).await;
    eprintln!("{} events left in the spool", drained.left);
    Ok(())
}
