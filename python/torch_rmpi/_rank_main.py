"""What `torch_rmpi.run` starts on each rank: sets LOCAL_RANK and its kin, then becomes (or watches) the program.

`python -m torch_rmpi._rank_main [--supervise] PROGRAM ARGUMENTS...`

`--supervise` is for hydra (MPICH, Intel MPI), which reports a rank killed by signal N as N, which reads as a plain exit
code, and lets the others wait forever for a rank that ends badly before it has started MPI. There this process stays,
passes signals on, and turns a bad end into an abort of the job with the exit code that a shell would give.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Collection
from types import FrameType

from torch_rmpi import _launcher_env

_PR_SET_PDEATHSIG = 1
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)


def main() -> int:
    """Returns the exit code when it supervises; otherwise it is replaced by the program and does not return."""
    arguments = sys.argv[1:]
    supervise = arguments[:1] == ["--supervise"]
    program = arguments[1:] if supervise else arguments
    set_environment()
    if not supervise:
        return _become(program)
    child = os.fork()
    if child == 0:
        return _become(program)
    return _watch(child)


def set_environment() -> None:
    """Sets LOCAL_RANK and LOCAL_WORLD_SIZE, and OMP_NUM_THREADS if nobody has.

    RANK and WORLD_SIZE stay unset: they would promise an env:// rendezvous, which needs an address too.
    """
    # A rank that starts a job of its own: the place that its children inherit the claim to is not theirs.
    os.environ.pop(_launcher_env.CLAIM, None)
    _launcher_env.forget_outer()
    launch = _launcher_env.detect()
    if launch is None:
        return
    if launch.local_rank is not None:
        os.environ["LOCAL_RANK"] = str(launch.local_rank)
    if launch.local_size is not None:
        os.environ["LOCAL_WORLD_SIZE"] = str(launch.local_size)
        # The cores are shared among the ranks of the machine: with a thread per core in each rank they would fight.
        cores = len(os.sched_getaffinity(0))
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // max(1, launch.local_size))))


def die_with_parent(signal_number: int) -> None:
    """Asks Linux to send this process a signal when its parent ends; it holds for the program exec'd later too."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def tied_to_parent(blocked: Collection[int]) -> Callable[[], None]:
    """What a child runs before it becomes its program (`preexec_fn`) so that it gets SIGTERM when this process ends.

    Args:
        blocked: the signals that are blocked in the program.
    """
    parent = os.getpid()

    def in_child() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        die_with_parent(signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(128 + signal.SIGTERM)

    return in_child


def _become(program: list[str]) -> int:
    # A launcher that is killed cannot clean up; its ranks must not live on.
    die_with_parent(signal.SIGKILL)
    try:
        os.execvp(program[0], program)
    except OSError as error:
        print(f"torch_rmpi.run: cannot start {program[0]}: {error.strerror}", file=sys.stderr)
        # As a shell does: 127 for what is not there, 126 for what cannot be run.
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def _watch(child: int) -> int:
    def forward(signal_number: int, _frame: FrameType | None) -> None:
        os.kill(child, signal_number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    die_with_parent(signal.SIGTERM)
    # Waits without reaping it: until then no other process can have its number.
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    for number in _FORWARDED:
        signal.signal(number, signal.SIG_IGN)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        code = 128 - code
    if code != 0:
        _abort_job(code)
    return code


def _abort_job(code: int) -> None:
    """Asks hydra to end the job with this code: what MPI_Abort sends it, in PMI-1's words."""
    descriptor = os.environ.get("PMI_FD", "")
    if not descriptor.isdecimal():
        return
    try:
        os.write(int(descriptor), f"cmd=abort exitcode={code}\n".encode())
    except OSError as error:
        # hydra has ended the job already, or speaks another protocol; it still gets the exit code.
        print(f"torch_rmpi.run: could not tell mpiexec of exit code {code}: {error.strerror}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
