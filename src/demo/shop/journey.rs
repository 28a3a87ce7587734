//! One visit to the shop, as the messages that a Segment client would send.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Shop;
use super::catalog::{CURRENCY, Cents, Product, SEARCHES, decimal};
use super::orders::{COUPON, Order};
use super::rng::Rng;
use super::visitor::{Arrival, Client, Device, Visitor};
use clickmill_schemas::Timestamp;

/// Where the simulated shop says that it lives.
pub const SITE: &str = "https://shop.example";
/// Products shown in a list.
const LIST_LENGTH: usize = 6;
/// Pages of one visit, at most.
const MAX_STEPS: usize = 24;

/// A message with everything but `sentAt`, which the client adds when it sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub id: String,
    pub kind: Kind,
    /// The event's name as sent; the type for what has none.
    pub name: String,
    /// When it truly happened, whatever the client's clock says.
    pub at_ms: i64,
    /// The order it is about, and the order's total in cents.
    pub order: Option<(String, Cents)>,
    /// A JSON object.
    pub json: String,
    /// Who did what, and how it came there, as only the simulator knows.
    #[serde(default)]
    pub mark: Mark,
}

/// What the simulator knows of a message: the log keeps it, so that answers can be worked out
/// without looking at what was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The browser's or app's id; the customer's for what a server sends.
    pub visitor: String,
    /// The customer, where logged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// How the visit began.
    pub channel: String,
    /// desktop, mobile, tablet, other for a server, bot for a crawler that says so.
    pub device: String,
    /// The one product that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// What was searched for, and how much was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<(String, u64)>,
}

/// The message types of the protocol that the shop uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Track,
    Page,
    Identify,
}

/// Who comes, with what, from where, and when.
#[derive(Clone, Copy)]
pub struct Visit<'a> {
    pub visitor: &'a Visitor,
    pub device: &'a Device,
    pub arrival: &'a Arrival,
    pub start_ms: i64,
}

/// The messages of a visit as they are written, with the client's clock.
pub struct Tape<'a> {
    visit: Visit<'a>,
    now_ms: i64,
    user_id: Option<String>,
    page: (String, String),
    previous_page: String,
    landing_query: String,
    pub messages: Vec<Message>,
    ids: Rng,
}

/// Walks through the shop: looks around, perhaps fills a cart, perhaps buys.
pub fn walk(shop: &mut Shop, visit: Visit<'_>, rng: &mut Rng) -> Vec<Message> {
    let mut tape = Tape::new(visit, rng);
    let known = shop.customers.contains_key(&visit.visitor.number);
    let category = land(shop, &mut tape, rng);
    if known && rng.chance(0.4) {
        let customer = shop.customer_of(&visit, tape.now_ms);
        tape.identify(shop, &customer);
    }
    let cart = browse(shop, &mut tape, category, rng);
    if !cart.is_empty() {
        check_out(shop, &mut tape, cart, rng);
    }
    tape.messages
}

/// The first page; returns the category that the visitor has in mind.
fn land(shop: &Shop, tape: &mut Tape<'_>, rng: &mut Rng) -> usize {
    let category = shop.catalog.any_category(rng);
    if rng.chance(0.6) {
        tape.page("/", "Household Shop", rng);
        if rng.chance(0.35) {
            let promotion = json!({"promotion_id": "autumn-2026", "creative": "hero", "name": "Autumn kitchen", "position": "home_hero"});
            tape.track("Promotion Viewed", promotion.clone(), rng);
            if rng.chance(0.12) {
                tape.track("Promotion Clicked", promotion, rng);
            }
        }
    }
    category
}

/// Lists, searches and products; returns what ended up in the cart.
fn browse(
    shop: &Shop,
    tape: &mut Tape<'_>,
    mut category: usize,
    rng: &mut Rng,
) -> Vec<(usize, i64)> {
    let visit = tape.visit;
    let device_factor = match visit.device.kind.class {
        "desktop" => 1.3,
        "tablet" => 1.0,
        _ => 0.6,
    };
    let inclination =
        0.085 * device_factor * f64::from(visit.visitor.buys) * f64::from(visit.arrival.buys)
            / 1_000_000.0;
    let mut cart: Vec<(usize, i64)> = Vec::new();
    let steps = (1 + rng.wait(2.6) as usize).min(MAX_STEPS);
    for _ in 0..steps {
        if rng.chance(0.25) {
            category = shop.catalog.any_category(rng);
        }
        let found = if rng.chance(0.2) {
            let query = *rng.weighted(SEARCHES);
            let found = shop.catalog.search(query);
            search(shop, tape, query, &found, rng);
            found
        } else if rng.chance(0.75) {
            let shown: Vec<usize> =
                (0..LIST_LENGTH).map(|_| shop.catalog.any_product(rng, category)).collect();
            list(shop, tape, category, shown, rng)
        } else {
            shop.catalog.categories[category].products.clone()
        };
        if found.is_empty() {
            continue;
        }
        let weights: Vec<(usize, u32)> =
            found.iter().map(|at| (*at, shop.catalog.products[*at].appeal)).collect();
        let looks = 1 + usize::from(rng.chance(0.45)) + usize::from(rng.chance(0.2));
        for _ in 0..looks {
            let at = *rng.weighted(&weights);
            let product = &shop.catalog.products[at];
            look(tape, product, rng);
            let wish = inclination * f64::from(product.sells) / 1_000.0;
            if product.active && product.stock > 0 && rng.chance(wish.min(0.6)) {
                let quantity = *rng.weighted(&[(1, 78), (2, 16), (4, 6)]);
                tape.track("Product Added", cart_item(product, quantity), rng);
                match cart.iter_mut().find(|(held, _)| *held == at) {
                    Some(line) => line.1 += quantity,
                    None => cart.push((at, quantity)),
                }
            } else if rng.chance(0.015) {
                tape.track("Product Added to Wishlist", with_item(product, 1), rng);
            }
        }
    }
    cart
}

fn search(shop: &Shop, tape: &mut Tape<'_>, query: &str, found: &[usize], rng: &mut Rng) {
    let path = format!("/search?q={}", query.replace(' ', "+"));
    tape.page(&path, &format!("Search: {query}"), rng);
    let top: Vec<Value> = found
        .iter()
        .take(LIST_LENGTH)
        .enumerate()
        .map(|(nth, at)| listed(&shop.catalog.products[*at], nth))
        .collect();
    tape.track(
        "Products Searched",
        json!({"query": query, "results": found.len(), "products": top}),
        rng,
    );
}

fn list(
    shop: &Shop,
    tape: &mut Tape<'_>,
    category: usize,
    mut shown: Vec<usize>,
    rng: &mut Rng,
) -> Vec<usize> {
    shown.dedup();
    let shelf = &shop.catalog.categories[category];
    let list_id = super::catalog::slug(&shelf.name);
    tape.page(&format!("/c/{list_id}"), &shelf.name, rng);
    let products: Vec<Value> = shown
        .iter()
        .enumerate()
        .map(|(nth, at)| listed(&shop.catalog.products[*at], nth))
        .collect();
    tape.track(
        "Product List Viewed",
        json!({"list_id": list_id, "category": shelf.name, "products": products}),
        rng,
    );
    shown
}

fn look(tape: &mut Tape<'_>, product: &Product, rng: &mut Rng) {
    if rng.chance(0.5) {
        tape.track("Product Clicked", with_item(product, 1), rng);
    }
    tape.page(&product.path(), &product.name, rng);
    tape.track("Product Viewed", with_item(product, 1), rng);
}

/// From the cart to the order, as far as they get.
fn check_out(shop: &mut Shop, tape: &mut Tape<'_>, mut cart: Vec<(usize, i64)>, rng: &mut Rng) {
    if cart.len() > 1 && rng.chance(0.15) {
        let (at, quantity) = cart.remove(0);
        tape.track("Product Removed", cart_item(&shop.catalog.products[at], quantity), rng);
    }
    let cart_id = format!("cart-{}", &tape.ids.uuid()[..8]);
    if !rng.chance(0.85) {
        return;
    }
    tape.page("/cart", "Your cart", rng);
    let products = cart_products(shop, &cart);
    tape.track("Cart Viewed", json!({"cart_id": cart_id, "products": products}), rng);
    if !rng.chance(0.72) {
        return;
    }
    let value: Cents = cart.iter().map(|(at, n)| shop.catalog.products[*at].price * n).sum();
    let checkout_id = format!("co-{}", &tape.ids.uuid()[..8]);
    tape.page("/checkout", "Checkout", rng);
    tape.track(
        "Checkout Started",
        json!({"checkout_id": checkout_id, "value": number(value), "currency": CURRENCY, "products": products}),
        rng,
    );
    let customer = shop.customer_of(&tape.visit, tape.now_ms);
    if tape.user_id.is_none() && rng.chance(0.8) {
        tape.identify(shop, &customer);
    }
    for step in 1..=2 {
        tape.track("Checkout Step Viewed", json!({"checkout_id": checkout_id, "step": step}), rng);
        if !rng.chance(0.93) {
            return;
        }
        tape.track(
            "Checkout Step Completed",
            json!({"checkout_id": checkout_id, "step": step}),
            rng,
        );
    }
    let newsletter = tape.visit.arrival.name == "email" || tape.visit.arrival.name == "affiliate";
    let coupon = (newsletter && rng.chance(0.6)).then_some(COUPON);
    if let Some(code) = coupon {
        tape.track(
            "Coupon Applied",
            json!({"checkout_id": checkout_id, "coupon_id": code, "coupon_name": code}),
            rng,
        );
    }
    tape.track("Payment Info Entered", json!({"checkout_id": checkout_id, "payment_method": *rng.pick(&["card", "paypal", "invoice"])}), rng);
    if !rng.chance(0.9) {
        return;
    }
    tape.pass(20.0, rng);
    let placed = shop.place_order(&tape.visit, &cart, coupon, tape.now_ms, rng);
    let order = shop.orders[placed].clone();
    let seen = (order.id.clone(), order.total);
    tape.track_order(
        "Order Completed",
        order_properties(shop, &order, &order.id, &checkout_id),
        seen,
    );
    tape.page("/checkout/thanks", "Thank you", rng);
    if rng.chance(0.015) {
        shop.correct_order(placed);
    }
}

/// The properties of Order Completed.
pub fn order_properties(shop: &Shop, order: &Order, order_id: &str, checkout_id: &str) -> Value {
    let products: Vec<Value> = order
        .lines
        .iter()
        .map(|line| item(&shop.catalog.products[line.product], line.quantity, line.unit_price))
        .collect();
    let mut properties = json!({
        "order_id": order_id,
        "checkout_id": checkout_id,
        "subtotal": number(order.subtotal),
        "revenue": number(order.subtotal - order.discount),
        "discount": number(order.discount),
        "tax": number(order.tax),
        "shipping": number(order.shipping),
        "total": number(order.total),
        "currency": CURRENCY,
        "products": products,
    });
    if let Some(coupon) = &order.coupon {
        properties["coupon"] = json!(coupon);
    }
    properties
}

/// An amount as a JSON number with its two places as they are.
pub fn number(cents: Cents) -> Value {
    serde_json::from_str(&decimal(cents)).unwrap_or(Value::Null)
}

fn item(product: &Product, quantity: i64, price: Cents) -> Value {
    json!({
        "product_id": product.id,
        "sku": product.sku,
        "name": product.name,
        "brand": product.brand,
        "category": product.category,
        "price": number(price),
        "quantity": quantity,
    })
}

fn listed(product: &Product, nth: usize) -> Value {
    json!({"product_id": product.id, "name": product.name, "category": product.category, "price": number(product.price), "position": nth + 1})
}

fn with_item(product: &Product, quantity: i64) -> Value {
    let mut properties = item(product, quantity, product.price);
    properties["currency"] = json!(CURRENCY);
    properties
}

fn cart_item(product: &Product, quantity: i64) -> Value {
    with_item(product, quantity)
}

fn cart_products(shop: &Shop, cart: &[(usize, i64)]) -> Vec<Value> {
    cart.iter()
        .map(|(at, quantity)| {
            let product = &shop.catalog.products[*at];
            item(product, *quantity, product.price)
        })
        .collect()
}

impl<'a> Tape<'a> {
    /// An empty tape at the start of a visit.
    pub fn new(visit: Visit<'a>, rng: &mut Rng) -> Self {
        let mut ids = Rng::of(&[rng.next(), 0x1D]);
        let mut query = Vec::new();
        if let Some((source, medium, campaign)) = visit.arrival.utm {
            query.push(format!("utm_source={source}&utm_medium={medium}&utm_campaign={campaign}"));
        }
        if let Some((parameter, prefix)) = visit.arrival.click {
            query.push(format!("{parameter}={prefix}{}", &ids.uuid().replace('-', "")[..16]));
        }
        Self {
            visit,
            now_ms: visit.start_ms,
            user_id: None,
            page: (String::new(), String::new()),
            previous_page: visit.arrival.referrer.to_owned(),
            landing_query: query.join("&"),
            messages: Vec::new(),
            ids,
        }
    }

    /// Lets some time go by.
    pub fn pass(&mut self, mean_seconds: f64, rng: &mut Rng) {
        // Below half an hour, so that a visit is one session.
        let ms = (rng.wait(mean_seconds) * 1_000.0).min(1_200_000.0) as i64;
        self.now_ms += ms.max(40);
    }

    /// A page view.
    pub fn page(&mut self, path: &str, title: &str, rng: &mut Rng) {
        self.pass(22.0, rng);
        let mut url = format!("{SITE}{path}");
        if !self.landing_query.is_empty() {
            let joint = if path.contains('?') { '&' } else { '?' };
            url = format!("{url}{joint}{}", std::mem::take(&mut self.landing_query));
        }
        if !self.page.0.is_empty() {
            self.previous_page = std::mem::take(&mut self.page.0);
        }
        self.page = (url, title.to_owned());
        let properties = json!({"url": self.page.0, "path": path.split('?').next(), "title": title, "referrer": self.previous_page});
        self.push(Kind::Page, None, "properties", properties, None);
    }

    /// A page view, a second after what came before.
    pub fn page_fast(&mut self, path: &str, title: &str) {
        self.now_ms += 900;
        self.page = (format!("{SITE}{path}"), title.to_owned());
        let properties = json!({"url": self.page.0, "path": path, "title": title});
        self.push(Kind::Page, None, "properties", properties, None);
    }

    /// An event.
    pub fn track(&mut self, event: &str, properties: Value, rng: &mut Rng) {
        self.pass(1.5, rng);
        self.push(Kind::Track, Some(event), "properties", properties, None);
    }

    /// An event about an order, now.
    pub fn track_order(&mut self, event: &str, properties: Value, order: (String, Cents)) {
        self.push(Kind::Track, Some(event), "properties", properties, Some(order));
    }

    /// A login.
    pub fn identify(&mut self, shop: &Shop, customer_id: &str) {
        self.now_ms += 400;
        self.user_id = Some(customer_id.to_owned());
        let traits = shop.customers.get(&self.visit.visitor.number).map_or_else(
            || json!({}),
            |c| json!({"email_hash": c.email_hash, "country": c.country, "plan": "standard"}),
        );
        self.push(Kind::Identify, None, "traits", traits, None);
    }

    /// Acts for a user who is known from the start (staff, the shop's server).
    pub fn act_as(&mut self, user_id: &str) {
        self.user_id = Some(user_id.to_owned());
    }

    fn push(
        &mut self,
        kind: Kind,
        event: Option<&str>,
        key: &str,
        value: Value,
        order: Option<(String, Cents)>,
    ) {
        let client_ms = self.now_ms + self.visit.visitor.skew_ms;
        let server = self.visit.device.client == Client::Server;
        let prefix = match self.visit.device.client {
            Client::BrowserSingle | Client::BrowserBatch => "ajs-next",
            Client::Server => "node-next",
            Client::App => "app",
        };
        let id = format!("{prefix}-{client_ms}-{}", self.ids.uuid());
        let type_name = match kind {
            Kind::Track => "track",
            Kind::Page => "page",
            Kind::Identify => "identify",
        };
        let mut message = Map::new();
        message.insert("type".into(), json!(type_name));
        message.insert("messageId".into(), json!(id));
        if let Some(event) = event {
            message.insert("event".into(), json!(event));
        }
        if !server {
            message.insert("anonymousId".into(), json!(self.visit.device.anonymous_id));
        }
        if let Some(user) = &self.user_id {
            message.insert("userId".into(), json!(user));
        }
        message.insert("timestamp".into(), json!(rfc3339(client_ms)));
        message.insert("context".into(), self.context());
        let mark = self.mark(&value);
        message.insert(key.into(), value);
        self.messages.push(Message {
            id,
            kind,
            name: event.unwrap_or(type_name).to_owned(),
            at_ms: self.now_ms,
            order,
            json: Value::Object(message).to_string(),
            mark,
        });
    }

    fn mark(&self, sent: &Value) -> Mark {
        let device = self.visit.device;
        let server = device.client == Client::Server;
        let text = |name: &str| sent[name].as_str().map(str::to_owned);
        let visitor = match &self.user_id {
            Some(user) if server => user.clone(),
            _ => device.anonymous_id.clone(),
        };
        Mark {
            visitor,
            user: self.user_id.clone(),
            channel: self.visit.arrival.name.to_owned(),
            device: if server { "other" } else { device.kind.class }.to_owned(),
            product: text("product_id"),
            search: text("query").zip(sent["results"].as_u64()),
        }
    }

    fn context(&self) -> Value {
        let (device, place) = (self.visit.device, self.visit.visitor.place);
        let library = match device.client {
            Client::BrowserSingle | Client::BrowserBatch => {
                json!({"name": "analytics.js", "version": "next-1.84.3"})
            }
            Client::App => json!({"name": "analytics-swift", "version": "1.9.1"}),
            Client::Server => {
                return json!({"library": {"name": "@segment/analytics-node", "version": "3.1.0"}});
            }
        };
        let (width, height) = device.kind.screen;
        let mut context = json!({
            "userAgent": device.kind.user_agent,
            "locale": place.locale,
            "timezone": place.timezone,
            "screen": {"width": width, "height": height},
            "library": library,
            "page": {"url": self.page.0, "title": self.page.1, "referrer": self.previous_page},
        });
        if let Some((source, medium, name)) = self.visit.arrival.utm {
            context["campaign"] = json!({"source": source, "medium": medium, "name": name});
        }
        context
    }
}

/// Milliseconds since the epoch as clients write them.
pub fn rfc3339(ms: i64) -> String {
    let text = Timestamp::from_micros(ms * 1_000).map(|t| t.to_string()).unwrap_or_default();
    // Clients have milliseconds: cut the last three of six digits.
    text.get(..23).map_or(text.clone(), |head| format!("{head}Z"))
}
