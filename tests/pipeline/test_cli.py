"""The command itself: help, exit codes, output that programs read, and what SQL must not do."""

import csv
import io
import json
import os
import re
import subprocess
import unittest

import duckdb
import lakes
import support


class Help(support.Case):
    def verbs(self, *parents):
        text = self.clickmill(*parents, "--help").stdout.decode()
        part = re.search(r"^Commands:\n((?:  .*\n|\n)+)", text, re.MULTILINE)
        names = re.findall(r"^  (\w[\w-]*)", part[1], re.MULTILINE) if part else []
        return [name for name in names if name != "help"]

    def test_every_verb_explains_itself_with_examples(self):
        verbs = self.verbs()
        self.assertLessEqual({"collect", "deliver", "demo", "etl", "import", "sql", "up"}, set(verbs))
        without = []
        for verb in verbs:
            pages = [[verb], *([verb, sub] for sub in self.verbs(verb))]
            texts = [self.clickmill(*page, "--help").stdout.decode() for page in pages]
            if not any("Examples:" in text for text in texts):
                without.append(verb)
        self.assertEqual(without, [])

    def test_wrong_usage_ends_with_2(self):
        for arguments in (["teleport"], ["sql", "--no-such-flag"], ["etl", "run", "--tables", "no_such_table"],
                          ["demo", "--days", "0"], ["collect", "--sink", "nowhere"]):
            result = self.clickmill(*arguments, code=2)
            self.assertEqual(result.stdout, b"")
            self.assertNotEqual(result.stderr, b"")

    def test_an_unknown_configuration_key_is_refused_with_its_name(self):
        for text, name in (("colector = 1", "colector"), ("[collector]\nspol = 'x'", "spol"),
                           ("[deliver]\nmax_agee = 1", "max_agee")):
            (self.folder / "clickmill.toml").write_text(text, encoding="utf-8")
            result = self.clickmill("etl", "status", code=2)
            self.assertIn(name, result.stderr.decode())

    def test_a_collector_that_anybody_could_reach_needs_a_write_key(self):
        result = self.clickmill("collect", "--listen", "0.0.0.0:0", code=2)
        self.assertIn("write", result.stderr.decode())


class Output(support.Case):
    """Stdout that takes nothing: a reader that has seen enough is no error, a full disk is one."""

    VERBS = (["etl", "status"], ["etl", "status", "--format", "json"], ["etl", "plan"],
             ["etl", "plan", "--format", "json"], ["etl", "run"], ["audit"], ["audit", "--format", "json"],
             ["replay", "rejects"], ["sql", "-c", "SELECT * FROM sessions"])

    def code(self, arguments, stdout):
        result = subprocess.run([support.BIN, *arguments, "--lake", self.lake], cwd=self.folder, stdout=stdout,
                                env=support.environment(), stderr=subprocess.PIPE, check=False,
                                timeout=support.COMMAND_SECONDS)
        text = result.stderr.decode()
        self.assertNotIn("panicked", text)
        return result.returncode, text

    def setUp(self):
        super().setUp()
        self.lake = self.folder / "lake"
        support.copy(lakes.first_days(), self.lake)

    def test_a_reader_that_has_seen_enough_changes_no_exit_code(self):
        for verb in self.VERBS:
            with self.subTest(verb):
                expected, _ = self.code(verb, subprocess.DEVNULL)
                reader, writer = os.pipe()
                os.close(reader)
                code, text = self.code(verb, writer)
                os.close(writer)
                self.assertEqual(code, expected, text)
                self.assertNotIn("pipe", text)

    @unittest.skipUnless(os.path.exists("/dev/full"), "no device that is always full")
    def test_a_full_disk_ends_with_1_and_says_so(self):
        with open("/dev/full", "wb") as full:
            code, text = self.code(["etl", "status"], full)
        self.assertEqual(code, 1)
        self.assertIn("cannot write to stdout", text)


class Sql(support.Case):
    QUESTION = "SELECT event_name, count(*) AS n, min(event_ts) AS first, max(total) AS total FROM events " \
               "GROUP BY event_name ORDER BY event_name"

    def ask(self, *arguments, code=0, **options):
        return self.clickmill("sql", "--lake", lakes.first_days(), *arguments, code=code, **options)

    def expected(self):
        sql = "SELECT event_name, count(*), max(total) FROM {events} GROUP BY event_name ORDER BY event_name"
        return [(name, n, total) for name, n, total in support.query(lakes.first_days(), sql)]

    def test_every_format_says_the_same_as_an_independent_reader(self):
        expected = self.expected()
        counts = [(name, n) for name, n, _ in expected]
        self.assertGreater(len(expected), 5)
        text = self.ask("-c", self.QUESTION, "--format", "csv").stdout.decode()
        found = list(csv.DictReader(io.StringIO(text)))
        self.assertEqual([(row["event_name"], int(row["n"])) for row in found], counts)
        found = json.loads(self.ask("-c", self.QUESTION, "--format", "json").stdout)
        self.assertEqual([(row["event_name"], row["n"]) for row in found], counts)
        lines = self.ask("-c", self.QUESTION, "--format", "ndjson").stdout.decode().splitlines()
        self.assertEqual([(row["event_name"], row["n"]) for row in map(json.loads, lines)], counts)
        names = support.query(lakes.first_days(), "SELECT context->'library'->>'name', count(*) FROM {events} GROUP BY 1")
        text = "SELECT context->'library'->>'name' AS name, count(*) AS n FROM events GROUP BY 1"
        found = json.loads(self.ask("-c", text, "--format", "json").stdout)
        self.assertTrue(any(name for name, _ in names), names)
        self.assertCountEqual([(row.get("name"), row["n"]) for row in found], names)
        # JSON of no one type is its text: neither format could hold it otherwise.
        text = "SELECT context->'library' AS library FROM events WHERE (context->'library') IS NOT NULL LIMIT 1"
        [row] = json.loads(self.ask("-c", text, "--format", "json").stdout)
        self.assertIn("name", json.loads(row["library"]))
        self.ask("-c", text, "--format", "parquet")
        path = self.folder / "answer.parquet"
        path.write_bytes(self.ask("-c", self.QUESTION, "--format", "parquet").stdout)
        found = duckdb.sql(f"SELECT event_name, n, total FROM '{path}' ORDER BY event_name").fetchall()
        self.assertEqual(found, expected)
        table = self.ask("-c", self.QUESTION).stdout.decode()
        for name, n in counts:
            self.assertRegex(table, rf"\b{name}\b.*\b{n}\b")

    def test_a_file_and_stdin_are_taken_like_an_argument(self):
        (self.folder / "q.sql").write_text("SELECT 1 AS one;\n-- a comment; with a semicolon\nSELECT 'a;b' AS two;\n")
        from_file = self.ask("-f", self.folder / "q.sql", "--format", "csv").stdout
        from_stdin = self.ask("--format", "csv", stdin=(self.folder / "q.sql").read_bytes()).stdout
        self.assertEqual(from_file, from_stdin)
        self.assertEqual(from_file.split(), [b"one", b"1", b"two", b"a;b"])

    def test_an_answer_without_rows_is_still_one(self):
        nothing = "SELECT event_name FROM events WHERE event_name = 'no such'"
        self.assertEqual(json.loads(self.ask("-c", nothing, "--format", "json").stdout), [])
        self.assertEqual(self.ask("-c", nothing, "--format", "csv").stdout.split(), [b"event_name"])
        self.assertEqual(self.ask("-c", nothing, "--format", "ndjson").stdout, b"")

    def test_stats_go_to_stderr_and_count_what_was_pruned(self):
        day = support.query(lakes.first_days(), "SELECT CAST(min(dt) AS VARCHAR) FROM {events}")[0][0]
        result = self.ask("--stats", "--format", "csv", "-c", f"SELECT count(*) FROM events WHERE dt = '{day}'")
        count = support.query(lakes.first_days(), f"SELECT count(*) FROM {{events}} WHERE dt = DATE '{day}'")[0][0]
        self.assertEqual(result.stdout.split()[-1], str(count).encode())
        stats = result.stderr.decode()
        pruned, partitions = map(int, re.search(r"partitions pruned (\d+)/(\d+)", stats).groups())
        self.assertEqual(partitions - pruned, 1, stats)

    def test_a_query_can_neither_read_other_files_nor_write(self):
        target = self.folder / "stolen"
        for statement in (
            f"COPY (SELECT * FROM events) TO '{target}'",
            f"COPY events TO '{target}.csv' STORED AS CSV",
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
            "SELECT * FROM '/etc/passwd'",
            "SELECT * FROM \"/etc/passwd\"",
            "SELECT * FROM read_csv('/etc/passwd')",
            "CREATE TABLE t AS SELECT 1",
            "CREATE VIEW v AS SELECT 1",
            "DROP TABLE events",
            "INSERT INTO events SELECT * FROM events",
            "DELETE FROM events",
            "UPDATE events SET app_id = 'x'",
            "SET datafusion.execution.batch_size = 1",
            f"EXPLAIN ANALYZE COPY (SELECT 1) TO '{target}'",
        ):
            with self.subTest(statement):
                result = self.ask("-c", statement, code=1)
                self.assertNotIn(b"root:", result.stdout + result.stderr)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_broken_query_ends_with_1_and_says_why(self):
        result = self.ask("-c", "SELECT no_such_column FROM events", code=1)
        self.assertIn("no_such_column", result.stderr.decode())
        self.assertEqual(result.stdout, b"")

    def test_a_lake_without_tables_is_no_crash(self):
        result = self.clickmill("sql", "--lake", self.folder / "empty", "-c", "SELECT 1", code=1)
        self.assertIn("etl run", result.stderr.decode())
        self.clickmill("etl", "status", "--lake", self.folder / "empty")
        self.clickmill("etl", "run", "--lake", self.folder / "empty")


class Configured(support.Case):
    """What a shop adds in its own folder: jobs, checks, channels."""

    JOB = ("-- table: daily_names\n-- mode: replace partitions\n-- partition: dt\n-- depends: events\n"
           "SELECT event_name, count(*) AS n, dt\nFROM events GROUP BY event_name, dt\n")

    def setUp(self):
        super().setUp()
        self.lake = self.folder / "lake"
        support.copy(lakes.first_days(), self.lake)
        (self.folder / "jobs").mkdir()
        self.write_job(self.JOB)

    def write_job(self, text):
        (self.folder / "jobs" / "names.sql").write_text(text, encoding="utf-8")

    def configure(self, text):
        (self.folder / "clickmill.toml").write_text(f'lake = "{self.lake}"\n{text}', encoding="utf-8")

    def test_a_shops_own_job_is_a_table_like_any_other(self):
        self.configure('[[quality.daily_names]]\ncheck = "unique"\ncolumns = ["event_name", "dt"]\n')
        plan = self.clickmill("etl", "plan").stdout.decode()
        self.assertIn("jobs/names.sql -> daily_names (replace partitions, from events): it runs", plan)
        self.clickmill("etl", "run")
        sql = "SELECT event_name, count(*), dt FROM {events} GROUP BY ALL ORDER BY ALL"
        expected = support.query(self.lake, sql)
        self.assertGreater(len(expected), 10)
        self.assertEqual(support.query(self.lake, "SELECT event_name, n, dt FROM {daily_names} ORDER BY ALL"), expected)
        total = self.clickmill("sql", "-c", "SELECT sum(n) FROM daily_names", "--format", "csv").stdout.decode()
        self.assertEqual(int(total.split()[-1]), sum(row[1] for row in expected))
        status = json.loads(self.clickmill("etl", "status", "--format", "json").stdout)
        rows = {table["table"]: table["rows"] for table in status["tables"]}
        self.assertEqual((rows["daily_names"], rows["quality_results"]), (len(expected), 1))

    def test_a_table_that_grew_too_old_is_told_where_nothing_is_new(self):
        check = '[[quality.events]]\ncheck = "freshness"\ncolumn = "received_ts"\nmax_age = "{}"\n'
        self.configure("")
        self.clickmill("etl", "run")
        self.configure(check.format("36500d"))
        self.assertNotIn("freshness", self.clickmill("etl", "run", "--strict").stderr.decode())
        self.configure(check.format("0s"))
        said = self.clickmill("etl", "run").stderr.decode()
        self.assertIn("events: freshness: the newest received_ts is ", said)
        result = self.clickmill("etl", "run", "--strict", code=3)
        self.assertEqual((result.stdout, result.stderr.decode()),
                         (b"Nothing new: every table is up to date.\n", said))
        self.assertIn("stale: the newest received_ts is ", self.clickmill("etl", "status").stdout.decode())
        status = json.loads(self.clickmill("etl", "status", "--format", "json").stdout)
        self.assertEqual([table["table"] for table in status["tables"] if "stale" in table], ["events"])

    def test_what_a_check_stopped_is_seen_by_sql_at_once(self):
        self.configure('[sources.shop]\nkind = "files"\nformat = "csv"\npath = "exports"\n[sources.shop.orders]\n'
                       '[[quality.orders]]\ncheck = "not_null"\ncolumns = ["customer_id"]\non_failure = "stop"\n')
        (self.folder / "exports").mkdir()
        (self.folder / "exports" / "orders.csv").write_text("order_id,ordered_at,total\no1,2026-03-10T10:00:00Z,10\n")
        self.clickmill("etl", "run", code=1)
        sql = "SELECT table_name, status, attempt FROM quality_results WHERE status = 'stopped'"
        rows = self.clickmill("sql", "-c", sql, "--format", "csv").stdout.decode().split()
        self.assertEqual(rows[1:], ["orders,stopped,1"])

    def test_what_is_wrong_with_a_job_or_a_check_ends_with_2_and_its_place(self):
        self.configure("")
        self.write_job(self.JOB.replace("FROM events", "FROM evnets"))
        result = self.clickmill("etl", "run", code=2)
        self.assertIn("jobs/names.sql:6: ", result.stderr.decode())
        self.write_job(self.JOB.replace("-- mode", "-- mod"))
        self.assertIn("jobs/names.sql:2: ", self.clickmill("etl", "plan", code=2).stderr.decode())
        self.write_job(self.JOB)
        for text, said in (('[[quality.daily_names]]\ncheck = "unique"\ncolumns = ["nme"]\n', "no column `nme`"),
                           ('[[quality.no_such]]\ncheck = "unique"\ncolumns = ["x"]\n', "no table `no_such`"),
                           ('[[quality.orders]]\ncheck = "unqiue"\n', "no such check"),
                           ('[channels]\n[[channels.rules]]\nchannel = "x"\nsource = "y"\n', "version"),
                           ('[channels]\nversion = 1000\nown_domains = ["co.uk"]\n', "own_domains"),
                           ('[currency]\nreporting = "euro"\nrates = "x.csv"\n', "ISO 4217"),
                           ('[sources.db]\nkind = "mysql"\nhost = "h"\ndatabase = "d"\nuser = "u"\n'
                            'password = "p"\n[sources.db.orders]\n', "password")):
            self.configure(text)
            self.assertIn(said, self.clickmill("etl", "plan", code=2).stderr.decode())
