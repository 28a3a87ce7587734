#!/usr/bin/env python3
"""Everything that must hold, by one command; needs Rust and Python 3.9, nothing else.

    python3 tests/run.py                     all phases
    python3 tests/run.py --only pipeline     one phase: fmt, clippy, rust, pipeline or fuzz (repeatable)
    python3 tests/run.py --only pipeline -k killed
                                             only tests with that text in their name
    python3 tests/run.py --bin PATH          test that binary, build none
    python3 tests/run.py --only pipeline -k soak --soak 3600
                                             random faults for an hour; a minute without --soak

Test servers, readers and clients are pinned and installed once, below .env/.
Servers listen on free ports and are stopped at the end. The last line is
`N passed, N failed, N skipped`; the exit code is 1 where something failed, and
with CI=true where something was skipped.
"""

import argparse
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import venv

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import fuzz  # noqa: E402  (they lie beside this file)
import servers  # noqa: E402

ROOT = servers.ROOT
HOME = ROOT / ".env" / "tests"
VENV = HOME / "venv"
NPM = HOME / "npm"
BROWSER = HOME / "browser"
STAMP = HOME / "installed.json"
REQUIREMENTS = ROOT / "tests" / "requirements.txt"
CLIENTS = ROOT / "tests" / "clients" / "package.json"
# Unpacks the browser that npm's @sparticuz/chromium carries, and says where it is.
UNPACK = "import('@sparticuz/chromium').then(({default: c}) => c.executablePath()).then(console.log)"

PHASES = ("fmt", "clippy", "rust", "pipeline", "fuzz")
RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", re.MULTILINE)
# What libtest repeats of a failed test once its binary has ended.
PANIC = re.compile(r"^---- (.+? stdout ----\n\n?(?:.+\n){,20})", re.MULTILINE)


class Tally:
    """What the last line says."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        # What failed, and its last words: said again at the end, where a reader of a long log looks.
        self.failures = []

    def add(self, passed, failed, skipped, failures=()):
        self.passed += passed
        self.failed += failed
        self.skipped += skipped
        self.failures += failures

    def check(self, ok, what):
        self.add(int(ok), int(not ok), 0, [] if ok else [what])
        return ok


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", action="append", choices=PHASES, help="run this phase; repeatable")
    parser.add_argument("-k", metavar="TEXT", help="only tests with this text in their name")
    parser.add_argument("--soak", metavar="SECONDS", type=float, help="let the soak run for so long")
    parser.add_argument("--bin", type=pathlib.Path, help="the clickmill to test; builds none")
    arguments = parser.parse_args()
    wanted = arguments.only or PHASES
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    os.environ.setdefault("CARGO_TERM_COLOR", "never")
    if in_ci():
        # It builds once, and what a second build would need is gigabytes.
        os.environ.setdefault("CARGO_INCREMENTAL", "0")
    if arguments.soak:
        os.environ["CLICKMILL_SOAK_SECONDS"] = str(arguments.soak)
    tally = Tally()
    if "fmt" in wanted:
        phase("fmt", lambda: tally.check(
            cargo("fmt", "--all", "--check") & cargo("fmt", "--check", "--manifest-path", "tests/fuzz/Cargo.toml"),
            "cargo fmt --check"))
    if "clippy" in wanted:
        phase("clippy", lambda: clippy(tally))
    if "rust" in wanted or ("pipeline" in wanted and not arguments.bin):
        built = phase("build", lambda: build(with_tests="rust" in wanted))
        if not built:
            tally.check(False, "cargo build")
            return finish(tally)
    if "rust" in wanted or "pipeline" in wanted:
        phase("setup", setup)
        with servers.servers() as environment:
            if "rust" in wanted:
                phase("rust", lambda: rust(tally, environment, arguments.k))
            if "pipeline" in wanted:
                binary = arguments.bin or ROOT / "target" / "debug" / "clickmill"
                phase("pipeline", lambda: pipeline(tally, environment, binary, arguments.k))
    if "fuzz" in wanted and not arguments.k:
        phase("fuzz", lambda: fuzzed(tally))
    return finish(tally)


def phase(name, work):
    """Runs it and says how long it took, and how much of the disk is left."""
    print(f"== {name}", flush=True)
    started = time.monotonic()
    outcome = work()
    free = shutil.disk_usage(ROOT).free >> 20
    print(f"== {name}: {time.monotonic() - started:.0f} s, {free} MiB of the disk are free", flush=True)
    return outcome


def finish(tally):
    for failure in tally.failures:
        print(f"FAILED {failure}", flush=True)
    print(f"{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped", flush=True)
    return 1 if tally.failed or (in_ci() and tally.skipped) else 0


def in_ci():
    return os.environ.get("CI", "").lower() in ("1", "true")


def cargo(*arguments, **options):
    """True where it ended with 0. A missing program is a failure like any other."""
    try:
        return subprocess.run(["cargo", *arguments], cwd=ROOT, check=False, **options).returncode == 0
    except FileNotFoundError:
        print("cargo is not on the PATH: install Rust, see rustup.rs", file=sys.stderr)
        return False


def clippy(tally):
    """The workspace, and the collector as a web server embeds it without AWS' SDKs."""
    for crates in (["--workspace"], ["--package", "clickmill-collector", "--no-default-features"]):
        tally.check(cargo("clippy", *crates, "--all-targets", "--locked", "--", "-D", "warnings"),
                    f"cargo clippy {' '.join(crates)}")


def build(with_tests):
    """The binary and every test at once, so that dependencies are built with one set of features."""
    if with_tests:
        return cargo("build", "--workspace", "--all-targets", "--locked")
    return cargo("build", "--workspace", "--locked")


def setup():
    """Installs servers, readers and clients once; again where a pin changes."""
    servers.setup()
    pins = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (REQUIREMENTS, CLIENTS)}
    wanted = {**pins, "python": sys.version, "node": servers.program("node")}
    if STAMP.exists() and json.loads(STAMP.read_text(encoding="utf-8")) == wanted:
        return
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    venv.create(VENV, with_pip=True)
    servers.checked([VENV / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check",
                     "-r", REQUIREMENTS])
    NPM.mkdir()
    shutil.copy(CLIENTS, NPM)
    servers.checked([servers.program("npm"), "install", "--silent", "--no-audit", "--no-fund",
                     "--ignore-scripts", "--no-package-lock"], cwd=NPM)
    BROWSER.mkdir()
    subprocess.run([servers.program("node"), "-e", UNPACK], cwd=NPM, check=False, stdout=subprocess.DEVNULL,
                   env=dict(os.environ, TMPDIR=str(BROWSER)))
    STAMP.write_text(json.dumps(wanted), encoding="utf-8")


def rust(tally, environment, text):
    """Every test of the workspace, each binary's counts added up."""
    command = ["cargo", "test", "--workspace", "--locked", "--no-fail-fast"]
    command += ["--", text] if text else []
    output = []
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
                          encoding="utf-8", errors="replace") as process:
        for line in process.stdout:
            output.append(line)
            print(line, end="", flush=True)
    output = "".join(output)
    counts = [tuple(map(int, match)) for match in RESULT.findall(output)]
    for passed, failed, skipped in counts:
        tally.add(passed, failed, skipped)
    tally.failures += PANIC.findall(output)
    # libtest knows no test that is skipped while it runs.
    why = environment.get("CLICKMILL_TEST_MARIADB_SKIPPED")
    if why:
        print(f"skipped: the tests of a live MariaDB: {why}", flush=True)
        tally.add(0, 0, 1)
    if process.returncode != 0 and not any(failed for _, failed, _ in counts):
        tally.check(False, "cargo test: it did not compile, or a test took its whole binary down")


def pipeline(tally, environment, binary, text):
    """The whole-pipeline tests, with the readers' and clients' own Python."""
    report = HOME / "pipeline.json"
    report.unlink(missing_ok=True)
    environment = dict(
        environment,
        CLICKMILL_TEST_BIN=str(pathlib.Path(binary).resolve()),
        CLICKMILL_TEST_NPM=str(NPM),
        CLICKMILL_TEST_NODE=servers.program("node"),
        CLICKMILL_TEST_CHROMIUM=str(BROWSER / "chromium"),
    )
    command = [VENV / "bin" / "python", "-u", ROOT / "tests" / "pipeline" / "main.py", "--report", report]
    command += ["-k", text] if text else []
    code = servers.run_command([str(part) for part in command], environment)
    if not report.exists():
        tally.check(False, f"pipeline: it ended with {code} before its last test")
        return
    counts = json.loads(report.read_text(encoding="utf-8"))
    tally.add(counts["passed"], len(counts["failed"]), counts["skipped"], counts["failed"])
    if code != 0 and not counts["failed"]:
        tally.check(False, f"pipeline: it ended with {code}")


def fuzzed(tally):
    """Each target for a short while."""
    held, broken = fuzz.run(fuzz.targets(), fuzz.SECONDS_A_TARGET)
    tally.add(held, len(broken), 0, broken)


if __name__ == "__main__":
    sys.exit(main())
