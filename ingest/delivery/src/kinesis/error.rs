//! What can end a delivery, and what is only a reason to try again.

use std::error::Error;
use std::time::Duration;

use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use clickmill_lake::LakeError;

use super::lease::LeaseError;

/// Why a delivery ended early. What was committed stays; a restart goes on from there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeliverError {
    /// The stream is not there.
    #[error(
        "there is no stream {stream} in this account and region: check its name, \
         AWS_REGION and AWS_ENDPOINT_URL_KINESIS"
    )]
    NoStream {
        /// Its name.
        stream: String,
    },
    /// The stream is there, and has no such shard any more.
    #[error("the stream {stream} has no shard {shard} any more")]
    NoShard {
        /// The stream's name.
        stream: String,
        /// The shard.
        shard: String,
    },
    /// Kinesis refused a request that would be refused again.
    #[error("Kinesis refused {operation} on {subject}")]
    Refused {
        /// The API's name of the request.
        operation: &'static str,
        /// Stream or shard.
        subject: String,
        /// Kinesis' word.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Every attempt that was allowed failed.
    #[error("{operation} on {subject} failed {attempts} times in {elapsed:?}, the limit")]
    GaveUp {
        /// The API's name of the request.
        operation: &'static str,
        /// Stream or shard.
        subject: String,
        /// How often it was tried.
        attempts: u32,
        /// For how long.
        elapsed: Duration,
        /// The last failure.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The stream has more shards than one worker reads.
    #[error(
        "the stream {stream} has {shards} shards to read, one worker takes {limit}: \
         share them by --leases lake, with more workers"
    )]
    TooManyShards {
        /// Its name.
        stream: String,
        /// How many are there.
        shards: usize,
        /// The limit.
        limit: usize,
    },
    /// The consumer for enhanced fan-out cannot be registered or looked up.
    #[error("Kinesis refused {operation} of the consumer {consumer} on {stream}: {help}")]
    ConsumerRefused {
        /// The API's name of the request.
        operation: &'static str,
        /// The consumer's name.
        consumer: String,
        /// The stream's name.
        stream: String,
        /// What to do about it.
        help: &'static str,
        /// Kinesis' word.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The consumer for enhanced fan-out does not get ready.
    #[error(
        "the consumer {consumer} of {stream} is still {status} after {waited:?}: see \
         `aws kinesis describe-stream-consumer`, and start again once it is ACTIVE or gone"
    )]
    ConsumerNotActive {
        /// The consumer's name.
        consumer: String,
        /// The stream's name.
        stream: String,
        /// As AWS says it.
        status: String,
        /// For how long.
        waited: Duration,
    },
    /// An answer of Kinesis lacks what every answer has.
    #[error("Kinesis answered {operation} without {missing}")]
    Incomplete {
        /// The API's name of the request.
        operation: &'static str,
        /// What is not there.
        missing: &'static str,
    },
    /// The lake failed.
    #[error("cannot land records of {subject}")]
    Lake {
        /// The shard.
        subject: String,
        /// The lake's word.
        #[source]
        source: Box<LakeError>,
    },
    /// The leases could not be read or changed.
    #[error("cannot share the stream's shards with other workers")]
    Lease(#[from] LeaseError),
    /// A worker's task ended by a defect in this program.
    #[error("a worker ended unexpectedly; please report this")]
    Worker(#[from] tokio::task::JoinError),
}

impl DeliverError {
    /// The lake failed over that shard or stream.
    pub(super) fn lake(subject: impl Into<String>, source: LakeError) -> Self {
        Self::Lake { subject: subject.into(), source: Box::new(source) }
    }

    /// It may be different the next time.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Lease(LeaseError::Request { .. }) => true,
            Self::Lake { source, .. } => {
                matches!(**source, LakeError::Store { .. } | LakeError::LostRace { .. })
            }
            _ => false,
        }
    }
}

/// What to do about a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Wait and ask again: throttles, time-outs, failures inside Kinesis.
    Passing,
    /// Wait and ask again, loudly: somebody has to restore a right or a key.
    NeedsAction,
    /// The iterator or token is too old: get a new one.
    Expired,
    /// The stream or shard does not exist (any more).
    Gone,
    /// It would be refused again.
    Refused,
}

impl Fault {
    /// By the error codes of the Kinesis API reference.
    pub(super) fn of<E: ProvideErrorMetadata>(error: &SdkError<E>) -> Self {
        match error.as_service_error().and_then(ProvideErrorMetadata::code) {
            Some(code) => Self::of_code(code),
            // Never answered, or not readably so.
            None => Self::Passing,
        }
    }

    fn of_code(code: &str) -> Self {
        match code {
            "ExpiredIteratorException" | "ExpiredNextTokenException" => Self::Expired,
            "ResourceNotFoundException" => Self::Gone,
            "InvalidArgumentException" | "ValidationException" => Self::Refused,
            "AccessDeniedException"
            | "KMSAccessDeniedException"
            | "KMSDisabledException"
            | "KMSInvalidStateException"
            | "KMSNotFoundException"
            | "KMSOptInRequired"
            | "ExpiredTokenException"
            | "UnrecognizedClientException"
            | "InvalidSignatureException" => Self::NeedsAction,
            // Throttles, LimitExceeded, ResourceInUse, InternalFailure, and what is yet to come.
            _ => Self::Passing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_the_fault_matrix_is_told() {
        for (code, fault) in [
            ("ProvisionedThroughputExceededException", Fault::Passing),
            ("LimitExceededException", Fault::Passing),
            ("KMSThrottlingException", Fault::Passing),
            ("InternalFailure", Fault::Passing),
            ("ResourceInUseException", Fault::Passing),
            ("ExpiredIteratorException", Fault::Expired),
            ("ExpiredNextTokenException", Fault::Expired),
            ("KMSDisabledException", Fault::NeedsAction),
            ("AccessDeniedException", Fault::NeedsAction),
            ("ResourceNotFoundException", Fault::Gone),
            ("InvalidArgumentException", Fault::Refused),
        ] {
            assert_eq!(Fault::of_code(code), fault, "{code}");
        }
    }
}
