//! From where clicks are to the raw zone: the embedded sink, the Kinesis
//! worker, what Firehose landed, and imports of existing history. All land by the commit
//! chains of `clickmill_lake::landing`.

pub mod doctor;
pub mod firehose;
pub mod import;
pub mod kinesis;
mod lake_sink;

pub use lake_sink::LakeSink;
