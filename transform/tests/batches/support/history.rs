//! Random histories of a shop, on a grid of times where the rules have their edges:
//! gaps of exactly 30 minutes, chains of over a day, midnight, equal instants, copies
//! received a week apart.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clickmill_schemas::{Event, EventTime, Item, Money, RawJson, Timestamp};
use proptest::prelude::*;

use super::reference::DAY;
use super::shop::Shop;

pub const MINUTE: i64 = 60_000_000;
/// 2026-03-10T00:00:00Z.
pub const START: i64 = 1_773_100_800_000_000;
/// What a bot calls itself.
pub const BOT: &str = "Googlebot/2.1 (+http://www.google.com/bot.html)";
/// And a phone.
pub const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 \
    (KHTML, like Gecko) Version/17.0 Mobile/15E148 Safari/604.1";
/// What visitors type; the first two are the same.
const SEARCHES: &[&str] = &["Floor  Lamp", " floor lamp", "caps", "such"];
/// How many batches a history is cut into.
pub const BATCHES: usize = 3;

/// A run of events of one visitor.
#[derive(Clone, Debug)]
pub struct Burst {
    visitor: usize,
    half_hour: i64,
    step: usize,
    count: usize,
    seed: u64,
}

/// A row of an export of orders.
#[derive(Clone, Debug)]
pub struct OrderRow {
    pub order: usize,
    /// Days since [`START`].
    pub day: i32,
    /// In tens.
    pub total: i64,
    /// None for a guest.
    pub customer: Option<usize>,
    pub refunded: i64,
}

/// What the shop exports, in the order of its times.
#[derive(Clone, Debug)]
pub struct Exports {
    /// (batch, orders), in the order of time.
    pub orders: Vec<(usize, Vec<OrderRow>)>,
    /// (batch, customers with the hash of their mail address), in the order of time.
    pub customers: Vec<(usize, Vec<(usize, usize)>)>,
    /// (batch, order ids with lines of product and quantity), in the order of time.
    pub items: Vec<(usize, Vec<(usize, Vec<(usize, i64)>)>)>,
    /// (batch, day, prices of the products), in any order.
    pub products: Vec<(usize, i32, Vec<i64>)>,
}

/// Events with the batch that each lands in, and exports.
#[derive(Clone, Debug)]
pub struct History {
    pub events: Vec<(usize, Event<'static>)>,
    pub exports: Exports,
}

pub fn histories() -> impl Strategy<Value = History> {
    let burst = (
        0..4_usize,
        0..120_i64,
        0..5_usize,
        prop_oneof![6 => 1..6_usize, 1 => Just(78)],
        any::<u64>(),
    );
    let bursts = prop::collection::vec(burst, 1..6);
    let days = prop_oneof![4 => 0..3_i32, 1 => 31..33_i32];
    let order = (0..4_usize, days, 1..3_i64, prop::option::weighted(0.8, 0..3_usize), 0..4_i64)
        .prop_map(|(order, day, total, customer, refunded)| OrderRow {
            order,
            day,
            total,
            customer,
            refunded: 3 * refunded,
        });
    let orders = prop::collection::vec(order, 0..4);
    let customers = prop::collection::vec((0..3_usize, 0..2_usize), 0..3);
    let lines = prop::collection::vec((0..3_usize, 1..3_i64), 1..3);
    let items = prop::collection::vec((0..4_usize, lines), 0..4);
    let exports = (
        prop::collection::vec((0..BATCHES, orders), 0..4),
        prop::collection::vec((0..BATCHES, customers), 0..3),
        prop::collection::vec((0..BATCHES, items), 0..4),
        prop::collection::btree_map(
            0..4_i32,
            (0..BATCHES, prop::collection::vec(1..3_i64, 1..3)),
            0..4,
        ),
    );
    (bursts, exports).prop_map(|(bursts, (orders, customers, items, products))| {
        let bursts = bursts.into_iter().map(|(visitor, half_hour, step, count, seed)| Burst {
            visitor,
            half_hour,
            step,
            count,
            seed,
        });
        let products = products.into_iter().map(|(day, (batch, prices))| (batch, day, prices));
        History {
            events: events(&bursts.collect::<Vec<_>>()),
            exports: Exports { orders, customers, items, products: products.collect() },
        }
    })
}

impl Exports {
    /// Writes those of a batch as CSV files, each with the time of its data in its name.
    pub fn write(&self, shop: &Shop, batch: usize) {
        for (number, (to, rows)) in self.orders.iter().enumerate() {
            let mut csv = "order_id,customer_id,ordered_at,currency,total,refunded\n".to_owned();
            for row in rows {
                let customer = row.customer.map_or(String::new(), |number| format!("c{number}"));
                let _ = writeln!(
                    csv,
                    "o{},{customer},{}T09:00:00Z,EUR,{},{}",
                    row.order,
                    micros(START + i64::from(row.day) * 24 * 60 * MINUTE).date(),
                    10 * row.total,
                    row.refunded
                );
            }
            if *to == batch {
                shop.export("orders", &format!("20260320T00000{number}"), &csv);
            }
        }
        for (number, (to, rows)) in self.customers.iter().enumerate() {
            let mut csv = "customer_id,email_hash\n".to_owned();
            for (customer, hash) in rows {
                let _ = writeln!(csv, "c{customer},H{hash}");
            }
            if *to == batch {
                shop.export("customers", &format!("20260320T00000{number}"), &csv);
            }
        }
        for (number, (to, rows)) in self.items.iter().enumerate() {
            let mut csv = "order_id,line,product_id,quantity,unit_price\n".to_owned();
            // Of a repeated order in one file the later lines count.
            let last: BTreeMap<_, _> = rows.iter().cloned().collect();
            for (order, lines) in last {
                for (line, (product, quantity)) in lines.iter().enumerate() {
                    let _ = writeln!(csv, "o{order},{},p{product},{quantity},5", line + 1);
                }
            }
            if *to == batch {
                shop.export("order_items", &format!("20260320T00000{number}"), &csv);
            }
        }
        for (to, day, prices) in &self.products {
            let mut csv = "product_id,price,cost\n".to_owned();
            for (product, price) in prices.iter().enumerate() {
                // What costs one is worth nothing: then nobody knows what it did cost.
                let cost = if *price > 1 { (price - 1).to_string() } else { String::new() };
                let _ = writeln!(csv, "p{product},{price},{cost}");
            }
            if *to == batch {
                shop.export("products", &format!("202603{:02}T120000", 10 + day), &csv);
            }
        }
    }
}

impl History {
    /// Lands a batch's events and writes its exports.
    pub async fn land(&self, shop: &mut Shop, batch: usize) {
        let of_batch =
            |(to, event): &(usize, Event<'static>)| (*to == batch).then(|| event.clone());
        let events: Vec<_> = self.events.iter().filter_map(of_batch).collect();
        shop.land(&events).await;
        self.exports.write(shop, batch);
    }

    /// A line an event: batch, id, name, visitor, time, receipt; then the exports.
    pub fn brief(&self) -> String {
        let line = |(batch, e): &(usize, Event<'static>)| {
            format!(
                "{batch} {} {} {:?} {} {} {:?} {:?}\n",
                e.event_id,
                e.event_name,
                e.visitor_id(),
                e.event_ts(),
                e.received_ts(),
                e.wal_seq,
                e.order_id
            )
        };
        let events: String = self.events.iter().map(line).collect();
        format!("{events}{:?}", self.exports)
    }
}

/// Small numbers out of one: the same bursts always give the same events.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn events(bursts: &[Burst]) -> Vec<(usize, Event<'static>)> {
    let mut all = Vec::new();
    let mut wal_seq = 0;
    for (number, burst) in bursts.iter().enumerate() {
        let mut dice = Dice(burst.seed);
        let steps = [10 * MINUTE, 20 * MINUTE, 30 * MINUTE - 1, 30 * MINUTE, 0];
        let step = if burst.count > 10 { 20 * MINUTE } else { steps[burst.step] };
        for place in 0..burst.count {
            let micros = START + burst.half_hour * 30 * MINUTE + place as i64 * step;
            let id = format!("e{number}-{place}");
            let mut copy =
                |dice: &mut Dice, visitor: usize, micros: i64, since: i64, first: bool| {
                    wal_seq += 1;
                    let delays = [1_000_000, 1_000_000, 10 * MINUTE, 61 * MINUTE, 26 * 60 * MINUTE];
                    let delay = delays[dice.roll(5) as usize];
                    let received = if first { micros + delay } else { since + delay };
                    // A chain is on time, so that cases stay small where they are long.
                    let batch = if burst.count > 10 && dice.roll(12) > 0 {
                        0
                    } else {
                        dice.roll(BATCHES as u64) as usize
                    };
                    let event = event(dice, &id, visitor, micros, received, wal_seq);
                    (batch, event)
                };
            let first = copy(&mut dice, burst.visitor, micros, 0, true);
            let received = first.1.received_ts().micros();
            match dice.roll(12) {
                // The same place of the same spool, twice.
                0 => all.push((dice.roll(BATCHES as u64) as usize, first.1.clone())),
                // The client sent it again; its other copy may land first.
                1 => {
                    let (batch, again) = copy(&mut dice, burst.visitor, micros, received, false);
                    let mut same = first.1.clone();
                    same.wal_seq = again.wal_seq;
                    all.push((batch, retimed(same, again.received_ts().micros())));
                }
                // Another event under the same id.
                2 => {
                    let other = (burst.visitor + dice.roll(2) as usize) % 3;
                    let elsewhen = micros + dice.roll(3) as i64 * 40 * MINUTE;
                    all.push(copy(&mut dice, other, elsewhen, received.max(elsewhen), false));
                }
                // And again and again, days later: within a week of the one before, or just not.
                3 => {
                    let mut received = received;
                    for _ in 0..1 + dice.roll(4) {
                        let days = [3, 6, 7][dice.roll(3) as usize] * DAY;
                        received += days + dice.roll(3) as i64 - 1;
                        let (batch, again) =
                            copy(&mut dice, burst.visitor, micros, received, false);
                        let changed = dice.roll(4) == 0;
                        let mut sent = if changed { again.clone() } else { first.1.clone() };
                        sent.wal_seq = again.wal_seq;
                        all.push((batch, retimed(sent, received)));
                    }
                }
                _ => {}
            }
            all.push(first);
        }
    }
    all
}

/// The same event, received at another time.
fn retimed(event: Event<'static>, received: i64) -> Event<'static> {
    let mut again = Event::new(
        event.event_id.clone(),
        event.event_name.clone(),
        "segment",
        "web",
        EventTime::resolve(Some(event.event_ts()), None, micros(received)),
    );
    again.anonymous_id = event.anonymous_id;
    again.user_id = event.user_id;
    again.user_agent = event.user_agent;
    again.page_url = event.page_url;
    again.utm_medium = event.utm_medium;
    again.search_query = event.search_query;
    again.properties = event.properties;
    again.order_id = event.order_id;
    again.revenue = event.revenue;
    again.currency = event.currency;
    again.items = event.items;
    again.collector_id = event.collector_id;
    again.wal_seq = event.wal_seq;
    again
}

pub fn micros(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros).expect("a time in range")
}

/// A plain event: the rest can be set on it.
pub fn plain(
    id: &str,
    name: &str,
    visitor: &str,
    at: Timestamp,
    received: Timestamp,
) -> Event<'static> {
    let time = EventTime::resolve(Some(at), None, received);
    let mut event = Event::new(id.to_owned(), name.to_owned(), "segment", "web", time);
    event.anonymous_id = Some(visitor.to_owned().into());
    event.collector_id = Some("c".into());
    event
}

pub fn item(product: usize, quantity: i64) -> Item<'static> {
    Item {
        product_id: Some(format!("p{product}").into()),
        quantity: Some(quantity),
        ..Item::default()
    }
}

fn event(
    dice: &mut Dice,
    id: &str,
    visitor: usize,
    at: i64,
    received: i64,
    wal_seq: i64,
) -> Event<'static> {
    let names = [
        "page_view",
        "product_view",
        "product_click",
        "add_to_cart",
        "add_to_cart",
        "remove_from_cart",
        "begin_checkout",
        "search",
        "search",
        "purchase",
        "identify",
    ];
    let name = names[dice.roll(names.len() as u64) as usize];
    let mut event = plain(id, name, &format!("v{visitor}"), micros(at), micros(received));
    event.wal_seq = Some(wal_seq);
    if visitor == 3 {
        // Nothing says who it was.
        event.anonymous_id = None;
    } else if dice.roll(4) == 0 {
        event.user_id = Some(format!("u{}", dice.roll(2)).into());
    }
    event.page_url = Some(format!("https://shop.example/{}", dice.roll(3)).into());
    event.utm_medium =
        [None, None, Some("email".into()), Some("cpc".into())][dice.roll(4) as usize].clone();
    if dice.roll(12) == 0 {
        event.user_agent = Some(BOT.into());
    } else if dice.roll(3) == 0 {
        event.user_agent = Some(PHONE.into());
    }
    if matches!(name, "product_view" | "add_to_cart" | "remove_from_cart" | "purchase")
        || (name == "search" && dice.roll(2) == 0)
    {
        let count = 1 + dice.roll(2);
        let some = |dice: &mut Dice| {
            let mut some = item(dice.roll(3) as usize, 1 + dice.roll(2) as i64);
            let price = dice.roll(4);
            some.price = (price > 0).then(|| Money::parse(&price.to_string()).expect("an amount"));
            some
        };
        event.items = (0..count).map(|_| some(dice)).collect();
    }
    if name == "identify" {
        let traits = format!(r#"{{"traits":{{"email_hash":"h{}"}}}}"#, dice.roll(3));
        event.properties = Some(RawJson::parse(&traits).expect("JSON").into_owned());
    }
    if name == "search" {
        event.search_query = Some(SEARCHES[dice.roll(SEARCHES.len() as u64) as usize].into());
        if event.items.is_empty() && dice.roll(2) == 0 {
            event.properties =
                Some(RawJson::parse(r#"{"products":[]}"#).expect("JSON").into_owned());
        }
    }
    if name == "purchase" {
        event.order_id = Some(format!("o{}", dice.roll(5)).into());
        event.revenue = Money::parse(&format!("{}", 10 + 10 * dice.roll(2))).ok();
        event.currency = Some("EUR".into());
    }
    event
}
