//! The loop of a service that takes and refuses records one by one: rounds of
//! calls until it has the whole batch. It is the one owner of a record's retry.
//!
//! Records that are refused go again alone, after decorrelated jitter. After
//! [`ATTEMPTS`] rounds in a row in which nothing got through, or a call that
//! failed as a whole, the shipper takes over, with longer waits; what the batch
//! already got through stays noted ([`Progress`]).

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::error::ProvideErrorMetadata;

use super::SinkError;
use super::progress::{CallCaps, Progress, Ready, cut};
use crate::backoff::Backoff;

/// Rounds in a row in which nothing gets through, before the shipper is told.
pub(super) const ATTEMPTS: usize = 8;
/// A call that has no answer by now counts as failed; it may have succeeded.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection that is not made by now counts as failed (the SDKs' own default).
const CONNECT_TIMEOUT: Duration = Duration::from_millis(3_100);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// What stands for the code of a record that an answer says nothing of.
const NO_RESULT: &str = "no result";
/// Codes of a whole call that do not pass by themselves. Sources: the API
/// References of PutRecords and PutRecordBatch, and AWS' common errors.
const NEEDS_SOMEBODY: &[&str] = &[
    "ResourceNotFoundException",
    "AccessDeniedException",
    "InvalidArgumentException",
    "ValidationException",
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "KMSAccessDeniedException",
    "KMSDisabledException",
    "KMSInvalidStateException",
    "KMSNotFoundException",
    "KMSOptInRequired",
    "InvalidKMSResourceException",
    "InvalidSourceException",
];

/// A service, as the loop sees it.
pub(super) trait Service: Send {
    /// What a call carries several of.
    type Record: Send + Sync;

    /// Its caps on a call.
    fn caps(&self) -> CallCaps;

    /// What of a record counts against them.
    fn size(record: &Self::Record) -> usize;

    /// Which of the pending records may go now.
    fn ready(&mut self, progress: &Progress<Self::Record>) -> Ready;

    /// One call with these records.
    fn call(
        &self,
        records: &[Self::Record],
        indexes: &[usize],
    ) -> impl Future<Output = Result<Settled, SinkError>> + Send;

    /// Counts what became of them, and learns from it.
    fn note(&mut self, records: &[Self::Record], settled: &Settled);

    /// True where what is pending may stay behind, so that the next batch need
    /// not wait for it.
    fn holds(&self, _progress: &Progress<Self::Record>) -> bool {
        false
    }

    /// What to tell the shipper after [`ATTEMPTS`]: `refused` names how many of
    /// how many, and why.
    fn refuses(&self, refused: &str) -> SinkError;
}

/// Sends what is pending, in rounds, until nothing is or the service holds the rest.
pub(super) async fn drive<S: Service>(
    service: &mut S,
    progress: &mut Progress<S::Record>,
) -> Result<(), SinkError> {
    drive_with(service, progress, Backoff::new(FIRST_RETRY, LAST_RETRY)).await
}

async fn drive_with<S: Service>(
    service: &mut S,
    progress: &mut Progress<S::Record>,
    first: Backoff,
) -> Result<(), SinkError> {
    let mut backoff = first;
    let mut in_vain = 0;
    while !progress.pending.is_empty() {
        let ready = match service.ready(progress) {
            Ready::Now(ready) => ready,
            Ready::After(_) if service.holds(progress) => return Ok(()),
            Ready::After(wait) => {
                tokio::time::sleep(wait).await;
                continue;
            }
        };
        let before = progress.pending.len();
        let mut why = None;
        for call in cut(&ready, service.caps(), |n| S::size(&progress.records[n])) {
            let settled = service.call(&progress.records, &call).await?;
            service.note(&progress.records, &settled);
            let taken: Vec<usize> = settled.taken.iter().map(|(index, _)| *index).collect();
            progress.settle(&taken);
            why = settled.refused.into_iter().next().map(|(_, code)| code).or(why);
        }
        if progress.pending.len() < before {
            in_vain = 0;
            backoff = first;
        } else {
            in_vain += 1;
        }
        let Some(why) = why else { continue };
        if service.holds(progress) {
            return Ok(());
        }
        if in_vain == ATTEMPTS {
            let (pending, all) = (progress.pending.len(), progress.records.len());
            let refused = format!("{pending} of {all} records in {ATTEMPTS} attempts ({why})");
            return Err(service.refuses(&refused));
        }
        tokio::time::sleep(backoff.next()).await;
    }
    Ok(())
}

/// What became of a call's records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// The service has these, ascending; each with its shard, where told.
    pub taken: Vec<(usize, Option<String>)>,
    /// It refused these, with the code.
    pub refused: Vec<(usize, String)>,
}

/// What an answer says of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer<'a> {
    /// `None` where it was taken.
    pub error_code: Option<&'a str>,
    /// Where it landed, where told.
    pub shard: Option<&'a str>,
}

impl Settled {
    /// `answers` are in the order of `indexes`. An answer that is too short says
    /// nothing of the rest: that goes again.
    pub fn of<'a>(indexes: &[usize], answers: impl IntoIterator<Item = Answer<'a>>) -> Self {
        let mut settled = Self::default();
        let mut answers = answers.into_iter();
        for &index in indexes {
            match answers.next() {
                Some(Answer { error_code: None, shard }) => {
                    settled.taken.push((index, shard.map(str::to_owned)));
                }
                Some(Answer { error_code: Some(code), .. }) => {
                    settled.refused.push((index, code.to_owned()));
                }
                None => settled.refused.push((index, NO_RESULT.to_owned())),
            }
        }
        settled
    }
}

/// What a call as a whole failed with, `operation` being its name and the stream's.
pub(super) fn call_failed<E>(operation: &str, error: E) -> SinkError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let code = error.code().unwrap_or("no answer");
    let message = format!("{operation} failed ({code})");
    let failed = match NEEDS_SOMEBODY.contains(&code) {
        true => SinkError::permanent(message),
        false => SinkError::retryable(message),
    };
    failed.with_source(error)
}

/// How long a client waits. Its own retries are to be switched off.
pub(super) fn timeouts(call: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(call)
        .build()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use super::*;
    use crate::sink::SinkBatch;

    /// Says to each call what the script says next: the codes of its records.
    struct Scripted {
        script: Mutex<VecDeque<Vec<Option<&'static str>>>>,
        calls: Mutex<Vec<Vec<usize>>>,
        noted: usize,
    }

    impl Service for Scripted {
        type Record = u8;

        fn caps(&self) -> CallCaps {
            CallCaps { records: 3, bytes: 100 }
        }

        fn size(record: &u8) -> usize {
            usize::from(*record)
        }

        fn ready(&mut self, progress: &Progress<u8>) -> Ready {
            Ready::Now(progress.pending.clone())
        }

        async fn call(&self, _: &[u8], indexes: &[usize]) -> Result<Settled, SinkError> {
            self.calls.lock().expect("lock").push(indexes.to_vec());
            let codes = self.script.lock().expect("lock").pop_front().unwrap_or_default();
            let answers = codes.into_iter().map(|error_code| Answer { error_code, shard: None });
            Ok(Settled::of(indexes, answers))
        }

        fn note(&mut self, _: &[u8], settled: &Settled) {
            self.noted += settled.taken.len() + settled.refused.len();
        }

        fn refuses(&self, refused: &str) -> SinkError {
            SinkError::retryable(format!("it refused {refused}"))
        }
    }

    fn progress(records: Vec<u8>) -> Progress<u8> {
        let collector_id = "c".to_owned();
        let batch =
            SinkBatch { collector_id, first_wal_seq: 1, last_wal_seq: 9, records: Vec::new() };
        Progress::new(&batch, records)
    }

    async fn run(
        script: &[&[Option<&'static str>]],
        progress: &mut Progress<u8>,
    ) -> (Result<(), SinkError>, Scripted) {
        let script = script.iter().map(|codes| codes.to_vec()).collect();
        let mut service =
            Scripted { script: Mutex::new(script), calls: Mutex::default(), noted: 0 };
        let at_once = Backoff::new(Duration::ZERO, Duration::ZERO);
        let outcome = drive_with(&mut service, progress, at_once).await;
        (outcome, service)
    }

    #[tokio::test]
    async fn only_what_is_refused_or_unanswered_goes_again() {
        let mut progress = progress(vec![1; 4]);
        let script: &[&[Option<&str>]] = &[
            &[None, Some("Throttled"), None],
            &[None],
            // The answer is too short: it says nothing of the record.
            &[],
            &[None],
        ];
        let (outcome, service) = run(script, &mut progress).await;
        outcome.expect("all is taken");
        assert_eq!(
            *service.calls.lock().expect("lock"),
            [vec![0, 1, 2], vec![3], vec![1], vec![1]]
        );
        assert_eq!(service.noted, 6);
        assert!(progress.pending.is_empty());
    }

    #[tokio::test]
    async fn eight_rounds_in_vain_are_told_and_what_was_taken_stays_noted() {
        let mut progress = progress(vec![1, 1]);
        let mut script: Vec<&[Option<&str>]> = vec![&[Some("Busy"), Some("Busy")]; 7];
        // A round in which something gets through starts the count anew.
        script.push(&[Some("Busy"), None]);
        script.extend([&[Some("Busy")] as &[Option<&str>]; ATTEMPTS]);
        let (outcome, service) = run(&script, &mut progress).await;
        let told = outcome.expect_err("it refuses").to_string();
        assert_eq!(told, "it refused 1 of 2 records in 8 attempts (Busy)");
        assert_eq!(service.calls.lock().expect("lock").len(), 16);
        assert_eq!(progress.pending, [0]);
    }

    #[test]
    fn a_records_result_settles_it_and_a_missing_one_does_not() {
        let answer = |error_code, shard| Answer { error_code, shard };
        let answers =
            [answer(None, Some("s")), answer(Some("Throttled"), None), answer(None, Some("s"))];
        let settled = Settled::of(&[3, 5, 8, 9], answers);
        let s = || Some("s".to_owned());
        assert_eq!(settled.taken, [(3, s()), (8, s())]);
        let refused = [(5, "Throttled".to_owned()), (9, "no result".to_owned())];
        assert_eq!(settled.refused, refused);
    }
}
