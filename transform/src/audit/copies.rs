//! What arrived more than once.

use std::collections::{BTreeMap, BTreeSet};

use clickmill_lake::Lake;
use clickmill_lake::table::DataFile;

use super::MAX_RANGES;
use super::locate::Facts;
use super::report::{Duplicate, Place};
use super::seqs::Seqs;
use super::tables::{self, Kind};
use crate::TransformError;

/// What arrived more than once, and where it was repeated: told by the lineage of the
/// copies, for which the rows are read again.
///
/// # Errors
/// [`TransformError::File`] where the store fails.
pub async fn duplicates(
    lake: &Lake,
    known: &[Facts<'_>],
    files: &[(Kind, DataFile)],
) -> Result<Vec<Duplicate>, TransformError> {
    let repeated: BTreeMap<&str, &Seqs> = known
        .iter()
        .filter_map(|one| Some((one.id, &one.rows?.seqs)))
        .filter(|(_, seqs)| seqs.again().next().is_some())
        .collect();
    if repeated.is_empty() {
        return Ok(Vec::new());
    }
    let mut wanted: BTreeMap<&str, BTreeMap<i64, Vec<CopyOf>>> = BTreeMap::new();
    for (id, seqs) in &repeated {
        let numbers = seqs.again().flat_map(|run| run.0..=run.1).take(MAX_RANGES);
        wanted.insert(*id, numbers.map(|number| (number, Vec::new())).collect());
    }
    tables::each_row(lake, files, |row| {
        let copies = row.collector_id.and_then(|id| wanted.get_mut(id));
        if let Some(copies) = copies.and_then(|of| of.get_mut(&row.wal_seq)) {
            let place = row.shard_id.zip(row.sequence_number);
            copies.push(CopyOf {
                kind: row.kind,
                carrier: place.map(|(shard, number)| (shard.to_owned(), number.to_owned())),
            });
        }
    })
    .await?;
    let mut found: Vec<Duplicate> = Vec::new();
    for (id, numbers) in wanted {
        for (number, copies) in numbers {
            let (place, doubled, detail) = judge_copies(&copies);
            match found.last_mut() {
                Some(last)
                    if last.collector_id == id
                        && last.last + 1 == number
                        && (last.place, last.doubled, &last.detail)
                            == (place, doubled, &detail) =>
                {
                    last.last = number;
                    last.count += 1;
                }
                _ => found.push(Duplicate {
                    collector_id: id.to_owned(),
                    first: number,
                    last: number,
                    count: 1,
                    place,
                    doubled,
                    detail,
                }),
            }
        }
    }
    Ok(found)
}

/// A row of a position that has several.
struct CopyOf {
    kind: Kind,
    /// Shard and sequence number.
    carrier: Option<(String, String)>,
}

fn judge_copies(copies: &[CopyOf]) -> (Place, bool, String) {
    let carriers: BTreeSet<_> = copies.iter().map(|copy| &copy.carrier).collect();
    let in_events = copies.iter().filter(|copy| copy.kind == Kind::Events).count();
    let doubled = in_events > 1;
    let kinds: BTreeSet<Kind> = copies.iter().map(|copy| copy.kind).collect();
    let tables: Vec<&str> = kinds.iter().map(|kind| kind.spec().name).collect();
    let (place, how) = match carriers.iter().next() {
        _ if kinds.contains(&Kind::Rejects) && in_events == 1 => {
            (Place::Quarantine, "a reject that was replayed")
        }
        _ if carriers.len() > 1 => (Place::Stream, "put into the stream more than once"),
        Some(Some(_)) => (Place::Raw, "the same record of the stream was taken in more than once"),
        _ => (Place::Raw, "landed, or taken in, more than once"),
    };
    let places = if doubled { Place::Table } else { place };
    let detail = format!("{} rows in {}: {how}", copies.len(), tables.join(", "));
    (places, doubled, detail)
}
