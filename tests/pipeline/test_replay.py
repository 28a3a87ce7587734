"""`clickmill replay`: what is missing comes back, what is there changes nothing, however often."""

import base64
import json

import deltalake
import support


class Replay(support.Case):
    def setUp(self):
        super().setUp()
        self.lake, self.spool = self.folder / "lake", self.folder / "spool"

    def fill(self, ids):
        collector = self.collector("--lake", self.lake, "--spool", self.spool)
        for one in ids:
            self.assertEqual(collector.post("/v1/track", support.track(one, visitor=one[:2]))[0], 200)
        collector.stop()

    def run_verb(self, *arguments):
        return self.clickmill(*arguments, "--lake", self.lake)

    def lost(self):
        report = self.clickmill("audit", "--lake", self.lake, "--format", "json", code=1)
        return sum(gap["count"] for gap in json.loads(report.stdout)["gaps"] if gap["fate"] == "lost")

    def assert_complete(self):
        self.run_verb("audit", "--strict")

    def test_a_replay_of_everything_changes_no_table_and_neither_does_the_next(self):
        # Retries, and an id used for two things, are among it.
        self.fill([f"a{n}" for n in range(20)])
        self.run_verb("etl", "run")
        self.fill(["a3", "a4", *(f"b{n}" for n in range(5)), "b1"])
        self.run_verb("etl", "run")
        reference = support.copy(self.lake, self.folder / "reference")
        self.assertEqual(len(support.query(self.lake, "SELECT 1 FROM {event_duplicates}")), 3)
        versions = support.versions(self.lake)
        for _ in range(2):
            self.run_verb("replay", "raw")
            self.assert_same_tables(self.lake, reference)
        self.assertEqual(support.versions(self.lake)["events"], versions["events"])
        self.run_verb("etl", "run")
        self.assert_same_tables(self.lake, reference)
        self.assert_complete()

    def test_rows_that_were_removed_come_back_and_so_does_what_is_derived_from_them(self):
        self.fill([f"{visitor}-{n}" for n in range(5) for visitor in ("v1", "v2", "v3")])
        self.fill(["v1-0"])
        self.run_verb("etl", "run")
        reference = support.copy(self.lake, self.folder / "reference")
        deltalake.DeltaTable(str(self.lake / "tables" / "events")).delete("event_id IN ('v1-1', 'v1-4', 'v3-2')")
        deltalake.DeltaTable(str(self.lake / "tables" / "event_duplicates")).delete("event_id = 'v1-0'")
        self.assertEqual(self.lost(), 4)
        self.run_verb("replay", "raw", "raw/rejects/")
        self.assertEqual(self.lost(), 4)
        self.run_verb("replay", "raw", "--from", "2000-01-01")
        self.assert_same_tables(self.lake, reference)
        self.assert_complete()

    def test_a_replay_killed_at_every_named_point_and_run_again_ends_as_if_it_were_not(self):
        self.fill([f"e{n}" for n in range(10)])
        self.run_verb("etl", "run")
        reference = support.copy(self.lake, self.folder / "reference")
        deltalake.DeltaTable(str(self.lake / "tables" / "events")).delete("event_id = 'e4'")
        for point in ("etl.files_written", "etl.before_commit", "etl.committed", "etl.before_snapshot"):
            lake = support.copy(self.lake, self.folder / point)
            # What is new goes first: a run before that leaves the replay's own batch to the next point.
            self.clickmill("etl", "run", "--lake", lake)
            self.assertTrue(support.died_at(point, "replay", "raw", "--lake", lake), point)
            # Killed with its batch written, any run finishes it.
            self.clickmill("etl", "run", "--lake", lake)
            self.assert_same_tables(lake, reference, point)

    def test_rejects_that_are_events_by_now_are_landed_once(self):
        at = support.stamp(support.utc_now())
        line = lambda n: json.dumps({
            "event_id": f"r{n}", "event_name": "page_view", "source_protocol": "native", "app_id": "shop",
            "event_ts": at, "received_ts": at, "collector_id": "c-1", "wal_seq": n + 1})
        failed = {"attemptsMade": 1, "arrivalTimestamp": 1795455601000, "errorCode": "Lambda.Failed", "errorMessage": "no",
                  "rawData": base64.b64encode("\n".join(map(line, range(3))).encode() + b"\nnonsense").decode()}
        place = self.folder / "bucket"
        (place / "errors").mkdir(parents=True)
        (place / "errors" / "one").write_text(json.dumps(failed), encoding="utf-8")
        (self.folder / "clickmill.toml").write_text(f"[[raw]]\nlocation = '{place}'\nprefix = 'errors/'\n", encoding="utf-8")
        self.run_verb("etl", "run")
        self.assertEqual(support.event_ids(self.lake), [])
        report = json.loads(self.run_verb("replay", "rejects", "--format", "json").stdout)
        self.assertEqual(report, {"looked_at": 4, "landed": 3, "landed_before": 0, "still_rejected": 1})
        self.run_verb("etl", "run")
        self.assertEqual(sorted(support.event_ids(self.lake)), ["r0", "r1", "r2"])
        reference = support.copy(self.lake, self.folder / "reference")
        report = json.loads(self.run_verb("replay", "rejects", "--format", "json").stdout)
        self.assertEqual(report, {"looked_at": 4, "landed": 0, "landed_before": 3, "still_rejected": 1})
        self.run_verb("etl", "run")
        self.assert_same_tables(self.lake, reference)
        report = json.loads(self.run_verb("audit", "--format", "json").stdout)
        self.assertEqual([(one["first"], one["last"], one["place"]) for one in report["duplicates"]], [(1, 3, "quarantine")])
