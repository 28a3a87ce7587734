"""A run stays within its memory, however large the input."""

import os
import subprocess

import support

ROWS = 60_000
LIMIT = "150MB"
# The limit is for what queries hold; decoding, the Parquet writers and the program come on top.
PEAK_BYTES = 800_000_000


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
        process = subprocess.Popen([support.BIN, "etl", "run", "--memory-limit", LIMIT, "--lake", str(lake)],
                                   env=support.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        text = process.stderr.read().decode(errors="replace")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stderr.close()
        self.assertEqual(process.returncode, 0, text[-3000:])
        self.assertEqual(support.query(lake, "SELECT count(*), count(DISTINCT event_id) FROM {events}"),
                         [(ROWS, ROWS)])
        peak = usage.ru_maxrss * 1024
        print(f"[peak {peak / 1e6:.0f} MB]", end=" ", flush=True)
        self.assertLess(peak, PEAK_BYTES)
