"""`python -m torch_rmpi.bench targets`: measures the targets, several times, and says which are met."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from torch_rmpi import _launcher_env
from torch_rmpi.bench import options as kinds
from torch_rmpi.bench import results
from torch_rmpi.bench.progress import Bar, Progress
from torch_rmpi.bench.targets import baseline, catalogue, job, markdown, mean, report
from torch_rmpi.bench.targets.job import Launcher
from torch_rmpi.bench.targets.measured import Measured
from torch_rmpi.bench.targets.mpi_program import MPI
from torch_rmpi.bench.targets.report import Report
from torch_rmpi.bench.targets.target import Family, Scale

#: Processes that ran in the last minute, above which the machine is not quiet.
_BUSY = 0.5
_NOTHING_TO_PLOT = "--plot shows S4 and S5, and neither was measured"


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m torch_rmpi.bench targets",
        description="Measures each target of this project with its rival, in turn, and prints target and value. Each "
        "family of targets is a job of its own; a value is the median of the runs. docs/performance.md explains them.",
    )
    ids = ", ".join(catalogue.IDS)
    options.add_argument("--only", type=kinds.names(catalogue.IDS), default="all", help=f"of {ids} (all)")
    options.add_argument("--runs", type=kinds.positive(int), default=3, help="how often all is measured (3)")
    options.add_argument(
        "--seconds", type=kinds.positive(float), default=0.3, help="time for each measured value (0.3)"
    )
    options.add_argument(
        "--rounds", type=kinds.positive(int), default=5, help="in how many turns rivals take theirs (5)"
    )
    options.add_argument("--limit", type=kinds.positive(float), default=900.0, help="seconds that a job may take (900)")
    options.add_argument(
        "--quick", action="store_true", help="tiny sizes: whether all of it works; the values mean nothing"
    )
    options.add_argument("--json", type=Path, help="write the results there")
    options.add_argument(
        "--from", dest="source", type=Path, metavar="OLD.json", help="measure nothing: use these results"
    )
    options.add_argument(
        "--markdown",
        type=Path,
        action="append",
        default=[],
        help="put the results into this file, once more to put them into another",
    )
    options.add_argument("--plot", type=Path, help="write a log-log plot there (PNG; needs matplotlib)")
    options.add_argument("--progress", choices=["auto", "always", "never"], default="auto")
    return options


def measure(
    families: Sequence[Family], options: argparse.Namespace
) -> tuple[dict[str, list[Measured]], dict[str, str]]:
    """What each run of each family has measured; and, by family, what failed."""
    shown = options.progress == "always" or (options.progress == "auto" and sys.stderr.isatty())
    bar = Bar() if shown else Progress()
    bar.expect(100 * len(families) * options.runs)
    measured: dict[str, list[Measured]] = {}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="torch_rmpi-bench-") as folder:
        for run in range(options.runs):
            for number, family in enumerate(families):
                begin = 100 * (run * len(families) + number)
                if family.name in failures:
                    continue

                def heard(percent: int, text: str, begin: int = begin) -> None:
                    bar.done, bar.text = begin + percent, text
                    bar.show()

                if shown:
                    heard(0, family.name)
                else:
                    print(f"run {run + 1} of {options.runs}: {family.name}", file=sys.stderr, flush=True)
                try:
                    jobs = Launcher(_scale(options), Path(folder), options.limit, heard)
                    measured.setdefault(family.name, []).append(family.run(family, jobs))
                # Whatever is wrong with one family, minutes of measuring the others are not lost.
                except Exception as error:
                    bar.clear()
                    failures[family.name] = report.reason(error)
                    print(f"{family.name}: {failures[family.name]}", file=sys.stderr, flush=True)
    bar.clear()
    # The median of fewer runs than were asked for is not what was asked for.
    return {name: parts for name, parts in measured.items() if name not in failures}, failures


def _scale(options: argparse.Namespace) -> Scale:
    return Scale(options.seconds, options.rounds, options.quick)


def _plotted(made: Report) -> list[results.Result]:
    lines = made.results(mean.TWO_RANKS.name)
    # The same sizes were measured beside MPI in C, too; of rmpi one curve is enough.
    own = {result.key for result in lines}
    return lines + [
        result for result in made.results(baseline.FAMILY.name) if result.backend == MPI or result.key not in own
    ]


def write(made: Report, options: argparse.Namespace) -> bool:
    """Prints and writes what was asked for; False if there is nothing to plot."""
    print(f"{report.about(made)}\n\n{report.table(made)}", flush=True)
    if options.json is not None:
        made.save(options.json)
    plot, plotted = options.plot, _plotted(made)
    if plot is not None and not plotted:
        print(_NOTHING_TO_PLOT, file=sys.stderr)
        plot = None
    if plot is not None:
        from torch_rmpi.bench import plot as pictures

        pictures.save(results.Report(2, made.machine, plotted), plot)
    for path in options.markdown:
        markdown.write(made, path, plot)
    return plot is not None or options.plot is None


def _check_file(option: str, path: Path) -> None:
    """Raises SystemExit if the file cannot be written."""
    folder = path.parent
    if path.is_dir() or not (os.access(path, os.W_OK) if path.exists() else os.access(folder, os.W_OK | os.X_OK)):
        raise SystemExit(f"{option}: {path} cannot be written")


def _check(options: argparse.Namespace, families: Sequence[Family]) -> None:
    """Raises SystemExit if something that was asked for cannot be written: now, and not after a quarter of an hour."""
    if options.plot is not None:
        if importlib.util.find_spec("matplotlib") is None:
            raise SystemExit("--plot needs matplotlib: python -m pip install matplotlib")
        if options.source is None and not {mean.TWO_RANKS, baseline.FAMILY} & set(families):
            raise SystemExit(_NOTHING_TO_PLOT)
        _check_file("--plot", options.plot)
    if options.json is not None:
        _check_file("--json", options.json)
    for path in options.markdown:
        _check_file("--markdown", path)
        markdown.around(path)


def _processor_time() -> tuple[int, int]:
    """Ticks of all processors since the start: those that a hypervisor gave to others, and all (proc_stat(5))."""
    fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
    return int(fields[7]), sum(map(int, fields))


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    """Ends the job that runs, and removes what was written for it."""
    del frame
    raise SystemExit(128 + number)


def main(arguments: Sequence[str]) -> int:
    """Runs the command; 1 if something could not be measured."""
    options = parser().parse_args(arguments)
    families = [family for family in catalogue.FAMILIES if any(target.id in options.only for target in family.targets)]
    _check(options, families)
    if options.source is not None:
        return 0 if write(report.load(options.source), options) else 1
    if _launcher_env.detect() is not None:
        parser().error("this command starts its ranks itself; run it without a launcher")
    load = os.getloadavg()[0]
    if load > _BUSY and not options.quick:
        print(f"This machine is busy (load {load:.1f}): what is measured now means little.", file=sys.stderr)
    settings = job.settings(os.environ)
    if settings:
        print(f"The environment may change what is measured: {settings}", file=sys.stderr)
    signal.signal(signal.SIGTERM, _terminated)
    stolen, time = _processor_time()
    try:
        measured, failures = measure(families, options)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    if measured:
        made = report.gather(measured, _scale(options))
        if settings:
            made.machine["settings"] = settings
        stolen, time = (after - before for after, before in zip(_processor_time(), (stolen, time), strict=True))
        made.machine["processor time taken by the hypervisor"] = f"{stolen / max(1, time):.1%}"
        if options.json is not None:
            # The times, whatever becomes of what is made of them.
            made.save(options.json)
        unfit = report.judge(made, measured, families, options.only)
        for name, reason in unfit.items():
            print(f"{name}: {reason}", file=sys.stderr)
        failures |= unfit
        write(made, options)
    if failures:
        print(f"not measured: {', '.join(failures)}", file=sys.stderr)
    return 1 if failures else 0
