//! A guess as TOML with comments.

use std::fmt::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::super::config::{Field, FileFormat, ItemField};
use super::guess::{Guess, SourceGuess, TimeGuess};
use super::sample::{Column, Sample};

/// Values of a column that a comment shows.
const SHOWN_VALUES: usize = 3;
/// Longest value that a comment shows, in characters.
const SHOWN_CHARS: usize = 40;

pub(super) fn render(shown: &str, sample: &Sample, guess: &Guess) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_all(&mut out, shown, sample, guess);
    out
}

fn write_all(out: &mut String, shown: &str, sample: &Sample, guess: &Guess) -> fmt::Result {
    let name = mapping_name(shown);
    writeln!(out, "# Proposed from the first {} rows of {shown}.", sample.rows)?;
    writeln!(out, "# DECIDE: only you can know. CHECK: a guess. Then:")?;
    writeln!(out, "#   clickmill import events --mapping {name} {}", shell_word(shown))?;
    writeln!(out, "[import.{name}]")?;
    write_shape(out, sample)?;
    writeln!(out, "app_id = \"shop\"  # DECIDE: your name for this site, app or shop")?;
    write_time(out, guess.time.as_ref())?;
    match &guess.event_id {
        Some(column) => {
            writeln!(
                out,
                "event_id = {}  # CHECK: unique, and the same at each export",
                quote(column)
            )?;
        }
        None => {
            writeln!(out, "# event_id = \"...\"  # without it: from file content and row number")?
        }
    }
    if !guess.private.is_empty() {
        let names: Vec<String> = guess.private.iter().map(|n| quote(n)).collect();
        writeln!(out, "ignore = [{}]  # personal data, left out", names.join(", "))?;
    }
    if !guess.nested.is_empty() {
        writeln!(
            out,
            "# Nested, kept whole in properties; a path reaches inside, such as \"{}.id\": {}",
            guess.nested[0],
            guess.nested.join(", ")
        )?;
    }
    write_event_name(out, &name, guess)?;
    write_fields(out, &name, guess)?;
    write_item(out, &name, guess)?;
    let used = used_columns(guess);
    let rest: Vec<&str> = sample
        .columns
        .iter()
        .map(|c| c.name.as_str())
        .filter(|n| !used.contains(n) && !guess.nested.iter().any(|m| m == n))
        .collect();
    if !rest.is_empty() {
        writeln!(out, "\n# Not mapped, kept in properties: {}", rest.join(", "))?;
    }
    Ok(())
}

fn write_shape(out: &mut String, sample: &Sample) -> fmt::Result {
    let format = match sample.format {
        FileFormat::Csv => "csv",
        FileFormat::Jsonl => "jsonl",
        FileFormat::Parquet => "parquet",
    };
    writeln!(out, "format = \"{format}\"")?;
    if sample.format != FileFormat::Csv {
        return Ok(());
    }
    if sample.delimiter != b',' {
        writeln!(out, "delimiter = {}", quote(&char::from(sample.delimiter).to_string()))?;
    }
    if sample.has_header {
        return Ok(());
    }
    writeln!(out, "header = false")?;
    writeln!(out, "# CHECK: the file names no columns; rename them here and below as you like.")?;
    writeln!(out, "columns = [")?;
    for column in &sample.columns {
        writeln!(out, "  {},  # {}", quote(&column.name), examples(column))?;
    }
    writeln!(out, "]")
}

fn write_time(out: &mut String, time: Option<&TimeGuess>) -> fmt::Result {
    let Some(time) = time else {
        return writeln!(
            out,
            "event_ts = {{ column = \"DECIDE\", format = \"rfc3339\" }}  # DECIDE: no column looks like a time"
        );
    };
    let column = quote(&time.column);
    match time.format {
        None => write!(out, "event_ts = {{ column = {column} }}")?,
        Some(format) => {
            write!(out, "event_ts = {{ column = {column}, format = {} }}", quote(format))?
        }
    }
    if let Some(or) = time.or {
        return writeln!(out, "  # DECIDE: {or} fits as well; is the day first or the month?");
    }
    match (time.local, time.format) {
        (false, _) => writeln!(out),
        (true, Some(_)) => writeln!(
            out,
            "  # DECIDE: read as UTC; if it is local time add zone = \"Europe/London\" or such"
        ),
        (true, None) => writeln!(
            out,
            "  # DECIDE: read as UTC; if it is local time add format = \"%Y-%m-%d %H:%M:%S\", zone = \"...\""
        ),
    }
}

fn write_event_name(out: &mut String, name: &str, guess: &Guess) -> fmt::Result {
    let Some(events) = &guess.event_name else {
        writeln!(out, "# DECIDE: no column looks like event names, so each row becomes this one.")?;
        return writeln!(out, "event_name = {{ constant = \"page_view\" }}");
    };
    writeln!(out, "\n[import.{name}.event_name]")?;
    writeln!(out, "column = {}", quote(&events.column))?;
    writeln!(
        out,
        "unknown = \"reject\"  # or \"custom\": names that are not in the map become custom events"
    )?;
    writeln!(out, "\n[import.{name}.event_name.map]")?;
    for (sent, canonical, rows) in &events.names {
        match canonical {
            Some(canonical) => {
                writeln!(out, "{} = {}  # {rows} rows", quote(sent), quote(canonical))?;
            }
            None => writeln!(
                out,
                "# {} = \"custom\"  # DECIDE: {rows} rows, rejected until it has a name (docs/import.md lists them)",
                quote(sent)
            )?,
        }
    }
    Ok(())
}

fn write_fields(out: &mut String, name: &str, guess: &Guess) -> fmt::Result {
    writeln!(out, "\n[import.{name}.fields]")?;
    for (field, source) in &guess.fields {
        write_source(out, &key(field), source)?;
    }
    let has = |field: Field| guess.fields.iter().any(|(f, _)| *f == field);
    if !has(Field::UserId) && !has(Field::AnonymousId) && !has(Field::DeviceId) {
        writeln!(out, "# user_id = \"...\"  # DECIDE: without a visitor there are no sessions")?;
    }
    let item = |field| guess.item.iter().find(|(f, _)| *f == field).map(|(_, s)| s);
    if let Some(price) = item(ItemField::Price) {
        if !has(Field::Currency) {
            writeln!(
                out,
                "# currency = {{ constant = \"EUR\" }}  # DECIDE: the currency of all amounts"
            )?;
        }
        if !has(Field::Revenue) && !has(Field::Total) {
            let value = match item(ItemField::Quantity) {
                Some(quantity) => {
                    format!("multiply = [{}, {}]", quote(&price.column), quote(&quantity.column))
                }
                None => format!("column = {}", quote(&price.column)),
            };
            writeln!(
                out,
                "# revenue = {{ {value}, events = [\"purchase\"] }}  # DECIDE: where a purchase row is one line of goods"
            )?;
        }
    }
    Ok(())
}

fn write_item(out: &mut String, name: &str, guess: &Guess) -> fmt::Result {
    if guess.item.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n[import.{name}.item]")?;
    for (field, source) in &guess.item {
        write_source(out, &key(field), source)?;
    }
    Ok(())
}

fn write_source(out: &mut String, field: &str, source: &SourceGuess) -> fmt::Result {
    let column = quote(&source.column);
    let options = match (source.strip_zero_fraction, source.money) {
        (true, _) => Some("strip_zero_fraction = true".to_owned()),
        (false, Some(money)) => Some(format!("money = {money}")),
        (false, None) => None,
    };
    let value = match options {
        Some(options) => format!("{{ column = {column}, {options} }}"),
        None => column,
    };
    match (source.unfit, source.by_place) {
        (true, _) => writeln!(
            out,
            "# {field} = {value}  # DECIDE: its values are not all such; see docs/import.md"
        ),
        (false, true) => {
            writeln!(out, "{field} = {value}  # CHECK: guessed from the column's place alone")
        }
        (false, false) => writeln!(out, "{field} = {value}"),
    }
}

fn used_columns(guess: &Guess) -> Vec<&str> {
    let mut used: Vec<&str> = guess.private.iter().map(String::as_str).collect();
    used.extend(guess.time.as_ref().map(|t| t.column.as_str()));
    used.extend(guess.event_name.as_ref().map(|e| e.column.as_str()));
    used.extend(guess.event_id.as_deref());
    used.extend(guess.fields.iter().filter(|(_, s)| !s.unfit).map(|(_, s)| s.column.as_str()));
    used.extend(guess.item.iter().filter(|(_, s)| !s.unfit).map(|(_, s)| s.column.as_str()));
    used
}

/// A bare TOML key from the file's name.
fn mapping_name(shown: &str) -> String {
    let file = Path::new(shown).file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
    let stem = file.split('.').next().unwrap_or_default();
    let name: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if name.trim_matches('_').is_empty() { "history".to_owned() } else { name }
}

fn examples(column: &Column) -> String {
    let mut seen: Vec<String> = Vec::new();
    for value in &column.values {
        let value: String =
            value.chars().take(SHOWN_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
        if !seen.contains(&value) {
            seen.push(value);
        }
        if seen.len() == SHOWN_VALUES {
            break;
        }
    }
    if seen.is_empty() { "empty".to_owned() } else { format!("{}, ...", seen.join(", ")) }
}

/// A TOML basic string: JSON's escapes are TOML's, DEL apart.
fn quote(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default().replace('\u{7f}', "\\u007f")
}

fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-./:=*?".contains(c);
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// The name of a field as it stands in configuration.
fn key<T: Serialize>(field: &T) -> String {
    serde_json::to_value(field).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}
