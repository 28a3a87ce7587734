//! The lineage columns of the tables, and nothing else of them.
//!
//! Files that hold nothing received in the range are not opened; of the others
//! five narrow columns are read, each file once, on all cores.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use arrow::array::{Array as _, AsArray, DictionaryArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, Int32Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType,
};
use clickmill_lake::Lake;
use clickmill_lake::table::{DataFile, Table};
use clickmill_schemas::tables::{EVENT_DUPLICATES, EVENTS, REJECTS, TableSpec};
use futures::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use parquet::errors::ParquetError;

use super::columns_of::StoredFile;
use super::lines::widen;
use super::report::{BadObject, Place};
use super::seqs::{Run, Seqs};
use super::shards::Positions;
use super::{Scope, Window};
use crate::TransformError;

/// Rows decoded at a time.
const BATCH_ROWS: usize = 8_192;
/// The columns that are read. A table that lacks one has NULL there.
const COLUMNS: [&str; 5] =
    ["collector_id", "wal_seq", "received_ts", "shard_id", "sequence_number"];

/// One of the three tables that account for numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `events`.
    Events,
    /// `event_duplicates`.
    Duplicates,
    /// `rejects`.
    Rejects,
}

const KINDS: [Kind; 3] = [Kind::Events, Kind::Duplicates, Kind::Rejects];

impl Kind {
    /// Its table.
    #[must_use]
    pub fn spec(self) -> &'static TableSpec {
        match self {
            Self::Events => &EVENTS,
            Self::Duplicates => &EVENT_DUPLICATES,
            Self::Rejects => &REJECTS,
        }
    }
}

/// What the tables hold of one collector.
#[derive(Debug, Default)]
pub struct CollectorRows {
    /// Its numbers.
    pub seqs: Seqs,
    /// Rows received in the range that was asked for, by table.
    pub counts: [u64; 3],
    /// Least and greatest of those received in the range that was asked for.
    pub inside: Option<Run>,
    /// Some came through a stream.
    pub via_stream: bool,
}

/// What the tables hold.
#[derive(Debug, Default)]
pub struct Rows {
    /// By collector id.
    pub collectors: BTreeMap<String, CollectorRows>,
    /// Rows by commit: see [`Positions::find`].
    pub by_commit: HashMap<usize, u64>,
    /// Of those without a collector's number, hashes of their sequence numbers: nothing else
    /// tells them apart.
    unnumbered: HashMap<usize, Vec<(u64, Kind)>>,
    /// Of those, how many have a sequence number that another one has, by commit.
    repeated: HashMap<usize, u64>,
    /// Of those again, how many in `events`: queries count them twice.
    pub doubled: HashMap<usize, u64>,
    /// Rows without a collector's number.
    pub without_lineage: u64,
    /// Files that the log names and that cannot be read.
    pub bad: Vec<BadObject>,
}

/// One row's lineage.
#[derive(Clone, Copy, Debug)]
pub struct RowLineage<'a> {
    /// The table.
    pub kind: Kind,
    /// `None` where it has none.
    pub collector_id: Option<&'a str>,
    /// 0 where it has none.
    pub wal_seq: i64,
    /// `None` where it did not come through a stream.
    pub shard_id: Option<&'a str>,
    /// Likewise.
    pub sequence_number: Option<&'a str>,
}

/// The files of the three tables that hold rows received in the window.
///
/// # Errors
/// [`TransformError::Lake`] where a log cannot be read.
pub async fn files(lake: &Lake, window: Window) -> Result<Vec<(Kind, DataFile)>, TransformError> {
    let mut files = Vec::new();
    for kind in KINDS {
        let Some(table) = Table::open(lake, kind.spec()).await? else { continue };
        let touched = table.files().iter().filter(|file| match file.received_range() {
            Some((first, last)) => window.overlaps(first, last),
            None => true,
        });
        files.extend(touched.map(|file| (kind, file.clone())));
    }
    Ok(files)
}

/// Counts every row of the files.
///
/// # Errors
/// [`TransformError::File`] where the store fails.
pub async fn scan(
    lake: &Lake,
    files: &[(Kind, DataFile)],
    scope: Scope,
    positions: &Arc<Positions>,
) -> Result<Rows, TransformError> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut groups: Vec<(u64, Vec<(Kind, DataFile)>)> = vec![(0, Vec::new()); workers];
    for (kind, file) in files {
        if let Some(least) = groups.iter_mut().min_by_key(|(rows, _)| *rows) {
            least.0 += file.rows.max(1);
            least.1.push((*kind, file.clone()));
        }
    }
    let tasks = groups.into_iter().map(|(_, files)| {
        let (lake, positions) = (lake.clone(), Arc::clone(positions));
        tokio::spawn(async move {
            let mut rows = Rows::default();
            for (kind, file) in files {
                scan_file(&lake, kind, &file, scope, &positions, &mut rows).await?;
            }
            Ok::<_, TransformError>(rows)
        })
    });
    let mut all = Rows::default();
    for task in futures::future::join_all(tasks).await {
        all.merge(task.map_err(|source| TransformError::Worker { job: "audit", source })??);
    }
    all.bad.sort_by(|a, b| a.path.cmp(&b.path));
    for (commit, mut hashes) in std::mem::take(&mut all.unnumbered) {
        hashes.sort_unstable();
        let repeats = hashes.windows(2).filter(|pair| pair[0].0 == pair[1].0);
        let (mut repeated, mut doubled) = (0, 0);
        for pair in repeats {
            repeated += 1;
            // A record that was rejected and replayed is a reject and an event.
            doubled += u64::from(pair[0].1 == Kind::Events && pair[1].1 == Kind::Events);
        }
        all.repeated.insert(commit, repeated);
        all.doubled.insert(commit, doubled);
    }
    Ok(all)
}

impl Rows {
    /// Records of a commit that have a row.
    #[must_use]
    pub fn records_of(&self, commit: usize) -> u64 {
        let of = |counts: &HashMap<usize, u64>| counts.get(&commit).copied().unwrap_or(0);
        of(&self.by_commit) - of(&self.repeated)
    }

    fn merge(&mut self, other: Self) {
        for (id, theirs) in other.collectors {
            self.collectors.entry(id).or_default().merge(theirs);
        }
        for (commit, rows) in other.by_commit {
            *self.by_commit.entry(commit).or_default() += rows;
        }
        for (commit, hashes) in other.unnumbered {
            self.unnumbered.entry(commit).or_default().extend(hashes);
        }
        self.without_lineage += other.without_lineage;
        self.bad.extend(other.bad);
    }
}

impl CollectorRows {
    fn merge(&mut self, other: Self) {
        self.seqs.merge(other.seqs);
        self.via_stream |= other.via_stream;
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        if let Some((first, last)) = other.inside {
            self.inside = Some(widen(Some(widen(self.inside, first)), last));
        }
    }
}

async fn scan_file(
    lake: &Lake,
    kind: Kind,
    file: &DataFile,
    scope: Scope,
    positions: &Positions,
    rows: &mut Rows,
) -> Result<(), TransformError> {
    let outcome = read_file(lake, kind, file, !positions.is_empty(), |batch| {
        count(batch, kind, scope, positions, rows);
    });
    note_bad(lake, kind, file, outcome.await, &mut rows.bad).await
}

/// Calls `visit` with every row of the files; those that cannot be read were said before.
///
/// # Errors
/// [`TransformError::File`] where the store fails.
pub async fn each_row(
    lake: &Lake,
    files: &[(Kind, DataFile)],
    mut visit: impl FnMut(RowLineage<'_>),
) -> Result<(), TransformError> {
    let mut bad = Vec::new();
    for (kind, file) in files {
        let outcome = read_file(lake, *kind, file, true, |batch| {
            let Some(columns) = Columns::of(batch) else { return };
            for at in 0..batch.num_rows() {
                visit(columns.row(*kind, at));
            }
        });
        note_bad(lake, *kind, file, outcome.await, &mut bad).await?;
    }
    Ok(())
}

/// A file that is gone or no Parquet is part of the report; a store that fails is not.
async fn note_bad(
    lake: &Lake,
    kind: Kind,
    file: &DataFile,
    outcome: Result<(), ParquetError>,
    bad: &mut Vec<BadObject>,
) -> Result<(), TransformError> {
    let Err(error) = outcome else { return Ok(()) };
    let path = path_of(kind, file);
    let gone = matches!(lake.store().head(&path).await, Err(object_store::Error::NotFound { .. }));
    let problem = match &error {
        _ if gone => "it is not there, but the table's log names it".to_owned(),
        ParquetError::External(_) => {
            return Err(TransformError::File { path: path.to_string(), source: error });
        }
        other => format!("it cannot be read: {other}"),
    };
    let place = if kind == Kind::Rejects { Place::Quarantine } else { Place::Table };
    let records = file.rows;
    bad.push(BadObject { path: path.to_string(), place, problem, records, taken: true });
    Ok(())
}

fn path_of(kind: Kind, file: &DataFile) -> Path {
    Path::from(format!("tables/{}/{}", kind.spec().name, file.path))
}

/// Whether sequence numbers are wanted: they are the widest of the columns.
async fn read_file(
    lake: &Lake,
    kind: Kind,
    file: &DataFile,
    with_positions: bool,
    mut visit: impl FnMut(&RecordBatch),
) -> Result<(), ParquetError> {
    let (store, path) = (Arc::clone(lake.store()), path_of(kind, file));
    let mut reader = StoredFile { store, path, bytes: file.bytes };
    let metadata = ArrowReaderMetadata::load_async(&mut reader, ArrowReaderOptions::new()).await?;
    let wanted = &COLUMNS[..if with_positions { COLUMNS.len() } else { COLUMNS.len() - 1 }];
    let metadata = as_dictionaries(&metadata).unwrap_or(metadata);
    let mask = ProjectionMask::columns(metadata.parquet_schema(), wanted.iter().copied());
    let mut batches = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, metadata)
        .with_projection(mask)
        .with_batch_size(BATCH_ROWS)
        .build()?;
    while let Some(batch) = batches.try_next().await? {
        visit(&batch);
    }
    Ok(())
}

/// The same file, its ids read as dictionaries: a collector's id is then compared
/// once a batch and not once a row.
fn as_dictionaries(metadata: &ArrowReaderMetadata) -> Option<ArrowReaderMetadata> {
    let fields = metadata.schema().fields().iter().map(|field| match field.name().as_str() {
        "collector_id" | "shard_id" => {
            Arc::new(Field::new(field.name(), dictionary(), field.is_nullable()))
        }
        _ => Arc::clone(field),
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let options = ArrowReaderOptions::new().with_schema(schema);
    ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options).ok()
}

fn dictionary() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// The columns of a batch, in the types that are expected, whoever wrote the file.
struct Columns {
    collector: Option<DictionaryArray<Int32Type>>,
    wal_seq: Option<arrow::array::Int64Array>,
    received: Option<arrow::array::TimestampMicrosecondArray>,
    shard: Option<DictionaryArray<Int32Type>>,
    sequence: Option<arrow::array::StringArray>,
}

impl Columns {
    fn of(batch: &RecordBatch) -> Option<Self> {
        let column = |name: &str, to: DataType| {
            batch.column_by_name(name).and_then(|column| cast(column, &to).ok())
        };
        let ids = |name: &str| column(name, dictionary()).map(|c| c.as_dictionary().clone());
        let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        Some(Self {
            collector: ids("collector_id"),
            wal_seq: column("wal_seq", DataType::Int64)
                .map(|column| column.as_primitive::<Int64Type>().clone()),
            received: column("received_ts", instant)
                .map(|column| column.as_primitive::<TimestampMicrosecondType>().clone()),
            shard: ids("shard_id"),
            sequence: column("sequence_number", DataType::Utf8).map(|c| c.as_string().clone()),
        })
    }

    fn row(&self, kind: Kind, at: usize) -> RowLineage<'_> {
        RowLineage {
            kind,
            collector_id: self.collector.as_ref().and_then(|ids| text(ids, at)),
            wal_seq: self.wal_seq(at),
            shard_id: self.shard.as_ref().and_then(|ids| text(ids, at)),
            sequence_number: self.sequence(at),
        }
    }

    fn wal_seq(&self, at: usize) -> i64 {
        self.wal_seq.as_ref().filter(|seqs| seqs.is_valid(at)).map_or(0, |seqs| seqs.value(at))
    }

    fn received(&self, at: usize) -> i64 {
        let received = self.received.as_ref().filter(|times| times.is_valid(at));
        received.map_or(0, |times| times.value(at))
    }

    fn sequence(&self, at: usize) -> Option<&str> {
        self.sequence.as_ref().filter(|texts| texts.is_valid(at)).map(|texts| texts.value(at))
    }
}

fn text(ids: &DictionaryArray<Int32Type>, at: usize) -> Option<&str> {
    let key = ids.key(at)?;
    let values = ids.values().as_string::<i32>();
    values.is_valid(key).then(|| values.value(key))
}

fn count(batch: &RecordBatch, kind: Kind, scope: Scope, positions: &Positions, rows: &mut Rows) {
    let Some(columns) = Columns::of(batch) else { return };
    // A collector's rows are looked up by the dictionary's key, which few values have.
    let mut by_key: Vec<Option<CollectorRows>> = Vec::new();
    let keys = columns.collector.as_ref();
    by_key.resize_with(keys.map_or(0, |ids| ids.values().len()), || None);
    for at in 0..batch.num_rows() {
        let (seq, received) = (columns.wal_seq(at), columns.received(at));
        let shard = columns.shard.as_ref().and_then(|ids| text(ids, at));
        let key = keys.and_then(|ids| ids.key(at)).filter(|_| seq > 0);
        if let (Some(shard), Some(sequence)) = (shard, columns.sequence(at))
            && let Some(commit) = positions.find(shard, sequence)
        {
            *rows.by_commit.entry(commit).or_default() += 1;
            if key.is_none() {
                let mut hasher = DefaultHasher::new();
                sequence.hash(&mut hasher);
                rows.unnumbered.entry(commit).or_default().push((hasher.finish(), kind));
            }
        }
        let Some(key) = key else {
            rows.without_lineage += u64::from(scope.asked.contains(received));
            continue;
        };
        let slot = &mut by_key[key];
        if slot.is_none() {
            let id = keys.and_then(|ids| text(ids, at)).unwrap_or_default();
            // Taken out for the batch, so that no row needs a lookup by text.
            *slot = Some(rows.collectors.remove(id).unwrap_or_default());
        }
        if let Some(mine) = slot {
            if scope.scanned.contains(received) {
                mine.seqs.add(seq, received);
            }
            mine.via_stream |= shard.is_some();
            if scope.asked.contains(received) {
                mine.counts[kind as usize] += 1;
                mine.inside = Some(widen(mine.inside, seq));
            }
        }
    }
    let Some(ids) = keys else { return };
    let values = ids.values().as_string::<i32>();
    for (key, mine) in by_key.into_iter().enumerate() {
        let Some(mine) = mine else { continue };
        // Two keys of one dictionary may have the same text.
        let id = if values.is_valid(key) { values.value(key) } else { "" };
        match rows.collectors.get_mut(id) {
            Some(there) => there.merge(mine),
            None => {
                rows.collectors.insert(id.to_owned(), mine);
            }
        }
    }
}
