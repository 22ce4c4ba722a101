"""Runs a job under the project's launcher: with a time limit, and telling what a rank that failed has said."""

from __future__ import annotations

import os
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch_rmpi import _rank_main
from torch_rmpi.bench.progress import Lines
from torch_rmpi.bench.targets import measured
from torch_rmpi.bench.targets.measured import Measured
from torch_rmpi.bench.targets.target import Family, Scale

#: How much of a failed job's output is shown.
_LINES = 40
#: What a launcher gets to end its ranks after SIGTERM.
_PATIENCE = 15.0
#: Not handed on. The flight recorder is part of the floor that small operations are compared with, and is on unless
#: these say no; and the launcher gives each rank its share of the cores unless the number of threads is set.
_DROPPED = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE", "OMP_NUM_THREADS")
#: What else may change the times. It is handed on: somebody may want to know what it does.
_SETTINGS = (
    "TORCH_RMPI_",
    "TORCH_DISTRIBUTED_",
    "GLOO_",
    "OMPI_MCA_",
    "PRTE_MCA_",
    "MPICH_",
    "MPIR_CVAR_",
    "UCX_",
    "FI_",
    "OMP_",
    "KMP_",
    "MKL_",
)


class JobFailed(Exception):
    """The job ended badly or not in time; the text says how, with the end of its output."""


def settings(environment: Mapping[str, str]) -> str:
    """The variables that jobs get and that may change what is measured, as in a shell; "" if there are none."""
    found = {name for name in environment if name.startswith(_SETTINGS)} - set(_DROPPED)
    return " ".join(f"{name}={shlex.quote(environment[name])}" for name in sorted(found))


class Output:
    """The output of a job: its last lines, without those that tell how far it is."""

    def __init__(self, heard: Callable[[int, str], None]) -> None:
        self._heard = heard
        self._last: deque[str] = deque(maxlen=_LINES)
        self._rest = ""

    def add(self, text: str) -> None:
        """Takes what was read, which may end within a line."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            told = Lines.parse(line)
            if told is None:
                self._last.append(line)
            else:
                self._heard(*told)

    def end(self) -> str:
        """The last lines."""
        return "\n".join([*self._last, self._rest]).strip()


def run(words: Sequence[str], limit: float, heard: Callable[[int, str], None]) -> None:
    """Runs the command to its end; raises JobFailed.

    Args:
        words: the command.
        limit: seconds after which it is ended.
        heard: is told percent and text of what the job says of its progress.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    output = Output(heard)
    # What a signal's handler raises while Python forks is lost, and the job with it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    in_child = _rank_main.tied_to_parent(before)
    try:
        process = subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=in_child,  # noqa: PLW1509 (one thread)
        )
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            in_time = _read(process, time.monotonic() + limit, output)
        finally:
            _end(process)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if not in_time:
        raise JobFailed(f"still ran after {limit:g} s and was ended. Its last lines:\n{output.end()}")
    if process.returncode != 0:
        raise JobFailed(f"ended with exit code {process.returncode}. Its last lines:\n{output.end()}")


def _read(process: subprocess.Popen[bytes], deadline: float, output: Output) -> bool:
    """Reads until the job ends; False if it does not in time."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            if not selector.select(min(left, 1.0)):
                if process.poll() is not None:
                    # Something that it left behind holds the pipe.
                    return True
                continue
            data = os.read(descriptor, 1 << 16)
            if not data:
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    return False
                return True
            output.add(data.decode(errors="replace"))
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Makes sure that it has ended."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


class Launcher:
    """Starts the jobs of a run."""

    def __init__(self, scale: Scale, folder: Path, limit: float, heard: Callable[[int, str], None]) -> None:
        """`heard` is told percent of all jobs, and text."""
        self.scale, self.folder = scale, folder
        self._limit, self._heard = limit, heard
        self._jobs, self._ended = 1, 0

    def expect(self, jobs: int) -> None:
        """There will be so many jobs, not one."""
        self._jobs = jobs

    def measure(self, family: Family) -> Measured:
        """What rank 0 of a job for the family has measured. Raises JobFailed, or NotMeasured."""
        output = self.folder / "measured.json"
        # What an earlier job has left there must not pass for this one's.
        output.unlink(missing_ok=True)
        scale = ["--seconds", str(self.scale.seconds), "--rounds", str(self.scale.rounds)]
        scale += ["--quick"] if self.scale.quick else []
        words = ["-m", "torch_rmpi.bench.targets.rank", *scale, "--output", str(output), family.name]
        self._launch(words, family.ranks, family.name)
        return measured.load(output, family.name)

    def program(self, words: list[str], ranks: int) -> None:
        """Runs a program that is not Python's. Raises JobFailed."""
        self._launch(["--no-python", *words], ranks, Path(words[0]).name)

    def _launch(self, words: Sequence[str], ranks: int, text: str) -> None:
        def heard(percent: int, text: str) -> None:
            self._heard((100 * self._ended + percent) // self._jobs, text)

        heard(0, text)
        command = [sys.executable, "-m", "torch_rmpi.run", "-n", str(ranks), *words]
        run(command, self._limit, heard)
        self._ended += 1
