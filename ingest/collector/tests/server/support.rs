//! A server to knock at, with the limits that a test needs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clickmill_collector::server::{Edge, Server, WriteKeys};
use clickmill_collector::sink::RecordKind;
use clickmill_collector::spool::read_all;
use clickmill_collector::{Collector, Metrics};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Nothing here takes so long.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks at something that is to happen.
const POLL: Duration = Duration::from_millis(10);

pub struct Running {
    pub address: SocketAddr,
    pub admin: Option<SocketAddr>,
    pub collector: Collector,
    pub folder: tempfile::TempDir,
    pub client: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    pub task: JoinHandle<()>,
}

pub async fn start(keys: WriteKeys, edge: Edge) -> Running {
    let folder = tempfile::tempdir().expect("folder");
    let collector = Collector::builder(folder.path().join("spool")).start().await.expect("starts");
    let any_port = "127.0.0.1:0".parse().expect("address");
    let server = Server::bind_edge(collector.clone(), any_port, keys, edge).await.expect("binds");
    let (address, admin) = (server.local_addr(), server.admin_addr());
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));
    let client = reqwest::Client::new();
    Running { address, admin, collector, folder, client, stop: Some(stop), task }
}

impl Running {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        self.collector.metrics()
    }

    pub fn stop(&mut self) {
        let _ = self.stop.take().expect("runs").send(());
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connects")
    }

    /// What the spool holds, as JSON, without heartbeats.
    pub fn stored(&self) -> Vec<Value> {
        read_all(self.folder.path().join("spool"))
            .expect("reads")
            .records
            .iter()
            .filter(|record| record.kind != RecordKind::Heartbeat)
            .map(|record| serde_json::from_slice(&record.line).expect("json"))
            .collect()
    }
}

/// Status, headers and JSON body of an answer.
pub async fn answer(request: reqwest::RequestBuilder) -> (u16, reqwest::header::HeaderMap, Value) {
    let response = request.send().await.expect("answers");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    (status, headers, response.json().await.expect("a JSON body"))
}

pub fn event() -> String {
    json!({"event": "e"}).to_string()
}

/// A request for one event; the body follows.
pub fn head(length: usize) -> String {
    format!("POST /v1/track HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")
}

/// What comes until the other side closes; a reset counts as that.
pub async fn until_closed(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut bytes))
        .await
        .expect("the connection is closed");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One answer of a connection that goes on: its bytes up to the end of `{...}`.
pub async fn one_answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = String::new();
    let read = async {
        while !(text.contains("\r\n\r\n") && text.ends_with('}')) {
            let byte = stream.read_u8().await.expect("an answer");
            text.push(byte.into());
        }
    };
    tokio::time::timeout(DEADLINE, read).await.expect("an answer in time");
    text
}

/// Sends `text` and reads to the end.
pub async fn exchange(address: SocketAddr, text: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    // Who refuses early may close while more is written.
    let _ = stream.write_all(text).await;
    until_closed(&mut stream).await
}

/// Polls until it is so.
pub async fn eventually(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !so().await {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}
