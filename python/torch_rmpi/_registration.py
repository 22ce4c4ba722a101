"""The entry point of group `torch.distributed.backends`, and the functions that torch calls to create a group."""

from __future__ import annotations

from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch_rmpi import _autoload, _launcher_env
from torch_rmpi._load import extension

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from torch_rmpi._C import ProcessGroupRMPI

#: The store behind groups of the name "mpi", to which torch gives none; made when the default group is.
_alias_store: Store | None = None


def register() -> None:
    """Tells torch the name "rmpi". Loads no shared library and starts no MPI."""
    from torch.distributed import distributed_c10d

    # Each device has its default (gloo, nccl) already: registering changes no default.
    distributed_c10d.Backend.register_backend("rmpi", create, extended_api=True, devices=_autoload.devices())


def create(opts: Any, backend_options: object | None) -> ProcessGroupRMPI:
    """Creates the backend object of a group; called by torch on every member.

    Args:
        opts: torch's `_DistributedBackendOptions`.
        backend_options: what the user gave as `pg_options`: None or a `torch_rmpi._C.Options`. Options of another
            backend are ignored, for torch gives the same ones to each backend of "cpu:rmpi,cuda:nccl".

    Raises:
        ImportError: the extension or a library it needs is missing.
        RuntimeError: MPI has fewer processes than the group has ranks: the launcher belongs to another MPI.
        TypeError: `backend_options` is no options object.
        ValueError: a setting in `backend_options`, or of a variable TORCH_RMPI_*, is out of range.
        torch.distributed.DistBackendError: a member did not come in time, or has other settings, or MPI failed.
    """
    return _create(opts, backend_options, _usable_store(opts), opts.group_rank, opts.group_size)


def create_mpi_alias(opts: Any, backend_options: object | None) -> ProcessGroupRMPI:
    """Creates the backend object of a group whose backend is called "mpi".

    For the default group torch gives neither rank nor size (-1 each), because the in-tree backend asks MPI for them;
    for every group under it, it gives a store on which no operation works.

    Raises:
        RuntimeError: TORCH_DISTRIBUTED_DEBUG is DETAIL, or as `create`.
    """
    global _alias_store
    from torch_rmpi import _rendezvous

    placeholder = is_placeholder(opts.store)
    if placeholder:
        _refuse_debug_wrapper()
    if opts.group_rank == -1:
        timeout = _timeout(extension(), opts, backend_options)
        _alias_store, rank, size = _rendezvous.meet(timeout, purpose="init_process_group('mpi')")
        return _create(opts, backend_options, _alias_prefix(opts), rank, size)
    return _create(opts, backend_options, _usable_store(opts), opts.group_rank, opts.group_size)


def is_placeholder(store: Store) -> bool:
    """Whether `store` is, below its prefixes, the bare `Store()` that torch makes for the backend "mpi"."""
    from torch._C._distributed_c10d import PrefixStore, Store

    while isinstance(store, PrefixStore):
        store = store.underlying_store
    return type(store) is Store


def _create(opts: Any, backend_options: object | None, store: Store, rank: int, size: int) -> ProcessGroupRMPI:
    module = extension()
    timeout = _timeout(module, opts, backend_options)
    own_options = backend_options if isinstance(backend_options, module.Options) else None
    # What is wrong with the settings is said before the others are met, who would wait for this rank.
    module.settings(own_options)
    _launcher_env.claim()
    # A group that waits for reconfigure() has no members yet. torch has said so since 2.14.
    unconnected = bool(getattr(opts, "enable_reconfigure", False) or getattr(own_options, "enable_reconfigure", False))
    if size > 1 and not unconnected:
        # MPI_Init may wait for every process of the job. Here is known who is missing.
        module.meet(store, rank, size, timeout, opts.group_id)
        module.start(timeout)
        _launcher_env.require_world(size, module.world_size())
    global_ranks = list(opts.global_ranks_in_group) or list(range(size))
    backend: ProcessGroupRMPI = module.create(
        store, rank, size, timeout, opts.group_id, global_ranks, own_options, unconnected
    )
    return backend


def _timeout(module: ModuleType, opts: Any, backend_options: object | None) -> timedelta:
    from torch._C._distributed_c10d import Backend

    timeout: timedelta = opts.timeout
    if isinstance(backend_options, module.Options):
        # torch always gives a timeout, its default if the user gave none; so does Options. One set there counts.
        if backend_options.timeout != module.Options().timeout:
            timeout = backend_options.timeout
    elif backend_options is not None and not isinstance(backend_options, Backend.Options):
        raise TypeError(
            f"pg_options must be a torch_rmpi._C.Options for the backend 'rmpi', got {type(backend_options).__name__}"
        )
    return timeout


def _usable_store(opts: Any) -> Store:
    store: Store = opts.store
    return _alias_prefix(opts) if is_placeholder(store) else store


def _alias_prefix(opts: Any) -> Store:
    from torch._C._distributed_c10d import PrefixStore

    if _alias_store is None:
        raise RuntimeError(
            "torch gave this group a store on which nothing works, and the default group has none to share. "
            "Call init_process_group('rmpi', init_method='mpi://')"
        )
    return PrefixStore(f"{opts.group_id}/cpu/", _alias_store)


def _refuse_debug_wrapper() -> None:
    """torch wraps each group in a Gloo group when debugging, and that crashes on the placeholder store."""
    import torch.distributed as dist
    from torch._C._distributed_c10d import DebugLevel, get_debug_level

    if get_debug_level() == DebugLevel.DETAIL and dist.is_gloo_available():
        raise RuntimeError(
            "TORCH_DISTRIBUTED_DEBUG=DETAIL does not work with the backend name 'mpi': torch gives it no store for the "
            "Gloo group it checks collectives with. Use init_process_group('rmpi', init_method='mpi://'), with which "
            "DETAIL works, or unset TORCH_DISTRIBUTED_DEBUG"
        )
