//! Is a source as fresh and as complete as it should be? Pure.

use clickmill_schemas::Timestamp;

use crate::batch::Batch;
use crate::sources::{Notice, Severity, SourceConfig, SourcesConfig};

/// Gaps of one chain that are told one by one; of the rest only how many there are.
const MAX_GAPS_TOLD: usize = 5;
const MICROS_PER_SECOND: i64 = 1_000_000;

/// What to say of the chains and ages of all sources, as of the planning of `batch`.
#[must_use]
pub fn notices(batch: &Batch, sources: &SourcesConfig) -> Vec<Notice> {
    let mut notices = Vec::new();
    let known = |key: &str| key.split('/').next().is_some_and(|name| sources.get(name).is_some());
    for (key, coverage) in batch.coverage.iter().filter(|(key, _)| known(key)) {
        let mut parts = key.splitn(3, '/');
        let (source, dataset, table) = (parts.next(), parts.next(), parts.next());
        let (Some(source), Some(dataset), Some(table)) = (source, dataset, table) else { continue };
        let say = |problem: String, advice: &str| Notice {
            source: source.to_owned(),
            subject: format!("{dataset} from the table {table}"),
            severity: Severity::Problem,
            problem,
            advice: advice.to_owned(),
        };
        if !coverage.has_beginning() {
            notices.push(say(
                "it has changes and no full export or load before the first of them; rows that \
                 did not change since are missing"
                    .to_owned(),
                "give it the full export or load that the changes follow, or make a new one",
            ));
        }
        let gaps = coverage.gaps();
        for (from, to) in gaps.iter().take(MAX_GAPS_TOLD) {
            notices.push(say(
                format!(
                    "no export covers {from} to {to}; rows that changed only then are stale, those \
                     deleted only then stay, the rest is taken"
                ),
                "add the incremental export of that window; a new full export corrects the rows \
                 that it has, and does not say which are gone",
            ));
        }
        if gaps.len() > MAX_GAPS_TOLD {
            notices.push(say(
                format!("there are {} more gaps", gaps.len() - MAX_GAPS_TOLD),
                "add the incremental exports of those windows; a new full export corrects the rows \
                 that it has, and does not say which are gone",
            ));
        }
        // Of other chains windows do not say what is gone either.
        if let Some(SourceConfig::DynamodbExport(_)) = sources.get(source) {
            let unseen = coverage.unseen_deletes();
            let more = match unseen.len().saturating_sub(1) {
                0 => String::new(),
                more => format!(" and {more} times more"),
            };
            notices.extend(unseen.first().map(|(from, to)| {
                let problem = format!(
                    "no incremental export covers {from} to {to}{more}: a full export of later corrected \
                     the rows that it has, and what was deleted only then is still here"
                );
                let advice = "add the incremental export of that window, as long as the table's \
                              point-in-time recovery reaches back";
                Notice { severity: Severity::Remark, ..say(problem, advice) }
            }));
        }
    }
    notices.extend(stale(batch, sources, batch.created_at));
    notices
}

fn stale(batch: &Batch, sources: &SourcesConfig, now: Timestamp) -> Vec<Notice> {
    let mut notices = Vec::new();
    for (name, source) in sources.iter() {
        let Some(every) = source.expect().every else { continue };
        let of_source = batch.newest_exports.iter().filter_map(|(key, at)| {
            let (source, dataset) = key.split_once('/')?;
            (source == name).then_some((dataset, *at))
        });
        for (dataset, at) in of_source {
            let age = (now.micros() - at.micros()) / MICROS_PER_SECOND;
            if u64::try_from(age).is_ok_and(|age| age > every.seconds()) {
                notices.push(Notice {
                    source: name.to_owned(),
                    subject: dataset.to_owned(),
                    severity: Severity::Problem,
                    problem: format!(
                        "the newest export is of {at}, {} hours old; nothing newer is there",
                        age / 3_600
                    ),
                    advice: "look at the job that exports it; expect.every says how old is told"
                        .to_owned(),
                });
            }
        }
    }
    notices
}
