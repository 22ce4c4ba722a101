"""What a job has measured; medians of several jobs."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch_rmpi.bench.results import Result

#: Operation, dtype, bytes and backend: Result.key.
Key = tuple[str, str, int, str]


class NotMeasured(Exception):
    """A target needs what was not measured, or cannot be right; the text says what."""


@dataclass
class Measured:
    """Operations with their times, other values by name, and the machine."""

    results: list[Result] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)

    def median(self, op: str, size: int, backend: str, dtype: str = "float32") -> float:
        """Microseconds of the operation. Raises NotMeasured."""
        for result in self.results:
            if result.key == (op, dtype, size, backend):
                return result.median
        raise NotMeasured(f"{op} {dtype} of {size} bytes with {backend} was not measured")

    def require(self, keys: Iterable[Key]) -> None:
        """Raises NotMeasured if one of these is missing: a mean or an extreme of fewer would be another number."""
        missing = set(keys) - {result.key for result in self.results}
        if missing:
            raise NotMeasured(f"not measured: {sorted(missing)}")

    def save(self, path: Path, family: str) -> None:
        """Writes JSON. `family`: what was measured."""
        path.write_text(json.dumps({"family": family, **asdict(self)}))


def load(path: Path, family: str) -> Measured:
    """What Measured.save has written for this family. Raises NotMeasured if that is not what is there."""
    try:
        content = json.loads(path.read_text())
        written = content["family"]
        measured = restore(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotMeasured(f"the ranks of {family} have left no result: {error!r}") from error
    if written != family:
        raise NotMeasured(f"what was written is of {written}, not of {family}")
    return measured


def restore(content: dict[str, Any]) -> Measured:
    """The object from what `asdict` makes of it."""
    return Measured([Result(**result) for result in content["results"]], content["values"], content["machine"])


def median(parts: Sequence[Measured]) -> Measured:
    """The median over the parts of whatever was measured in any of them."""
    results: defaultdict[Key, list[Result]] = defaultdict(list)
    values: defaultdict[str, list[float]] = defaultdict(list)
    machine: dict[str, str] = {}
    for part in parts:
        machine |= part.machine
        for result in part.results:
            results[result.key].append(result)
        for name, value in part.values.items():
            values[name].append(value)
    return Measured(
        [
            Result(
                *key,
                median=statistics.median(result.median for result in same),
                p99=statistics.median(result.p99 for result in same),
                runs=sum(result.runs for result in same),
                algbw=statistics.median(result.algbw for result in same),
                busbw=statistics.median(result.busbw for result in same),
            )
            for key, same in results.items()
        ],
        {name: statistics.median(several) for name, several in values.items()},
        machine,
    )
