"""Types of command line options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size(text: str) -> int:
    """Bytes from `4`, `64K`, `1M` or `2G` (powers of 1024)."""
    digits = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = digits[-1:] if digits[-1:] in _UNITS else ""
    number = digits.removesuffix(unit) if unit else digits
    if not number.isdigit() or int(number) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 4, 64K or 16M")
    return int(number) * _UNITS[unit]


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """A type for a number above 0."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
        return value

    return parse


def names(known: Sequence[str]) -> Callable[[str], list[str]]:
    """A type for a list of names separated by commas, or `all`."""

    def parse(text: str) -> list[str]:
        wanted = list(known) if text == "all" else text.split(",")
        for name in wanted:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return list(dict.fromkeys(wanted))

    return parse
