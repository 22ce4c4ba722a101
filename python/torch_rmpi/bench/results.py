"""Results: what was measured, as a table and as JSON."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch_rmpi.bench.operations import OPERATIONS

_VERSION = 1


@dataclass(frozen=True)
class Result:
    """One operation of one backend. Times in microseconds, of the slowest rank; bandwidths in GB/s (10^9 bytes)."""

    op: str
    dtype: str
    bytes: int
    backend: str
    median: float
    p99: float
    runs: int
    algbw: float
    busbw: float

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What makes results comparable."""
        return self.op, self.dtype, self.bytes, self.backend


def summarize(op: str, dtype: str, size: int, backend: str, ranks: int, durations: Sequence[int]) -> Result:
    """The result from nanoseconds of each run."""
    halves = 2 if op == "sendrecv" and backend != "memcpy" else 1
    ordered = sorted(duration / 1e3 / halves for duration in durations)
    median = statistics.median(ordered)
    p99 = ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)]
    operation = OPERATIONS[op]
    if backend == "memcpy":
        copied = size / median / 1e3
        return Result(op, dtype, size, backend, median, p99, len(ordered), copied, copied)
    algbw = size * operation.data(ranks) / median / 1e3
    return Result(op, dtype, size, backend, median, p99, len(ordered), algbw, algbw * operation.bus(ranks))


@dataclass
class Report:
    """All results of a run, and where they come from."""

    ranks: int
    machine: dict[str, str]
    results: list[Result] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Writes JSON."""
        content = {"version": _VERSION, "ranks": self.ranks, "machine": self.machine}
        content["results"] = [asdict(result) for result in self.results]
        path.write_text(json.dumps(content, indent=1) + "\n")


def load(path: Path) -> Report:
    """What Report.save has written. Raises SystemExit with a line that says what is wrong with the file."""
    try:
        content = json.loads(path.read_text())
        if content["version"] != _VERSION:
            raise SystemExit(f"{path} is of another version of this benchmark")
        results = [Result(**result) for result in content["results"]]
        return Report(content["ranks"], content["machine"], results)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{path} does not hold results of this benchmark: {error}") from error


def machine() -> dict[str, str]:
    """What the results depend on."""
    import torch

    from torch_rmpi import _build_info, _load

    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "torch": torch.__version__,
        "torch-rmpi": _build_info.VERSION,
        "MPI": " ".join(_load.extension().mpi_library_version().split()[:4]),
    }


def human(size: int) -> str:
    """Bytes as people write them."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def _time(microseconds: float) -> str:
    return f"{microseconds:,.1f}" if microseconds < 100 else f"{microseconds:,.0f}"


def _row(cells: Iterable[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def table(results: Sequence[Result], baseline: str = "gloo", subject: str = "rmpi") -> str:
    """Rows by size, for each operation and dtype: median and 99th percentile of each backend, and how much faster the
    subject is than the baseline."""
    lines = []
    for op, dtype in dict.fromkeys((result.op, result.dtype) for result in results):
        chosen = {(r.bytes, r.backend): r for r in results if (r.op, r.dtype) == (op, dtype)}
        backends = list(dict.fromkeys(backend for _, backend in chosen))
        header = ["size", *(f"{backend} us (p99)" for backend in backends), "algbw GB/s", "busbw GB/s"]
        compared = {baseline, subject} <= set(backends)
        header += [f"over {baseline}"] if compared else []
        rows = [header]
        for size in sorted({size for size, _ in chosen}):
            row = [human(size)]
            for backend in backends:
                cell = chosen.get((size, backend))
                row.append(f"{_time(cell.median)} ({_time(cell.p99)})" if cell else "-")
            own = chosen.get((size, subject))
            row += [f"{own.algbw:.2f}", f"{own.busbw:.2f}"] if own else ["-", "-"]
            if compared:
                other = chosen.get((size, baseline))
                row.append(f"{other.median / own.median:.1f}x" if own and other else "-")
            rows.append(row)
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines += [f"{op} {dtype}", *(_row(row, widths) for row in rows), ""]
    return "\n".join(lines)


def mean_ratio(results: Sequence[Result], baseline: str, subject: str = "rmpi") -> float | None:
    """The geometric mean of baseline time over subject time, of all that both have."""
    medians = {result.key: result.median for result in results}
    ratios = [
        medians[*result.key[:3], baseline] / result.median
        for result in results
        if result.backend == subject and (*result.key[:3], baseline) in medians
    ]
    return statistics.geometric_mean(ratios) if ratios else None


def comparison(new: Sequence[Result], old: Sequence[Result]) -> str:
    """The ratio of each new median to the old one; above 1 is slower."""
    before = {result.key: result.median for result in old}
    rows = [["op", "dtype", "size", "backend", "old us", "new us", "new / old"]]
    for result in new:
        if result.key in before:
            last = before[result.key]
            cells = [result.op, result.dtype, human(result.bytes), result.backend]
            rows.append([*cells, _time(last), _time(result.median), f"{result.median / last:.2f}"])
    if len(rows) == 1:
        return "Nothing was measured in both runs."
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(_row(row, widths) for row in rows)
