"""A lake of a month's lineage, for `clickmill audit`: N events of four collectors through
four shards of a stream, as landing commits, raw objects, heartbeats and an `events` table.

Raw objects hold a byte each (their commits say so): without --verify the audit
lists them and does not read them. Everything else is as clickmill writes it, but
that the columns of `events` which are no lineage are empty.
"""

import datetime
import gzip
import json
import pathlib
import random
import shutil
import subprocess
import time

COLLECTORS = 4
DAYS = 30
RECORDS_A_COMMIT = 1_000
ROWS_A_FILE = 250_000
START = datetime.datetime(2026, 10, 1, tzinfo=datetime.timezone.utc)
STREAM = "kinesis/clicks-1795455600"


def engines():
    """Imported late: `run.py` starts without them and then again with their Python."""
    import crc32c  # pylint: disable=import-outside-toplevel
    import deltalake  # pylint: disable=import-outside-toplevel
    import pyarrow.compute  # pylint: disable=import-outside-toplevel
    return crc32c, deltalake, pyarrow


def generate(binary, lake, rows):
    """Writes the lake; answers the number of heartbeats."""
    shutil.rmtree(lake, ignore_errors=True)
    lake.mkdir(parents=True)
    first_batch(binary, lake)
    _, deltalake, pyarrow = engines()
    table = lake / "tables" / "events"
    schema = pyarrow.schema(deltalake.DeltaTable(str(table)).schema().to_arrow())
    each = rows // COLLECTORS
    bookmarks = {}
    for number in range(COLLECTORS):
        collector, shard = f"00000000-0000-4000-8000-{number:012}", f"shardId-{number:012}"
        write_rows(table, schema, collector, shard, number, each)
        bookmarks[f"{STREAM}/{shard}"] = write_chain(lake, collector, shard, number, each)
    finish_batch(lake, bookmarks)


def first_batch(binary, lake):
    """The tables, made by clickmill itself from one event."""
    (lake / "one.csv").write_text("id,at\nhistory,2026-09-30T00:00:00Z\n", encoding="utf-8")
    (lake / "clickmill.toml").write_text(
        "[import.one]\nformat = 'csv'\napp_id = 'shop'\nevent_id = 'id'\n"
        "event_ts = { column = 'at', format = 'rfc3339' }\nevent_name = { constant = 'page_view' }\n",
        encoding="utf-8")
    for command in (["import", "events", "--mapping", "one", "one.csv"], ["etl", "run"]):
        subprocess.run([binary, "--lake", lake, *command], cwd=lake, check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)


def received(index, of):
    """When event `index` of `of` was received, in microseconds."""
    return int(START.timestamp() * 1e6) + index * (DAYS * 86_400_000_000 // of)


def sequence_number(shard, index):
    return str(49590338271490256608559692538361571095921575989136588898 + shard * 10**50 + index)


def write_rows(table, schema, collector, shard, shard_number, count):
    _, deltalake, pyarrow = engines()
    random.seed(shard_number)
    for first in range(0, count, ROWS_A_FILE):
        # As in a file sorted by visitor: numbers in any order.
        order = list(range(first, min(count, first + ROWS_A_FILE)))
        random.shuffle(order)
        times = pyarrow.array([received(index, count) for index in order], pyarrow.timestamp("us", "UTC"))
        columns = {
            "event_id": [f"{collector[-3:]}-{index}" for index in order],
            "event_name": ["page_view"] * len(order), "source_protocol": ["native"] * len(order),
            "app_id": ["shop"] * len(order), "event_ts": times, "received_ts": times,
            "is_late": [False] * len(order), "is_bot": [False] * len(order), "validation": ["ok"] * len(order),
            "collector_id": [collector] * len(order), "wal_seq": [index + 1 for index in order],
            "shard_id": [shard] * len(order),
            "sequence_number": [sequence_number(shard_number, index) for index in order],
            "dt": pyarrow.compute.cast(times, pyarrow.date32()),
        }
        arrays = [pyarrow.array(columns[field.name], field.type) if isinstance(columns.get(field.name), list)
                  else columns[field.name].cast(field.type) if field.name in columns
                  else pyarrow.nulls(len(order), field.type) for field in schema]
        deltalake.write_deltalake(str(table), pyarrow.Table.from_arrays(arrays, schema=schema), mode="append")


def write_chain(lake, collector, shard, shard_number, count):
    """Landing commits with an events object and a heartbeats object each; the last ordinal."""
    folder = lake / "_clickmill" / "delivery" / STREAM / shard
    folder.mkdir(parents=True)
    after, ordinal = None, 0
    for first in range(0, count, RECORDS_A_COMMIT):
        ordinal += 1
        last = min(count, first + RECORDS_A_COMMIT) - 1
        ends = sequence_number(shard_number, first), sequence_number(shard_number, last)
        times = received(first, count), received(last, count)
        beats = b"".join(
            json.dumps({"heartbeat_ts": stamp(received(index, count)), "collector_id": collector,
                        "last_wal_seq": index + 1, "closing": index == count - 1}).encode() + b"\n"
            for index in sorted({*range(first, last, max(1, count // (DAYS * 1440))), last}))
        objects = [put(lake, kind, shard, ordinal, content, lines, times)
                   for kind, content, lines in (("events", b"-", last - first + 1),
                                                ("heartbeats", gzip.compress(beats, 1), beats.count(b"\n")))]
        commit = {"version": 1, "source": f"{STREAM}/{shard}", "ordinal": ordinal, "after": after, "first": ends[0],
                  "last": ends[1], "closed": False, "objects": objects, "committed_at": stamp(times[1])}
        (folder / f"{ordinal:020}.json").write_text(json.dumps(commit) + "\n", encoding="utf-8")
        after = ends[1]
    return ordinal


def put(lake, kind, shard, ordinal, content, records, times):
    crc32c, _, _ = engines()
    at = datetime.datetime.fromtimestamp(times[0] / 1e6, datetime.timezone.utc)
    path = f"raw/{kind}/dt={at:%Y-%m-%d}/hour={at:%H}/clicks-{shard}-{ordinal}.json.gz"
    (lake / path).parent.mkdir(parents=True, exist_ok=True)
    (lake / path).write_bytes(content)
    return {"path": path, "kind": kind, "records": records, "bytes": len(content),
            "crc32c": f"{crc32c.crc32c(content):08x}", "event_dates": [], "min_received_ts": stamp(times[0]),
            "max_received_ts": stamp(times[1])}


def stamp(micros):
    at = datetime.datetime.fromtimestamp(micros // 1_000_000, datetime.timezone.utc)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{micros % 1_000_000:06}Z"


def finish_batch(lake, bookmarks):
    """A second batch that took everything: what its ETL run would leave behind."""
    for series in ("batches", "snapshots"):
        folder = lake / "_clickmill" / series
        content = json.loads((folder / f"{1:020}.json").read_text(encoding="utf-8"))
        content["batch"] = 2
        if series == "batches":
            content["bookmarks"].update(bookmarks)
            content["objects"] = []
        (folder / f"{2:020}.json").write_text(json.dumps(content), encoding="utf-8")
        (folder / "_latest").write_text("2", encoding="utf-8")


def run(binary, work, rows, rounds, timed):
    """The report."""
    lake = work / f"audit-{rows}"
    stamp_file = lake / "audit.done"
    if not stamp_file.exists():
        started = time.monotonic()
        generate(binary, lake, rows)
        stamp_file.write_text(f"{time.monotonic() - started:.0f} s\n", encoding="utf-8")
    runs = [timed("audit", [binary, "--lake", lake, "audit", "--from", "2026-10-01"]) for _ in range(rounds)]
    text = (work / "audit.log").read_text(encoding="utf-8")
    if "Complete" not in text:
        raise SystemExit(f"the audit did not find the lake complete:\n{text[-3000:]}")
    walls = sorted(one["wall"] for one in runs)
    commits = sum(1 for _ in pathlib.Path(lake / "_clickmill" / "delivery").rglob("*.json"))
    return (f"## {rows:,} events in {commits:,} commits over {DAYS} days\n\n"
            f"| rounds | wall s, median (min - max) | CPU s | peak memory MiB |\n|---|---|---|---|\n"
            f"| {rounds} | {walls[len(walls) // 2]:.1f} ({walls[0]:.1f} - {walls[-1]:.1f}) "
            f"| {min(one['cpu'] for one in runs):.1f} | {max(one['rss'] for one in runs) / 2**20:.0f} |\n")
