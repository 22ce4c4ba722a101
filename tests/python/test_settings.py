"""Settings: from options, from variables, shown, refused, and different on different ranks."""

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from multirank import multirank
from processes import BACKEND
from scripts import run

pytestmark = pytest.mark.skipif(BACKEND != "rmpi", reason="about the settings of rmpi")

START = """
import os
import torch, torch.distributed as dist
RANK = int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["PMI_RANK"])
def start(**options):
    dist.init_process_group("rmpi", init_method="mpi://", **options)
"""

END = """
tensor = torch.ones(100_003)
dist.all_reduce(tensor)
assert (tensor == dist.get_world_size()).all()
dist.destroy_process_group()
"""


def options(**settings):
    from torch_rmpi._C import Options

    made = Options()
    for name, value in settings.items():
        assert hasattr(made, name)
        setattr(made, name, value)
    return made


def backend(group):
    return group._get_backend(torch.device("cpu"))


def check_every_collective(ctx, group):
    rank, size = ctx.rank, ctx.size
    # 1 MiB and a bit, which no slot divides.
    n = 262_144 + 3

    def values(of, salt=0):
        return torch.arange(n, dtype=torch.int32) % 1009 * (of + 2) + salt

    total = sum(values(of) for of in range(size))
    tensor = values(rank)
    dist.all_reduce(tensor, group=group)
    assert torch.equal(tensor, total)
    for root in range(size):
        tensor = values(rank)
        dist.reduce(tensor, group=group, group_dst=root)
        assert rank != root or torch.equal(tensor, total)
        tensor = values(rank)
        dist.broadcast(tensor, group=group, group_src=root)
        assert torch.equal(tensor, values(root))
        gathered = [torch.zeros(n, dtype=torch.int32) for _ in range(size)]
        dist.gather(values(rank), gathered if rank == root else None, group=group, group_dst=root)
        assert rank != root or all(torch.equal(got, values(of)) for of, got in enumerate(gathered))
        output = torch.zeros(n, dtype=torch.int32)
        inputs = [values(root, to) for to in range(size)] if rank == root else None
        dist.scatter(output, inputs, group=group, group_src=root)
        assert torch.equal(output, values(root, rank))
    gathered = [torch.zeros(n, dtype=torch.int32) for _ in range(size)]
    dist.all_gather(gathered, values(rank), group=group)
    assert all(torch.equal(got, values(of)) for of, got in enumerate(gathered))
    output = torch.zeros(n, dtype=torch.int32)
    dist.reduce_scatter(output, [values(rank, to) for to in range(size)], group=group)
    assert torch.equal(output, total + size * rank)
    outputs = [torch.zeros(n + rank, dtype=torch.int32) for _ in range(size)]
    ones = torch.ones(size, dtype=torch.int32)
    dist.all_to_all(outputs, [torch.cat([values(rank), ones[:to]]) for to in range(size)], group=group)
    assert all(torch.equal(got, torch.cat([values(of), ones[:rank]])) for of, got in enumerate(outputs))
    dist.barrier(group)
    if size > 1:
        received = torch.zeros(n, dtype=torch.int32)
        work = dist.isend(values(rank), group=group, group_dst=(rank + 1) % size)
        dist.recv(received, group=group, group_src=(rank - 1) % size)
        work.wait()
        assert torch.equal(received, values((rank - 1) % size))


@multirank(1, 2, 3, 4, gloo=False)
def test_results_do_not_depend_on_settings(ctx):
    for chosen in (
        {"chunk_bytes": 4096, "divide_bytes": 0, "leader_bytes": 0, "gather_bytes": 0, "tree_bytes": 0},
        {"chunk_bytes": 4160, "single_copy": "always", "spins": 0, "stream_bytes": 1 << 30},
        {"divide_bytes": 1 << 24, "leader_bytes": 1 << 24, "gather_bytes": 1 << 26, "tree_bytes": 1 << 24},
        {"inline_bytes": 1 << 24, "single_copy": "never", "stream_bytes": 0},
        {"shm": False, "inline_bytes": 0},
    ):
        group = ctx.new_group(pg_options=options(**chosen))
        check_every_collective(ctx, group)
        found = {name: (value, source) for name, _, value, source in backend(group).settings()}
        assert {name for name, (_, source) in found.items() if source == "options"} == set(chosen)
        assert len(found) == 10
        if "chunk_bytes" in chosen:
            expected = {4096: "4K", 4160: "4160"}[chosen["chunk_bytes"]]
            assert found["chunk_bytes"] == (expected, "options")


@multirank(2, 3, gloo=False)
def test_different_settings_are_an_error_everywhere(ctx):
    for name, value, shown in (
        ("chunk_bytes", 8192, "8K"),
        ("divide_bytes", 0, "0"),
        ("shm", False, "0"),
        ("single_copy", "never", "never"),
    ):
        odd = ctx.size - 1
        mine = options(**{name: value}) if ctx.rank == odd else options()
        error = ctx.error_of(ctx.new_group, pg_options=mine)
        assert isinstance(error, dist.DistBackendError)
        assert f"{name} (TORCH_RMPI_{name.upper()}) is " in str(error), error
        assert f"{shown} on rank {odd}" in str(error), error
        assert "(the default) on rank" in str(error), error
    # The same value is agreed on whoever says it; spinning, caches and the caller's thread are each rank's own affair.
    mine = {"chunk_bytes": 256 << 10, "spins": 3, "inline_bytes": 5, "stream_bytes": 7} if ctx.rank == 0 else {}
    check_every_collective(ctx, ctx.new_group(pg_options=options(**mine)))


@multirank(2, gloo=False)
def test_options_out_of_range(ctx):
    for name, value, allowed in (
        ("chunk_bytes", 4100, "a multiple of 64"),
        ("chunk_bytes", 1, "from 4K to 64M"),
        ("inline_bytes", -1, "a number of bytes"),
        ("spins", -1, "a whole number"),
        ("single_copy", "sometimes", "auto or always or never"),
    ):
        error = ctx.error_of(ctx.new_group, pg_options=options(**{name: value}))
        assert isinstance(error, ValueError)
        assert f"the option {name} is " in str(error), error
        assert allowed in str(error), error
    assert ctx.same(dist.get_world_size(ctx.new_group())) == 2


def test_options_of_the_default_group(tmp_path):
    source = f"""
{START}
from torch_rmpi._C import Options
options = Options()
options.chunk_bytes = 4096
options.spins = 0
start(pg_options=options)
backend = dist.group.WORLD._get_backend(torch.device("cpu"))
print("FOUND", [entry for entry in backend.settings() if entry[3] != "default"], flush=True)
{END}"""
    variables = {"TORCH_RMPI_SPINS": "5", "TORCH_RMPI_DIVIDE_BYTES": "1K", "TORCH_RMPI_STREAM_BYTES": "9K"}
    ended = run(tmp_path, source, env=variables)
    assert ended.code == 0, ended.output
    expected = [
        ("chunk_bytes", "TORCH_RMPI_CHUNK_BYTES", "4K", "options"),
        ("divide_bytes", "TORCH_RMPI_DIVIDE_BYTES", "1K", "variable"),
        ("stream_bytes", "TORCH_RMPI_STREAM_BYTES", "9K", "variable"),
        ("spins", "TORCH_RMPI_SPINS", "0", "options"),
    ]
    assert ended.printed("FOUND") == [str(expected)] * 2


def test_variables_are_logged_and_obeyed(tmp_path):
    env = {"TORCH_RMPI_SHM": "0", "TORCH_RMPI_CHUNK_BYTES": "8k", "TORCH_RMPI_LOG": "info"}
    ended = run(tmp_path, f"{START}\nstart()\n{END}", env=env)
    assert ended.code == 0, ended.output
    assert "shm=0 (variable)" in ended.output
    assert "chunk_bytes=8K (variable)" in ended.output
    assert "inline_bytes=128K divide_bytes=16K stream_bytes=4M" in ended.output
    assert "over shared memory" not in ended.output


@pytest.mark.parametrize(
    ("variable", "text", "allowed"),
    [
        ("TORCH_RMPI_CHUNK_BYTES", "huge", "a number of bytes from 4K to 64M"),
        ("TORCH_RMPI_SHM", "no", "it takes 0 or 1"),
        ("TORCH_RMPI_SINGLE_COPY", "yes", "auto or always or never"),
        ("TORCH_RMPI_SIMD", "fast", "baseline or avx2 or avx512 or avx512_bf16"),
    ],
)
def test_variables_that_are_not_understood(tmp_path, variable, text, allowed):
    source = f"""
{START}
try:
    start()
except ValueError as error:
    print("REFUSED", error, flush=True)
"""
    ended = run(tmp_path, source, env={variable: text})
    assert ended.code == 0, ended.output
    refused = ended.printed("REFUSED")
    assert len(refused) == 2, ended.output
    assert all(f'{variable} is "{text}"' in line and allowed in line for line in refused), refused


def test_variables_that_differ(tmp_path):
    source = f"""
{START}
if RANK == 1:
    os.environ["TORCH_RMPI_CHUNK_BYTES"] = "4K"
try:
    start()
except dist.DistBackendError as error:
    print("REFUSED", error, flush=True)
"""
    ended = run(tmp_path, source, ranks=3)
    assert ended.code == 0, ended.output
    refused = ended.printed("REFUSED")
    assert len(refused) == 3, ended.output
    told = "is 256K (the default) on ranks 0, 2, 4K on rank 1"
    assert all(told in line and "TORCH_RMPI_CHUNK_BYTES" in line for line in refused), refused


def test_the_summary_shows_them():
    def summary(**variables):
        command = [sys.executable, "-m", "torch_rmpi"]
        return subprocess.run(
            command, env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=120
        )

    done = summary(TORCH_RMPI_DIVIDE_BYTES="2048")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "divide_bytes: 2K (TORCH_RMPI_DIVIDE_BYTES)" in lines
    assert "inline_bytes: 128K (default)" in lines
    assert "chunk_bytes: by the number of ranks (default)" in lines
    done = summary(TORCH_RMPI_SPINS="often")
    assert done.returncode == 1
    assert 'TORCH_RMPI_SPINS is "often"' in done.stdout


def test_named_domains_divide_the_ranks_of_a_group(tmp_path):
    source = f"""{START}
os.environ["TORCH_RMPI_DOMAIN"] = "xy"[RANK % 2]
start()
{END}"""
    ended = run(tmp_path, source, ranks=4, env={"TORCH_RMPI_LOG": "debug"})
    assert ended.code == 0, ended.output
    for rank in range(4):
        assert f"rank {rank} is on a node with 2 domains of 2, 2 ranks" in ended.output, ended.output
