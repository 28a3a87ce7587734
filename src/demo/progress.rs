//! Progress on stderr: one line rewritten on a terminal, a line for each stage otherwise.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Shows what is being done and keeps how long each stage took.
pub struct Progress {
    terminal: bool,
    started: Instant,
    stage: Option<(&'static str, Instant)>,
    pub stages: Vec<(&'static str, Duration)>,
}

impl Progress {
    /// Nothing shown yet.
    pub fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            started: Instant::now(),
            stage: None,
            stages: Vec::new(),
        }
    }

    /// Begins a stage and ends the one before.
    pub fn stage(&mut self, name: &'static str) {
        self.end();
        self.stage = Some((name, Instant::now()));
        if !self.terminal {
            eprintln!("{name} ...");
        } else {
            self.show("");
        }
    }

    /// Says how far the stage has come; on a terminal only.
    pub fn show(&self, detail: &str) {
        let Some((name, _)) = self.stage else { return };
        if self.terminal {
            let mut line = format!("[{:>3}s] {name}  {detail}", self.started.elapsed().as_secs());
            line.truncate(78);
            eprint!("\r\x1b[2K{line}");
            let _ = std::io::stderr().flush();
        }
    }

    /// Ends the last stage and clears the line.
    pub fn end(&mut self) {
        if let Some((name, since)) = self.stage.take() {
            self.stages.push((name, since.elapsed()));
        }
        if self.terminal {
            eprint!("\r\x1b[2K");
            let _ = std::io::stderr().flush();
        }
    }
}
