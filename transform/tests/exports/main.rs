//! Do the tables say what the shop's systems said, whatever exports of them came,
//! in whatever order, and whatever was wrong with them?
// A test fails by panicking, in its helpers, too.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod faults;
mod formats;
mod histories;
mod live;
mod loads;
mod model;
mod parts;
#[path = "../batches/support/shop.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod shop;
mod watched;
