"""The entry point of group `torch.backends`: runs at the end of `import torch`, so it is small and never raises."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_rmpi import _exit

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

logger = logging.getLogger("torch_rmpi")


def autoload() -> None:
    """Registers what torch has to know before a user asks for it. Logs a failure and leaves `import torch` alone."""
    try:
        import torch.distributed

        if torch.distributed.is_available():
            _exit.register()
            register_names()
    except Exception:
        logger.warning("torch_rmpi could not register itself; the backend 'rmpi' is not available", exc_info=True)


#: The files of the drivers that torch's "cuda" may stand for: NVIDIA's, that of its boards, that of WSL, and ROCm's.
_CUDA_DRIVERS = ("/dev/nvidiactl", "/dev/nvhost-ctrl-gpu", "/dev/dxg", "/dev/kfd")


def devices() -> list[str]:
    """The devices whose tensors reach the backend.

    "cuda" too where torch has it and it has a driver, for an error that says what to do.

    Not elsewhere: torch's flight recorder asks each of them before every barrier, and where CUDA has no device that
    ends in an exception, which takes longer than the barrier. CUDA itself is not asked: forked children could not use
    it then.
    """
    import torch

    has_cuda = torch.backends.cuda.is_built() and any(Path(file).exists() for file in _CUDA_DRIVERS)
    return ["cpu", "cuda"] if has_cuda else ["cpu"]


def register_names() -> None:
    """Registers `mpi://`; "rmpi" where torch does not look for entry points; "mpi" where torch was built without MPI.

    Raises:
        RuntimeError: this torch was built without torch.distributed.
    """
    import torch.distributed as dist

    if not dist.is_available():
        raise RuntimeError("torch_rmpi needs torch.distributed, and this torch was built without it")
    from torch.distributed.distributed_c10d import Backend
    from torch.distributed.rendezvous import _rendezvous_handlers, register_rendezvous_handler

    if "mpi" not in _rendezvous_handlers:
        register_rendezvous_handler("mpi", _mpi_rendezvous)

    backend: Any = Backend
    alias = os.environ.get("TORCH_RMPI_MPI_ALIAS") != "0" and not dist.is_mpi_available()
    if not hasattr(backend, "_ensure_backend_registered"):
        # torch 2.13: no entry points for backends, and the name "mpi" is wired to the in-tree backend.
        from torch_rmpi import _registration

        _registration.register()
    elif alias and "MPI" not in backend._plugins:
        # Whoever is in the table first stays: torch registers its own "mpi" only when the name is used.
        backend.register_backend(
            "mpi",
            _create_mpi_alias,
            extended_api=True,
            devices=devices(),
            _backend_type=dist.ProcessGroup.BackendType.MPI,
        )


def _mpi_rendezvous(url: str, **kwargs: Any) -> Iterator[tuple[Store, int, int]]:
    from torch_rmpi import _rendezvous

    return _rendezvous.handler(url, **kwargs)


def _create_mpi_alias(opts: Any, backend_options: object | None) -> Any:
    from torch_rmpi import _registration

    return _registration.create_mpi_alias(opts, backend_options)
