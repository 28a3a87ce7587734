//! One program for all fuzz targets; `FUZZ_TARGET` names one of
//! [`clickmill_collector::fuzzing::TARGETS`]. Run by tests/fuzz.py.

#![no_main]

use std::sync::OnceLock;

use clickmill_collector::fuzzing::TARGETS;

libfuzzer_sys::fuzz_target!(|input: &[u8]| target()(input));

fn target() -> fn(&[u8]) {
    static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();
    *TARGET.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let Some((_, run)) = TARGETS.iter().find(|(known, _)| *known == name) else {
            let known: Vec<&str> = TARGETS.iter().map(|(known, _)| *known).collect();
            eprintln!("FUZZ_TARGET `{name}` is none of {}", known.join(", "));
            std::process::exit(2);
        };
        *run
    })
}
