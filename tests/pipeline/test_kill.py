"""kill -9 of every process, at random moments and at named points; then every id is compared.

A test fails as well where no kill hit in the middle of the work: it would have shown nothing.
"""

import json
import random
import time

import lakes
import streams
import support

# Rounds with a bound in time; a slow machine makes fewer of them, at least the minimum.
ROUND_SECONDS = 25
MIN_ROUNDS = 4
# More than the commits of a run.
MAX_DEATHS = 100


def rounds():
    deadline = time.monotonic() + ROUND_SECONDS
    number = 0
    while number < MIN_ROUNDS or time.monotonic() < deadline:
        number += 1
        yield number


class Etl(support.Case):
    def unfinished(self, lake):
        return support.snapshot_numbers(lake, "batches")[-1:] > support.snapshot_numbers(lake, "snapshots")[-1:]

    def test_killed_at_every_named_point_it_ends_with_the_same_rows(self):
        for point in ("etl.before_batch", "etl.batch_written", "etl.files_written", "etl.before_commit",
                      "etl.before_snapshot", "etl.snapshot_written"):
            with self.subTest(point):
                lake = support.copy(lakes.landed(), self.folder / point)
                # Of the points of each table, the first of the second table.
                nth = 2 if point in ("etl.files_written", "etl.before_commit") else 1
                self.assertTrue(support.died_at(f"{point}:{nth}", "etl", "run", "--lake", lake), "it was never hit")
                self.assertEqual(self.unfinished(lake), point not in ("etl.before_batch", "etl.snapshot_written"))
                self.clickmill("etl", "run", "--lake", lake)
                self.assertFalse(self.unfinished(lake))
                self.assert_same_tables(lake, lakes.more_days(), f"{point}: ")

    def test_killed_after_every_commit_it_ends_with_the_same_rows(self):
        """Each run goes on where the last one died, and dies in its turn. (That a kill after any single
        write is made good is a test of the crate `transform`.)"""
        lake = support.copy(lakes.landed(), self.folder / "lake")
        deaths = mid_batch = 0
        while support.died_at("etl.committed", "etl", "run", "--lake", lake):
            deaths += 1
            mid_batch += self.unfinished(lake)
            self.assertLess(deaths, MAX_DEATHS, "it does not get ahead")
        self.assertGreater(mid_batch, 3, f"{deaths} deaths, too few between two tables' commits")
        self.assertFalse(self.unfinished(lake))
        self.assert_same_tables(lake, lakes.more_days())

    def test_killed_between_orders_and_their_lines_that_waited_for_them_it_ends_with_the_same_rows(self):
        lake, exports = self.folder / "lake", self.folder / "exports"
        exports.mkdir()
        config = self.folder / "clickmill.toml"
        config.write_text(f"""
            [sources.shop]
            kind = "files"
            format = "csv"
            path = "{exports}"
            [sources.shop.orders]
            [sources.shop.order_items]
            """, encoding="utf-8")
        run = ("--config", config, "--lake", lake, "etl", "run")
        lines = "order_id,line,product_id,quantity,unit_price\no1,1,p1,2,10.00\no1,2,p2,1,5.50\n"
        (exports / "order_items.csv").write_text(lines, encoding="utf-8")
        self.clickmill(*run)
        days = "SELECT line, CAST(dt AS VARCHAR) FROM {order_items} ORDER BY line"
        self.assertEqual(support.query(lake, days), [(1, "1970-01-01"), (2, "1970-01-01")])
        orders = "order_id,ordered_at,total,currency\no1,2026-11-20T10:00:00Z,25.50,EUR\n"
        (exports / "orders.csv").write_text(orders, encoding="utf-8")
        self.assertTrue(support.died_at("etl.committed", *run))
        self.assertEqual(support.query(lake, "SELECT order_id FROM {orders}"), [("o1",)])
        self.assertEqual(support.query(lake, days), [(1, "1970-01-01"), (2, "1970-01-01")])
        self.clickmill(*run)
        self.assertEqual(support.query(lake, days), [(1, "2026-11-20"), (2, "2026-11-20")])

    def test_killed_at_random_it_ends_with_the_same_rows(self):
        lake = support.copy(lakes.landed(), self.folder / "timed")
        started = time.monotonic()
        self.clickmill("etl", "run", "--lake", lake)
        whole = time.monotonic() - started
        self.assert_same_tables(lake, lakes.more_days())
        between = attempts = 0
        for number in rounds():
            lake = support.copy(lakes.landed(), self.folder / f"lake-{number}")
            base = support.versions(lake)
            while support.kill_after(support.spawn("etl", "run", "--lake", lake), random.uniform(0.1, whole)):
                attempts += 1
                moved = [table for table, version in support.versions(lake).items() if version != base[table]]
                between += self.unfinished(lake) and 0 < len(moved) < len(support.TABLES)
            self.assertFalse(self.unfinished(lake))
            self.assert_same_tables(lake, lakes.more_days(), f"round {number}: ")
        self.assertGreater(between, 0, f"none of {attempts} kills hit between two tables' commits")


class Collect(support.Case):
    def settings(self):
        config = self.folder / "clickmill.toml"
        config.write_text("[collector]\nbatch_max_wait_ms = 150\n", encoding="utf-8")
        return "--config", config, "--lake", self.folder / "lake", "--spool", self.folder / "spool"

    def finish(self, acknowledged):
        """What the spool still has is shipped by a collector that nobody disturbs."""
        collector = self.collector(*self.settings())
        support.until(collector.is_shipped, support.DRAIN_SECONDS, "everything is shipped")
        collector.stop()
        self.clickmill("etl", "run", "--lake", self.folder / "lake")
        positions = [(line["collector_id"], line["wal_seq"]) for line in support.landed(self.folder / "lake")]
        self.assertEqual(len(positions), len(set(positions)), "a spool position landed twice")
        self.assert_each_once(acknowledged, support.event_ids(self.folder / "lake"))
        if (self.folder / "lake" / "tables" / "event_duplicates").exists():
            self.assertEqual(support.files(self.folder / "lake", "event_duplicates"), {})

    def test_killed_at_random_under_load_every_acknowledged_event_arrives_once(self):
        lake, acknowledged, in_flight, unshipped = self.folder / "lake", [], 0, 0
        for number in rounds():
            collector = self.collector(*self.settings())
            load = support.Load(collector.port, f"round{number}")
            time.sleep(random.uniform(0.2, 1.5))
            collector.kill()
            load.stop()
            acknowledged += load.acknowledged
            in_flight += bool(load.unanswered)
            arrived = {line["event_id"] for line in support.landed(lake)}
            unshipped += any(one not in arrived for one in load.acknowledged)
        self.assertGreater(len(acknowledged), 500)
        self.assertGreater(in_flight, 0, "no kill hit a request")
        self.assertGreater(unshipped, 0, "no kill hit while the spool held events")
        self.finish(acknowledged)

    def test_kill_9_at_each_fsync_every_acknowledged_event_arrives_once(self):
        acknowledged = []
        for point in ("spool.written", "spool.synced", "raw.put", "landing.before_commit",
                      "landing.committed", "sink.landed"):
            for nth in (1, 3):
                collector = self.collector(*self.settings(), env={"CLICKMILL_FAILPOINT": f"{point}:{nth}"})
                load = support.Load(collector.port, f"{point}-{nth}")
                support.until(lambda: collector.process.poll() is not None, 60, f"{point}:{nth} is hit")
                load.stop()
                acknowledged += load.acknowledged
                collector.kill()
        self.assertGreater(len(acknowledged), 20)
        self.finish(acknowledged)


class Deliver(support.Case):
    """Kinesis to the raw zone."""

    def setUp(self):
        super().setUp()
        if not support.KINESIS:
            self.skipTest("no Kinesis: tests/run.py starts one")
        self.stream = f"deliver-{self.folder.name[-8:]}"
        support.kinesis("CreateStream", StreamName=self.stream, ShardCount=2)
        support.until(lambda: self.shards() is not None, 60, "the stream is active")

    def shards(self):
        answer = support.kinesis("DescribeStream", StreamName=self.stream)["StreamDescription"]
        return [one["ShardId"] for one in answer["Shards"]] if answer["StreamStatus"] == "ACTIVE" else None

    def fill(self, events):
        """Events through a real collector into the stream; returns their ids."""
        collector = self.collector("--sink", f"kinesis={self.stream}", "--spool", self.folder / "spool")
        ids = [f"{self.stream}-{n}" for n in range(events)]
        for first in range(0, events, 200):
            batch = [support.track(one, visitor=one) for one in ids[first:first + 200]]
            self.assertEqual(collector.post("/v1/batch", {"batch": batch})[0], 200)
        collector.stop()
        return ids

    def in_stream(self):
        """The (shard, sequence number) of every event in the stream, a position in an aggregate after a dot."""
        found = []
        for shard, record, _ in streams.user_records(streams.records_of(self.stream)):
            position = f".{record['subSequenceNumber']}" if record.get("aggregated") else ""
            found.append((shard["ShardId"], record["sequenceNumber"] + position))
        return found

    def check(self, lake, ids):
        lines = [line for kind in ("events", "heartbeats", "rejects") for line in support.landed(lake, kind)]
        positions = {(line["shard_id"], line["sequence_number"]) for line in lines}
        differing = sorted(positions ^ set(self.in_stream()))
        self.assertEqual((len(differing), differing[:5]), (0, []), "the raw zone holds the stream's records")
        counted = [(line["shard_id"], line["sequence_number"], line.get("wal_seq"), line.get("event_id"))
                   for line in lines]
        self.assertEqual(len(counted), len(set(counted)), "a record landed twice")
        self.assert_each_once(ids, [line["event_id"] for line in support.landed(lake)], "the raw zone")
        for shard in self.shards():
            chain = [commit for commit in support.commits(lake) if shard in json.dumps(commit["source"])]
            self.assertEqual([commit["ordinal"] for commit in chain], list(range(1, len(chain) + 1)))

    def test_killed_at_every_named_point_each_record_lands_once(self):
        lake, ids = self.folder / "lake", self.fill(1000)
        arguments = ("deliver", "--stream", self.stream, "--once", "--lake", lake)
        for point in ("raw.before_put", "raw.put", "landing.before_commit", "landing.committed"):
            self.assertTrue(support.died_at(point, *arguments), f"{point} was never hit")
        self.clickmill(*arguments)
        self.check(lake, ids)

    def test_killed_at_random_each_record_lands_once(self):
        config, lake = self.folder / "clickmill.toml", self.folder / "lake"
        # It commits what each read brought: many commits to be killed between. Nobody waits for a dead
        # worker's leases.
        config.write_text("[deliver]\ntarget_megabytes = 0\npoll_milliseconds = 210\nleases = \"none\"\n", encoding="utf-8")
        arguments = ("--config", config, "deliver", "--stream", self.stream, "--lake", lake)
        collector = self.collector("--sink", f"kinesis={self.stream}", "--spool", self.folder / "spool")
        load = support.Load(collector.port, "live", pause=0.25)
        kills = uncommitted = 0
        for number in rounds():
            # Half of the kills come at any time, half just after it began to write.
            process, seconds = support.spawn(*arguments), random.uniform(0.3, 2)
            if number % 2:
                self.assertTrue(support.kill_after(process, seconds))
            else:
                self.assertTrue(support.kill_when_it_writes(process, lake / "raw" / "events", seconds + 2))
            kills += 1
            named = {one["path"] for commit in support.commits(lake) for one in commit["objects"]}
            there = {str(path.relative_to(lake)) for path in (lake / "raw").rglob("*.json.gz")}
            uncommitted += bool(there - named)
        ids = load.stop().acknowledged
        support.until(collector.is_shipped, support.DRAIN_SECONDS, "everything is shipped")
        collector.stop()
        self.clickmill(*arguments, "--once")
        self.assertGreater(len(ids), 500)
        self.check(lake, ids)
        self.assertGreater(uncommitted, 0, f"none of {kills} kills hit between a data object and its commit")
