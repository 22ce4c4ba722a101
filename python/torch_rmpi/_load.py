"""Loads the extension, once, when it is first needed; what can go wrong there becomes an error that says what to do."""

from __future__ import annotations

import functools
import importlib
import re
from types import ModuleType


@functools.cache
def extension() -> ModuleType:
    """Returns the module `torch_rmpi._C`. Loading it starts no MPI: that happens at the first group.

    Raises:
        ImportError: the package is not built, or torch or the MPI is missing or is another one than at build.
    """
    try:
        from torch_rmpi import _build_info
    except ModuleNotFoundError as error:
        raise ImportError(
            "torch_rmpi is not built: this is its source folder. Run `make build`, or "
            "`pip install --no-build-isolation .` in the repository, and do not run Python in the folder `python`"
        ) from error

    import torch

    if _minor(torch.__version__) != _minor(_build_info.TORCH_VERSION):
        raise ImportError(
            f"torch_rmpi {_build_info.VERSION} was built for torch {_build_info.TORCH_VERSION}, but torch "
            f"{torch.__version__} is installed. Install torch {_minor(_build_info.TORCH_VERSION)}, or build torch_rmpi "
            "again with `pip install --no-build-isolation --force-reinstall --no-deps torch-rmpi`"
        )
    try:
        return importlib.import_module("torch_rmpi._C")
    except ImportError as error:
        raise ImportError(_explain(str(error))) from error


def mpi_description() -> str:
    """The MPI that the extension was built with, in a few words, such as "Open MPI v5.0.11"."""
    try:
        from torch_rmpi import _build_info
    except ModuleNotFoundError:
        return "an unknown MPI"
    text = _build_info.MPI_LIBRARY_VERSION
    # OpenMPI: "Open MPI v5.0.11, package: ..."; MPICH: several lines, the first "MPICH Version:      5.0.2".
    first = text.splitlines()[0] if text else _build_info.MPI_NAME
    return re.sub(r"\s+", " ", first.split(",")[0].replace("Version:", "")).strip()


def _minor(version: str) -> str:
    return ".".join(version.split("+", maxsplit=1)[0].split(".")[:2])


def _explain(message: str) -> str:
    """Turns the dynamic linker's words into what is missing and how to get it."""
    from torch_rmpi import _build_info

    built = f"torch_rmpi {_build_info.VERSION} was built with {mpi_description()} and torch {_build_info.TORCH_VERSION}"
    missing = re.search(r"(\S+\.so[.\d]*): cannot open shared object file", message)
    if missing and missing[1].startswith(("libmpi", "libopen", "libpmi", "libprrte", "libmpich")):
        return (
            f"torch_rmpi cannot find {missing[1]}, a library of the MPI it needs. {built}. {_install_mpi()} "
            f"(the dynamic linker said: {message})"
        )
    if missing:
        return f"torch_rmpi cannot find the library {missing[1]}. {built}. (the dynamic linker said: {message})"
    if "undefined symbol" in message:
        return (
            f"torch_rmpi does not fit the installed torch or MPI: {message}. {built}; with others, build it again with "
            "`pip install --no-build-isolation --force-reinstall --no-deps torch-rmpi`"
        )
    return f"torch_rmpi's extension could not be loaded: {message}. {built}"


def _install_mpi() -> str:
    from torch_rmpi import _build_info

    if _build_info.MPIEXEC and not _build_info.MPIEXEC.startswith("/"):
        return f"Install it into this environment: `pip install {_build_info.MPI_NAME}`."
    return (
        "Install that MPI (on Debian and Ubuntu: `apt-get install libopenmpi3` or `libmpich12`), load its module, or "
        "add its library folder to LD_LIBRARY_PATH."
    )
