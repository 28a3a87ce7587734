"""A fleet of workers under random faults, splits, merges and kills: nothing is lost and nothing lands twice.

Bounded by CLICKMILL_SOAK_SECONDS (`tests/run.py --soak SECONDS`); its seed is printed, and CLICKMILL_SOAK_SEED
gives the same choices again, though not the same timing.
"""

import json
import os
import random
import signal
import subprocess
import threading
import time
import uuid

import deliveries
import support
from deliveries import faults

SOAK_SECONDS = float(os.environ.get("CLICKMILL_SOAK_SECONDS", "60"))
SEED = int(os.environ.get("CLICKMILL_SOAK_SEED", str(random.randrange(1 << 32))))
MAX_WORKERS = 4
# The test server holds so many shards of all tests at once.
MAX_OPEN_SHARDS = 8
# A stream's shards are split and merged at most so often: each one that ended stays listed.
MAX_RESHARDS = 30
KINESIS_FAULTS = [
    ("GetRecords", lambda: faults.Error("ProvisionedThroughputExceededException")),
    ("GetRecords", lambda: faults.Error("ExpiredIteratorException")),
    ("GetRecords", lambda: faults.Error("InternalFailure", 500)),
    ("GetRecords", faults.LoseReply),
    ("GetRecords", faults.Truncate),
    ("GetShardIterator", lambda: faults.Error("LimitExceededException")),
    ("ListShards", lambda: faults.Error("LimitExceededException")),
    ("DescribeStreamSummary", faults.LoseReply),
]
S3_FAULTS = [
    ("PUT", path, fault)
    for path in ("/_clickmill/delivery/", "/_clickmill/leases/", "/raw/")
    for fault in (lambda: faults.Error("SlowDown", 503), lambda: faults.Error("ConditionalRequestConflict", 409),
                  lambda: faults.Error("AccessDenied", 403), faults.LoseReply, faults.Truncate)
] + [
    ("GET", "", lambda: faults.Error("SlowDown", 503)),
    ("GET", "", faults.LoseReply),
    ("GET", "/_clickmill/delivery/", faults.Truncate),
]


DYNAMODB_FAULTS = [
    (operation, fault)
    for operation in ("Scan", "PutItem", "UpdateItem", "DeleteItem")
    for fault in (lambda: faults.Error("ProvisionedThroughputExceededException"),
                  lambda: faults.Error("InternalServerError", 500), faults.LoseReply, faults.Truncate)
]


class Soak(deliveries.OnS3):
    def test_random_faults_splits_merges_and_kills_lose_nothing_and_land_nothing_twice(self):
        self.soak(SOAK_SECONDS * 2 / 3)

    def test_so_it_is_with_leases_in_dynamodb(self):
        table = self.proxied(support.environment()["AWS_ENDPOINT_URL_DYNAMODB"])
        self.more = ("--leases", f"dynamodb=soak-{uuid.uuid4()}")
        self.soak(SOAK_SECONDS / 3, {"AWS_ENDPOINT_URL_DYNAMODB": table.url}, table)

    # Of every worker's command line.
    more = ()

    def soak(self, seconds, environment=None, table=None):
        print(f"(seed {SEED})", end=" ", flush=True)
        chance = random.Random(SEED)
        self.settings("target_megabytes = 0\npoll_milliseconds = 210\nlease_seconds = 3\nmax_age_seconds = 2\n")
        stream = deliveries.Stream(3)
        kinesis = self.proxied(support.KINESIS)
        environment = dict(environment or {}, AWS_ENDPOINT_URL_S3=self.s3.url, AWS_ENDPOINT_URL_KINESIS=kinesis.url)
        self.happened = dict.fromkeys(("start", "kill", "stop", "split", "merge", "fault"), 0)
        workers, stopping = [], threading.Event()
        writer = threading.Thread(target=self.write, args=(stream, stopping), daemon=True)
        writer.start()
        deadline = time.monotonic() + seconds
        # A soak in which something did not happen goes on for a while: chance is no failure.
        while time.monotonic() < deadline + (4 * seconds if 0 in self.happened.values() else 0):
            for worker in workers:
                if worker.poll() is not None:
                    said = worker.log.read_text(encoding="utf-8", errors="replace")
                    self.fail(f"a worker ended by itself with {worker.returncode}:\n{said[-4000:]}")
            step = chance.random()
            if len(workers) < 2 or (step < 0.1 and len(workers) < MAX_WORKERS):
                workers.append(self.quiet_worker(stream, environment))
                self.happened["start"] += 1
            elif step < 0.2:
                worker = workers.pop(chance.randrange(len(workers)))
                worker.kill()
                worker.wait()
                self.happened["kill"] += 1
            elif step < 0.27:
                worker = workers.pop(chance.randrange(len(workers)))
                worker.send_signal(signal.SIGTERM)
                self.assertEqual(worker.wait(support.DRAIN_SECONDS), 0)
                self.happened["stop"] += 1
            elif step < 0.37 and self.happened["split"] + self.happened["merge"] < MAX_RESHARDS:
                self.reshard(stream, chance)
            else:
                for _ in range(chance.randrange(1, 4)):
                    if table and chance.random() < 0.4:
                        operation, fault = chance.choice(DYNAMODB_FAULTS)
                        table.inject(fault(), operation=operation)
                    elif chance.random() < 0.5:
                        operation, fault = chance.choice(KINESIS_FAULTS)
                        kinesis.inject(fault(), operation=operation)
                    else:
                        operation, path, fault = chance.choice(S3_FAULTS)
                        self.s3.inject(fault(), operation=operation, path=path)
                    self.happened["fault"] += 1
            time.sleep(chance.uniform(0.1, 0.6))
        stopping.set()
        writer.join()
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        for worker in workers:
            self.assertEqual(worker.wait(support.DRAIN_SECONDS), 0)
        self.once(stream, lake=self.bucket)
        print(json.dumps(self.happened), len(stream.ids), "events", end=" ", flush=True)
        self.check(stream.ids, self.fetched())
        for what, times in self.happened.items():
            self.assertGreater(times, 0, f"no {what} happened")
        self.assertGreater(len(stream.ids), 5 * seconds)

    def quiet_worker(self, stream, environment):
        """Its words are few; a pipe that nobody reads would stop it, so they go to a file."""
        path = self.folder / f"worker-{self.happened['start']}.log"
        with open(path, "wb") as log:
            worker = subprocess.Popen(  # pylint: disable=consider-using-with
                [support.BIN, *map(str, self.arguments(stream, *self.more, lake=self.bucket))], cwd=self.folder,
                env=support.environment(**environment), stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=log)
        worker.log = path

        def end():
            worker.kill()
            worker.wait()

        self.addCleanup(end)
        return worker

    def write(self, stream, stopping):
        while not stopping.wait(0.1):
            stream.fill(10)

    def reshard(self, stream, chance):
        """Splits a random open shard, or merges two that lie side by side."""
        shards = [one for one in support.kinesis("ListShards", StreamName=stream.name)["Shards"]
                  if not one["SequenceNumberRange"].get("EndingSequenceNumber")]
        ranges = sorted((int(one["HashKeyRange"]["StartingHashKey"]), int(one["HashKeyRange"]["EndingHashKey"]),
                         int(one["ShardId"].rsplit("-", 1)[1])) for one in shards)
        if len(ranges) < 2 or (chance.random() < 0.5 and len(ranges) < MAX_OPEN_SHARDS):
            start, end, shard = chance.choice(ranges)
            if end - start > 2:
                stream.split(shard, str(start + (end - start) // 2))
                self.happened["split"] += 1
        else:
            place = chance.randrange(len(ranges) - 1)
            stream.merge(ranges[place][2], ranges[place + 1][2])
            self.happened["merge"] += 1
