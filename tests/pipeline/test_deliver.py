"""From a stream to the raw zone through every fault on the way: does each record land exactly once?

The rows of the fault matrix, consumer and landing. The stream is kinesis-mock's, the bucket SeaweedFS',
the aggregates are made by AWS' own aggregator. Ids are compared, not counts. What needs several workers
in one process is in ingest/delivery/tests (fleet.rs, kinesis.rs): two workers on one shard, a zombie, split and
merge under load. Each raw object is one PUT; the rows of multipart uploads are in test_uploads.py.
"""

import base64
import collections
import contextlib
import datetime
import hashlib
import json
import pathlib
import re
import time
import urllib.error
import urllib.request

import deliveries
import support
from aws_kinesis_agg.aggregator import RecordAggregator
from deliveries import COMMITS, HALF, QUARTER, SECONDS, SHARD, Stream, faults, line


class Consumer(deliveries.Deliver):
    """Between the stream and the worker."""

    def through(self, *injected, operation="GetRecords", shards=2, events=120):
        proxy, stream = self.proxied(support.KINESIS), Stream(shards)
        stream.fill(events)
        proxy.inject(*injected, operation=operation)
        said = self.once(stream, proxy)
        self.sent += stream.ids
        self.check(self.sent)
        return said, proxy

    def test_an_expired_iterator_is_replaced_where_it_stood(self):
        proxy, stream = self.proxied(support.KINESIS), Stream(1)
        stream.fill(60)
        expired = faults.Error("ExpiredIteratorException")
        # The first page comes, the second iterator has expired.
        proxy.inject(faults.Alter(request=lambda r: dict(r, Limit=7)), expired,
                     faults.Alter(request=lambda r: dict(r, Limit=5)), expired, expired, operation="GetRecords")
        self.once(stream, proxy)
        self.check(stream.ids)

    def test_an_expired_list_shards_token_begins_the_listing_anew(self):
        proxy, stream = self.proxied(support.KINESIS), Stream(3)
        stream.fill(60)
        proxy.inject(faults.Alter(request=lambda r: dict(r, MaxResults=1)), faults.Error("ExpiredNextTokenException"),
                     faults.Alter(request=lambda r: dict(r, MaxResults=1)), operation="ListShards")
        self.once(stream, proxy)
        self.check(stream.ids)

    def test_empty_pages_before_data_are_not_the_end(self):
        def empty(request):
            return {"Records": [], "NextShardIterator": request["ShardIterator"], "MillisBehindLatest": 3_600_000}

        self.through(*[faults.Reply(empty)] * 6, shards=1)

    def test_a_throttle_a_time_out_and_a_failure_inside_kinesis_are_waited_out(self):
        injected = [faults.Error("ProvisionedThroughputExceededException"), faults.Error("KMSThrottlingException"),
                    faults.Error("InternalFailure", status=500), faults.LoseReply(), faults.Truncate(),
                    faults.Error("LimitExceededException")]
        self.through(*injected)
        for operation in ("ListShards", "GetShardIterator", "DescribeStreamSummary"):
            with self.subTest(operation):
                self.through(faults.Error("LimitExceededException"), faults.LoseReply(), operation=operation, events=20)

    def test_denied_access_and_a_disabled_key_are_said_loudly_and_waited_out(self):
        said, _ = self.through(faults.Error("AccessDeniedException"), faults.Error("KMSDisabledException"),
                               faults.Error("ExpiredTokenException"))
        self.assertIn("ERROR", said)
        self.assertIn("denies access", said)

    def test_a_null_iterator_ends_a_shard_for_good(self):
        stream = Stream(1)
        stream.fill(40)
        stream.split(0, HALF)
        self.once(stream)
        chains = self.check(stream.ids)
        closed = {source.rsplit("/", 1)[1]: chain[-1]["closed"] for source, chain in chains.items()}
        self.assertTrue(closed.pop(SHARD.format(0)))
        self.assertNotIn(True, closed.values())

    def test_a_child_that_is_found_before_its_parent_ends_waits_for_it(self):
        stream = Stream(2)
        stream.fill(300)
        # Split, split of the child, and a merge of two generations, before anything was read.
        stream.split(0, QUARTER)
        stream.fill(100)
        stream.split(3, str((1 << 126) + (1 << 125)))
        stream.fill(100)
        stream.merge(5, 1)
        stream.fill(100)
        self.once(stream)
        chains = {source.rsplit("/", 1)[1]: chain for source, chain in self.check(stream.ids).items()}
        for shard in support.kinesis("ListShards", StreamName=stream.name)["Shards"]:
            for parent in (shard.get("ParentShardId"), shard.get("AdjacentParentShardId")):
                if parent and shard["ShardId"] in chains:
                    last, first = chains[parent][-1], chains[shard["ShardId"]][0]
                    self.assertTrue(last["closed"], parent)
                    self.assertLessEqual(last["committed_at"], first["committed_at"])

    def test_records_trimmed_past_the_checkpoint_are_a_loud_loss_report_with_their_range(self):
        proxy, stream = self.proxied(support.KINESIS), Stream(1)
        lost = stream.fill(10)
        self.once(stream)
        # Two days went by: the commit is older than the stream's retention of 24 hours, and what was
        # in the stream at that time is gone.
        [path] = [one for one in (self.lake / "_clickmill/delivery").rglob("*.json")
                  if json.loads(one.read_text(encoding="utf-8"))["last"]]
        commit = json.loads(path.read_text(encoding="utf-8"))
        commit["committed_at"] = commit["read_through"] = "2020-01-01T00:00:00.000000Z"
        path.write_text(json.dumps(commit, separators=(",", ":")) + "\n", encoding="utf-8")
        stream.fill(10)
        oldest = stream.put(line("oldest"))["SequenceNumber"]
        stream.ids = lost + ["oldest"] + stream.fill(5)

        def from_oldest(request):
            request = dict(request, ShardIteratorType="AT_SEQUENCE_NUMBER", StartingSequenceNumber=oldest)
            return request

        proxy.inject(*[faults.Alter(request=from_oldest)] * 2, operation="GetShardIterator")
        said = self.once(stream, proxy, code=3)
        self.check(stream.ids)
        report = [one for one in said.splitlines() if "ERROR" in one and "retention" in one]
        self.assertEqual(len(report), 1, said)
        self.assertIn(commit["last"], report[0])
        self.assertIn(oldest, report[0])
        losses = [one["possible_loss"] for one in support.commits(self.lake) if "possible_loss" in one]
        self.assertEqual(losses, [{"after": commit["last"], "before": oldest}])

    def test_a_poison_record_is_a_reject_with_its_bytes_and_its_neighbours_land(self):
        stream = Stream(1)
        poison = [b"\x00\xff\xfe", b"", b"{", b"null", b"[" * 10_000, "{\"event_id\":\"\u00fc\"}".encode(), b"\xf3\x89\x9a\xc2"]
        positions = []
        for one in poison:
            stream.fill(1)
            positions.append(stream.put(one)["SequenceNumber"])
        stream.fill(1)
        self.once(stream)
        self.check(stream.ids)
        rejects = {one["sequence_number"]: base64.b64decode(one["bytes_base64"])
                   for one in support.landed(self.lake, "rejects")}
        self.assertEqual(rejects, dict(zip(positions, poison)))

    def aggregate(self, ids, hashes=lambda one: None):
        aggregator = RecordAggregator()
        for one in ids:
            aggregator.add_user_record(one, line(one), hashes(one))
        _, _, data = aggregator.clear_and_get().get_contents()
        return data

    def test_an_aggregate_with_a_corrupt_md5_is_kept_whole_and_the_rest_goes_on(self):
        stream = Stream(1)
        good, bad = [f"good-{n}" for n in range(20)], [f"bad-{n}" for n in range(20)]
        data = self.aggregate(bad)
        broken = data[:-1] + bytes([data[-1] ^ 1])
        position = stream.put(broken)["SequenceNumber"]
        stream.put(self.aggregate(good))
        self.once(stream)
        self.check(good)
        [reject] = support.landed(self.lake, "rejects")
        self.assertEqual((reject["sequence_number"], base64.b64decode(reject["bytes_base64"])), (position, broken))

    def test_an_aggregate_with_hashes_outside_its_shard_is_taken_all_the_same(self):
        stream = Stream(2)
        ids = [f"out-{n}" for n in range(30)]
        hashes = {one: str(int.from_bytes(hashlib.md5(one.encode()).digest(), "big")) for one in ids}
        self.assertGreater(len({int(one) >> 127 for one in hashes.values()}), 1, "all on one side")
        stream.put(self.aggregate(ids, hashes.get), explicit_hash="0")
        # It comes through a split, too.
        stream.split(0, QUARTER)
        more = [f"more-{n}" for n in range(30)]
        stream.put(self.aggregate(more), explicit_hash="0")
        self.once(stream)
        self.check(ids + more)

    def test_a_crash_in_the_middle_of_an_aggregate_repeats_none_of_its_events(self):
        stream, ids = Stream(1), []
        for number in range(4):
            part = [f"a{number}-{n}" for n in range(50)]
            # An aggregate's events of two hours go into two objects: a crash comes between them.
            lines = [line(one, received=f"2026-11-23T{17 + n % 2}:40:01.000000Z") for n, one in enumerate(part)]
            aggregator = RecordAggregator()
            for one, text in zip(part, lines):
                aggregator.add_user_record(one, text)
            stream.put(aggregator.clear_and_get().get_contents()[2])
            ids += part
        for point in ("raw.before_put:2", "raw.put:1", "landing.before_commit", "landing.committed"):
            self.assertTrue(support.died_at(point, *self.arguments(stream, "--once")), point)
        self.once(stream)
        self.check(ids)

    def test_a_record_of_ten_megabytes_lands_whole(self):
        proxy, stream = self.proxied(support.KINESIS), Stream(1)
        stream.fill(2)
        stream.put(line("large"))
        stream.ids.append("large")
        stream.fill(2)
        # The test server takes 1 MiB at most: the proxy makes the record what a stream with
        # MaxRecordSizeInKiB = 10240 would hold.
        value = "\u00fc" * (5 << 20)
        large = line("large", properties={"text": value[: (10 << 20) // 2 - 200]}).encode()
        self.assertLess((10 << 20) - 600, len(large))
        self.assertLessEqual(len(large), 10 << 20)

        def grow(answer):
            for record in answer["Records"]:
                if b'"large"' in base64.b64decode(record["Data"]):
                    record["Data"] = base64.b64encode(large).decode()
            return answer

        proxy.inject(faults.Alter(answer=grow), operation="GetRecords")
        self.once(stream, proxy)
        self.check(stream.ids)
        [found] = [one for one in support.landed(self.lake) if one["event_id"] == "large"]
        self.assertEqual(found["properties"], json.loads(large)["properties"])

    def test_a_stream_created_anew_under_its_name_while_it_is_read_is_another_source(self):
        stream = Stream(1)
        stream.fill(20)
        process = self.worker(stream)
        support.until(lambda: len(self.landed_ids()) >= 20, SECONDS, "the old stream has landed")
        support.kinesis("DeleteStream", StreamName=stream.name)

        def gone():
            try:
                return stream.summary() is None
            except urllib.error.HTTPError:
                return True

        support.until(gone, SECONDS, "the stream is gone")
        support.kinesis("CreateStream", StreamName=stream.name, ShardCount=1)
        stream.active()
        stream.fill(20)
        if process.poll() is None:
            self.stop(process)
        self.once(stream)
        self.assertEqual(len(self.check(stream.ids)), 2)


class Landing(deliveries.OnS3):
    """Between the worker and the bucket."""

    def land(self, stream, code=0, more=()):
        said = self.once(stream, lake=self.bucket, code=code, more=more, env={"AWS_ENDPOINT_URL_S3": self.s3.url})
        self.assertEqual(self.s3.left(), 0, "a fault that was never met")
        return said

    def through(self, *injected, path, operation="PUT"):
        stream = Stream(2)
        stream.fill(80)
        self.s3.inject(*injected, operation=operation, path=path)
        said = self.land(stream)
        self.sent += stream.ids
        self.check(self.sent, self.fetched())
        return stream, said

    def test_killed_before_and_after_each_write_on_s3_each_record_lands_once(self):
        stream = Stream(2)
        stream.fill(80)
        arguments = self.arguments(stream, "--once", lake=self.bucket)
        for point in ("raw.before_put", "raw.put", "landing.before_commit", "landing.committed"):
            self.assertTrue(support.died_at(point, *arguments), point)
            stream.fill(10)
        self.land(stream)
        self.check(stream.ids, self.fetched())

    def test_412_with_the_same_content_is_success(self):
        # The PUT succeeds and its answer is lost: the repeat inside the client meets its own object.
        self.through(faults.LoseReply(), faults.LoseReply(), path=COMMITS)
        self.assertIn(412, [call.status for call in self.s3.calls("PUT")])

    def test_412_with_other_content_is_a_lost_race_and_the_winner_is_followed(self):
        stream = Stream(1)
        stream.fill(80)

        def another_is_first():
            stream.fill(40)
            self.once(stream, lake=self.bucket)

        self.s3.inject(faults.After(another_is_first), operation="PUT", path=COMMITS)
        self.land(stream)
        self.assertIn(412, [call.status for call in self.s3.calls("PUT")])
        self.check(stream.ids, self.fetched())

    def test_409_is_tried_again(self):
        self.through(*[faults.Error("ConditionalRequestConflict", 409)] * 3, path=COMMITS)
        self.through(*[faults.Error("ConditionalRequestConflict", 409)] * 2, path="/raw/")

    def test_503_slow_down_is_waited_out(self):
        for path in (COMMITS, "/raw/"):
            with self.subTest(path):
                self.through(*[faults.Error("SlowDown", 503)] * 3, path=path)
        self.through(*[faults.Error("SlowDown", 503)] * 2, path="list-type=2", operation="GET")

    def test_403_then_restored_goes_on_where_it_was(self):
        for path in (COMMITS, "/raw/"):
            with self.subTest(path):
                _, said = self.through(*[faults.Error("AccessDenied", 403)] * 2, path=path)
                if path == "/raw/":
                    self.assertIn("a request failed; retrying operation=\"landing\"", said)

    def test_a_truncated_body_of_a_commit_is_read_again(self):
        stream, _ = self.through(path=COMMITS)
        stream.fill(20)
        self.s3.inject(faults.Truncate(), faults.LoseReply(), operation="GET", path=COMMITS)
        self.land(stream)
        self.check(stream.ids, self.fetched())

    def test_a_lost_answer_to_a_data_object_leaves_one_that_counts(self):
        stream, _ = self.through(faults.LoseReply(), faults.LoseReply(), path="/raw/")
        lake = self.fetched()
        named = {one["path"] for commit in support.commits(lake) for one in commit["objects"]}
        there = {str(path.relative_to(lake)) for path in (lake / "raw").rglob("*.json.gz")}
        self.assertEqual(named - there, set())
        self.assertGreater(len(there - named), 0, "no object was written twice: the fault did nothing")
        self.assertEqual(len(stream.ids), 80)

    def test_a_replay_with_another_cut_lands_the_same_records_once(self):
        stream = Stream(1)
        stream.fill(200)
        # It writes objects of one cut and dies; the next one cuts elsewhere.
        for size in ("0", "1"):
            self.settings(f"target_megabytes = {size}\n")
            self.assertTrue(support.died_at("landing.before_commit:1", *self.arguments(stream, "--once")))
            stream.fill(50)
        self.settings("target_megabytes = 64\n")
        self.once(stream)
        self.check(stream.ids)

    def test_more_open_partitions_than_the_cap_land_all_the_same(self):
        self.settings("target_megabytes = 64\n")
        stream = Stream(1)
        start = datetime.datetime(2026, 11, 1, tzinfo=datetime.timezone.utc)
        for hour in range(150):
            at = (start + datetime.timedelta(hours=hour)).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
            stream.fill(3, received=at)
        self.once(stream)
        self.check(stream.ids)
        objects = [one for commit in support.commits(self.lake) for one in commit["objects"]]
        folders = collections.Counter(pathlib.Path(one["path"]).parent for one in objects)
        self.assertEqual(len(folders), 150)

    def test_late_and_future_events_lie_by_arrival_and_tell_their_dates(self):
        stream = Stream(1)
        received = "2026-11-23T23:59:59.999999Z"
        for at in ("1970-01-01", "2026-11-24", "2099-12-31"):
            stream.fill(1, received=received, at=f"{at}T00:00:00.000000Z")
        self.settings("target_megabytes = 64\n")
        self.once(stream)
        self.check(stream.ids)
        [one] = [one for commit in support.commits(self.lake) for one in commit["objects"]]
        self.assertTrue(one["path"].startswith("raw/events/dt=2026-11-23/hour=23/"), one["path"])
        self.assertEqual(one["event_dates"], ["1970-01-01", "2026-11-24", "2099-12-31"])

    def test_hostile_values_never_reach_a_path(self):
        stream = Stream(1)
        hostile = ["/", "..", "../../etc", "a=b", "100%", "%2F", "", " ", "\u00fc\U0001f6d2", "\u0000", "x" * 5_000, "dt=1"]
        for number, value in enumerate(hostile):
            one = f"hostile-{number}"
            stream.put(line(one, app_id=value, event_name=value or "x", user_id=value))
            stream.ids.append(one)
        # And null: where a value must be, it makes a reject; elsewhere it is none.
        stream.put(line("nameless", app_id=None))
        stream.put(line("nulls", user_id=None, page_url=None, properties=None, items=None, revenue=None))
        stream.ids.append("nulls")
        self.once(stream)
        self.check(stream.ids)
        found = {one["event_id"]: one["app_id"] for one in support.landed(self.lake)}
        self.assertEqual(found, dict({f"hostile-{n}": value for n, value in enumerate(hostile)}, nulls="shop"))
        rejected = [base64.b64decode(one["bytes_base64"]) for one in support.landed(self.lake, "rejects")]
        self.assertEqual([json.loads(one)["event_id"] for one in rejected], ["nameless"])
        for path in (self.lake / "raw").rglob("*"):
            self.assertRegex(str(path.relative_to(self.lake)), r"^[A-Za-z0-9/=._-]+$")

    def test_an_idle_shard_is_flushed(self):
        self.settings("max_age_seconds = 3600\nidle_seconds = 1\n")
        stream = Stream(1)
        stream.fill(30)
        process = self.worker(stream)
        support.until(lambda: len(self.landed_ids()) == 30, SECONDS, "what came has landed")
        self.stop(process)
        self.check(stream.ids)

    def test_sigterm_drains_and_commits_and_frees_the_leases(self):
        self.settings("max_age_seconds = 3600\nidle_seconds = 3600\npoll_milliseconds = 210\n")
        proxy, stream = self.proxied(support.KINESIS), Stream(2)
        stream.fill(30)
        process = self.worker(stream, env={"AWS_ENDPOINT_URL_KINESIS": proxy.url})
        # Each shard's second page is empty: by then the first was taken in.
        support.until(lambda: len(proxy.calls("GetRecords")) >= 6, SECONDS, "everything is read")
        self.assertEqual(self.landed_ids(), [])
        said = self.stop(process)
        self.assertIn("landed 30 events", said)
        self.check(stream.ids)
        leases = [json.loads(path.read_text(encoding="utf-8"))
                  for path in (self.lake / "_clickmill/leases").rglob("shards/*.json")]
        self.assertEqual([lease["owner"] for lease in leases], [None, None])
        self.assertEqual(list((self.lake / "_clickmill/leases").rglob("workers/*.json")), [])


class Memory(deliveries.Deliver):
    """The budget holds, whatever the number of shards and hours."""

    SHARDS = 16
    HOURS = 6

    def peak(self, stream, memory, lake, *more):
        """Peak RSS in MiB of a run that nothing but the budget makes cut."""
        config = self.folder / f"{memory}.toml"
        config.write_text("[deliver]\ntarget_megabytes = 10000\nmax_age_seconds = 3600\nidle_seconds = 3600\n"
                          f"memory_megabytes = {memory}\n", encoding="utf-8")
        # The test server takes large records slowly: the proxy makes small ones large on their way. A few
        # at a time, so that all shards are read side by side.
        proxy = self.proxied(support.KINESIS)
        few = faults.Alter(request=lambda request: dict(request, Limit=3), answer=deliveries.grown)
        proxy.inject(*[few] * 2_000, operation="GetRecords")
        proxy.inject(*[faults.Events(pushed)] * 100, operation="SubscribeToShard")
        process = support.spawn("--config", config, "--lake", lake, "deliver", "--stream", stream.name, "--once", *more,
                                env={"AWS_ENDPOINT_URL_KINESIS": proxy.url}, cwd=self.folder)
        peak = 0
        while process.poll() is None:
            # The kernel's own high-water mark; gone with the process, so the last one read counts.
            with contextlib.suppress(OSError):
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
                found = re.search(r"VmHWM:\s+(\d+) kB", status)
                peak = max(peak, int(found[1])) if found else peak
            time.sleep(0.02)
        self.assertEqual(process.returncode, 0)
        self.assertGreater(proxy.left(), 2_000 if "--retrieval-mode" in more else 100, "some answers were not made large")
        return peak / 1024

    def test_memory_is_bounded_with_many_shards_and_hours(self):
        empty, stream = Stream(1), Stream(self.SHARDS)
        width = (1 << 128) // self.SHARDS
        for number in range(self.SHARDS * 12):
            one = f"{stream.name}-{number}"
            received = f"2026-11-23T{number % self.HOURS:02}:40:01.000000Z"
            stream.put(line(one, received=received), explicit_hash=str(number % self.SHARDS * width))
            stream.ids.append(one)
        base = self.peak(empty, 64, self.folder / "empty")
        bounded = self.peak(stream, 64, self.lake)
        print(f"(peak {base:.0f} MiB empty, {bounded:.0f} with everything)", end=" ")
        self.check(stream.ids)
        # Without the budget there is one object an hour, when all is read to its end: 97 MB are held then.
        self.assertGreater(len(support.stored(self.lake)), self.HOURS, "nothing but the budget cuts: it did not")
        # An allocator keeps freed pages for each thread: about as much again.
        self.assertLess(bounded, base + 2 * 64 + 32)
        columns = self.folder / "columns"
        bounded = self.peak(stream, 64, columns, "--format", "parquet")
        print(f"({bounded:.0f} as columns)", end=" ")
        self.check(stream.ids, columns)
        self.assertGreater(len(support.stored(columns)), self.HOURS)
        self.assertLess(bounded, base + 2 * 64 + 32)
        # What nobody has room for stays with the server, on all connections.
        fanned = self.folder / "pushed"
        bounded = self.peak(stream, 64, fanned, "--retrieval-mode", "fan_out=lake")
        print(f"({bounded:.0f} pushed)", end=" ")
        self.check(stream.ids, fanned)
        self.assertGreater(len(support.stored(fanned)), self.HOURS)
        self.assertLess(bounded, base + 2 * 64 + 32)


def pushed(event):
    """As much, in events of three records."""
    records = deliveries.grown(event)["Records"]
    parts = [records[first:first + 3] for first in range(0, len(records), 3)] or [[]]
    return [dict(event, Records=part, MillisBehindLatest=0 if last else 1,
                 ContinuationSequenceNumber=part[-1]["SequenceNumber"] if part else event["ContinuationSequenceNumber"])
            for part, last in zip(parts, [False] * (len(parts) - 1) + [True])]


class Operations(deliveries.Deliver):
    def status(self, stream):
        """As its users read it: by program; and as people do, which must not fail."""
        for_people = self.clickmill("--config", self.config, "--lake", self.lake, "deliver", "status",
                                    "--stream", stream.name)
        self.assertIn(stream.name, for_people.stdout.decode())
        answer = self.clickmill("--config", self.config, "--lake", self.lake, "deliver", "status",
                                "--stream", stream.name, "--format", "json")
        return json.loads(answer.stdout)

    def test_status_tells_state_owner_checkpoint_and_lag_of_every_shard(self):
        stream = Stream(2)
        stream.fill(60)
        self.once(stream)
        stream.split(0, QUARTER)
        stream.fill(300)
        before = self.status(stream)
        self.assertEqual([one["state"] for one in before["shards"]], ["free", "free", "waiting", "waiting"])
        chains = {source.rsplit("/", 1)[1]: chain for source, chain in self.check(stream.ids[:60]).items()}
        for one in before["shards"]:
            chain = chains.get(one["shard"], [])
            self.assertEqual(one["commits"], len(chain))
            self.assertEqual(one["checkpoint"], chain[-1]["last"] if chain else None)
            self.assertEqual(one["committed_at"], chain[-1]["committed_at"] if chain else None)
        # The second shard got more of the new records; they arrived after its checkpoint.
        self.assertGreaterEqual(before["shards"][1]["millis_behind"], 0)
        self.assertEqual((before["workers"], before["missing_lease_table"]), ([], None))
        said = self.clickmill("--lake", self.lake, "deliver", "status", "--stream", stream.name, "--leases",
                              "dynamodb=nobody-made-it").stdout.decode()
        self.assertIn("There is no table nobody-made-it in DynamoDB", said)
        proxy = self.proxied(support.KINESIS)
        proxy.inject(*[faults.Error("ProvisionedThroughputExceededException")] * 3, operation="GetRecords")
        process = self.worker(stream, env={"AWS_ENDPOINT_URL_KINESIS": proxy.url})
        support.until(lambda: len(self.landed_ids()) == 360, SECONDS, "everything has landed")

        def settled():
            now = self.status(stream)
            states = [one["state"] for one in now["shards"]]
            is_all = states == ["drained", "leased", "leased", "leased"] and list(now["retries"].values()) == [3]
            return now if is_all else None

        now = support.until(settled, SECONDS, "the children are read")
        [worker] = now["workers"]
        self.assertEqual(now["retries"], {worker: 3})
        self.assertEqual([one["owner"] for one in now["shards"]], [None, worker, worker, worker])
        self.assertEqual([one["millis_behind"] for one in now["shards"]], [None, 0, 0, 0])
        self.stop(process)
        self.check(stream.ids)

    def test_metrics_tell_lag_records_commits_sizes_retries_and_leases(self):
        proxy, stream = self.proxied(support.KINESIS), Stream(2)
        stream.fill(80)
        proxy.inject(*[faults.Error("ProvisionedThroughputExceededException")] * 3, operation="GetRecords")
        process = self.worker(stream, "--metrics-listen", "127.0.0.1:0", env={"AWS_ENDPOINT_URL_KINESIS": proxy.url})
        url = None
        for text in process.stderr:
            found = re.search(rb"metrics at (http://\S+)", text)
            if found:
                url = found[1].decode()
                break
        self.assertIsNotNone(url)

        def scrape():
            with urllib.request.urlopen(url, timeout=30) as response:
                self.assertIn("text/plain", response.headers["Content-Type"])
                samples = {}
                for text in response.read().decode().splitlines():
                    if not text.startswith("#"):
                        name, value = text.rsplit(" ", 1)
                        samples[name.replace("clickmill_deliver_", "").replace(f'stream="{stream.name}"', "*")] = int(value)
                return samples

        def landed():
            samples = scrape()
            done = samples.get('lines_total{*,kind="events"}') == 80 and samples["held_bytes{*}"] == 0
            return samples if done and samples['leases_held{*}'] == 2 else None

        samples = support.until(landed, SECONDS, "everything has landed")
        self.stop(process)
        objects = support.stored(self.lake).values()
        self.assertEqual(samples["records_total{*}"], 80)
        self.assertEqual(samples["commits_total{*}"], len(support.commits(self.lake)))
        self.assertEqual(samples['object_bytes_count{*,kind="events"}'], len(objects))
        self.assertEqual(samples['object_bytes_sum{*,kind="events"}'], sum(one["bytes"] for one in objects))
        self.assertEqual(samples['retries_total{*,operation="GetRecords"}'], 3)
        self.assertEqual((samples["shards_readable{*}"], samples["workers{*}"]), (2, 1))
        self.assertEqual(sum(samples[f'shard_records_total{{*,shard="{SHARD.format(n)}"}}'] for n in (0, 1)), 80)
        for shard in (0, 1):
            self.assertEqual(samples[f'shard_millis_behind_latest{{*,shard="{SHARD.format(shard)}"}}'], 0)

    def test_settings_that_mean_nothing_are_refused_with_what_to_give(self):
        for flag, value in (("--from", "yesterday"), ("--from", "9000-01-01T00:00:00Z"), ("--leases", "zookeeper"),
                            ("--metrics-listen", "here")):
            said = self.clickmill("deliver", "--stream", "s", flag, value, code=2).stderr.decode()
            self.assertIn(value, said)
        self.assertIn("--stream", self.clickmill("deliver", code=2).stderr.decode())
        said = self.clickmill("deliver", "--stream", "s", "--format", "avro", code=2).stderr.decode()
        self.assertIn("give json or parquet", said)
        self.settings("memory_megabytes = 1\n")
        said = self.clickmill("--config", self.config, "deliver", "--stream", "s", code=2).stderr.decode()
        self.assertIn("give 64 or more", said)
