"""What a developer sees while instrumenting a site: `clickmill tail` and the tracking plan."""

import json
import pathlib
import subprocess
import threading

import support

PLAN = pathlib.Path(__file__).resolve().parents[2] / "docs" / "tracking-plan.example.toml"


class Watcher:
    """`clickmill tail`, reading until it ends."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen([support.BIN, "tail", *map(str, arguments)], env=support.environment(),
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.errors = []
        self.ready = threading.Event()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.errors.append(line.decode())
            if "watching collector" in self.errors[-1]:
                self.ready.set()

    def wait(self):
        if not self.ready.wait(support.READY_SECONDS):
            self.process.kill()
            raise AssertionError(f"tail does not watch:\n{''.join(self.errors)}")
        return self

    def lines(self):
        """What it printed, once it has ended by itself."""
        out = self.process.stdout.read().decode()
        code = self.process.wait(support.DRAIN_SECONDS)
        self.reader.join()
        assert code == 0, f"ended with {code}:\n{''.join(self.errors)}"
        return out.splitlines()


class Tail(support.Case):
    def start(self, *arguments):
        self.spool = self.folder / "spool"
        return self.collector("--lake", self.folder / "lake", "--spool", self.spool, *arguments)

    def watch(self, collector, *arguments):
        watcher = Watcher("--url", collector.url, "--spool", self.spool, *arguments)
        self.addCleanup(watcher.process.kill)
        return watcher.wait()

    def test_it_shows_events_rejects_and_violations_as_they_are_taken(self):
        collector = self.start("--plan", PLAN)
        everything = self.watch(collector, "--format", "json", "--count", 4)
        violations = self.watch(collector, "--format", "json", "--violations", "--count", 1)
        rejects = self.watch(collector, "--rejects", "--count", 1)
        ann = self.watch(collector, "--visitor", "ann", "--count", 1)
        item = {"product_id": "tea", "price": 15.9}
        order = {"order_id": "A-1", "total": 31.8, "products": [item, item]}
        for event in (support.track("e1", visitor="bob", event="Order Completed", currency="EUR", **order),
                      support.track("e2", visitor="ann", event="Order Completed", currency="USD", **order)):
            self.assertEqual(collector.post("/v1/track", event)[0], 200)
        self.assertEqual(collector.post("/v1/track", b"{\"event\": ")[0], 400)
        self.assertEqual(collector.post("/v1/track", support.track("e3", event="Tea Brewed"))[0], 200)
        shown = [json.loads(line) for line in everything.lines()]
        self.assertEqual([(one.get("event_id"), one.get("validation"), one.get("reason")) for one in shown],
                         [("e1", "ok", None), ("e2", "not_allowed:currency", None), (None, None, "malformed"),
                          ("e3", "unplanned_event", None)])
        self.assertEqual([json.loads(line)["event_id"] for line in violations.lines()], ["e2"])
        lines = rejects.lines()
        self.assertRegex(lines[0], r"^\d\d:\d\d:\d\d segment  REJECT malformed /v1/track$")
        lines += ann.lines()
        self.assertRegex(lines[-2], r"^\d\d:\d\d:\d\d segment  purchase +ann +A-1 31\.8 USD 2 items$")
        self.assertEqual(lines[-1].strip(), "! plan: not_allowed:currency")
        self.assertLessEqual(max(map(len, lines)), 80)
        collector.stop()
        self.clickmill("etl", "run", "--lake", self.folder / "lake")
        found = dict(support.query(self.folder / "lake", "SELECT event_id, validation FROM {events}"))
        self.assertEqual(found, {"e1": "ok", "e2": "not_allowed:currency", "e3": "unplanned_event"})

    def test_it_ends_with_the_collector(self):
        collector = self.start()
        watcher = self.watch(collector)
        collector.stop()
        self.assertEqual(watcher.lines(), [])

    def test_without_the_token_there_is_nothing_to_see(self):
        collector = self.start()
        empty = self.folder / "empty"
        empty.mkdir()
        result = self.clickmill("tail", "--url", collector.url, "--spool", empty, code=2)
        self.assertIn("--token", result.stderr.decode())
        result = self.clickmill("tail", "--url", collector.url, "--token", "wrong", code=1)
        self.assertIn("tail.token", result.stderr.decode())
        self.assertEqual((self.spool / "tail.token").stat().st_mode & 0o777, 0o600)

    def test_a_plan_that_changes_is_taken_and_a_broken_one_refused_at_the_start(self):
        plan = self.folder / "plan.toml"
        plan.write_text("format = 1\nversion = \"1\"\n", encoding="utf-8")
        collector = self.start("--plan", plan)
        number = 0

        def outcome():
            nonlocal number
            number += 1
            watcher = self.watch(collector, "--format", "json", "--count", 1)
            self.assertEqual(collector.post("/v1/track", support.track(f"e{number}"))[0], 200)
            return json.loads(watcher.lines()[0])["validation"]

        self.assertEqual(outcome(), "unplanned_event")
        plan.write_text("format = 1\nversion = \"2\"\nunplanned_events = \"allow\"\n", encoding="utf-8")
        support.until(lambda: outcome() == "ok", 60, "the new plan")
        collector.stop()
        plan.write_text("format = 1\nversion = \"3\"\n[events.purchase]\nfields.total = { type = \"cash\" }\n",
                        encoding="utf-8")
        result = self.clickmill("collect", "--listen", "127.0.0.1:0", "--plan", plan, code=2)
        self.assertIn("cash", result.stderr.decode())
