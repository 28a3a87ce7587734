//! Takes events in, keeps them on disk, and ships them.

pub mod sink;
