//! Raw lines to Arrow: decode, enrich, and note what dedupe needs to know.

pub mod agents;
pub mod channels;
pub mod columns;
pub mod enrich;
pub mod hash;
mod known;
pub mod raw;
mod site_lists;
mod sites;
