//! Rules for a delivery stream.

use super::glue::GlueTable;
use super::schema::schema;
use super::{Finding, Findings, Rate, Severity};
use crate::firehose::RawLocation;

/// A file smaller than this costs more to open than to read: the usual advice for Athena
/// and Spark is 128 MB; below this it shows.
const SMALL_FILE: f64 = 8.0 * 1_048_576.0;
/// What gzip makes of event lines, as measured (docs/spool.md, 16 KiB blocks).
const GZIP_RATIO: f64 = 6.0;
/// The longest that Firehose buffers. Source: Firehose API Reference, BufferingHints.
const MAX_BUFFER_SECONDS: u32 = 900;
/// A delivery stream, as described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirehoseFacts {
    /// Its name.
    pub name: String,
    /// It takes records.
    pub is_active: bool,
    /// Where its records come from.
    pub source: Source,
    /// Its bucket; `None` where its destination is not S3.
    pub bucket: Option<String>,
    /// Its prefix, as configured.
    pub prefix: String,
    /// Its error prefix, as configured.
    pub error_prefix: String,
    /// It cuts an object at this size, MiB.
    pub buffer_mib: u32,
    /// Or after this time, seconds.
    pub buffer_seconds: u32,
    /// It compresses what it writes.
    pub is_compressed: bool,
    /// It converts to a columnar format.
    pub conversion: Option<Conversion>,
    /// Types of its processors.
    pub processors: Vec<String>,
    /// It partitions by values in the records.
    pub is_partitioned: bool,
    /// It logs its errors to CloudWatch.
    pub is_logged: bool,
}

/// Where records come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// PutRecord and PutRecordBatch.
    Direct,
    /// A Kinesis stream, by its ARN.
    Kinesis(String),
    /// Something else.
    Other(String),
}

/// Format conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// Its schema, in the Glue Data Catalog.
    pub table: GlueTable,
    /// Parquet; else ORC.
    pub to_parquet: bool,
    /// The table's columns, where they are known.
    pub columns: Option<Vec<GlueColumn>>,
}

/// A column of a Glue table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlueColumn {
    /// Its name; Glue's are lower case.
    pub name: String,
    /// Its Hive type.
    pub hive_type: String,
}

/// Judges a delivery stream. `raw`: what `etl run` is configured to take in.
#[must_use]
pub fn firehose_findings(
    facts: &FirehoseFacts,
    rate: Option<Rate>,
    raw: &[RawLocation],
) -> Vec<Finding> {
    let mut found = Findings::of(format!("firehose {}", facts.name));
    if !facts.is_active {
        let text = "the delivery stream is not active".to_owned();
        found.add(
            "status",
            Severity::Loss,
            text,
            "what is put meanwhile is refused: see its failure description",
        );
    }
    let Some(bucket) = &facts.bucket else {
        let text = "its destination is not S3".to_owned();
        found.add(
            "destination",
            Severity::Warning,
            text,
            "`etl run` reads S3 only: add an S3 destination",
        );
        return found.all;
    };
    delimiter(facts, &mut found);
    error_prefix(facts, &mut found);
    buffering(facts, rate, &mut found);
    if let Some(conversion) = &facts.conversion {
        schema(conversion, &mut found);
    }
    is_read(facts, bucket, raw, &mut found);
    if !facts.is_logged {
        let text = "it does not log to CloudWatch: a denied bucket or key shows nowhere".to_owned();
        found.add("logging", Severity::Note, text, "switch on CloudWatch error logging");
    }
    if facts.processors.iter().any(|one| one == "Lambda") {
        let text = "a Lambda transforms the records".to_owned();
        found.add("lambda", Severity::Note, text, "what it drops is dropped: `clickmill audit` shows collectors' numbers that are missing");
    }
    found.all
}

fn delimiter(facts: &FirehoseFacts, found: &mut Findings) {
    let appends = facts.processors.iter().any(|one| one == "AppendDelimiterToRecord");
    if facts.conversion.is_some() {
        found.ok("delimiter", "format conversion needs none".to_owned());
    } else if appends {
        found.ok("delimiter", "it appends a newline to each record".to_owned());
    } else {
        found.add(
            "delimiter",
            Severity::Warning,
            "it does not append a newline to records: of those run together (`}{`) Athena and other readers of lines \
             see the first and drop the rest. clickmill reads all, and its collectors end each record with one"
                .to_owned(),
            "add the AppendDelimiterToRecord processor (delimiter \\n)",
        );
    }
}

fn error_prefix(facts: &FirehoseFacts, found: &mut Findings) {
    if !facts.error_prefix.is_empty() {
        return found.ok("error-prefix", format!("failed records go to {}", facts.error_prefix));
    }
    found.add(
        "error-prefix",
        Severity::Warning,
        "it has no error prefix: what it cannot deliver lies among the data, where nobody looks for it".to_owned(),
        "set ErrorOutputPrefix, such as errors/!{firehose:error-output-type}/!{timestamp:yyyy/MM/dd}/, \
         and the same as error_prefix under [[raw]]",
    );
}

fn buffering(facts: &FirehoseFacts, rate: Option<Rate>, found: &mut Findings) {
    let FirehoseFacts { buffer_mib, buffer_seconds, .. } = facts;
    let hints = format!("it writes an object every {buffer_mib} MiB or {buffer_seconds} s");
    let longest = format!("BufferingHints: IntervalInSeconds {MAX_BUFFER_SECONDS}, SizeInMBs 128");
    let Some(rate) = rate else {
        let (severity, fix) = match *buffer_seconds {
            0..=60 => (Severity::Warning, longest.as_str()),
            _ => (Severity::Note, "give --events-per-second to have it judged"),
        };
        return found.add("buffering", severity, format!("{hints}; the rate is not known"), fix);
    };
    let filled =
        (rate.bytes() * f64::from(*buffer_seconds)).min(f64::from(*buffer_mib) * 1_048_576.0);
    let stored = if facts.is_compressed || facts.conversion.is_some() {
        filled / GZIP_RATIO
    } else {
        filled
    };
    let a_day = rate.bytes() * 86_400.0 / filled.max(1.0);
    let text = format!(
        "{hints}: at this rate about {:.1} MiB each, {a_day:.0} a day",
        stored / 1_048_576.0
    );
    if stored >= SMALL_FILE {
        found.ok("buffering", text);
    } else if *buffer_seconds >= MAX_BUFFER_SECONDS {
        found.add("buffering", Severity::Note, format!("{text}: no setting makes them larger"), "");
    } else {
        found.add(
            "buffering",
            Severity::Warning,
            format!("{text}: tiny files are slow and dear to read"),
            &longest,
        );
    }
    if facts.is_partitioned {
        let text =
            "it partitions by values: each value has objects of its own, so they are smaller still"
                .to_owned();
        found.add(
            "partitions",
            Severity::Note,
            text,
            "partition by few values, or not: the ETL partitions by day",
        );
    }
}

fn is_read(facts: &FirehoseFacts, bucket: &str, raw: &[RawLocation], found: &mut Findings) {
    let in_bucket = |one: &&RawLocation| {
        let rest = one.location.strip_prefix("s3://").unwrap_or_default();
        rest.split('/').next() == Some(bucket)
    };
    let whole = |one: &RawLocation, prefix: &str| {
        let rest = one.location.strip_prefix("s3://").and_then(|rest| rest.split_once('/'));
        let below = rest.map_or("", |(_, below)| below.trim_matches('/'));
        if below.is_empty() { prefix.to_owned() } else { format!("{below}/{prefix}") }
    };
    let Some(_) = raw.iter().find(in_bucket) else {
        let text = format!("no [[raw]] of the configuration reads the bucket {bucket}");
        return found.add("read", Severity::Note, text, "add one where `etl run` is to take it in");
    };
    let wanted = facts.prefix.trim_start_matches('/');
    let matching = raw
        .iter()
        .filter(in_bucket)
        .any(|one| whole(one, &one.prefix_text).trim_start_matches('/') == wanted);
    if matching {
        found.ok("read", format!("[[raw]] reads its prefix `{wanted}`"));
    } else {
        let text = format!(
            "[[raw]] reads the bucket {bucket}, but no prefix `{wanted}`: what is delivered is not taken in"
        );
        found.add(
            "read",
            Severity::Loss,
            text,
            "set [[raw]] location and prefix as the delivery stream has them",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> FirehoseFacts {
        FirehoseFacts {
            name: "clicks".to_owned(),
            is_active: true,
            source: Source::Direct,
            bucket: Some("shop".to_owned()),
            prefix: "clicks/".to_owned(),
            error_prefix: "errors/".to_owned(),
            buffer_mib: 128,
            buffer_seconds: 900,
            is_compressed: true,
            conversion: None,
            processors: vec!["AppendDelimiterToRecord".to_owned()],
            is_partitioned: false,
            is_logged: true,
        }
    }

    fn raw(text: &str) -> Vec<RawLocation> {
        vec![toml::from_str(text).expect("reads")]
    }

    const RATE: Option<Rate> = Some(Rate { events: 1_000.0, event_bytes: 1_000.0 });

    fn severity(facts: &FirehoseFacts, rule: &str) -> Option<Severity> {
        let found =
            firehose_findings(facts, RATE, &raw("location = 's3://shop'\nprefix = 'clicks/'"));
        found.iter().filter(|one| one.rule == rule).map(|one| one.severity).max()
    }

    #[test]
    fn a_sound_delivery_stream_has_nothing_worse_than_ok() {
        for configured in
            ["location = 's3://shop/clicks'", "location = 's3://shop'\nprefix = 'clicks/'"]
        {
            let found = firehose_findings(&facts(), RATE, &raw(configured));
            assert!(found.iter().all(|one| one.severity == Severity::Ok), "{found:?}");
        }
    }

    #[test]
    fn a_missing_delimiter_and_a_missing_error_prefix_are_told() {
        let bare = FirehoseFacts { processors: vec![], error_prefix: String::new(), ..facts() };
        assert_eq!(severity(&bare, "delimiter"), Some(Severity::Warning));
        assert_eq!(severity(&bare, "error-prefix"), Some(Severity::Warning));
        assert_eq!(severity(&facts(), "delimiter"), Some(Severity::Ok));
    }

    #[test]
    fn tiny_files_are_told_by_the_rate() {
        let every =
            |buffer_seconds| severity(&FirehoseFacts { buffer_seconds, ..facts() }, "buffering");
        // 1 MB/s, a sixth when compressed: 8 MiB take 50.3 s.
        assert_eq!(every(50), Some(Severity::Warning));
        assert_eq!(every(51), Some(Severity::Ok));
        let slow =
            firehose_findings(&facts(), Some(Rate { events: 1.0, event_bytes: 1_000.0 }), &[]);
        let of = slow.iter().find(|one| one.rule == "buffering").expect("judged");
        assert_eq!((of.severity, of.fix.as_str()), (Severity::Note, ""));
        let unknown =
            firehose_findings(&FirehoseFacts { buffer_seconds: 60, ..facts() }, None, &[]);
        assert!(
            unknown.iter().any(|one| one.rule == "buffering" && one.severity == Severity::Warning)
        );
    }

    #[test]
    fn a_prefix_that_nobody_reads_is_told() {
        assert_eq!(severity(&facts(), "read"), Some(Severity::Ok));
        let other = FirehoseFacts { prefix: "events/".to_owned(), ..facts() };
        assert_eq!(severity(&other, "read"), Some(Severity::Loss));
        let elsewhere = FirehoseFacts { bucket: Some("another".to_owned()), ..facts() };
        assert_eq!(severity(&elsewhere, "read"), Some(Severity::Note));
    }

    #[test]
    fn other_destinations_lambdas_and_states_are_told() {
        assert_eq!(
            severity(&FirehoseFacts { bucket: None, ..facts() }, "destination"),
            Some(Severity::Warning)
        );
        assert_eq!(
            severity(&FirehoseFacts { is_active: false, ..facts() }, "status"),
            Some(Severity::Loss)
        );
        assert_eq!(
            severity(&FirehoseFacts { is_logged: false, ..facts() }, "logging"),
            Some(Severity::Note)
        );
        assert_eq!(
            severity(&FirehoseFacts { is_partitioned: true, ..facts() }, "partitions"),
            Some(Severity::Note)
        );
        let processors = vec!["Lambda".to_owned()];
        assert_eq!(
            severity(&FirehoseFacts { processors, ..facts() }, "lambda"),
            Some(Severity::Note)
        );
    }
}
