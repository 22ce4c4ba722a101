"""Takes the command line of `python -m torch_rmpi.run` apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

#: Options of OpenMPI's mpirun and of hydra (MPICH, Intel MPI) that take one value. What is not here and not in
#: _TWO_VALUES takes none, unless its value follows an "=", or what follows it cannot be the script.
_ONE_VALUE = frozenset(
    [
        "bind-to",
        "cpu-list",
        "cpu-set",
        "default-hostfile",
        "display",
        "dvm",
        "env-file",
        "envlist",
        "genvlist",
        "iface",
        "launch-agent",
        "launcher",
        "launcher-exec",
        "map-by",
        "memory-alloc-kinds",
        "output",
        "output-filename",
        "path",
        "personality",
        "pmi-port",
        "ppn",
        "preload-files",
        "prefix",
        "pset",
        "rank-by",
        "rankfile",
        "report-pid",
        "report-uri",
        "rmk",
        "runtime-options",
        "stdin",
        "stream-buffering",
        "timeout",
        "tune",
        "usize",
        "wd",
        "wdir",
        "with-ft",
    ]
)
_TWO_VALUES = frozenset("env genv gmca mca omca opalmca pmca pmixmca prtemca".split())  # noqa: SIM905

_HOSTFILE = frozenset(("hostfile", "machinefile", "f"))
_HOSTS = frozenset(("host", "hosts", "H"))
_COUNT = frozenset(("n", "np", "c"))


class UsageError(Exception):
    """The command line cannot be understood; the text says why."""


@dataclass
class Options:
    """What was asked for."""

    ranks: int | None = None
    hostfile: str | None = None
    hosts: str | None = None
    #: `-x NAME` and `-x NAME=VALUE`: environment variables for the ranks.
    exports: list[str] = field(default_factory=list)
    #: Options for mpiexec, verbatim.
    launcher: list[str] = field(default_factory=list)
    #: The names of these, without dashes.
    launcher_names: set[str] = field(default_factory=set)
    dry_run: bool = False
    help: bool = False
    #: Run the program itself instead of Python with it.
    no_python: bool = False
    #: `-m`: the program is a module's name.
    module: bool = False
    program: str = ""
    arguments: list[str] = field(default_factory=list)


def parse(argv: Sequence[str]) -> Options:
    """Returns the options; everything from the script (or `-m module`) on belongs to the script.

    Raises:
        UsageError: no script, no number of ranks, or a value that is missing or wrong.
    """
    options = Options()
    rest = list(argv)
    unresolved: str | None = None  # an unknown option, which may or may not take values
    while rest:
        word = rest.pop(0)
        if word == "--":
            _program(options, rest)
            break
        if word == "-m":
            _program(options, [word, *rest])
            break
        if not word.startswith("-") or word == "-":
            if unresolved is not None and not word.endswith(".py"):
                options.launcher.append(word)
                continue
            _program(options, [word, *rest])
            break
        unresolved = _option(options, word, rest, unresolved)
    if options.help:
        return options
    if not options.program:
        hint = f" (is it a value of {unresolved}? write `--` before the script)" if unresolved else ""
        raise UsageError(f"no script: give a Python file or -m MODULE after the options{hint}")
    if options.ranks is None and options.hostfile is None and options.hosts is None:
        raise UsageError("say how many ranks to start: -n N (or give --hostfile or --host)")
    return options


def _option(options: Options, word: str, rest: list[str], unresolved: str | None) -> str | None:
    """Handles the option `word`; returns it if it is unknown, so that it may take the words that follow it."""
    name, equals, inline = word.lstrip("-").partition("=")

    def value() -> str:
        if equals:
            return inline
        if not rest:
            raise UsageError(f"{word} needs a value")
        return rest.pop(0)

    if name in ("h", "help"):
        options.help = True
    elif name == "dry-run":
        options.dry_run = True
    elif name == "no-python":
        options.no_python = True
    elif name in _COUNT:
        text = value()
        if not text.isdecimal() or int(text) < 1:
            raise UsageError(f"{word.partition('=')[0]} must be a number of ranks, 1 or more, got {text!r}")
        options.ranks = int(text)
    elif name in _HOSTFILE:
        options.hostfile = value()
    elif name in _HOSTS:
        options.hosts = value()
    elif name == "x":
        options.exports.append(value())
    else:
        options.launcher_names.add(name)
        options.launcher.append(word)
        if equals:
            return unresolved
        for _ in range(2 if name in _TWO_VALUES else 1 if name in _ONE_VALUE else 0):
            options.launcher.append(value())
        if name not in _ONE_VALUE and name not in _TWO_VALUES:
            return word
    return None


def _program(options: Options, words: list[str]) -> None:
    if words and words[0] == "-m":
        if len(words) == 1:
            raise UsageError("-m needs the name of a module")
        options.module = True
        words = words[1:]
    if not words:
        raise UsageError("no script after --")
    if options.module and options.no_python:
        raise UsageError("-m and --no-python exclude each other")
    options.program, options.arguments = words[0], words[1:]
