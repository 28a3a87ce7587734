//! Finds what AWS DMS writes to S3: full loads and change capture.
//!
//! ```text
//! [<folder>/]<schema>/<table>/LOAD0000000A.csv|parquet             the rows to start from
//! [<folder>/]<schema>/<table>/[2026/11/23/]20261123-1134010000.csv|parquet     changes
//! ```
//!
//! Each file is an export of its own. Changes stand above the load, whatever the
//! clocks say; among each other they are in the order of their commit times where
//! `time_column` names a column with them, else of their files' names; a tie is
//! broken by the file's name, then by the place in the file. What a task writes
//! again after a restart says the same of the same times, and changes nothing.
//!
//! Limits: the load of a task that loads again stands below the old changes, in whatever
//! folder it lies, unless `started_at` says when that task began; files of a `CdcPath` that preserves
//! transactions are of several tables and not read.

use std::collections::{BTreeMap, BTreeSet};

use clickmill_lake::Lake;
use clickmill_schemas::Timestamp;
use clickmill_schemas::tables::Kind;
use object_store::ObjectMeta;

use super::config::{CsvLayout, DmsMapping, DmsSource, Encoding};
use super::place::{Place, modified};
use super::value::Rule;
use super::{
    ChangeLayout, Content, Dataset, Discovery, Export, Format, Notice, Severity, SourceError,
};

/// What a full load's files are called, with a hexadecimal number behind it.
const LOAD: &str = "LOAD";
/// Digits of the date and of the time of day in the name of a file of changes.
const DATE_DIGITS: usize = 8;
const CLOCK_DIGITS: usize = 6;

pub(super) async fn discover(
    lake: &Lake,
    name: &str,
    source: &DmsSource,
    found: &mut Discovery,
) -> Result<(), SourceError> {
    let place = Place::open(lake, name, &source.path).await?;
    let objects = place.list().await?;
    let tables = tables(&place, &objects);
    for (dataset, mapping, is_wanted) in wanted(source) {
        let mut say = |problem: String, advice: String| {
            found.notices.push(Notice {
                source: name.to_owned(),
                subject: source.path.clone(),
                severity: Severity::Problem,
                problem,
                advice,
            });
        };
        let section = format!("[sources.{name}.{}]", dataset.section());
        let wanted = mapping.table.as_deref().unwrap_or(dataset.section());
        let matching: Vec<_> = tables
            .iter()
            .filter(|(table, _)| {
                *table == wanted
                    || table.strip_suffix(wanted).is_some_and(|front| front.ends_with('.'))
            })
            .collect();
        let files = match matching.as_slice() {
            [(_, files)] => *files,
            [] if !is_wanted => continue,
            [] => {
                let there: Vec<_> = tables.keys().map(String::as_str).collect();
                say(
                    format!("it has no files of the table `{wanted}`; it has {}", there.join(", ")),
                    format!("name the table in {section}, or look at the task"),
                );
                continue;
            }
            several => {
                let names: Vec<_> = several.iter().map(|(name, _)| name.as_str()).collect();
                say(
                    format!("`{wanted}` may be any of {}; none is taken", names.join(", ")),
                    format!("say which by its schema in {section}"),
                );
                continue;
            }
        };
        if let Some(csv) = files.iter().find(|f| f.encoding == FileKind::Csv)
            && !source.header
            && mapping.names.is_empty()
        {
            say(
                format!(
                    "{} has no header and no names for its fields; none of the table is taken",
                    csv.meta.location
                ),
                format!("give names = [...] in {section}, or set AddColumnName and header = true"),
            );
            continue;
        }
        found
            .exports
            .extend(files.iter().map(|file| export(&place, name, source, dataset, &mapping, file)));
    }
    Ok(())
}

/// The datasets to look for; the flag says whether a missing one is reported.
fn wanted(source: &DmsSource) -> Vec<(Dataset, DmsMapping, bool)> {
    let mapped: Vec<_> =
        source.mappings().map(|(dataset, mapping)| (dataset, mapping.clone(), true)).collect();
    if !mapped.is_empty() {
        return mapped;
    }
    Dataset::ALL.into_iter().map(|dataset| (dataset, DmsMapping::default(), false)).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileKind {
    Csv,
    Parquet,
}

struct File<'a> {
    meta: &'a ObjectMeta,
    encoding: FileKind,
    /// `None` for a full load.
    time: Option<Timestamp>,
}

/// The files of each `schema.table`.
fn tables<'a>(
    place: &Place,
    objects: &'a BTreeMap<String, ObjectMeta>,
) -> BTreeMap<String, Vec<File<'a>>> {
    let mut tables: BTreeMap<String, Vec<File<'a>>> = BTreeMap::new();
    for (path, meta) in objects {
        let Some((folder, name)) = place.below(path).rsplit_once('/') else { continue };
        let Some((encoding, time)) = file_name(name) else { continue };
        let mut folders: Vec<&str> = folder.split('/').collect();
        // Date partitions between the table and its files.
        let is_date = |folder: &str| folder.chars().all(|c| c.is_ascii_digit() || "-_".contains(c));
        while folders.len() > 1 && folders.last().is_some_and(|folder| is_date(folder)) {
            folders.pop();
        }
        let named = folders.split_off(folders.len().saturating_sub(2));
        tables.entry(named.join(".")).or_default().push(File { meta, encoding, time });
    }
    tables
}

/// What a file is by its name; `None` where it is none of DMS's.
fn file_name(name: &str) -> Option<(FileKind, Option<Timestamp>)> {
    let (stem, ending) = name.split_once('.')?;
    let kind = match ending {
        "csv" | "csv.gz" => FileKind::Csv,
        "parquet" => FileKind::Parquet,
        _ => return None,
    };
    if let Some(number) = stem.strip_prefix(LOAD) {
        let is_number = !number.is_empty() && number.chars().all(|c| c.is_ascii_hexdigit());
        return is_number.then_some((kind, None));
    }
    Some((kind, Some(time_of(stem)?)))
}

/// `20141029-1134010000`: the date, hours, minutes and seconds, then a fraction.
fn time_of(stem: &str) -> Option<Timestamp> {
    let (date, clock) = stem.split_once('-')?;
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if date.len() != DATE_DIGITS || clock.len() < CLOCK_DIGITS || !digits(date) || !digits(clock) {
        return None;
    }
    let (clock, fraction) = clock.split_at(CLOCK_DIGITS);
    let fraction = if fraction.is_empty() { "0" } else { fraction };
    let text = format!(
        "{}-{}-{}T{}:{}:{}.{fraction}Z",
        &date[..4],
        &date[4..6],
        &date[6..],
        &clock[..2],
        &clock[2..4],
        &clock[4..]
    );
    Timestamp::parse(&text).ok()
}

fn export(
    place: &Place,
    name: &str,
    source: &DmsSource,
    dataset: Dataset,
    mapping: &DmsMapping,
    file: &File<'_>,
) -> Export {
    let given = |text: &Option<String>| {
        let rule = Rule::new(Kind::Timestamp, None).ok();
        text.as_deref().zip(rule).and_then(|(text, rule)| rule.time(text).ok())
    };
    let started_at = given(&source.started_at).filter(|_| file.time.is_none());
    let loaded = || {
        let told = started_at.or_else(|| given(&source.loaded_at));
        told.unwrap_or_else(|| modified(file.meta))
    };
    Export {
        dataset,
        source: name.to_owned(),
        export_id: file.meta.location.to_string(),
        exported_at: file.time.unwrap_or_else(loaded),
        format: match file.encoding {
            FileKind::Parquet => Format::Parquet,
            FileKind::Csv => Format::Csv(CsvLayout {
                delimiter: source.delimiter,
                header: source.header,
                names: mapping.names.clone(),
                encoding: Encoding::Utf8,
                null: Some(source.null.clone()),
            }),
        },
        columns: mapping.columns.clone(),
        content: match file.time {
            Some(_) => Content::Changes,
            None => Content::Load { started_at },
        },
        changes: Some(ChangeLayout {
            operation_column: source.operation_column.clone(),
            // A load that stands at its task's start is of then, whatever its rows say.
            time_column: source.time_column.clone().filter(|_| started_at.is_none()),
        }),
        table: Some(mapping.table.clone().unwrap_or_else(|| dataset.section().to_owned())),
        complete: None,
        lines: None,
        files: vec![place.file(file.meta)],
    }
}

/// A name that stands twice among these.
pub(super) fn twice(names: &[String]) -> Option<&str> {
    let mut seen = BTreeSet::new();
    names.iter().map(String::as_str).find(|name| !seen.insert(name.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_a_load_or_changes_by_its_name() {
        let time = |name| file_name(name).map(|(kind, time)| (kind, time.map(|t| t.to_string())));
        for load in ["LOAD00000001.csv", "LOAD0000000A.csv.gz", "LOAD00001.parquet"] {
            assert_eq!(time(load).unwrap().1, None, "{load}");
        }
        for (name, at) in [
            ("20141029-1134010000.csv", "2014-10-29T11:34:01.000000Z"),
            ("20261123-093000123.parquet", "2026-11-23T09:30:00.123000Z"),
            ("20261123-093000.csv.gz", "2026-11-23T09:30:00.000000Z"),
        ] {
            assert_eq!(time(name).unwrap().1.as_deref(), Some(at), "{name}");
        }
        for other in [
            "LOAD.csv",
            "LOADX1.csv",
            "20141029.csv",
            "20141329-1134010000.csv",
            "notes.txt",
            "20141029-113401000x.csv",
            "LOAD00000001",
            "awsdms_status.json",
        ] {
            assert_eq!(time(other), None, "{other}");
        }
    }
}
