#!/usr/bin/env python3
"""Runs the fuzz targets of tests/fuzz: coverage-guided, with a stable compiler.

    python3 tests/fuzz.py                          all targets, 15 seconds each
    python3 tests/fuzz.py segment kpl --seconds 600
    python3 tests/fuzz.py segment --input FILE     one saved input again

Seeds are in tests/fuzz/corpus/TARGET. What a run finds of its own stays in
target/fuzz/corpus/TARGET, and the next run begins with it. An input that breaks a
property is saved, and the last lines say where; once it is understood, put it
among the seeds: every `cargo test` runs them (clickmill_collector::fuzzing).

The last line is `N passed, N failed`; the exit code is 1 where something failed.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CRATE = ROOT / "tests" / "fuzz"
TARGET_DIR = ROOT / "target" / "fuzz"
SEEDS = CRATE / "corpus"
# As cargo-fuzz has them, but for the sanitizers, which need a nightly compiler:
# Rust's own checks find what these would.
RUSTFLAGS = " ".join((
    "--cfg fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=16",
))
# An input that takes longer, or more memory, is a finding, too.
SECONDS_AN_INPUT = 10
MEGABYTES = 1024
SECONDS_A_TARGET = 15
# Two cores, like CI's smallest machine.
JOBS = 2
REPORTED_LINES = 40


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="some of: " + ", ".join(targets()))
    parser.add_argument("--seconds", type=int, default=SECONDS_A_TARGET, help="for each target")
    parser.add_argument("--input", type=pathlib.Path, help="run this input once")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.targets) - set(targets()))
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}")
    if arguments.input:
        if len(arguments.targets) != 1:
            parser.error("--input needs one TARGET")
        program = build()
        return 1 if program is None else fuzz(program, arguments.targets[0], [arguments.input]).returncode
    held, broken = run(arguments.targets or targets(), arguments.seconds)
    print(f"{held} passed, {len(broken)} failed")
    return 1 if broken else 0


def targets():
    """Each has a folder of seeds; a test of the collector holds the two lists together."""
    return sorted(folder.name for folder in SEEDS.iterdir() if folder.is_dir())


def run(names, seconds):
    """How many held, and what broke in the others."""
    program = build()
    if program is None:
        return 0, ["fuzz: the targets do not build"]
    held, broken = 0, []
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        for name, (ok, report) in zip(names, pool.map(lambda name: bounded(program, name, seconds), names)):
            print(f"{'ok    ' if ok else 'FAILED'} {name}: {report}", flush=True)
            held += ok
            broken += [] if ok else [f"fuzz {name}: {report}"]
    return held, broken


def build():
    """The program, or None where it does not build."""
    host = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    host = re.search(r"^host: (\S+)$", host, re.MULTILINE).group(1)
    # With --target, build scripts and macros are not instrumented.
    command = ["cargo", "build", "--locked", "--release", "--target", host]
    environment = dict(os.environ, RUSTFLAGS=RUSTFLAGS, CARGO_TARGET_DIR=str(TARGET_DIR))
    environment.pop("CARGO_ENCODED_RUSTFLAGS", None)
    if subprocess.run(command, cwd=CRATE, env=environment, check=False).returncode != 0:
        return None
    return TARGET_DIR / host / "release" / "clickmill-fuzz"


def bounded(program, name, seconds):
    """Fuzzes for so long; whether the property held, and a line or more on it."""
    found, crashes = TARGET_DIR / "corpus" / name, TARGET_DIR / "crashes" / name
    for folder in (found, crashes):
        folder.mkdir(parents=True, exist_ok=True)
    outcome = fuzz(program, name, [
        f"-max_total_time={seconds}",
        f"-timeout={SECONDS_AN_INPUT}",
        f"-rss_limit_mb={MEGABYTES}",
        f"-artifact_prefix={crashes}/",
        "-print_final_stats=1",
        found,
        SEEDS / name,
    ], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    lines = outcome.stdout.splitlines()
    if outcome.returncode != 0:
        saved = [line.split()[-1] for line in lines if "Test unit written to" in line]
        where = f"saved as {saved[-1]}\n" if saved else ""
        # From what broke on; else (a time-out, a signal) the end.
        broke = next((at for at, line in enumerate(lines) if "panicked at" in line), len(lines) - REPORTED_LINES)
        return False, where + "\n".join(lines[max(broke, 0):][:REPORTED_LINES])
    runs = re.search(r"number_of_executed_units: (\d+)", outcome.stdout)
    coverage = re.findall(r"cov: (\d+)", outcome.stdout)
    return True, f"{runs.group(1) if runs else '?'} inputs, coverage {coverage[-1] if coverage else '?'}"


def fuzz(program, name, arguments, **options):
    command = [str(program), *(str(argument) for argument in arguments)]
    return subprocess.run(command, env=dict(os.environ, FUZZ_TARGET=name, RUST_BACKTRACE="0"), check=False, **options)


if __name__ == "__main__":
    sys.exit(main())
