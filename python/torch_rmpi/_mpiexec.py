"""Finds the launcher of the MPI that the extension was built with, and speaks its dialect."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from torch_rmpi._launcher_options import Options

#: Names the launcher instead of the one found at build; may hold options, as in "srun --mpi=pmix".
MPIEXEC_VARIABLE = "TORCH_RMPI_MPIEXEC"

_TITLES = {"openmpi": "OpenMPI", "mpich": "MPICH"}

#: What `mpiexec --version` says, and whose launcher that is. Intel MPI's and MVAPICH's are hydra too.
_FAMILIES = (
    ("Open MPI", "openmpi"),
    ("OpenRTE", "openmpi"),
    ("PRRTE", "openmpi"),
    ("HYDRA", "mpich"),
    ("Intel(R) MPI", "mpich"),
    ("MVAPICH", "mpich"),
    ("slurm", "slurm"),
)


class LauncherError(Exception):
    """There is no usable launcher; the text says what is missing and how to get it."""


@dataclass(frozen=True)
class Mpiexec:
    """A launcher: the words that start it, and "openmpi", "mpich", "slurm" or "unknown"."""

    command: list[str]
    family: str


def find() -> Mpiexec:
    """Returns the launcher named by TORCH_RMPI_MPIEXEC, or that of the MPI the extension was built with.

    Raises:
        LauncherError: there is none, it does not run, or it belongs to another MPI.
    """
    command = _command()
    family = _family(command)
    built_with = _built_with()
    if {family, built_with} == {"openmpi", "mpich"}:
        raise LauncherError(
            f"{command[0]} is the launcher of {_TITLES[family]}, but torch_rmpi was built with {_TITLES[built_with]}: "
            f"each rank would be alone. Point {MPIEXEC_VARIABLE} to the mpiexec of that MPI, or install that MPI"
        )
    return Mpiexec(command, family)


def arguments(mpiexec: Mpiexec, options: Options) -> list[str]:
    """Returns the words before the program: the launcher, what it needs for this job, and what the user gave."""
    words = list(mpiexec.command)
    if options.ranks is not None:
        words += ["-n", str(options.ranks)]
    if mpiexec.family == "openmpi":
        words += _openmpi(options)
    elif mpiexec.family == "mpich":
        words += _mpich(options)
    else:
        words += _generic(options)
    return words + options.launcher


def environment(mpiexec: Mpiexec) -> dict[str, str]:
    """Returns the variables that the launcher itself needs, beyond those that are set."""
    if mpiexec.family == "openmpi" and os.geteuid() == 0:
        # OpenMPI refuses to start anything as root, as people are in containers, unless both are set.
        return {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {}


def _openmpi(options: Options) -> list[str]:
    words: list[str] = []
    given = options.launcher_names
    # More ranks than cores are refused otherwise. A hostfile or a host list says how many slots there are: what
    # exceeds them is most often a mistake, so there it stays refused.
    if not options.hostfile and not options.hosts and not given & {"oversubscribe", "nooversubscribe"}:
        words.append("--oversubscribe")
    # OpenMPI binds each of two ranks to one core, and torch's threads with it. A mapping of several cores to a rank
    # (--map-by slot:PE=2) is a binding.
    binds = given & {
        "bind-to",
        "cpu-set",
        "cpu-list",
        "cpus-per-proc",
        "cpus-per-rank",
        "rankfile",
        "use-hwthread-cpus",
    }
    if not binds and not any("PE=" in word.upper() for word in options.launcher):
        words += ["--bind-to", "none"]
    if options.hostfile is not None:
        words += ["--hostfile", options.hostfile]
    if options.hosts is not None:
        words += ["--host", options.hosts]
    for export in options.exports:
        words += ["-x", export]
    return words


def _mpich(options: Options) -> list[str]:
    words: list[str] = []
    if options.hostfile is not None:
        words += ["-f", options.hostfile]
    if options.hosts is not None:
        words += ["-hosts", options.hosts]
    for export in options.exports:
        name, equals, value = export.partition("=")
        # hydra hands its whole environment to the ranks: a name without a value needs no option.
        if equals:
            words += ["-genv", name, value]
    return words


def _generic(options: Options) -> list[str]:
    if options.hostfile is not None or options.hosts is not None or options.exports:
        raise LauncherError(
            f"--hostfile, --host and -x are not known for this launcher; put its own options into {MPIEXEC_VARIABLE}"
        )
    return []


def _command() -> list[str]:
    chosen = os.environ.get(MPIEXEC_VARIABLE, "")
    if chosen:
        words = shlex.split(chosen)
        path = shutil.which(words[0]) if words else None
        if path is None:
            raise LauncherError(f"{MPIEXEC_VARIABLE}={chosen}: there is no such program")
        return [path, *words[1:]]
    try:
        from torch_rmpi._build_info import MPI_NAME, MPIEXEC
    except ModuleNotFoundError:
        raise LauncherError(
            f"torch_rmpi is not built, so its MPI is not known. Run `make build`, or set {MPIEXEC_VARIABLE}"
        ) from None
    # The MPI may be a wheel of this environment; an absolute path overrides sys.prefix here.
    path = shutil.which(str(Path(sys.prefix) / MPIEXEC)) if MPIEXEC else None
    if path is None:
        relative = bool(MPIEXEC) and not MPIEXEC.startswith("/")
        install = (
            f"`pip install {MPI_NAME}` into this environment" if relative else "install that MPI, or load its module"
        )
        raise LauncherError(
            f"there is no {Path(sys.prefix) / MPIEXEC if MPIEXEC else 'mpiexec'}, the launcher of the {MPI_NAME} that "
            f"torch_rmpi was built with: {install}, or set {MPIEXEC_VARIABLE} to its mpiexec"
        )
    return [path]


def _family(command: list[str]) -> str:
    try:
        answer = subprocess.run(
            [command[0], "--version"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **_ROOT},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LauncherError(f"{command[0]} --version does not run: {error}") from error
    text = answer.stdout + answer.stderr
    return next((family for word, family in _FAMILIES if word in text), "unknown")


def _built_with() -> str:
    try:
        from torch_rmpi._build_info import MPI_NAME
    except ModuleNotFoundError:
        return "unknown"
    return MPI_NAME


#: Even `mpirun --version` is refused to root by some versions of OpenMPI.
_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
