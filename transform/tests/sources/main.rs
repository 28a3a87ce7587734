//! Does reading a shop's exports keep every row, exactly, or say where it went?
//! Exports are written here in the layouts that AWS documents.

mod dynamodb;
mod files;
mod lines;
mod rds;
mod support;
