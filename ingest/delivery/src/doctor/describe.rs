//! Streams and delivery streams as AWS describes them, in the rules' own terms.

use aws_sdk_firehose::types::{
    DataFormatConversionConfiguration, DeliveryStreamStatus, DeliveryStreamType,
    ExtendedS3DestinationDescription, SourceDescription,
};
use aws_sdk_kinesis::types::{RecordDistributionStrategy, StreamMode, StreamStatus};

use super::{Conversion, FirehoseFacts, GlueTable, Source, StreamFacts};

/// What Firehose does where nothing is said. Source: Firehose API Reference, BufferingHints.
const DEFAULT_BUFFER_MIB: i32 = 5;
const DEFAULT_BUFFER_SECONDS: i32 = 300;

/// A description could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot describe {subject}: {reason}")]
pub struct DescribeError {
    /// `kinesis clicks`, `firehose clicks`.
    pub subject: String,
    /// The service's word, with its code.
    pub reason: String,
}

/// Describes a Kinesis stream.
///
/// # Errors
/// [`DescribeError`] where the service does not answer with a description.
pub async fn stream_facts(
    client: &aws_sdk_kinesis::Client,
    stream: &str,
) -> Result<StreamFacts, DescribeError> {
    let failed = |reason: String| DescribeError { subject: format!("kinesis {stream}"), reason };
    let answer = client.describe_stream_summary().stream_name(stream).send().await;
    let answer = answer.map_err(|error| failed(words(&error)))?;
    let Some(summary) = answer.stream_description_summary() else {
        return Err(failed("the answer holds no description".to_owned()));
    };
    let mode = summary.stream_mode_details().map(|details| details.stream_mode());
    let strategy = summary.record_distribution_strategy();
    let number = |value: i32| u32::try_from(value).unwrap_or(0);
    Ok(StreamFacts {
        name: stream.to_owned(),
        is_active: matches!(summary.stream_status(), StreamStatus::Active | StreamStatus::Updating),
        on_demand: mode == Some(&StreamMode::OnDemand),
        open_shards: number(summary.open_shard_count()),
        retention_hours: number(summary.retention_period_hours()),
        distributes_by_itself: strategy == Some(&RecordDistributionStrategy::Auto),
        max_record_kib: summary.max_record_size_in_kib().map(number),
    })
}

/// Describes a delivery stream; the columns of a conversion's table stay unknown.
///
/// # Errors
/// [`DescribeError`] where the service does not answer with a description.
pub async fn firehose_facts(
    client: &aws_sdk_firehose::Client,
    name: &str,
) -> Result<FirehoseFacts, DescribeError> {
    let failed = |reason: String| DescribeError { subject: format!("firehose {name}"), reason };
    let answer = client.describe_delivery_stream().delivery_stream_name(name).send().await;
    let answer = answer.map_err(|error| failed(words(&error)))?;
    let Some(stream) = answer.delivery_stream_description() else {
        return Err(failed("the answer holds no description".to_owned()));
    };
    let source = match (stream.delivery_stream_type(), stream.source()) {
        (DeliveryStreamType::DirectPut, _) => Source::Direct,
        (DeliveryStreamType::KinesisStreamAsSource, source) => Source::Kinesis(arn(source)),
        (other, _) => Source::Other(other.as_str().to_owned()),
    };
    let is_active = stream.delivery_stream_status() == &DeliveryStreamStatus::Active;
    let s3 =
        stream.destinations().first().and_then(|one| one.extended_s3_destination_description());
    let base = FirehoseFacts {
        name: name.to_owned(),
        is_active,
        source,
        bucket: None,
        prefix: String::new(),
        error_prefix: String::new(),
        buffer_mib: 0,
        buffer_seconds: 0,
        is_compressed: false,
        conversion: None,
        processors: Vec::new(),
        is_partitioned: false,
        is_logged: false,
    };
    Ok(s3.map_or(base.clone(), |s3| with_destination(base, s3)))
}

fn arn(source: Option<&SourceDescription>) -> String {
    let kinesis = source.and_then(|source| source.kinesis_stream_source_description());
    kinesis.and_then(|kinesis| kinesis.kinesis_stream_arn()).unwrap_or("unknown").to_owned()
}

fn with_destination(base: FirehoseFacts, s3: &ExtendedS3DestinationDescription) -> FirehoseFacts {
    let hints = s3.buffering_hints();
    let number =
        |value: Option<i32>, default: i32| u32::try_from(value.unwrap_or(default)).unwrap_or(0);
    let processing = s3.processing_configuration().filter(|one| one.enabled() == Some(true));
    let processors = processing.map(|one| one.processors()).unwrap_or_default();
    FirehoseFacts {
        bucket: s3.bucket_arn().rsplit(":::").next().map(str::to_owned),
        prefix: s3.prefix().unwrap_or_default().to_owned(),
        error_prefix: s3.error_output_prefix().unwrap_or_default().to_owned(),
        buffer_mib: number(hints.and_then(|hints| hints.size_in_mbs()), DEFAULT_BUFFER_MIB),
        buffer_seconds: number(
            hints.and_then(|hints| hints.interval_in_seconds()),
            DEFAULT_BUFFER_SECONDS,
        ),
        is_compressed: s3.compression_format().as_str() != "UNCOMPRESSED",
        conversion: s3.data_format_conversion_configuration().and_then(conversion),
        processors: processors.iter().map(|one| one.r#type().as_str().to_owned()).collect(),
        is_partitioned: s3
            .dynamic_partitioning_configuration()
            .is_some_and(|one| one.enabled() == Some(true)),
        is_logged: s3.cloud_watch_logging_options().is_some_and(|one| one.enabled() == Some(true)),
        ..base
    }
}

fn conversion(configured: &DataFormatConversionConfiguration) -> Option<Conversion> {
    // It is on unless it says that it is off.
    if configured.enabled() == Some(false) {
        return None;
    }
    let schema = configured.schema_configuration()?;
    let serializer = configured.output_format_configuration().and_then(|one| one.serializer());
    Some(Conversion {
        table: GlueTable {
            catalog: schema.catalog_id().map(str::to_owned),
            region: schema.region().map(str::to_owned),
            database: schema.database_name().unwrap_or_default().to_owned(),
            name: schema.table_name().unwrap_or_default().to_owned(),
            version: schema.version_id().filter(|id| *id != "LATEST").map(str::to_owned),
        },
        to_parquet: serializer.is_none_or(|one| one.orc_ser_de().is_none()),
        columns: None,
    })
}

/// An SDK's error with its code, message and causes.
fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
