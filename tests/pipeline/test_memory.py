"""A run stays within its memory, however large the input."""

import json
import random
import subprocess
import sys

import support

ROWS, ROW_BYTES = 40_000, 6_000
LIMIT = "250MB"
# The limit is for what queries hold; decoding, the Parquet writers and the program come on top.
PEAK_BYTES = 750_000_000

MAPPING = """
[import.history]
format = "jsonl"
app_id = "shop"
event_id = "id"
event_ts = { column = "at", format = "%Y-%m-%dT%H:%M:%SZ" }
event_name = { constant = "page_view" }
fields = { user_id = "visitor" }
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
        lake, history = self.folder / "lake", self.folder / "history.jsonl"
        (self.folder / "clickmill.toml").write_text(MAPPING)
        rng = random.Random(1)
        with open(history, "w") as file:
            for row in range(ROWS):
                note = "%0*x" % (ROW_BYTES, rng.getrandbits(4 * ROW_BYTES))
                file.write(json.dumps({
                    "id": f"e{row * 7919 % ROWS}", "visitor": f"v{row * 7919 % 20_011}",
                    "at": f"2026-03-{1 + row % 3:02}T{row % 24:02}:{row % 60:02}:00Z", "note": note,
                }) + "\n")
        self.clickmill("import", "events", "--lake", lake, "--mapping", "history", history)
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, support.BIN, "etl", "run", "--memory-limit", LIMIT,
             "--lake", str(lake)],
            env=support.environment(), capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr.decode(errors="replace")[-3000:])
        self.assertEqual(support.query(lake, "SELECT count(*), count(DISTINCT event_id) FROM {events}"),
                         [(ROWS, ROWS)])
        peak = int(done.stdout.split()[-1]) * 1024
        print(f"[peak {peak / 1e6:.0f} MB of {ROWS * ROW_BYTES / 1e6:.0f} MB read]", end=" ", flush=True)
        self.assertLess(peak, PEAK_BYTES)
