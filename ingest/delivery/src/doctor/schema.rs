//! Rules for the Glue table that a format conversion goes by.
//!
//! Firehose writes the table's columns and drops every other key. A value that its column's type
//! cannot take sends the whole record to the error prefix.

use clickmill_schemas::EVENT_KEYS;

use super::firehose::Conversion;
use super::{Findings, Severity};
use crate::firehose::is_wire_key;

/// Keys without which there is no event.
const REQUIRED: &[&str] =
    &["event_id", "event_name", "source_protocol", "app_id", "event_ts", "received_ts"];
/// Keys without which the audit is blind.
const LINEAGE: &[&str] = &["collector_id", "wal_seq"];
/// Keys that most events carry something in.
const CARRIED: &[&str] =
    &["properties", "context", "items", "anonymous_id", "user_id", "page_url", "user_agent"];
/// Keys that come with Kinesis, after the collector.
const OF_DELIVERY: &[&str] = &["shard_id", "sequence_number"];
/// Amounts, with four places.
const MONEY: &[&str] = &["revenue", "total", "tax", "shipping", "discount"];
/// Times, sent as text: `2026-11-23T17:40:00.000000Z`.
const TIMES: &[&str] = &["event_ts", "client_ts", "sent_ts", "received_ts"];
/// Whole numbers of up to 64 bits.
const LONG: &[&str] = &["wal_seq", "clock_skew_ms"];
/// Whole numbers of up to 32 bits.
const SHORT: &[&str] = &["screen_width", "screen_height"];
/// JSON of any form.
const JSON: &[&str] = &["properties", "context", "consent", "items"];

pub(super) fn schema(conversion: &Conversion, found: &mut Findings) {
    if !conversion.to_parquet {
        let text = "it converts to ORC, which `etl run` does not read".to_owned();
        return found.add("format", Severity::Loss, text, "convert to Parquet, or not at all");
    }
    let table = conversion.table.to_string();
    let Some(columns) = &conversion.columns else {
        let text = format!(
            "it converts to Parquet by the Glue table {table}, whose columns are not known here"
        );
        let fix = "grant glue:GetTable; or aws glue get-table --database-name D --name T > table.json, \
                   and give --glue-table table.json";
        return found.add("schema", Severity::Warning, text, fix);
    };
    let has = |name: &str| columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
    let missing = |keys: &[&'static str]| -> Vec<&'static str> {
        keys.iter().filter(|key| !has(key)).copied().collect()
    };
    let mut sound = true;
    let mut add = |severity, text: String, fix: &str| {
        sound = false;
        found.add("schema", severity, text, fix);
    };
    let required = missing(REQUIRED);
    if !required.is_empty() {
        let text = format!(
            "{table} has no {}: conversion drops them, and without them there is no event",
            required.join(", ")
        );
        add(Severity::Loss, text, "add these columns, or map others to them under [raw.columns]");
    }
    let carried = missing(CARRIED);
    if !carried.is_empty() {
        let text = format!(
            "{table} has no {}: conversion drops what events carry there",
            carried.join(", ")
        );
        add(
            Severity::Loss,
            text,
            "add these columns (string; items as array<struct<...>> or string)",
        );
    }
    let lineage = missing(LINEAGE);
    if !lineage.is_empty() {
        let text =
            format!("{table} has no {}: the audit cannot tell what is missing", lineage.join(", "));
        add(Severity::Warning, text, "add collector_id string, wal_seq bigint");
    }
    let others: Vec<&str> = missing(EVENT_KEYS)
        .into_iter()
        .filter(|key| ![REQUIRED, CARRIED, LINEAGE, OF_DELIVERY].concat().contains(key))
        .collect();
    if !others.is_empty() {
        let text = format!(
            "{table} has no {}: conversion drops them where events have them",
            others.join(", ")
        );
        add(Severity::Warning, text, "add these columns; string holds every one of them");
    }
    for column in columns {
        let name = column.name.to_ascii_lowercase();
        if let Some((severity, what, fix)) = misfit(&name, &column.hive_type) {
            add(severity, format!("{table}.{name} is {}: {what}", column.hive_type), fix);
        }
        if !is_wire_key(&name) {
            let text =
                format!("{table}.{name} is no key of an event: its values go into properties");
            add(
                Severity::Note,
                text,
                "map it under [raw.columns] where it is one of ours by another name",
            );
        }
    }
    if sound {
        found
            .ok("schema", format!("it converts to Parquet by {table}, which has what events need"));
    }
}

/// What a column of that Hive type does to a key's values, and the type that does not.
fn misfit(key: &str, hive_type: &str) -> Option<(Severity, &'static str, &'static str)> {
    const REFUSED: &str = "conversion sends records with other values to the error prefix";
    let hive = hive_type.to_ascii_lowercase();
    let base = hive.split(['(', '<']).next().unwrap_or_default().trim();
    // Text takes everything as it was sent; a type that is not given is not judged.
    if matches!(base, "string" | "varchar" | "char" | "") {
        return None;
    }
    let is_whole = matches!(base, "bigint" | "int" | "integer" | "smallint" | "tinyint");
    let kind = |keys: &[&str]| keys.contains(&key);
    if kind(MONEY) {
        return match base {
            "decimal" if places(&hive) >= 4 => None,
            "decimal" => Some((
                Severity::Warning,
                "amounts have four places, which it rounds or refuses",
                "make it decimal(18,4)",
            )),
            "double" | "float" => Some((
                Severity::Warning,
                "amounts that it cannot hold exactly are rejected",
                "make it decimal(18,4)",
            )),
            _ => Some((Severity::Loss, REFUSED, "make it decimal(18,4)")),
        };
    }
    if kind(TIMES) {
        return match base {
            "timestamp" => None,
            "date" => {
                Some((Severity::Loss, "it keeps the day alone", "make it timestamp or string"))
            }
            _ => Some((
                Severity::Loss,
                "times are sent as text, and conversion sends such records to the error prefix",
                "make it timestamp or string",
            )),
        };
    }
    if kind(LONG) {
        return match base {
            "bigint" | "decimal" => None,
            _ if is_whole => Some((Severity::Loss, "larger numbers do not fit", "make it bigint")),
            "double" | "float" => {
                Some((Severity::Warning, "large numbers lose digits", "make it bigint"))
            }
            _ => Some((Severity::Loss, REFUSED, "make it bigint")),
        };
    }
    if kind(SHORT) {
        let fits = is_whole && !matches!(base, "smallint" | "tinyint");
        return (!fits && base != "decimal").then_some((Severity::Loss, REFUSED, "make it int"));
    }
    if kind(JSON) {
        return match base {
            "map" | "array" | "struct" if !hive.contains("struct<") => None,
            "map" | "array" | "struct" => Some((
                Severity::Note,
                "a struct keeps the fields that it names, and drops all others",
                "make it string to keep all",
            )),
            _ => Some((Severity::Loss, REFUSED, "make it string")),
        };
    }
    // Everything else is text.
    is_wire_key(key).then_some((Severity::Loss, REFUSED, "make it string"))
}

/// The places of `decimal(18,4)`; Hive's `decimal` has none.
fn places(hive: &str) -> u32 {
    let inner = hive.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    let scale = inner.and_then(|(inner, _)| inner.split_once(','));
    scale.and_then(|(_, scale)| scale.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::{Finding, GlueColumn, GlueTable};
    use super::*;

    fn judged(columns: Option<&[(&str, &str)]>, to_parquet: bool) -> Vec<Finding> {
        let column = |(name, hive): &(&str, &str)| GlueColumn {
            name: (*name).to_owned(),
            hive_type: (*hive).to_owned(),
        };
        let columns = columns.map(|columns| columns.iter().map(column).collect());
        let (database, name) = ("shop".to_owned(), "clicks".to_owned());
        let table = GlueTable { database, name, ..GlueTable::default() };
        let mut found = Findings::of("firehose clicks".to_owned());
        schema(&Conversion { table, to_parquet, columns }, &mut found);
        found.all
    }

    fn worst(found: &[Finding], rule: &str) -> Option<Severity> {
        found.iter().filter(|one| one.rule == rule).map(|one| one.severity).max()
    }

    fn all() -> Vec<(&'static str, &'static str)> {
        EVENT_KEYS.iter().map(|name| (*name, "string")).collect()
    }

    #[test]
    fn conversion_by_another_schema_is_told_with_what_it_drops() {
        let all = all();
        assert_eq!(worst(&judged(Some(&all), true), "schema"), Some(Severity::Ok));
        for (left_out, expected) in [
            ("event_id", Severity::Loss),
            ("properties", Severity::Loss),
            ("wal_seq", Severity::Warning),
            ("revenue", Severity::Warning),
            ("shard_id", Severity::Ok),
        ] {
            let fewer: Vec<_> = all.iter().filter(|(name, _)| *name != left_out).copied().collect();
            let found = judged(Some(&fewer), true);
            let told = found.iter().find(|one| one.rule == "schema").expect("told");
            assert_eq!(told.severity, expected, "{left_out}");
            let names_it = told.text.contains(&format!("has no {left_out}:"));
            assert_eq!(names_it, expected != Severity::Ok, "{}", told.text);
        }
        let other = [all.clone(), vec![("shelf", "string")]].concat();
        assert_eq!(worst(&judged(Some(&other), true), "schema"), Some(Severity::Note));
        assert_eq!(worst(&judged(None, true), "schema"), Some(Severity::Warning));
        assert_eq!(worst(&judged(Some(&all), false), "format"), Some(Severity::Loss));
    }

    #[test]
    fn columns_of_other_types_are_told_with_what_they_do_and_the_type_to_give() {
        for (key, hive, expected) in [
            ("total", "decimal(18,4)", None),
            ("total", "decimal(10,2)", Some(Severity::Warning)),
            ("total", "decimal", Some(Severity::Warning)),
            ("total", "DOUBLE", Some(Severity::Warning)),
            ("total", "bigint", Some(Severity::Loss)),
            ("event_ts", "timestamp", None),
            ("event_ts", "bigint", Some(Severity::Loss)),
            ("received_ts", "date", Some(Severity::Loss)),
            ("wal_seq", "bigint", None),
            ("wal_seq", "int", Some(Severity::Loss)),
            ("wal_seq", "double", Some(Severity::Warning)),
            ("screen_width", "int", None),
            ("screen_width", "smallint", Some(Severity::Loss)),
            ("items", "array<string>", None),
            ("items", "array<struct<product_id:string>>", Some(Severity::Note)),
            ("properties", "map<string,string>", None),
            ("properties", "boolean", Some(Severity::Loss)),
            ("user_id", "varchar(64)", None),
            ("user_id", "bigint", Some(Severity::Loss)),
            ("event_id", "binary", Some(Severity::Loss)),
        ] {
            let columns: Vec<_> = all()
                .into_iter()
                .map(|(name, string)| (name, if name == key { hive } else { string }))
                .collect();
            let found = judged(Some(&columns), true);
            let expected = expected.unwrap_or(Severity::Ok);
            assert_eq!(worst(&found, "schema"), Some(expected), "{key} {hive}");
            if expected != Severity::Ok {
                assert!(found[0].text.contains(&format!("shop.clicks.{key} is {hive}:")));
                assert!(found[0].fix.starts_with("make it "), "{}", found[0].fix);
            }
        }
    }
}
