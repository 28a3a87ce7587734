//! Where clickmill's data lives: object stores, the raw zone and how data gets
//! into it exactly once, and the Delta tables.

pub mod aws;
pub mod columns;
mod error;
pub mod history;
pub mod landing;
pub mod raw;
pub mod schema;
pub mod store;
pub mod table;

pub use error::LakeError;
pub use store::{Lake, open_store};
