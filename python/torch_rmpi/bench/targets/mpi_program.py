"""The C program whose times stand for the MPI's own: built with the MPI that torch_rmpi uses, and what it writes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from torch_rmpi import _load, _mpiexec
from torch_rmpi.bench import results
from torch_rmpi.bench.targets.measured import Measured, NotMeasured

#: The name of the stand-in among the backends.
MPI = "MPI in C"
_SOURCE = Path(__file__).with_name("mpi_baseline.c")
#: Seconds, of a compiler and of a program that only says what it is linked with.
_LIMIT = 120


def _name(text: str) -> str:
    """Name and version of an MPI from what it says of itself, such as "Open MPI v5.0.11, package: ..."."""
    return " ".join(text.split(",", maxsplit=1)[0].split())


def library() -> str:
    """Name and version of the MPI that torch_rmpi runs with."""
    return _name(_load.extension().mpi_library_version())


def _compilers() -> list[str]:
    """The compilers that may belong to that MPI, the likeliest first.

    Several MPIs in one folder, as Debian has them, each have an `mpicc` with their name behind it; the one without is
    that of the MPI that the machine's owner prefers.
    """
    from torch_rmpi import _build_info

    names = (f"mpicc.{_build_info.MPI_NAME}", "mpicc")
    # The launcher that was recorded, and the one that is used: another may have been named.
    launchers = (Path(sys.prefix) / _build_info.MPIEXEC, Path(_mpiexec.find().command[0]))
    beside = [str(launcher.with_name(name)) for launcher in launchers for name in names]
    found = [shutil.which(name) for name in (*beside, *names)]
    return list(dict.fromkeys(path for path in found if path is not None))


def _output(words: list[str]) -> str:
    """What the command prints. Raises NotMeasured if it fails."""
    try:
        ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_LIMIT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotMeasured(f"{' '.join(words)}: {error}") from error
    if ended.returncode != 0:
        raise NotMeasured(f"{' '.join(words)} failed:\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def build(folder: Path) -> Path:
    """The program, linked with the MPI that torch_rmpi runs with. Raises NotMeasured if no compiler does that."""
    program, wanted = folder / "mpi_baseline", library()
    refused: list[str] = []
    for compiler in _compilers():
        try:
            _output([compiler, "-O2", "-std=gnu11", "-o", str(program), str(_SOURCE)])
            linked = _linked(_output([str(program)]).splitlines())
        except NotMeasured as error:
            refused.append(str(error))
            continue
        if linked == wanted:
            return program
        refused.append(f"{compiler} links with {linked}")
    tried = "\n".join(refused) or "there is none beside the launcher, nor on PATH"
    raise NotMeasured(f"no mpicc builds {_SOURCE.name} with {wanted}:\n{tried}")


def _linked(lines: list[str]) -> str:
    """Name and version of the MPI that the first line is of."""
    name, _, text = lines[0].partition(" ") if lines else ("", "", "")
    if name != "library":
        raise NotMeasured(f"{_SOURCE.name} has not said which MPI it is linked with")
    return _name(text)


def read(path: Path, ranks: int) -> Measured:
    """What the program has written. Raises NotMeasured if that is not what it writes, or of another MPI."""
    measured = Measured()
    try:
        lines = path.read_text().splitlines()
        linked = _linked(lines)
        if linked != library():
            raise NotMeasured(f"under the launcher {_SOURCE.name} runs with {linked}, torch_rmpi with {library()}")
        for line in lines[1:]:
            op, size, *durations = line.split()
            runs = [int(duration) for duration in durations]
            measured.results.append(results.summarize(op, "float32", int(size), MPI, ranks, runs))
    except (OSError, ValueError, KeyError, ZeroDivisionError) as error:
        raise NotMeasured(f"{_SOURCE.name} has not written its times: {error!r}") from error
    return measured
