//! Who is who and what led to an order, the slow way: by looking at the whole
//! graph again at every instant at which something is learnt.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use super::history::{Exports, MINUTE, START};
use super::reference::{
    DAY, Placed, Sessions, bought, day, is_bot, last_channel, orders, purchases, text,
};

/// How they are read to be compared.
pub const QUERIES: &[(&str, &str)] = &[
    (
        "identity_links",
        "SELECT visitor_id, method, identifier, CAST(first_seen AS BIGINT), events, dt \
         FROM identity_links",
    ),
    (
        "identity_map",
        "SELECT visitor_id, customer_id, status, method, CAST(valid_from AS BIGINT), \
         CAST(valid_to AS BIGINT), is_primary, person_id FROM identity_map",
    ),
    (
        "attribution",
        "SELECT a.order_id, a.model, a.touch, a.touches, a.customer_id, a.visitor_id, \
         f.event_id AS first, a.channel, a.credit, a.revenue, a.dt FROM attribution a LEFT JOIN \
         (SELECT session_id, event_id FROM events WHERE session_seq = 1) f \
         ON a.session_id = f.session_id",
    ),
];

/// More customers than this on one visitor make it a shared device.
const MOST_CUSTOMERS: usize = 3;
/// A session without any of these, in which nothing was bought, is no touch.
const MOVES: [&str; 5] = ["page_view", "product_view", "search", "add_to_cart", "begin_checkout"];
const METHODS: [&str; 3] = ["login", "order", "email"];

/// (visitor, customer) with (from, to).
pub type Period = ((String, String), (i64, Option<i64>));

pub fn tables(
    placed: &[Placed<'_>],
    sessions: &Sessions<'_>,
    exports: &Exports,
) -> BTreeMap<&'static str, Vec<String>> {
    let signs = signs(placed, exports);
    let people = People::of(&signs, exports);
    let periods = people.periods();
    BTreeMap::from([
        ("identity_links", sign_rows(&signs)),
        ("identity_map", people.rows(&periods)),
        ("attribution", attribution(placed, sessions, exports, &people, &periods)),
    ])
}

/// Of each visitor the first customer that it is in the end, be it linked itself or joined.
pub fn owners(placed: &[Placed<'_>], exports: &Exports) -> BTreeMap<String, String> {
    let people = People::of(&signs(placed, exports), exports);
    let mut best: BTreeMap<String, (i64, bool, String)> = BTreeMap::new();
    for (pair, (from, to)) in people.periods() {
        if to.is_none() {
            let rank = (from, people.method(&pair).is_none(), pair.1);
            let known = best.entry(pair.0).or_insert_with(|| rank.clone());
            *known = rank.min(known.clone());
        }
    }
    best.into_iter().map(|(visitor, (_, _, customer))| (visitor, customer)).collect()
}

/// (visitor, method, identifier, day) -> (first time, how often).
type Signs = BTreeMap<(String, usize, String, String), (i64, i64)>;

fn signs(placed: &[Placed<'_>], exports: &Exports) -> Signs {
    let mut signs = Signs::new();
    let mut add = |visitor: &str, method, identifier: &str, on: String, at: i64| {
        let key = (visitor.to_owned(), method, identifier.to_owned(), on);
        let sign = signs.entry(key).or_insert((at, 0));
        *sign = (sign.0.min(at), sign.1 + 1);
    };
    for event in placed.iter().map(|row| row.event).filter(|event| !is_bot(event)) {
        let Some(visitor) = event.visitor_id() else { continue };
        let at = event.event_ts();
        if let Some(user) = event.user_id.as_deref() {
            add(visitor, 0, user, at.date().to_string(), at.micros());
        }
        if let Some(sent) = &event.properties {
            let sent: serde_json::Value = serde_json::from_str(sent.get()).expect("JSON");
            if let Some(hash) = sent["traits"]["email_hash"].as_str() {
                add(visitor, 2, hash, at.date().to_string(), at.micros());
            }
        }
    }
    let purchases = purchases(placed);
    for row in orders(exports).into_values() {
        let event = bought(&purchases, row).map(|row| row.event);
        let visitor =
            event.and_then(|event| Some((event.visitor_id()?, event.event_ts().micros())));
        if let (Some((visitor, at)), Some(customer)) = (visitor, row.customer) {
            add(visitor, 1, &format!("c{customer}"), day(row.day).to_string(), at);
        }
    }
    signs
}

fn sign_rows(signs: &Signs) -> Vec<String> {
    let mut rows = Vec::new();
    for ((visitor, method, identifier, on), (at, count)) in signs {
        rows.push(format!("{visitor}|{}|{identifier}|{at}|{count}|{on}", METHODS[*method]));
    }
    rows
}

struct People {
    /// (time, visitor, customer, method)
    links: Vec<(i64, String, String, usize)>,
    /// Visitors that are shared devices, from when on, and by which customer.
    shared: BTreeMap<String, (i64, String)>,
}

impl People {
    fn of(signs: &Signs, exports: &Exports) -> Self {
        let mut hashes: BTreeMap<usize, usize> = BTreeMap::new();
        for (_, rows) in &exports.customers {
            hashes.extend(rows.iter().copied());
        }
        let mut links = Vec::new();
        for ((visitor, method, identifier, _), (at, _)) in signs {
            if *method == 2 {
                for (customer, hash) in &hashes {
                    if *identifier == format!("h{hash}") {
                        links.push((*at, visitor.clone(), format!("c{customer}"), *method));
                    }
                }
            } else {
                links.push((*at, visitor.clone(), identifier.clone(), *method));
            }
        }
        links.sort();
        let mut known: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut shared = BTreeMap::new();
        for (at, visitor, customer, _) in &links {
            let customers = known.entry(visitor).or_default();
            if !customers.contains(&customer.as_str()) {
                customers.push(customer);
                if customers.len() == MOST_CUSTOMERS + 1 {
                    shared.insert(visitor.clone(), (*at, customer.clone()));
                }
            }
        }
        Self { links, shared }
    }

    /// Who is who after everything up to and including `at`.
    fn pairs(&self, at: i64) -> BTreeSet<(String, String)> {
        let is_followed = |link: &&(i64, String, String, usize)| {
            link.0 <= at && self.shared.get(&link.1).is_none_or(|(since, _)| *since > at)
        };
        let links: Vec<_> = self.links.iter().filter(is_followed).collect();
        let mut pairs = BTreeSet::new();
        for (_, start, _, _) in &links {
            let mut visitors = BTreeSet::from([start]);
            let mut customers = BTreeSet::new();
            loop {
                let before = visitors.len() + customers.len();
                for (_, visitor, customer, _) in &links {
                    if visitors.contains(visitor) || customers.contains(customer) {
                        visitors.insert(visitor);
                        customers.insert(customer);
                    }
                }
                if visitors.len() + customers.len() == before {
                    break;
                }
            }
            pairs.extend(customers.into_iter().map(|customer| (start.clone(), customer.clone())));
        }
        pairs
    }

    fn periods(&self) -> Vec<Period> {
        let instants: BTreeSet<i64> = self.links.iter().map(|link| link.0).collect();
        let mut open: BTreeMap<(String, String), i64> = BTreeMap::new();
        let mut done = Vec::new();
        for at in instants {
            let now = self.pairs(at);
            for (pair, from) in open.clone() {
                if !now.contains(&pair) {
                    open.remove(&pair);
                    done.push((pair, (from, Some(at))));
                }
            }
            for pair in now {
                open.entry(pair).or_insert(at);
            }
        }
        done.extend(open.into_iter().map(|(pair, from)| (pair, (from, None))));
        done
    }

    /// The kind of the first link between two.
    fn method(&self, (visitor, customer): &(String, String)) -> Option<usize> {
        let first = self.links.iter().find(|link| link.1 == *visitor && link.2 == *customer)?;
        let is_refused = self
            .shared
            .get(visitor)
            .is_some_and(|shared| (first.0, first.2.as_str()) >= (shared.0, shared.1.as_str()));
        (!is_refused).then_some(first.3)
    }

    fn rows(&self, periods: &[Period]) -> Vec<String> {
        let now = |visitor: &str| {
            let visitor = visitor.to_owned();
            periods.iter().filter(move |(pair, period)| pair.0 == visitor && period.1.is_none())
        };
        let rank =
            |(pair, period): &Period| (self.method(pair).is_none(), period.0, pair.1.clone());
        let mut rows: Vec<String> = periods
            .iter()
            .map(|row| {
                let ((visitor, customer), (from, to)) = row;
                let best = now(visitor).map(rank).min();
                format!(
                    "{visitor}|{customer}|linked|{}|{from}|{}|{}|{}",
                    self.method(&row.0).map_or("joined", |method| METHODS[method]),
                    text(*to),
                    to.is_none() && best == Some(rank(row)),
                    text(to.is_none().then(|| now(visitor).map(|(p, _)| &p.1).min().expect("one")))
                )
            })
            .collect();
        let shared = |(visitor, (since, _)): (&String, &(i64, String))| {
            format!("{visitor}|-|shared|-|{since}|-|false|-")
        };
        rows.extend(self.shared.iter().map(shared));
        rows
    }
}

/// A session that led to an order.
struct Step<'a> {
    started: i64,
    id: String,
    visitor: &'a str,
    first: &'a str,
    channel: &'static str,
}

fn attribution(
    placed: &[Placed<'_>],
    sessions: &Sessions<'_>,
    exports: &Exports,
    people: &People,
    periods: &[Period],
) -> Vec<String> {
    let is_shared =
        |visitor: &str, at: i64| people.shared.get(visitor).is_some_and(|(since, _)| *since <= at);
    let purchases = purchases(placed);
    let mut found = Vec::new();
    for (order, row) in orders(exports) {
        let id = format!("o{order}");
        let customer = row.customer.map(|number| format!("c{number}"));
        let ordered = START + i64::from(row.day) * DAY + 9 * 60 * MINUTE;
        let asof = ordered + 7 * DAY;
        let bought = bought(&purchases, row);
        let mut visitors: BTreeSet<&str> = periods
            .iter()
            .filter(|(pair, (from, to))| {
                Some(&pair.1) == customer.as_ref() && *from <= asof && to.is_none_or(|to| to > asof)
            })
            .map(|(pair, _)| pair.0.as_str())
            .collect();
        visitors.extend(bought.and_then(|row| row.event.visitor_id()));
        let mut steps = Vec::new();
        for ((visitor, first), rows) in sessions {
            let started = rows[0].event.event_ts().micros();
            let is_own = bought.is_some_and(|b| {
                b.event.visitor_id() == Some(visitor) && b.session.is_some_and(|s| s.0 == *first)
            });
            let is_before = started <= ordered || is_own;
            if visitors.contains(visitor)
                && is_before
                && started >= ordered - 30 * DAY
                && !rows.iter().any(|row| is_bot(row.event))
                && rows.iter().any(|row| row.buys || MOVES.contains(&row.event.event_name.as_ref()))
                && (is_own || !is_shared(visitor, asof))
            {
                let mut hash = Sha256::new();
                hash.update(visitor.as_bytes());
                hash.update([0]);
                hash.update(first.as_bytes());
                let id = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
                steps.push(Step { started, id, visitor, first, channel: last_channel(rows) });
            }
        }
        steps.sort_by(|a, b| (a.started, &a.id).cmp(&(b.started, &b.id)));
        let net = i128::from(10 * row.total - row.refunded) * 10_000;
        let mut add = |model: &str, weights: Vec<i128>| {
            let all: i128 = weights.iter().sum();
            let mut until = 0;
            for (at, weight) in weights.iter().enumerate() {
                let cut = |amount: i128| amount * (until + weight) / all - amount * until / all;
                let (credit, revenue) = (cut(10_000), cut(net));
                until += weight;
                if *weight == 0 {
                    continue;
                }
                let step = steps.get(at);
                found.push(format!(
                    "{id}|{model}|{}|{}|{}|{}|{}|{}|{}|{}|{}",
                    step.map_or(0, |_| at + 1),
                    steps.len(),
                    text(customer.as_deref()),
                    text(step.map(|step| step.visitor)),
                    text(step.map(|step| step.first)),
                    step.map_or("(none)", |step| step.channel),
                    decimal(credit),
                    decimal(revenue),
                    day(row.day)
                ));
            }
        };
        let count = steps.len().max(1);
        let only = |at: usize| -> Vec<i128> { (0..count).map(|n| i128::from(n == at)).collect() };
        let marked = steps.iter().rposition(|step| step.channel != "direct");
        add("first", only(0));
        add("last", only(count - 1));
        add("last_non_direct", only(marked.unwrap_or(count - 1)));
        add("linear", vec![1; count]);
        let ends = |n: usize| n == 0 || n == count - 1;
        let shares = |n: usize| if ends(n) { 2 * (count as i128 - 2) } else { 1 };
        add("position", if count < 3 { vec![1; count] } else { (0..count).map(shares).collect() });
        let decay = |step: &Step<'_>| {
            let weeks = (ordered - step.started).max(0) as f64 / DAY as f64 / 7.0;
            (1e9 * 0.5_f64.powf(weeks)).round() as i128
        };
        let decays: Vec<i128> = steps.iter().map(decay).collect();
        add("time_decay", if decays.is_empty() { vec![1] } else { decays });
    }
    found
}

fn decimal(amount: i128) -> String {
    format!("{}.{:04}", amount / 10_000, amount % 10_000)
}
