//! Finds RDS and Aurora snapshot exports.
//!
//! ```text
//! <export>/export_info_<export>.json                    status COMPLETE, or it is not taken
//! <export>/export_tables_info_<export>_from_1_to_9.json status and columns of each table
//! <export>/<database>/<schema>.<table>/[<batch>/]part-*.parquet
//! ```
//!
//! JSON keys are read whatever their case. Files that are no Parquet are ignored.

use std::collections::BTreeMap;

use clickmill_lake::Lake;
use clickmill_schemas::Timestamp;
use clickmill_schemas::tables::Kind;
use object_store::ObjectMeta;
use serde_json::Value;

use super::cast::Empty;
use super::config::{ExportSource, TableMapping};
use super::place::{Place, modified};
use super::rows::Plan;
use super::value::Rule;
use super::{Content, Dataset, Discovery, Export, Format, Notice, Severity, SourceError};

/// What a source without any section of a dataset looks for. Catalogs are taken
/// where they are there, and not missed where not.
const WANTED_BY_DEFAULT: [Dataset; 3] = [Dataset::Orders, Dataset::OrderItems, Dataset::Customers];

pub(super) async fn discover(
    lake: &Lake,
    name: &str,
    source: &ExportSource,
    found: &mut Discovery,
) -> Result<(), SourceError> {
    let place = Place::open(lake, name, &source.path).await?;
    let objects = place.list().await?;
    let mut notices = Notices { source: name, list: &mut found.notices };
    let infos: BTreeMap<&str, (&str, &ObjectMeta)> = objects
        .iter()
        .filter_map(|(path, meta)| {
            let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
            let id = file.strip_prefix("export_info_")?.strip_suffix(".json")?;
            Some((folder, (id, meta)))
        })
        .collect();
    notices.report_loose_files(&place, &objects, &infos);
    if infos.is_empty() && source.mappings().next().is_some() {
        notices.say(
            &source.path,
            "there is no export with an export_info_*.json; nothing is taken",
            "export a snapshot there, or correct its path; what was taken before stays",
        );
    }
    for (folder, (export_id, meta)) in infos {
        let subject = place.shown(meta.location.as_ref());
        let Some(info) = json(&place, meta).await? else {
            notices.say(&subject, "it is not JSON, so the export is not taken", "copy it again");
            continue;
        };
        let status = text(&info, "status").unwrap_or_default();
        if !status.eq_ignore_ascii_case("COMPLETE") {
            notices.say(
                &subject,
                &format!("the export has the status `{status}`, not COMPLETE; it is not taken"),
                "wait for it, or start a new one",
            );
            continue;
        }
        let mut tables = tables(&objects, folder);
        for (path, meta) in below(&objects, folder) {
            let file = path.rsplit_once('/').map_or(path, |(_, file)| file);
            if !file.starts_with("export_tables_info_") {
                continue;
            }
            match json(&place, meta).await? {
                Some(info) => describe(&info, &mut tables),
                None => notices.say(
                    &place.shown(path),
                    "it is not JSON, so the status of its tables is not known",
                    "copy it again",
                ),
            }
        }
        let export = Found {
            source: name,
            export_id,
            exported_at: exported_at(&info, meta),
            tables,
            subject: place.shown(folder),
        };
        for (dataset, mapping, is_wanted) in wanted(source) {
            let outcome = export.dataset(&place, dataset, &mapping, is_wanted);
            match outcome {
                Ok(Some(export)) => found.exports.push(export),
                Ok(None) => {}
                Err((problem, advice)) => notices.say(&export.subject, &problem, &advice),
            }
        }
    }
    Ok(())
}

/// The datasets to look for; the flag says whether a missing one is reported.
fn wanted(source: &ExportSource) -> Vec<(Dataset, TableMapping, bool)> {
    let mapped: Vec<_> =
        source.mappings().map(|(dataset, mapping)| (dataset, mapping.clone(), true)).collect();
    if !mapped.is_empty() {
        return mapped;
    }
    let by_default =
        |dataset| (dataset, TableMapping::default(), WANTED_BY_DEFAULT.contains(&dataset));
    Dataset::ALL.into_iter().map(by_default).collect()
}

/// One table of an export.
#[derive(Default)]
struct Table<'a> {
    files: Vec<&'a ObjectMeta>,
    status: Option<String>,
    columns: Vec<String>,
}

/// A complete export.
struct Found<'a> {
    source: &'a str,
    export_id: &'a str,
    exported_at: Timestamp,
    /// By `database.schema.table`.
    tables: BTreeMap<String, Table<'a>>,
    subject: String,
}

impl Found<'_> {
    /// The export of one dataset. An error is a problem and what to do about it.
    fn dataset(
        &self,
        place: &Place,
        dataset: Dataset,
        mapping: &TableMapping,
        is_wanted: bool,
    ) -> Result<Option<Export>, (String, String)> {
        let wanted = mapping.table.as_deref().unwrap_or(dataset.section());
        let section = format!("[sources.{}.{}]", self.source, dataset.section());
        let matching: Vec<_> = self
            .tables
            .iter()
            .filter(|(table, _)| {
                *table == wanted
                    || table.strip_suffix(wanted).is_some_and(|front| front.ends_with('.'))
            })
            .collect();
        let (name, table) = match matching.as_slice() {
            [one] => *one,
            [] if !is_wanted => return Ok(None),
            [] => {
                let there: Vec<_> = self.tables.keys().map(String::as_str).collect();
                return Err((
                    format!("it has no table `{wanted}`; it has {}", there.join(", ")),
                    format!(
                        "name the table in {section}; RDS leaves a table out without a word when \
                         a column's name has characters beyond letters, digits and _"
                    ),
                ));
            }
            several => {
                let names: Vec<_> = several.iter().map(|(name, _)| name.as_str()).collect();
                return Err((
                    format!("`{wanted}` may be any of {}; none is taken", names.join(", ")),
                    format!("say which by its schema in {section}"),
                ));
            }
        };
        let status = table.status.as_deref().unwrap_or("COMPLETE");
        if !status.eq_ignore_ascii_case("COMPLETE") {
            return Err((
                format!("its table {name} has the status `{status}`; it is not taken"),
                "look at the export task's warnings, and export again".to_owned(),
            ));
        }
        // A table without rows has no file: an export of none, beside which the next is held.
        let export = Export {
            dataset,
            source: self.source.to_owned(),
            export_id: self.export_id.to_owned(),
            exported_at: self.exported_at,
            format: Format::Parquet,
            columns: mapping.columns.clone(),
            content: Content::Snapshot,
            changes: None,
            table: None,
            complete: None,
            lines: None,
            files: table.files.iter().map(|meta| place.file(meta)).collect(),
        };
        if !table.columns.is_empty() {
            let plan = Plan::new(&export, Empty::IsText)
                .map_err(|problem| (problem, format!("correct {section}")))?;
            plan.resolve(&table.columns).map_err(|problem| {
                (
                    format!("in its table {name}, {problem}; it is not taken"),
                    format!("correct {}", plan.section()),
                )
            })?;
        }
        Ok(Some(export))
    }
}

/// The tables of an export by their folders.
fn tables<'a>(
    objects: &'a BTreeMap<String, ObjectMeta>,
    folder: &str,
) -> BTreeMap<String, Table<'a>> {
    let mut tables: BTreeMap<String, Table<'a>> = BTreeMap::new();
    for (path, meta) in below(objects, folder).filter(|(path, _)| is_parquet(path)) {
        let rest = path.strip_prefix(folder).unwrap_or(path).trim_start_matches('/');
        let mut segments = rest.split('/');
        if let (Some(database), Some(table), Some(_)) =
            (segments.next(), segments.next(), segments.next())
        {
            // MySQL's `<schema>.<table>` starts with the database itself.
            let of_database = table.split_once('.').is_some_and(|(schema, _)| schema == database);
            let name = if of_database { table.to_owned() } else { format!("{database}.{table}") };
            tables.entry(name).or_default().files.push(meta);
        }
    }
    tables
}

/// Adds what `export_tables_info_*.json` says.
fn describe(info: &Value, tables: &mut BTreeMap<String, Table<'_>>) {
    let statuses = key(info, "perTableStatus").and_then(Value::as_array);
    for entry in statuses.into_iter().flatten() {
        let Some(target) = text(entry, "target") else { continue };
        let table = tables.entry(target).or_default();
        table.status = text(entry, "status");
        let mappings = key(entry, "schemaMetadata").and_then(|m| key(m, "originalTypeMappings"));
        table.columns = mappings
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|mapping| text(mapping, "columnName"))
            .collect();
    }
}

/// When the snapshot was taken, else when the task began, else when it was described.
fn exported_at(info: &Value, meta: &ObjectMeta) -> Timestamp {
    let rule = Rule::new(Kind::Timestamp, None);
    ["snapshotTime", "taskStartTime"]
        .into_iter()
        .filter_map(|name| text(info, name))
        .find_map(|text| rule.as_ref().ok()?.time(&text).ok())
        .unwrap_or_else(|| modified(meta))
}

fn is_parquet(path: &str) -> bool {
    path.ends_with(".parquet")
}

fn below<'a>(
    objects: &'a BTreeMap<String, ObjectMeta>,
    folder: &str,
) -> impl Iterator<Item = (&'a str, &'a ObjectMeta)> {
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    objects
        .range(prefix.clone()..)
        .take_while(move |(path, _)| path.starts_with(&prefix))
        .map(|(path, meta)| (path.as_str(), meta))
}

async fn json(place: &Place, meta: &ObjectMeta) -> Result<Option<Value>, SourceError> {
    let bytes = place.manifest(meta).await?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// A key whatever its case.
fn key<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object
        .as_object()?
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

fn text(object: &Value, name: &str) -> Option<String> {
    key(object, name)?.as_str().map(str::to_owned)
}

struct Notices<'a> {
    source: &'a str,
    list: &'a mut Vec<Notice>,
}

impl Notices<'_> {
    fn say(&mut self, subject: &str, problem: &str, advice: &str) {
        self.list.push(Notice {
            source: self.source.to_owned(),
            subject: subject.to_owned(),
            severity: Severity::Problem,
            problem: problem.to_owned(),
            advice: advice.to_owned(),
        });
    }

    /// Parquet files without an `export_info_*.json` above them.
    fn report_loose_files(
        &mut self,
        place: &Place,
        objects: &BTreeMap<String, ObjectMeta>,
        infos: &BTreeMap<&str, (&str, &ObjectMeta)>,
    ) {
        let described = |path: &str| {
            infos.keys().any(|folder| {
                folder.is_empty() || path.strip_prefix(folder).is_some_and(|r| r.starts_with('/'))
            })
        };
        let mut folders: Vec<&str> = objects
            .keys()
            .filter(|path| is_parquet(path) && !described(path))
            .map(|path| {
                let below = place.below(path);
                let top = below.split_once('/').map_or("", |(top, _)| top);
                &path[..path.len() - below.len() + top.len()]
            })
            .collect();
        folders.dedup();
        for folder in folders {
            self.say(
                &place.shown(folder),
                "it has Parquet files but no export_info_*.json, so it is not complete and not taken",
                "wait for the export's end or copy the file too; loose Parquet is read by kind = \"files\"",
            );
        }
    }
}
