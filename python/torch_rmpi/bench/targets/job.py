"""Runs a job under the project's launcher: with a time limit, and telling what a rank that failed has said."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
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
#: The flight recorder is part of the floor that small operations are compared with, and is on unless these say no.
_RECORDER = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")


class JobFailed(Exception):
    """The job ended badly or not in time; the text says how, with the end of its output."""


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
    environment = {name: value for name, value in os.environ.items() if name not in _RECORDER}
    output = Output(heard)

    def in_child() -> None:
        _rank_main.die_with_parent(signal.SIGTERM)

    process = subprocess.Popen(
        words,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=in_child,  # noqa: PLW1509 (one thread)
    )
    try:
        in_time = _read(process, time.monotonic() + limit, output)
    finally:
        _end(process)
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
        self.scale, self.folder = scale, folder
        self._limit, self._heard = limit, heard

    def measure(self, family: Family) -> Measured:
        """What rank 0 of a job for the family has measured. Raises JobFailed."""
        output = self.folder / "measured.json"
        scale = ["--seconds", str(self.scale.seconds), "--rounds", str(self.scale.rounds)]
        scale += ["--quick"] if self.scale.quick else []
        words = ["-m", "torch_rmpi.bench.targets.rank", *scale, "--output", str(output), family.name]
        self._launch(words, family.ranks)
        return measured.load(output)

    def program(self, words: list[str], ranks: int) -> None:
        """Runs a program that is not Python's. Raises JobFailed."""
        self._launch(["--no-python", *words], ranks)

    def _launch(self, words: Sequence[str], ranks: int) -> None:
        command = [sys.executable, "-m", "torch_rmpi.run", "-n", str(ranks), *words]
        run(command, self._limit, self._heard)
