//! Rules for a Kinesis stream.

use super::{Finding, Findings, Rate, Severity};

/// Bytes that a shard takes in a second. Source: Kinesis Data Streams, Quotas and limits.
pub const SHARD_BYTES: f64 = 1_048_576.0;
/// Records that a shard takes in a second. Source: as above.
pub const SHARD_RECORDS: f64 = 1_000.0;
/// Bytes that a shard gives in a second to all who poll it. Source: as above.
pub const SHARD_READ_BYTES: f64 = 2_097_152.0;
/// GetRecords that a shard answers in a second. Source: as above.
pub const SHARD_READS: u32 = 5;
/// Above this part of what the shards take, a peak or an uneven key throttles.
const COMFORTABLE: f64 = 0.7;
/// What survives a weekend: from Friday evening to Monday morning, and some hours to catch up.
const WEEKEND_HOURS: f64 = 72.0;

/// A stream, as described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamFacts {
    /// Its name.
    pub name: String,
    /// It takes and gives records.
    pub is_active: bool,
    /// AWS adds shards by itself.
    pub on_demand: bool,
    /// Shards that take records.
    pub open_shards: u32,
    /// How long it keeps them.
    pub retention_hours: u32,
    /// `RecordDistributionStrategy` is AUTO: partition keys are ignored.
    pub distributes_by_itself: bool,
    /// The largest record that it takes, KiB; `None` where it does not say.
    pub max_record_kib: Option<u32>,
}

/// How a stream is read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// How often at the latest, in hours.
    pub every_hours: Option<f64>,
    /// How long ago it was last read, in hours, where the lake says so.
    pub age_hours: Option<f64>,
    /// Applications that poll it, `deliver` among them; `None` where nobody knows of any.
    pub pollers: Option<u32>,
}

/// Judges a stream. `max_record_bytes`: what the collectors are set to send.
#[must_use]
pub fn stream_findings(
    facts: &StreamFacts,
    rate: Option<Rate>,
    reading: Reading,
    max_record_bytes: Option<u64>,
) -> Vec<Finding> {
    let mut found = Findings::of(format!("kinesis {}", facts.name));
    if !facts.is_active {
        let text = "the stream is not active".to_owned();
        found.add(
            "status",
            Severity::Warning,
            text,
            "wait until it is; a stream that is being deleted loses what it holds",
        );
    }
    retention(facts, reading, &mut found);
    shards(facts, rate, &mut found);
    readers(facts, rate, reading.pollers, &mut found);
    if facts.distributes_by_itself {
        found.add(
            "distribution",
            Severity::Warning,
            "RecordDistributionStrategy is AUTO: partition keys are ignored, so a visitor's events have no order in \
             the stream, and the collector's aggregates go to other shards than it predicts"
                .to_owned(),
            "aws kinesis update-stream-record-distribution-strategy back to partition keys, unless you want it so: \
             the tables are right all the same",
        );
    }
    let kib = facts.max_record_kib.map(u64::from);
    if let (Some(kib), Some(bytes)) = (kib, max_record_bytes)
        && bytes > kib * 1_024
    {
        found.add(
            "record-size",
            Severity::Loss,
            format!(
                "collectors may send records of {bytes} bytes, the stream takes {} at most",
                kib * 1_024
            ),
            "lower [collector.kinesis] max_record_bytes, or aws kinesis update-max-record-size",
        );
    }
    found.all
}

fn retention(facts: &StreamFacts, reading: Reading, found: &mut Findings) {
    let Reading { every_hours, age_hours, .. } = reading;
    const LONGER: &str = "aws kinesis increase-stream-retention-period --retention-period-hours 168, \
                          and run `clickmill deliver` without --once";
    let kept = f64::from(facts.retention_hours);
    if let Some(age) = age_hours.filter(|age| *age >= kept * COMFORTABLE) {
        let severity = if age >= kept { Severity::Loss } else { Severity::Warning };
        let text =
            format!("it was last read {age:.1} hours ago, and keeps records for {kept} hours");
        found.add(
            "lag",
            severity,
            text,
            "run `clickmill deliver` now, and lengthen the retention first",
        );
    }
    match every_hours {
        Some(every) if every >= kept => {
            let text = format!(
                "it keeps records for {kept} hours and is read every {every} hours: what is older is gone"
            );
            found.add("retention", Severity::Loss, text, LONGER);
        }
        Some(every) if every * 2.0 > kept => {
            let text = format!(
                "it keeps records for {kept} hours and is read every {every} hours: one failed run loses data"
            );
            found.add("retention", Severity::Warning, text, LONGER);
        }
        _ if kept < WEEKEND_HOURS => {
            let text = format!(
                "it keeps records for {kept} hours: a reader that stops on Friday evening has lost data on Monday"
            );
            found.add("retention", Severity::Warning, text, LONGER);
        }
        _ => found.ok("retention", format!("it keeps records for {kept} hours")),
    }
}

fn shards(facts: &StreamFacts, rate: Option<Rate>, found: &mut Findings) {
    let Some(rate) = rate else {
        let text = format!("{} open shards; the rate is not known", facts.open_shards);
        return found.add(
            "shards",
            Severity::Note,
            text,
            "give --events-per-second to have them judged",
        );
    };
    if facts.on_demand {
        return found.ok(
            "shards",
            "on demand: AWS adds shards by itself, up to twice the peak of 30 days".to_owned(),
        );
    }
    // Without aggregation a record is an event; with it, bytes are what counts.
    let by_bytes = rate.bytes() / SHARD_BYTES;
    let load = by_bytes / f64::from(facts.open_shards.max(1));
    let needed = (by_bytes / COMFORTABLE).ceil().max(1.0);
    let text = format!(
        "{} open shards at {:.0} events/s of {:.0} bytes: {:.0}% of what they take",
        facts.open_shards,
        rate.events,
        rate.event_bytes,
        load * 100.0
    );
    let fix =
        format!("aws kinesis update-shard-count --target-shard-count {needed}, or on-demand mode");
    if load > 1.0 {
        let text = format!("{text}; collectors' spools fill, and other producers lose records");
        found.add("shards", Severity::Loss, text, &fix);
    } else if load > COMFORTABLE {
        found.add("shards", Severity::Warning, text, &fix);
    } else {
        found.ok("shards", text);
    }
    let records = rate.events / (SHARD_RECORDS * f64::from(facts.open_shards.max(1)));
    if records > 1.0 {
        found.add(
            "aggregation",
            Severity::Note,
            format!("{:.0} events/s are more than {} shards take as records of their own", rate.events, facts.open_shards),
            "keep [collector.kinesis] aggregate_bytes above 0, its default; other producers must aggregate, too",
        );
    }
}

/// All that poll a shard share what it gives.
fn readers(facts: &StreamFacts, rate: Option<Rate>, pollers: Option<u32>, found: &mut Findings) {
    const APART: &str = "give one of them records of its own by enhanced fan-out, `clickmill deliver \
                         --retrieval-mode fan_out=CONSUMER` (docs/deliver.md has its price), or add shards";
    let Some(pollers) = pollers else { return };
    if pollers > SHARD_READS {
        let text = format!(
            "{pollers} applications poll it, and a shard answers {SHARD_READS} requests a second"
        );
        return found.add("readers", Severity::Warning, text, APART);
    }
    let Some(rate) = rate else {
        if pollers > 1 {
            let text =
                format!("{pollers} applications share 2 MB/s of each shard; the rate is not known");
            found.add(
                "readers",
                Severity::Note,
                text,
                "give --events-per-second to have it judged",
            );
        }
        return;
    };
    let shard = rate.bytes() / f64::from(facts.open_shards.max(1));
    let load = shard * f64::from(pollers) / SHARD_READ_BYTES;
    let text = format!(
        "{pollers} applications poll it: {:.0}% of the 2 MB/s that a shard gives to all of them",
        load * 100.0
    );
    if load > COMFORTABLE && pollers > 1 {
        let text = format!("{text}; after an outage they catch up slowly, or never");
        found.add("readers", Severity::Warning, text, APART);
    } else {
        found.ok("readers", text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> StreamFacts {
        StreamFacts {
            name: "clicks".to_owned(),
            is_active: true,
            on_demand: false,
            open_shards: 4,
            retention_hours: 168,
            distributes_by_itself: false,
            max_record_kib: Some(1_024),
        }
    }

    fn severity(found: &[Finding], rule: &str) -> Option<Severity> {
        found.iter().filter(|one| one.rule == rule).map(|one| one.severity).max()
    }

    fn judged(facts: &StreamFacts) -> Vec<Finding> {
        let rate = Rate { events: 100.0, event_bytes: 1_000.0 };
        stream_findings(facts, Some(rate), Reading::default(), None)
    }

    #[test]
    fn a_sound_stream_has_nothing_worse_than_ok() {
        let found = judged(&stream());
        assert!(found.iter().all(|one| one.severity == Severity::Ok), "{found:?}");
    }

    #[test]
    fn retention_is_held_against_the_schedule() {
        let of = |retention_hours, every| {
            let facts = StreamFacts { retention_hours, ..stream() };
            let reading = Reading { every_hours: every, ..Reading::default() };
            severity(&stream_findings(&facts, None, reading, None), "retention")
        };
        assert_eq!(of(24, Some(24.0)), Some(Severity::Loss));
        assert_eq!(of(24, Some(23.9)), Some(Severity::Warning));
        assert_eq!(of(24, Some(12.1)), Some(Severity::Warning));
        assert_eq!(of(24, Some(12.0)), Some(Severity::Warning));
        assert_eq!(of(72, Some(36.0)), Some(Severity::Ok));
        assert_eq!(of(72, Some(36.1)), Some(Severity::Warning));
        assert_eq!(of(71, None), Some(Severity::Warning));
        assert_eq!(of(72, None), Some(Severity::Ok));
    }

    #[test]
    fn a_reader_that_falls_behind_is_told_before_the_stream_trims() {
        let of = |age| {
            let reading = Reading { age_hours: Some(age), ..Reading::default() };
            severity(&stream_findings(&stream(), None, reading, None), "lag")
        };
        assert_eq!(of(100.0), None);
        assert_eq!(of(118.0), Some(Severity::Warning));
        assert_eq!(of(168.0), Some(Severity::Loss));
    }

    #[test]
    fn shards_are_held_against_the_rate() {
        let of = |events, on_demand| {
            let facts = StreamFacts { on_demand, ..stream() };
            let rate = Rate { events, event_bytes: 1_048.576 };
            severity(&stream_findings(&facts, Some(rate), Reading::default(), None), "shards")
        };
        assert_eq!(of(2_799.0, false), Some(Severity::Ok));
        assert_eq!(of(2_801.0, false), Some(Severity::Warning));
        assert_eq!(of(3_999.0, false), Some(Severity::Warning));
        assert_eq!(of(4_001.0, false), Some(Severity::Loss));
        assert_eq!(of(4_001.0, true), Some(Severity::Ok));
        assert_eq!(
            severity(&stream_findings(&stream(), None, Reading::default(), None), "shards"),
            Some(Severity::Note)
        );
        let found = stream_findings(
            &stream(),
            Some(Rate { events: 9_000.0, event_bytes: 1_048.576 }),
            Reading::default(),
            None,
        );
        let shards = found.iter().find(|one| one.rule == "shards").expect("judged");
        assert!(shards.fix.contains("--target-shard-count 13"), "{}", shards.fix);
        assert_eq!(severity(&found, "aggregation"), Some(Severity::Note));
    }

    #[test]
    fn applications_that_poll_share_what_a_shard_gives() {
        let of = |pollers, events: Option<f64>| {
            let rate = events.map(|events| Rate { events, event_bytes: 1_048.576 });
            let reading = Reading { pollers, ..Reading::default() };
            severity(&stream_findings(&stream(), rate, reading, None), "readers")
        };
        assert_eq!(of(None, Some(4_000.0)), None);
        // Four shards give 8,000 such events a second, 5,600 of them in comfort.
        assert_eq!(of(Some(1), Some(4_000.0)), Some(Severity::Ok));
        assert_eq!(of(Some(2), Some(2_799.0)), Some(Severity::Ok));
        assert_eq!(of(Some(2), Some(2_801.0)), Some(Severity::Warning));
        assert_eq!(of(Some(5), Some(100.0)), Some(Severity::Ok));
        assert_eq!(of(Some(6), Some(100.0)), Some(Severity::Warning));
        assert_eq!(of(Some(2), None), Some(Severity::Note));
        assert_eq!(of(Some(1), None), None);
    }

    #[test]
    fn a_stream_that_ignores_keys_or_takes_less_than_is_sent_is_told() {
        let facts = StreamFacts { distributes_by_itself: true, ..stream() };
        assert_eq!(severity(&judged(&facts), "distribution"), Some(Severity::Warning));
        let of = |bytes| {
            let found = stream_findings(&stream(), None, Reading::default(), Some(bytes));
            severity(&found, "record-size")
        };
        assert_eq!(of(1_048_576), None);
        assert_eq!(of(1_048_577), Some(Severity::Loss));
        let facts = StreamFacts { is_active: false, ..stream() };
        assert_eq!(severity(&judged(&facts), "status"), Some(Severity::Warning));
    }
}
