//! How the server stands towards the network, over real sockets.

#![allow(clippy::expect_used, reason = "a test fails by panicking, also in its helpers")]

mod connections;
mod log;
mod operator;
mod refusals;
mod support;
mod tls;
