"""How far a measurement is: counted where it is measured, shown as a bar or handed on as lines."""

from __future__ import annotations

import sys

_BAR = 30


class Progress:
    """Counts parts of equal length, and shows nothing."""

    def __init__(self) -> None:
        self.total, self.done = 1, 0
        #: What is being measured.
        self.text = ""

    def expect(self, total: int) -> None:
        """There are so many parts, of which none is done."""
        self.total, self.done = max(1, total), 0

    def tick(self) -> None:
        """One part is done."""
        self.done = min(self.done + 1, self.total)
        self.show()

    def show(self) -> None:
        """Shows how far it is."""

    def clear(self) -> None:
        """Makes room for other lines."""


class Bar(Progress):
    """A progress bar on standard error."""

    def show(self) -> None:
        filled = _BAR * self.done // self.total
        bar = "#" * filled + "." * (_BAR - filled)
        sys.stderr.write(f"\r[{bar}] {100 * self.done // self.total:3d} %  {self.text:<40.40}")
        sys.stderr.flush()

    def clear(self) -> None:
        sys.stderr.write("\r\033[K")
        sys.stderr.flush()


class Lines(Progress):
    """Lines on standard output for the process that has started the ranks, at most one for each percent."""

    _PREFIX = "torch_rmpi.bench progress "

    def __init__(self) -> None:
        super().__init__()
        self._last = -1

    def show(self) -> None:
        percent = 100 * self.done // self.total
        if percent != self._last:
            self._last = percent
            print(f"{self._PREFIX}{percent} {self.text}", flush=True)

    @classmethod
    def parse(cls, line: str) -> tuple[int, str] | None:
        """Percent and text of such a line; None for any other line."""
        if not line.startswith(cls._PREFIX):
            return None
        percent, _, text = line.removeprefix(cls._PREFIX).partition(" ")
        return (int(percent), text) if percent.isdecimal() else None
