"""From HTTP to a stream, through every fault on the way: is each acknowledged event there, and who can read it?

The streams are kinesis-mock's and moto's; the reader of aggregates is AWS' own, PyPI's `aws-kinesis-agg`.
"""

import base64
import collections
import hashlib
import json
import os
import sys
import threading
import urllib.request
import uuid
import xml.etree.ElementTree

import support
from aws_kinesis_agg.aggregator import RecordAggregator
from streams import records_of, shards_of, user_records

sys.path.insert(0, str(support.CLIENTS.parent))
import faults  # noqa: E402  (it lies above this folder)

FIREHOSE = os.environ.get("AWS_ENDPOINT_URL_FIREHOSE", "")
SECONDS = 90
MIDDLE = 1 << 127


def hash_of(partition_key):
    return int.from_bytes(hashlib.md5(partition_key.encode()).digest(), "big")


def visitor_on(side, number):
    """A visitor whose hash lies in the lower (0) or upper (1) half."""
    while hash_of(f"v{number}") // MIDDLE != side:
        number += 1000
    return f"v{number}"


# Kinesis

def create_stream(shards=1):
    stream = f"sink-{uuid.uuid4()}"
    support.kinesis("CreateStream", StreamName=stream, ShardCount=shards)
    active(stream)
    return stream


def active(stream):
    def is_active():
        summary = support.kinesis("DescribeStreamSummary", StreamName=stream)["StreamDescriptionSummary"]
        return summary["StreamStatus"] == "ACTIVE"

    support.until(is_active, SECONDS, "the stream is active")


def lines_of(stream):
    return [json.loads(data) for _, _, data in user_records(records_of(stream))]


def ids_in(lines):
    """Those of events; heartbeats have none."""
    return [line["event_id"] for line in lines if "event_id" in line]


def ids_of(stream):
    return ids_in(lines_of(stream))


# Firehose, and the S3 that moto's delivers to

def firehose(operation, **request):
    headers = {
        "X-Amz-Target": f"Firehose_20150804.{operation}", "Content-Type": "application/x-amz-json-1.1",
        "Authorization": "AWS4-HMAC-SHA256 Credential=test/20261123/us-east-1/firehose/aws4_request, "
                         "SignedHeaders=host, Signature=0",
        "X-Amz-Date": "20261123T000000Z",
    }
    call = urllib.request.Request(FIREHOSE, data=json.dumps(request).encode(), headers=headers, method="POST")
    with urllib.request.urlopen(call, timeout=30) as response:
        return json.loads(response.read() or b"{}")


def moto_s3(method, path):
    headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20261123/us-east-1/s3/aws4_request, "
                                "SignedHeaders=host, Signature=0"}
    call = urllib.request.Request(FIREHOSE + path, headers=headers, method=method)
    with urllib.request.urlopen(call, timeout=30) as response:
        return response.read()


def create_delivery_stream():
    name = f"sink-{uuid.uuid4()}"
    moto_s3("PUT", f"/{name}")
    destination = {"RoleARN": "arn:aws:iam::123456789012:role/firehose", "BucketARN": f"arn:aws:s3:::{name}"}
    firehose("CreateDeliveryStream", DeliveryStreamName=name, DeliveryStreamType="DirectPut",
             ExtendedS3DestinationConfiguration=destination)
    return name


def delivered(name):
    """The lines of every object that Firehose landed."""
    listing = xml.etree.ElementTree.fromstring(moto_s3("GET", f"/{name}?list-type=2"))
    keys = [key.text for key in listing.iter("{http://s3.amazonaws.com/doc/2006-03-01/}Key")]
    lines = []
    for key in keys:
        content = moto_s3("GET", f"/{name}/{key}")
        assert content.endswith(b"\n"), "an object does not end with a newline"
        lines += [json.loads(line) for line in content.splitlines()]
    return lines


class Case(support.Case):
    def ship(self, sink, endpoint, extra="", folder=None, **limits):
        """A collector with a sink, its endpoint, and settings of [collector] and [collector.kinesis]; with the
        spool of an earlier one where its folder is given."""
        folder = folder or self.folder / uuid.uuid4().hex
        folder.mkdir(exist_ok=True)
        lines = [f"{name} = {value}" for name, value in limits.items()]
        path = folder / "clickmill.toml"
        path.write_text("\n".join(["[collector]", extra, f"[collector.{sink.partition('=')[0]}]", *lines]),
                        encoding="utf-8")
        service = "AWS_ENDPOINT_URL_" + sink.partition("=")[0].upper()
        return self.collector("--config", path, "--sink", sink, "--spool", folder / "spool",
                              env={service: endpoint}, cwd=folder)

    def send(self, collector, ids, visitor=None, **properties):
        for start in range(0, len(ids), 50):
            batch = [support.track(one, visitor=visitor or f"v{n % 40}", **properties)
                     for n, one in enumerate(ids[start:start + 50], start)]
            self.assertEqual(collector.post("/v1/batch", {"batch": batch})[0], 200)

    def health(self, collector):
        with urllib.request.urlopen(collector.url + "/health", timeout=30) as response:
            return json.loads(response.read())

    def shipped(self, collector):
        support.until(collector.is_shipped, SECONDS, "everything is shipped")

    def deliver(self, stream):
        lake = self.folder / "lake"
        self.clickmill("deliver", "--stream", stream, "--once", "--lake", lake)
        return lake


class Aggregation(Case):
    def assert_kcl_keeps_everything(self, found):
        """The KCL drops an aggregate with a record whose hash is outside of the shard's range."""
        for shard, one, _ in user_records(found):
            if one.get("aggregated"):
                low, high = (int(shard["HashKeyRange"][key]) for key in ("StartingHashKey", "EndingHashKey"))
                self.assertTrue(low <= int(one["explicitHashKey"]) <= high, "the KCL would drop this aggregate")

    def test_awss_own_deaggregator_reads_what_the_collector_puts(self):
        stream = create_stream(3)
        # Everything goes as one batch.
        collector = self.ship(f"kinesis={stream}", support.KINESIS, "batch_max_wait_ms = 600000")
        ids = [f"e{n}" for n in range(1_000)]
        self.send(collector, ids)
        collector.stop()
        found = records_of(stream)
        lines = [(one, json.loads(data)) for _, one, data in user_records(found)]
        events = [(one, line) for one, line in lines if "event_id" in line]
        self.assert_each_once(ids, [line["event_id"] for _, line in events], "the stream")
        self.assertEqual(len(events), len(ids))
        self.assertLess(len(found) * 10, len(ids), "hardly anything was aggregated")
        self.assertLessEqual(max(len(record["Data"]) for _, record in found), 51_200)
        self.assert_kcl_keeps_everything(found)
        self.assertTrue(all(data.endswith(b"\n") for _, _, data in user_records(found)))
        by_visitor = collections.defaultdict(list)
        for one, line in events:
            self.assertEqual(one["partitionKey"], line["anonymous_id"])
            by_visitor[line["anonymous_id"]].append(line["wal_seq"])
        self.assertEqual([seqs for seqs in by_visitor.values() if seqs != sorted(seqs)], [], "out of order")
        self.assertEqual(len({shard["ShardId"] for shard, _ in found}), 3)

    def test_what_awss_own_aggregator_writes_lands_and_damaged_ones_land_as_rejects(self):
        stream = create_stream(2)

        def event(one):
            return json.dumps({"event_id": one, "event_name": "page_view", "source_protocol": "segment",
                               "app_id": "shop", "event_ts": "2026-11-23T17:40:00.000000Z",
                               "received_ts": "2026-11-23T17:40:01.000000Z"}, separators=(",", ":"))

        def put(partition_key, data, **more):
            return support.kinesis("PutRecord", StreamName=stream, PartitionKey=partition_key,
                                   Data=base64.b64encode(data).decode(), **more)

        expected, damaged = {}, []
        for number in range(4):
            aggregator = RecordAggregator()
            ids = [f"a{number}-{n}" for n in range(30)]
            for n, one in enumerate(ids):
                # Hashes all over: the KCL would drop such an aggregate on one of two shards.
                aggregator.add_user_record(f"v{n}", (event(one) + "\n").encode(), str(hash_of(one)) if n % 2 else None)
            content = aggregator.clear_and_get().get_contents()[2]
            put_at = put(f"k{number}", content)
            for sub, one in enumerate(ids):
                expected[one] = (put_at["ShardId"], f"{put_at['SequenceNumber']}.{sub}")
        bad = bytearray(content)
        bad[-1] ^= 1
        damaged.append(bytes(bad))
        damaged.append(b"\xf3\x89\x9a\xc2" + b"x" * 30)
        for one in damaged:
            put("bad", one)
        raw = put("raw", event("raw").encode())
        expected["raw"] = (raw["ShardId"], raw["SequenceNumber"])
        lake = self.deliver(stream)
        landed = {line["event_id"]: (line["shard_id"], line["sequence_number"]) for line in support.landed(lake)}
        self.assertEqual(landed, expected)
        rejects = [base64.b64decode(line["bytes_base64"]) for line in support.landed(lake, "rejects")]
        self.assertEqual(sorted(rejects), sorted(damaged))

    def test_reshard_while_aggregating_loses_nothing(self):
        """A split, then a merge."""
        stream = create_stream(1)
        collector = self.ship(f"kinesis={stream}", support.KINESIS)
        load = support.Load(collector.port, "load", pause=0.05)

        def more():
            """Some more load has been shipped."""
            already = len(load.acknowledged)
            support.until(lambda: len(load.acknowledged) > already + 500, SECONDS, "load")
            shipped = self.health(collector)["shipped_wal_seq"]
            support.until(lambda: self.health(collector)["shipped_wal_seq"] > shipped + 300, SECONDS, "shipping")

        more()
        support.kinesis("SplitShard", StreamName=stream, ShardToSplit="shardId-000000000000",
                        NewStartingHashKey=str(MIDDLE))
        active(stream)
        more()
        support.kinesis("MergeShards", StreamName=stream, ShardToMerge="shardId-000000000001",
                        AdjacentShardToMerge="shardId-000000000002")
        active(stream)
        more()
        load.stop()
        self.assertEqual(load.unanswered, [])
        self.shipped(collector)
        collector.stop()
        found = records_of(stream)
        per_shard = collections.Counter(shard["ShardId"] for shard, _ in found)
        self.assertEqual(len(per_shard), 4, per_shard)
        self.assert_kcl_keeps_everything(found)
        self.assert_each_once(load.acknowledged, ids_of(stream), "the stream")
        lake = self.deliver(stream)
        self.assert_each_once(load.acknowledged, [line["event_id"] for line in support.landed(lake)], "the raw zone")


class Faults(Case):
    """The producer's rows of the fault matrix, each against the real server behind the fault proxy."""

    def proxy(self, upstream=None):
        proxy = faults.Proxy(upstream or support.KINESIS)
        self.addCleanup(proxy.down)
        return proxy

    def through(self, *injected, operation="PutRecords", count=300, **limits):
        """Ships events through the faults; the proxy, the acknowledged ids and the stream's lines."""
        stream = create_stream(2)
        proxy = self.proxy()
        proxy.inject(*injected, operation=operation)
        limits.setdefault("call_timeout_ms", 20_000)
        collector = self.ship(f"kinesis={stream}", proxy.url, **limits)
        ids = [f"e{n}" for n in range(count)]
        self.send(collector, ids)
        self.shipped(collector)
        self.assertEqual(proxy.left(), 0, "a fault that did not happen")
        collector.stop()
        return proxy, ids, lines_of(stream)

    def test_partial_failure_by_index_sends_only_the_refused_records_again(self):
        # No aggregation, and batches large enough: the first call holds what the first batch held.
        injected = [faults.Refuse([0, 3, 7]), faults.Refuse([1]), faults.Refuse([0], code="InternalFailure")]
        proxy, ids, lines = self.through(*injected, aggregate_bytes=0)
        self.assert_each_once(ids, ids_in(lines), "the stream")
        calls = proxy.calls("PutRecords")
        self.assertEqual([call.records for call in calls[1:4]], [3, 1, 1])
        self.assertEqual(sum(call.records for call in calls), len(lines) + 5)

    def assert_made_again(self, *injected):
        _, ids, lines = self.through(*injected)
        self.assert_each_once(ids, ids_in(lines), "the stream")

    def test_whole_call_throttle_is_waited_out(self):
        self.assert_made_again(faults.Error("LimitExceededException"),
                               faults.Error("ProvisionedThroughputExceededException"))

    def test_errors_of_the_service_are_waited_out(self):
        self.assert_made_again(faults.Error("InternalFailure", status=500),
                               faults.Error("ServiceUnavailable", status=503))

    def test_credentials_that_expire_are_waited_out(self):
        self.assert_made_again(faults.Error("ExpiredTokenException"))

    def test_kms_errors_stop_nothing_for_good(self):
        # The first passes by itself; the other is somebody's to put right, and asked for every 30 s.
        self.assert_made_again(faults.Error("KMSThrottlingException"), faults.Error("KMSDisabledException"))

    def assert_repeated(self, *injected):
        _, ids, lines = self.through(*injected, call_timeout_ms=700)
        counts = collections.Counter(ids_in(lines))
        self.assertEqual(set(counts), set(ids))
        self.assertGreater(max(counts.values()), 1, "no answer was lost")

    def test_success_with_a_lost_response_repeats_its_records_and_loses_none(self):
        self.assert_repeated(faults.LoseReply(), faults.Truncate())

    def test_time_out_mid_batch_repeats_its_records_and_loses_none(self):
        self.assert_repeated(faults.Hang(), faults.Hang(forwards=False))

    def test_repeated_records_are_one_row_each(self):
        stream = create_stream(1)
        proxy = self.proxy()
        proxy.inject(faults.LoseReply(), faults.LoseReply(), operation="PutRecords")
        collector = self.ship(f"kinesis={stream}", proxy.url)
        ids = [f"e{n}" for n in range(200)]
        self.send(collector, ids)
        self.shipped(collector)
        collector.stop()
        lake = self.deliver(stream)
        landed = collections.Counter((line["event_id"], line["wal_seq"]) for line in support.landed(lake))
        self.assertEqual(len(landed), len(ids), "a repetition has another lineage")
        self.assertGreater(max(landed.values()), 1)
        self.clickmill("etl", "run", "--lake", lake)
        self.assert_each_once(ids, support.event_ids(lake))

    def test_hot_shard_does_not_hold_up_the_others(self):
        stream = create_stream(2)
        proxy = self.proxy()
        hot = threading.Event()
        hot.set()

        def is_hot(record):
            key = record.get("ExplicitHashKey")
            return hot.is_set() and (int(key) if key else hash_of(record["PartitionKey"])) < MIDDLE

        proxy.inject(*[faults.Refuse(is_hot)] * 1_000, operation="PutRecords")
        collector = self.ship(f"kinesis={stream}", proxy.url, "batch_max_wait_ms = 600000\nbatch_max_events = 200")
        cold_ids, hot_ids = [f"cold{n}" for n in range(100)], [f"hot{n}" for n in range(100)]
        for n, (cold, one) in enumerate(zip(cold_ids, hot_ids)):
            self.send(collector, [one], visitor=visitor_on(0, n))
            self.send(collector, [cold], visitor=visitor_on(1, n))
        support.until(lambda: len(ids_of(stream)) >= len(cold_ids), SECONDS, "the other shard's events")
        self.assert_each_once(cold_ids, ids_of(stream), "the stream")
        self.assertEqual(set(ids_of(stream)), set(cold_ids))
        hot.clear()
        self.shipped(collector)
        self.assert_each_once(cold_ids + hot_ids, ids_of(stream), "the stream")

    def test_later_batches_go_on_beside_a_hot_shard_and_a_kill_meanwhile_loses_nothing(self):
        stream = create_stream(2)
        proxy = self.proxy()
        hot = threading.Event()
        hot.set()

        def is_hot(record):
            key = record.get("ExplicitHashKey")
            return hot.is_set() and (int(key) if key else hash_of(record["PartitionKey"])) < MIDDLE

        proxy.inject(*[faults.Refuse(is_hot)] * 1_000, operation="PutRecords")
        settings = "batch_max_wait_ms = 100\nbatch_max_events = 20", self.folder / "hot"
        collector = self.ship(f"kinesis={stream}", proxy.url, *settings)
        cold_ids, hot_ids = [f"cold{n}" for n in range(100)], [f"hot{n}" for n in range(100)]
        for first in range(0, 100, 10):
            self.send(collector, hot_ids[first:first + 10], visitor=visitor_on(0, 0))
            self.send(collector, cold_ids[first:first + 10], visitor=visitor_on(1, 0))
        support.until(lambda: set(ids_of(stream)) >= set(cold_ids), SECONDS, "the other shard's events of all batches")
        self.assertEqual(set(ids_of(stream)), set(cold_ids))
        self.assertGreaterEqual(self.health(collector)["backlog"], len(hot_ids), "what is held is not shipped")
        collector.kill()
        collector = self.ship(f"kinesis={stream}", proxy.url, *settings)
        # They go once more, since the first hot event stands before all of them.
        support.until(lambda: len(ids_of(stream)) >= 2 * len(cold_ids), SECONDS, "the other shard's events again")
        hot.clear()
        self.shipped(collector)
        arrived = ids_of(stream)
        self.assertEqual(set(arrived), set(cold_ids + hot_ids))
        self.assertEqual([one for one in arrived if one in set(hot_ids)], hot_ids, "once each, in order")

    def test_a_producer_that_may_not_list_shards_aggregates_all_the_same(self):
        _, ids, lines = self.through(faults.Error("AccessDeniedException"), operation="ListShards")
        self.assert_each_once(ids, ids_in(lines), "the stream")

    def test_record_over_size_becomes_a_reject(self):
        stream = create_stream(1)
        collector = self.ship(f"kinesis={stream}", support.KINESIS, max_record_bytes=8_192)
        self.send(collector, ["fits"], filler="x" * 4_000)
        self.send(collector, ["large"], filler="x" * 20_000)
        self.shipped(collector)
        collector.stop()
        lake = self.deliver(stream)
        self.assertEqual([line["event_id"] for line in support.landed(lake)], ["fits"])
        reject, = support.landed(lake, "rejects")
        self.assertEqual((reject["reason"], reject["wal_seq"]), ("too_large", 2))
        self.assertIn(b'"large"', base64.b64decode(reject["bytes_base64"]))

    def test_batch_over_size_goes_in_several_calls(self):
        limits = {"max_call_records": 7, "max_call_bytes": 20_000, "aggregate_bytes": 0}
        proxy, ids, lines = self.through(**limits)
        self.assert_each_once(ids, ids_in(lines), "the stream")
        records = [call.records for call in proxy.calls("PutRecords")]
        self.assertEqual(sum(records), len(lines))
        self.assertEqual(max(records), 7)

    def test_endpoint_down_longer_than_the_spool_holds_refuses_events_and_ends_without_a_restart(self):
        stream = create_stream(1)
        proxy = self.proxy()
        proxy.down()
        collector = self.ship(f"kinesis={stream}", proxy.url, "spool_max_bytes = 1048576")
        acknowledged, statuses = [], collections.Counter()
        while not statuses[503]:
            ids = [f"e{len(acknowledged) + n}" for n in range(20)]
            batch = [support.track(one, filler=os.urandom(2_000).hex()) for one in ids]
            status, _ = collector.post("/v1/batch", {"batch": batch})
            statuses[status] += 1
            acknowledged += ids if status == 200 else []
            self.assertLess(len(acknowledged), 10_000, "the spool never fills")
        self.assertEqual(set(statuses), {200, 503})
        self.assertGreater(len(acknowledged), 100)
        self.assertEqual(ids_of(stream), [])
        proxy.up()
        self.shipped(collector)
        self.send(collector, ["after"])
        self.shipped(collector)
        collector.stop()
        self.assert_each_once([*acknowledged, "after"], ids_of(stream), "the stream")


class Firehose(Case):
    def ship_to(self, *injected, **limits):
        name = create_delivery_stream()
        proxy = faults.Proxy(FIREHOSE)
        self.addCleanup(proxy.down)
        proxy.inject(*injected, operation="PutRecordBatch")
        collector = self.ship(f"firehose={name}", proxy.url, **limits)
        ids = [f"e{n}" for n in range(300)]
        self.send(collector, ids)
        self.shipped(collector)
        self.assertEqual(proxy.left(), 0, "a fault that did not happen")
        collector.stop()
        return proxy, ids, delivered(name)

    def test_events_land_as_lines_several_to_a_record(self):
        proxy, ids, lines = self.ship_to()
        self.assert_each_once(ids, ids_in(lines), "the bucket")
        self.assertLess(sum(call.records for call in proxy.calls("PutRecordBatch")) * 5, len(ids))

    def test_partial_failure_by_index_sends_only_the_refused_records_again(self):
        injected = [faults.Refuse([0, 3, 7], code="ServiceUnavailableException"),
                    faults.Refuse([1], code="InternalFailure")]
        proxy, ids, lines = self.ship_to(*injected, record_bytes=0)
        self.assert_each_once(ids, ids_in(lines), "the bucket")
        calls = proxy.calls("PutRecordBatch")
        self.assertEqual([call.records for call in calls[1:3]], [3, 1])
        self.assertEqual(sum(call.records for call in calls), len(lines) + 4)

    def test_calls_that_fail_as_a_whole_are_made_again_and_lost_answers_repeat(self):
        injected = [faults.Error("ServiceUnavailableException", status=503), faults.LoseReply(),
                    faults.Truncate(), faults.Hang()]
        _, ids, lines = self.ship_to(*injected, call_timeout_ms=700)
        self.assertEqual(set(ids_in(lines)), set(ids))
        self.assertGreater(len(ids_in(lines)), len(ids))
