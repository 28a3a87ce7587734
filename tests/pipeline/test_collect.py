"""From HTTP to the tables: hostile input, damaged spools, and the process that stays up."""

import base64
import gzip
import json
import os

import support

HOSTILE = [
    "/", "..", "../../etc/passwd", "a/b/c", "=", "dt=1970-01-01", "a=b/c=d", "%", "%2F", "%00", "%zz", "'", "\"", "\\",
    "';DROP TABLE events;--", "line\nfeed", "carriage\rreturn", "tab\there", " leading", "trailing ", "null", "NULL",
    "None", "NaN", "__HIVE_DEFAULT_PARTITION__", "ünïcödé", "日本語", "😀", "e\u0301", "\u202eright-to-left",
    "\u200bzero width", "\ufeffbom", "$(touch x)", "${HOME}", "`id`", "<script>", "{}", "[]", "1e999", "-0", "true",
    "a,b;c\td|e", "#fragment", "?query", "&amp;", "*", "~", "x" * 1500,
]


def write(folder, text):
    path = folder / "clickmill.toml"
    path.write_text(text, encoding="utf-8")
    return path


class Hostile(support.Case):
    def test_hostile_values_reach_the_tables_verbatim_and_break_no_path(self):
        lake, spool = self.folder / "lake", self.folder / "spool"
        collector = self.collector("--lake", lake, "--spool", spool)
        batch = []
        for number, text in enumerate(HOSTILE):
            one = support.track(f"{number}:{text}"[:512], visitor=text, event=text, plan=text,
                                products=[{"product_id": text, "name": text, "price": "12.30"}], query=text,
                                coupon=text, order_id=text)
            one["context"] = {"page": {"url": f"https://shop.example/{text}", "title": text},
                              "campaign": {"source": text, "name": text}}
            batch.append(one)
        status, answer = collector.post("/v1/batch", {"batch": batch})
        self.assertEqual(status, 200, answer)
        collector.stop()
        self.clickmill("etl", "run", "--lake", lake)
        found = {row[0]: row[1:] for row in support.query(lake, """
            SELECT event_id, visitor_id, source_event_name, page_title, utm_source, items[1].product_id,
                properties FROM {events}""")}
        for one, text in zip(batch, HOSTILE):
            with self.subTest(text[:40]):
                row = found.pop(one["messageId"], None)
                self.assertIsNotNone(row, "the event is not there")
                self.assertEqual(list(row[:5]), [text] * 5)
                self.assertEqual(json.loads(row[5])["plan"], text)
        self.assertEqual(found, {}, "events that nobody sent")
        stray = [str(path.relative_to(lake)) for path in lake.rglob("*")
                 if not all(part.isascii() and len(part) < 200 for part in path.relative_to(lake).parts)]
        self.assertEqual(stray, [])
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["lake", "spool"])
        again = self.clickmill("sql", "--lake", lake, "--format", "json",
                               "-c", "SELECT visitor_id FROM events").stdout
        self.assertEqual(sorted(row["visitor_id"] for row in json.loads(again)), sorted(HOSTILE))

    def test_an_app_id_may_be_any_text(self):
        lake, spool = self.folder / "lake", self.folder / "spool"
        keys = {f"key{n}": text for n, text in enumerate(HOSTILE) if text.strip() == text and len(text) < 200}
        lines = "\n".join(f"{key} = {json.dumps(text, ensure_ascii=False)}" for key, text in keys.items())
        config = write(self.folder, f"[collector.write_keys]\n{lines}\n")
        collector = self.collector("--config", config, "--lake", lake, "--spool", spool)
        for key in keys:
            basic = base64.b64encode(f"{key}:".encode()).decode()
            status, _ = collector.post("/v1/track", support.track(f"to-{key}"), {"Authorization": f"Basic {basic}"})
            self.assertEqual(status, 200)
        collector.stop()
        self.clickmill("etl", "run", "--lake", lake)
        found = dict(support.query(lake, "SELECT event_id, app_id FROM {events}"))
        self.assertEqual(found, {f"to-{key}": text for key, text in keys.items()})

    def test_malformed_requests_end_in_rejects_with_reason_and_bytes(self):
        lake, spool = self.folder / "lake", self.folder / "spool"
        collector = self.collector("--lake", lake, "--spool", spool)
        good = support.track("good")
        bodies = {
            "no JSON": b"{\"event\": ",
            "not UTF-8": b"{\"event\": \"\xff\xfe\"}",
            "an array": b"[1, 2, 3]",
            "a batch that is none": b"{\"batch\": 7}",
            "two good, one of an unknown type": json.dumps({"batch": [
                good, {"type": "teleport", "messageId": "bad"}, support.track("also good")]}).encode(),
        }
        statuses = {what: collector.post("/v1/batch", body)[0] for what, body in bodies.items()}
        self.assertEqual(statuses["two good, one of an unknown type"], 200)
        self.assertEqual({statuses[what] for what in bodies} - {200}, {400})
        status, _ = collector.post("/v1/batch", gzip.compress(bodies["no JSON"]), {"Content-Encoding": "gzip"})
        self.assertEqual(status, 400)
        collector.stop()
        self.clickmill("etl", "run", "--lake", lake)
        rejects = support.query(lake, "SELECT reason, detail, bytes_base64, origin FROM {rejects}")
        kept = sorted(base64.b64decode(row[2]) for row in rejects)
        whole = [bodies[what] for what in ("no JSON", "not UTF-8", "an array", "a batch that is none")]
        self.assertEqual(kept, sorted([*whole, bodies["no JSON"], b'{"type": "teleport", "messageId": "bad"}']))
        self.assertEqual([row for row in rejects if not (row[0] and row[1])], [])
        self.assertIn("unknown_type", {row[0] for row in rejects})
        self.assert_each_once(["good", "also good"], support.event_ids(lake))
        shown = self.clickmill("sql", "--lake", lake, "--format", "json",
                               "-c", "SELECT reason, bytes_base64 FROM rejects").stdout
        self.assertEqual(sorted((row["reason"], row["bytes_base64"]) for row in json.loads(shown)),
                         sorted((row[0], row[2]) for row in rejects))


class Spool(support.Case):
    def test_a_torn_spool_is_recovered_and_reported_and_loses_nothing_acknowledged(self):
        for damage in ("cut", "garbage"):
            with self.subTest(damage):
                folder = self.folder / damage
                folder.mkdir()
                lake, spool = folder / "lake", folder / "spool"
                # Nothing is shipped before the damage is done.
                config = write(folder, "[collector]\nbatch_max_wait_ms = 600000\n")
                arguments = ("--config", config, "--lake", lake, "--spool", spool)
                collector = self.collector(*arguments, cwd=folder)
                ids = [f"e{n}" for n in range(60)]
                for one in ids:
                    self.assertEqual(collector.post("/v1/track", support.track(one))[0], 200)
                collector.kill()
                self.assertEqual(support.commits(lake), [])
                last = sorted(spool.glob("*.seg"))[-1]
                content = last.read_bytes()
                # A crash tears what was being written: all of the acknowledged frames lie before it.
                torn = os.urandom(300) if damage == "garbage" else content[-200:-50]
                last.write_bytes(content + torn)
                collector = self.collector(*arguments, cwd=folder)
                self.assertEqual(collector.post("/v1/track", support.track("after"))[0], 200)
                collector.stop()
                self.assertIn("WARN", collector.text(), "the damage is not reported")
                self.clickmill("etl", "run", "--lake", lake, cwd=folder)
                self.assert_each_once([*ids, "after"], support.event_ids(lake))

    def test_damage_to_an_acknowledged_frame_loses_only_what_lies_behind_it(self):
        lake, spool = self.folder / "lake", self.folder / "spool"
        config = write(self.folder, "[collector]\nbatch_max_wait_ms = 600000\n")
        arguments = ("--config", config, "--lake", lake, "--spool", spool)
        collector = self.collector(*arguments)
        ids, ends = [f"e{n}" for n in range(40)], []
        for one in ids:
            self.assertEqual(collector.post("/v1/track", support.track(one))[0], 200)
            ends.append(sorted(spool.glob("*.seg"))[-1].stat().st_size)
        collector.kill()
        last = sorted(spool.glob("*.seg"))[-1]
        content = bytearray(last.read_bytes())
        content[ends[29] + 20:] = os.urandom(len(content) - ends[29] - 20)
        last.write_bytes(content)
        collector = self.collector(*arguments)
        collector.stop()
        self.clickmill("etl", "run", "--lake", lake)
        self.assert_each_once(ids[:30], support.event_ids(lake))
        self.assertRegex(collector.text(), "WARN|ERROR")


class Up(support.Case):
    def test_a_click_is_a_row_within_a_minute_and_sigterm_drains_the_rest(self):
        lake, spool = self.folder / "lake", self.folder / "spool"
        up = self.collector("--lake", lake, "--spool", spool, verb="up")
        self.assertEqual(up.post("/v1/track", support.track("first"))[0], 200)

        def visible():
            if not support.snapshot_numbers(lake, "snapshots"):
                return False
            answer = support.run("sql", "--lake", lake, "--format", "csv",
                                 "-c", "SELECT count(*) FROM events WHERE event_id = 'first'")
            return answer.returncode == 0 and answer.stdout.split()[-1] == b"1"

        support.until(visible, 60, "the click is a row")
        status = json.loads(self.clickmill("etl", "status", "--lake", lake, "--format", "json").stdout)
        self.assertGreater(status["click_to_row_ms"], 0)
        load = support.Load(up.port, "load", pause=0.02)
        support.until(lambda: len(load.acknowledged) > 400, 60, "some load")
        load.stop()
        up.stop()
        self.assert_each_once(["first", *load.acknowledged], support.event_ids(lake))
