"""`python -m torch_rmpi.bench`: collectives of several backends side by side; `... targets`: the project's targets.

Started by hand, it starts its own ranks; under mpirun or torch_rmpi.run it is one of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from torch_rmpi import _launcher_env, run
from torch_rmpi.bench import groups, operations, results
from torch_rmpi.bench.options import names, positive, size

SIZES = "4,1K,64K,1M,16M,64M"


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="python -m torch_rmpi.bench",
        description="Measures collectives of several backends side by side, on the same ranks and in one run.",
        epilog="A size is the bytes of the tensor that a rank passes in: of all_gather and gather the input, of "
        "reduce_scatter and scatter the output, of all_to_all the whole input. Times are of the slowest rank. algbw "
        "and busbw are as in NVIDIA's nccl-tests; sendrecv is half a ping-pong, as in the OSU benchmarks. noop is a "
        "process group that does nothing, in the operations where that is true, and in all_to_all with empty tensors: "
        "what torch itself costs. memcpy is "
        "dst.copy_(src) of as many bytes on every rank at once. `python -m torch_rmpi.bench targets --help`: the "
        "targets that this project is held to.",
    )
    options.add_argument("-n", "--ranks", type=int, default=2, help="number of ranks to start (2)")
    everything = list(operations.OPERATIONS)
    default = "all_reduce,all_gather,reduce_scatter,broadcast,all_to_all,sendrecv"
    options.add_argument("--ops", type=names(everything), default=default, help=f"of {', '.join(everything)}; or all")
    options.add_argument("--sizes", type=lambda text: [size(part) for part in text.split(",")], default=SIZES)
    options.add_argument("--dtypes", type=names(list(operations.DTYPES)), default="float32")
    options.add_argument("--backends", type=names(groups.NAMES), default="rmpi,gloo,noop,memcpy")
    options.add_argument("--seconds", type=positive(float), default=0.3, help="time for each measured value (0.3)")
    options.add_argument("--rounds", type=positive(int), default=5, help="in how many turns backends take theirs (5)")
    options.add_argument("--json", type=Path, help="write the results there")
    options.add_argument("--plot", type=Path, help="write a log-log plot there (PNG; needs matplotlib)")
    options.add_argument("--compare", type=Path, metavar="OLD.json", help="print the ratio to these results")
    options.add_argument("--progress", choices=["auto", "always", "never"], default="auto")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["targets"]:
        from torch_rmpi.bench.targets import command

        return command.main(arguments[1:])
    options = parser().parse_args(arguments)
    # Before it takes minutes to find out.
    if options.compare is not None:
        results.load(options.compare)
    if options.plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise SystemExit("--plot needs matplotlib: python -m pip install matplotlib")
    if _launcher_env.detect() is None:
        if options.ranks < 2:
            parser().error("there is nothing to communicate with fewer than 2 ranks")
        if options.progress == "auto" and sys.stderr.isatty():
            # The ranks' own standard error is a pipe.
            arguments += ["--progress", "always"]
        return run.main(["-n", str(options.ranks), "-m", "torch_rmpi.bench", *arguments])
    from torch_rmpi.bench import session

    return session.run(options)


if __name__ == "__main__":
    sys.exit(main())
