"""An etl run under a memory limit ends well, and its peak is bounded: of narrow rows, of which any limit holds enough."""

import subprocess
import sys

import support

ROWS = 60_000
LIMIT = "150MB"
# The limit is for what queries hold; decoding, the Parquet writers and the program come on top.
PEAK_BYTES = 500_000_000

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
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, support.BIN, "etl", "run", "--memory-limit", LIMIT,
             "--lake", str(lake)],
            env=support.environment(), capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr.decode(errors="replace")[-3000:])
        self.assertEqual(support.query(lake, "SELECT count(*), count(DISTINCT event_id) FROM {events}"),
                         [(ROWS, ROWS)])
        peak = int(done.stdout.split()[-1]) * 1024
        print(f"[peak {peak / 1e6:.0f} MB]", end=" ", flush=True)
        self.assertLess(peak, PEAK_BYTES)
