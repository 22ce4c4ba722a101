"""torch-rmpi: an MPI process-group backend for stock PyTorch.

Nothing here has to be imported: `import torch` finds the package through its entry points. Importing it loads no shared
library, starts no MPI and no thread, and does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["__version__", "register"]

if TYPE_CHECKING:
    __version__: str


def register() -> None:
    """Makes "rmpi" and `mpi://` (and the name "mpi", see docs/starting.md) known to torch.

    `import torch` does this by itself, unless `TORCH_DEVICE_BACKEND_AUTOLOAD=0`. Calling it again changes nothing.

    Raises:
        ImportError: torch is not installed.
        RuntimeError: this torch was built without torch.distributed.
    """
    from torch_rmpi import _autoload

    _autoload.register_names()


def __getattr__(name: str) -> Any:
    # The version is looked up when asked for: every `import torch` imports this file.
    if name == "__version__":
        try:
            from torch_rmpi._build_info import VERSION
        except ModuleNotFoundError:
            from importlib.metadata import version

            return version("torch-rmpi")
        return VERSION
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
