//! A shop on plain hyper with the collector inside, as in `examples/axum.rs`:
//! [`PageViews`] around a tower service, and the trackers' routes beside it.
//!
//! `cargo run -p clickmill-collector --example hyper -- 127.0.0.1:8000 ./spool`
//!
//! The events stay in the spool here. In production give the builder a
//! `.sink(...)`; `examples/embedded.rs` has one.

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use clickmill_collector::commerce::{Currency, OrderEvent, Product};
use clickmill_collector::layer::{PageViews, Visitor};
use clickmill_collector::server::{self, Options, WriteKeys};
use clickmill_collector::{Collector, Money};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tower::{Layer, ServiceExt, service_fn};

/// The shop's own pages.
async fn shop(
    collector: Collector,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let page = match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => answer(200, "<h1>Tea</h1>"),
        (&Method::GET, "/thanks") => answer(200, "<h1>Thank you</h1>"),
        (&Method::POST, "/buy") => buy(&collector, request.extensions().get()).await,
        _ => answer(404, "<h1>Not here</h1>"),
    };
    Ok(page)
}

/// The order is on disk before the customer hears of it.
async fn buy(collector: &Collector, visitor: Option<&Visitor>) -> Response<Body> {
    let (Some(visitor), Ok(price)) = (visitor, Money::parse("15.90")) else {
        return answer(500, "<h1>Not now</h1>");
    };
    let purchase = OrderEvent::purchase("A-1001", Currency::EUR, price)
        .visitor(visitor)
        .product(Product::new("tea-7").name("Earl Grey").price(price).quantity(1));
    if let Err(error) = collector.record_durable(purchase).await {
        // The customer's order does not depend on it.
        eprintln!("the purchase was not recorded: {error}");
    }
    let mut response = answer(303, "");
    response.headers_mut().insert("location", hyper::header::HeaderValue::from_static("/thanks"));
    response
}

fn answer(status: u16, html: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(html));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
    let html = hyper::header::HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert("content-type", html);
    response
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let spool = args.next().unwrap_or_else(|| "./clickmill-spool".to_owned());

    let collector = Collector::builder(spool).app_id("shop").start().await?;
    let keys = WriteKeys::any().with("a-public-write-key", "shop");
    let trackers =
        Router::new().nest("/collect", server::router(collector.clone(), keys, Options::default()));
    let pages = {
        let collector = collector.clone();
        service_fn(move |request| shop(collector.clone(), request))
    };
    let pages = PageViews::new(collector.clone()).layer(pages);
    let service = service_fn(move |request: Request<Incoming>| {
        let (pages, trackers) = (pages.clone(), trackers.clone());
        async move {
            if request.uri().path().starts_with("/collect/") {
                trackers.oneshot(request.map(Body::new)).await
            } else {
                pages.oneshot(request).await
            }
        }
    });

    let listener = tokio::net::TcpListener::bind(address).await?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            stopped = &mut stop => {
                stopped?;
                break;
            }
        };
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
    collector.shutdown(Duration::from_secs(10)).await;
    Ok(())
}
