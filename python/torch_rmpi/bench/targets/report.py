"""What the runs have come to: the table of targets, as text, as JSON and back."""

from __future__ import annotations

import json
import math
import statistics
import traceback
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch_rmpi._mpiexec import LauncherError
from torch_rmpi.bench.results import Result
from torch_rmpi.bench.targets import measured
from torch_rmpi.bench.targets.job import JobFailed
from torch_rmpi.bench.targets.measured import Measured, NotMeasured
from torch_rmpi.bench.targets.target import CORES, Family, Scale, Target

_VERSION = 4
#: Digits behind the point: as a rule, and where fewer would show a value as the goal itself.
_DIGITS, _MOST_DIGITS = 2, 6
#: What the times beside a value are.
MEDIANS = "The times are medians over all runs; a value is the median of the values that each run has come to."


@dataclass(frozen=True)
class Line:
    """A target and what was measured for it."""

    id: str
    what: str
    rival: str
    goal: str
    #: The goal's number.
    limit: float | None
    unit: str
    #: The median of the runs' values.
    value: float
    runs: list[float]
    #: None where there is no goal, or where what was measured does not count.
    met: bool | None
    detail: str

    @property
    def verdict(self) -> str:
        """PASS, missed, or - where there is nothing to meet."""
        return "-" if self.met is None else "PASS" if self.met else "missed"

    def number(self, value: float) -> str:
        """A value of this line as people write it."""
        digits = _DIGITS if abs(value) < 100 else 0
        while value != self.limit == round(value, digits) and digits < _MOST_DIGITS:
            digits += 1
        return f"{value:.{digits}f}{self.unit}"

    @property
    def spread(self) -> str:
        """The smallest and the largest of the runs' values."""
        low, high = min(self.runs), max(self.runs)
        return f"{self.number(low).removesuffix(self.unit)} to {self.number(high)}" if len(self.runs) > 1 else ""


@dataclass
class Report:
    """All lines, and the times that the plot and the tables are made of, by family."""

    machine: dict[str, str]
    runs: int
    #: How much was measured in each.
    scale: Scale
    lines: list[Line] = field(default_factory=list)
    families: dict[str, Measured] = field(default_factory=dict)

    def results(self, family: str) -> list[Result]:
        """What the family has measured; nothing if it was not run."""
        return self.families[family].results if family in self.families else []

    def save(self, path: Path) -> None:
        """Writes JSON."""
        path.write_text(json.dumps({"version": _VERSION, **asdict(self)}, indent=1) + "\n")


def load(path: Path) -> Report:
    """What Report.save has written. Raises SystemExit with a line that says what is wrong with the file."""
    try:
        content = json.loads(path.read_text())
        if content["version"] != _VERSION:
            raise SystemExit(f"{path} is of another version of this benchmark")
        return Report(
            content["machine"],
            content["runs"],
            Scale(**content["scale"]),
            [Line(**line) for line in content["lines"]],
            {name: measured.restore(family) for name, family in content["families"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"{path} does not hold results of this benchmark: {error}") from error


def line(target: Target, runs: Sequence[Measured], quick: bool) -> Line:
    """The target's line from what each run has measured."""
    values = [target.value(run) for run in runs]
    if not all(math.isfinite(each) for each in values):
        raise NotMeasured(f"{target.id}: {values} is not what can be measured")
    value = statistics.median(values)
    unfit = [reason for run in runs if (reason := target.unfit(run))]
    detail = target.detail(measured.median(runs))
    return Line(
        id=target.id,
        what=target.what,
        rival=target.rival,
        goal="-" if target.goal is None else target.goal.text(target.unit),
        limit=None if target.goal is None else target.goal.limit,
        unit=target.unit,
        value=value,
        runs=values,
        met=None if target.goal is None or quick or unfit else target.goal.met(value),
        detail=f"{detail}; not judged: {unfit[0]}" if unfit else detail,
    )


def gather(runs: dict[str, list[Measured]], scale: Scale) -> Report:
    """The report with all times and no lines yet. `runs`: what each run of each family has measured."""
    merged = {name: measured.median(parts) for name, parts in runs.items()}
    machine = next((part.machine for part in merged.values()), {})
    return Report(machine, max((len(parts) for parts in runs.values()), default=0), scale, families=merged)


def judge(
    report: Report, runs: dict[str, list[Measured]], families: Sequence[Family], ids: Collection[str]
) -> dict[str, str]:
    """Fills in the lines of what was asked for, in the order of the ids.

    Returns, by family, why there are no lines of it.
    """
    failures: dict[str, str] = {}
    for family in families:
        if family.name not in runs:
            continue
        wanted = [target for target in family.targets if target.id in ids]
        try:
            report.lines += [line(target, runs[family.name], report.scale.quick) for target in wanted]
        # Whatever is wrong with the times of one family, those of the others count.
        except Exception as error:
            failures[family.name] = reason(error)
    report.lines.sort(key=lambda line: line.id)
    return failures


def reason(error: Exception) -> str:
    """What to tell of an error that ended the measuring of a family."""
    known = (JobFailed, NotMeasured, LauncherError, RuntimeError, OSError, ImportError)
    return str(error) if isinstance(error, known) else "".join(traceback.format_exception(error)).rstrip()


def about(report: Report) -> str:
    """The machine, and what to know of it."""
    text = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    cores = report.machine.get("cores")
    if cores not in (None, str(CORES)):
        text += f"\nThe targets were set for {CORES} cores; this machine has {cores}."
    if report.scale.quick:
        text += "\nQuick: tiny sizes, and few of them. These values mean nothing."
    return text


def table(report: Report) -> str:
    """The table, with what is behind each value on a line below it."""
    rows = [["", "what", "target", "measured", f"of {report.runs} runs", ""]]
    rows += [
        [line.id, line.what, line.goal, line.number(line.value), line.spread, line.verdict] for line in report.lines
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    left = {0, 1, 5}
    lines = []
    for number, row in enumerate(rows):
        cells = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
        if number > 0:
            lines.append(f"{'':{widths[0]}}    {report.lines[number - 1].detail}")
    judged = [line for line in report.lines if line.met is not None]
    if judged:
        lines += ["", f"{sum(bool(line.met) for line in judged)} of {len(judged)} met"]
    if report.runs > 1:
        lines += ["", MEDIANS]
    return "\n".join(lines)
