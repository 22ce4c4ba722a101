"""The compiled part of torch_rmpi."""

from datetime import timedelta

from torch._C._distributed_c10d import Backend, Store
from torch._C._distributed_c10d import Work as _TorchWork

class Options(Backend.Options):
    """Options of a group.

    A setting that is None is that of its environment variable (TORCH_RMPI_CHUNK_BYTES for chunk_bytes), or else has a
    default; docs/tuning.md says what each does.
    """

    timeout: timedelta
    chunk_bytes: int | None
    inline_bytes: int | None
    divide_bytes: int | None
    stream_bytes: int | None
    leader_bytes: int | None
    gather_bytes: int | None
    tree_bytes: int | None
    spins: int | None
    shm: bool | None
    single_copy: str | None
    def __init__(self, timeout: timedelta = ...) -> None: ...

class Work(_TorchWork):
    """An operation of the process group."""

class ProcessGroupRMPI(Backend):
    """A process group over MPI; see `create`."""

    Options: type[Options]

    def settings(self) -> list[tuple[str, str, str, str]]:
        """Return (name, variable, value, source) of each setting in force."""

def create(
    store: Store,
    rank: int,
    size: int,
    timeout: timedelta,
    group_name: str,
    global_ranks: list[int],
    options: Options | None = None,
    enable_reconfigure: bool = False,
) -> ProcessGroupRMPI:
    """Create a group; every member calls it with a store that all share. Of the options only the settings count.

    With enable_reconfigure it meets nobody: reconfigure() gives the group its members.

    Raises DistBackendError, naming the ranks that are missing, when they have not all come within the timeout.
    """

def settings(options: Options | None = None) -> list[tuple[str, str, str, str]]:
    """Return (name, variable, value, source) of each setting that a group with these options would have.

    Raises ValueError if an option or a variable is wrong. Does not start MPI.
    """

def meet(store: Store, rank: int, size: int, timeout: timedelta, group_name: str) -> None:
    """Wait at the store until all ranks of a group have come, unless MPI has been started here.

    Raises DistBackendError, naming the ranks that are missing, after the timeout.
    """

def start(timeout: timedelta) -> None:
    """Start MPI when nobody has.

    Raises DistBackendError when the other processes of the job have not come within the timeout.
    """

def world_rank() -> int:
    """Return this process's rank in the MPI world. Starts MPI when nobody has."""

def world_size() -> int:
    """Return the number of processes in the MPI world. Starts MPI when nobody has."""

def world_broadcast(payload: str, timeout_ms: int) -> str:
    """Return rank 0's payload on every rank. Collective over the MPI world."""

def _before_python_ends() -> None:
    """Let pending operations end and their callbacks run. From then on no other thread returns from a call."""

def keep_alive(store: Store) -> None:
    """Keep a store until the process ends."""

def mpi_library_version() -> str:
    """Return what the MPI library says of itself. Does not start MPI."""

def version() -> str:
    """Return the version of torch-rmpi."""
