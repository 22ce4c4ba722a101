"""How a job starts: init methods, names of the backend, launchers, what an import does."""

import subprocess
import sys

import pytest
from processes import Job, environment, free_port
from scripts import end, run, run_well

# Checks a default group, however it was made.
CHECK = """
tensor = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(tensor)
assert tensor.item() == sum(range(1, dist.get_world_size() + 1)), tensor
print("SIZE", dist.get_world_size(), flush=True)
dist.destroy_process_group()
"""
MPI_RANK = """
import os
def env(*names):
    return int(next(os.environ[name] for name in names if name in os.environ))
rank = env("OMPI_COMM_WORLD_RANK", "PMI_RANK")
size = env("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""
IMPORTS = "import torch, torch.distributed as dist\n"


def check(folder, init, ranks=2, before="", **options):
    ended = run_well(folder, IMPORTS + before + init + CHECK, ranks, **options)
    assert ended.printed("SIZE") == [str(ranks)] * ranks
    return ended


def test_mpi_init_method_without_any_variable(tmp_path):
    check(tmp_path, "dist.init_process_group('rmpi', init_method='mpi://')", ranks=3)


def test_env_init_method(tmp_path):
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    before = MPI_RANK + "os.environ.update(RANK=str(rank), WORLD_SIZE=str(size))\n"
    check(tmp_path, "dist.init_process_group('rmpi')", before=before, env=env)


def test_tcp_init_method(tmp_path):
    url = f"tcp://127.0.0.1:{free_port()}"
    check(
        tmp_path, f"dist.init_process_group('rmpi', init_method='{url}', rank=rank, world_size=size)", before=MPI_RANK
    )


def test_file_init_method(tmp_path):
    url = f"file://{tmp_path}/rendezvous"
    check(
        tmp_path, f"dist.init_process_group('rmpi', init_method='{url}', rank=rank, world_size=size)", before=MPI_RANK
    )


def test_explicit_store(tmp_path):
    store = f"store = dist.TCPStore('127.0.0.1', {free_port()}, size, rank == 0)\n"
    check(
        tmp_path,
        "dist.init_process_group('rmpi', store=store, rank=rank, world_size=size)",
        before=MPI_RANK + store,
    )


def test_ranks_need_not_be_mpi_ranks(tmp_path):
    """torch's rank is what the user says, in another order than MPI's."""
    url = f"file://{tmp_path}/rendezvous"
    body = f"""
rank = size - 1 - rank
dist.init_process_group('rmpi', init_method='{url}', rank=rank, world_size=size)
outputs = [torch.zeros(1) for _ in range(size)]
dist.all_gather(outputs, torch.tensor([float(rank)]))
assert [output.item() for output in outputs] == list(range(size))
"""
    check(tmp_path, body, ranks=3, before=MPI_RANK)


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


def test_backend_string_of_one_device(tmp_path):
    check(tmp_path, "dist.init_process_group('cpu:rmpi', init_method='mpi://')")


def test_backend_string_with_cuda(tmp_path):
    """The CPU half works whether or not the other half can; without CUDA torch's own error is allowed."""
    source = (
        IMPORTS
        + """
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
    )
    ended = run(tmp_path, source)
    assert ended.code == 0, ended.output
    refused = ended.printed("REFUSED")
    assert ended.printed("SUM") == ["2.0"] * 2 or (len(refused) == 2 and "nccl" in "".join(refused).lower()), (
        ended.output
    )


def test_rmpi_for_all_devices_of_the_string(tmp_path):
    check(tmp_path, "dist.init_process_group('cpu:rmpi,cuda:rmpi', init_method='mpi://')")


def test_default_group_of_one(tmp_path):
    check(tmp_path, "dist.init_process_group('rmpi', init_method='mpi://')", ranks=1)


def test_one_process_without_a_launcher(tmp_path):
    check(tmp_path, "dist.init_process_group('rmpi', init_method='mpi://')", ranks=1, command=[sys.executable])


def assert_refused_clearly(ended, ranks=2):
    """Never that many groups of one: either the real size, or an error that says what to do."""
    assert ended.printed("SIZE") in ([], [str(ranks)] * ranks), ended.output
    if not ended.printed("SIZE"):
        assert ended.code != 0
        assert "torch_rmpi.run" in ended.output or "mpirun" in ended.output, ended.output


def test_two_plain_processes(tmp_path):
    (tmp_path / "script.py").write_text(IMPORTS + "dist.init_process_group('rmpi')" + CHECK)
    port = str(free_port())
    commands = [
        (
            [sys.executable, "script.py"],
            {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        )
        for rank in range(2)
    ]
    assert_refused_clearly(end(Job(commands, tmp_path / "output.log", cwd=tmp_path)))


def test_torchrun(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = run(tmp_path, IMPORTS + "dist.init_process_group('rmpi')" + CHECK, command=command, limit=90)
    assert_refused_clearly(ended)


def test_torchrun_with_the_mpi_init_method(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    source = IMPORTS + "dist.init_process_group('rmpi', init_method='mpi://')" + CHECK
    assert_refused_clearly(run(tmp_path, source, command=command, limit=90))


def test_import_starts_nothing(tmp_path):
    """No thread, no MPI, no library of the plugin; and no import of it is needed to find the backend."""
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
print("FINE", flush=True)
"""
    ended = run_well(tmp_path, source, ranks=1, command=[sys.executable])
    assert ended.printed("FINE") == [""]


def test_torch_alone_starts_no_thread_more_than_without_the_plugin(tmp_path):
    source = "import os, torch; print('THREADS', len(os.listdir('/proc/self/task')))"
    counts = set()
    for autoload in ("0", "1"):
        env = environment(TORCH_DEVICE_BACKEND_AUTOLOAD=autoload)
        counts.add(subprocess.run([sys.executable, "-c", source], env=env, capture_output=True, check=True).stdout)
    assert len(counts) == 1, counts


def test_use_before_init(tmp_path):
    source = IMPORTS + "dist.all_reduce(torch.ones(1))"
    ended = run(tmp_path, source, ranks=1, command=[sys.executable])
    assert ended.code == 1
    assert "ValueError: Default process group has not been initialized" in ended.output


def test_a_second_init_is_refused(tmp_path):
    body = """
dist.init_process_group('rmpi', init_method='mpi://')
try:
    dist.init_process_group('rmpi', init_method='mpi://')
except ValueError as error:
    assert 'twice' in str(error)
else:
    raise SystemExit('not refused')
"""
    check(tmp_path, body)


def test_a_rank_that_never_comes(tmp_path):
    """Its peer fails with an error that names it, after the time it was given, and only then does it leave."""
    store = f"store = dist.TCPStore('127.0.0.1', {free_port()}, is_master=rank == 1, wait_for_workers=False)\n"
    body = """
import datetime
if rank == 1:
    store.wait(['given up'])
else:
    try:
        dist.init_process_group('rmpi', store=store, rank=rank, world_size=size,
                                timeout=datetime.timedelta(seconds=3))
    except dist.DistError as error:
        print("ERROR", str(error).replace(chr(10), ' '), flush=True)
    store.set('given up', '1')
"""
    ended = run(tmp_path, IMPORTS + MPI_RANK + store + body)
    (message,) = ended.printed("ERROR")
    assert "1" in message, ended.output


def test_log_has_a_line_for_each_group(tmp_path):
    env = {"TORCH_RMPI_LOG": "info"}
    body = "dist.init_process_group('rmpi', init_method='mpi://')\ndist.new_group([0, 1], group_desc='experts')\n"
    ended = run(tmp_path, IMPORTS + body + CHECK, env=env)
    assert ended.code == 0, ended.output
    lines = [line for line in ended.output.splitlines() if "rmpi" in line and "group" in line]
    assert len(lines) >= 4, ended.output
    assert any("experts" in line for line in lines), ended.output


@pytest.mark.parametrize("code", [0, 7, 255])
def test_launcher_passes_the_exit_code_on(tmp_path, code):
    assert run(tmp_path, f"raise SystemExit({code})").code == code


def test_launcher_passes_arguments_on(tmp_path):
    (tmp_path / "mine.py").write_text("import sys, os; print('ARGS', sys.argv[1:], os.environ['LOCAL_RANK'])")
    command = [sys.executable, "-m", "torch_rmpi.run", "-n", "2", "-m", "mine", "--alpha", "b c"]
    job = Job([(command, {"PYTHONPATH": str(tmp_path)})], tmp_path / "output.log", cwd=tmp_path)
    ended = end(job)
    assert ended.code == 0, ended.output
    assert ended.printed("ARGS") == ["['--alpha', 'b c'] 0", "['--alpha', 'b c'] 1"]


def test_environment_reaches_the_ranks(tmp_path):
    ended = run_well(tmp_path, "import os; print('VALUE', os.environ['SOME_NAME'])", env={"SOME_NAME": "x y"})
    assert ended.printed("VALUE") == ["x y"] * 2
