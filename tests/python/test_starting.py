"""How a job starts: init methods, names of the backend, launchers, what an import does."""

import subprocess
import sys

import pytest
from processes import Job, environment, free_port
from scripts import end, run, run_well

IMPORTS = "import torch, torch.distributed as dist\n"
# Checks a default group, however it was made.
CHECK = """
tensor = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(tensor)
assert tensor.item() == sum(range(1, dist.get_world_size() + 1)), tensor
print("SIZE", dist.get_world_size(), flush=True)
dist.destroy_process_group()
"""
# What a launcher says, for init methods that want to be told.
MPI_RANK = """
import os
def env(*names):
    return int(next(os.environ[name] for name in names if name in os.environ))
rank = env("OMPI_COMM_WORLD_RANK", "PMI_RANK")
size = env("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""

METHODS = {
    "mpi": "dist.init_process_group('rmpi', init_method='mpi://')",
    "env": """
os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR='127.0.0.1', MASTER_PORT='@PORT@')
dist.init_process_group('rmpi')
for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
    del os.environ[name]
""",
    "tcp": "dist.init_process_group('rmpi', init_method='tcp://127.0.0.1:@PORT@', rank=rank, world_size=size)",
    "file": "dist.init_process_group('rmpi', init_method='file://@FOLDER@/first', rank=rank, world_size=size)",
    "store": """
store = dist.TCPStore('127.0.0.1', @PORT@, size, rank == 0)
dist.init_process_group('rmpi', store=store, rank=rank, world_size=size)
""",
    "one device": "dist.init_process_group('cpu:rmpi', init_method='mpi://')",
    "all devices": "dist.init_process_group('cpu:rmpi,cuda:rmpi', init_method='mpi://')",
    "ranks in another order than MPI's": """
dist.init_process_group('rmpi', init_method='file://@FOLDER@/second', rank=size - 1 - rank, world_size=size)
assert dist.get_rank() == size - 1 - rank
outputs = [torch.zeros(1) for _ in range(size)]
dist.all_gather(outputs, torch.tensor([float(dist.get_rank())]))
assert [output.item() for output in outputs] == list(range(size))
""",
    "a second init is refused": """
dist.init_process_group('rmpi', init_method='mpi://')
try:
    dist.init_process_group('rmpi', init_method='mpi://')
except ValueError as error:
    assert 'twice' in str(error)
else:
    raise AssertionError('not refused')
""",
}


@pytest.fixture(scope="module")
def initialised(tmp_path_factory):
    """One job that initialises by every method in turn, and prints those by which a collective then worked."""
    folder = tmp_path_factory.mktemp("methods")
    parts = [IMPORTS, MPI_RANK, "import traceback\n"]
    for name, method in METHODS.items():
        source = method.replace("@FOLDER@", str(folder)).replace("@PORT@", str(free_port()))
        body = "\n".join("    " + line for line in (source + CHECK).strip().splitlines())
        parts.append(f'try:\n{body}\n    print("WORKED", {name!r}, flush=True)\nexcept Exception:\n')
        parts.append(f'    print("FAILED", {name!r}, flush=True)\n    raise\n')
    return run(folder, "".join(parts), ranks=3)


@pytest.mark.parametrize("method", METHODS)
def test_init_method(initialised, method):
    assert initialised.printed("WORKED").count(method) == 3, initialised.output


def test_the_job_of_all_init_methods_ends_well(initialised):
    assert initialised.code == 0, initialised.output


def check(folder, init, ranks=2, **options):
    ended = run_well(folder, IMPORTS + init + CHECK, ranks, **options)
    assert ended.printed("SIZE") == [str(ranks)] * ranks
    return ended


def test_name_mpi_is_a_drop_in(tmp_path):
    """A script written for torch's own MPI backend, subgroups included."""
    body = """
dist.init_process_group('mpi')
assert dist.get_backend() == 'mpi'
group = dist.new_group([0, 1])
if dist.get_rank() < 2:
    tensor = torch.ones(2)
    dist.all_reduce(tensor, group=group)
    assert tensor.tolist() == [2, 2]
"""
    check(tmp_path, body, ranks=3)


def test_backend_string_with_cuda(tmp_path):
    """The CPU half works whether or not the other half can; without CUDA torch's own error is allowed."""
    body = """
try:
    dist.init_process_group('cpu:rmpi,cuda:nccl', init_method='mpi://')
except (RuntimeError, ValueError, AssertionError) as error:
    print("REFUSED", type(error).__name__, str(error).splitlines()[0], flush=True)
else:
    tensor = torch.ones(1)
    dist.all_reduce(tensor)
    print("SUM", tensor.item(), flush=True)
    dist.destroy_process_group()
"""
    ended = run(tmp_path, IMPORTS + body)
    assert ended.code == 0, ended.output
    refused = ended.printed("REFUSED")
    by_torch = len(refused) == 2 and "nccl" in "".join(refused).lower()
    assert by_torch or ended.printed("SUM") == ["2.0"] * 2, ended.output


def test_one_rank(tmp_path):
    check(tmp_path, METHODS["mpi"], ranks=1)


def test_one_process_without_a_launcher(tmp_path):
    check(tmp_path, METHODS["mpi"], ranks=1, command=[sys.executable])


def assert_refused_clearly(ended):
    """Never two groups of one: either the real size, or an error that says what to do."""
    assert ended.printed("SIZE") in ([], ["2", "2"]), ended.output
    if not ended.printed("SIZE"):
        assert ended.code != 0
        assert "torch_rmpi.run" in ended.output or "mpirun" in ended.output, ended.output


def test_two_plain_processes(tmp_path):
    (tmp_path / "script.py").write_text(IMPORTS + "dist.init_process_group('rmpi')" + CHECK)
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    commands = [([sys.executable, "script.py"], {"RANK": str(rank)} | shared) for rank in range(2)]
    assert_refused_clearly(end(Job(commands, tmp_path / "output.log", cwd=tmp_path)))


@pytest.mark.parametrize("method", ["env://", "mpi://"])
def test_torchrun(tmp_path, method):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    source = IMPORTS + f"dist.init_process_group('rmpi', init_method='{method}')" + CHECK
    assert_refused_clearly(run(tmp_path, source, command=command, limit=90))


def test_import_starts_nothing(tmp_path):
    """No thread, no MPI, no library of the plugin."""
    source = """
import os, sys
import torch, torch.distributed as dist
threads = len(os.listdir('/proc/self/task'))
import torch_rmpi
assert len(os.listdir('/proc/self/task')) == threads, os.listdir('/proc/self/task')
maps = open('/proc/self/maps').read()
assert 'torch_rmpi' not in maps and 'libmpi' not in maps and 'librmpi' not in maps
assert 'torch_rmpi._C' not in sys.modules
assert torch_rmpi.__version__
try:
    dist.all_reduce(torch.ones(1))
except ValueError as error:
    assert 'has not been initialized' in str(error)
print("FINE", flush=True)
"""
    ended = run_well(tmp_path, source, ranks=1, command=[sys.executable])
    assert ended.printed("FINE") == [""]


def test_torch_alone_has_no_more_threads_with_the_plugin():
    source = "import os, torch; print(len(os.listdir('/proc/self/task')))"
    counts = set()
    for autoload in ("0", "1"):
        env = environment(TORCH_DEVICE_BACKEND_AUTOLOAD=autoload)
        counts.add(subprocess.run([sys.executable, "-c", source], env=env, capture_output=True, check=True).stdout)
    assert len(counts) == 1, counts


def test_a_rank_that_never_comes(tmp_path):
    """Its peer fails with an error that names it, after the time it was given."""
    body = f"""
import datetime, sys, time
store = dist.TCPStore('127.0.0.1', {free_port()}, is_master=rank == 0, wait_for_workers=False)
if rank == 1:
    time.sleep(60)
try:
    dist.init_process_group('rmpi', store=store, rank=rank, world_size=size, timeout=datetime.timedelta(seconds=3))
except dist.DistError as error:
    print("ERROR", str(error).replace(chr(10), ' '), flush=True)
    sys.exit(3)
"""
    ended = run(tmp_path, IMPORTS + MPI_RANK + body)
    assert ended.code == 3, ended.output
    (message,) = ended.printed("ERROR")
    assert "have not come: 1." in message, ended.output


LATE = """
import datetime, os, signal, threading, time
if (os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("PMI_RANK")) == "1":
    time.sleep(60)
else:
    begun = time.monotonic()
    threading.Timer(INTERRUPT, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        dist.init_process_group("rmpi", init_method="mpi://", timeout=datetime.timedelta(seconds=TIMEOUT))
    except BaseException as error:
        print("ERROR", type(error).__name__, round(time.monotonic() - begun), flush=True)
    os._exit(3)
"""


def test_a_rank_that_is_late_for_mpi_init(tmp_path):
    """MPI_Init waits for all ranks, and nothing in MPI ends it; the timeout must not wait for it."""
    ended = run(tmp_path, IMPORTS + "TIMEOUT, INTERRUPT = 2, 300" + LATE)
    assert ended.printed("ERROR") in (["DistBackendError 2"], ["DistBackendError 3"]), ended.output


def test_ctrl_c_while_mpi_init_waits(tmp_path):
    ended = run(tmp_path, IMPORTS + "TIMEOUT, INTERRUPT = 300, 2" + LATE)
    assert ended.printed("ERROR") in (["KeyboardInterrupt 2"], ["KeyboardInterrupt 3"]), ended.output


def test_log_has_a_line_for_each_group(tmp_path):
    body = METHODS["mpi"] + "\ndist.new_group([0, 1])\n"
    ended = run(tmp_path, IMPORTS + body + CHECK, env={"TORCH_RMPI_LOG": "info"})
    assert ended.code == 0, ended.output
    lines = [line for line in ended.output.splitlines() if "rmpi" in line and 'group "' in line]
    assert len(lines) >= 4, ended.output


def test_launcher_passes_everything_on(tmp_path):
    """Arguments, a module instead of a script, the environment, LOCAL_RANK, the exit code."""
    (tmp_path / "mine.py").write_text(
        "import os, sys\nprint('ARGS', sys.argv[1:], os.environ['NAME'], os.environ['LOCAL_RANK'])\nsys.exit(7)\n"
    )
    command = [sys.executable, "-m", "torch_rmpi.run", "-n", "2", "-m", "mine", "--alpha", "b c"]
    env = {"PYTHONPATH": str(tmp_path), "NAME": "x y"}
    ended = end(Job([(command, env)], tmp_path / "output.log", cwd=tmp_path))
    assert ended.code == 7, ended.output
    # One may be ended before it has printed, once the other has left with a code that is not 0.
    assert set(ended.printed("ARGS")) <= {f"['--alpha', 'b c'] x y {rank}" for rank in range(2)}
    assert ended.printed("ARGS")
