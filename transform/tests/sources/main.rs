//! Does reading a shop's exports keep every row, exactly, or say where it went?
//! Exports are written here in the layouts that AWS documents.

#![allow(clippy::unwrap_used, reason = "a failed set-up fails the test")]

mod dynamodb;
mod files;
mod lines;
mod rds;
mod support;
