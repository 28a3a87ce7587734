//! What customers are worth and what goes together, the slow way.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Exports, OrderRow, START};
use super::people::owners;
use super::reference::{
    DAY, Placed, Sessions, amount, bought, day, is_before_its_first, is_bot, lines, orders, price,
    purchases, text,
};

/// How they are read to be compared.
pub const QUERIES: &[(&str, &str)] = &[
    (
        "customer_ltv",
        "SELECT customer_id, orders, units, revenue, refunded, margin, lines_without_cost, \
         lines_asof_backfilled, currency, \
         CAST(first_order_at AS BIGINT), CAST(last_order_at AS BIGINT), days_since_last_order, rfm, \
         cohort, as_of FROM customer_ltv",
    ),
    (
        "cohort_retention",
        "SELECT cohort, age_months, customers, active, orders, revenue, cumulative_revenue, currency \
         FROM cohort_retention",
    ),
    (
        "interactions",
        "SELECT subject_type, subject_id, product_id, views, clicks, wishlists, carts, purchases, \
         units, revenue, weight, dt FROM interactions",
    ),
    (
        "co_viewed",
        "SELECT product_id, other_product_id, position, together, views, other_views, sessions \
         FROM co_viewed",
    ),
    (
        "co_bought",
        "SELECT product_id, other_product_id, position, together, bought, other_bought, orders \
         FROM co_bought",
    ),
];

pub fn tables(
    placed: &[Placed<'_>],
    sessions: &Sessions<'_>,
    exports: &Exports,
) -> BTreeMap<&'static str, Vec<String>> {
    BTreeMap::from([
        ("customer_ltv", customer_ltv(exports)),
        ("cohort_retention", cohort_retention(exports)),
        ("interactions", interactions(placed, exports)),
        ("co_viewed", pairs(&viewed(sessions))),
        ("co_bought", pairs(&ordered(exports))),
    ])
}

/// Of each customer who ordered: the orders in the order of time.
fn histories(exports: &Exports) -> BTreeMap<usize, Vec<&OrderRow>> {
    let mut all: BTreeMap<usize, Vec<&OrderRow>> = BTreeMap::new();
    for row in orders(exports).into_values() {
        if let Some(customer) = row.customer {
            all.entry(customer).or_default().push(row);
        }
    }
    for rows in all.values_mut() {
        rows.sort_by_key(|row| (row.day, row.order));
    }
    all
}

fn net(row: &OrderRow) -> i64 {
    10 * row.total - row.refunded
}

/// In hundredths: what an order's lines of known cost earn, cut by what was paid back.
fn margin(row: &OrderRow, lines: &[(usize, i64)], exports: &Exports) -> Option<i64> {
    let earned: Vec<i64> = lines
        .iter()
        .filter_map(|(product, quantity)| {
            let price = price(exports, *product, row.day).filter(|price| *price > 1)?;
            Some(quantity * (5 - (price - 1)))
        })
        .collect();
    let earned: i64 = (!earned.is_empty()).then(|| earned.iter().sum())?;
    Some(100 * earned * net(row) / (10 * row.total))
}

fn hundredths(amount: Option<i64>) -> String {
    let shown = |amount: i64| {
        let sign = if amount < 0 { "-" } else { "" };
        format!("{sign}{}.{:02}00", amount.abs() / 100, amount.abs() % 100)
    };
    amount.map_or_else(|| "-".to_owned(), shown)
}

/// A fifth of those who have a value: 5 for the best. Of equals all have the least one's.
fn quintile(own: i64, all: &[i64]) -> i64 {
    let as_good = all.iter().filter(|other| **other >= own).count() as i64 - 1;
    5 - as_good * 5 / all.len() as i64
}

fn customer_ltv(exports: &Exports) -> Vec<String> {
    let histories = histories(exports);
    let lines = lines(exports);
    let as_of = orders(exports).values().map(|row| row.day).max();
    let column = |of: fn(&Vec<&OrderRow>) -> i64| histories.values().map(of).collect::<Vec<_>>();
    let scores: [fn(&Vec<&OrderRow>) -> i64; 3] = [
        |rows| i64::from(rows[rows.len() - 1].day),
        |rows| rows.len() as i64,
        |rows| rows.iter().map(|row| net(row)).sum(),
    ];
    let mut customers: BTreeSet<usize> = histories.keys().copied().collect();
    customers.extend(exports.customers.iter().flat_map(|(_, rows)| rows).map(|(id, _)| *id));
    let none = Vec::new();
    let row = |customer: usize| {
        let rows = histories.get(&customer).unwrap_or(&none);
        let of = |row: &OrderRow| lines.get(&row.order).copied();
        let units = rows.iter().filter_map(|row| of(row)).flatten().map(|(_, n)| n).sum::<i64>();
        let margins: Vec<i64> =
            rows.iter().filter_map(|row| margin(row, of(row)?, exports)).collect();
        let unknown = rows
            .iter()
            .flat_map(|row| {
                of(row).into_iter().flatten().map(move |(product, _)| (*product, row.day))
            })
            .filter(|(product, on)| price(exports, *product, *on).is_none_or(|price| price == 1))
            .count();
        let backfilled = rows
            .iter()
            .flat_map(|row| {
                of(row).into_iter().flatten().map(move |(product, _)| (*product, row.day))
            })
            .filter(|(product, on)| is_before_its_first(exports, *product, *on))
            .count();
        let at = |row: &&OrderRow| START + i64::from(row.day) * DAY + 9 * DAY / 24;
        let rfm = (!rows.is_empty())
            .then(|| scores.map(|of| quintile(of(rows), &column(of)).to_string()).concat());
        format!(
            "c{customer}|{}|{units}|{}|{}|{}|{unknown}|{backfilled}|{}|{}|{}|{}|{}|{}|{}",
            rows.len(),
            amount(Some(rows.iter().map(|row| net(row)).sum())),
            amount(Some(rows.iter().map(|row| row.refunded).sum())),
            hundredths((!margins.is_empty()).then(|| margins.iter().sum())),
            text(rows.first().map(|_| "EUR")),
            text(rows.first().map(at)),
            text(rows.last().map(at)),
            text(rows.last().zip(as_of).map(|(row, as_of)| as_of - row.day)),
            text(rfm),
            text(rows.first().map(|row| month(row.day).1)),
            text(as_of.map(day))
        )
    };
    customers.into_iter().map(row).collect()
}

/// The month of a day, as a number and as its first day.
fn month(on: i32) -> (i32, String) {
    let text = day(on).to_string();
    let number = |part: &str| part.parse::<i32>().expect("a number");
    (12 * number(&text[..4]) + number(&text[5..7]), format!("{}-01", &text[..7]))
}

fn cohort_retention(exports: &Exports) -> Vec<String> {
    let mut cohorts: BTreeMap<(i32, String), Vec<Vec<&OrderRow>>> = BTreeMap::new();
    for rows in histories(exports).into_values() {
        cohorts.entry(month(rows[0].day)).or_default().push(rows);
    }
    let newest = orders(exports).values().map(|row| month(row.day).0).max();
    let mut found = Vec::new();
    for ((began, first), customers) in cohorts {
        let mut cumulative = 0;
        for age in 0..=newest.expect("there are orders") - began {
            let within = |row: &&&OrderRow| month(row.day).0 == began + age;
            let active = customers.iter().filter(|rows| rows.iter().any(|row| within(&row)));
            let active = active.count();
            let orders: Vec<_> = customers.iter().flatten().filter(within).collect();
            let revenue: i64 = orders.iter().map(|row| net(row)).sum();
            cumulative += revenue;
            found.push(format!(
                "{first}|{age}|{}|{active}|{}|{}|{}|EUR",
                customers.len(),
                orders.len(),
                amount(Some(revenue)),
                amount(Some(cumulative))
            ));
        }
    }
    found
}

#[derive(Default)]
struct Interest {
    views: i64,
    clicks: i64,
    carts: i64,
    orders: BTreeSet<usize>,
    units: i64,
}

fn interactions(placed: &[Placed<'_>], exports: &Exports) -> Vec<String> {
    // Everything that a history learns of people, it learns within a week of everything.
    let owners = owners(placed, exports);
    let mut all: BTreeMap<(&str, String, String, String), Interest> = BTreeMap::new();
    for event in placed.iter().map(|row| row.event).filter(|event| !is_bot(event)) {
        let Some(visitor) = event.visitor_id() else { continue };
        let customer = event.user_id.as_deref().or(owners.get(visitor).map(String::as_str));
        let kind = if customer.is_some() { "customer" } else { "visitor" };
        for item in &event.items {
            let product = item.product_id.as_deref().expect("set").to_owned();
            let subject = customer.unwrap_or(visitor).to_owned();
            let key = (kind, subject, product, event.event_ts().date().to_string());
            let name = event.event_name.as_ref();
            if !matches!(name, "product_view" | "product_click" | "add_to_cart") {
                continue;
            }
            let interest = all.entry(key).or_default();
            interest.views += i64::from(name == "product_view");
            interest.clicks += i64::from(name == "product_click");
            interest.carts += i64::from(name == "add_to_cart");
        }
    }
    let (orders, purchases) = (orders(exports), purchases(placed));
    for (order, lines) in lines(exports) {
        let Some(row) = orders.get(&order) else { continue };
        let visitor = bought(&purchases, row).and_then(|row| row.event.visitor_id());
        let subject = match (row.customer, visitor) {
            (Some(customer), _) => ("customer", format!("c{customer}")),
            (None, Some(visitor)) => ("visitor", visitor.to_owned()),
            (None, None) => continue,
        };
        for (product, quantity) in lines {
            let on = day(row.day).to_string();
            let key = (subject.0, subject.1.clone(), format!("p{product}"), on);
            let interest = all.entry(key).or_default();
            interest.orders.insert(order);
            interest.units += quantity;
        }
    }
    let row = |((kind, subject, product, on), i): ((&str, String, String, String), Interest)| {
        let orders = i.orders.len() as i64;
        let weight = i.views.min(10) + i.clicks.min(10) + 5 * i.carts.min(10) + 10 * orders.min(10);
        format!(
            "{kind}|{subject}|{product}|{}|{}|0|{}|{orders}|{}|{}|{weight}|{on}",
            i.views,
            i.clicks,
            i.carts,
            i.units,
            amount((orders > 0).then_some(5 * i.units))
        )
    };
    all.into_iter().map(row).collect()
}

fn viewed(sessions: &Sessions<'_>) -> Vec<BTreeSet<String>> {
    let basket = |rows: &Vec<&Placed<'_>>| -> BTreeSet<String> {
        let views = rows.iter().filter(|row| row.event.event_name == "product_view");
        let items = views.flat_map(|row| &row.event.items);
        items.map(|item| item.product_id.as_deref().expect("set").to_owned()).collect()
    };
    let human = sessions.values().filter(|rows| !rows.iter().any(|row| is_bot(row.event)));
    human.map(basket).collect()
}

fn ordered(exports: &Exports) -> Vec<BTreeSet<String>> {
    let orders = orders(exports);
    let lines = lines(exports);
    let known = lines.iter().filter(|(order, _)| orders.contains_key(order));
    known.map(|(_, lines)| lines.iter().map(|(p, _)| format!("p{p}")).collect()).collect()
}

fn pairs(baskets: &[BTreeSet<String>]) -> Vec<String> {
    let with = |wanted: &[&String]| {
        baskets.iter().filter(|b| wanted.iter().all(|product| b.contains(*product))).count()
    };
    let all = baskets.iter().filter(|basket| !basket.is_empty()).count();
    let products: BTreeSet<&String> = baskets.iter().flatten().collect();
    let mut found = Vec::new();
    for product in &products {
        let mut partners: Vec<_> = products
            .iter()
            .filter(|other| *other != product)
            .map(|other| (with(&[*product, *other]), with(&[*other]), *other))
            .filter(|(together, _, _)| *together >= 2)
            .collect();
        // Of equally many together, the rarer partner has the higher lift.
        partners.sort_by_key(|(together, own, other)| (usize::MAX - together, *own, *other));
        for (at, (together, own, other)) in partners.iter().enumerate() {
            found.push(format!(
                "{product}|{other}|{}|{together}|{}|{own}|{all}",
                at + 1,
                with(&[*product])
            ));
        }
    }
    found
}
