//! What a verb says on stdout.
//!
//! A reader that has seen enough (`| head -1`) does not end the work, nor change its exit
//! code: what it does not read is dropped. `sql` and `tail`, which could go on for long,
//! stop there.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};

use anyhow::Context as _;

/// Says a line; takes what `println!` takes, which would panic where the reader is gone.
macro_rules! out {
    ($($text:tt)*) => {
        $crate::cli::out::text(format_args!("{}\n", format_args!($($text)*)))
    };
}
pub(super) use out;

/// Says a text as it is.
///
/// # Errors
/// Where stdout takes nothing, as on a full disk; a reader that is gone is none.
pub fn text(text: impl Display) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match write!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to stdout"),
    }
}
