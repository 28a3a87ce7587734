//! What the tables must hold, worked out the slow way from all events and exports at
//! once, from the columns' definitions alone.

use std::collections::{BTreeMap, BTreeSet};

use clickmill_schemas::{Date, Event, Money};

use super::history::{BOT, Exports, MINUTE, OrderRow, START};
use super::{people, visits, worth};

pub const DAY: i64 = 24 * 60 * MINUTE;

/// A kept event, its session (named by the session's first event) and its place there.
pub struct Placed<'a> {
    pub event: &'a Event<'static>,
    pub session: Option<(&'a str, i32)>,
    /// A purchase that does not follow another one of the same visitor and order within a day.
    pub buys: bool,
}

/// The events, and the extra copies: those that follow another within a week.
pub fn dedupe<'a>(
    events: &'a [Event<'static>],
) -> (Vec<&'a Event<'static>>, Vec<&'a Event<'static>>) {
    let mut copies: BTreeMap<(&str, &str), Vec<&Event<'static>>> = BTreeMap::new();
    for event in events {
        copies.entry((&event.app_id, &event.event_id)).or_default().push(event);
    }
    let (mut kept, mut extra) = (Vec::new(), Vec::new());
    for group in copies.values_mut() {
        group.sort_by_key(|e| (e.received_ts().micros(), e.collector_id.clone(), e.wal_seq));
        let mut before: Option<i64> = None;
        for event in group {
            let received = event.received_ts().micros();
            if before.is_some_and(|before| received - before <= 7 * DAY) {
                extra.push(*event);
            } else {
                kept.push(*event);
            }
            before = Some(received);
        }
    }
    (kept, extra)
}

pub fn sessions<'a>(kept: &[&'a Event<'static>]) -> Vec<Placed<'a>> {
    let mut sorted = kept.to_vec();
    // What a visitor's bot does is a visit of its own. Copies that were received over a week apart
    // are in the order of their receipt.
    sorted.sort_by_key(|e| {
        let copy = (e.event_id.clone(), e.app_id.clone(), e.received_ts().micros());
        (e.visitor_id(), is_bot(e), e.event_ts().micros(), copy)
    });
    let mut placed: Vec<Placed<'a>> = Vec::new();
    // Visitor, first event, its time, the last one's time, events so far.
    let mut open: Option<((&str, bool), &str, i64, i64, i32)> = None;
    // When an order was last reported by a visitor.
    let mut reported = BTreeMap::new();
    for event in sorted {
        let at = event.event_ts().micros();
        let session = event.visitor_id().map(|visitor| {
            let visitor = (visitor, is_bot(event));
            let next = match open {
                Some((of, first, began, last, seq))
                    if of == visitor && at - last < 30 * MINUTE && at - began <= DAY =>
                {
                    (of, first, began, at, seq + 1)
                }
                _ => (visitor, event.event_id.as_ref(), at, at, 1),
            };
            open = Some(next);
            (next.1, next.4)
        });
        let buys = event.event_name == "purchase" && {
            let key = (event.visitor_id(), is_bot(event), event.order_id.as_deref());
            reported.insert(key, at).is_none_or(|last| at - last > DAY)
        };
        placed.push(Placed { event, session, buys });
    }
    placed
}

pub fn channel(event: &Event<'_>) -> &'static str {
    match event.utm_medium.as_deref() {
        Some("email") => "email",
        // Of no source that GA4 knows.
        Some("cpc") => "paid_other",
        _ => "direct",
    }
}

pub fn is_bot(event: &Event<'_>) -> bool {
    event.user_agent.as_deref() == Some(BOT)
}

pub fn units(money: Option<Money>) -> i64 {
    money.map_or(0, Money::unscaled) / 10_000
}

pub fn text<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

pub fn amount(value: Option<i64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value}.0000"))
}

/// Rows of the tables as `Shop::sql` with the queries of `QUERIES` prints them.
pub fn tables(events: &[Event<'static>], exports: &Exports) -> BTreeMap<&'static str, Vec<String>> {
    let (kept, extra) = dedupe(events);
    let placed = sessions(&kept);
    let mut all = BTreeMap::new();
    all.insert("events", placed.iter().map(event_row).collect());
    let duplicate = |e: &&Event<'static>| {
        format!(
            "{}|{}|{}|{}",
            e.event_id,
            text(e.wal_seq),
            e.received_ts().micros(),
            e.received_ts().date()
        )
    };
    all.insert("event_duplicates", extra.iter().map(duplicate).collect());
    all.insert("event_items", placed.iter().flat_map(item_rows).collect());
    let mut of_session: Sessions<'_> = BTreeMap::new();
    for row in &placed {
        if let (Some((first, _)), Some(visitor)) = (row.session, row.event.visitor_id()) {
            of_session.entry((visitor, first)).or_default().push(row);
        }
    }
    all.insert(
        "sessions",
        of_session.iter().map(|((_, first), rows)| session_row(first, rows)).collect(),
    );
    all.insert("orders_enriched", orders_enriched(&placed, &of_session, exports));
    all.insert("product_daily", product_daily(&kept, exports));
    all.extend(visits::tables(&placed, &of_session));
    all.extend(people::tables(&placed, &of_session, exports));
    all.extend(worth::tables(&placed, &of_session, exports));
    for rows in all.values_mut() {
        rows.sort();
    }
    all
}

/// A visitor and the first event of one of his sessions: its events in order.
pub type Sessions<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a Placed<'a>>>;

/// How the tables are read to be compared. A session is named by its first event.
pub const QUERIES: &[(&str, &str)] = &[
    (
        "events",
        "SELECT e.event_id, e.visitor_id, f.event_id AS first, e.session_seq, CAST(e.event_ts AS BIGINT), \
         e.wal_seq, e.is_late, e.channel, e.dt FROM events e LEFT JOIN (SELECT session_id, event_id \
         FROM events WHERE session_seq = 1) f ON e.session_id = f.session_id",
    ),
    (
        "event_duplicates",
        "SELECT event_id, wal_seq, CAST(received_ts AS BIGINT), dt FROM event_duplicates",
    ),
    (
        "event_items",
        "SELECT i.event_id, i.item_index, i.product_id, i.quantity, f.event_id AS first, i.dt \
         FROM event_items i LEFT JOIN (SELECT session_id, event_id FROM events WHERE session_seq = 1) f \
         ON i.session_id = f.session_id",
    ),
    (
        "sessions",
        "SELECT f.event_id, s.visitor_id, s.user_id, CAST(s.started_at AS BIGINT), \
         CAST(s.ended_at AS BIGINT), s.duration_ms, s.engaged_ms, s.is_bounce, s.events, s.page_views, \
         s.product_views, s.add_to_carts, s.searches, s.orders, s.revenue, s.landing_url, s.channel, \
         s.last_channel, s.is_bot, s.late_events, s.dt FROM sessions s LEFT JOIN (SELECT session_id, \
         event_id FROM events WHERE session_seq = 1) f ON s.session_id = f.session_id",
    ),
    (
        "orders_enriched",
        "SELECT o.order_id, o.match_status, o.total, o.event_id, o.event_total, o.missed_total, \
         f.event_id AS first, o.channel, o.dt FROM orders_enriched o LEFT JOIN (SELECT session_id, \
         event_id FROM events WHERE session_seq = 1) f ON o.session_id = f.session_id",
    ),
    (
        "product_daily",
        "SELECT product_id, views, viewers, carts, orders, units, revenue, price, asof_backfilled, dt \
         FROM product_daily",
    ),
];

fn event_row(row: &Placed<'_>) -> String {
    let e = row.event;
    let late = e.received_ts().micros() - e.event_ts().micros() > 60 * MINUTE;
    format!(
        "{}|{}|{}|{}|{}|{}|{late}|{}|{}",
        e.event_id,
        text(e.visitor_id()),
        text(row.session.map(|s| s.0)),
        text(row.session.map(|s| s.1)),
        e.event_ts().micros(),
        text(e.wal_seq),
        channel(e),
        e.event_ts().date()
    )
}

fn item_rows(row: &Placed<'_>) -> Vec<String> {
    let e = row.event;
    let line = |(at, item): (usize, &clickmill_schemas::Item<'_>)| {
        format!(
            "{}|{}|{}|{}|{}|{}",
            e.event_id,
            at + 1,
            text(item.product_id.as_deref()),
            text(item.quantity),
            text(row.session.map(|s| s.0)),
            e.event_ts().date()
        )
    };
    e.items.iter().enumerate().map(line).collect()
}

pub fn last_channel(rows: &[&Placed<'_>]) -> &'static str {
    let marked = rows.iter().rev().map(|row| channel(row.event)).find(|c| *c != "direct");
    marked.unwrap_or_else(|| channel(rows[0].event))
}

fn session_row(first: &str, rows: &[&Placed<'_>]) -> String {
    let times: Vec<i64> = rows.iter().map(|row| row.event.event_ts().micros()).collect();
    let engaged: i64 = times.windows(2).map(|w| ((w[1] - w[0]) / 1_000).min(5 * 60_000)).sum();
    let named = |name: &str| rows.iter().filter(|row| row.event.event_name == name).count();
    let mut bought: BTreeMap<&str, i64> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.buys) {
        let order = row.event.order_id.as_deref().expect("every purchase here has one");
        bought.entry(order).or_insert(units(row.event.revenue));
    }
    let late = |row: &&&Placed<'_>| {
        row.event.received_ts().micros() - row.event.event_ts().micros() > 60 * MINUTE
    };
    let (began, ended) = (times[0], times[times.len() - 1]);
    format!(
        "{first}|{}|{}|{began}|{ended}|{}|{engaged}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{}",
        text(rows[0].event.visitor_id()),
        text(rows.iter().rev().find_map(|row| row.event.user_id.as_deref())),
        (ended - began) / 1_000,
        rows.len() == 1 && named("purchase") == 0,
        rows.len(),
        named("page_view"),
        named("product_view"),
        named("add_to_cart"),
        named("search"),
        bought.len(),
        amount((!bought.is_empty()).then(|| bought.values().sum())),
        text(rows.iter().find_map(|row| row.event.page_url.as_deref())),
        channel(rows[0].event),
        last_channel(rows),
        rows.iter().any(|row| is_bot(row.event)),
        rows.iter().filter(late).count(),
        rows[0].event.event_ts().date()
    )
}

pub fn day(number: i32) -> Date {
    Date::from_days((START / DAY) as i32 + number)
}

/// The newest word on each order.
pub fn orders(exports: &Exports) -> BTreeMap<usize, &OrderRow> {
    let mut newest = BTreeMap::new();
    for (_, rows) in &exports.orders {
        // Of a repeated key in one file the later row counts.
        newest.extend(rows.iter().map(|row| (row.order, row)));
    }
    newest
}

/// The purchase event of an order, where one lies within a week of it: those of a history
/// lie within its first days.
pub fn bought<'a>(
    purchases: &BTreeMap<String, Vec<&'a Placed<'a>>>,
    row: &OrderRow,
) -> Option<&'a Placed<'a>> {
    (row.day < 7).then(|| Some(purchases.get(&format!("o{}", row.order))?[0]))?
}

/// The lines of an order that the newest export has, as product and quantity.
pub fn lines(exports: &Exports) -> BTreeMap<usize, &Vec<(usize, i64)>> {
    let mut lines: BTreeMap<usize, &Vec<(usize, i64)>> = BTreeMap::new();
    for (_, rows) in &exports.items {
        lines.extend(rows.iter().map(|(order, lines)| (*order, lines)));
    }
    lines
}

/// True where an order of a day is placed before the first catalog with the product.
pub fn is_before_its_first(exports: &Exports, product: usize, on: i32) -> bool {
    let with = exports.products.iter().filter(|(_, _, prices)| prices.get(product).is_some());
    // Catalogs of the day come at noon, orders are placed at 9.
    with.map(|(_, day, _)| *day).min().is_some_and(|first| first >= on)
}

/// The price of a product when orders are placed, at 9 o'clock: catalogs of the day come at
/// noon. That of the first export before it.
pub fn price(exports: &Exports, product: usize, on: i32) -> Option<i64> {
    let known: BTreeMap<i32, i64> = exports
        .products
        .iter()
        .filter_map(|(_, day, prices)| Some((*day, *prices.get(product)?)))
        .collect();
    let until = known.range(..on).next_back().or_else(|| known.iter().next());
    until.map(|(_, price)| *price)
}

/// The purchase events of each order id, in the order of time.
pub fn purchases<'a>(placed: &'a [Placed<'a>]) -> BTreeMap<String, Vec<&'a Placed<'a>>> {
    let mut purchases: BTreeMap<String, Vec<&Placed<'_>>> = BTreeMap::new();
    for row in placed.iter().filter(|row| row.event.event_name == "purchase") {
        purchases
            .entry(row.event.order_id.clone().expect("set").into_owned())
            .or_default()
            .push(row);
    }
    for rows in purchases.values_mut() {
        rows.sort_by_key(|row| (row.event.event_ts().micros(), row.event.event_id.clone()));
    }
    purchases
}

fn orders_enriched(
    placed: &[Placed<'_>],
    of_session: &BTreeMap<(&str, &str), Vec<&Placed<'_>>>,
    exports: &Exports,
) -> Vec<String> {
    let mut purchases = purchases(placed);
    let session = |row: &Placed<'_>| {
        row.session.zip(row.event.visitor_id()).map(|((first, _), visitor)| {
            (first.to_owned(), last_channel(&of_session[&(visitor, first)]))
        })
    };
    let orders = orders(exports);
    let mut rows = Vec::new();
    for (order, row) in &orders {
        let (on, total) = (row.day, 10 * row.total);
        let id = format!("o{order}");
        let first = bought(&purchases, row);
        if first.is_some() {
            purchases.remove(&id);
        }
        let touch = first.and_then(session);
        let status = match first {
            None => "order_only",
            Some(row) if units(row.event.revenue) == total => "matched",
            Some(_) => "value_mismatch",
        };
        rows.push(format!(
            "{id}|{status}|{}|{}|{}|{}|{}|{}|{}",
            amount(Some(total)),
            text(first.map(|row| row.event.event_id.as_ref())),
            amount(first.map(|row| units(row.event.revenue))),
            amount(first.is_none().then_some(total)),
            text(touch.as_ref().map(|t| t.0.as_str())),
            text(touch.as_ref().map(|t| t.1)),
            day(on)
        ));
    }
    for (id, of_order) in purchases {
        let row = of_order[0];
        let touch = session(row);
        rows.push(format!(
            "{id}|event_only|-|{}|{}|-|{}|{}|{}",
            row.event.event_id,
            amount(Some(units(row.event.revenue))),
            text(touch.as_ref().map(|t| t.0.as_str())),
            text(touch.as_ref().map(|t| t.1)),
            row.event.event_ts().date()
        ));
    }
    rows
}

#[derive(Default)]
struct Facts<'a> {
    views: i64,
    viewers: BTreeSet<&'a str>,
    carts: i64,
    orders: BTreeSet<usize>,
    units: i64,
}

fn product_daily(kept: &[&Event<'static>], exports: &Exports) -> Vec<String> {
    let mut facts: BTreeMap<(String, i32), Facts<'_>> = BTreeMap::new();
    for event in kept.iter().filter(|event| !is_bot(event)) {
        for item in &event.items {
            let key = (
                item.product_id.clone().expect("set").into_owned(),
                event.event_ts().date().days(),
            );
            let facts = facts.entry(key).or_default();
            match event.event_name.as_ref() {
                "product_view" => {
                    facts.views += 1;
                    facts.viewers.extend(event.visitor_id());
                }
                "add_to_cart" => facts.carts += 1,
                _ => {}
            }
        }
    }
    let orders = orders(exports);
    let lines = lines(exports);
    for (order, lines) in &lines {
        let Some(row) = orders.get(order) else { continue };
        for (product, quantity) in *lines {
            let facts = facts.entry((format!("p{product}"), day(row.day).days())).or_default();
            facts.orders.insert(*order);
            facts.units += quantity;
        }
    }
    // Prices by product and day of the export.
    let mut prices: BTreeMap<String, BTreeMap<i32, i64>> = BTreeMap::new();
    for (_, on, of) in &exports.products {
        for (product, price) in of.iter().enumerate() {
            prices.entry(format!("p{product}")).or_default().insert(day(*on).days(), *price);
        }
    }
    let row = |((product, on), facts): ((String, i32), Facts<'_>)| {
        let known = prices.get(&product);
        let until = known.and_then(|known| known.range(..=on).next_back());
        let price = until.or_else(|| known.and_then(|known| known.iter().next()));
        format!(
            "{product}|{}|{}|{}|{}|{}|{}|{}|{}|{}",
            facts.views,
            facts.viewers.len(),
            facts.carts,
            facts.orders.len(),
            facts.units,
            // Every piece costs 5 less nothing.
            amount((!facts.orders.is_empty()).then_some(facts.units * 5)),
            amount(price.map(|(_, price)| *price)),
            until.is_none() && price.is_some(),
            Date::from_days(on)
        )
    };
    facts.into_iter().map(row).collect()
}
