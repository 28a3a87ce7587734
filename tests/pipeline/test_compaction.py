"""Another engine compacts the tables while a run appends to them and queries read them."""

import itertools
import threading

import lakes
import support
from deltalake.exceptions import CommitFailedError

# Appended to, rewritten by day, replaced as a whole.
TABLES = ("events", "sessions", "orders_enriched", "product_daily", "customer_ltv")
ENOUGH = 40


class Compactor(threading.Thread):
    """Rewrites every file of some tables, over and over, as OPTIMIZE ZORDER does."""

    def __init__(self, lake):
        super().__init__(daemon=True)
        self.lake, self.stopped, self.done, self.lost, self.error = lake, threading.Event(), [], 0, None

    def run(self):
        try:
            # Sooner and later than a job takes: some are overtaken, and computed again.
            for pause in itertools.cycle((0.05, 0.5, 3)):
                if self.stopped.wait(pause):
                    break
                for table in TABLES:
                    self.rewrite(table)
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def rewrite(self, table):
        delta = support.delta(self.lake, table)
        columns = [field.name for field in delta.schema().fields if field.name in ("visitor_id", "order_id", "product_id",
                                                                                   "customer_id")]
        try:
            delta.optimize.z_order(columns[:1])
            self.done.append((table, support.version(self.lake, table)))
        except CommitFailedError:
            # The run was faster.
            self.lost += 1


class Compaction(support.Case):
    def test_compaction_racing_append_and_query(self):
        lake = support.copy(lakes.landed(), self.folder / "lake")
        before, after = (support.query(of, "SELECT count(*) FROM {events}")[0][0]
                         for of in (lake, lakes.more_days()))
        self.assertGreater(after, before)
        compactor = Compactor(lake)
        compactor.start()
        self.addCleanup(compactor.stopped.set)
        support.until(lambda: compactor.done or compactor.error, 60, "something is compacted")
        run = support.spawn("--lake", lake, "etl", "run")
        self.addCleanup(run.kill)
        seen, during = set(), 0
        while run.poll() is None:
            answer = self.clickmill("--lake", lake, "sql", "--format", "csv", "-c", "SELECT count(*) AS n FROM events")
            seen.add(int(answer.stdout.split()[-1]))
            during = len(compactor.done)
            if during >= ENOUGH:
                # What it overtook is computed again, now undisturbed.
                compactor.stopped.set()
        compactor.stopped.set()
        compactor.join(60)
        self.assertIsNone(compactor.error)
        self.assertGreaterEqual(during, ENOUGH, "nothing was raced")
        self.assertLessEqual(seen, {before, after}, "a query saw a batch in part, or rows twice")
        # Who rewrites the same days without a pause may win every time; a run after it does the rest.
        if run.returncode:
            self.clickmill("--lake", lake, "etl", "run")
        self.assert_same_tables(lake, lakes.more_days())
        self.clickmill("--lake", lake, "etl", "run")
        self.assert_same_tables(lake, lakes.more_days(), "after another run ")
