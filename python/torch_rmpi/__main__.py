"""`python -m torch_rmpi`: what is installed, what it was built with, whether the two fit, and the settings."""

from __future__ import annotations

import platform
import sys

from torch_rmpi import _launcher_env, _mpiexec


def main() -> int:
    """Prints the summary; returns 0 if the backend can be used, 1 if not."""
    usable = True
    _line("Python", f"{platform.python_version()} ({sys.executable})")
    try:
        from torch_rmpi import _build_info
    except ModuleNotFoundError:
        _line("torch-rmpi", "not built: run `make build`")
        return 1
    _line("torch-rmpi", _build_info.VERSION)
    _line("built for torch", _build_info.TORCH_VERSION)
    try:
        import torch

        _line("torch", torch.__version__)
    except ImportError as error:
        _line("torch", f"not usable: {error}")
        usable = False
    _line("built with MPI", _one_line(_build_info.MPI_LIBRARY_VERSION))
    if usable:
        usable = _extension()
    try:
        _line("mpiexec", " ".join(_mpiexec.find().command))
    except _mpiexec.LauncherError as error:
        _line("mpiexec", f"not usable: {error}")
        usable = False
    launch = _launcher_env.detect()
    _line("started by", "no launcher" if launch is None else f"{launch.launcher.name} ({launch.variables})")
    return 0 if usable else 1


def _extension() -> bool:
    from torch_rmpi._load import extension

    try:
        module = extension()
    except ImportError as error:
        _line("extension", f"not usable: {error}")
        return False
    _line("extension", f"{module.__file__} (version {module.version()})")
    _line("MPI loaded", _one_line(module.mpi_library_version()))
    from torch.distributed import distributed_c10d

    plugin = getattr(distributed_c10d.Backend, "_plugins", {}).get("MPI")
    ours = getattr(getattr(plugin, "creator_fn", None), "__module__", "").startswith("torch_rmpi")
    _line('the name "mpi"', "torch-rmpi" if ours else "torch's own")
    try:
        settings = module.settings()
    except ValueError as error:
        _line("settings", f"not usable: {error}")
        return False
    for name, variable, value, source in settings:
        _line(name, f"{value} ({variable if source == 'variable' else source})")
    return True


def _one_line(text: str) -> str:
    return " ".join(text.splitlines()[0].split()) if text else "unknown"


def _line(name: str, value: str) -> None:
    print(f"{name + ':':<18}{value}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
