"""What a target is, and a family of targets that one job measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch_rmpi.bench.progress import Progress
from torch_rmpi.bench.targets.measured import Measured

#: The number of cores that the targets were set for.
CORES = 2
MIB = 1 << 20


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    #: For each measured value.
    seconds: float = 0.3
    #: In how many turns those that are compared take theirs.
    rounds: int = 5
    #: Tiny sizes, models and delays: shows that all of it works, and its values mean nothing.
    quick: bool = False


@dataclass(frozen=True)
class Goal:
    """At least, or at most, so much."""

    limit: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Whether the value is good enough."""
        return value >= self.limit if self.at_least else value <= self.limit

    def text(self, unit: str) -> str:
        """The goal as people write it."""
        return f"{'>=' if self.at_least else '<='} {self.limit:g}{unit}"


@dataclass(frozen=True)
class Target:
    """One line of the table."""

    #: S1 and so on; a target of several conditions has several lines.
    id: str
    what: str
    #: What it is compared with.
    rival: str
    #: None for what is shown without a target.
    goal: Goal | None
    #: What follows the number: "x", " %", " us".
    unit: str
    value: Callable[[Measured], float]
    #: The measured times behind the value.
    detail: Callable[[Measured], str]
    #: Why what was measured cannot be held against the goal; "" where it can.
    unfit: Callable[[Measured], str] = lambda measured: ""


class Jobs(Protocol):
    """Starts jobs under the launcher; see job.Launcher."""

    scale: Scale
    folder: Path

    def expect(self, jobs: int) -> None:
        """Says how many jobs there will be, where it is not one."""
        ...

    def measure(self, family: Family) -> Measured:
        """Measures the family on ranks of its own."""
        ...

    def program(self, words: list[str], ranks: int) -> None:
        """Runs another program on so many ranks."""
        ...


def one_job(family: Family, jobs: Jobs) -> Measured:
    """A job of its own, and nothing else."""
    return jobs.measure(family)


@dataclass(frozen=True)
class Family:
    """Targets that are measured together."""

    name: str
    ranks: int
    targets: tuple[Target, ...]
    #: Runs on every rank, in the default group; what rank 0 returns counts.
    measure: Callable[[Scale, Progress], Measured]
    #: Runs where no rank is: starts what the family needs.
    run: Callable[[Family, Jobs], Measured] = one_job
    #: Whether a rank computes with its share of the cores, instead of one thread.
    computes: bool = False


def microseconds(value: float) -> str:
    """A time as people write it."""
    if value < 1e3:
        return f"{value:.1f} us"
    return f"{value / 1e3:.1f} ms" if value < 1e6 else f"{value / 1e6:.2f} s"
