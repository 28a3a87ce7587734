"""What the whole-pipeline tests share: the binary as a process, load, and independent readers.

Expected answers come from what the test itself sent and from PyPI's `deltalake`
and `duckdb`; never from clickmill's own SQL.
"""

import base64
import collections
import contextlib
import datetime
import decimal
import gzip
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

import deltalake
import duckdb
import pyarrow.parquet

BIN = os.environ["CLICKMILL_TEST_BIN"]
BUCKET = os.environ.get("CLICKMILL_TEST_BUCKET", "")
KINESIS = os.environ.get("AWS_ENDPOINT_URL_KINESIS", "")
NPM = os.environ.get("CLICKMILL_TEST_NPM", "")
NODE = os.environ.get("CLICKMILL_TEST_NODE", "node")
CHROMIUM = os.environ.get("CLICKMILL_TEST_CHROMIUM", "")
CLIENTS = pathlib.Path(__file__).resolve().parent.parent / "clients"

# Bounds against a hang, not expectations: a slow machine passes all the same.
COMMAND_SECONDS = 600
READY_SECONDS = 60
DRAIN_SECONDS = 120

TABLES = [
    "events", "event_items", "event_duplicates", "sessions", "orders", "order_items", "customers",
    "products", "product_observations", "carts", "orders_enriched", "product_daily", "category_daily", "search_daily",
    "funnel_daily", "abandoned_carts", "identity_map", "identity_links", "attribution", "customer_ltv",
    "cohort_retention", "interactions", "co_viewed", "co_bought", "rejects", "source_exports",
]


class Case(unittest.TestCase):
    """A test with a folder of its own, and processes that do not outlive it."""

    maxDiff = 4000

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="clickmill-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def clickmill(self, *arguments, code=0, **options):
        """Runs it to its end and holds it to an exit code."""
        result = run(*arguments, cwd=options.pop("cwd", self.folder), **options)
        text = result.stderr.decode(errors="replace")[-4000:]
        self.assertEqual(result.returncode, code, f"clickmill {arguments}:\n{text}")
        return result

    def collector(self, *arguments, verb="collect", **options):
        """Starts a collector (or `up`) on a free port."""
        options.setdefault("cwd", self.folder)
        collector = Collector(verb, *arguments, **options)
        self.addCleanup(collector.kill)
        return collector

    def assert_each_once(self, ids, found, what="events"):
        """Every id that was acknowledged is there exactly once."""
        counts = collections.Counter(found)
        missing = [one for one in ids if counts[one] == 0]
        repeated = [one for one in ids if counts[one] > 1]
        self.assertEqual((len(missing), missing[:5]), (0, []), f"acknowledged, but not in {what}")
        self.assertEqual((len(repeated), repeated[:5]), (0, []), f"more than once in {what}")

    def assert_same_tables(self, lake, reference, message="", without=()):
        """Every table has the same rows as in `reference`, whatever files they lie in."""
        for table in TABLES:
            mine, theirs = rows(lake, table, without), rows(reference, table, without)
            only_here, only_there = list((mine - theirs).elements()), list((theirs - mine).elements())
            if only_here or only_there:
                self.fail(f"{message}{table} differs: {len(only_here)} rows only here, {len(only_there)} "
                          f"only in the reference; e.g.\n{only_here[:2]}\n{only_there[:2]}")


def environment(**extra):
    """Nothing of the user's own settings reaches the binary under test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CLICKMILL_")}
    return dict(kept, NO_COLOR="1", **extra)


def run(*arguments, env=None, cwd=None, stdin=None, timeout=COMMAND_SECONDS):
    return subprocess.run([BIN, *map(str, arguments)], cwd=cwd, env=environment(**(env or {})), check=False,
                          input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout)


def spawn(*arguments, env=None, cwd=None):
    """Starts it and does not wait; its output is dropped."""
    return subprocess.Popen([BIN, *map(str, arguments)], cwd=cwd, env=environment(**(env or {})),
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_after(process, seconds):
    """kill -9 after that time; False where it had ended by itself, which must be with 0."""
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait() == -signal.SIGKILL
    assert code == 0, f"ended with {code} before it was killed"
    return False


def kill_when_it_writes(process, folder, seconds):
    """kill -9 as soon as a new file shows below `folder`, or after that time."""
    before = set(folder.rglob("*"))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if set(folder.rglob("*")) - before:
            break
    process.kill()
    return process.wait() == -signal.SIGKILL


def died_at(point, *arguments, cwd=None):
    """Runs it with a failpoint armed; False where it ended with 0 without getting there."""
    result = run(*arguments, env={"CLICKMILL_FAILPOINT": point}, cwd=cwd)
    if result.returncode == -signal.SIGABRT:
        return True
    text = result.stderr.decode(errors="replace")[-4000:]
    assert result.returncode == 0, f"{point}: ended with {result.returncode}:\n{text}"
    return False


class Collector:
    """`clickmill collect` or `up`, listening."""

    def __init__(self, verb, *arguments, env=None, cwd=None, wrapper=(), restore_signals=True, program=BIN):
        command = [*wrapper, str(program), verb, "--listen", "127.0.0.1:0", *map(str, arguments)]
        self.process = subprocess.Popen(command, cwd=cwd, env=environment(**(env or {})),
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, restore_signals=restore_signals)
        self.lines = []
        self.port = None
        self.ready = threading.Event()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if not self.ready.wait(READY_SECONDS) or self.port is None:
            self.kill()
            raise AssertionError(f"clickmill {verb} did not listen:\n{self.text()}")

    def _read(self):
        for line in self.process.stderr:
            line = line.decode(errors="replace")
            self.lines.append(line)
            found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found[1])
                self.ready.set()
        self.ready.set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def text(self):
        return "".join(self.lines)

    def kill(self):
        """kill -9; nothing where it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stderr.close()

    def stop(self):
        """SIGTERM, and it must end in order."""
        self.process.terminate()
        code = self.process.wait(DRAIN_SECONDS)
        self.reader.join()
        assert code == 0, f"ended with {code} after SIGTERM:\n{self.text()}"

    def is_shipped(self):
        """True once its spool holds nothing that the sink lacks."""
        with urllib.request.urlopen(self.url + "/health", timeout=30) as response:
            return json.load(response)["backlog"] == 0

    def post(self, path, body, headers=None):
        """One request; its status and answer."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=body, method="POST",
                                         headers={"Authorization": AUTHORIZATION, **(headers or {})})
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


AUTHORIZATION = "Basic " + base64.b64encode(b"test:").decode()


def utc_now():
    return datetime.datetime.now(datetime.timezone.utc)


def stamp(at):
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def track(event_id, visitor="v1", event="Product Viewed", at=None, **properties):
    at = at or utc_now()
    return {"type": "track", "messageId": event_id, "anonymousId": visitor, "event": event,
            "timestamp": stamp(at), "originalTimestamp": stamp(at), "sentAt": stamp(utc_now()),
            "properties": properties}


class Load:
    """Clients that send batches until told to stop, and log every id by what became of it."""

    CLIENTS = 4
    BATCH = 7

    def __init__(self, port, prefix, pause=0):
        self.port, self.prefix, self.pause = port, prefix, pause
        self.acknowledged, self.unanswered = [], []
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._client, args=(n,), daemon=True)
                        for n in range(self.CLIENTS)]
        for thread in self.threads:
            thread.start()

    def _client(self, client):
        number = 0
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while not self.stopping.wait(self.pause):
            ids = [f"{self.prefix}-{client}-{number + n}" for n in range(self.BATCH)]
            number += self.BATCH
            batch = [track(one, visitor=f"{self.prefix}-{client}", filler="x" * random.randrange(2000))
                     for one in ids]
            try:
                connection.request("POST", "/v1/batch", json.dumps({"batch": batch}),
                                   {"Authorization": AUTHORIZATION, "Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException):
                with self.lock:
                    self.unanswered += ids
                return
            with self.lock:
                (self.acknowledged if response.status == 200 else self.unanswered).extend(ids)

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        return self


# Reading a lake, without clickmill.

def delta(lake, table):
    return deltalake.DeltaTable(str(pathlib.Path(lake) / "tables" / table))


def exists(lake, table):
    return (pathlib.Path(lake) / "tables" / table / "_delta_log").exists()


def files(lake, table):
    """Its live files by partition: {"dt=2026-11-23": {file, ...}}; "" for an unpartitioned table."""
    found = collections.defaultdict(set)
    if exists(lake, table):
        for path in delta(lake, table).file_uris():
            path = pathlib.Path(path)
            folder = path.parent.name
            found[folder if folder.startswith("dt=") else ""].add(path.name)
    return dict(found)


def version(lake, table):
    return delta(lake, table).version() if exists(lake, table) else None


def versions(lake):
    return {table: version(lake, table) for table in TABLES}


def query(lake, sql):
    """SQL by DuckDB over the files that the Delta log names; `{events}` stands for the table."""
    def source(table):
        if not exists(lake, table):
            raise AssertionError(f"the lake has no table {table}")
        paths = [str(path) for path in delta(lake, table).file_uris()]
        if not paths:
            raise AssertionError(f"the table {table} has no files")
        return f"read_parquet({paths!r}, hive_partitioning = true, union_by_name = true)"

    wanted = re.findall(r"\{(\w+)\}", sql)
    with duckdb.connect() as connection:
        return connection.execute(sql.format(**{table: source(table) for table in wanted})).fetchall()


def rows(lake, table, without=()):
    """Every row as text, counted; without the columns of those names."""
    if not files(lake, table):
        return collections.Counter()
    columns = f"COLUMNS(lambda name: name NOT IN {[*without, '']!r})"
    found = query(lake, f"SELECT CAST(t AS VARCHAR) FROM (SELECT {columns} FROM {{{table}}}) t")
    return collections.Counter(row for row, in found)


def event_ids(lake):
    return [one for one, in query(lake, "SELECT event_id FROM {events}")] if files(lake, "events") else []


def snapshot_numbers(lake, series):
    folder = pathlib.Path(lake) / "_clickmill" / series
    return sorted(int(path.stem) for path in folder.glob("*.json")) if folder.exists() else []


def commits(lake):
    """Every landing commit, in the order of its chain."""
    found = (pathlib.Path(lake) / "_clickmill" / "delivery").rglob("*.json")
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(found)]


def landed(lake, kind="events"):
    """Every line that commits name."""
    lines = []
    for commit in commits(lake):
        for one in commit["objects"]:
            if one["kind"] == kind:
                whole = lines_of(pathlib.Path(lake) / one["path"])
                skip = one.get("section", {"skip": 0})["skip"]
                lines += whole[skip:skip + one["records"]]
    return lines


def stored(lake):
    """The objects that commits name, each once, by their paths."""
    return {one["path"]: one for commit in commits(lake) for one in commit["objects"]}


def lines_of(path):
    """An object's lines, whichever format it has. Numbers with a point are decimals, digit by digit."""
    exact = dict(parse_float=decimal.Decimal)
    if path.suffix != ".parquet":
        with gzip.open(path) as content:
            return [json.loads(line, **exact) for line in content]
    lines = []
    for row in pyarrow.parquet.read_table(path).to_pylist():
        other = json.loads(row.pop("other") or "{}", **exact)
        line = {key: value for key, value in row.items() if value is not None}
        for key, value in line.items():
            if isinstance(value, datetime.datetime):
                line[key] = value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            elif key in ("properties", "context", "consent"):
                line[key] = json.loads(value, **exact)
            elif key == "items":
                line[key] = [{name: one for name, one in item.items() if one is not None} for item in value]
        lines.append(dict(line, **other))
    return lines


def acknowledged_by_truth(lake):
    """The demo's own log: ids that got a 200."""
    ids = set()
    for path in sorted((pathlib.Path(lake) / "_clickmill" / "demo" / "truth").glob("*.ndjson")):
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if entry["status"] == 200:
                ids.update(event["id"] for event in entry["events"])
    return ids


def until(condition, seconds, what):
    """Polls with a bound."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.1)


def copy(source, target):
    """A lake of its own. Data files are linked: they are immutable, a change is a new file."""
    def one(path, to):
        immutable = path.endswith((".parquet", ".json.gz"))
        return os.link(path, to) if immutable else shutil.copy2(path, to)

    shutil.copytree(source, target, copy_function=one)
    return pathlib.Path(target)


def kinesis(operation, endpoint=KINESIS, **request):
    """A call of the Kinesis API. The mock does not check signatures, but wants one."""
    headers = {
        "X-Amz-Target": f"Kinesis_20131202.{operation}", "Content-Type": "application/x-amz-json-1.1",
        "Authorization": "AWS4-HMAC-SHA256 Credential=test/20261123/us-east-1/kinesis/aws4_request, "
                         "SignedHeaders=host, Signature=0",
        "X-Amz-Date": "20261123T000000Z",
    }
    call = urllib.request.Request(endpoint, data=json.dumps(request).encode(), headers=headers, method="POST")
    try:
        with urllib.request.urlopen(call, timeout=30) as response:
            return json.loads(response.read() or b"{}")
    except urllib.error.HTTPError as error:
        error.msg = f"{operation}: {error.read().decode(errors='replace')}"
        raise
