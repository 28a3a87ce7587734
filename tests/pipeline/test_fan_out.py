"""Enhanced fan-out: does each record land exactly once when a stream is pushed to us?

Two servers that know SubscribeToShard, neither written by us: kinesis-mock, which registers consumers as slowly as
Kinesis does, and ministack, which takes subscriptions over, ends shards with their children and notices a consumer
that is gone. Both speak HTTP/1.1, so HTTP/2 is not tested here. Ids are compared, not counts.
"""

import contextlib
import http.client
import json
import os
import re
import time
import urllib.parse
import urllib.request

import deliveries
import support
from deliveries import QUARTER, SECONDS, SHARD, Stream, faults

MINISTACK = os.environ.get("CLICKMILL_TEST_MINISTACK", "")
MODE = ("--retrieval-mode", "fan_out=lake")
SUBSCRIBE = "SubscribeToShard"


class FanOut(deliveries.Deliver):
    def setUp(self):
        super().setUp()
        if not MINISTACK:
            self.skipTest("no ministack: tests/run.py starts it")

    def consumers(self, stream):
        arn = stream.summary()["StreamARN"]
        return stream.kinesis("ListStreamConsumers", StreamARN=arn)["Consumers"]

    def landed_all(self, stream):
        support.until(lambda: len(self.landed_ids()) >= len(stream.ids), SECONDS, "everything has landed")

    def pushed(self, stream, *injected, more=()):
        """A worker that stays up, behind a proxy."""
        proxy = self.proxied(stream.endpoint)
        proxy.inject(*injected, operation=SUBSCRIBE)
        return proxy, self.worker(stream, *MODE, *more, env={"AWS_ENDPOINT_URL_KINESIS": proxy.url})

    @contextlib.contextmanager
    def subscribed(self, stream, shard=0):
        """Somebody else's subscription by the same consumer."""
        [consumer] = self.consumers(stream)
        server = urllib.parse.urlsplit(stream.endpoint)
        connection = http.client.HTTPConnection(server.hostname, server.port, timeout=SECONDS)
        request = {"ConsumerARN": consumer["ConsumerARN"], "ShardId": SHARD.format(shard),
                   "StartingPosition": {"Type": "LATEST"}}
        connection.request("POST", "/", json.dumps(request), {
            "X-Amz-Target": f"Kinesis_20131202.{SUBSCRIBE}", "Content-Type": "application/x-amz-json-1.1",
            "Authorization": "AWS4-HMAC-SHA256 Credential=test/20261123/us-east-1/kinesis/aws4_request, "
                             "SignedHeaders=host, Signature=0", "X-Amz-Date": "20261123T000000Z"})
        response = connection.getresponse()
        self.assertEqual(response.status, 200)
        try:
            yield response
        finally:
            connection.close()

    def test_a_consumer_is_registered_once_and_every_shard_is_pushed_to_it(self):
        for endpoint in (support.KINESIS, MINISTACK):
            with self.subTest(endpoint):
                proxy, stream = self.proxied(endpoint), Stream(2, endpoint)
                stream.fill(150)
                said = self.once(stream, proxy, more=MODE)
                self.sent += stream.ids
                self.check(self.sent)
                [consumer] = self.consumers(stream)
                self.assertEqual((consumer["ConsumerName"], consumer["ConsumerStatus"]), ("lake", "ACTIVE"))
                # What it costs and how to be rid of it.
                self.assertIn(f"aws kinesis deregister-stream-consumer --consumer-arn {consumer['ConsumerARN']}", said)
                self.assertEqual((len(proxy.calls("GetRecords")), len(proxy.calls("RegisterStreamConsumer"))), (0, 1))
                self.assertEqual(len(proxy.calls(SUBSCRIBE)), 2)
        # The next start finds it, and leaves it.
        stream.fill(20)
        said = self.once(stream, proxy, more=MODE)
        self.sent += stream.ids[150:]
        self.check(self.sent)
        self.assertNotIn("deregister", said)
        self.assertEqual(self.consumers(stream), [consumer])

    def test_a_subscription_that_ends_or_breaks_off_goes_on_after_its_last_whole_event(self):
        stream = Stream(1)
        stream.fill(40)
        # In the middle of the second event, before there is any, and in order, as after five minutes.
        proxy, process = self.pushed(stream, faults.Break(1, length=150), faults.Error("InternalFailure", status=500),
                                     faults.Break(2, ends=True))

        def next_to_come():
            if proxy.left() > 0:
                stream.fill(5)
            return proxy.left() == 0

        support.until(next_to_come, SECONDS, "every subscription broke off")
        stream.fill(20)
        self.landed_all(stream)
        self.stop(process)
        self.check(stream.ids)

    def test_a_split_and_a_merge_while_it_reads_end_shards_by_their_children(self):
        stream = Stream(2, MINISTACK)
        stream.fill(60)
        _, process = self.pushed(stream)
        # The server drops a closed shard with what is in it: so it is empty before each.
        self.landed_all(stream)
        stream.split(0, QUARTER)
        stream.fill(60)
        self.landed_all(stream)
        stream.merge(3, 1)
        stream.fill(60)
        self.landed_all(stream)
        self.stop(process)
        chains = {source.rsplit("/", 1)[1]: chain for source, chain in self.check(stream.ids).items()}
        closed = {shard for shard, chain in chains.items() if chain[-1]["closed"]}
        self.assertEqual(closed, {SHARD.format(number) for number in (0, 1, 3)})

    def test_killed_midway_it_goes_on_from_its_commits_and_waits_for_its_old_subscription(self):
        stream = Stream(2)
        stream.fill(200)
        _, process = self.pushed(stream)
        support.until(lambda: len(self.landed_ids()) >= 50, SECONDS, "something has landed")
        stream.fill(200)
        process.kill()
        process.wait()
        stream.fill(50)
        self.once(stream, more=MODE)
        self.check(stream.ids)

    def test_a_shard_that_another_subscription_has_is_waited_for_and_taken_over(self):
        stream = Stream(1, MINISTACK)
        stream.fill(30)
        stream.kinesis("RegisterStreamConsumer", StreamARN=stream.summary()["StreamARN"], ConsumerName="lake")
        with self.subscribed(stream):
            proxy, process = self.pushed(stream)
            self.landed_all(stream)
        self.assertEqual([call.status for call in proxy.calls(SUBSCRIBE)], [400, 200])
        # And taken away from it: it stays away for five seconds, then takes it back.
        time.sleep(5)
        with self.subscribed(stream):
            stream.fill(30)
            self.landed_all(stream)
        said = self.stop(process)
        self.check(stream.ids)
        self.assertEqual(said.count("another subscription of the consumer lake has this shard"), 2, said)
        self.assertEqual(len(proxy.calls(SUBSCRIBE)), 3)

    def test_a_consumer_that_was_removed_under_it_is_registered_again(self):
        stream = Stream(1, MINISTACK)
        stream.fill(30)
        proxy, process = self.pushed(stream)
        self.landed_all(stream)
        [consumer] = self.consumers(stream)
        time.sleep(1.1)  # The server names consumers by the second.
        stream.kinesis("DeregisterStreamConsumer", ConsumerARN=consumer["ConsumerARN"])
        stream.fill(30)
        self.landed_all(stream)
        self.stop(process)
        self.check(stream.ids)
        self.assertEqual(len(proxy.calls("RegisterStreamConsumer")), 2)

    def test_a_limit_or_denied_rights_end_it_with_what_to_do(self):
        stream = Stream(1)
        for code, count, operation, help_text in (
                ("LimitExceededException", 4, "RegisterStreamConsumer", "aws kinesis list-stream-consumers"),
                ("AccessDeniedException", 1, "RegisterStreamConsumer", "grant kinesis:DescribeStreamConsumer"),
                ("AccessDeniedException", 1, "DescribeStreamConsumer", "grant kinesis:DescribeStreamConsumer")):
            with self.subTest(f"{operation}: {code}"):
                proxy = self.proxied(support.KINESIS)
                proxy.inject(*[faults.Error(code)] * count, operation=operation)
                said = self.once(stream, proxy, more=MODE, code=1)
                for part in (operation, "lake", stream.name, help_text, "--retrieval-mode polling"):
                    self.assertIn(part, " ".join(said.split()))
        self.assertEqual(self.consumers(stream), [])

    def test_lag_and_subscriptions_are_told_as_metrics(self):
        stream = Stream(1)
        stream.fill(10)
        behind = faults.Events(lambda event: [dict(event, MillisBehindLatest=7_000)])
        _, process = self.pushed(stream, behind, more=("--metrics-listen", "127.0.0.1:0"))
        url = next(found[1].decode() for found in (re.search(rb"metrics at (http://\S+)", one) for one in process.stderr)
                   if found)

        def told():
            with urllib.request.urlopen(url, timeout=30) as response:
                text = response.read().decode()
            label = f'{{stream="{stream.name}"'
            return (f"shard_millis_behind_latest{label},shard=\"{SHARD.format(0)}\"}} 7000\n" in text
                    and f"clickmill_deliver_subscriptions_total{label}}} 1\n" in text
                    and f"clickmill_deliver_records_total{label}}} 10\n" in text)

        support.until(told, SECONDS, "the metrics tell it")
        self.stop(process)
        self.check(stream.ids)
