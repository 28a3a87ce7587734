//! A shop on actix-web with the collector inside. actix knows no tower layers,
//! so a small middleware calls [`PageViews::begin`] and [`PageViews::end`]; the
//! trackers' routes are on a port of their own, in the same process.
//!
//! `cargo run -p clickmill-collector --example actix -- 127.0.0.1:8000 ./spool 127.0.0.1:8080`
//!
//! The events stay in the spool here. In production give the builder a
//! `.sink(...)`; `examples/embedded.rs` has one.

use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderValue, SET_COOKIE};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, HttpMessage, HttpResponse, HttpServer, web};
use clickmill_collector::commerce::{Currency, OrderEvent, Product};
use clickmill_collector::layer::{PageViews, RequestHead, ResponseHead, Visitor};
use clickmill_collector::server::{Server, WriteKeys};
use clickmill_collector::{Collector, Money};

/// Around every request.
async fn page_views(
    views: web::Data<PageViews>,
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let uri = request.uri().to_string();
    let visit = views.begin(&RequestHead {
        method: request.method().as_str(),
        uri: &uri,
        header: &|name| header(request.headers(), name),
    });
    request.extensions_mut().insert(visit.visitor().clone());
    let mut response = next.call(request).await?;
    let status = response.status().as_u16();
    let set = {
        let headers = response.headers();
        views.end(visit, &ResponseHead { status, header: &|name| header(headers, name) })
    };
    if let Some(value) = set.and_then(|set| HeaderValue::try_from(set).ok()) {
        response.headers_mut().append(SET_COOKIE, value);
    }
    Ok(response)
}

/// Several of one name are joined.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<Cow<'a, str>> {
    let values: Vec<&str> = headers.get_all(name).filter_map(|value| value.to_str().ok()).collect();
    (!values.is_empty()).then(|| Cow::Owned(values.join("; ")))
}

async fn home() -> HttpResponse {
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body("<h1>Tea</h1>")
}

async fn thanks() -> HttpResponse {
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body("<h1>Thank you</h1>")
}

/// The order is on disk before the customer hears of it.
async fn buy(collector: web::Data<Collector>, visitor: web::ReqData<Visitor>) -> HttpResponse {
    let Ok(price) = Money::parse("15.90") else {
        return HttpResponse::InternalServerError().finish();
    };
    let purchase = OrderEvent::purchase("A-1001", Currency::EUR, price)
        .visitor(&visitor)
        .product(Product::new("tea-7").name("Earl Grey").price(price).quantity(1));
    if let Err(error) = collector.record_durable(purchase).await {
        // The customer's order does not depend on it.
        eprintln!("the purchase was not recorded: {error}");
    }
    HttpResponse::SeeOther().insert_header(("location", "/thanks")).finish()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let spool = args.next().unwrap_or_else(|| "./clickmill-spool".to_owned());
    let trackers = args.next().unwrap_or_else(|| "127.0.0.1:0".to_owned()).parse()?;

    let collector = Collector::builder(spool).app_id("shop").start().await?;
    let keys = WriteKeys::any().with("a-public-write-key", "shop");
    let trackers = Server::bind(collector.clone(), trackers, keys).await?;
    eprintln!("trackers on http://{}", trackers.local_addr());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let trackers = tokio::spawn(trackers.run(async {
        // An error means that the shop has ended.
        let _ = stopped.await;
    }));

    let views = web::Data::new(PageViews::new(collector.clone()));
    let held = web::Data::new(collector.clone());
    let shop = HttpServer::new(move || {
        App::new()
            .app_data(views.clone())
            .app_data(held.clone())
            .wrap(from_fn(page_views))
            .route("/", web::get().to(home))
            .route("/buy", web::post().to(buy))
            .route("/thanks", web::get().to(thanks))
    })
    .workers(1)
    .bind(address)?;
    for address in shop.addrs() {
        eprintln!("listening on http://{address}");
    }
    // Ends with ctrl-C.
    shop.run().await?;
    // An error means that the trackers' server has ended by itself.
    let _ = stop.send(());
    trackers.await?;
    collector.shutdown(Duration::from_secs(10)).await;
    Ok(())
}
