"""The end of Python, as far as it concerns operations that are pending then."""

from __future__ import annotations

import atexit
import functools
import sys


@functools.cache
def register() -> None:
    """Has the extension called at the end of Python, if it is loaded by then.

    Handlers run in the reverse order of their registration. This one is registered when torch is imported, so that
    those of the program come first: they may end threads that still use a group, or destroy it.
    """
    atexit.register(_end)


def _end() -> None:
    extension = sys.modules.get("torch_rmpi._C")
    if extension is not None:
        extension._before_python_ends()
