"""A shop's own columns of `events`, and days made again: by other engines, and killed on the way."""

import json

import deltalake
import lakes
import support

COLUMNS = """
[columns]
own_step = "properties.step:Int32"
own_category = "properties.category:Utf8"
own_library = "context.library.name:Utf8"
own_version = "context.library.version:Decimal(10, 2)"
"""
# DuckDB reads the same JSON by itself.
OWN = "SELECT event_id, own_step, own_category, own_library FROM {events} ORDER BY event_id"
EXPECTED = """
    SELECT event_id, TRY_CAST(properties->>'$.step' AS INTEGER), properties->>'$.category',
      context->>'$.library.name' FROM {events} ORDER BY event_id
"""


class Columns(support.Case):
    def configured(self, text=COLUMNS):
        path = self.folder / "clickmill.toml"
        path.write_text(text, encoding="utf-8")
        return ("--config", path)

    def test_a_backfill_gives_every_event_what_its_json_says(self):
        lake, config = support.copy(lakes.landed(), self.folder / "lake"), self.configured()
        before = support.files(lake, "events")
        first = self.clickmill(*config, "--lake", lake, "etl", "run")
        self.assertIn(b"`clickmill etl backfill` gives them", first.stderr)
        known = support.query(lake, "SELECT count(*) FROM {events} WHERE own_library IS NOT NULL")[0][0]
        self.assertGreater(known, 100, "what is new has them")
        self.assertNotEqual(support.query(lake, OWN), support.query(lake, EXPECTED), "what was there has not")
        result = self.clickmill(*config, "--lake", lake, "etl", "plan")
        self.assertNotIn(b"backfill", result.stderr, "said once")
        done = self.clickmill(*config, "--lake", lake, "etl", "backfill")
        self.assertIn(b"values that are no Decimal128(10, 2)", done.stderr)
        found = support.query(lake, OWN)
        self.assertEqual(found, support.query(lake, EXPECTED))
        for at, name in enumerate(("own_step", "own_category", "own_library"), start=1):
            self.assertGreater(len({row[at] for row in found}), 1, name)
        types = {field.name: str(field.type) for field in support.delta(lake, "events").schema().fields}
        self.assertEqual([types[name] for name in ("own_step", "own_category", "own_version")],
                         ['PrimitiveType("integer")', 'PrimitiveType("string")', 'PrimitiveType("decimal(10,2)")'])
        # Nothing else of the lake is another: tables read no own column.
        self.assert_same_tables(lake, lakes.more_days(), without=(
            "own_step", "own_category", "own_library", "own_version"))
        self.assertNotEqual(support.files(lake, "events"), before)
        files = support.files(lake, "events")
        again = self.clickmill(*config, "--lake", lake, "etl", "backfill")
        self.assertIn(b"Nothing to do", again.stdout)
        self.assertEqual(support.files(lake, "events"), files)
        answer = self.clickmill("--lake", lake, "sql", "--format", "json", "-c",
                                "SELECT count(DISTINCT own_step) AS steps FROM events").stdout
        self.assertEqual(json.loads(answer), [{"steps": len({row[1] for row in found if row[1] is not None})}])

    def test_killed_at_every_named_point_a_backfill_is_finished_by_the_next_run(self):
        config = self.configured()
        wanted = support.copy(lakes.first_days(), self.folder / "wanted")
        self.clickmill(*config, "--lake", wanted, "etl", "backfill")
        for point in ("etl.before_batch", "etl.batch_written", "etl.files_written", "etl.before_commit",
                      "etl.committed", "etl.before_snapshot", "etl.snapshot_written"):
            with self.subTest(point):
                lake = support.copy(lakes.first_days(), self.folder / point)
                arguments = (*config, "--lake", lake, "etl", "backfill")
                self.assertTrue(support.died_at(point, *arguments), "it was never hit")
                self.clickmill("--lake", lake, "etl", "run")
                self.clickmill(*arguments)
                self.assert_same_tables(lake, wanted, f"{point}: ")

    def test_what_is_wrong_is_said_before_anything_is_done(self):
        lake = support.copy(lakes.first_days(), self.folder / "lake")
        versions = support.versions(lake)
        for text, said in (
            ('[columns]\nplan = "properties.plan"', b"SOURCE.PATH:TYPE"),
            ('[columns]\nrevenue = "properties.revenue:Utf8"', b"has a column of that name"),
            ("", b"there is nothing to fill"),
        ):
            result = self.clickmill(*self.configured(text), "--lake", lake, "etl", "backfill", code=2)
            self.assertIn(said, result.stderr)
        self.assertEqual(support.versions(lake), versions)
        config = self.configured()
        self.clickmill(*config, "--lake", lake, "etl", "backfill")
        result = self.clickmill(*self.configured('[columns]\nown_step = "properties.step:Utf8"'),
                                "--lake", lake, "etl", "run", code=2)
        self.assertIn(b"`events` has that column as Int32", result.stderr)
