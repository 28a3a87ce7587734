"""What the tests of `clickmill deliver` share: streams to read, workers, and what has to hold of what landed."""

import base64
import collections
import json
import os
import random
import signal
import subprocess
import sys
import uuid

import pyarrow.fs
import support

sys.path.insert(0, str(support.CLIENTS.parent))
import faults  # noqa: E402  (it lies above this folder)

SECONDS = 90
HALF = str(1 << 127)
QUARTER = str(1 << 126)
SHARD = "shardId-{:012}"
COMMITS = "/_clickmill/delivery/"


def line(event_id, received="2026-11-23T17:40:01.000000Z", at="2026-11-23T17:40:00.000000Z", **fields):
    """An event as a collector puts it into a stream."""
    return json.dumps({"event_id": event_id, "event_name": "page_view", "source_protocol": "native",
                       "app_id": "shop", "event_ts": at, "received_ts": received, **fields},
                      ensure_ascii=False, separators=(",", ":"))


def grown(answer):
    """Each record with half a megabyte that does not compress well."""
    for record in answer["Records"]:
        event = json.loads(base64.b64decode(record["Data"]))
        noise = random.Random(event["event_id"]).randbytes(500_000)
        event["properties"] = {"text": base64.b64encode(noise).decode()}
        record["Data"] = base64.b64encode(json.dumps(event, separators=(",", ":")).encode()).decode()
    return answer


class Stream:
    """A stream of its own, and what was put into it."""

    def __init__(self, shards=1, endpoint=support.KINESIS):
        self.endpoint = endpoint
        self.name = f"deliver-{uuid.uuid4()}"
        self.ids = []
        self.kinesis("CreateStream", StreamName=self.name, ShardCount=shards)
        self.active()

    def kinesis(self, operation, **request):
        return support.kinesis(operation, endpoint=self.endpoint, **request)

    def summary(self):
        return self.kinesis("DescribeStreamSummary", StreamName=self.name)["StreamDescriptionSummary"]

    def active(self):
        support.until(lambda: self.summary()["StreamStatus"] == "ACTIVE", SECONDS, "the stream is active")

    def put(self, data, key="k", explicit_hash=None):
        """One record; its shard and sequence number."""
        data = data if isinstance(data, bytes) else data.encode()
        extra = {"ExplicitHashKey": explicit_hash} if explicit_hash else {}
        return self.kinesis("PutRecord", StreamName=self.name, PartitionKey=key,
                               Data=base64.b64encode(data).decode(), **extra)

    def fill(self, count, **fields):
        """That many events, over all shards."""
        first = len(self.ids)
        new = [f"{self.name}-{first + n}" for n in range(count)]
        for start in range(0, count, 500):
            records = [{"PartitionKey": one, "Data": base64.b64encode(line(one, **fields).encode()).decode()}
                       for one in new[start:start + 500]]
            answer = self.kinesis("PutRecords", StreamName=self.name, Records=records)
            assert answer["FailedRecordCount"] == 0, answer
        self.ids += new
        return new

    def split(self, shard, at):
        self.kinesis("SplitShard", StreamName=self.name, ShardToSplit=SHARD.format(shard), NewStartingHashKey=at)
        self.active()

    def merge(self, one, other):
        self.kinesis("MergeShards", StreamName=self.name, ShardToMerge=SHARD.format(one),
                        AdjacentShardToMerge=SHARD.format(other))
        self.active()


class Deliver(support.Case):
    def setUp(self):
        super().setUp()
        if not support.KINESIS or not support.BUCKET:
            self.skipTest("no Kinesis and S3: tests/run.py starts them")
        self.lake = self.folder / "lake"
        # Ids that went into this test's lake through several streams.
        self.sent = []
        self.config = self.folder / "clickmill.toml"
        # Small answers and cuts, so that little data goes a long way.
        self.settings("target_megabytes = 0\npoll_milliseconds = 210\nlease_seconds = 2\n")

    def settings(self, text):
        self.config.write_text("[deliver]\n" + text, encoding="utf-8")

    def proxied(self, upstream):
        proxy = faults.Proxy(upstream)
        self.addCleanup(proxy.down)
        return proxy

    def arguments(self, stream, *more, lake=None):
        return ("--config", self.config, "--lake", lake or self.lake, "deliver", "--stream", stream.name, *more)

    def once(self, stream, proxy=None, lake=None, code=0, more=(), env=None):
        """Delivers all that is there; what it said."""
        env = dict(env or {}, **({"AWS_ENDPOINT_URL_KINESIS": proxy.url} if proxy else {}))
        result = self.clickmill(*self.arguments(stream, "--once", *more, lake=lake), code=code, env=env)
        if proxy:
            self.assertEqual(proxy.left(), 0, "a fault that was never met")
        return result.stderr.decode(errors="replace")

    def worker(self, stream, *more, lake=None, env=None):
        """One that stays up."""
        process = subprocess.Popen([support.BIN, *map(str, self.arguments(stream, *more, lake=lake))],
                                   env=support.environment(**(env or {})), cwd=self.folder,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

        def end():
            process.kill()
            process.wait()
            process.stderr.close()

        self.addCleanup(end)
        return process

    def stop(self, process, code=0):
        """SIGTERM; it must end in order."""
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=support.DRAIN_SECONDS)
        self.assertEqual(process.returncode, code, said.decode(errors="replace")[-4000:])
        return said.decode(errors="replace")

    def landed_ids(self, lake=None):
        return [one["event_id"] for one in support.landed(lake or self.lake)]

    def check(self, ids, lake=None):
        """Each id landed once, nothing else did, and every chain is whole."""
        lake = lake or self.lake
        found = self.landed_ids(lake)
        self.assert_each_once(ids, found, "the raw zone")
        self.assertEqual(set(found) - set(ids), set())
        chains = collections.defaultdict(list)
        for commit in support.commits(lake):
            chains[commit["source"]].append(commit)
        for source, chain in chains.items():
            self.assertEqual([one["ordinal"] for one in chain], list(range(1, len(chain) + 1)), source)
            for before, after in zip(chain, chain[1:]):
                self.assertEqual(after["after"], before["last"] or before["after"], source)
        return chains


class OnS3(Deliver):
    """Delivers into the bucket of the test server, through a fault proxy."""

    def setUp(self):
        super().setUp()
        self.prefix = f"{support.BUCKET}/deliver-{uuid.uuid4().hex[:8]}"
        self.bucket = f"s3://{self.prefix}"
        self.s3 = self.proxied(os.environ["AWS_ENDPOINT_URL_S3"])
        endpoint = os.environ["AWS_ENDPOINT_URL_S3"].split("//")[1]
        self.files = pyarrow.fs.S3FileSystem(
            access_key=os.environ["AWS_ACCESS_KEY_ID"], secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            region=os.environ["AWS_REGION"], endpoint_override=endpoint, scheme="http")

    def fetched(self):
        """The bucket's lake as a folder, read without clickmill."""
        target = self.folder / f"fetched-{uuid.uuid4().hex[:8]}"
        pyarrow.fs.copy_files(self.prefix, str(target), source_filesystem=self.files,
                              destination_filesystem=pyarrow.fs.LocalFileSystem())
        return target
