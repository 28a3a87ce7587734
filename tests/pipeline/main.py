"""Runs the whole-pipeline tests; `tests/run.py` calls it with everything set up."""

import argparse
import json
import pathlib
import sys
import time
import unittest

# Characters of a failure that the report repeats.
LAST_WORDS = 3_000
HERE = pathlib.Path(__file__).resolve().parent


class Result(unittest.TestResult):
    """One line a test, when it ends: a hang is then seen where it is."""

    def __init__(self):
        super().__init__()
        self.passed = 0

    def startTest(self, test):
        super().startTest(test)
        self.started = time.monotonic()
        print(f"test {name(test)} ...", end=" ", flush=True)

    def say(self, outcome):
        print(f"{outcome} ({time.monotonic() - self.started:.1f} s)", flush=True)

    def addSuccess(self, test):
        self.passed += 1
        self.say("ok")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.say(f"skipped: {reason}")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.say("FAILED")
        print(self.failures[-1][1], flush=True)

    def addError(self, test, err):
        super().addError(test, err)
        if hasattr(self, "started"):
            self.say("FAILED")
        print(self.errors[-1][1], flush=True)


def name(test):
    return test.id().replace(".test_", ": ").replace("test_", "").replace("_", " ")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", metavar="TEXT", help="only tests with this text in their name")
    parser.add_argument("--report", type=pathlib.Path, help="write the counts there, as JSON")
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE))
    loader = unittest.TestLoader()
    if arguments.k:
        text = arguments.k.replace(" ", "_")
        loader.testNamePatterns = [f"*{text}*"]
    result = Result()
    loader.discover(str(HERE), top_level_dir=str(HERE)).run(result)
    failed = [f"{name(test)}\n{error[-LAST_WORDS:]}" for test, error in result.failures + result.errors]
    counts = {"passed": result.passed, "failed": failed, "skipped": len(result.skipped)}
    if arguments.report:
        arguments.report.write_text(json.dumps(counts), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
