"""dist.all_reduce: sums of many sizes, the same bits on all ranks, one rounding for half types, sparse tensors."""

import pytest
import torch
import torch.distributed as dist
from multirank import multirank
from references import COUNTS, assert_reduced, bits, generator, values


@multirank(1, 2, 3, 4)
def test_sum_of_many_sizes(ctx):
    for count in [*COUNTS, 1_000_003]:
        tensor = values(torch.float32, count, count, ctx.rank)
        dist.all_reduce(tensor, group=ctx.group)
        assert_reduced(tensor, [values(torch.float32, count, count, rank) for rank in range(ctx.size)], "SUM")


@multirank(2, 3, 4)
def test_all_ranks_have_the_same_bits(ctx):
    """Also where the sum depends on the order of addition."""
    for count in [1, 5, 777, 50_000, 400_000]:
        for dtype in (torch.float32, torch.bfloat16):
            tensor = torch.randn(count, generator=generator(count, ctx.rank)).to(dtype)
            dist.all_reduce(tensor, group=ctx.group)
            words = bits(tensor).to(torch.int64)
            weights = torch.arange(1, words.numel() + 1)
            ctx.same(int((words * weights).sum()))


@multirank(2, 3, 4)
def test_random_values_to_rounding(ctx):
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        count = 10_000
        inputs = [torch.randn(count, generator=generator(7, rank), dtype=torch.float64) for rank in range(ctx.size)]
        tensor = inputs[ctx.rank].to(dtype, copy=True)
        dist.all_reduce(tensor, group=ctx.group)
        expected = sum(given.to(dtype).to(torch.float64) for given in inputs)
        torch.testing.assert_close(tensor.to(torch.float64), expected, rtol=tolerance, atol=10 * tolerance)


@multirank(2, 3, 4, gloo=False)
def test_half_types_round_once(ctx):
    """1 + n * eps/4 loses every small addend if each addition rounds; the true sum does not."""
    for dtype in (torch.bfloat16, torch.float16):
        epsilon = torch.finfo(dtype).eps
        for count in (2, 513, 100_000):
            inputs = [torch.full((count,), 1.0 if rank == 0 else 0.26 * epsilon) for rank in range(ctx.size)]
            inputs = [given.to(dtype) for given in inputs]
            tensor = inputs[ctx.rank].clone()
            dist.all_reduce(tensor, group=ctx.group)
            expected = sum(given.to(torch.float64) for given in inputs).to(torch.float32).to(dtype)
            assert torch.equal(tensor, expected), f"{dtype}: {tensor[0]} is not {expected[0]}"


@multirank(2, 4, gloo=False)
def test_random_half_values_round_once(ctx):
    for dtype in (torch.bfloat16, torch.float16):
        for count in (3, 1000, 70_001):
            inputs = [torch.randn(count, generator=generator(3, rank)).to(dtype) for rank in range(ctx.size)]
            tensor = inputs[ctx.rank].clone()
            dist.all_reduce(tensor, group=ctx.group)
            expected = sum(given.to(torch.float64) for given in inputs).to(torch.float32).to(dtype)
            # The double sum was rounded to f32 on the way, and ours was added in f32: at most the last bit may differ.
            assert_mostly_equal(tensor, expected)


def assert_mostly_equal(actual, expected):
    assert (actual == expected).float().mean() > 0.999
    torch.testing.assert_close(actual, expected, rtol=torch.finfo(actual.dtype).eps, atol=1e-4)


@multirank(2, 4, gloo=False)
def test_premultiplied_sum(ctx):
    given = [values(torch.float32, 33, rank) for rank in range(ctx.size)]
    for factor in (0.25, torch.tensor(0.25)):
        tensor = given[ctx.rank].clone()
        dist.all_reduce(tensor, dist._make_nccl_premul_sum(factor), group=ctx.group)
        assert torch.equal(tensor, sum(given) * 0.25)


@multirank(2, 4)
def test_nan_and_infinity_stay(ctx):
    tensor = torch.tensor([float("nan"), float("inf"), 1.0]) if ctx.rank == 0 else torch.zeros(3)
    dist.all_reduce(tensor, group=ctx.group)
    assert tensor[0].isnan()
    assert tensor[1].isinf()
    assert tensor[2] == 1


@multirank(2, 4)
def test_sparse(ctx):
    """Sparse COO tensors sum, with other indices on every rank; indices that meet add up."""
    for dense_dims in ((), (3,)):
        indices = torch.tensor([[0, ctx.rank + 1]])
        filling = torch.full((2, *dense_dims), float(ctx.rank + 1))
        tensor = torch.sparse_coo_tensor(indices, filling, (6, *dense_dims))
        expected = torch.zeros(6, *dense_dims)
        for rank in range(ctx.size):
            expected[0] += rank + 1
            expected[rank + 1] += rank + 1
        dist.all_reduce(tensor, group=ctx.group)
        assert tensor.is_sparse
        assert torch.equal(tensor.to_dense(), expected)


@multirank(2, 4)
def test_sparse_with_nothing_on_some_ranks(ctx):
    count = 0 if ctx.rank == 0 else 1
    tensor = torch.sparse_coo_tensor(torch.zeros(1, count, dtype=torch.int64), torch.ones(count), (4,))
    dist.all_reduce(tensor, group=ctx.group)
    assert torch.equal(tensor.to_dense(), torch.tensor([ctx.size - 1.0, 0, 0, 0]))


@multirank(2, 3, gloo=False)
def test_sparse_tensors_that_do_not_fit(ctx):
    """An error on every rank, and nothing moves: shapes, dtypes and what is sparse of them have to be the same."""
    zero = torch.zeros(1, 1, dtype=torch.int64)
    last = ctx.rank == ctx.size - 1
    for tensor in (
        torch.sparse_coo_tensor(zero, torch.ones(1), (5 if last else 4,)),
        torch.sparse_coo_tensor(zero, torch.ones(1, dtype=torch.int32 if last else torch.float32), (4,)),
        torch.sparse_coo_tensor(zero.expand(2, 1), torch.ones(1), (4, 4))
        if last
        else torch.sparse_coo_tensor(zero, torch.ones(1, 4), (4, 4)),
    ):
        before = tensor.to_dense()
        with pytest.raises(ValueError, match="differ in shape, dtype or number of sparse dimensions"):
            dist.all_reduce(tensor, group=ctx.group)
        assert torch.equal(tensor.to_dense(), before)
