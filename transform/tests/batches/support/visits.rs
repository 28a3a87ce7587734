//! What the tables that come out of single sessions must hold, the slow way.

use std::collections::{BTreeMap, BTreeSet};

use super::history::PHONE;
use super::reference::{Placed, Sessions, amount, channel, is_bot, last_channel, text, units};

/// How they are read to be compared.
pub const QUERIES: &[(&str, &str)] = &[
    (
        "search_daily",
        "SELECT search_query, searches, searchers, with_results_known, zero_results, clicks, carts, purchases, dt \
         FROM search_daily",
    ),
    (
        "funnel_daily",
        "SELECT channel, device_class, sessions, visitors, bounces, views, carts, checkouts, \
         purchases, orders, revenue, currency, dt FROM funnel_daily",
    ),
    (
        "abandoned_carts",
        "SELECT f.event_id AS first, a.visitor_id, CAST(a.abandoned_at AS BIGINT), a.reached, \
         a.products, a.units, a.worth, a.unpriced, a.channel, a.device_class, a.items, a.dt \
         FROM abandoned_carts a LEFT JOIN (SELECT session_id, event_id FROM events \
         WHERE session_seq = 1) f ON a.session_id = f.session_id",
    ),
];

pub fn tables(
    placed: &[Placed<'_>],
    sessions: &Sessions<'_>,
) -> BTreeMap<&'static str, Vec<String>> {
    BTreeMap::from([
        ("search_daily", search_daily(placed, sessions)),
        ("funnel_daily", funnel_daily(sessions)),
        ("abandoned_carts", abandoned_carts(sessions)),
    ])
}

fn named(row: &Placed<'_>, name: &str) -> bool {
    row.event.event_name == name
}

fn of_bot(rows: &[&Placed<'_>]) -> bool {
    // No history here is fast enough for the rule of rates.
    rows.iter().any(|row| is_bot(row.event))
}

#[derive(Default)]
struct Searched<'a> {
    searches: i64,
    searchers: BTreeSet<&'a str>,
    known: i64,
    zero_results: i64,
    clicks: i64,
    carts: i64,
    purchases: i64,
}

fn search_daily(placed: &[Placed<'_>], sessions: &Sessions<'_>) -> Vec<String> {
    let counted = |row: &&Placed<'_>| {
        named(row, "search")
            && !is_bot(row.event)
            && row.session.is_none_or(|(first, _)| {
                !of_bot(&sessions[&(row.event.visitor_id().expect("has a session"), first)])
            })
    };
    let searches: Vec<&Placed<'_>> = placed.iter().filter(counted).collect();
    let mut all: BTreeMap<(String, String), Searched<'_>> = BTreeMap::new();
    for row in searches {
        let typed = row.event.search_query.as_deref().expect("set");
        let query = typed.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        let day = row.event.event_ts().date();
        let facts = all.entry((query, day.to_string())).or_default();
        facts.searches += 1;
        facts.searchers.extend(row.event.visitor_id());
        facts.known += i64::from(row.event.properties.is_some() || !row.event.items.is_empty());
        // All that a history's searches have there is an empty list of products.
        facts.zero_results += i64::from(row.event.properties.is_some());
        let Some((first, seq)) = row.session else { continue };
        let session = &sessions[&(row.event.visitor_id().expect("has a session"), first)];
        let after: Vec<_> =
            session.iter().filter(|other| other.session.is_some_and(|s| s.1 > seq)).collect();
        let until = after.iter().position(|other| named(other, "search")).unwrap_or(after.len());
        let soon = |name: &str| after[..until].iter().any(|other| named(other, name));
        facts.clicks += i64::from(soon("product_click") || soon("product_view"));
        facts.carts += i64::from(soon("add_to_cart"));
        facts.purchases += i64::from(after.iter().any(|other| named(other, "purchase")));
    }
    let row = |((query, day), f): ((String, String), Searched<'_>)| {
        format!(
            "{query}|{}|{}|{}|{}|{}|{}|{}|{day}",
            f.searches,
            f.searchers.len(),
            f.known,
            f.zero_results,
            f.clicks,
            f.carts,
            f.purchases
        )
    };
    all.into_iter().map(row).collect()
}

fn device(row: &Placed<'_>) -> Option<&'static str> {
    row.event.user_agent.as_deref().map(|agent| {
        assert_eq!(agent, PHONE, "bots are left out");
        "mobile"
    })
}

fn funnel_daily(sessions: &Sessions<'_>) -> Vec<String> {
    let mut groups: BTreeMap<_, Vec<(&str, &Vec<&Placed<'_>>)>> = BTreeMap::new();
    // No history here has a refund.
    for ((visitor, _), rows) in sessions.iter().filter(|(_, rows)| !of_bot(rows)) {
        let first = rows[0];
        let day = first.event.event_ts().date().to_string();
        let key = (channel(first.event), device(first).unwrap_or("other"), day);
        groups.entry(key).or_default().push((visitor, rows));
    }
    let row = |((channel, device, day), rows): ((&str, &str, String), Vec<(&str, &Vec<_>)>)| {
        let with = |name: &str| {
            let has = |rows: &&Vec<&Placed<'_>>| rows.iter().any(|row| named(row, name));
            rows.iter().map(|(_, rows)| *rows).filter(has).count()
        };
        let visitors: BTreeSet<&str> = rows.iter().map(|(visitor, _)| *visitor).collect();
        let bounce = |rows: &&Vec<&Placed<'_>>| rows.len() == 1 && !named(rows[0], "purchase");
        let mut orders = 0;
        let mut revenue = None;
        for (_, rows) in &rows {
            for row in rows.iter().filter(|row| row.buys) {
                orders += 1;
                *revenue.get_or_insert(0) += units(row.event.revenue);
            }
        }
        format!(
            "{channel}|{device}|{}|{}|{}|{}|{}|{}|{}|{orders}|{}|{}|{day}",
            rows.len(),
            visitors.len(),
            rows.iter().map(|(_, rows)| *rows).filter(bounce).count(),
            with("product_view"),
            with("add_to_cart"),
            with("begin_checkout"),
            rows.iter().filter(|(_, rows)| rows.iter().any(|row| row.buys)).count(),
            amount(revenue),
            text(revenue.map(|_| "EUR")),
        )
    };
    groups.into_iter().map(row).collect()
}

fn abandoned_carts(sessions: &Sessions<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for ((visitor, first), rows) in sessions.iter().filter(|(_, rows)| !of_bot(rows)) {
        if rows.iter().any(|row| row.buys) {
            continue;
        }
        let mut cart: BTreeMap<&str, (i64, Option<i64>)> = BTreeMap::new();
        let mut changed = 0;
        let mut added = false;
        for row in rows {
            let sign = match row.event.event_name.as_ref() {
                "add_to_cart" => 1,
                "remove_from_cart" => -1,
                _ => continue,
            };
            added |= sign == 1;
            changed = row.event.event_ts().micros();
            for item in &row.event.items {
                let line = cart.entry(item.product_id.as_deref().expect("set")).or_default();
                line.0 = (line.0 + sign * item.quantity.expect("set")).max(0);
                if let (1, Some(price)) = (sign, item.price) {
                    line.1 = Some(units(Some(price)));
                }
            }
        }
        cart.retain(|_, (quantity, _)| *quantity > 0);
        if cart.is_empty() || !added {
            continue;
        }
        let priced: Vec<i64> =
            cart.values().filter_map(|(quantity, price)| Some(quantity * (*price)?)).collect();
        let items: Vec<String> = cart
            .iter()
            .map(|(product, (quantity, price))| {
                format!(
                    "{{product_id: {product}, name: -, quantity: {quantity}, price: {}}}",
                    amount(*price)
                )
            })
            .collect();
        let reached =
            if rows.iter().any(|row| named(row, "begin_checkout")) { "checkout" } else { "cart" };
        found.push(format!(
            "{first}|{visitor}|{changed}|{reached}|{}|{}|{}|{}|{}|{}|[{}]|{}",
            cart.len(),
            cart.values().map(|(quantity, _)| quantity).sum::<i64>(),
            amount((!priced.is_empty()).then(|| priced.iter().sum())),
            cart.len() - priced.len(),
            last_channel(rows),
            text(device(rows[0])),
            items.join(", "),
            rows[0].event.event_ts().date()
        ));
    }
    found
}
