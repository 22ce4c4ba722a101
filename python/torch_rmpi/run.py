"""`python -m torch_rmpi.run -n 4 train.py arguments...`: starts ranks with the MPI that torch_rmpi was built with."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from torch_rmpi import _mpiexec, _rank_main
from torch_rmpi._launcher_options import Options, UsageError, parse

USAGE = """\
usage: python -m torch_rmpi.run -n N [options] [--] SCRIPT [arguments...]
       python -m torch_rmpi.run -n N [options] -m MODULE [arguments...]

Starts N ranks of a Python program under the MPI that torch_rmpi was built with, and returns their exit code
(128 + N for a rank killed by signal N).

  -n N, -np N           number of ranks; may be left out when a hostfile or hosts are given
  --hostfile FILE       hosts to use, in the format of that MPI
  --host LIST, -H LIST  the same on the command line: host1:2,host2:2
  -x NAME[=VALUE]       pass an environment variable to the ranks
  --no-python           SCRIPT is a program, not a Python file
  --dry-run             print the command, start nothing
  anything else         goes to mpiexec as it is; write `--` before SCRIPT if an option's value could be taken for it

Each rank finds LOCAL_RANK and LOCAL_WORLD_SIZE in its environment, and OMP_NUM_THREADS (its share of the cores) unless
it was set before. TORCH_RMPI_MPIEXEC names another mpiexec.
"""

#: Wrong use, as argparse has it.
EXIT_USAGE = 2
#: siginfo's code of a signal that the terminal sent; it went to the whole foreground group, mpiexec included.
_SI_KERNEL = 128
_FORWARDED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the launcher; returns the exit code of the job, or 2 with a line on stderr if it cannot be started."""
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        if options.help:
            print(USAGE, end="")
            return 0
        _check_script(options)
        mpiexec = _mpiexec.find()
        words = _mpiexec.arguments(mpiexec, options) + _rank_command(mpiexec, options)
    except (UsageError, _mpiexec.LauncherError) as error:
        print(f"torch_rmpi.run: {error}", file=sys.stderr)
        if isinstance(error, UsageError):
            print("torch_rmpi.run: `python -m torch_rmpi.run --help` shows the options", file=sys.stderr)
        return EXIT_USAGE
    extra = _mpiexec.environment(mpiexec)
    if options.dry_run:
        print(" ".join([*(f"{name}={shlex.quote(value)}" for name, value in extra.items()), shlex.join(words)]))
        return 0
    return run(words, {**os.environ, **extra})


def run(words: Sequence[str], environment: dict[str, str]) -> int:
    """Runs a command to its end, passes signals on to it, and returns its exit code, 128 + N for signal N.

    The command gets SIGTERM if this process is killed.
    """
    # Signals are taken by sigwaitinfo, which tells who sent them.
    awaited = _FORWARDED | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    in_child = _rank_main.tied_to_parent(before)
    try:
        sys.stdout.flush()
        with subprocess.Popen(words, env=environment, preexec_fn=in_child) as process:  # noqa: PLW1509 (one thread)
            received = _attend(process, awaited)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    code = process.returncode
    if code < 0:
        return 128 - code
    # OpenMPI's mpirun says 1 when a signal ended it.
    return 128 + received if received and code else code


def _attend(process: subprocess.Popen[bytes], awaited: set[signal.Signals]) -> int:
    """Waits for the command; returns the number of the last signal that asked for its end, or 0."""
    received = 0
    while process.poll() is None:
        info = signal.sigtimedwait(awaited, 1.0)
        if info is None or info.si_signo == signal.SIGCHLD:
            continue
        if info.si_signo not in (signal.SIGUSR1, signal.SIGUSR2):
            received = info.si_signo
        if info.si_code != _SI_KERNEL and process.poll() is None:
            process.send_signal(info.si_signo)
    return received


def _check_script(options: Options) -> None:
    """Says once what each rank would say otherwise; not where the ranks run on other hosts or in another folder."""
    elsewhere = options.hostfile or options.hosts or options.launcher_names & {"wd", "wdir"}
    if not (options.module or options.no_python or elsewhere) and not Path(options.program).exists():
        raise UsageError(f"there is no file {options.program}")


def _rank_command(mpiexec: _mpiexec.Mpiexec, options: Options) -> list[str]:
    words = [sys.executable, "-m", "torch_rmpi._rank_main"]
    if mpiexec.family == "mpich":
        words.append("--supervise")
    if not options.no_python:
        words.append(sys.executable)
        if options.module:
            words.append("-m")
    return [*words, options.program, *options.arguments]


if __name__ == "__main__":
    sys.exit(main())
