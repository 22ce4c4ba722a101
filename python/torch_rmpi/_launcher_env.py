"""What the launchers of this world put into the environment of a process, in one place.

It serves two ends: LOCAL_RANK for a rank that `torch_rmpi.run` started, and noticing that a launcher started N
processes of which each is an MPI world of its own, because the launcher belongs to another MPI than the linked one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launcher:
    """A launcher and the variables in which it tells a process its place; of several names the first set counts."""

    name: str
    size: tuple[str, ...]
    rank: tuple[str, ...]
    local_rank: tuple[str, ...]
    local_size: tuple[str, ...]
    #: A variable without which the others do not count.
    marker: str | None = None


# The innermost launcher first: `mpirun` inside of an `srun` step inherits the variables of srun.
LAUNCHERS = (
    Launcher("torchrun", ("WORLD_SIZE",), ("RANK",), ("LOCAL_RANK",), ("LOCAL_WORLD_SIZE",), "TORCHELASTIC_RUN_ID"),
    Launcher(
        "OpenMPI's mpirun",
        ("OMPI_COMM_WORLD_SIZE",),
        ("OMPI_COMM_WORLD_RANK",),
        ("OMPI_COMM_WORLD_LOCAL_RANK",),
        ("OMPI_COMM_WORLD_LOCAL_SIZE",),
    ),
    Launcher(
        "MVAPICH's launcher",
        ("MV2_COMM_WORLD_SIZE",),
        ("MV2_COMM_WORLD_RANK",),
        ("MV2_COMM_WORLD_LOCAL_RANK",),
        ("MV2_COMM_WORLD_LOCAL_SIZE",),
    ),
    Launcher(
        "the mpiexec of MPICH, Intel MPI or Cray",
        ("PMI_SIZE",),
        ("PMI_RANK",),
        ("MPI_LOCALRANKID", "PMI_LOCAL_RANK", "PALS_LOCAL_RANKID"),
        ("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE", "PALS_LOCAL_SIZE"),
    ),
    Launcher(
        "jsrun",
        ("JSM_NAMESPACE_SIZE",),
        ("JSM_NAMESPACE_RANK",),
        ("JSM_NAMESPACE_LOCAL_RANK",),
        ("JSM_NAMESPACE_LOCAL_SIZE",),
    ),
    Launcher("flux run", ("FLUX_JOB_SIZE",), ("FLUX_TASK_RANK",), ("FLUX_TASK_LOCAL_ID",), ()),
    # Not SLURM_NTASKS: a batch script has it too, where srun has started nothing yet.
    Launcher("srun", ("SLURM_STEP_NUM_TASKS",), ("SLURM_PROCID",), ("SLURM_LOCALID",), (), "SLURM_STEP_ID"),
    # PMIx has no variable for the size; a rank above 0 tells enough.
    Launcher("a PMIx launcher", (), ("PMIX_RANK",), (), (), "PMIX_NAMESPACE"),
    Launcher(
        "a launcher that sets RANK and WORLD_SIZE", ("WORLD_SIZE",), ("RANK",), ("LOCAL_RANK",), ("LOCAL_WORLD_SIZE",)
    ),
)


#: What torchrun tells a process of its place. TORCHELASTIC_RESTART_COUNT and its kin say nothing of that.
_TORCHRUN_PLACE = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"),
)


def forget_outer(environ: MutableMapping[str, str] = os.environ) -> None:
    """Removes, on a rank that `torch_rmpi.run` starts, what was said of the process that ran it.

    Under torchrun, which can start a job again, that process is a world of its own: every rank of the job would take
    itself for one.
    """
    for name in _TORCHRUN_PLACE if "TORCHELASTIC_RUN_ID" in environ else ("RANK", "WORLD_SIZE"):
        environ.pop(name, None)


@dataclass(frozen=True)
class Launch:
    """How this process was started, as far as its environment tells."""

    launcher: Launcher
    rank: int
    size: int
    #: None where the launcher does not say.
    local_rank: int | None
    local_size: int | None
    #: The variables that told rank and size, for messages.
    variables: str


def detect(environ: Mapping[str, str] = os.environ) -> Launch | None:
    """Returns the innermost launcher that the environment shows, or None."""
    for launcher in LAUNCHERS:
        if launcher.marker is not None and launcher.marker not in environ:
            continue
        rank = _number(environ, launcher.rank)
        if rank is None:
            continue
        size = _number(environ, launcher.size)
        if size is None:
            if launcher.size:
                continue
            size = rank + 1
        names = [name for name in (*launcher.rank, *launcher.size) if name in environ]
        return Launch(
            launcher,
            rank,
            size,
            _number(environ, launcher.local_rank),
            _number(environ, launcher.local_size),
            ", ".join(f"{name}={environ[name]}" for name in names),
        )
    return None


#: Says which process has taken its place in an MPI job, for its children to see: they inherit the launcher's variables.
CLAIM = "TORCH_RMPI_CLAIM"

#: What tells one place from another.
_PLACE = ("PMIX_NAMESPACE", "PMIX_RANK", "PMI_JOBID", "PMI_RANK", "PMI_FD", "PMI_PORT", "SLURM_STEP_ID", "SLURM_PROCID")


def claim(environ: MutableMapping[str, str] = os.environ) -> None:
    """Takes this process's place in the MPI job, before MPI is started.

    Raises:
        NotImplementedError: the process that started this one has taken it. Two processes of one rank would write into
            each other's messages.
    """
    place = " ".join(environ.get(name, "") for name in _PLACE)
    if not place.strip():
        return
    own = str(os.getpid())
    connection = _connection(environ.get("PMI_FD", ""))
    # Three parts, the last of which may have blanks in it.
    holder, used, claimed = (*environ.get(CLAIM, "").split(" ", 2), "", "", "")[:3]
    if holder not in ("", own) and claimed == place and connection in ("", used):
        raise NotImplementedError(
            f"this process was started by process {holder}, which is a rank of an MPI job, and inherited its place in "
            f"that job ({CLAIM} says so); it cannot be the same rank. Use the group in the parent only, or start this "
            "process without the launcher's variables"
        )
    environ[CLAIM] = f"{own} {connection} {place}"


def _connection(descriptor: str) -> str:
    """Hydra's connection to this rank, as nothing else on this machine is called; empty if it is not open here."""
    try:
        return str(os.fstat(int(descriptor)).st_ino)
    except (ValueError, OSError):
        return ""


def require_world(group_size: int, world_size: int, environ: Mapping[str, str] = os.environ) -> None:
    """Checks that the MPI world has room for a group.

    Args:
        group_size: how many ranks the group, or the launcher, says there are.
        world_size: the size of MPI_COMM_WORLD.

    Raises:
        RuntimeError: it has not; the message says which launcher was seen and what to run instead.
    """
    if group_size <= world_size:
        return
    launch = detect(environ)
    raise RuntimeError(explain(group_size, world_size, launch))


def require_no_singletons(world_size: int, environ: Mapping[str, str] = os.environ) -> None:
    """Checks that a world of one process is what the launcher started.

    Raises:
        RuntimeError: the environment says that a launcher started several processes.
    """
    launch = detect(environ)
    if world_size == 1 and launch is not None and launch.size > 1:
        raise RuntimeError(explain(launch.size, world_size, launch))


def explain(size: int, world_size: int, launch: Launch | None) -> str:
    """The text for a job of `size` processes whose MPI sees only `world_size`: what was seen, why, and what to run."""
    from torch_rmpi._load import mpi_description

    mpi = mpi_description()
    sees = "only this process" if world_size == 1 else f"only {world_size} processes"
    instead = f"Start it with `python -m torch_rmpi.run -n {size} SCRIPT`, or with the mpiexec of {mpi}"
    if launch is None:
        return (
            f"the process group has {size} ranks, but {mpi}, the MPI that torch_rmpi is linked to, sees {sees}, and no "
            f"launcher's variables are set: the processes were not started by that MPI's launcher. {instead}"
        )
    seen = f"{launch.launcher.name} started this process ({launch.variables})"
    sees = f"{mpi}, the MPI that torch_rmpi is linked to, sees {sees}"
    if launch.launcher.marker == "TORCHELASTIC_RUN_ID":
        return f"{seen}, but {sees}: torchrun starts no MPI. {instead}"
    if launch.launcher.name == "srun":
        return (
            f"{seen}, but {sees}: srun did not offer a process manager that this MPI speaks. Try `srun --mpi=pmix` or "
            f"`srun --mpi=pmi2` (`srun --mpi=list` shows what there is). {instead} inside of the allocation"
        )
    if not launch.launcher.local_rank or launch.launcher.name.startswith("a launcher"):
        return f"{seen}, but {sees}: it is not the launcher of that MPI. {instead}"
    return f"{seen}, but {sees}: the launcher belongs to another MPI. {instead}"


def _number(environ: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = environ.get(name, "")
        if value.isdecimal():
            return int(value)
    return None
