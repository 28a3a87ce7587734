//! Finds CSV, JSON and Parquet files. Each file is an export of its own, but for the lines of
//! orders: a job that writes in parts cuts between any two lines, so files that belong together,
//! as the configuration says, are one export.
//!
//! What jobs write beside their data, `_SUCCESS` and `.part-0.crc`, is no file of it.

use std::collections::BTreeMap;

use clickmill_lake::Lake;
use clickmill_schemas::Timestamp;
use clickmill_schemas::values::TimeFormat;
use glob::{MatchOptions, Pattern};
use object_store::ObjectMeta;

use super::config::{Complete, ExportedAt, FileFormat, FilesSource, LinesMapping, LinesYield};
use super::place::{Place, modified};
use super::{Content, Dataset, Discovery, Export, Format, Notice, Severity, SourceError};

/// What makes a path a pattern.
const WILD: [char; 3] = ['*', '?', '['];

pub(super) async fn discover(
    lake: &Lake,
    name: &str,
    source: &FilesSource,
    found: &mut Discovery,
) -> Result<(), SourceError> {
    let (place, pattern, files) = objects(lake, name, source).await?;
    let options = MatchOptions { require_literal_separator: true, ..MatchOptions::default() };
    for wanted in wanted(source, pattern.as_deref()) {
        let patterns: Vec<Pattern> =
            wanted.patterns.iter().filter_map(|text| Pattern::new(text).ok()).collect();
        let mut is_there = false;
        let mut exports = Vec::new();
        for meta in &files {
            let below = place.below(meta.location.as_ref());
            let is_meant = |pattern: &Pattern| {
                pattern.matches_with(below, options)
                    && (!is_hidden(below) || is_hidden(pattern.as_str()))
            };
            if !patterns.iter().any(is_meant) {
                continue;
            }
            is_there = true;
            let export_id = meta.location.to_string();
            let exported_at = match &source.exported_at {
                None => modified(meta),
                Some(rule) => match time_in_name(rule, below) {
                    Ok(at) => at,
                    Err(problem) => {
                        found.notices.push(Notice {
                            source: name.to_owned(),
                            subject: place.shown(&export_id),
                            severity: Severity::Problem,
                            problem: format!("{problem}; it is not taken"),
                            advice: format!("rename it, or correct [sources.{name}.exported_at]"),
                        });
                        continue;
                    }
                },
            };
            exports.push(Export {
                dataset: wanted.dataset,
                source: name.to_owned(),
                export_id,
                exported_at,
                format: match source.format {
                    FileFormat::Csv => Format::Csv(source.csv()),
                    FileFormat::Jsonl => Format::Jsonl,
                    FileFormat::Parquet => Format::Parquet,
                },
                columns: wanted.columns.clone(),
                content: Content::Snapshot,
                changes: None,
                table: None,
                complete: None,
                lines: wanted.lines.cloned(),
                files: vec![place.file(meta)],
            });
        }
        found.exports.extend(match wanted.dataset {
            Dataset::OrderItems if wanted.lines.is_none() => {
                together(exports, wanted.complete, source)
            }
            _ => exports,
        });
        if !is_there {
            found.notices.push(Notice {
                source: name.to_owned(),
                subject: source.path.clone(),
                severity: Severity::Problem,
                problem: format!(
                    "no file there fits {} for {}",
                    wanted.patterns.join(" or "),
                    wanted.dataset
                ),
                advice: format!("correct [sources.{name}.{}]", wanted.section),
            });
        }
    }
    Ok(())
}

/// The files of order lines that are one export, as one. Its id does not hang on which of them
/// are there, and stands above their paths.
fn together(exports: Vec<Export>, complete: Option<Complete>, source: &FilesSource) -> Vec<Export> {
    if !matches!(complete, Some(Complete::Time | Complete::Folder)) {
        return exports.into_iter().map(|export| Export { complete, ..export }).collect();
    }
    let mut groups: BTreeMap<String, Export> = BTreeMap::new();
    for mut export in exports {
        let folder = match export.export_id.rsplit_once('/') {
            Some((folder, _)) if complete == Some(Complete::Folder) => format!("{folder}/"),
            _ => String::new(),
        };
        let what = match source.exported_at {
            Some(_) => export.exported_at.to_string(),
            None => "*".to_owned(),
        };
        let id = format!("{folder}{{{what}}}");
        match groups.get_mut(&id) {
            Some(group) => {
                group.exported_at = group.exported_at.max(export.exported_at);
                group.files.append(&mut export.files);
            }
            None => {
                groups.insert(id.clone(), Export { export_id: id, complete, ..export });
            }
        }
    }
    groups.into_values().collect()
}

/// True of what lies in a path that jobs keep for themselves.
fn is_hidden(below: &str) -> bool {
    below.split('/').any(|name| name.starts_with(['_', '.']))
}

/// The place, the pattern in the path, and the files that may be meant.
async fn objects(
    lake: &Lake,
    name: &str,
    source: &FilesSource,
) -> Result<(Place, Option<String>, Vec<ObjectMeta>), SourceError> {
    let path = source.path.as_str();
    if let Some((folder, pattern)) = split_pattern(path) {
        let place = Place::open(lake, name, folder).await?;
        let files = place.list().await?.into_values().collect();
        return Ok((place, Some(pattern.to_owned()), files));
    }
    // One file, where there is one of that name; else a folder.
    if let Some((folder, file)) = split_file(path)
        && let Ok(place) = Place::open(lake, name, folder).await
        && let Some(meta) = place.head(file).await.ok().flatten()
    {
        return Ok((place, Some(Pattern::escape(file)), vec![meta]));
    }
    let place = Place::open(lake, name, path).await?;
    let files = place.list().await?.into_values().collect();
    Ok((place, None, files))
}

/// `s3://b/exports/2026-*/x.csv` is the pattern `2026-*/x.csv` below `s3://b/exports`.
fn split_pattern(path: &str) -> Option<(&str, &str)> {
    let wild = path.find(WILD)?;
    match path[..wild].rfind('/') {
        Some(0) => Some(("/", &path[1..])),
        Some(at) => Some((&path[..at], &path[at + 1..])),
        None => Some((".", path)),
    }
}

fn split_file(path: &str) -> Option<(&str, &str)> {
    match path.rsplit_once('/') {
        None => Some((".", path)),
        Some((_, "")) => None,
        Some(("", file)) => Some(("/", file)),
        // Neither a bucket nor a scheme is a file.
        Some((folder, _)) if folder.ends_with('/') || folder.ends_with(':') => None,
        Some((folder, file)) => Some((folder, file)),
    }
}

struct Wanted<'a> {
    dataset: Dataset,
    section: &'static str,
    patterns: Vec<String>,
    columns: BTreeMap<String, super::ColumnMapping>,
    complete: Option<Complete>,
    lines: Option<&'a LinesMapping>,
}

fn wanted<'a>(source: &'a FilesSource, pattern: Option<&str>) -> Vec<Wanted<'a>> {
    let patterns = |own: Option<&String>, by_default: &[&str]| match (own, pattern) {
        (Some(own), _) => vec![own.clone()],
        (None, Some(pattern)) => vec![pattern.to_owned()],
        (None, None) => by_default.iter().map(|text| (*text).to_owned()).collect(),
    };
    let mut list: Vec<Wanted<'a>> = source
        .mappings()
        .map(|(dataset, mapping)| {
            let name = dataset.section();
            Wanted {
                dataset,
                section: name,
                patterns: patterns(
                    mapping.files.as_ref(),
                    &[&format!("{name}*"), &format!("{name}/**/*")],
                ),
                columns: mapping.columns.clone(),
                complete: mapping.complete,
                lines: None,
            }
        })
        .collect();
    if let Some(lines) = &source.lines {
        list.extend(lines.yields.iter().map(|what| Wanted {
            dataset: match what {
                LinesYield::Orders => Dataset::Orders,
                LinesYield::OrderItems => Dataset::OrderItems,
                LinesYield::Products => Dataset::ProductObservations,
            },
            section: "lines",
            patterns: patterns(lines.files.as_ref(), &["**/*"]),
            columns: BTreeMap::new(),
            complete: None,
            lines: Some(lines),
        }));
    }
    list
}

/// The time in a file's name, else in a folder's, the innermost first: after the prefix, as long
/// as the pattern reads. A pattern with slashes reads over folders.
fn time_in_name(rule: &ExportedAt, path: &str) -> Result<Timestamp, String> {
    let wrong = || format!("its name has no time `{}{}`", rule.prefix, rule.name);
    let format = TimeFormat::new(&rule.name, None).map_err(|e| e.to_string())?;
    let starts = path.rmatch_indices('/').map(|(at, _)| at + 1).chain([0]);
    let after_prefix = |start: usize| {
        let rest = &path[start..];
        rest.find(&rule.prefix).map(|at| &rest[at + rule.prefix.len()..])
    };
    let time = |rest: &str| {
        let ends = (1..=rest.len()).rev();
        ends.filter_map(|end| rest.get(..end)).find_map(|text| format.read(text).ok())
    };
    starts.filter_map(after_prefix).find_map(time).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_split_from_the_folder_above_it() {
        for (path, split) in [
            ("s3://b/x/2026-*/y.csv", Some(("s3://b/x", "2026-*/y.csv"))),
            ("s3://b/*.csv", Some(("s3://b", "*.csv"))),
            ("*.csv", Some((".", "*.csv"))),
            ("/*.csv", Some(("/", "*.csv"))),
            ("/data/plain.csv", None),
        ] {
            assert_eq!(split_pattern(path), split, "{path}");
        }
        assert_eq!(split_file("s3://bucket"), None);
        assert_eq!(split_file("s3://bucket/x.csv"), Some(("s3://bucket", "x.csv")));
        assert_eq!(split_file("x.csv"), Some((".", "x.csv")));
    }

    #[test]
    fn the_time_of_an_export_is_read_from_its_files_name() {
        let rule =
            |name: &str, prefix: &str| ExportedAt { name: name.into(), prefix: prefix.into() };
        let at = |rule: ExportedAt, file: &str| time_in_name(&rule, file).map(|t| t.to_string());
        assert_eq!(
            at(rule("%Y-%m-%d", "orders-"), "a/orders-2026-11-23.csv.gz").unwrap(),
            "2026-11-23T00:00:00.000000Z"
        );
        assert_eq!(
            at(rule("%Y%m%dT%H%M%S", ""), "20261123T174000_full.parquet").unwrap(),
            "2026-11-23T17:40:00.000000Z"
        );
        assert_eq!(
            at(rule("%Y-%m-%d", "dt="), "lines/dt=2026-11-23/part-0.parquet").unwrap(),
            "2026-11-23T00:00:00.000000Z"
        );
        assert_eq!(
            at(rule("%Y/%m/%d", ""), "lines/2026/11/23/part-0.parquet").unwrap(),
            "2026-11-23T00:00:00.000000Z"
        );
        // The file's own time comes first.
        assert_eq!(
            at(rule("%Y-%m-%d", ""), "2026-11-22/2026-11-23.csv").unwrap(),
            "2026-11-23T00:00:00.000000Z"
        );
        assert!(at(rule("%Y-%m-%d", "orders-"), "orders-latest.csv").is_err());
        assert!(at(rule("%Y-%m-%d", "orders-"), "items-2026-11-23.csv").is_err());
    }
}
