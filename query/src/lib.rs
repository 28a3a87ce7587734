//! SQL over a lake's tables.
//!
//! A [`Session`] sees the tables as of one snapshot: the newest one when it was
//! opened. Queries across tables are therefore consistent, also while a run is
//! writing. It can read nothing but those tables: no files, no object stores,
//! and no statement that writes.

pub mod output;
mod session;

pub use session::{QueryError, ScanStats, Session, SessionOptions};
