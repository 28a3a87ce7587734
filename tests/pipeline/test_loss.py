"""What a stream's retention takes before it is read is told, with its range; what a worker that is to stop
has read is committed, or told. The test server trims nothing: the proxy stands in for Kinesis there.
"""

import datetime
import json
import os
import signal
import time

import deliveries
import faults
import support
from deliveries import HALF, SECONDS, SHARD, Stream, line

LONG_AGO = "2020-01-01T00:00:00.000000Z"
# More than any of these tests has calls.
ALWAYS = 2_000


class Trimming:
    """Kinesis after it trimmed: what is asked for from its oldest record or from one before that starts at `oldest`."""

    def __init__(self, proxy):
        self.oldest, self.dropped, self.not_at_horizon = {}, set(), set()
        proxy.inject(*[faults.Alter(request=self.iterator)] * ALWAYS, operation="GetShardIterator")
        self.listings = []
        proxy.inject(*[faults.Alter(request=self.listing, answer=self.shards)] * ALWAYS, operation="ListShards")

    def iterator(self, request):
        oldest = self.oldest.get(request["ShardId"])
        number = request.get("StartingSequenceNumber", "0")
        if oldest is None or (request["ShardIteratorType"] == "AFTER_SEQUENCE_NUMBER" and int(number) >= int(oldest)):
            return request
        kept = {key: value for key, value in request.items() if key not in ("Timestamp", "StartingSequenceNumber")}
        return dict(kept, ShardIteratorType="AT_SEQUENCE_NUMBER", StartingSequenceNumber=oldest)

    def listing(self, request):
        self.at_horizon = "ShardFilter" in request
        return {key: value for key, value in request.items() if key != "ShardFilter"}

    def shards(self, answer):
        gone = self.dropped | (self.not_at_horizon if self.at_horizon else set())
        return dict(answer, Shards=[one for one in answer["Shards"] if one["ShardId"] not in gone])


class Loss(deliveries.Deliver):
    def trimmed(self):
        proxy = self.proxied(support.KINESIS)
        return proxy, Trimming(proxy)

    def of_long_ago(self):
        """As `trimmed`, of a stream that was created then: nothing is lost from before."""
        proxy, trimming = self.trimmed()

        def created(answer):
            answer["StreamDescriptionSummary"]["StreamCreationTimestamp"] = 1_577_836_800
            return answer

        proxy.inject(*[faults.Alter(answer=created)] * ALWAYS, operation="DescribeStreamSummary")
        return proxy, trimming

    def deliver(self, stream, proxy, code=0, more=()):
        result = self.clickmill(*self.arguments(stream, "--once", *more), code=code,
                                env={"AWS_ENDPOINT_URL_KINESIS": proxy.url})
        return result.stderr.decode(errors="replace")

    def age(self, key):
        """As if it had been written long ago."""
        for path in (self.lake / "_clickmill").rglob("*.json"):
            content = json.loads(path.read_text(encoding="utf-8"))
            if key in content:
                content[key] = LONG_AGO
                path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")

    def losses(self):
        return {one["source"].rsplit("/", 1)[1]: one["possible_loss"]
                for one in support.commits(self.lake) if "possible_loss" in one}

    def test_a_parent_that_expired_before_it_was_drained_is_a_loss_report(self):
        stream = Stream(1)
        landed = stream.fill(10)
        self.once(stream)
        stream.fill(50)
        stream.split(0, HALF)
        stream.ids = landed + stream.fill(20)[-20:]
        proxy, trimming = self.trimmed()
        trimming.dropped.add(SHARD.format(0))
        last = [one["last"] for one in support.commits(self.lake) if one["last"]][-1]
        said = self.deliver(stream, proxy, code=3)
        self.check(stream.ids)
        self.assertEqual(self.losses(), {SHARD.format(0): {"after": last, "before": None}})
        self.assertIn(last, "".join(one for one in said.splitlines() if "ERROR" in one))
        self.assertTrue([one for one in support.commits(self.lake) if one["closed"]], "its chain has an end")
        # Said once; and an audit does not call it complete.
        self.assertNotIn("ERROR", self.deliver(stream, proxy))
        self.clickmill("--lake", self.lake, "etl", "run")
        result = self.clickmill("--lake", self.lake, "audit", "--strict", code=3)
        self.assertNotIn(b"Complete", result.stdout)

    def test_children_that_were_trimmed_before_their_first_commit_are_a_loss_report(self):
        stream = Stream(1)
        landed = stream.fill(10)
        stream.split(0, HALF)
        proxy, trimming = self.of_long_ago()
        self.deliver(stream, proxy)
        self.age("decided_at")
        children = [SHARD.format(1), SHARD.format(2)]
        stream.fill(30)
        oldest = {}
        for place, shard in enumerate(children):
            put = stream.put(line(f"oldest-{place}"), explicit_hash=str(int(HALF) * place))
            self.assertEqual(put["ShardId"], shard)
            oldest[shard] = put["SequenceNumber"]
        trimming.oldest = oldest
        said = self.deliver(stream, proxy, code=3)
        self.check(landed + ["oldest-0", "oldest-1"])
        self.assertEqual({shard: loss["before"] for shard, loss in self.losses().items()}, oldest)
        self.assertEqual(sum("ERROR" in one for one in said.splitlines()), 2, said)

    def test_children_that_were_not_there_yet_at_the_trim_horizon_lost_nothing(self):
        stream = Stream(1)
        stream.fill(10)
        stream.split(0, HALF)
        proxy, trimming = self.of_long_ago()
        self.deliver(stream, proxy)
        self.age("decided_at")
        stream.fill(30)
        trimming.not_at_horizon = {SHARD.format(1), SHARD.format(2)}
        said = self.deliver(stream, proxy)
        self.check(stream.ids)
        self.assertNotIn("ERROR", said)
        self.assertEqual(self.losses(), {})

    def test_what_is_trimmed_while_a_worker_runs_is_a_loss_report(self):
        self.settings("max_age_seconds = 1\nidle_seconds = 1\npoll_milliseconds = 210\nlease_seconds = 2\n")
        stream = Stream(1)
        first = stream.fill(10)
        proxy, trimming = self.trimmed()

        def no_retention(answer):
            answer["StreamDescriptionSummary"]["RetentionPeriodHours"] = 0
            return answer

        proxy.inject(*[faults.Alter(answer=no_retention)] * ALWAYS, operation="DescribeStreamSummary")
        process = self.worker(stream, env={"AWS_ENDPOINT_URL_KINESIS": proxy.url})
        support.until(lambda: len(self.landed_ids()) == 10, SECONDS, "the first ten landed")
        # It is kept from reading, and meanwhile all but the last record goes.
        proxy.inject(*[faults.Error("ProvisionedThroughputExceededException")] * ALWAYS, operation="GetRecords")
        asked = len(proxy.calls("GetRecords"))
        support.until(lambda: len(proxy.calls("GetRecords")) > asked, SECONDS, "it asks in vain")
        stream.fill(30)
        oldest = stream.put(line("oldest"))["SequenceNumber"]
        trimming.oldest = {SHARD.format(0): oldest}
        fresh = stream.kinesis("GetShardIterator", StreamName=stream.name, ShardId=SHARD.format(0),
                               ShardIteratorType="AT_SEQUENCE_NUMBER", StartingSequenceNumber=oldest)["ShardIterator"]

        def skips(request):
            """An iterator of before goes on behind what was trimmed."""
            return dict(request, ShardIterator=fresh)

        # A look for the oldest record, and a page.
        proxy.replace(*[faults.Alter(request=skips)] * 2, operation="GetRecords")
        support.until(lambda: "oldest" in self.landed_ids(), SECONDS, "the oldest that is left landed")
        said = self.stop(process, code=3)
        self.check(first + ["oldest"])
        last = [one["last"] for one in support.commits(self.lake) if one["last"]][0]
        self.assertEqual(self.losses(), {SHARD.format(0): {"after": last, "before": oldest}})
        self.assertEqual(sum("ERROR" in one for one in said.splitlines()), 1, said)

    def test_a_beginning_before_the_stream_s_oldest_record_is_told_with_its_range(self):
        stream = Stream(1)
        stream.fill(5)
        proxy, _ = self.of_long_ago()
        said = self.deliver(stream, proxy, code=3, more=("--from", "2024-01-01T00:00:00Z"))
        report = [one for one in said.splitlines() if "ERROR" in one and "2024-01-01" in one]
        self.assertEqual(len(report), 1, said)
        self.check(stream.ids)

    def test_a_shard_without_traffic_says_that_it_was_looked_at(self):
        stream = Stream(2)
        stream.fill(20)
        self.once(stream)
        for hours, more in ((1, 0), (7, 2), (0, 0)):
            for path in (self.lake / "_clickmill/delivery").rglob("*.json"):
                commit = json.loads(path.read_text(encoding="utf-8"))
                commit["committed_at"] = support.stamp(support.utc_now() - datetime.timedelta(hours=hours))
                path.write_text(json.dumps(commit, separators=(",", ":")) + "\n", encoding="utf-8")
            before = len(support.commits(self.lake))
            self.once(stream)
            new = support.commits(self.lake)
            self.assertEqual(len(new) - before, more, f"after {hours} hours")
        self.check(stream.ids)
        seen = [one for one in support.commits(self.lake) if not one["objects"]]
        self.assertEqual([(one["last"], one["closed"]) for one in seen], [(None, False)] * 2)
        self.assertEqual(self.losses(), {})
        self.clickmill("--lake", self.lake, "etl", "run")
        self.clickmill("--lake", self.lake, "audit", "--strict")

    def test_a_shard_that_is_not_found_for_a_moment_is_asked_again(self):
        for operation in ("GetShardIterator", "GetRecords"):
            with self.subTest(operation):
                proxy, stream = self.proxied(support.KINESIS), Stream(2)
                self.sent += stream.fill(20)
                proxy.inject(faults.Error("ResourceNotFoundException"), operation=operation)
                self.once(stream, proxy)
                self.check(self.sent)
        self.assertEqual(self.losses(), {})


class Stopping(deliveries.Deliver):
    """SIGTERM while the store fails."""

    def read_and_told_to_stop(self, fault):
        self.settings("max_age_seconds = 3600\nidle_seconds = 3600\npoll_milliseconds = 210\nleases = \"none\"\n")
        proxy, store, stream = self.proxied(support.KINESIS), self.proxied(os.environ["AWS_ENDPOINT_URL_S3"]), Stream(1)
        stream.fill(10)
        lake = f"s3://{support.BUCKET}/{stream.name}"
        process = self.worker(stream, lake=lake, env={
            "AWS_ENDPOINT_URL_KINESIS": proxy.url, "AWS_ENDPOINT_URL_S3": store.url})
        support.until(lambda: len(proxy.calls("GetRecords")) >= 4, SECONDS, "everything is read")
        fault(store)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=SECONDS)[1].decode(errors="replace")
        return stream, lake, process.returncode, said, store

    def test_a_store_that_refuses_for_a_moment_gets_what_was_read(self):
        # The store's client tries the one again by itself.
        for fault, times in ((faults.Error("SlowDown", 503), 12), (faults.Error("AccessDenied", 403), 3)):
            with self.subTest(fault.code):
                _, _, code, said, store = self.read_and_told_to_stop(
                    lambda store, these=[fault] * times: store.inject(*these, operation="PUT"))
                self.assertEqual(code, 0, said)
                self.assertIn("landed 10 events", said)
                self.assertEqual(store.left(), 0, "a fault that was never met")

    def test_told_to_stop_in_the_middle_of_an_outage_it_waits_for_the_store(self):
        self.settings("max_age_seconds = 1\nidle_seconds = 1\npoll_milliseconds = 210\nleases = \"none\"\n")
        proxy, store, stream = self.proxied(support.KINESIS), self.proxied(os.environ["AWS_ENDPOINT_URL_S3"]), Stream(1)
        process = self.worker(stream, lake=f"s3://{support.BUCKET}/{stream.name}", env={
            "AWS_ENDPOINT_URL_KINESIS": proxy.url, "AWS_ENDPOINT_URL_S3": store.url})
        support.until(lambda: len(proxy.calls("GetRecords")) >= 2, SECONDS, "it reads")
        store.down()
        stream.fill(10)
        time.sleep(5)
        process.send_signal(signal.SIGTERM)
        time.sleep(2)
        store.up()
        said = process.communicate(timeout=SECONDS)[1].decode(errors="replace")
        self.assertEqual(process.returncode, 0, said)
        self.assertIn("landed 10 events", said)

    def test_a_store_that_is_gone_makes_it_fail_and_the_next_start_lands_all(self):
        stream, lake, code, said, _ = self.read_and_told_to_stop(lambda store: store.down())
        self.assertEqual(code, 1, said)
        self.assertIn("the next start reads it again", said)
        self.assertIn("landed 10 events", self.once(stream, lake=lake))
