"""`python -m torch_rmpi.run`: its command line, the command it makes, exit codes and signals.

A shell script stands for mpiexec, so these tests need no MPI; what it starts are real processes.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from torch_rmpi import _mpiexec
from torch_rmpi._launcher_options import UsageError, parse

# Starts the command as often as -n says, one after the other, with the variables that the real one sets.
MPIEXEC = """\
#!/bin/sh
if [ "$1" = --version ]; then echo "{version}"; exit 0; fi
ranks=1
while [ $# -gt 0 ]; do
  case "$1" in
    -n) ranks=$2; shift 2 ;;
    --bind-to) shift 2 ;;
    -*) shift ;;
    *) break ;;
  esac
done
if [ "$ranks" = 1 ]; then export {rank}=0 {local}=0; exec "$@"; fi
rank=0
while [ $rank -lt $ranks ]; do
  {rank}=$rank {size}=$ranks {local}=$rank {locals}=$ranks "$@" || exit $?
  rank=$((rank + 1))
done
"""
OPENMPI = {
    "version": "mpirun (Open MPI) 5.0.11",
    "rank": "OMPI_COMM_WORLD_RANK",
    "size": "OMPI_COMM_WORLD_SIZE",
    "local": "OMPI_COMM_WORLD_LOCAL_RANK",
    "locals": "OMPI_COMM_WORLD_LOCAL_SIZE",
}
HYDRA = {
    "version": "HYDRA build details:",
    "rank": "PMI_RANK",
    "size": "PMI_SIZE",
    "local": "MPI_LOCALRANKID",
    "locals": "MPI_LOCALNRANKS",
}


@pytest.fixture(params=[OPENMPI, HYDRA], ids=["openmpi", "mpich"])
def job(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which TORCH_RMPI_MPIEXEC points to a stand-in; a script written there can be run."""
    mpiexec = tmp_path / "mpiexec"
    mpiexec.write_text(MPIEXEC.format(**request.param))
    mpiexec.chmod(0o755)
    monkeypatch.setenv(_mpiexec.MPIEXEC_VARIABLE, str(mpiexec))
    # The stand-in may not be of the MPI that the package was built with.
    monkeypatch.setattr(_mpiexec, "_built_with", lambda: "unknown")
    for name in [name for name in os.environ if name.startswith(("OMPI_COMM", "PMI", "MPI_LOCAL", "SLURM"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path


# `-c`, for the replaced _built_with; otherwise it is `python -m torch_rmpi.run`.
RUN = (
    # Under nohup SIGHUP is ignored, and that is inherited.
    "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    "from torch_rmpi import _mpiexec, run; _mpiexec._built_with = lambda: 'unknown'; "
    "sys.exit(run.main(sys.argv[1:]))"
)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def script(folder: Path, text: str, name: str = "train.py") -> None:
    (folder / name).write_text(textwrap.dedent(text))


def test_ranks_get_their_arguments_and_local_rank(job: Path) -> None:
    script(job, "import os, sys; print(os.environ['LOCAL_RANK'], os.environ['LOCAL_WORLD_SIZE'], sys.argv[1:])")
    code, out, err = finish(start(job, "-n", "2", "train.py", "--lr", "a b", "-n", "$HOME"))
    assert (code, err) == (0, "")
    assert out.splitlines() == [f"{rank} 2 ['--lr', 'a b', '-n', '$HOME']" for rank in range(2)]


def test_a_module_and_a_program(job: Path) -> None:
    script(job, "print(__name__)", "mod.py")
    assert finish(start(job, "-n", "2", "-m", "mod"))[1].split() == ["__main__"] * 2
    assert finish(start(job, "-n", "1", "--no-python", "echo", "-n", "x"))[1] == "x"


def test_cores_are_shared_among_the_ranks_of_a_host(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(job, "import os; print(os.environ['OMP_NUM_THREADS'])")
    share = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert finish(start(job, "-n", "2", "train.py"))[1].split() == [share] * 2
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert finish(start(job, "-n", "2", "train.py"))[1].split() == ["7"] * 2


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_exit_code(job: Path, code: int) -> None:
    script(job, f"raise SystemExit({code})")
    assert finish(start(job, "-n", "2", "train.py"))[0] == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_rank_killed_by_a_signal(job: Path, number: signal.Signals) -> None:
    script(
        job, f"import os, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.kill(os.getpid(), {number:d})"
    )
    assert finish(start(job, "-n", "1", "train.py"))[0] == 128 + number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_ends_launcher_and_ranks(job: Path, number: signal.Signals) -> None:
    script(job, "import os, signal; signal.signal(2, signal.SIG_DFL); print(os.getpid(), flush=True); signal.pause()")
    process = start(job, "-n", "1", "train.py")
    assert process.stdout is not None
    rank = int(process.stdout.readline())
    process.send_signal(number)
    code = finish(process)[0]
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    deadline = time.monotonic() + 30
    while alive(rank):
        assert time.monotonic() < deadline, f"rank {rank} lives on"
        time.sleep(0.01)  # nothing tells a process of the end of one that is not its child


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_a_program_that_is_not_there(job: Path) -> None:
    code, _, err = finish(start(job, "-n", "1", "--no-python", "no-such-program"))
    assert code == 127
    assert "cannot start no-such-program" in err


def test_dry_run_prints_a_command_that_a_shell_can_run(job: Path) -> None:
    script(job, "import sys; print(sys.argv[1:])", "a script.py")
    _, out, _ = finish(start(job, "-n", "2", "--dry-run", "--", "a script.py", "it's", "a b"))
    again = subprocess.run(out, shell=True, cwd=job, capture_output=True, text=True, check=True)
    assert again.stdout.splitlines() == ["[\"it's\", 'a b']"] * 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no script"),
        (["train.py"], "how many ranks"),
        (["-n", "2"], "no script"),
        (["-n", "0", "train.py"], "1 or more"),
        (["-n", "two", "train.py"], "1 or more"),
        (["-n"], "-n needs a value"),
        (["-n", "2", "-m"], "name of a module"),
        (["-n", "2", "--"], "no script after --"),
        (["-n", "2", "--map-by"], "--map-by needs a value"),
        (["-n", "2", "--unknown", "train"], "write `--` before the script"),
        (["-n", "2", "--no-python", "-m", "mod"], "exclude each other"),
    ],
)
def test_wrong_use(words: list[str], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(words)
    assert told in str(caught.value)


def test_wrong_use_is_one_line_and_exit_code_2(job: Path) -> None:
    code, out, err = finish(start(job, "-n", "2", "missing.py"))
    assert (code, out) == (2, "")
    assert err.startswith("torch_rmpi.run: there is no file missing.py\n")


@pytest.mark.parametrize(
    ("line", "launcher", "program", "arguments"),
    [
        ("-n 2 train.py --mca x", [], "train.py", ["--mca", "x"]),
        ("-n 2 --mca btl tcp,self train.py", ["--mca", "btl", "tcp,self"], "train.py", []),
        ("-n 2 --map-by ppr:2:node train", ["--map-by", "ppr:2:node"], "train", []),
        ("-n 2 --report-bindings train.py a", ["--report-bindings"], "train.py", ["a"]),
        ("-n 2 --new 1 2 train.py a", ["--new", "1", "2"], "train.py", ["a"]),
        ("-n 2 --new=1 train", ["--new=1"], "train", []),
        ("-n 2 --new -- train a", ["--new"], "train", ["a"]),
        ("-n 2 -- -m mod", [], "mod", []),
    ],
)
def test_where_the_script_begins(line: str, launcher: list[str], program: str, arguments: list[str]) -> None:
    options = parse(shlex.split(line))
    assert (options.launcher, options.program, options.arguments) == (launcher, program, arguments)


def command(family: str, line: str) -> str:
    return shlex.join(_mpiexec.arguments(_mpiexec.Mpiexec(["mpiexec"], family), parse(shlex.split(line))))


@pytest.mark.parametrize(
    ("line", "openmpi", "mpich"),
    [
        ("-n 4 t.py", "mpiexec -n 4 --oversubscribe --bind-to none", "mpiexec -n 4"),
        ("-n 4 --bind-to core t.py", "mpiexec -n 4 --oversubscribe --bind-to core", "mpiexec -n 4 --bind-to core"),
        (
            "-n 2 --map-by slot:PE=1 t.py",
            "mpiexec -n 2 --oversubscribe --map-by slot:PE=1",
            "mpiexec -n 2 --map-by slot:PE=1",
        ),
        ("--hostfile h t.py", "mpiexec --bind-to none --hostfile h", "mpiexec -f h"),
        ("-np 2 -H a,b t.py", "mpiexec -n 2 --bind-to none --host a,b", "mpiexec -n 2 -hosts a,b"),
        ("-n=1 -x A=1 -x B t.py", "mpiexec -n 1 --oversubscribe --bind-to none -x A=1 -x B", "mpiexec -n 1 -genv A 1"),
    ],
)
def test_the_dialects(line: str, openmpi: str, mpich: str) -> None:
    assert command("openmpi", line) == openmpi
    assert command("mpich", line) == mpich


def test_a_launcher_of_another_mpi_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mpiexec = tmp_path / "mpiexec"
    mpiexec.write_text(MPIEXEC.format(**HYDRA))
    mpiexec.chmod(0o755)
    monkeypatch.setenv(_mpiexec.MPIEXEC_VARIABLE, str(mpiexec))
    monkeypatch.setattr(_mpiexec, "_built_with", lambda: "openmpi")
    with pytest.raises(_mpiexec.LauncherError, match="is the launcher of MPICH, but torch_rmpi was built with OpenMPI"):
        _mpiexec.find()


def test_a_launcher_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_mpiexec.MPIEXEC_VARIABLE, "no-such-mpiexec --flag")
    with pytest.raises(_mpiexec.LauncherError, match="there is no such program"):
        _mpiexec.find()
