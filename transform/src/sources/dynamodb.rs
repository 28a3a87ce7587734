//! Finds full and incremental exports of DynamoDB tables.
//!
//! ```text
//! [<prefix>/]AWSDynamoDB/<export>/manifest-summary.json   table, time, format, item count
//! [<prefix>/]AWSDynamoDB/<export>/manifest-files.json     one line a data file: key, items, MD5
//! [<prefix>/]AWSDynamoDB/<export>/data/*.json.gz          of a full export
//! [<prefix>/]AWSDynamoDB/data/*.json.gz                   of all incremental exports
//! ```
//!
//! The manifest alone says which files belong. An incremental export covers
//! [exportFromTime, exportToTime) and has the last state of every item written
//! then, as of that write; whether windows overlap or leave gaps is seen where
//! batches are planned ([`super::coverage`]), since exports go away in time.
//! The `.checksum` files beside it
//! are verified where they are there, each data file's MD5 when it is read.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clickmill_lake::Lake;
use clickmill_schemas::Timestamp;
use clickmill_schemas::tables::Kind;
use md5::{Digest as _, Md5};
use object_store::ObjectMeta;
use serde::Deserialize;

use super::config::{ExportSource, TableMapping};
use super::place::{Place, modified};
use super::value::Rule;
use super::{
    Content, Dataset, Discovery, Export, Format, InputFile, Notice, Severity, SourceError,
};

const FOLDER: &str = "AWSDynamoDB/";
const SUMMARY: &str = "manifest-summary";
const FILES: &str = "manifest-files";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    table_arn: String,
    export_time: Option<String>,
    #[serde(default)]
    output_format: String,
    item_count: Option<u64>,
    #[serde(default)]
    export_type: String,
    export_from_time: Option<String>,
    export_to_time: Option<String>,
    output_view: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DataFile {
    item_count: Option<u64>,
    md5_checksum: Option<String>,
    #[serde(rename = "dataFileS3Key")]
    key: String,
}

/// Why an export is not taken, and what to do.
type Refusal = (String, String);

pub(super) async fn discover(
    lake: &Lake,
    name: &str,
    source: &ExportSource,
    found: &mut Discovery,
) -> Result<(), SourceError> {
    let place = Place::open(lake, name, &source.path).await?;
    let objects = place.list().await?;
    let before = found.exports.len();
    for folder in folders(&objects) {
        let outcome = match Manifest::read(&place, &objects, folder).await? {
            Ok(manifest) => manifest.export(name, source),
            Err(refusal) => Err(refusal),
        };
        match outcome {
            Ok(export) => found.exports.push(export),
            Err((problem, advice)) => found.notices.push(Notice {
                source: name.to_owned(),
                subject: place.shown(folder),
                severity: Severity::Problem,
                problem,
                advice,
            }),
        }
    }
    for (dataset, mapping) in source.mappings() {
        if found.exports[before..].iter().any(|export| export.dataset == dataset) {
            continue;
        }
        let table = mapping.table.as_deref().unwrap_or(dataset.section());
        found.notices.push(Notice {
            source: name.to_owned(),
            subject: source.path.clone(),
            severity: Severity::Problem,
            problem: format!("it has no export of the table `{table}` that can be taken"),
            advice: format!(
                "export the table, or correct [sources.{name}.{}]; what was taken before stays",
                dataset.section()
            ),
        });
    }
    Ok(())
}

/// The folders of exports, finished or not: those right below `AWSDynamoDB/` other than
/// the `data/` that incremental exports share, and any with a summary.
fn folders(objects: &BTreeMap<String, ObjectMeta>) -> Vec<&str> {
    let mut folders: Vec<&str> = objects
        .keys()
        .filter_map(|path| {
            if let Some(folder) = path.strip_suffix(&format!("/{SUMMARY}.json")) {
                return Some(folder);
            }
            let start = path.find(FOLDER)? + FOLDER.len();
            let id = path[start..].split_once('/')?.0;
            (id != "data").then(|| &path[..start + id.len()])
        })
        .collect();
    folders.sort_unstable();
    folders.dedup();
    folders
}

/// What the manifest of one export says.
struct Manifest {
    export_id: String,
    table: String,
    exported_at: Timestamp,
    content: Content,
    files: Vec<InputFile>,
}

impl Manifest {
    async fn read(
        place: &Place,
        objects: &BTreeMap<String, ObjectMeta>,
        folder: &str,
    ) -> Result<Result<Self, Refusal>, SourceError> {
        let Some(meta) = objects.get(&format!("{folder}/{SUMMARY}.json")) else {
            return Ok(Err(refusal(
                "it has no manifest-summary.json, so it is not complete and not taken",
                "wait for the export's end; if it failed, export again",
            )));
        };
        let summary = match checked(place, objects, folder, SUMMARY).await? {
            Ok(bytes) => bytes,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let summary: Summary = match serde_json::from_slice(&summary) {
            Ok(summary) => summary,
            Err(error) => {
                let problem = format!("its manifest-summary.json does not decode: {error}");
                return Ok(Err(refusal(&problem, "copy the export again")));
            }
        };
        if let Err(refusal) = supported(&summary) {
            return Ok(Err(refusal));
        }
        let files = match checked(place, objects, folder, FILES).await? {
            Ok(bytes) => bytes,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let content = match content(&summary) {
            Ok(content) => content,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let exported_at = match &content {
            Content::Window { to, .. } => *to,
            _ => time(summary.export_time.as_deref()).unwrap_or_else(|| modified(meta)),
        };
        let folders = match &content {
            // Beside the export's own folder, shared by all.
            Content::Window { .. } => {
                let above = folder.rsplit_once('/').map_or("", |(above, _)| above);
                vec![format!("{above}/data"), format!("{folder}/data")]
            }
            _ => vec![format!("{folder}/data")],
        };
        let files = data_files(place, objects, &folders, &files, summary.item_count);
        Ok(files.map(|files| Self {
            export_id: folder.rsplit_once('/').map_or(folder, |(_, id)| id).to_owned(),
            table: table_of(&summary.table_arn).to_owned(),
            exported_at,
            content,
            files,
        }))
    }

    fn export(self, name: &str, source: &ExportSource) -> Result<Export, Refusal> {
        let named = source.mappings().find(|(dataset, mapping)| {
            mapping.table.as_deref().unwrap_or(dataset.section()) == self.table
        });
        let by_name = || {
            let is_open = source.mappings().next().is_none();
            Some((guess(&self.table).filter(|_| is_open)?, TableMapping::default()))
        };
        let mapped = named.map(|(dataset, mapping)| (dataset, mapping.clone())).or_else(by_name);
        let Some((dataset, mapping)) = mapped else {
            return Err((
                format!(
                    "it is of the table `{}`, which no mapping names; it is not taken",
                    self.table
                ),
                format!("for a catalog: [sources.{name}.products] table = \"{}\"", self.table),
            ));
        };
        Ok(Export {
            dataset,
            source: name.to_owned(),
            export_id: self.export_id,
            exported_at: self.exported_at,
            format: Format::DynamodbJson,
            columns: mapping.columns,
            content: self.content,
            changes: None,
            table: Some(self.table),
            complete: None,
            lines: None,
            files: self.files,
        })
    }
}

fn supported(summary: &Summary) -> Result<(), Refusal> {
    if summary.output_format.eq_ignore_ascii_case("ION") {
        return Err(refusal(
            "its data is in the format ION, which is not read; it is not taken",
            "export again with the format DYNAMODB_JSON",
        ));
    }
    if !matches!(summary.output_format.as_str(), "" | "DYNAMODB_JSON") {
        let problem = format!("its data is in the unknown format {}", summary.output_format);
        return Err(refusal(&problem, "export again with the format DYNAMODB_JSON"));
    }
    Ok(())
}

/// A full export, or a window of changes.
fn content(summary: &Summary) -> Result<Content, Refusal> {
    let is_window = summary.export_type.starts_with("INCREMENTAL")
        || (summary.export_type.is_empty() && summary.export_from_time.is_some());
    if !is_window {
        return Ok(Content::Snapshot);
    }
    let view = summary.output_view.as_deref().unwrap_or("NEW_IMAGE");
    if !matches!(view, "NEW_IMAGE" | "NEW_AND_OLD_IMAGES") {
        return Err(refusal(
            &format!("it has the unknown outputView {view}; it is not taken"),
            "export again with the view NEW_IMAGE or NEW_AND_OLD_IMAGES",
        ));
    }
    match (time(summary.export_from_time.as_deref()), time(summary.export_to_time.as_deref())) {
        (Some(from), Some(to)) if from < to => Ok(Content::Window { from, to }),
        _ => Err(refusal(
            "its exportFromTime and exportToTime are no window; it is not taken",
            "copy the export again",
        )),
    }
}

/// A time of a manifest, as AWS and its emulators write it.
fn time(text: Option<&str>) -> Option<Timestamp> {
    Rule::new(Kind::Timestamp, None).ok()?.time(text?).ok()
}

/// A manifest's bytes, equal to its checksum where that is there.
async fn checked(
    place: &Place,
    objects: &BTreeMap<String, ObjectMeta>,
    folder: &str,
    name: &str,
) -> Result<Result<Vec<u8>, Refusal>, SourceError> {
    let Some(meta) = objects.get(&format!("{folder}/{name}.json")) else {
        let problem = format!("it has no {name}.json, so it is not complete and not taken");
        return Ok(Err(refusal(&problem, "copy the export again")));
    };
    let Some(bytes) = place.manifest(meta).await? else {
        let problem = format!("its {name}.json is too large to be one");
        return Ok(Err(refusal(&problem, "copy the export again")));
    };
    if let Some(meta) = objects.get(&format!("{folder}/{name}.checksum")) {
        let expected = place.manifest(meta).await?.unwrap_or_default();
        let expected = String::from_utf8_lossy(&expected);
        if expected.trim() != STANDARD.encode(Md5::digest(&bytes)) {
            let problem = format!("its {name}.json is not the one that {name}.checksum is of");
            return Ok(Err(refusal(&problem, "copy the export again")));
        }
    }
    Ok(Ok(bytes))
}

fn data_files(
    place: &Place,
    objects: &BTreeMap<String, ObjectMeta>,
    folders: &[String],
    manifest: &[u8],
    item_count: Option<u64>,
) -> Result<Vec<InputFile>, Refusal> {
    let mut files = Vec::new();
    let lines = manifest.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    for line in lines.filter(|line| !line.is_empty()) {
        let entry: DataFile = serde_json::from_slice(line).map_err(|error| {
            refusal(
                &format!("a line of its manifest-files.json does not decode: {error}"),
                "copy the export again",
            )
        })?;
        // The key is that of the bucket that was exported to; the export may have been copied.
        let file = entry.key.rsplit_once('/').map_or(entry.key.as_str(), |(_, file)| file);
        let at = |folder: &String| objects.get(format!("{folder}/{file}").trim_start_matches('/'));
        let Some(meta) = folders.iter().find_map(at) else {
            let named = folders.first().map_or("data", String::as_str);
            return Err(refusal(
                &format!("its manifest names {named}/{file}, which is not there; it is not taken"),
                "copy the export again, data and all",
            ));
        };
        files.push(InputFile {
            md5_base64: entry.md5_checksum,
            items: entry.item_count,
            ..place.file(meta)
        });
    }
    let counted: Option<u64> = files.iter().map(|file| file.items).sum();
    if let (Some(counted), Some(expected)) = (counted, item_count)
        && counted != expected
    {
        return Err(refusal(
            &format!(
                "its summary says {expected} items, its list of files {counted}; it is not taken"
            ),
            "copy the export again",
        ));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// `arn:aws:dynamodb:<region>:<account>:table/<name>`
fn table_of(arn: &str) -> &str {
    let name = arn.split_once(":table/").map_or(arn, |(_, name)| name);
    name.split_once('/').map_or(name, |(name, _)| name)
}

/// What a table is by its name, where no mapping says so: `orders`, `shop-orders`,
/// `prod.catalog`.
fn guess(table: &str) -> Option<Dataset> {
    let is = |name: &str| {
        let front = table.strip_suffix(name);
        front.is_some_and(|front| front.is_empty() || front.ends_with(['-', '_', '.']))
    };
    [
        ("order_items", Dataset::OrderItems),
        ("orders", Dataset::Orders),
        ("customers", Dataset::Customers),
        ("products", Dataset::ProductObservations),
        ("catalog", Dataset::ProductObservations),
        ("carts", Dataset::Carts),
    ]
    .into_iter()
    .find(|(name, _)| is(name))
    .map(|(_, dataset)| dataset)
}

fn refusal(problem: &str, advice: &str) -> Refusal {
    (problem.to_owned(), advice.to_owned())
}
