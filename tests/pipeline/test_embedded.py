"""The whole pipeline on a folder: what went in, against what independent readers find."""

import collections
import datetime
import gzip
import json
import shutil

import deltalake
import duckdb
import lakes
import support


class Demo(support.Case):
    def test_every_acknowledged_event_is_in_the_table_exactly_once(self):
        for lake in (lakes.first_days(), lakes.more_days()):
            acknowledged = support.acknowledged_by_truth(lake)
            self.assertGreater(len(acknowledged), 500)
            found = support.event_ids(lake)
            self.assert_each_once(acknowledged, found)
            self.assertEqual(set(found) - acknowledged, set(), "nobody sent these")

    def test_a_re_run_gives_row_identical_output(self):
        lake = support.copy(lakes.more_days(), self.folder / "lake")
        for part in ("tables", "_clickmill/batches", "_clickmill/snapshots"):
            shutil.rmtree(lake / part)
        self.clickmill("etl", "run", "--lake", lake)
        self.assertLess(support.snapshot_numbers(lake, "batches"), support.snapshot_numbers(lakes.more_days(), "batches"),
                        "in fewer batches than at first")
        self.assert_same_tables(lake, lakes.more_days())

    def test_another_etl_run_changes_nothing(self):
        lake = support.copy(lakes.more_days(), self.folder / "lake")
        before = {path: path.stat().st_mtime_ns for path in lake.rglob("*") if path.is_file()}
        self.clickmill("etl", "run", "--lake", lake)
        after = {path: path.stat().st_mtime_ns for path in lake.rglob("*") if path.is_file()}
        self.assertEqual(before, after)

    def test_the_next_days_leave_files_of_untouched_days_as_they_were(self):
        before, after = lakes.first_days(), lakes.more_days()
        newest = support.query(before, "SELECT max(epoch_us(received_ts)) FROM {events}")[0][0]
        touched = {f"dt={dt}" for dt, in support.query(
            after, f"SELECT DISTINCT dt FROM {{events}} WHERE epoch_us(received_ts) > {newest}")}
        files = support.files(before, "events"), support.files(after, "events")
        untouched = set(files[0]) - touched
        for day in untouched:
            self.assertEqual(files[0][day], files[1].get(day), f"events of {day}")
        self.assertGreater(len(files[1]), len(files[0]), "the next days have partitions of their own")

    def test_the_self_check_notices_a_lost_row(self):
        lake = support.copy(lakes.first_days(), self.folder / "lake")
        lost = support.query(lake, "SELECT event_id FROM {events} LIMIT 1")[0][0]
        table = deltalake.DeltaTable(str(lake / "tables" / "events"))
        table.delete(f"event_id = '{lost}'")
        result = self.clickmill("demo", "--visitors", 5, "--days", 1, "--lake", lake, code=1)
        self.assertIn(b"do not agree", result.stderr)


class Tables(support.Case):
    def test_facts_agree_with_what_they_are_derived_from(self):
        lake = lakes.more_days()
        checks = {
            "an event is one row": "SELECT count(*) - count(DISTINCT (app_id, event_id)) FROM {events}",
            "a session is one row": "SELECT count(*) - count(DISTINCT session_id) FROM {sessions}",
            "an order is one row": "SELECT count(*) - count(DISTINCT order_id) FROM {orders}",
            "a partition holds its own day": "SELECT count(*) FROM {events} "
                                              "WHERE dt <> DATE '1970-01-01' + CAST(epoch_us(event_ts) // 86400000000 AS INTEGER)",
            "every event of a visitor is in a session":
                "SELECT count(*) FROM {events} WHERE visitor_id IS NOT NULL AND session_id IS NULL",
            "every session of an event exists":
                "SELECT count(*) FROM (SELECT DISTINCT session_id FROM {events} WHERE session_id IS NOT NULL "
                "EXCEPT SELECT session_id FROM {sessions})",
            "items are those of the events":
                "SELECT (SELECT sum(len(items)) FROM {events}) - (SELECT count(*) FROM {event_items})",
            "every order is enriched":
                "SELECT count(*) FROM (SELECT order_id FROM {orders} EXCEPT SELECT order_id FROM {orders_enriched})",
        }
        wrong = {what: found for what, sql in checks.items() if (found := support.query(lake, sql)[0][0])}
        self.assertEqual(wrong, {})

    def test_sessions_are_those_of_an_independent_query(self):
        lake = lakes.more_days()
        # Gap of 30 minutes; no visitor of the demo stays for the 24 hours of the cap.
        expected = support.query(lake, """
            WITH gaps AS (
                SELECT visitor_id, event_ts, event_id,
                    epoch_us(event_ts) - lag(epoch_us(event_ts)) OVER w > 30 * 60 * 1000000 AS is_gap
                FROM {events} WHERE visitor_id IS NOT NULL
                WINDOW w AS (PARTITION BY visitor_id ORDER BY event_ts, event_id)),
            numbered AS (
                SELECT *, sum(CASE WHEN is_gap THEN 1 ELSE 0 END)
                    OVER (PARTITION BY visitor_id ORDER BY event_ts, event_id) AS number FROM gaps)
            SELECT visitor_id, min(epoch_us(event_ts)), max(epoch_us(event_ts)), count(*) FROM numbered
            GROUP BY visitor_id, number""")
        found = support.query(lake, """
            SELECT visitor_id, min(epoch_us(event_ts)), max(epoch_us(event_ts)), count(*) FROM {events}
            WHERE visitor_id IS NOT NULL GROUP BY visitor_id, session_id""")
        self.assertEqual(collections.Counter(expected), collections.Counter(found))

    def test_status_tells_of_each_source_what_was_read_and_of_when_it_is(self):
        lake = lakes.more_days()
        expected = {}
        for table in ("orders", "order_items", "customers"):
            exported = lake / "exports" / "rds" / "*" / "*" / f"public.{table}" / "*" / "*.parquet"
            with duckdb.connect() as connection:
                expected["rds", table] = connection.execute(
                    f"SELECT count(*) FROM read_parquet('{exported}')").fetchone()[0]
        items = (lake / "exports" / "dynamodb" / "AWSDynamoDB").glob("*/data/*.json.gz")
        expected["dynamodb", "product_observations"] = sum(
            len(gzip.decompress(path.read_bytes()).splitlines()) for path in items)
        status = json.loads(self.clickmill("etl", "status", "--lake", lake, "--format", "json").stdout)
        sources = {(one["source"], one["dataset"]): one for one in status["sources"]}
        self.assertEqual({key: sources[key]["rows_read"] for key in expected}, expected)
        self.assertEqual({key: sources[key]["rows_taken"] for key in expected}, expected)
        newest = max(json.loads(path.read_text())["exportTime"] for path in
                     (lake / "exports" / "dynamodb").rglob("manifest-summary.json"))
        self.assertEqual(sources["dynamodb", "product_observations"]["newest"][:19], newest[:19])

    def test_two_runs_at_once_do_the_work_of_one(self):
        lake = support.copy(lakes.landed(), self.folder / "lake")
        runs = [support.spawn("etl", "run", "--lake", lake) for _ in range(2)]
        self.assertEqual([run.wait(support.COMMAND_SECONDS) for run in runs], [0, 0])
        self.assert_same_tables(lake, lakes.more_days())

    def test_queries_that_race_a_run_see_all_that_it_appends_and_rewrites_or_nothing(self):
        def counts(name):
            return " UNION ALL ".join(f"SELECT '{table}' AS t, count(*) AS n, min(dt) AS f, max(dt) AS l FROM {name(table)}"
                                      for table in ("events", "sessions", "orders_enriched", "product_daily"))

        def rows(answer):
            return sorted((table, n, str(first), str(last)) for table, n, first, last in answer)

        lake = support.copy(lakes.landed(), self.folder / "lake")
        before, after = (rows(support.query(one, counts("{{{}}}".format))) for one in (lakes.first_days(), lakes.more_days()))
        self.assertNotEqual(before, after)
        run, seen = support.spawn("etl", "run", "--lake", lake), []
        while run.poll() is None:
            answer = self.clickmill("sql", "--lake", lake, "-c", counts(str), "--format", "json").stdout
            seen.append(rows(tuple(row.values()) for row in json.loads(answer)))
        self.assertEqual(run.returncode, 0)
        self.assertIn(before, seen, "no query was quick enough")
        # Days were rewritten, and everything else appended, by one batch: there is nothing between.
        self.assertEqual([one for one in seen if one not in (before, after)], [])
        answer = self.clickmill("sql", "--lake", lake, "-c", counts(str), "--format", "json").stdout
        self.assertEqual(rows(tuple(row.values()) for row in json.loads(answer)), after)

    def test_a_rebuild_from_the_raw_zone_gives_the_same_rows(self):
        lake = support.copy(lakes.landed(), self.folder / "lake")
        for part in ("tables", "_clickmill/batches", "_clickmill/snapshots"):
            support.shutil.rmtree(lake / part)
        self.clickmill("etl", "run", "--lake", lake)
        self.assert_same_tables(lake, lakes.more_days())


class Late(support.Case):
    def test_a_late_event_rewrites_only_its_own_day(self):
        lake, spool = self.folder / "lake", self.folder / "spool"
        noon = support.utc_now().replace(hour=12, minute=0, second=0, microsecond=0)
        days = [noon - datetime.timedelta(days=n) for n in range(2, 8)]
        collector = self.collector("--lake", lake, "--spool", spool)
        batch = [support.track(f"e-{at:%d}-{n}", visitor=f"v{n}", at=at + datetime.timedelta(minutes=n))
                 for at in days for n in range(5)]
        self.assertEqual(collector.post("/v1/batch", {"batch": batch})[0], 200)
        collector.stop()
        self.clickmill("etl", "run", "--lake", lake)
        before = {table: support.files(lake, table) for table in support.TABLES}
        self.assertEqual(len(before["events"]), len(days))

        late = days[3] + datetime.timedelta(hours=1)
        collector = self.collector("--lake", lake, "--spool", spool)
        self.assertEqual(collector.post("/v1/track", support.track("late", visitor="v1", at=late))[0], 200)
        collector.stop()
        self.clickmill("etl", "run", "--lake", lake)
        after = {table: support.files(lake, table) for table in support.TABLES}
        day = f"dt={late:%Y-%m-%d}"
        for table in support.TABLES:
            changed = {dt for dt in set(before[table]) | set(after[table])
                       if before[table].get(dt) != after[table].get(dt)}
            # A table without days is one partition, which a daily job replaces.
            self.assertLessEqual(changed, {day} if before[table].keys() != {""} else {""}, table)
        self.assertNotEqual(before["events"][day], after["events"][day])
        self.assertNotEqual(before["sessions"][day], after["sessions"][day])
        self.assert_each_once([one["messageId"] for one in batch] + ["late"], support.event_ids(lake))
        self.assertEqual(support.query(lake, "SELECT is_late FROM {events} WHERE event_id = 'late'"), [(True,)])
