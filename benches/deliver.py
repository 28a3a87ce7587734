"""`clickmill deliver` from records in memory to committed raw objects, against DuckDB over the same lines.

The program is benches/deliver: the production worker, with a stream in memory in
place of the AWS SDK's connection. DuckDB converts the same lines, from a file in
the page cache, to one Parquet file of the same columns, or to gzipped JSON. Its S3
client is no part of its package: onto S3 its file is put by Arrow's, afterwards.
"""

import contextlib
import functools
import gzip
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import uuid

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
import servers  # noqa: E402  (it lies in another folder)

SHARDS = (1, 100, 1_000)
# Kinesis gives 10 MB of a shard five times a second at most: with fewer the worker would wait for that.
SPEED_SHARDS = 16
MIB = 2**20

# The columns of a raw Parquet object (docs/landing.md), as DuckDB names their types.
OTHERS = {
    "event_ts": "TIMESTAMPTZ", "client_ts": "TIMESTAMPTZ", "sent_ts": "TIMESTAMPTZ", "received_ts": "TIMESTAMPTZ",
    "clock_skew_ms": "BIGINT", "screen_width": "INTEGER", "screen_height": "INTEGER", "consent": "JSON",
    "revenue": "DECIMAL(18,4)", "total": "DECIMAL(18,4)", "tax": "DECIMAL(18,4)", "shipping": "DECIMAL(18,4)",
    "discount": "DECIMAL(18,4)", "properties": "JSON", "context": "JSON", "wal_seq": "BIGINT",
    "items": "STRUCT(product_id VARCHAR, sku VARCHAR, name VARCHAR, brand VARCHAR, category VARCHAR, variant VARCHAR, "
             "price DECIMAL(18,4), quantity BIGINT, coupon VARCHAR, position INTEGER)[]",
}
KEYS = """event_id event_name source_protocol source_event_name app_id platform event_ts event_ts_reason client_ts sent_ts
received_ts clock_skew_ms user_id anonymous_id network_id device_id client_session_id consent page_url page_title referrer_url
utm_source utm_medium utm_campaign utm_term utm_content click_id click_id_type user_agent screen_width screen_height language
timezone ip_truncated country region city validation order_id checkout_id cart_id currency revenue total tax shipping discount
coupon search_query list_id promotion_id items properties context collector_id wal_seq shard_id sequence_number""".split()

DUCKDB = """
import json, resource, sys, time
import duckdb
lines, out, threads, columns, form, place = sys.argv[1:7]
forms = {"parquet": "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1", "json": "FORMAT json, COMPRESSION gzip"}
if place:
    import os
    from pyarrow import fs
    store = fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL_S3"], region=os.environ["AWS_REGION"])
connection = duckdb.connect(config={"threads": int(threads)})
connection.execute("SET enable_progress_bar = false")
usage = lambda: (lambda u: u.ru_utime + u.ru_stime)(resource.getrusage(resource.RUSAGE_SELF))
before, started = usage(), time.monotonic()
events = connection.execute(f"COPY (SELECT * FROM read_json('{lines}', format = 'newline_delimited', columns = {columns})) "
                            f"TO '{out}' ({forms[form]})").fetchone()[0]
if place:
    fs.copy_files(out, place, destination_filesystem=store)
print(json.dumps({"events": events, "wall_seconds": time.monotonic() - started, "cpu_seconds": usage() - before,
                  "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


class Bench:
    def __init__(self, binary, python, work, rounds, note):
        self.binary, self.python, self.work, self.rounds, self.note = binary, python, work / "deliver", rounds, note
        self.work.mkdir(parents=True, exist_ok=True)

    def run(self, lake):
        """`lake` holds generated raw objects; their lines are what is delivered."""
        self.lines = self.work / f"{lake.name}.ndjson"
        if not self.lines.exists():
            # As in a stream, all are received within an hour; what they say of themselves stays.
            received, at = re.compile(rb'"received_ts":"[^"]{13}'), b'"received_ts":"2026-11-23T17'
            with self.lines.open("wb") as sink:
                for path in sorted((lake / "raw/events").glob("*/*/*.json.gz")):
                    with gzip.open(path) as content:
                        sink.write(received.sub(at, content.read()))
        self.bytes = self.lines.stat().st_size
        with servers.servers() as environment:
            self.environment = {key: value for key, value in environment.items() if key.startswith("AWS_")}
            return self.speed() + "\n\n" + self.memory()

    def speed(self):
        bucket = f"s3://{servers.BUCKET}/bench-"
        places = {"folder": self.work, "S3": bucket}
        engines = {}
        for form, title in (("parquet", "Parquet"), ("json", "JSON.gz")):
            for place, where in places.items():
                engines[f"clickmill, {title}, {place}"] = functools.partial(self.deliver, form, where)
                engines[f"DuckDB, {title}, {place}"] = functools.partial(self.duckdb, form, where)
        engines["clickmill: SDK and aggregates"] = lambda: self.deliver("json", self.work, more=["--protocol-only"])
        one_thread = "DuckDB, Parquet, folder, 1 thread"
        engines[one_thread] = lambda: self.duckdb("parquet", self.work, threads=1)
        runs = {name: [] for name in engines}
        for number in range(self.rounds):
            for name, engine in engines.items():
                run = engine()
                runs[name].append(run)
                self.note(f"round {number + 1}  {name:34} {run['wall_seconds']:6.1f} s wall  {run['cpu_seconds']:6.1f} s CPU")
        middle = {name: {key: statistics.median(run[key] for run in of) for key in of[0]} for name, of in runs.items()}
        lines = [
            f"## {int(next(iter(middle.values()))['events']):,} events, {self.bytes / MIB:.0f} MiB of lines",
            "",
            f"Median of {self.rounds}, {SPEED_SHARDS} shards, {os.cpu_count()} threads. A core's figures are by CPU time, of "
            "user and system. `SDK and aggregates` only takes the records out of the SDK's answers and the aggregates apart: "
            "a part of each run of clickmill, and nothing that DuckDB has to do. The ratio is clickmill's wall time over "
            "DuckDB's with the same output: below 1 clickmill takes less. The S3 server shares the cores.",
            "",
            "| engine, output, place | events/s a core | MB/s a core | CPU s | wall s | stored MiB | ratio |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, run in middle.items():
            cpu = run["cpu_seconds"]
            peer = middle.get(name.replace("clickmill", "DuckDB")) if name.startswith("clickmill,") else None
            ratio = f"{run['wall_seconds'] / peer['wall_seconds']:.2f}" if peer else ""
            lines.append(f"| {name} | {run['events'] / cpu:,.0f} | {self.bytes / cpu / 1e6:.0f} | {cpu:.1f} "
                         f"| {run['wall_seconds']:.2f} | {run['stored_bytes'] / MIB:.0f} | {ratio} |")
        # What both do: the same lines to the same columns.
        common = middle["clickmill, Parquet, folder"]["cpu_seconds"] - middle["clickmill: SDK and aggregates"]["cpu_seconds"]
        of = [f"{common / middle[name]['cpu_seconds']:.2f} on {threads}" for name, threads in (
            (one_thread, "1 thread"), ("DuckDB, Parquet, folder", f"{os.cpu_count()} threads"))]
        lines += ["", f"Less the SDK and the aggregates, from lines to Parquet in a folder: {common:.1f} s of CPU time, "
                      f"of DuckDB's {', '.join(of)}."]
        return "\n".join(lines)

    def memory(self):
        lines = ["## Memory", "",
                 "Peak beyond the records themselves, which lie in memory; `memory_megabytes = 512`, the default. The "
                 "allocator gives memory back at once (MIMALLOC_PURGE_DELAY=0): what making the records freed would hide "
                 "what the worker takes.", "",
                 "| shards | format | peak MiB | commits | objects | MiB of an object |", "|---|---|---|---|---|---|"]
        for form in ("parquet", "json"):
            for shards in SHARDS:
                run = self.deliver(form, self.work, shards, environment={"MIMALLOC_PURGE_DELAY": "0"})
                lines.append(f"| {shards:,} | {form} | {run['peak_bytes'] / MIB:.0f} | {run['commits']} | {run['objects']} "
                             f"| {run['stored_bytes'] / run['objects'] / MIB:.2f} |")
        return "\n".join(lines)

    def deliver(self, form, where, shards=SPEED_SHARDS, more=(), environment=None):
        """One process. A lake of its own, which is gone afterwards where it is a folder."""
        name = uuid.uuid4().hex
        lake = f"{where}{name}" if isinstance(where, str) else where / name
        command = [self.binary, "--lines", self.lines, "--lake", lake, "--format", form, "--shards", shards, *more]
        try:
            run = self.measured(command, dict(os.environ, **self.environment, **(environment or {})))
            run.pop("bytes")
            return run
        finally:
            with contextlib.suppress(FileNotFoundError, TypeError):
                shutil.rmtree(lake if isinstance(lake, pathlib.Path) else "")

    def duckdb(self, form, where, threads=os.cpu_count()):
        out = self.work / f"duckdb.{form}"
        columns = repr({key: OTHERS.get(key, "VARCHAR") for key in KEYS})
        place = f"{where}{uuid.uuid4().hex}".removeprefix("s3://") if isinstance(where, str) else ""
        run = self.measured([self.python, "-c", DUCKDB, self.lines, out, threads, columns, form, place],
                            dict(os.environ, **self.environment))
        return dict(run, stored_bytes=out.stat().st_size, commits=0, objects=1)

    def measured(self, command, environment):
        done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, check=True, env=environment)
        return json.loads(done.stdout)
