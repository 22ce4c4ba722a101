"""Tensors to test with, and what operations on them must give, computed in one process by torch and numpy.

Every rank can compute every rank's input, so each one checks its own output against a reference of its own.
"""

import numpy
import torch
import torch.distributed as dist

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
COMPLEX = [torch.complex64, torch.complex128]
SIGNED = [torch.int8, torch.int16, torch.int32, torch.int64]
UNSIGNED = [torch.uint8, torch.uint16, torch.uint32, torch.uint64]
INTEGERS = SIGNED + UNSIGNED
# The types that reduce.
REDUCING = [*FLOATS, *COMPLEX, *INTEGERS, torch.bool]
# Types that only move.
MOVING_ONLY = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
ALL_TYPES = REDUCING + MOVING_ONLY

# Element counts around the places where an algorithm changes: one, fewer than ranks, odd, small, above 64 KiB.
COUNTS = [1, 3, 64, 1000, 70_001]

OPS = {
    "SUM": dist.ReduceOp.SUM,
    "AVG": dist.ReduceOp.AVG,
    "PRODUCT": dist.ReduceOp.PRODUCT,
    "MIN": dist.ReduceOp.MIN,
    "MAX": dist.ReduceOp.MAX,
    "BAND": dist.ReduceOp.BAND,
    "BOR": dist.ReduceOp.BOR,
    "BXOR": dist.ReduceOp.BXOR,
    "PREMUL_SUM": dist._make_nccl_premul_sum(0.5),
}
PREMUL_FACTOR = 0.5
BITWISE = {"BAND", "BOR", "BXOR"}


def generator(*seed):
    return torch.Generator().manual_seed(hash(seed) % 2**40)


def any_bits(dtype, count, *seed):
    """Random bits of a type, so NaNs too; for bool 0 and 1."""
    if dtype == torch.bool:
        return torch.randint(0, 2, (count,), generator=generator(*seed), dtype=torch.uint8).view(torch.bool)
    size = torch.empty(0, dtype=dtype).element_size()
    return torch.randint(0, 256, (count * size,), generator=generator(*seed), dtype=torch.uint8).view(dtype)


def bits(tensor):
    """The bytes of a tensor, as it lies in memory once contiguous."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def assert_same_bits(actual, expected):
    assert actual.dtype == expected.dtype, f"{actual.dtype}, expected {expected.dtype}"
    assert actual.shape == expected.shape, f"{tuple(actual.shape)}, expected {tuple(expected.shape)}"
    if not torch.equal(bits(actual), bits(expected)):
        raise AssertionError(f"{actual} is not bit for bit {expected}")


def values(dtype, count, *seed):
    """Values whose sums and products over a few ranks are exact in f32: quarters in [-2, 2]; for integers any value."""
    if dtype in INTEGERS or dtype == torch.bool:
        return any_bits(dtype, count, *seed)
    width = 2 if dtype.is_complex else 1
    real = torch.randint(-8, 9, (count, width), generator=generator(*seed)).to(torch.float64) / 4
    return (torch.view_as_complex(real) if dtype.is_complex else real[:, 0]).to(dtype)


def allowed(dtype, op):
    """Whether this type has this op."""
    if dtype in MOVING_ONLY:
        return False
    if dtype == torch.bool:
        return op not in ("AVG", "PREMUL_SUM")
    if dtype in INTEGERS:
        return op != "PREMUL_SUM"
    if op in BITWISE:
        return False
    return not (dtype.is_complex and op in ("MIN", "MAX"))


def reduced(tensors, op):
    """What reducing these tensors, one of each rank, gives."""
    dtype = tensors[0].dtype
    if dtype == torch.bool:
        return _reduced_bools(tensors, op)
    if dtype in INTEGERS:
        return _reduced_integers(tensors, op)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    stack = torch.stack([tensor.to(wide) for tensor in tensors])
    result = {
        "SUM": lambda: stack.sum(0),
        "AVG": lambda: stack.sum(0) / len(tensors),
        "PRODUCT": lambda: stack.prod(0),
        "MIN": lambda: stack.min(0).values,
        "MAX": lambda: stack.max(0).values,
        "PREMUL_SUM": lambda: (stack * PREMUL_FACTOR).sum(0),
    }[op]()
    return result.to(dtype)


def _reduced_bools(tensors, op):
    stack = torch.stack(tensors)
    if op in ("SUM", "MAX", "BOR"):
        return stack.any(0)
    if op in ("PRODUCT", "MIN", "BAND"):
        return stack.all(0)
    return stack.to(torch.int64).sum(0) % 2 == 1


def _reduced_integers(tensors, op):
    stack = numpy.stack([tensor.numpy() for tensor in tensors])
    if op == "AVG":
        # The exact sum, in Python's integers, divided and truncated toward zero.
        sums = [sum(int(value) for value in column) for column in stack.T]
        quotients = [(abs(total) // len(tensors)) * (1 if total >= 0 else -1) for total in sums]
        return torch.from_numpy(numpy.array(quotients, dtype=stack.dtype))
    function = {
        "SUM": numpy.add,
        "PRODUCT": numpy.multiply,
        "MIN": numpy.minimum,
        "MAX": numpy.maximum,
        "BAND": numpy.bitwise_and,
        "BOR": numpy.bitwise_or,
        "BXOR": numpy.bitwise_xor,
    }[op]
    return torch.from_numpy(function.reduce(stack, axis=0, dtype=stack.dtype))


def assert_reduced(actual, tensors, op):
    """Exact equality, but for AVG of floats: its division may be a product, which rounds once more."""
    expected = reduced(tensors, op)
    if op == "AVG" and actual.dtype not in INTEGERS:
        part = torch.float32 if actual.dtype == torch.complex64 else torch.float64
        epsilon = torch.finfo(part if actual.dtype.is_complex else actual.dtype).eps
        torch.testing.assert_close(actual, expected, rtol=2 * epsilon, atol=0)
    else:
        assert actual.dtype == expected.dtype
        # By value: whether a zero carries a sign is nobody's business.
        assert torch.equal(actual, expected), f"{actual} is not {expected}"
