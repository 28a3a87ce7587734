//! What the tests of batches share.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod history;
pub mod people;
pub mod reference;
pub mod shop;
pub mod visits;
pub mod worth;
