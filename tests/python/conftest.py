"""Makes pytest items of multi-rank tests: one for each function and number of ranks. See multirank.py."""

import os
import signal

import pytest
from launches import Launches
from processes import BACKEND

SIZES = {int(size) for size in os.environ.get("RMPI_TEST_RANKS", "").split(",") if size}
LAUNCHES = pytest.StashKey[Launches]()


class MultirankItem(pytest.Item):
    """A test function on one number of ranks."""

    def __init__(self, *, function, size, **options):
        super().__init__(**options)
        self.size = size
        self.module = function.__module__
        self.function_name = function.__name__
        self.limit = function.multirank.limit
        self._line = function.__code__.co_firstlineno

    def runtest(self):
        error = self.session.stash[LAUNCHES].run(self)
        if error:
            raise RankFailure(error)

    def repr_failure(self, excinfo, style=None):
        if isinstance(excinfo.value, RankFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self):
        return self.path, self._line - 1, self.name


class RankFailure(Exception):
    """A test failed on some rank; the message says which, and how."""


def pytest_addoption(parser):
    parser.addoption("--multirank", choices=["only", "none"], help="run only the tests with @multirank, or the others")


def pytest_pycollect_makeitem(collector, name, obj):
    mark = getattr(obj, "multirank", None)
    if mark is None or not name.startswith("test_"):
        return None
    sizes = [size for size in mark.sizes if not SIZES or size in SIZES]
    items = [MultirankItem.from_parent(collector, name=f"{name}[np{size}]", function=obj, size=size) for size in sizes]
    for item in items:
        item.own_markers.extend(getattr(obj, "pytestmark", []))
        if BACKEND != "rmpi" and not mark.gloo:
            item.add_marker(pytest.mark.skip(reason=f"{BACKEND} cannot do this"))
    return items


def pytest_collection_modifyitems(config, items):
    chosen = config.getoption("--multirank")
    if chosen is not None:
        left_out = [item for item in items if isinstance(item, MultirankItem) == (chosen == "none")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    # One launch for each number of ranks, so all tests for it must stand together.
    items.sort(key=lambda item: item.size if isinstance(item, MultirankItem) else 1_000)


def pytest_collection_finish(session):
    # Only now is it known what -k, --lf and their like have left.
    planned = {}
    for item in session.items:
        if isinstance(item, MultirankItem) and not item.get_closest_marker("skip"):
            planned.setdefault(item.size, []).append(item)
    session.stash[LAUNCHES] = Launches(planned)


def interrupt(number, frame):
    """As Ctrl-C, but once: a second signal would interrupt the ending of the ranks."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    signal.default_int_handler(number, frame)


def pytest_sessionstart():
    # Whoever ends pytest by SIGTERM, as `timeout` does, ends the ranks too: Ctrl-C reaches pytest_sessionfinish. A
    # worker of pytest-xdist sends SIGINT to itself when its parent ends, which the shell has background jobs ignore.
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)


def pytest_sessionfinish(session):
    if LAUNCHES in session.stash:
        session.stash[LAUNCHES].end()


def pytest_runtest_setup(item):
    if BACKEND != "rmpi" and not isinstance(item, MultirankItem) and item.path.name != "test_harness.py":
        pytest.skip(f"runs only on rmpi, not on {BACKEND}")
