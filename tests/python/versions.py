"""What only newer ones of the torch releases that are supported have (docs/versions.md)."""

import pytest
import torch

VERSION = tuple(int(part) for part in torch.__version__.split(".")[:2])


def since(version, what):
    """Marks a test of something that torch has from this release on. Older ones cannot do it with any backend."""
    if version <= VERSION:
        return lambda test: test
    return pytest.mark.skip(reason=f"torch before {'.'.join(map(str, version))} has no {what}")


def sequence_number(group):
    """That of the group's next collective. A group of torch 2.13 does not ask a backend of others."""
    counts = group if VERSION >= (2, 14) else group._get_backend(torch.device("cpu"))
    return counts._get_sequence_number_for_group()
