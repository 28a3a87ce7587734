//! From where clicks are to the raw zone: the embedded sink, the Kinesis
//! worker, and imports of existing history. All three land by the commit
//! chains of `clickmill_lake::landing`.

pub mod import;
pub mod kinesis;
mod lake_sink;

pub use lake_sink::LakeSink;
