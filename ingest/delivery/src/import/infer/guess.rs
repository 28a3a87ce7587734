//! From a sample to what each column is. Pure.

use std::collections::BTreeMap;

use clickmill_schemas::values::{MoneyFormat, TimeFormat, parse_integer, strip_zero_fraction};

use super::super::config::{Field, ItemField};
use super::sample::{Column, Sample};
use super::words::{Role, event_of, role_of};

/// A column with more distinct values holds no event names.
const MAX_EVENT_NAMES: usize = 100;
/// Of a column's values that must fit a format: nineteen of twenty.
const FIT: (usize, usize) = (19, 20);
/// Epoch seconds of the years 2000 to 2035: other numbers are no times.
const EPOCH_SECONDS: std::ops::Range<i64> = 946_684_800..2_051_222_400;
/// Patterns that are tried, the likelier first. Where two fit (day and month) both are told.
const PATTERNS: &[&str] = &[
    "rfc3339",
    "%Y-%m-%d %H:%M:%S UTC",
    "%Y-%m-%d %H:%M:%S%.f UTC",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d %H:%M:%S%.f %z",
    "%Y-%m-%dT%H:%M:%S%.f%z",
    "%Y/%m/%d %H:%M:%S",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y %I:%M %p",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d-%m-%Y %H:%M:%S",
    "%d-%m-%Y %H:%M",
    "%Y-%m-%d",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d.%m.%Y",
];

/// What the columns are taken for.
#[derive(Default)]
pub(super) struct Guess {
    pub time: Option<TimeGuess>,
    pub event_name: Option<EventNameGuess>,
    pub event_id: Option<String>,
    pub fields: Vec<(Field, SourceGuess)>,
    pub item: Vec<(ItemField, SourceGuess)>,
    pub private: Vec<String>,
    pub nested: Vec<String>,
}

pub(super) struct TimeGuess {
    pub column: String,
    /// None for a Parquet timestamp.
    pub format: Option<&'static str>,
    /// Another format that fits as well.
    pub or: Option<&'static str>,
    /// Values carry no zone.
    pub local: bool,
}

pub(super) struct EventNameGuess {
    pub column: String,
    /// Shop's name, canonical name, rows; most frequent first.
    pub names: Vec<(String, Option<&'static str>, usize)>,
}

pub(super) struct SourceGuess {
    pub column: String,
    pub strip_zero_fraction: bool,
    /// Inline TOML of a money format other than the default.
    pub money: Option<&'static str>,
    /// The guess rests on the column's place only.
    pub by_place: bool,
    /// Values do not fit the type, so that it can only be proposed.
    pub unfit: bool,
}

pub(super) fn guess(sample: &Sample) -> Guess {
    let mut taken = vec![false; sample.columns.len()];
    let mut guess = Guess::default();
    // The best-named column of each role first.
    let mut named: Vec<(usize, Role, usize)> = sample
        .columns
        .iter()
        .enumerate()
        .filter_map(|(at, column)| role_of(&column.name).map(|(role, rank)| (rank, role, at)))
        .collect();
    named.sort_by_key(|(rank, _, at)| (*rank, *at));

    for (_, role, at) in named {
        let column = &sample.columns[at];
        if column.nested {
            continue;
        }
        let took = match role {
            Role::Time => guess.time.is_none() && set_time(&mut guess, column),
            Role::EventName => guess.event_name.is_none() && set_event_name(&mut guess, column),
            Role::EventId => {
                let unique = distinct(column).len() == column.values.len();
                let full = column.values.len() == sample.rows && guess.event_id.is_none();
                if unique && full {
                    guess.event_id = Some(column.name.clone());
                }
                unique && full
            }
            Role::Event(field) => {
                let free = !guess.fields.iter().any(|(f, _)| *f == field);
                free && push(&mut guess.fields, field, source(column, is_money(field)))
            }
            Role::Item(field) => {
                let free = !guess.item.iter().any(|(f, _)| *f == field);
                free && push(&mut guess.item, field, item_source(column, field))
            }
            Role::Private => push_name(&mut guess.private, column),
        };
        taken[at] |= took;
    }
    by_content(sample, &mut taken, &mut guess);
    for column in sample.columns.iter().filter(|c| c.nested) {
        guess.nested.push(column.name.clone());
    }
    guess
}

/// What names did not tell: times and event names by their values; in a file
/// without a header, ids by their place.
fn by_content(sample: &Sample, taken: &mut [bool], guess: &mut Guess) {
    for (at, column) in sample.columns.iter().enumerate() {
        if taken[at] || column.nested || column.values.is_empty() {
            continue;
        }
        if guess.event_name.is_none() && looks_like_events(column) {
            taken[at] = set_event_name(guess, column);
        } else if guess.time.is_none() {
            taken[at] = set_time(guess, column);
        }
    }
    if sample.has_header {
        return;
    }
    let mut places = sample
        .columns
        .iter()
        .enumerate()
        .filter(|(at, column)| !taken[*at] && !column.values.is_empty())
        .map(|(_, column)| SourceGuess { by_place: true, ..source(column, IsMoney::No) });
    if let Some(user) = places.next() {
        guess.fields.push((Field::UserId, user));
    }
    if let Some(product) = places.next() {
        guess.item.push((ItemField::ProductId, product));
    }
    if let Some(category) = places.next() {
        guess.item.push((ItemField::Category, category));
    }
}

fn set_time(guess: &mut Guess, column: &Column) -> bool {
    let found = match column.timestamp {
        Some(zone) => Some((None, None, !zone)),
        None => time_format(&column.values).map(|(format, or)| {
            (Some(format), or, !format.starts_with("epoch") && is_local(format))
        }),
    };
    let Some((format, or, local)) = found else { return false };
    guess.time = Some(TimeGuess { column: column.name.clone(), format, or, local });
    true
}

fn is_local(format: &str) -> bool {
    format != "rfc3339" && !format.contains("%z") && !format.ends_with("UTC")
}

fn set_event_name(guess: &mut Guess, column: &Column) -> bool {
    let counts = distinct(column);
    if counts.is_empty() || counts.len() > MAX_EVENT_NAMES {
        return false;
    }
    let mut names: Vec<_> =
        counts.into_iter().map(|(name, rows)| (name.to_owned(), event_of(name), rows)).collect();
    names.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| a.0.cmp(&b.0)));
    guess.event_name = Some(EventNameGuess { column: column.name.clone(), names });
    true
}

fn looks_like_events(column: &Column) -> bool {
    let counts = distinct(column);
    let known = counts.keys().filter(|name| event_of(name).is_some()).count();
    counts.len() <= MAX_EVENT_NAMES && known > 0 && known * 2 >= counts.len()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum IsMoney {
    Yes,
    No,
}

fn is_money(field: Field) -> IsMoney {
    match field.kind() {
        super::super::config::FieldKind::Money => IsMoney::Yes,
        _ => IsMoney::No,
    }
}

fn item_source(column: &Column, field: ItemField) -> SourceGuess {
    match field {
        ItemField::Price => source(column, IsMoney::Yes),
        ItemField::Quantity => SourceGuess {
            unfit: !fits(&column.values, |v| parse_integer(v).is_ok()),
            strip_zero_fraction: false,
            ..source(column, IsMoney::No)
        },
        _ => source(column, IsMoney::No),
    }
}

fn source(column: &Column, money: IsMoney) -> SourceGuess {
    let mut source = SourceGuess {
        column: column.name.clone(),
        strip_zero_fraction: false,
        money: None,
        by_place: false,
        unfit: false,
    };
    if money == IsMoney::Yes {
        match money_format(&column.values) {
            Some(format) => source.money = format,
            None => source.unfit = true,
        }
    } else {
        source.strip_zero_fraction = !column.values.is_empty()
            && column.values.iter().all(|v| strip_zero_fraction(v).len() < v.len());
    }
    source
}

/// The simplest money format that fits: `Some(None)` is the default.
fn money_format(values: &[String]) -> Option<Option<&'static str>> {
    let with = |decimal, thousands| MoneyFormat::new(decimal, Some(thousands)).ok();
    let candidates = [
        (None, Some(MoneyFormat::default())),
        (Some("{ thousands = \",\" }"), with('.', ',')),
        (Some("{ decimal = \",\" }"), MoneyFormat::new(',', None).ok()),
        (Some("{ decimal = \",\", thousands = \".\" }"), with(',', '.')),
        (Some("{ decimal = \",\", thousands = \" \" }"), with(',', ' ')),
        (Some("{ round = true }"), Some(MoneyFormat::default().rounding())),
    ];
    candidates
        .into_iter()
        .find(|(_, format)| format.as_ref().is_some_and(|f| fits(values, |v| f.read(v).is_ok())))
        .map(|(text, _)| text)
}

/// The first format that fits, and another one that would as well.
pub(super) fn time_format(values: &[String]) -> Option<(&'static str, Option<&'static str>)> {
    if values.is_empty() {
        return None;
    }
    let epoch_of = |value: &String| -> Option<&'static str> {
        let number = parse_integer(value).ok()?;
        [("epoch_s", 1), ("epoch_ms", 1_000), ("epoch_us", 1_000_000)]
            .into_iter()
            .find(|(_, scale)| EPOCH_SECONDS.contains(&(number / scale)))
            .map(|(format, _)| format)
    };
    if let Some(epoch) = values.first().and_then(epoch_of) {
        return fits(values, |v| epoch_of(&v.to_owned()) == Some(epoch)).then_some((epoch, None));
    }
    let mut fitting = PATTERNS.iter().copied().filter(|pattern| {
        TimeFormat::new(pattern, None)
            .is_ok_and(|format| fits(values, |value| format.read(value).is_ok()))
    });
    let first = fitting.next()?;
    let swapped = |a: &str, b: &str| a.starts_with("%d") != b.starts_with("%d");
    Some((first, fitting.find(|other| swapped(first, other))))
}

fn fits(values: &[String], test: impl Fn(&str) -> bool) -> bool {
    values.iter().filter(|v| test(v)).count() * FIT.1 >= values.len() * FIT.0
}

fn distinct(column: &Column) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for value in &column.values {
        *counts.entry(value.as_str()).or_insert(0) += 1;
    }
    counts
}

/// The value that occurs most.
pub(super) fn most_frequent(values: &[usize]) -> Option<usize> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(*value).or_insert(0_usize) += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(value, _)| value)
}

fn push<F>(to: &mut Vec<(F, SourceGuess)>, field: F, source: SourceGuess) -> bool {
    to.push((field, source));
    true
}

fn push_name(to: &mut Vec<String>, column: &Column) -> bool {
    to.push(column.name.clone());
    true
}
