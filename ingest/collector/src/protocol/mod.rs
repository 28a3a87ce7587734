//! What clients send, decoded to events: one module for each protocol.

pub(crate) mod json;
pub(crate) mod privacy;
pub mod segment;
