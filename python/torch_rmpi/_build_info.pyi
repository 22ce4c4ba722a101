# The module is written by CMake (cmake/_build_info.py.in); this tells type checkers what is in it.
from typing import Final

VERSION: Final[str]
TORCH_VERSION: Final[str]
MPI_NAME: Final[str]
MPI_LIBRARY_VERSION: Final[str]
MPIEXEC: Final[str]
