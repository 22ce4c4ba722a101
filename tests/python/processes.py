"""Starting and ending the processes of a test.

Every process that a `Job` starts, and each process that those start, carries a mark of the job in its environment. What
is left of a job is found by that mark, even where a launcher put it into a process group of its own; nothing else is
ever signalled.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

MARK = "RMPI_TEST_MARK"
BACKEND = os.environ.get("RMPI_TEST_BACKEND", "rmpi")
REPOSITORY = Path(__file__).resolve().parents[2]
# Not handed on: what a launcher has told this process; and PYTHONUNBUFFERED, with which Python writes each part of a
# printed line by itself, so that lines of ranks that print at the same time mix.
DROPPED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PYTHONUNBUFFERED")


def environment(**extra):
    """The environment of a test's processes: one thread each, lines that are written whole, and a traceback
    when one crashes.
    """
    kept = {name: value for name, value in os.environ.items() if name not in DROPPED}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"} | extra


def launcher(ranks):
    """The command that starts `ranks` processes of the Python program that is appended to it."""
    return [sys.executable, "-m", "torch_rmpi.run", "-n", str(ranks)]


def lives(pid):
    """Whether the process is there and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Job:
    """One or more processes that were started together, and all that they start."""

    def __init__(self, commands, log, cwd=None, **env):
        """`commands`: (arguments, further environment) of each process. Their output goes to the file `log`."""
        self.mark = uuid.uuid4().hex
        self.log = Path(log)
        self.started = time.monotonic()
        self.processes = []
        with self.log.open("ab") as output:
            for arguments, extra in commands:
                self.processes.append(
                    subprocess.Popen(
                        arguments,
                        env=environment(**env, **extra, **{MARK: self.mark}),
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        cwd=cwd,
                    )
                )

    def running(self):
        """Whether any process that was started directly still runs."""
        return any(process.poll() is None for process in self.processes)

    def exit_code(self):
        """The first exit code that is not 0, else 0. None while a process runs."""
        codes = [process.poll() for process in self.processes]
        return None if None in codes else next((code for code in codes if code != 0), 0)

    def wait(self, limit):
        """The exit code, or None where the job still runs after `limit` seconds."""
        end = time.monotonic() + limit
        while self.running() and time.monotonic() < end:
            time.sleep(0.02)
        return self.exit_code()

    def members(self):
        """The ids of all living processes of this job, found by its mark."""
        needle = f"{MARK}={self.mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            # A process that ended meanwhile, or is not ours to read, is not a member.
            with contextlib.suppress(OSError):
                if lives(entry.name) and needle in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def signal(self, number, pids=None):
        """Sends a signal to the given processes of the job, or to all of them."""
        for pid in self.members() if pids is None else pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def left_over(self, limit=5.0):
        """Members that still live `limit` seconds later although the processes started directly have ended."""
        end = time.monotonic() + limit
        while (alive := self.members()) and time.monotonic() < end:
            time.sleep(0.05)
        return alive

    def end(self):
        """Ends every process of the job: politely, so that a launcher can clear up, then by force."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        if self.left_over(3.0):
            self.signal(signal.SIGKILL)
            self.left_over(5.0)
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)

    def output(self, lines=60):
        """The end of what the job printed."""
        text = self.log.read_text(errors="replace").splitlines()
        return "\n".join((["..."] if len(text) > lines else []) + text[-lines:])


def free_port():
    """A TCP port that was free a moment ago."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
