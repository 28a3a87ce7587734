"""Runs the whole-pipeline tests; `tests/run.py` calls it with everything set up.

Two processes take the classes of tests in turn: a test waits more than it
computes, for servers, intervals and processes that it killed.
"""

import argparse
import concurrent.futures
import itertools
import json
import multiprocessing
import pathlib
import sys
import threading
import time
import unittest

WORKERS = 2
# Characters of a failure that the report repeats.
LAST_WORDS = 3_000
# A test that takes longer says so, so that a hang is seen where it is.
LONG_SECONDS = 60
# Classes that take longest begin first, so that no process waits for one at the end.
FIRST = ("Soak", "Etl", "Deliver", "Consumer", "Landing", "Streams")
HERE = pathlib.Path(__file__).resolve().parent


class Result(unittest.TestResult):
    """One line a test, when it ends."""

    def __init__(self):
        super().__init__()
        self.passed = 0

    def startTest(self, test):
        super().startTest(test)
        self.started = time.monotonic()
        self.long = threading.Timer(LONG_SECONDS, lambda: say(f"test {name(test)} ... still runs"))
        self.long.daemon = True
        self.long.start()

    def stopTest(self, test):
        self.long.cancel()
        super().stopTest(test)

    def end(self, test, outcome, error=""):
        seconds = f" ({time.monotonic() - self.started:.1f} s)" if hasattr(self, "started") else ""
        say(f"test {name(test)} ... {outcome}{seconds}" + (f"\n{error}" if error else ""))

    def addSuccess(self, test):
        self.passed += 1
        self.end(test, "ok")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.end(test, f"skipped: {reason}")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.end(test, "FAILED", self.failures[-1][1])

    def addError(self, test, err):
        super().addError(test, err)
        self.end(test, "FAILED", self.errors[-1][1])


def say(text):
    """In one write, so that the lines of two processes stay whole."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def name(test):
    return test.id().replace(".test_", ": ").replace("test_", "").replace("_", " ")


def found(text):
    """The wanted tests as suites of one class each, in the order in which they begin."""
    sys.path.insert(0, str(HERE))
    loader = unittest.TestLoader()
    if text:
        loader.testNamePatterns = [f"*{text.replace(' ', '_')}*"]

    def tests(suite):
        for test in suite:
            yield from tests(test) if isinstance(test, unittest.TestSuite) else [test]

    by_class = itertools.groupby(tests(loader.discover(str(HERE), top_level_dir=str(HERE))), type)
    suites = [(kind.__name__, unittest.TestSuite(group)) for kind, group in by_class]
    return [suite for _, suite in sorted(suites, key=lambda suite: suite[0] not in FIRST)]


def run(text, number):
    """The counts of one class."""
    result = Result()
    found(text)[number].run(result)
    failed = [f"{name(test)}\n{error[-LAST_WORDS:]}" for test, error in result.failures + result.errors]
    return result.passed, failed, len(result.skipped)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", metavar="TEXT", help="only tests with this text in their name")
    parser.add_argument("--report", type=pathlib.Path, help="write the counts there, as JSON")
    arguments = parser.parse_args()
    numbers = range(len(found(arguments.k)))
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(WORKERS, mp_context=spawn) as pool:
        ended = list(pool.map(run, itertools.repeat(arguments.k), numbers))
    counts = {"passed": sum(passed for passed, _, _ in ended),
              "failed": [failure for _, failures, _ in ended for failure in failures],
              "skipped": sum(skipped for _, _, skipped in ended)}
    if arguments.report:
        arguments.report.write_text(json.dumps(counts), encoding="utf-8")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
