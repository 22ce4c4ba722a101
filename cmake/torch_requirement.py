"""Metadata provider: the wheel requires the minor version of torch that it is compiled against.

The C++ classes of `torch.distributed` change from one minor version to the next, so a wheel built against 2.15 cannot
be loaded by 2.14.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any


def dynamic_metadata(field: str, settings: Mapping[str, Any]) -> list[str]:
    """Returns the requirement for torch; scikit-build-core calls it for the field `dependencies`."""
    if field != "dependencies" or settings:
        raise ValueError(f"torch_requirement provides `dependencies` and has no settings, got {field!r}, {settings!r}")
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        # An sdist needs no torch.
        return ["torch>=2.13,<2.16"]
    major, minor = version.split(".")[:2]
    return [f"torch=={major}.{minor}.*"]
