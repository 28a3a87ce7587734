"""`clickmill replay stream`: what the stream still holds comes back as rows, once, however often it is run.

The stream is kinesis-mock's; ids and rows are compared, by DuckDB and deltalake.
"""

import datetime
import json
import shutil
import time

import deliveries
import support
from aws_kinesis_agg.aggregator import RecordAggregator
from deliveries import Stream, line

LONG_AGO = "2000-01-01"


class ReplayStream(deliveries.Deliver):
    def aggregated(self, stream, count):
        """One record of the stream with that many events, and one that does not decode."""
        aggregator = RecordAggregator()
        for n in range(count):
            aggregator.add_user_record("k", line(f"{stream.name}-a{n}", collector_id="c-1", wal_seq=n + 1))
        _, _, data = aggregator.clear_and_get().get_contents()
        stream.put(data)
        stream.put(b"nonsense")
        stream.ids += [f"{stream.name}-a{n}" for n in range(count)]

    def replay(self, stream, *more, **options):
        arguments = ("--config", self.config, "--lake", self.lake, "replay", "stream", stream.name, *more, "--format", "json")
        return json.loads(self.clickmill(*arguments, **options).stdout)

    def etl(self):
        self.clickmill("etl", "run", "--lake", self.lake)

    def raw_objects(self):
        return {path.relative_to(self.lake) for path in (self.lake / "raw").rglob("*.*")}

    def test_a_replay_of_everything_changes_no_table_and_the_next_lands_nothing(self):
        stream = Stream(2)
        stream.fill(60)
        self.aggregated(stream, 20)
        # An event that the stream has twice, by a producer's retry.
        stream.put(line(stream.ids[0]))
        stream.split(0, str(1 << 126))
        stream.fill(20)
        self.once(stream)
        self.etl()
        reference = support.copy(self.lake, self.folder / "reference")
        self.assertEqual(len(support.query(self.lake, "SELECT 1 FROM {event_duplicates}")), 1)
        report = self.replay(stream, "--from", LONG_AGO)
        self.assertEqual((report["events"], report["rejects"]), (101, 1))
        self.assertEqual((report["landed_before"], report["yet_to_come"]), (0, 0))
        self.etl()
        self.assert_same_tables(self.lake, reference)
        there = self.raw_objects()
        again = self.replay(stream, "--from", LONG_AGO)
        self.assertEqual((again["events"], again["rejects"], again["landed_before"]), (0, 0, report["records"]))
        self.assertEqual(self.raw_objects(), there)
        self.etl()
        self.assert_same_tables(self.lake, reference)

    def test_rows_and_raw_objects_that_are_gone_come_back_from_the_stream(self):
        stream = Stream(2)
        stream.fill(40)
        self.aggregated(stream, 10)
        self.once(stream)
        self.etl()
        reference = support.copy(self.lake, self.folder / "reference")
        gone = (stream.ids[3], stream.ids[17], stream.ids[-1])
        support.delta(self.lake, "events").delete(f"event_id IN {gone!r}")
        shutil.rmtree(self.lake / "raw")
        self.assertEqual(set(stream.ids) - set(support.event_ids(self.lake)), set(gone))
        # Killed before its first commit, and run again: as if it had not been.
        arguments = ("--config", self.config, "--lake", self.lake, "replay", "stream", stream.name, "--from", LONG_AGO)
        self.assertTrue(support.died_at("landing.before_commit", *arguments))
        self.replay(stream, "--from", LONG_AGO)
        self.etl()
        self.assert_each_once(stream.ids, support.event_ids(self.lake))
        self.assert_same_tables(self.lake, reference)

    def test_only_the_range_that_was_asked_for_is_landed(self):
        stream = Stream(1)

        def moment():
            time.sleep(0.1)
            now = datetime.datetime.now(datetime.timezone.utc)
            time.sleep(0.1)
            return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

        stream.fill(10)
        start = moment()
        inside = stream.fill(15)
        end = moment()
        stream.fill(10)
        self.once(stream)
        shutil.rmtree(self.lake / "raw")
        report = self.replay(stream, "--from", start, "--to", end)
        self.assertEqual((report["records"], report["events"]), (15, 15))
        replayed = [one for commit in support.commits(self.lake) if commit["source"].startswith("replay/")
                    for one in commit["objects"]]
        ids = [row["event_id"] for one in replayed for row in support.lines_of(self.lake / one["path"])]
        self.assertEqual(sorted(ids), sorted(inside))
        # The whole is asked for: the middle is left out, and nothing of either side.
        report = self.replay(stream, "--from", LONG_AGO)
        self.assertEqual((report["events"], report["landed_before"]), (20, 15))

    def test_what_the_delivery_has_yet_to_land_is_left_to_it_and_what_came_before_it_began_is_not(self):
        stream = Stream(2)
        before = stream.fill(20)
        time.sleep(0.1)
        begin = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        time.sleep(0.1)
        stream.fill(20)
        report = self.replay(stream, "--from", LONG_AGO)
        self.assertEqual((report["events"], report["yet_to_come"]), (0, 40))
        self.once(stream, more=("--from", begin))
        later = stream.fill(20)
        self.assertEqual(set(self.landed_ids()) & set(before), set())
        report = self.replay(stream, "--from", LONG_AGO)
        self.assertEqual((report["events"], report["yet_to_come"]), (40, 20))
        self.assertEqual(set(self.landed_ids()) & set(later), set())
        self.once(stream)
        self.etl()
        self.assert_each_once(stream.ids, support.event_ids(self.lake))
        self.assertEqual(support.rows(self.lake, "event_duplicates"), {})
