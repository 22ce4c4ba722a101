"""What a reduction gives depends on its inputs, ranks and nodes, bit for bit: not on who came first, nor on the set of
instructions."""

import pytest
from processes import BACKEND
from scripts import LIMIT, run

pytestmark = pytest.mark.skipif(BACKEND != "rmpi", reason="about how rmpi reduces")

SOURCE = """
import hashlib, os, random, time

names = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")
rank = int(next(os.environ[name] for name in names if name in os.environ))
if NODES:
    os.environ["TORCH_RMPI_NODE"] = NODES[rank]

import torch, torch.distributed as dist

dist.init_process_group("rmpi", init_method="mpi://")
size = dist.get_world_size()
delays = random.Random(SEED * 100 + rank)

def given(dtype, count):
    # Of very different magnitudes: in another order they have another sum.
    generator = torch.Generator().manual_seed(7 * count + rank)
    exponents = torch.randint(-12, 12, (count,), generator=generator)
    return (torch.randn(count, generator=generator) * 2.0**exponents).to(dtype)

def reduce_everything():
    digest = hashlib.sha256()
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        # Within a cache line, a slot, several slots; and what is divided among ranks.
        for count in (1, 1_003, 100_003):
            for op in (dist.ReduceOp.SUM, dist.ReduceOp.AVG, dist.ReduceOp.PRODUCT):
                whole = given(dtype, count * size)
                tensor, to_root, part = whole[:count].clone(), whole[:count].clone(), torch.empty(count, dtype=dtype)
                time.sleep(delays.random() * 0.003)
                works = [dist.all_reduce(tensor, op, async_op=True), dist.reduce(to_root, 0, op, async_op=True)]
                time.sleep(delays.random() * 0.003)
                dist.reduce_scatter_tensor(part, whole, op)
                parts = [torch.empty_like(part) for _ in range(size)]
                dist.all_gather(parts, part)
                for work in works:
                    work.wait()
                for result in (tensor, *parts, *([to_root] if rank == 0 else [])):
                    digest.update(bytes(result.view(torch.uint8).numpy()))
    return digest.hexdigest()

digests = {reduce_everything() for _ in range(2)}
assert len(digests) == 1, "another result the second time"
if rank == 0:
    print("DIGEST", *digests, flush=True)
dist.destroy_process_group()
"""


def digest(folder, seed, nodes="", **env):
    folder = folder / str(seed)
    folder.mkdir()
    ended = run(folder, f"SEED, NODES = {seed}, {nodes!r}\n{SOURCE}", ranks=3, env=env, limit=2 * LIMIT)
    assert ended.code == 0, ended.output
    (found,) = ended.printed("DIGEST")
    return found


def test_timing_and_instructions_change_nothing(tmp_path):
    found = {
        digest(tmp_path, 1),
        digest(tmp_path, 2, TORCH_RMPI_SIMD="baseline"),
        digest(tmp_path, 3, TORCH_RMPI_SIMD="avx2"),
        digest(tmp_path, 7, TORCH_RMPI_SIMD="avx512"),
        digest(tmp_path, 8, TORCH_RMPI_SIMD="avx512_bf16"),
        # Ranks that share no memory reduce in the same order.
        digest(tmp_path, 4, nodes="abc"),
    }
    assert len(found) == 1


def test_timing_changes_nothing_between_nodes(tmp_path):
    assert digest(tmp_path, 5, nodes="abb") == digest(tmp_path, 6, nodes="abb", TORCH_RMPI_SIMD="baseline")
