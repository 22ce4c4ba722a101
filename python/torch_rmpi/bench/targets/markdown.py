"""The results as a section of a Markdown file, between two marks, so that another run can replace it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch_rmpi.bench import results
from torch_rmpi.bench.results import Result, human
from torch_rmpi.bench.targets import report as reports
from torch_rmpi.bench.targets.mpi_program import MPI
from torch_rmpi.bench.targets.report import Report
from torch_rmpi.bench.targets.target import microseconds

BEGIN = "<!-- written by `python -m torch_rmpi.bench targets --markdown`: begin -->"
END = "<!-- written by `python -m torch_rmpi.bench targets --markdown`: end -->"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _times(title: str, measured: Sequence[Result], rival: str, name: str) -> list[str]:
    """A row for each operation, a column for each size: the time, the rival's, and their ratio."""
    times = {result.key: result.median for result in measured}
    both = [result for result in measured if result.backend == "rmpi" and (*result.key[:3], rival) in times]
    if not both:
        return []
    # A size may be one element for each rank at least, so operations differ in the smallest.
    sizes = sorted({max(result.bytes, 16) for result in both})
    cells: dict[str, dict[int, str]] = {}
    for result in both:
        other = times[(*result.key[:3], rival)]
        text = f"{microseconds(result.median)} / {microseconds(other)} ({other / result.median:.1f}x)"
        cells.setdefault(result.op, {})[max(result.bytes, 16)] = text
    head = ["", *(human(size) if size > 16 else "one element" for size in sizes)]
    rows = [[op, *(row.get(size, "-") for size in sizes)] for op, row in cells.items()]
    mean = results.mean_ratio(measured, rival)
    told = f"{title}: rmpi / {name}, and how many times as fast; geometric mean {mean:.1f}x."
    return ["", told, "", *_table(head, rows)]


def section(report: Report, plot: str | None) -> str:
    """The section, without its marks. `plot`: how the file refers to the picture."""
    lines = ["## Results", "", *reports.about(report).split("\n"), ""]
    lines.append(
        f"{report.runs} runs, {report.scale.seconds:g} s for each time; in brackets the smallest and the largest of "
        f"their values. {reports.MEDIANS}"
    )
    head = ["", "what", "beside", "target", "measured", "", "times"]
    rows = []
    for line in report.lines:
        spread = f" ({line.spread})" if line.spread else ""
        measured = f"{line.number(line.value)}{spread}"
        rows.append([line.id, line.what, line.rival, line.goal, measured, line.verdict, line.detail])
    lines += ["", *_table(head, rows)]
    lines += _times("2 ranks", report.results("mean of 2 ranks"), "gloo", "Gloo")
    lines += _times("4 ranks", report.results("mean of 4 ranks"), "gloo", "Gloo")
    lines += _times("2 ranks, the same MPI from C", report.results("MPI in C"), MPI, MPI)
    if plot is not None:
        lines += ["", f"![Time over size of each operation, 2 ranks]({plot})"]
    return "\n".join(lines)


def around(path: Path) -> tuple[str, str]:
    """What the file has before and after the section, or is to have where it has none.

    Raises SystemExit if it has one of the marks only, or cannot be read.
    """
    try:
        old = path.read_text() if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path} cannot be read: {error}") from error
    if (BEGIN in old, END in old) == (False, False):
        return (f"{old.rstrip()}\n\n" if old.strip() else ""), "\n"
    before, _, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{path} has only one of the marks of the results, or the end first; remove it")
    return before, after


def write(report: Report, path: Path, plot: Path | None) -> None:
    """Puts the section between the marks of the file, or to its end where it has none. Raises SystemExit."""
    reference = None if plot is None else os.path.relpath(plot, path.parent)
    before, after = around(path)
    path.write_text(f"{before}{BEGIN}\n{section(report, reference)}\n{END}{after}")
