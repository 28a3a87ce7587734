//! The lake: can it be reached, does conditional PUT hold, do clocks agree, when was a
//! stream last read and how fast does it come.

use std::time::Duration;

use clickmill_lake::landing::{list_sources, survey};
use clickmill_lake::raw::RawKind;
use clickmill_lake::{Lake, LakeError};
use clickmill_schemas::Timestamp;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt as _, PutMode, PutOptions};

use super::{Finding, Findings, Severity};

/// Requests are refused when clocks are further apart. Source: Amazon S3,
/// RequestTimeTooSkewed.
const REFUSED_SKEW: Duration = Duration::from_secs(15 * 60);
/// Beyond this, times of receipt and lags are off by what people notice.
const NOTICED_SKEW: Duration = Duration::from_secs(30);
/// Commits that are looked at for the rate.
const RATE_OVER: Duration = Duration::from_secs(24 * 3_600);

/// What a lake's store does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LakeFacts {
    /// Its URL.
    pub url: String,
    /// Why it cannot be listed; `None` where it can.
    pub unreachable: Option<String>,
    /// Why nothing can be written; `None` where it can.
    pub unwritable: Option<String>,
    /// A second PUT of the same name was refused, as it must be.
    pub refuses_overwrite: bool,
    /// What was written was there at once.
    pub reads_its_writes: bool,
    /// How far the store's clock is ahead of ours, microseconds; `None` where unknown.
    pub skew_micros: Option<i64>,
}

/// What a stream's chains say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Landed {
    /// The last commit of any shard.
    pub last_commit: Option<Timestamp>,
    /// Events a second in the busiest hour of the last day.
    pub peak_events_per_second: Option<f64>,
}

/// Tries a lake's store out, with one small object that it removes again.
pub async fn probe(lake: &Lake) -> LakeFacts {
    let mut facts = LakeFacts { url: lake.url().to_string(), ..LakeFacts::default() };
    if let Err(error) = lake.store().list_with_delimiter(None).await {
        facts.unreachable = Some(error.to_string());
        return facts;
    }
    let path = Path::from(format!("_clickmill/doctor/{}", uuid::Uuid::new_v4()));
    let create = || PutOptions::from(PutMode::Create);
    let before = Timestamp::now();
    if let Err(error) = lake.store().put_opts(&path, "clickmill doctor".into(), create()).await {
        facts.unwritable = Some(error.to_string());
        return facts;
    }
    let after = Timestamp::now();
    let second = lake.store().put_opts(&path, "a second writer".into(), create()).await;
    facts.refuses_overwrite =
        matches!(second, Err(Error::AlreadyExists { .. } | Error::Precondition { .. }));
    let listed: Result<Vec<_>, _> =
        lake.store().list(Some(&Path::from("_clickmill/doctor"))).try_collect().await;
    let listed = listed.unwrap_or_default().into_iter().find(|meta| meta.location == path);
    facts.reads_its_writes = listed.is_some();
    // S3 counts whole seconds: the middle of that second, against the middle of the request.
    facts.skew_micros = listed.map(|meta| {
        let theirs = meta.last_modified.timestamp() * 1_000_000 + 500_000;
        theirs - (before.micros() + after.micros()) / 2
    });
    if let Err(error) = lake.store().delete(&path).await {
        tracing::warn!(path = path.as_ref(), %error, "the doctor's object could not be removed");
    }
    facts
}

/// Judges a lake's store.
#[must_use]
pub fn lake_findings(facts: &LakeFacts) -> Vec<Finding> {
    let mut found = Findings::of("lake".to_owned());
    if let Some(reason) = &facts.unreachable {
        let text = format!("{} cannot be listed: {reason}", facts.url);
        found.add(
            "reachable",
            Severity::Loss,
            text,
            "check the bucket's name, the region, credentials and s3:ListBucket",
        );
        return found.all;
    }
    found.ok("reachable", format!("{} can be listed", facts.url));
    if let Some(reason) = &facts.unwritable {
        let text = format!("nothing can be written: {reason}");
        found.add(
            "writable",
            Severity::Loss,
            text,
            "grant s3:PutObject, and kms:GenerateDataKey where the bucket is encrypted with a key",
        );
        return found.all;
    }
    if facts.refuses_overwrite {
        found.ok("conditional-put", "a second writer of the same object is refused".to_owned());
    } else {
        found.add(
            "conditional-put",
            Severity::Loss,
            "a second PUT with If-None-Match replaced the first: two writers would both believe that they committed"
                .to_owned(),
            "use a store that honours conditional PUT (AWS S3, SeaweedFS, MinIO, R2), not through a gateway that drops the header",
        );
    }
    if !facts.reads_its_writes {
        let text = "an object that was written is not listed at once".to_owned();
        found.add(
            "consistency",
            Severity::Loss,
            text,
            "use a store with strong consistency: commits would be overlooked",
        );
    }
    match facts.skew_micros {
        None => {
            found.add("clock", Severity::Note, "the store does not say its time".to_owned(), "")
        }
        Some(skew) => {
            let off = Duration::from_micros(skew.unsigned_abs());
            let way = if skew > 0 { "behind" } else { "ahead of" };
            let text =
                format!("this machine's clock is {:.1} s {way} the store's", off.as_secs_f64());
            let fix = "synchronise it (chrony, systemd-timesyncd)";
            match off {
                off if off >= REFUSED_SKEW => {
                    found.add(
                        "clock",
                        Severity::Loss,
                        format!("{text}: S3 refuses such requests"),
                        fix,
                    );
                }
                off if off >= NOTICED_SKEW => found.add("clock", Severity::Warning, text, fix),
                _ => found.ok("clock", text),
            }
        }
    }
    found.all
}

/// What the chains of a stream say of the last day.
///
/// # Errors
/// [`LakeError::Store`] where they cannot be read.
pub async fn landed(lake: &Lake, stream: &str, now: Timestamp) -> Result<Landed, LakeError> {
    let mut landed = Landed::default();
    let mut by_hour: std::collections::BTreeMap<(clickmill_schemas::Date, u8), u64> =
        std::collections::BTreeMap::new();
    for source in list_sources(lake).await? {
        let mut parts = source.as_str().split('/').skip(1);
        // `<stream>-<creation>`
        let name = parts.next().and_then(|part| part.rsplit_once('-')).map(|(name, _)| name);
        if source.kind() != "kinesis" || name != Some(stream) {
            continue;
        }
        let chain = survey(lake, &source, Some(now.saturating_sub(RATE_OVER))).await?;
        for commit in &chain.commits {
            landed.last_commit = landed.last_commit.max(Some(commit.committed_at));
            let events = commit.objects.iter().filter(|object| object.kind == RawKind::Events);
            for object in events {
                let at = object.max_received_ts;
                *by_hour.entry((at.date(), at.hour())).or_default() += object.records;
            }
        }
    }
    landed.peak_events_per_second = by_hour.values().max().map(|events| *events as f64 / 3_600.0);
    Ok(landed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lake() -> LakeFacts {
        LakeFacts {
            url: "s3://lake/".to_owned(),
            unreachable: None,
            unwritable: None,
            refuses_overwrite: true,
            reads_its_writes: true,
            skew_micros: Some(-400_000),
        }
    }

    fn severity(facts: &LakeFacts, rule: &str) -> Option<Severity> {
        lake_findings(facts).iter().find(|one| one.rule == rule).map(|one| one.severity)
    }

    #[test]
    fn a_sound_lake_has_nothing_worse_than_ok() {
        assert!(lake_findings(&lake()).iter().all(|one| one.severity == Severity::Ok));
    }

    #[test]
    fn a_store_that_lets_two_writers_win_is_told() {
        let facts = LakeFacts { refuses_overwrite: false, ..lake() };
        assert_eq!(severity(&facts, "conditional-put"), Some(Severity::Loss));
        let facts = LakeFacts { reads_its_writes: false, ..lake() };
        assert_eq!(severity(&facts, "consistency"), Some(Severity::Loss));
    }

    #[test]
    fn clocks_are_held_against_what_s3_refuses() {
        let of = |seconds: i64| {
            severity(&LakeFacts { skew_micros: Some(seconds * 1_000_000), ..lake() }, "clock")
        };
        assert_eq!(of(29), Some(Severity::Ok));
        assert_eq!(of(-30), Some(Severity::Warning));
        assert_eq!(of(899), Some(Severity::Warning));
        assert_eq!(of(-900), Some(Severity::Loss));
        assert_eq!(
            severity(&LakeFacts { skew_micros: None, ..lake() }, "clock"),
            Some(Severity::Note)
        );
    }

    #[test]
    fn what_cannot_be_reached_or_written_is_told_and_nothing_else() {
        let facts = LakeFacts { unreachable: Some("no such bucket".to_owned()), ..lake() };
        assert_eq!(lake_findings(&facts).len(), 1);
        assert_eq!(severity(&facts, "reachable"), Some(Severity::Loss));
        let facts = LakeFacts { unwritable: Some("denied".to_owned()), ..lake() };
        assert_eq!(severity(&facts, "writable"), Some(Severity::Loss));
        assert_eq!(severity(&facts, "conditional-put"), None);
    }

    #[tokio::test]
    async fn a_folder_is_a_sound_lake_and_nothing_of_the_trial_stays() {
        let folder = tempfile::tempdir().expect("temp");
        let lake = Lake::open(&folder.path().display().to_string()).await.expect("opens");
        let found = lake_findings(&probe(&lake).await);
        assert!(found.iter().all(|one| one.severity == Severity::Ok), "{found:?}");
        let left: Vec<_> = lake.store().list(None).try_collect().await.expect("lists");
        assert_eq!(left, []);
    }
}
