"""`clickmill audit`: what was lost, repeated or is still on its way is named exactly.

The expected numbers are the test's own: a collector gives them out in the order of
requests, from 1, and what a test takes away it notes before it does.
"""

import gzip
import json

import deltalake
import streams
import support

# Nothing is shipped while a test looks at the spool.
HELD = "[collector]\nbatch_max_wait_ms = 600000\n"
REJECT = {"type": "track", "messageId": "bad", "anonymousId": "v1"}


def ranges(numbers):
    """[[first, last], ...] of numbers."""
    found = []
    for number in sorted(numbers):
        if found and found[-1][1] + 1 == number:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def lines_of(path):
    with gzip.open(path) as content:
        return [json.loads(line) for line in content]


class Audited(support.Case):
    def setUp(self):
        super().setUp()
        self.lake, self.spool = self.folder / "lake", self.folder / "spool"

    def start(self, *arguments, config=""):
        path = self.folder / "clickmill.toml"
        path.write_text(config, encoding="utf-8")
        return self.collector("--config", path, "--lake", self.lake, "--spool", self.spool, *arguments)

    def send(self, collector, ids):
        """One event a request: event n of a spool gets the number n."""
        for one in ids:
            self.assertEqual(collector.post("/v1/track", support.track(one, visitor=one))[0], 200)

    def etl(self):
        self.clickmill("etl", "run", "--lake", self.lake)

    def audit(self, *arguments, code=0):
        command = ("audit", "--lake", self.lake, *arguments)
        text = self.clickmill(*command, code=code).stdout.decode()
        report = json.loads(self.clickmill(*command, "--format", "json", code=code).stdout)
        if report["verdict"] == "missing":
            self.assertIn("MISSING", text)
        return report

    def only(self, report):
        self.assertEqual(len(report["collectors"]), 1, report)
        return report["collectors"][0]

    def gaps(self, report, fate="lost"):
        return [(gap["place"], [int(gap["first"]), int(gap["last"])])
                for gap in report["gaps"] if gap["fate"] == fate]

    def objects(self, kind="events"):
        return [one["path"] for commit in support.commits(self.lake) for one in commit["objects"]
                if one["kind"] == kind]

    def filled(self, parts=4, size=10):
        """A stopped collector's events, landed in several commits; each part's ids."""
        groups = []
        for part in range(parts):
            collector = self.start()
            groups.append([f"e{part}-{n}" for n in range(size)])
            self.send(collector, groups[-1])
            collector.stop()
        return groups


class Collectors(Audited):
    def test_a_collector_whose_every_number_is_a_row_is_complete(self):
        collector = self.start()
        self.send(collector, [f"e{n}" for n in range(20)])
        # A reject consumes a number, and so does a client's retry.
        self.assertIn(collector.post("/v1/track", REJECT)[0], (200, 400))
        self.send(collector, ["e3", "e4"])
        collector.stop()
        waiting = self.audit()
        self.assertEqual((waiting["verdict"], self.only(waiting)["on_its_way"]), ("on_its_way", 23))
        self.assertEqual(self.gaps(waiting, "on_its_way"), [("raw", [1, 23])])
        self.etl()
        report = self.audit("--verify", "--strict")
        one = self.only(report)
        self.assertEqual((report["verdict"], one["verdict"], one["closed"]), ("complete", "complete", True))
        self.assertEqual((one["first"], one["last"]), (1, 23))
        self.assertEqual((one["events"], one["duplicates"], one["rejects"]), (20, 2, 1))
        self.assertEqual((report["gaps"], report["duplicates"], report["objects"]), ([], [], []))

    def test_what_waits_in_a_live_collectors_spool_is_on_its_way(self):
        collector = self.start()
        self.send(collector, ["a", "b", "c"])
        collector.stop()
        collector = self.start(config=HELD)
        self.send(collector, ["d", "e"])
        self.etl()
        # From the lake alone: the collector had closed, and nothing says that it went on.
        self.assertEqual(self.only(self.audit())["last"], 3)
        report = self.audit("--spool", self.spool, "--strict")
        self.assertEqual((report["verdict"], self.only(report)["last"]), ("on_its_way", 5))
        self.assertEqual(self.gaps(report, "on_its_way"), [("spool", [4, 5])])
        collector.stop()
        self.etl()
        self.assertEqual(self.audit("--spool", self.spool)["verdict"], "complete")

    def test_a_disk_lost_with_its_machine_is_unknown_and_never_complete(self):
        collector = self.start()
        self.send(collector, ["a", "b", "c"])
        support.until(collector.is_shipped, 60, "it is shipped")
        collector.kill()
        self.etl()
        report = self.audit()
        one = self.only(report)
        self.assertEqual((report["verdict"], one["verdict"], one["missing"]), ("unknown", "unknown", 0))
        self.assertEqual(one["unknown_after"]["wal_seq"], 3)
        self.audit("--strict", code=3)
        # With its spool at hand it is known.
        self.assertEqual(self.audit("--spool", self.spool, "--strict")["verdict"], "complete")

    def test_a_deleted_raw_object_is_named_and_so_are_the_numbers_only_it_held(self):
        self.filled()
        self.etl()
        collector = self.start()
        self.send(collector, [f"late{n}" for n in range(5)])
        collector.stop()
        paths = self.objects()
        taken, waiting = paths[1], paths[-1]
        lost = [line["wal_seq"] for line in lines_of(self.lake / waiting)]
        for path in (taken, waiting):
            (self.lake / path).unlink()
        report = self.audit(code=1)
        self.assertEqual({(one["path"], one["taken"]) for one in report["objects"]},
                         {(taken, True), (waiting, False)})
        self.assertEqual(self.gaps(report), [("raw", one) for one in ranges(lost)])
        self.assertEqual(self.only(report)["missing"], 5)
        self.assertIn(waiting, report["gaps"][0]["detail"])

    def test_rows_removed_from_a_table_are_named_one_by_one(self):
        groups = self.filled()
        gone = [groups[0][3], *groups[2][4:8]]
        numbers = [line["wal_seq"] for line in support.landed(self.lake) if line["event_id"] in gone]
        self.etl()
        table = deltalake.DeltaTable(str(self.lake / "tables" / "events"))
        table.delete("event_id IN (" + ", ".join(f"'{one}'" for one in gone) + ")")
        report = self.audit(code=1)
        self.assertEqual(self.gaps(report), [("table", one) for one in ranges(numbers)])
        self.assertEqual(self.only(report)["missing"], len(gone))

    def test_a_rejects_row_that_is_gone_lies_in_quarantine(self):
        collector = self.start()
        self.send(collector, ["a", "b"])
        self.assertIn(collector.post("/v1/track", REJECT)[0], (200, 400))
        self.send(collector, ["c"])
        collector.stop()
        self.etl()
        deltalake.DeltaTable(str(self.lake / "tables" / "rejects")).delete("wal_seq = 3")
        self.assertEqual(self.gaps(self.audit(code=1)), [("quarantine", [3, 3])])

    def test_a_data_file_of_a_table_that_is_gone_is_named_with_its_numbers(self):
        self.filled(parts=2)
        self.etl()
        collector = self.start()
        self.send(collector, [f"late{n}" for n in range(3)])
        collector.stop()
        before = set((self.lake / "tables" / "events").rglob("*.parquet"))
        self.etl()
        new = set((self.lake / "tables" / "events").rglob("*.parquet")) - before
        for path in new:
            path.unlink()
        report = self.audit(code=1)
        self.assertEqual({one["path"] for one in report["objects"]}, {str(path.relative_to(self.lake)) for path in new})
        self.assertEqual(self.gaps(report), [("table", [21, 23])])

    def test_a_lost_spool_segment_is_named_as_soon_as_the_spool_goes_on(self):
        collector = self.start()
        self.send(collector, ["a", "b"])
        collector.stop()
        collector = self.start(config=HELD)
        self.send(collector, ["c", "d", "e"])
        collector.kill()
        lost = sorted(self.spool.glob("*.seg"))[-1]
        collector = self.start(config=HELD)
        self.send(collector, ["f"])
        collector.kill()
        lost.unlink()
        collector = self.start()
        self.send(collector, ["g"])
        collector.stop()
        self.etl()
        report = self.audit(code=1)
        self.assertEqual(self.gaps(report), [("spool", [3, 5])])
        self.assertEqual(sorted(support.event_ids(self.lake)), ["a", "b", "f", "g"])

    def test_bytes_that_changed_show_where_checksums_are_compared(self):
        self.filled(parts=2)
        self.etl()
        path = self.lake / self.objects()[0]
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.unlink()
        path.write_bytes(content)
        self.assertEqual(self.audit()["verdict"], "complete")
        report = self.audit("--verify", code=1)
        self.assertEqual([one["path"] for one in report["objects"]], [self.objects()[0]])
        path.write_bytes(content[:-1])
        self.assertEqual([one["path"] for one in self.audit(code=1)["objects"]], [self.objects()[0]])

    def test_a_broken_chain_is_named_with_the_commit(self):
        self.filled(parts=3)
        self.etl()
        commits = sorted((self.lake / "_clickmill" / "delivery").rglob("*.json"))
        commits[1].unlink()
        chains = self.audit(code=1)["chains"]
        self.assertEqual([one["ordinal"] for one in chains], [2])

    def test_a_range_holds_what_was_received_in_it(self):
        self.filled(parts=1)
        boundary = support.stamp(support.utc_now())
        self.filled(parts=1, size=5)
        self.etl()
        numbers = {part: self.audit(*part) for part in (("--to", boundary), ("--from", boundary))}
        before, after = (self.only(numbers[part]) for part in numbers)
        # The first heartbeat after the range says how far the numbers may go: it is that of 15.
        self.assertEqual((before["first"], before["last"], before["events"]), (1, 15, 10))
        # The same ids again: a client's retries, which have numbers of their own.
        self.assertEqual((after["first"], after["last"], after["events"], after["duplicates"]), (11, 15, 0, 5))
        self.assertEqual(self.audit("--from", "2000-01-01", "--to", "2000-01-02")["collectors"], [])
        self.audit_usage("--from", boundary, "--to", boundary)
        self.audit_usage("--from", "yesterday")
        self.audit_usage("--spool", self.folder / "no such folder")

    def audit_usage(self, *arguments):
        self.clickmill("audit", "--lake", self.lake, *arguments, code=2)

    def test_the_same_row_twice_in_events_is_found(self):
        self.filled(parts=1)
        self.etl()
        table = deltalake.DeltaTable(str(self.lake / "tables" / "events"))
        rows = table.to_pyarrow_table(filters=[("wal_seq", "=", 4)])
        deltalake.write_deltalake(str(self.lake / "tables" / "events"), rows, mode="append")
        report = self.audit(code=1)
        found = [(one["first"], one["last"], one["doubled"], one["place"]) for one in report["duplicates"]]
        self.assertEqual(found, [(4, 4, True, "table")])


class Streams(Audited):
    def setUp(self):
        super().setUp()
        if not support.KINESIS:
            self.skipTest("no Kinesis: tests/run.py starts one")
        self.stream = f"audit-{self.folder.name[-8:]}"
        support.kinesis("CreateStream", StreamName=self.stream, ShardCount=2)
        describe = lambda: support.kinesis("DescribeStream", StreamName=self.stream)["StreamDescription"]
        support.until(lambda: describe()["StreamStatus"] == "ACTIVE", 60, "the stream is active")

    def deliver(self):
        self.clickmill("deliver", "--stream", self.stream, "--once", "--lake", self.lake)

    def fill(self, ids, *arguments):
        collector = self.start("--sink", f"kinesis={self.stream}", *arguments)
        self.send(collector, ids)
        collector.stop()

    def land_unnumbered(self, key):
        """Eight events of a producer that counts nothing, f0 to f7, as far as the tables."""
        at = support.stamp(support.utc_now())
        for number in range(8):
            line = {"event_id": f"f{number}", "event_name": "page_view", "source_protocol": "native",
                    "app_id": "shop", "event_ts": at, "received_ts": at}
            data = support.base64.b64encode(json.dumps(line).encode() + b"\n").decode()
            support.kinesis("PutRecord", StreamName=self.stream, Data=data, PartitionKey=key(number))
        self.deliver()
        self.etl()

    def test_a_record_repeated_in_the_stream_is_named_and_nothing_is_missing(self):
        self.fill([f"e{n}" for n in range(12)])
        shard, record = next((shard, record) for shard, record in streams.records_of(self.stream)
                             if b"event_id" in record["Data"])
        data = support.base64.b64encode(record["Data"]).decode()
        support.kinesis("PutRecord", StreamName=self.stream, Data=data, PartitionKey="again",
                        ExplicitHashKey=shard["HashKeyRange"]["StartingHashKey"])
        repeated = [json.loads(one)["wal_seq"] for _, _, one in streams.user_records([(shard, record)])
                    if b'"event_id"' in one]
        self.deliver()
        self.etl()
        report = self.audit()
        self.assertEqual((report["verdict"], report["gaps"]), ("complete", []))
        found = [[one["first"], one["last"]] for one in report["duplicates"]]
        self.assertEqual(found, ranges(repeated))
        self.assertEqual({one["place"] for one in report["duplicates"]}, {"stream"})
        self.assertEqual(sum(one["records"] for one in report["shards"]), 12 + len(repeated))
        self.assertEqual(sum(one["rows"] for one in report["shards"]), 12 + len(repeated))

    def test_what_a_stream_lost_and_what_it_still_holds_are_told_apart(self):
        self.fill([f"a{n}" for n in range(6)])
        self.deliver()
        self.etl()
        # Not read yet: nothing says so but the spool.
        self.fill(["b0", "b1"])
        report = self.audit("--spool", self.spool)
        self.assertEqual(self.gaps(report, "on_its_way"), [("stream", [7, 8])])
        self.assertEqual(self.gaps(report), [])
        self.deliver()
        waiting = self.audit()
        self.assertEqual(self.gaps(waiting, "on_its_way"), [("raw", [7, 8])])
        self.etl()
        self.assertEqual(self.audit()["verdict"], "complete")

    def test_records_of_producers_without_numbers_are_counted_by_shard(self):
        self.land_unnumbered(lambda number: f"p{number}")
        report = self.audit()
        self.assertEqual((report["verdict"], report["rows_without_lineage"]), ("complete", 8))
        gone = {line["event_id"]: line for line in support.landed(self.lake)}["f5"]
        deltalake.DeltaTable(str(self.lake / "tables" / "events")).delete("event_id = 'f5'")
        report = self.audit(code=1)
        found = [(gap["source"].rsplit("/")[-1], gap["first"], gap["last"], gap["count"], gap["place"])
                 for gap in report["gaps"]]
        number = gone["sequence_number"]
        self.assertEqual(found, [(gone["shard_id"], number, number, 1, "table")])
        self.assertEqual({one["missing"] for one in report["shards"]}, {0, 1})

    def test_a_record_without_a_number_that_stands_there_twice_hides_no_other_that_is_gone(self):
        self.land_unnumbered(lambda _: "p")
        events = str(self.lake / "tables" / "events")
        twice = deltalake.DeltaTable(events).to_pyarrow_table(filters=[("event_id", "=", "f3")])
        deltalake.write_deltalake(events, twice, mode="append")
        report = self.audit(code=1)
        self.assertEqual(sum(one["doubled"] for one in report["shards"]), 1)
        self.assertEqual(sum(one["missing"] for one in report["shards"]), 0)
        deltalake.DeltaTable(events).delete("event_id = 'f4'")
        gone = {line["event_id"]: line["sequence_number"] for line in support.landed(self.lake)}["f4"]
        report = self.audit(code=1)
        self.assertEqual(sum(one["rows"] for one in report["shards"]), 8, "as many as landed")
        self.assertEqual([(gap["first"], gap["last"]) for gap in report["gaps"]], [(gone, gone)])
        result = self.clickmill("--lake", self.lake, "audit", code=1)
        self.assertIn(b"MISSING: 1 records of streams, 1 counted twice", result.stdout)

    def test_a_lake_that_nothing_ever_landed_in_is_not_complete(self):
        result = self.clickmill("--lake", self.folder / "typo", "audit", code=2)
        self.assertIn(b"nothing has ever landed in the lake", result.stderr)

    def test_a_deleted_object_of_a_shard_accounts_for_its_numbers(self):
        self.fill([f"e{n}" for n in range(10)])
        self.deliver()
        path = self.objects()[0]
        lost = [line["wal_seq"] for line in lines_of(self.lake / path)]
        (self.lake / path).unlink()
        report = self.audit(code=1)
        self.assertEqual([one["path"] for one in report["objects"]], [path])
        self.assertEqual(self.gaps(report), [("raw", one) for one in ranges(lost)])


class Imports(Audited):
    def test_an_imports_rows_are_its_numbers(self):
        (self.folder / "history.csv").write_text(
            "id,at\n" + "".join(f"h{n},2025-03-0{n}T10:00:00Z\n" for n in range(1, 6)) + "h9,no time\n")
        (self.folder / "clickmill.toml").write_text(
            "[import.history]\nformat = 'csv'\napp_id = 'shop'\nevent_id = 'id'\n"
            "event_ts = { column = 'at', format = 'rfc3339' }\nevent_name = { constant = 'page_view' }\n")
        self.clickmill("import", "events", "--mapping", "history", "--lake", self.lake, "history.csv")
        self.etl()
        one = self.only(self.audit("--strict"))
        self.assertEqual((one["first"], one["last"], one["events"], one["rejects"]), (1, 6, 5, 1))
