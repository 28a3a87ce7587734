"""An etl run under a memory limit ends well, and its peak is bounded: of narrow rows, of which any limit holds enough,
and of facts in many small groups, each of which must not cost more than its row."""

import datetime
import subprocess
import sys

import support

ROWS = 60_000
LIMIT = "150MB"
# The limit is for what queries hold; decoding, the Parquet writers and the program come on top.
PEAK_BYTES = 500_000_000
# So many days, and products on each of them: a row each of product_daily, and one of interactions.
DAYS, PRODUCTS = 200, 200

SOURCE = """
[sources.dumps]
kind = "files"
format = "csv"
path = "{folder}/lines.csv"

[sources.dumps.lines.columns]
order_id = "order_id"
product_id = "product_id"
quantity = "quantity"
unit_price = "unit_price"
ordered_at = "ordered_at"
customer_id = "customer_id"
currency = {{ constant = "EUR" }}
"""

# A child's peak starts at what its parent held when it was started (getrusage(2)):
# a parent that holds little measures the child, this process would measure itself.
MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


class Memory(support.Case):
    def test_an_etl_run_with_a_limit_stays_within_its_peak(self):
        lake, spool = self.folder / "lake", self.folder / "spool"
        collector = self.collector("--lake", lake, "--spool", spool)
        now = support.utc_now()
        for first in range(0, ROWS, 500):
            batch = [support.track(f"e{n}", visitor=f"v{n * 7919 % 20_011}", at=now, note="x" * 300)
                     for n in range(first, first + 500)]
            self.assertEqual(collector.post("/v1/batch", {"batch": batch})[0], 200)
        collector.stop()
        self.assertIn("everything is shipped", collector.text())
        peak = self.run_etl(lake, "--memory-limit", LIMIT)
        self.assertEqual(support.query(lake, "SELECT count(*), count(DISTINCT event_id) FROM {events}"),
                         [(ROWS, ROWS)])
        self.assertLess(peak, PEAK_BYTES)

    def test_facts_in_many_small_groups_cost_no_more_than_their_rows(self):
        lake, first = self.folder / "lake", datetime.date(2026, 1, 1)
        with open(self.folder / "lines.csv", "w") as file:
            file.write("order_id,product_id,quantity,unit_price,ordered_at,customer_id\n")
            for day in range(DAYS):
                for product in range(PRODUCTS):
                    order = f"{day}-{product // 10}"
                    at = f"{first + datetime.timedelta(days=day)} 12:00:00"
                    file.write(f"o{order},p{product},1,9.50,{at},c{order}\n")
        config = self.folder / "clickmill.toml"
        config.write_text(SOURCE.format(folder=self.folder))
        peak = self.run_etl(lake, "--config", config)
        self.assertEqual(support.query(lake, "SELECT count(*), sum(orders) FROM {product_daily}"),
                         [(DAYS * PRODUCTS, DAYS * PRODUCTS)])
        self.assertEqual(support.query(lake, "SELECT count(*), sum(purchases) FROM {interactions}"),
                         [(DAYS * PRODUCTS, DAYS * PRODUCTS)])
        self.assertLess(peak, PEAK_BYTES)

    def run_etl(self, lake, *arguments):
        """Runs it to its end; its peak memory in bytes."""
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, support.BIN, "etl", "run", "--lake", lake, *map(str, arguments)],
            env=support.environment(), capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr.decode(errors="replace")[-3000:])
        peak = int(done.stdout.split()[-1]) * 1024
        print(f"[peak {peak / 1e6:.0f} MB]", end=" ", flush=True)
        return peak
