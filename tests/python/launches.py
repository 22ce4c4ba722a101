"""The pytest side of the multi-rank tests: starts the ranks, follows their reports, ends them if they hang."""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from processes import BACKEND, Job, launcher, lives

HERE = Path(__file__).resolve().parent
REPEAT = int(os.environ.get("RMPI_TEST_REPEAT", "1"))
# A machine with a busy loop on each core needs more time for everything.
PATIENCE = float(os.environ.get("RMPI_TEST_PATIENCE", "1"))
# Seconds to start and to end, and what each rank adds: with torch in it, a process takes a core for seconds to start,
# and for one to end, and ranks and other tests share the cores.
START_LIMIT, START_LIMIT_OF_RANK = 60.0 * PATIENCE, 12.0 * PATIENCE
END_LIMIT, END_LIMIT_OF_RANK = 30.0 * PATIENCE, 5.0 * PATIENCE
# How long the other ranks may go on after the first one failed: to see whether they noticed, and to get their messages.
GRACE = 4.0 * PATIENCE


@dataclass
class Outcome:
    """How one test ended on all ranks."""

    error: str | None
    # Whether the ranks are still there for the next test.
    alive: bool


class Launch:
    """`size` ranks that run a list of tests."""

    def __init__(self, size, tests, store):
        self.size = size
        self.tests = tests
        # Set once a test has failed here: what fails later may only be an echo of it.
        self.suspect = False
        self.folder = Path(tempfile.mkdtemp(prefix=f"rmpi-np{size}-"))
        self.ranks = [[] for _ in range(size)]
        self._read = [0] * size
        plan = {
            "backend": BACKEND,
            "store": ["127.0.0.1", store.port],
            "store_timeout": 300 * PATIENCE,
            "mark": self.folder.name,
            "repeat": REPEAT,
            "paths": sorted({str(test.path.parent) for test in tests}),
            "tests": [{"module": test.module, "function": test.function_name} for test in tests],
        }
        (self.folder / "plan.json").write_text(json.dumps(plan))
        program = [str(HERE / "worker.py"), str(self.folder)]
        if BACKEND == "rmpi":
            commands = [([*launcher(size), *program], {})]
        else:
            commands = [
                ([sys.executable, *program], {"RANK": str(rank), "WORLD_SIZE": str(size)}) for rank in range(size)
            ]
        self.job = Job(commands, self.folder / "output.log")

    def poll(self):
        """Reads what the ranks have reported since."""
        for rank in range(self.size):
            path = self.folder / f"rank{rank}.jsonl"
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(self._read[rank])
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read[rank] += len(whole)
            self.ranks[rank] += [json.loads(line) for line in whole.splitlines()]

    def events(self, kind, index=None):
        """rank -> its event of this kind (for this test)."""
        return {
            rank: event
            for rank, events in enumerate(self.ranks)
            for event in events
            if event["event"] == kind and event.get("index") == index
        }

    def ready(self):
        """Waits until all ranks have started; returns what went wrong, or None."""
        end = time.monotonic() + START_LIMIT + START_LIMIT_OF_RANK * self.size
        while True:
            running = self.job.running()
            self.poll()
            if len(self.events("ready")) == self.size:
                return None
            if not running or time.monotonic() > end or list(self.folder.glob("startup-*.error")):
                break
            time.sleep(0.02)
        # The other ranks may be about to write theirs.
        self.job.wait(GRACE)
        started = sorted(self.events("ready"))
        why = f"the {self.size} ranks did not start (started: {started}; exit code {self.job.exit_code()})"
        errors = [path.read_text() for path in sorted(self.folder.glob("startup-*.error"))]
        return "\n".join([why, *errors[:2], self.tail()])

    def outcome(self, index):
        """Waits until the test has ended on all ranks, or has failed."""
        limit = self.tests[index].limit * REPEAT * PATIENCE
        begun = time.monotonic()
        first_failure = None
        while True:
            running = self.job.running()
            self.poll()
            ended = self.events("end", index)
            failed = {rank: event for rank, event in ended.items() if event["error"]}
            if len(ended) == self.size:
                self.suspect = self.suspect or bool(failed)
                return Outcome(self.failures(failed) if failed else None, True)
            now = time.monotonic()
            gone = self.gone()
            if (failed or gone) and first_failure is None:
                first_failure = now
            if not running or (first_failure is not None and now > first_failure + GRACE):
                why = f"ranks that had not ended the test: {self.missing(ended)}; those that died: {gone}"
                if not running:
                    why += f"; exit code: {self.job.exit_code()}"
                return self.dead(self.failures(failed) + why + "\n" + self.tail())
            if now > begun + limit:
                why = f"ranks {self.missing(ended)} did not end the test within {limit:g} s\n{self.stacks(ended)}"
                return self.dead(self.failures(failed) + why + "\n" + self.tail())
            time.sleep(0.005)

    def finish(self):
        """After the last test: all ranks must leave in order. Returns what went wrong, or None."""
        limit = END_LIMIT + END_LIMIT_OF_RANK * self.size
        code = self.job.wait(limit)
        self.poll()
        if code is None:
            why = f"after the last test the ranks did not end within {limit:g} s\n{self.stacks({})}"
        elif code != 0:
            why = f"after the last test the ranks ended with exit code {code} (in order: {sorted(self.events('bye'))})"
        elif left := self.job.left_over():
            why = f"processes of the launch are left after its end: {left}"
        else:
            return None
        self.job.end()
        return why + "\n" + self.tail()

    def dead(self, error):
        self.job.end()
        return Outcome(error, False)

    def gone(self):
        """The ranks whose process ended before its time."""
        left = self.events("bye")
        pids = {rank: event["pid"] for rank, event in self.events("ready").items() if rank not in left}
        return [rank for rank, pid in pids.items() if not lives(pid)]

    def missing(self, ended):
        return [rank for rank in range(self.size) if rank not in ended]

    def failures(self, failed):
        """The messages of the ranks that failed, the first to fail first."""
        order = sorted(failed, key=lambda rank: failed[rank]["time"])
        parts, shown = [], {}
        for rank in order:
            text = failed[rank]["error"]
            last = [line for line in text.splitlines() if line.strip()][-1]
            summary = next((line for line in reversed(text.splitlines()) if "Error" in line), last)
            if len(shown) < 2 and summary not in shown:
                parts.append(f"rank {rank} failed:\n{text}")
                shown[summary] = rank
            else:
                parts.append(f"rank {rank} failed too: {summary}\n")
        return "\n".join(parts)

    def stacks(self, ended):
        """Where the ranks that have not ended the test are."""
        pids = {rank: event["pid"] for rank, event in self.events("ready").items() if rank not in ended}
        members = set(self.job.members())
        pids = {rank: pid for rank, pid in pids.items() if pid in members}
        self.job.signal(signal.SIGUSR1, pids.values())
        end = time.monotonic() + 2.0
        paths = {rank: self.folder / f"rank{rank}.stacks" for rank in pids}
        while any(not path.stat().st_size for path in paths.values()) and time.monotonic() < end:
            time.sleep(0.02)
        return "\n".join(f"rank {rank} is at\n{path.read_text()}" for rank, path in paths.items())

    def tail(self):
        return f"end of the output ({self.job.log}):\n{self.job.output()}"


class Launches:
    """The launches of a pytest session, at most one at a time."""

    def __init__(self, planned):
        # size -> the tests for it, in the order in which pytest will ask for them
        self.planned = planned
        self.current = None
        self.broken = {}
        self._store = None

    @property
    def store(self):
        if self._store is None:
            import torch.distributed as dist

            limit = timedelta(seconds=300)
            self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=limit)
        return self._store

    def run(self, test):
        """Runs the test, or reads how it ended; returns its error, or None."""
        if test.size in self.broken:
            return self.broken[test.size]
        again = False
        while True:
            launch, error = self.launch_with(test)
            if error:
                self.broken[test.size] = error
                return error
            was_suspect = launch.suspect
            outcome = launch.outcome(launch.tests.index(test))
            if outcome.error is None and test is launch.tests[-1]:
                outcome.error = launch.finish()
                outcome.alive = False
                if outcome.error is None and not launch.suspect:
                    shutil.rmtree(launch.folder, ignore_errors=True)
            if not outcome.alive:
                self.end()
            if outcome.error is None or not was_suspect or again:
                return outcome.error
            # An earlier test failed in this launch. Judge this one by a launch of its own.
            again = True
            self.end()

    def launch_with(self, test):
        """The launch in which the test is, or will be, run."""
        if self.current and (self.current.size != test.size or test not in self.current.tests):
            self.end()
        if self.current is None:
            tests = self.planned[test.size]
            self.current = Launch(test.size, tests[tests.index(test) :], self.store)
            if error := self.current.ready():
                self.end()
                return None, error
        return self.current, None

    def end(self):
        if self.current:
            self.current.job.end()
            self.current = None
