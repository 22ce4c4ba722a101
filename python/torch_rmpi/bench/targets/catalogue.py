"""All targets."""

from __future__ import annotations

from torch_rmpi.bench.targets import bandwidth, baseline, crowded, idle, inference, latency, mean, training
from torch_rmpi.bench.targets.target import Family

FAMILIES = (
    latency.FAMILY,
    bandwidth.FAMILY,
    mean.TWO_RANKS,
    baseline.FAMILY,
    mean.FOUR_RANKS,
    idle.FAMILY,
    training.FAMILY,
    inference.FAMILY,
    crowded.FAMILY,
)
#: In the order in which they are shown.
IDS = tuple(dict.fromkeys(target.id for family in FAMILIES for target in family.targets))


def family(name: str) -> Family:
    """The family of this name."""
    return next(family for family in FAMILIES if family.name == name)
