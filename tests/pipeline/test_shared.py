"""Objects that shards share: every reader finds each shard's lines in them, whoever committed and whenever.

What landed is read by gzip, pyarrow and DuckDB, never by clickmill alone.
"""

import json

import deliveries
import deltalake
import duckdb
import support
from deliveries import Stream, line

SHARDS = 8
# So that nothing but the end of what there is makes objects.
SETTINGS = "target_megabytes = 64\npoll_milliseconds = 210\n"
FORMATS = ("json", "parquet")


class Shared(deliveries.Deliver):
    def setUp(self):
        super().setUp()
        self.settings(SETTINGS)

    def filled(self, rejects=16):
        """A stream with events, and lines that do not decode, in every shard."""
        stream = Stream(SHARDS)
        width = (1 << 128) // SHARDS
        numbers = dict.fromkeys(range(SHARDS), 0)
        for n in range(200):
            shard = n % SHARDS
            numbers[shard] += 1
            one = f"{stream.name}-{n}"
            stream.put(line(one, collector_id=f"c-{shard}", wal_seq=numbers[shard], anonymous_id=f"v{n % 11}"),
                       explicit_hash=str(shard * width + 1))
            stream.ids.append(one)
        for n in range(rejects):
            stream.put(b'{"event_id":"bad-%d"}' % n, explicit_hash=str(n % SHARDS * width + 1))
        return stream

    def etl(self, lake=None):
        self.clickmill("etl", "run", "--lake", lake or self.lake)

    def audit(self, *more, code=0):
        report = self.clickmill("audit", "--lake", self.lake, "--format", "json", *more, code=code).stdout
        return json.loads(report)

    def shared(self, kind="events"):
        """The only object of a kind, with the commits' sections of it."""
        named = [one for commit in support.commits(self.lake) for one in commit["objects"] if one["kind"] == kind]
        self.assertEqual(len({one["path"] for one in named}), 1, "it is no single object")
        return self.lake / named[0]["path"], named

    def test_quiet_shards_make_one_object_and_every_reader_finds_each_line_once(self):
        stream = self.filled()
        tables = []
        for form in FORMATS:
            with self.subTest(form):
                self.lake = self.folder / form
                self.once(stream, more=("--format", form))
                self.check(stream.ids)
                self.assertEqual({one["version"] for one in support.commits(self.lake)}, {2})
                for kind, count in (("events", len(stream.ids)), ("rejects", 16)):
                    path, named = self.shared(kind)
                    self.assertEqual(len(named), SHARDS)
                    self.assertEqual({one["section"]["of"] for one in named}, {count})
                    self.assertEqual(len(support.lines_of(path)), count)
                path, _ = self.shared()
                read = "read_parquet" if form == "parquet" else "read_json_auto"
                found = duckdb.sql(f"SELECT event_id FROM {read}('{path}')").fetchall()
                self.assertEqual(sorted(one for one, in found), sorted(stream.ids))
                self.etl()
                self.assert_each_once(stream.ids, support.event_ids(self.lake), "events")
                self.assertEqual(len(support.query(self.lake, "SELECT reject_id FROM {rejects}")), 16)
                self.assertEqual(self.audit("--verify")["verdict"], "unknown", "no heartbeat tells where collectors ended")
                tables.append(self.lake)
        self.assert_same_tables(*tables)

    def test_runs_take_the_sections_of_one_object_at_different_times(self):
        for form in FORMATS:
            with self.subTest(form):
                self.lake = self.folder / f"parts-{form}"
                stream = self.filled()
                self.once(stream, more=("--format", form))
                # As a death between the object and some of its commits leaves it: the rest of its lines are nobody's.
                commits = sorted((self.lake / "_clickmill" / "delivery").rglob("*.json"))
                self.assertEqual(len(commits), SHARDS)
                for path in commits[3:]:
                    path.unlink()
                first = self.landed_ids()
                path, named = self.shared()
                self.assertEqual((len(named), len(support.lines_of(path))), (3, len(stream.ids)))
                self.assertLess(len(first), len(stream.ids))
                self.etl()
                self.assert_each_once(first, support.event_ids(self.lake), "events")
                self.assertEqual(len(support.event_ids(self.lake)), len(first))
                self.once(stream, more=("--format", form))
                self.check(stream.ids)
                self.etl()
                self.assert_each_once(stream.ids, support.event_ids(self.lake), "events")
                self.assertEqual(support.query(self.lake, "SELECT event_id FROM {events} GROUP BY 1 HAVING count(*) > 1"), [])

    def test_rows_of_a_section_that_are_gone_are_named_and_come_back(self):
        stream = self.filled(rejects=0)
        self.once(stream, more=("--format", "parquet"))
        self.etl()
        reference = support.copy(self.lake, self.folder / "reference")
        gone = stream.ids[:: SHARDS // 2]
        listed = ", ".join(f"'{one}'" for one in gone)
        deltalake.DeltaTable(str(self.lake / "tables" / "events")).delete(f"event_id IN ({listed})")
        report = self.audit(code=1)
        self.assertEqual(sum(gap["count"] for gap in report["gaps"] if gap["fate"] == "lost"), len(gone))
        path, _ = self.shared()
        self.clickmill("replay", "raw", str(path.relative_to(self.lake)), "--lake", self.lake)
        self.assert_same_tables(self.lake, reference)
        self.clickmill("audit", "--lake", self.lake)

    def test_a_damaged_object_is_named_once_with_the_lines_of_all_its_shards(self):
        stream = self.filled(rejects=0)
        self.once(stream)
        path, _ = self.shared()
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        [one] = self.audit("--verify", code=1)["objects"]
        self.assertEqual((one["path"], one["records"]), (str(path.relative_to(self.lake)), len(stream.ids)))
        said = self.clickmill("etl", "run", "--lake", self.lake, code=1).stderr.decode()
        self.assertIn(path.name, said)
        path.write_bytes(content)
        self.etl()
        self.assert_each_once(stream.ids, support.event_ids(self.lake), "events")
