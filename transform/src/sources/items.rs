//! Files with a JSON object a line: whatever a program wrote, and the data files of
//! a DynamoDB export, in DynamoDB JSON.
//!
//! In plain JSON a column is a key, or a path of keys with points between them into
//! nested objects. A text is its characters; anything else is its JSON text, a number
//! with its digits.
//!
//! Of a full export of DynamoDB a line is `{"Item":{...}}`; of an incremental one
//! `{"Metadata":{"WriteTimestampMicros":...},"Keys":{...},"NewImage":{...},"OldImage":{...}}`,
//! where an item without `NewImage` was deleted. The time may be `{"N":"..."}`, a
//! text or a number.
//!
//! A number keeps the digits that it was sent with; nested maps, lists and sets
//! become JSON text.
//!
//! A delete needs the dataset's key: from `OldImage` where the export has it, else
//! from `Keys`. An update that gives an item another key of ours, by an attribute
//! that is none of the table's own key, leaves the row of the old one.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use arrow::array::{ArrayRef, StringBuilder};
use clickmill_schemas::{RejectReason, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::fetch::Fault;
use super::process::Processor;
use super::reader::Halt;
use super::rows::{Changes, Input};
use super::value::shown;
use super::{BATCH_ROWS, Content, Format, InputFile, SourceChunk};

/// One line, at most. An item has at most 400 KB, and DynamoDB JSON is a few times that.
const MAX_LINE_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of the lines in one chunk, about.
const CHUNK_BYTES: usize = 8 * 1024 * 1024;
/// DynamoDB nests 32 levels.
const MAX_DEPTH: u32 = 64;

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "Item", borrow)]
    item: HashMap<String, &'a RawValue>,
}

type Image<'a> = HashMap<String, &'a RawValue>;

#[derive(Deserialize)]
struct ChangeLine<'a> {
    #[serde(rename = "Metadata", borrow)]
    metadata: Metadata<'a>,
    #[serde(rename = "Keys", borrow, default)]
    keys: Image<'a>,
    #[serde(rename = "NewImage", borrow, default)]
    new: Option<Image<'a>>,
    #[serde(rename = "OldImage", borrow, default)]
    old: Option<Image<'a>>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(rename = "WriteTimestampMicros", borrow)]
    written: &'a RawValue,
}

/// What the objects of plain JSON have.
struct Seen {
    /// Of each column of the plan, whether any object has it.
    columns: Vec<bool>,
    /// The keys of the first object, to tell them.
    keys: Vec<String>,
}

/// What one line says.
struct Said {
    /// The text of each wanted attribute.
    cells: Vec<Option<String>>,
    /// Of a change: whether the item is gone, and when, in microseconds.
    change: Option<(bool, i64)>,
}

/// An attribute's value, by its type.
#[derive(Deserialize)]
enum Attribute<'a> {
    #[serde(borrow)]
    S(Cow<'a, str>),
    #[serde(borrow)]
    N(Cow<'a, str>),
    #[serde(borrow)]
    B(Cow<'a, str>),
    #[serde(rename = "BOOL")]
    Bool(bool),
    #[serde(rename = "NULL")]
    Null(#[allow(dead_code, reason = "always true")] bool),
    #[serde(borrow)]
    M(BTreeMap<String, &'a RawValue>),
    #[serde(borrow)]
    L(Vec<&'a RawValue>),
    #[serde(rename = "SS")]
    Strings(Vec<String>),
    #[serde(rename = "NS")]
    Numbers(Vec<String>),
    #[serde(rename = "BS")]
    Binaries(Vec<String>),
}

/// Decodes a whole file.
pub(super) fn decode(
    processor: &mut Processor,
    text: impl Read,
    file: &InputFile,
    send: &mut dyn FnMut(SourceChunk) -> Result<(), Halt>,
) -> Result<(), Halt> {
    let mut reader = BufReader::new(text);
    let (mut number, mut end) = (0, None);
    let mut seen = Seen { columns: vec![false; processor.plan().names().len()], keys: Vec::new() };
    while end.is_none() {
        let mut lines: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut bytes = 0;
        while lines.len() < BATCH_ROWS && bytes < CHUNK_BYTES {
            match next_line(&mut reader) {
                Ok(Some(line)) if line.trim_ascii().is_empty() => {}
                Ok(Some(line)) => {
                    number += 1;
                    bytes += line.len();
                    lines.push((number, line));
                }
                Ok(None) => {
                    end = Some(Ok(()));
                    break;
                }
                Err(fault) => {
                    end = Some(Err(fault));
                    break;
                }
            }
        }
        // Also before an error: what was read before the damage stays.
        send(chunk(processor, file, &lines, &mut seen)?)?;
    }
    end.unwrap_or(Ok(()))?;
    // Where no line is an object, its rejects say more.
    if !seen.keys.is_empty()
        && let Some(problem) = processor.plan().missing(&seen.columns, &seen.keys)
    {
        send(processor.misfit(
            file,
            format!("{problem}; no object has it: its column is empty, or its rows are rejected"),
        ))?;
    }
    if let Some(items) = file.items.filter(|items| *items != number) {
        send(processor.notice(
            file,
            format!(
                "it holds {number} items, its manifest says {items}; they were read as they are"
            ),
            "compare with the table's item count and export again where they differ",
        ))?;
    }
    Ok(())
}

/// A line with its newline; `None` at the end.
fn next_line(reader: &mut impl BufRead) -> Result<Option<Vec<u8>>, Fault> {
    let mut line = Vec::new();
    let read = reader
        .take(MAX_LINE_BYTES + 1)
        .read_until(b'\n', &mut line)
        .map_err(|e| Fault::Damaged(e.to_string()))?;
    if read as u64 > MAX_LINE_BYTES {
        return Err(Fault::Damaged("a line has more than 16 MiB".to_owned()));
    }
    Ok((read > 0).then_some(line))
}

fn chunk(
    processor: &mut Processor,
    file: &InputFile,
    lines: &[(u64, Vec<u8>)],
    seen: &mut Seen,
) -> Result<SourceChunk, Halt> {
    let names: Vec<Option<String>> =
        processor.plan().names().into_iter().map(|name| name.map(str::to_owned)).collect();
    let keys = processor.plan().keys();
    let is_plain = processor.export().format == Format::Jsonl;
    let is_window = matches!(processor.export().content, Content::Window { .. });
    let mut changes = Changes::default();
    let mut builders: Vec<Option<StringBuilder>> =
        names.iter().map(|name| name.as_ref().map(|_| StringBuilder::new())).collect();
    let mut kept = Vec::with_capacity(lines.len());
    let mut malformed = Vec::new();
    for (number, line) in lines {
        let said = match (is_plain, is_window) {
            (true, _) => object(line, &names, seen),
            (false, false) => item(line, &names),
            (false, true) => change(line, &names, &keys),
        };
        match said {
            Ok(said) => {
                if let Some((deleted, at)) = said.change {
                    changes.deleted.push(deleted);
                    changes.at.push(Some(at));
                }
                for (builder, cell) in builders.iter_mut().zip(said.cells) {
                    if let Some(builder) = builder {
                        builder.append_option(cell);
                    }
                }
                kept.push((*number, line));
            }
            Err(detail) => malformed.push(processor.reject(
                file,
                &format!("row {number}"),
                RejectReason::Malformed,
                detail,
                line.trim_ascii(),
            )),
        }
    }
    let arrays = builders
        .into_iter()
        .map(|builder| builder.map(|mut builder| Arc::new(builder.finish()) as ArrayRef))
        .collect();
    let input = Input {
        arrays,
        rows: kept.len(),
        number: &|row| kept[row].0,
        file,
        raw: &|row| kept[row].1.trim_ascii().to_vec(),
        changes: is_window.then_some(changes),
    };
    Ok(processor.rows(&input, malformed)?)
}

/// A line of plain JSON. What it has is marked as seen.
fn object(line: &[u8], names: &[Option<String>], seen: &mut Seen) -> Result<Said, String> {
    let object: Image<'_> = serde_json::from_str(text(line)?)
        .map_err(|e| format!("the line is no JSON object, of which each has a line: {e}"))?;
    if seen.keys.is_empty() {
        seen.keys = object.keys().cloned().collect();
        seen.keys.sort_unstable();
    }
    let cells = names.iter().zip(&mut seen.columns).map(|(name, seen)| {
        let value = reach(&object, name.as_ref()?)?;
        *seen = true;
        plain(value)
    });
    Ok(Said { cells: cells.collect(), change: None })
}

/// The value of a key, or of a path of keys.
fn reach<'a>(object: &Image<'a>, path: &str) -> Option<&'a RawValue> {
    if let Some(value) = object.get(path) {
        return Some(value);
    }
    let (key, rest) = path.split_once('.')?;
    reach(&serde_json::from_str(object.get(key)?.get()).ok()?, rest)
}

fn plain(value: &RawValue) -> Option<String> {
    match value.get() {
        "null" => None,
        text if text.starts_with('"') => serde_json::from_str(text).ok(),
        other => Some(other.to_owned()),
    }
}

/// A line of a full export.
fn item(line: &[u8], names: &[Option<String>]) -> Result<Said, String> {
    let line: Line<'_> = serde_json::from_str(text(line)?)
        .map_err(|e| format!("the line is not {{\"Item\":{{...}}}}: {e}"))?;
    Ok(Said { cells: cells(&line.item, names)?, change: None })
}

/// A line of an incremental export. Of a delete only the key is read.
fn change(line: &[u8], names: &[Option<String>], keys: &[bool]) -> Result<Said, String> {
    let line: ChangeLine<'_> = serde_json::from_str(text(line)?)
        .map_err(|e| format!("the line is no change of an incremental export: {e}"))?;
    let written = line.metadata.written;
    let at = micros(written)
        .ok_or_else(|| format!("WriteTimestampMicros is no time: {}", shown(written.get())))?;
    if let Some(new) = &line.new {
        return Ok(Said { cells: cells(new, names)?, change: Some((false, at)) });
    }
    let only_keys = names.iter().zip(keys).map(|(name, is_key)| name.clone().filter(|_| *is_key));
    let only_keys: Vec<Option<String>> = only_keys.collect();
    let mut gone = line.keys;
    gone.extend(line.old.unwrap_or_default());
    Ok(Said { cells: cells(&gone, &only_keys)?, change: Some((true, at)) })
}

fn text(line: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(line).map_err(|e| format!("the line is not UTF-8: {e}"))
}

/// The text of each wanted attribute of an item.
fn cells(item: &Image<'_>, names: &[Option<String>]) -> Result<Vec<Option<String>>, String> {
    names
        .iter()
        .map(|name| match name.as_ref().and_then(|name| Some((name, item.get(name)?))) {
            None => Ok(None),
            Some((name, raw)) => {
                cell(raw).map_err(|problem| format!("attribute {name}: {problem}"))
            }
        })
        .collect()
}

/// `{"N":"1"}`, `"1"` or `1`, as a time that a table can hold.
fn micros(raw: &RawValue) -> Option<i64> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Shape {
        Attribute {
            #[serde(rename = "N")]
            n: String,
        },
        Text(String),
        Number(i64),
    }
    let micros = match serde_json::from_str(raw.get()).ok()? {
        Shape::Attribute { n: text } | Shape::Text(text) => text.trim().parse().ok()?,
        Shape::Number(number) => number,
    };
    Timestamp::from_micros(micros).ok().map(Timestamp::micros)
}

fn attribute(raw: &RawValue) -> Result<Attribute<'_>, String> {
    serde_json::from_str(raw.get()).map_err(|e| format!("it is not DynamoDB JSON: {e}"))
}

fn cell(raw: &RawValue) -> Result<Option<String>, String> {
    match attribute(raw)? {
        Attribute::S(text) | Attribute::N(text) | Attribute::B(text) => Ok(Some(text.into_owned())),
        Attribute::Bool(flag) => Ok(Some(flag.to_string())),
        Attribute::Null(_) => Ok(None),
        nested => {
            let mut out = String::new();
            write_json(&nested, &mut out, MAX_DEPTH)?;
            Ok(Some(out))
        }
    }
}

/// Plain JSON of a value, the digits of its numbers as they are.
fn write_json(attribute_value: &Attribute<'_>, out: &mut String, depth: u32) -> Result<(), String> {
    let depth = depth.checked_sub(1).ok_or("it is nested deeper than DynamoDB allows")?;
    match attribute_value {
        Attribute::S(text) | Attribute::B(text) => push_string(text, out),
        Attribute::N(number) => push_number(number, out),
        Attribute::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Attribute::Null(_) => out.push_str("null"),
        Attribute::M(map) => {
            out.push('{');
            for (at, (key, value)) in map.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                push_string(key, out);
                out.push(':');
                write_json(&attribute(value)?, out, depth)?;
            }
            out.push('}');
        }
        Attribute::L(list) => {
            push_list(list.iter(), out, |value, out| write_json(&attribute(value)?, out, depth))?;
        }
        Attribute::Strings(list) | Attribute::Binaries(list) => {
            push_list(list.iter(), out, |text, out| {
                push_string(text, out);
                Ok(())
            })?;
        }
        Attribute::Numbers(list) => push_list(list.iter(), out, |number, out| {
            push_number(number, out);
            Ok(())
        })?,
    }
    Ok(())
}

fn push_list<T>(
    list: impl Iterator<Item = T>,
    out: &mut String,
    mut push: impl FnMut(T, &mut String) -> Result<(), String>,
) -> Result<(), String> {
    out.push('[');
    for (at, value) in list.enumerate() {
        if at > 0 {
            out.push(',');
        }
        push(value, out)?;
    }
    out.push(']');
    Ok(())
}

fn push_string(text: &str, out: &mut String) {
    // A string always serialises.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

fn push_number(number: &str, out: &mut String) {
    let is_number = number.starts_with(|c: char| c == '-' || c.is_ascii_digit())
        && serde_json::from_str::<&RawValue>(number).is_ok();
    if is_number {
        out.push_str(number);
    } else {
        push_string(number, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &str) -> Result<Option<String>, String> {
        cell(serde_json::from_str(json).expect("json"))
    }

    #[test]
    fn every_attribute_type_has_a_text() {
        for (attribute, expected) in [
            (r#"{"S":"a \"b\" \u00e9"}"#, Some("a \"b\" é")),
            (r#"{"N":"12.30"}"#, Some("12.30")),
            (r#"{"B":"AAE="}"#, Some("AAE=")),
            (r#"{"BOOL":true}"#, Some("true")),
            (r#"{"NULL":true}"#, None),
            (r#"{"SS":["a","b"]}"#, Some(r#"["a","b"]"#)),
            (r#"{"NS":["1.10","2"]}"#, Some("[1.10,2]")),
            (r#"{"BS":["AAE="]}"#, Some(r#"["AAE="]"#)),
            (
                r#"{"M":{"b":{"N":"12345678901234567890.10"},"a":{"L":[{"S":"x"},{"NULL":true}]}}}"#,
                Some(r#"{"a":["x",null],"b":12345678901234567890.10}"#),
            ),
        ] {
            assert_eq!(
                value(attribute).as_ref().map(Option::as_deref),
                Ok(expected),
                "{attribute}"
            );
        }
    }

    #[test]
    fn the_three_shapes_of_a_write_timestamp_are_read_and_nothing_else() {
        let read = |json: &str| micros(serde_json::from_str(json).expect("json"));
        for json in [r#"{"N":"1680109764000000"}"#, r#""1680109764000000""#, "1680109764000000"] {
            assert_eq!(read(json), Some(1_680_109_764_000_000), "{json}");
        }
        for json in
            [r#"{"S":"1"}"#, r#""soon""#, "1.5", "null", "true", "9223372036854775807", "[]"]
        {
            assert_eq!(read(json), None, "{json}");
        }
    }

    #[test]
    fn what_is_not_dynamodb_json_is_refused() {
        for attribute in [r#""x""#, r#"{"X":"1"}"#, r#"{"S":1}"#, "{}", r#"{"S":"a","N":"1"}"#] {
            assert!(value(attribute).is_err(), "{attribute}");
        }
        let mut deep = r#"{"S":"x"}"#.to_owned();
        for _ in 0..100 {
            deep = format!(r#"{{"L":[{deep}]}}"#);
        }
        assert!(value(&deep).unwrap_err().contains("nested"));
    }
}
