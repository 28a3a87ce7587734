"""Lakes that several tests start from. Each is made once, and only copied from then on."""

import atexit
import functools
import pathlib
import shutil
import tempfile

import support

HOME = pathlib.Path(tempfile.mkdtemp(prefix="clickmill-lakes-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)


def demo(lake, visitors, days):
    result = support.run("demo", "--visitors", visitors, "--days", days, "--lake", lake)
    assert result.returncode == 0, result.stderr.decode(errors="replace")[-4000:]
    return lake


@functools.lru_cache(maxsize=None)
def first_days():
    """A small shop's first days, with all tables."""
    return demo(HOME / "first", 80, 3)


@functools.lru_cache(maxsize=None)
def more_days():
    """The same lake after the next days: late events of the first days are among them."""
    return demo(support.copy(first_days(), HOME / "more"), 60, 2)


@functools.lru_cache(maxsize=None)
def landed():
    """As `more_days` before its ETL run: the tables of `first_days`, and everything that arrived since.
    An undisturbed run over it gives `more_days`."""
    lake = support.copy(more_days(), HOME / "landed")
    for part in ("tables", "_clickmill/batches", "_clickmill/snapshots"):
        shutil.rmtree(lake / part)
        support.copy(first_days() / part, lake / part)
    return lake


@functools.lru_cache(maxsize=None)
def busy():
    """A shop with enough orders for questions about what goes together, over two runs: refunds of the
    first one's orders come in the second."""
    return demo(support.copy(demo(HOME / "busy-first", 1200, 7), HOME / "busy"), 600, 3)
