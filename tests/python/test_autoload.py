"""What `import torch` does for this package, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

PRELUDE = """
import sys, threading
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d
from torch.distributed.rendezvous import _rendezvous_handlers
from torch_rmpi import _autoload
Backend = distributed_c10d.Backend
has_entry_points = hasattr(Backend, "_ensure_backend_registered")
"""


def python(code: str, **environ: str) -> str:
    """Runs code in a new interpreter and returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_torch_loads_no_library_and_starts_nothing() -> None:
    python(
        PRELUDE
        + """
assert "torch_rmpi._C" not in sys.modules and "torch_rmpi._rendezvous" not in sys.modules
assert "libtorch_rmpi" not in open("/proc/self/maps").read() and "libmpi" not in open("/proc/self/maps").read()
assert threading.active_count() == 1
"""
    )


def test_importing_the_package_imports_no_torch() -> None:
    python("import sys, torch_rmpi; assert torch_rmpi.__version__; assert 'torch' not in sys.modules")


def test_names_are_known() -> None:
    python(
        PRELUDE
        + """
assert "mpi" in _rendezvous_handlers
defaults = dict(Backend.default_device_backend_map)
config = distributed_c10d.BackendConfig("rmpi").get_device_backend_map()
assert config == dict.fromkeys(_autoload.devices(), "rmpi"), config
assert torch.cuda.is_available() <= ("cuda" in config) and not torch.cuda._is_in_bad_fork(), config
assert distributed_c10d.BackendConfig("cpu:rmpi").get_device_backend_map() == {"cpu": "rmpi"}
mixed = distributed_c10d.BackendConfig("cpu:rmpi,cuda:nccl").get_device_backend_map()
assert mixed == {"cpu": "rmpi", "cuda": "nccl"}, mixed
assert Backend.default_device_backend_map == defaults and defaults["cpu"] == "gloo" and defaults["cuda"] == "nccl"
assert "torch_rmpi._C" not in sys.modules
"""
    )


def test_the_name_mpi() -> None:
    code = (
        PRELUDE
        + """
if has_entry_points and not dist.is_mpi_available():
    Backend._ensure_backend_registered("mpi")
    print(Backend._plugins["MPI"].creator_fn.__module__)
else:
    print("torch's own")
"""
    )
    assert python(code).strip() in ("torch_rmpi._autoload", "torch's own")
    assert python(code, TORCH_RMPI_MPI_ALIAS="0").strip() in ("torch.distributed.distributed_c10d", "torch's own")


def test_without_autoload_the_names_can_be_registered() -> None:
    code = PRELUDE + "assert 'mpi' not in _rendezvous_handlers; import torch_rmpi; torch_rmpi.register(); "
    python(code + "torch_rmpi.register(); assert 'mpi' in _rendezvous_handlers", TORCH_DEVICE_BACKEND_AUTOLOAD="0")


def test_a_torch_without_entry_points_gets_the_backend_registered() -> None:
    python(
        PRELUDE
        + """
if has_entry_points:
    del Backend._ensure_backend_registered
    Backend._plugins.pop("MPI", None)
from torch_rmpi import _autoload
_autoload.autoload()
assert "RMPI" in Backend._plugins and "MPI" not in Backend._plugins
"""
    )


def test_a_failure_does_not_break_import_torch() -> None:
    code = """
import sys, logging
import torch.distributed.rendezvous as rendezvous
sys.modules.pop("torch.distributed.rendezvous")
sys.modules["torch.distributed.rendezvous"] = None
from torch_rmpi import _autoload
_autoload.autoload()
print("still here")
"""
    assert python(code, TORCH_DEVICE_BACKEND_AUTOLOAD="0").strip() == "still here"
