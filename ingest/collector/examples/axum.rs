//! A shop on axum with the collector inside: its page views, its orders and
//! what trackers in its pages send, all with one visitor id, in one spool.
//!
//! `cargo run -p clickmill-collector --example axum -- 127.0.0.1:8000 ./spool`
//!
//! The events stay in the spool here. In production give the builder a
//! `.sink(...)`; `examples/embedded.rs` has one.

use std::error::Error;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{Html, Redirect};
use axum::routing::{get, post};
use axum::{Extension, Router};
use clickmill_collector::commerce::{Currency, OrderEvent, Product};
use clickmill_collector::layer::{PageViews, Visitor};
use clickmill_collector::server::{self, Options, WriteKeys};
use clickmill_collector::{Collector, Money};

async fn home() -> Html<&'static str> {
    Html("<h1>Tea</h1><form method=post action=/buy><button>Buy</button></form>")
}

async fn thanks() -> Html<&'static str> {
    Html("<h1>Thank you</h1>")
}

/// The order is on disk before the customer hears of it.
async fn buy(
    State(collector): State<Collector>,
    Extension(visitor): Extension<Visitor>,
) -> Result<Redirect, StatusCode> {
    let price = Money::parse("15.90").map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let purchase = OrderEvent::purchase("A-1001", Currency::EUR, price)
        .visitor(&visitor)
        .product(Product::new("tea-7").name("Earl Grey").price(price).quantity(1));
    if let Err(error) = collector.record_durable(purchase).await {
        // The customer's order does not depend on it.
        eprintln!("the purchase was not recorded: {error}");
    }
    Ok(Redirect::to("/thanks"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let spool = args.next().unwrap_or_else(|| "./clickmill-spool".to_owned());

    let collector = Collector::builder(spool).app_id("shop").start().await?;
    // Trackers in the page: <script> sends to /collect/v1/track and so on.
    let keys = WriteKeys::any().with("a-public-write-key", "shop");
    let trackers = server::router(collector.clone(), keys, Options::default());
    let shop = Router::new()
        .route("/", get(home))
        .route("/buy", post(buy))
        .route("/thanks", get(thanks))
        .with_state(collector.clone())
        .layer(PageViews::new(collector.clone()))
        .nest("/collect", trackers);

    let listener = tokio::net::TcpListener::bind(address).await?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    let stop = async {
        // Without a signal to wait for, it serves until it is killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    axum::serve(listener, shop).with_graceful_shutdown(stop).await?;
    collector.shutdown(Duration::from_secs(10)).await;
    Ok(())
}
