//! A shop's databases as a list of writes, exports of them, and what the tables must
//! hold: worked out from the writes, and from what the exports said, the slow way.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clickmill_schemas::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::formats::{Dynamo, change, parquet};
use crate::shop::Shop;

/// How many runs a history is spread over.
pub const RUNS: usize = 3;
/// Writes happen on these minutes; exports are cut half a minute later.
const MINUTES: i64 = 12;
/// 2026-03-10T00:00:00Z.
const START: i64 = 1_773_100_800_000_000;
const MINUTE: i64 = 60_000_000;

pub const SOURCES: &str = r#"
[dynamo]
kind = "dynamodb-export"
path = "FOLDER/dynamodb"
[dynamo.orders]
[dynamo.order_items]
table = "lines"
[dynamo.products]
[csv]
kind = "dms"
path = "FOLDER/csv"
time_column = "committed"
[csv.customers]
table = "public.customers"
names = ["committed", "customer_id", "city"]
[csv.products]
table = "public.products"
names = ["committed", "product_id", "price"]
[csv.products.columns]
active = { constant = "true" }
[parquet]
kind = "dms"
path = "FOLDER/parquet"
[parquet.carts]
"#;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Of {
    Orders,
    Lines,
    Products,
    Customers,
    Carts,
    /// Products again, by change capture.
    Catalog,
}

const DYNAMO: [Of; 3] = [Of::Orders, Of::Lines, Of::Products];
const ALL: [Of; 6] = [Of::Orders, Of::Lines, Of::Products, Of::Customers, Of::Carts, Of::Catalog];

/// A row's key and part.
type Key = (usize, usize);

/// At a minute a row got this value, or went.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    of: Of,
    minute: i64,
    key: Key,
    value: Option<u8>,
}

/// One file or export, and the run before which it comes.
#[derive(Clone, Debug)]
pub enum Part {
    /// All rows as of half past this minute.
    Full { of: Of, minute: i64 },
    /// What was written after half past the one minute, up to half past the other.
    Window { of: Of, from: i64, to: i64, images: bool },
}

#[derive(Clone, Debug)]
pub struct History {
    writes: Vec<Write>,
    /// Each with the run that sees it first.
    parts: Vec<(usize, Part)>,
}

pub fn histories() -> impl Strategy<Value = History> {
    let write =
        (0..6_usize, 0..MINUTES, 0..3_usize, 1..3_usize, prop::option::weighted(0.7, 0..3_u8));
    let full = (0..RUNS, 0..3_usize, 0..MINUTES);
    let window = (0..RUNS, 0..3_usize, -1..MINUTES, 1..MINUTES, any::<bool>());
    // Where changes begin, after which minute the load is, and the run of every file.
    let capture = (-1..MINUTES / 2, 0..MINUTES / 2, prop::collection::vec((0..RUNS, 1..5_i64), 12));
    (
        prop::collection::vec(write, 4..40),
        prop::collection::vec(full, 0..6),
        prop::collection::vec(window, 0..10),
        (capture.clone(), capture.clone(), capture),
    )
        .prop_map(|(writes, fulls, windows, captures)| {
            let mut last = BTreeMap::new();
            for (of, minute, key, part, value) in writes {
                let of = ALL[of];
                let part = if of == Of::Lines { part } else { 0 };
                last.insert((minute, of, (key, part)), value);
            }
            let write = |((minute, of, key), value)| Write { of, minute, key, value };
            let mut parts = Vec::new();
            for (run, of, minute) in fulls {
                parts.push((run, Part::Full { of: DYNAMO[of], minute }));
            }
            for (run, of, from, minutes, images) in windows {
                let to = (from + minutes).min(MINUTES);
                parts.push((run, Part::Window { of: DYNAMO[of], from, to, images }));
            }
            for (of, (begins, after, files)) in
                [(Of::Customers, captures.0), (Of::Carts, captures.1), (Of::Catalog, captures.2)]
            {
                let load = (begins + after).min(MINUTES - 1);
                parts.push((files[0].0, Part::Full { of, minute: load }));
                let mut from = begins;
                for (run, minutes) in &files[1..] {
                    if from >= MINUTES {
                        break;
                    }
                    let to = (from + minutes).min(MINUTES);
                    parts.push((*run, Part::Window { of, from, to, images: false }));
                    // After a restart a task begins a little before where it ended.
                    from = if minutes % 2 == 0 && to < MINUTES { to - 1 } else { to };
                }
            }
            History { writes: last.into_iter().map(write).collect(), parts }
        })
}

fn at(minute: i64) -> Timestamp {
    Timestamp::from_micros(START + minute * MINUTE).unwrap()
}

fn half_past(minute: i64) -> Timestamp {
    Timestamp::from_micros(START + minute * MINUTE + MINUTE / 2).unwrap()
}

/// What one export said of one row.
#[derive(Clone, Debug)]
struct Said {
    /// Loads stand below all.
    rank: (bool, Timestamp),
    by: String,
    at: Timestamp,
    value: Option<u8>,
}

impl History {
    fn rows_at(&self, of: Of, minute: i64) -> BTreeMap<Key, u8> {
        let mut rows = BTreeMap::new();
        for write in self.writes.iter().filter(|w| w.of == of && w.minute <= minute) {
            match write.value {
                Some(value) => rows.insert(write.key, value),
                None => rows.remove(&write.key),
            };
        }
        rows
    }

    fn writes_in(&self, of: Of, from: i64, to: i64) -> Vec<Write> {
        let inside = |w: &&Write| w.of == of && w.minute > from && w.minute <= to;
        self.writes.iter().filter(inside).copied().collect()
    }

    /// Every row's last write in a window.
    fn last_in(&self, of: Of, from: i64, to: i64) -> Vec<Write> {
        let writes = self.writes_in(of, from, to).into_iter();
        writes.map(|write| (write.key, write)).collect::<BTreeMap<_, _>>().into_values().collect()
    }

    /// Writes what comes before a run; `None`: all of it.
    pub fn export(&self, shop: &Shop, run: Option<usize>) {
        let comes = |of: usize| run.is_none_or(|run| run == of);
        for (number, (_, part)) in self.parts.iter().enumerate().filter(|(_, (of, _))| comes(*of)) {
            match part {
                Part::Full { of, minute } if DYNAMO.contains(of) => {
                    self.dynamo_full(shop, number, *of, *minute);
                }
                Part::Full { of, minute } => self.load(shop, *of, *minute),
                Part::Window { of, from, to, images } if DYNAMO.contains(of) => {
                    self.dynamo_window(shop, number, *of, (*from, *to), *images);
                }
                Part::Window { of, from, to, .. } => self.changes(shop, number, *of, *from, *to),
            }
        }
    }

    fn dynamo_full(&self, shop: &Shop, number: usize, of: Of, minute: i64) {
        let item = |(key, value)| json!({"Item": image(of, key, value)});
        let items = self.rows_at(of, minute).into_iter().map(item).collect();
        let (id, table) = (export_id(number), table_of(of));
        let times = (half_past(minute), None);
        Dynamo { id: &id, table, files: vec![items, vec![]], times, view: "" }.write(shop);
    }

    fn dynamo_window(&self, shop: &Shop, number: usize, of: Of, span: (i64, i64), images: bool) {
        let before = self.rows_at(of, span.0);
        let line = |write: &Write| {
            let new = write.value.map(|value| image(of, write.key, value));
            let old = before.get(&write.key).map(|value| image(of, write.key, *value));
            change(keys(of, write.key), at(write.minute), new, old.filter(|_| images))
        };
        let lines: Vec<Value> = self.last_in(of, span.0, span.1).iter().map(line).collect();
        let (id, table) = (export_id(number), table_of(of));
        let times = (half_past(span.0), Some(half_past(span.1)));
        let view = if images { "NEW_AND_OLD_IMAGES" } else { "NEW_IMAGE" };
        // A file in the shared folder that no manifest names.
        shop.write("dynamodb/AWSDynamoDB/data/foreign.json.gz", "not even gz");
        let (first, rest) = lines.split_at(lines.len() / 2);
        let files = vec![first.to_vec(), rest.to_vec()];
        Dynamo { id: &id, table, files, times, view }.write(shop);
    }

    fn load(&self, shop: &Shop, of: Of, minute: i64) {
        let rows = self.rows_at(of, minute);
        let (first, rest): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(key, _)| key.0 == 1);
        for (number, rows) in [(9, first), (10, rest)] {
            if of != Of::Carts {
                let line = |(key, value): &(Key, u8)| {
                    csv_row(of, &sql_time(half_past(minute)), *key, Some(*value))
                };
                let text: String = rows.iter().map(line).collect();
                shop.write(&format!("csv/public/{}/LOAD{number:08X}.csv", table_of(of)), text);
            } else {
                let names = ["cart_id", "updated_at", "items"];
                let row = |(key, value): &(Key, u8)| cart(*key, *value);
                let rows: Vec<_> = rows.iter().map(row).collect();
                let bytes = parquet(&names, &rows);
                shop.write(&format!("parquet/shop/carts/LOAD{number:08X}.parquet"), bytes);
            }
        }
    }

    /// All writes of a window. The name's time is that at which the file was cut, and
    /// its last digits tell files of one time apart.
    fn changes(&self, shop: &Shop, number: usize, of: Of, from: i64, to: i64) {
        let writes = self.writes_in(of, from, to);
        let name = file_of_changes(number, to);
        if of != Of::Carts {
            let mut text = String::new();
            for write in &writes {
                let op = if write.value.is_none() { "D" } else { "U" };
                let row = csv_row(of, &sql_time(at(write.minute)), write.key, write.value);
                let _ = write!(text, "{op},{row}");
            }
            shop.write(&format!("csv/public/{}/{name}.csv", table_of(of)), text);
        } else {
            let row = |write: &Write| {
                let op = if write.value.is_none() { "D" } else { "I" };
                let mut row = vec![Some(op.to_owned())];
                // A delete carries the row as it was, in part.
                row.extend(cart(write.key, write.value.unwrap_or(0)));
                row
            };
            let rows: Vec<_> = writes.iter().map(row).collect();
            let bytes = parquet(&["Op", "cart_id", "updated_at", "items"], &rows);
            shop.write(&format!("parquet/shop/carts/2026/03/10/{name}.parquet"), bytes);
        }
    }

    /// What all exports say of each row, and for lines the exports that have the order.
    fn said(&self, of: Of) -> (BTreeMap<Key, Vec<Said>>, BTreeMap<usize, Vec<Said>>) {
        let mut said: BTreeMap<Key, Vec<Said>> = BTreeMap::new();
        let mut wholes: BTreeMap<usize, Vec<Said>> = BTreeMap::new();
        for (number, (_, part)) in self.parts.iter().enumerate() {
            match part {
                Part::Full { of: part, minute } if *part == of => {
                    let is_load = !DYNAMO.contains(&of);
                    let time = half_past(*minute);
                    let rank = if is_load { (false, at(0)) } else { (true, time) };
                    for (key, value) in self.rows_at(of, *minute) {
                        let row =
                            Said { rank, by: export_id(number), at: time, value: Some(value) };
                        wholes.entry(key.0).or_default().push(row.clone());
                        said.entry(key).or_default().push(row);
                    }
                }
                Part::Window { of: part, from, to, .. } if *part == of => {
                    let writes = match DYNAMO.contains(&of) {
                        true => self.last_in(of, *from, *to),
                        false => self.writes_in(of, *from, *to),
                    };
                    for (place, write) in writes.iter().enumerate() {
                        // Carts have no commit times: the file's counts, then the place.
                        let (time, by) = match of {
                            Of::Carts => (
                                file_time(number, *to),
                                format!("{}{place:04}", file_of_changes(number, *to)),
                            ),
                            Of::Customers | Of::Catalog => {
                                (at(write.minute), file_of_changes(number, *to))
                            }
                            _ => (at(write.minute), export_id(number)),
                        };
                        let row = Said { rank: (true, time), by, at: time, value: write.value };
                        said.entry(write.key).or_default().push(row);
                    }
                }
                _ => {}
            }
        }
        (said, wholes)
    }

    /// The rows that the newest statements leave, with the time of each value's first.
    fn newest(&self, of: Of) -> BTreeMap<Key, (u8, Timestamp)> {
        let (said, wholes) = self.said(of);
        let order = |said: &&Said| (said.rank, said.by.clone());
        let mut rows = BTreeMap::new();
        for (key, said) in &said {
            let newest = said.iter().max_by_key(order).unwrap();
            let Some(value) = newest.value else { continue };
            if of == Of::Lines
                && let Some(whole) = wholes.get(&key.0).and_then(|all| all.iter().max_by_key(order))
                && (newest.rank, &newest.by) < (whole.rank, &whole.by)
            {
                continue;
            }
            let same = said.iter().filter(|said| said.value == Some(value));
            rows.insert(*key, (value, same.map(|said| said.at).min().unwrap()));
        }
        rows
    }

    /// The rows of `SELECT * FROM` each table as text, sorted, as the exports say.
    pub fn expected(&self) -> BTreeMap<&'static str, Vec<String>> {
        let mut tables = BTreeMap::new();
        let orders = self.newest(Of::Orders);
        let row = |(key, (value, first)): (&Key, &(u8, Timestamp))| {
            let day = at(0).date();
            format!("o{}|{}|{value}.5000|{}|{day}", key.0, short(at(0)), short(*first))
        };
        tables.insert("orders", orders.iter().map(row).collect::<Vec<_>>());
        let row = |(key, (value, first)): (&Key, &(u8, Timestamp))| {
            let known = orders.contains_key(&(key.0, 0));
            let day = if known { at(0).date().to_string() } else { "1970-01-01".to_owned() };
            format!("o{}|{}|{value}|{}|{day}", key.0, key.1, short(*first))
        };
        tables.insert("order_items", self.newest(Of::Lines).iter().map(row).collect());
        let row = |(key, (value, first)): (&Key, &(u8, Timestamp))| {
            format!("c{}|city{value}|{}", key.0, short(*first))
        };
        tables.insert("customers", self.newest(Of::Customers).iter().map(row).collect());
        let row = |(key, (value, first)): (&Key, &(u8, Timestamp))| {
            format!("k{}|[{value}]|{}|{}", key.0, short(*first), at(0).date())
        };
        // The time of a load without a time column is that of its file: not compared.
        let carts = self.newest(Of::Carts);
        tables.insert("carts", carts.iter().map(row).map(|row| without(&row, 2)).collect());
        let mut products = self.products(Of::Products);
        products.extend(self.products(Of::Catalog));
        tables.insert("products", products);
        for rows in tables.values_mut() {
            rows.sort();
        }
        tables
    }

    /// Every product's periods.
    fn products(&self, of: Of) -> Vec<String> {
        let letter = if of == Of::Products { 'p' } else { 'q' };
        let mut rows = Vec::new();
        for (key, mut said) in self.said(of).0 {
            said.sort_by_key(|said| (said.rank, said.by.clone()));
            // What a load says ends with the first change, and was true before it at most.
            let first_change = said.iter().filter(|said| said.rank.0).map(|said| said.at).min();
            // (price, active) since when.
            let mut told: Vec<((u8, bool), Timestamp)> = Vec::new();
            for said in said {
                let since = match first_change {
                    Some(first) if !said.rank.0 => said.at.min(first),
                    _ => said.at,
                };
                let state = match (said.value, told.last()) {
                    (Some(price), _) => (price, true),
                    (None, Some(((price, _), _))) => (*price, false),
                    (None, None) => continue,
                };
                told.push((state, since));
            }
            // Of one instant the last counts, and what says the same goes on.
            let mut periods: Vec<((u8, bool), Timestamp)> = Vec::new();
            for (number, (state, since)) in told.iter().enumerate() {
                let is_last = told.get(number + 1).is_none_or(|(_, next)| next != since);
                if is_last && periods.last().is_none_or(|(before, _)| before != state) {
                    periods.push((*state, *since));
                }
            }
            for (number, ((price, active), from)) in periods.iter().enumerate() {
                let to = periods.get(number + 1).map_or("-".to_owned(), |(_, to)| short(*to));
                let first = number == 0;
                rows.push(format!(
                    "{letter}{}|{price}.5000|{active}|{}|{to}|{first}",
                    key.0,
                    short(*from)
                ));
            }
        }
        rows
    }

    /// The kinds of rows of which the exports leave nothing out, with what the databases
    /// hold in the end. A full export does not say what is gone: so every minute must lie
    /// in a window, from the first full export on, and from the first window on.
    pub fn truth(&self) -> Vec<(Of, BTreeMap<Key, u8>)> {
        let whole = |of: &Of| {
            let of_kind = || self.parts.iter().map(|(_, part)| part);
            let fulls = of_kind().filter_map(|part| match part {
                Part::Full { of: part, minute } if part == of => Some(*minute),
                _ => None,
            });
            let windows: Vec<(i64, i64)> = of_kind()
                .filter_map(|part| match part {
                    Part::Window { of: part, from, to, .. } if part == of => Some((*from, *to)),
                    _ => None,
                })
                .collect();
            let Some(full) = fulls.min() else { return false };
            let begins = windows.iter().map(|(from, _)| *from).chain([full]).min().unwrap_or(full);
            (begins + 1..MINUTES)
                .all(|minute| windows.iter().any(|(from, to)| *from < minute && minute <= *to))
        };
        let complete = ALL.into_iter().filter(whole);
        complete.map(|of| (of, self.rows_at(of, MINUTES))).collect()
    }

    /// The values that the newest statements leave.
    pub fn values(&self, of: Of) -> BTreeMap<Key, u8> {
        self.newest(of).into_iter().map(|(key, (value, _))| (key, value)).collect()
    }
}

/// The query of each table, in the columns of [`History::expected`].
pub const QUERIES: [(&str, &str); 5] = [
    ("orders", "SELECT order_id, ordered_at, total, exported_at, dt FROM orders"),
    ("order_items", "SELECT order_id, line, quantity, exported_at, dt FROM order_items"),
    ("customers", "SELECT customer_id, city, exported_at FROM customers"),
    ("carts", "SELECT cart_id, items, dt FROM carts"),
    ("products", "SELECT product_id, price, active, valid_from, valid_to, is_first FROM products"),
];

/// Ids sort as numbers do.
fn export_id(number: usize) -> String {
    format!("{number:08}-abcdef")
}

fn file_time(number: usize, to: i64) -> Timestamp {
    Timestamp::from_micros(half_past(to).micros() + number as i64 * 1_000).unwrap()
}

fn file_of_changes(number: usize, to: i64) -> String {
    let text = file_time(number, to).to_string();
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    format!("{}-{}", &digits[..8], &digits[8..17])
}

const fn table_of(of: Of) -> &'static str {
    match of {
        Of::Lines => "lines",
        Of::Orders => "orders",
        Of::Customers => "customers",
        Of::Carts => "carts",
        Of::Products | Of::Catalog => "products",
    }
}

fn keys(of: Of, key: Key) -> Value {
    match of {
        Of::Lines => {
            json!({"order_id": {"S": format!("o{}", key.0)}, "line": {"N": key.1.to_string()}})
        }
        Of::Products => json!({"product_id": {"S": format!("p{}", key.0)}}),
        _ => json!({"order_id": {"S": format!("o{}", key.0)}}),
    }
}

fn image(of: Of, key: Key, value: u8) -> Value {
    let mut image = keys(of, key);
    match of {
        Of::Lines => image["quantity"] = json!({"N": value.to_string()}),
        Of::Products => {
            image["price"] = json!({"N": format!("{value}.5")});
            image["active"] = json!({"BOOL": true});
        }
        _ => {
            image["total"] = json!({"N": format!("{value}.50")});
            image["ordered_at"] = json!({"S": at(0).to_string()});
        }
    }
    image
}

/// A line of a CSV by change capture, behind its operation.
fn csv_row(of: Of, time: &str, key: Key, value: Option<u8>) -> String {
    let (letter, value) = match of {
        Of::Customers => ('c', value.map(|value| format!("city{value}"))),
        _ => ('q', value.map(|value| format!("{value}.5"))),
    };
    format!("{time},{letter}{},{}\n", key.0, value.as_deref().unwrap_or("NULL"))
}

fn cart(key: Key, value: u8) -> Vec<Option<String>> {
    vec![Some(format!("k{}", key.0)), Some(sql_time(at(0))), Some(format!("[{value}]"))]
}

/// `2026-03-10 00:00:00.000000`.
fn sql_time(at: Timestamp) -> String {
    at.to_string().replace('T', " ").trim_end_matches('Z').to_owned()
}

/// A time of whole seconds as a query's text shows it.
fn short(at: Timestamp) -> String {
    format!("{}Z", &at.to_string()[..19])
}

fn without(row: &str, at: usize) -> String {
    let parts: Vec<&str> = row.split('|').collect();
    let kept = parts.iter().enumerate().filter(|(number, _)| *number != at).map(|(_, part)| *part);
    kept.collect::<Vec<_>>().join("|")
}
