//! The KPL's aggregation: several user records inside one Kinesis record.
//!
//! # Format
//! ```text
//! F3 89 9A C2 | protobuf AggregatedRecord | MD5 of the protobuf's bytes (16)
//!
//! AggregatedRecord { 1 partition_key_table: repeated string
//!                    2 explicit_hash_key_table: repeated string
//!                    3 records: repeated Record }
//! Record           { 1 partition_key_index: uint64
//!                    2 explicit_hash_key_index: optional uint64
//!                    3 data: bytes
//!                    4 tags: repeated Tag }
//! ```
//! Source: awslabs/amazon-kinesis-producer, `aggregation-format.md`.
//!
//! # Guarantees
//! [`Aggregate`] gives every inner record the explicit hash key that the outer
//! record is put with. A consumer on the KCL drops a *whole* aggregate where an
//! inner record's hash lies outside of the shard that it was read from; with
//! one hash for all that cannot be, whatever splits and merges happen between.
//!
//! [`decode`] takes any bytes: it never panics, never recurses, and holds at
//! most eight times the input. What is no aggregate (another magic, a wrong
//! MD5, protobuf that does not parse, no record inside) is `None`: the caller
//! keeps the bytes as they are.

mod decode;
#[cfg(feature = "aws")]
mod digest;
mod encode;

#[cfg(feature = "aws")]
pub use decode::decode_all;
pub use decode::{Aggregated, UserRecord, UserRecords, decode};
pub use encode::Aggregate;

/// What an aggregate begins with.
pub const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];
/// Bytes of the MD5 at its end.
pub const DIGEST_BYTES: usize = 16;
/// The outer partition key. It decides nothing, since the hash key is explicit.
pub const OUTER_PARTITION_KEY: &str = "a";

/// Where Kinesis puts a partition key: its MD5 as a number.
/// Source: Kinesis API Reference, PutRecords, `PartitionKey`.
#[must_use]
pub fn hash_of(partition_key: &str) -> u128 {
    u128::from_be_bytes(md5_of(partition_key.as_bytes()))
}

fn md5_of(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    use md5::Digest as _;
    md5::Md5::digest(bytes).into()
}

#[cfg(test)]
mod tests;
