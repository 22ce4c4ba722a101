"""Every dtype with every op in every reducing operation, and every dtype in every operation that moves data.

A combination that a dtype does not have is refused on all ranks with a TypeError that names dtype and op, or with
torch's own ValueError where torch refuses before the backend is asked.
"""

import torch
import torch.distributed as dist
from multirank import multirank
from references import ALL_TYPES, OPS, allowed, any_bits, assert_reduced, assert_same_bits, values

COUNT = 37
# How a dtype may be called in a message.
C10_NAMES = {
    "bool": "Bool",
    "bfloat16": "BFloat16",
    "float16": "Half",
    "float32": "Float",
    "float64": "Double",
    "complex64": "ComplexFloat",
    "complex128": "ComplexDouble",
    "uint8": "Byte",
    "int8": "Char",
    "int16": "Short",
    "int32": "Int",
    "int64": "Long",
}


def given(dtype, source, target=0):
    return values(dtype, COUNT, 21, source, target)


def from_all(ctx, dtype, target=0):
    return [given(dtype, source, target) for source in range(ctx.size)]


def all_reduce(ctx, dtype, op):
    tensor = given(dtype, ctx.rank)
    before = tensor.clone()
    return lambda: dist.all_reduce(tensor, op, group=ctx.group), tensor, before, from_all(ctx, dtype)


def reduce(ctx, dtype, op):
    root = ctx.size - 1
    tensor = given(dtype, ctx.rank)
    before = tensor.clone()
    result = tensor if ctx.rank == root else None
    return lambda: dist.reduce(tensor, root, op, group=ctx.group), result, before, from_all(ctx, dtype)


def reduce_scatter_list(ctx, dtype, op):
    output = any_bits(dtype, COUNT, 99)
    before = output.clone()
    inputs = [given(dtype, ctx.rank, target) for target in range(ctx.size)]
    call = lambda: dist.reduce_scatter(output, inputs, op, group=ctx.group)  # noqa: E731
    return call, output, before, from_all(ctx, dtype, ctx.rank)


def reduce_scatter_tensor(ctx, dtype, op):
    output = any_bits(dtype, COUNT, 99)
    before = output.clone()
    whole = torch.cat([given(dtype, ctx.rank, target) for target in range(ctx.size)])
    call = lambda: dist.reduce_scatter_tensor(output, whole, op, group=ctx.group)  # noqa: E731
    return call, output, before, from_all(ctx, dtype, ctx.rank)


def refused_by_torch(operation, dtype, op):
    return operation is all_reduce and dtype.is_complex and not dist.distributed_c10d.supports_complex(OPS[op])


def check(ctx, operation, dtype, op):
    """One combination; returns what is wrong with it, or None."""
    call, result, before, inputs = operation(ctx, dtype, OPS[op])
    try:
        call()
    except (TypeError, ValueError) as error:
        return complaint_about_refusal(operation, dtype, op, error, result, before)
    if not allowed(dtype, op) or refused_by_torch(operation, dtype, op):
        return "is not refused"
    if result is not None:
        try:
            assert_reduced(result, inputs, op)
        except AssertionError as error:
            return str(error)
    return None


def complaint_about_refusal(operation, dtype, op, error, result, before):
    if refused_by_torch(operation, dtype, op):
        return None
    if allowed(dtype, op):
        return f"is refused: {error}"
    if not isinstance(error, TypeError):
        return f"is refused by {type(error).__name__}, not TypeError: {error}"
    name = str(dtype).removeprefix("torch.")
    if op not in str(error) or not any(known in str(error) for known in (name, C10_NAMES.get(name, name))):
        return f"the message does not name dtype and op: {error}"
    if result is not None:
        assert_same_bits(result, before)
    return None


def check_all(ctx, operation):
    wrong = []
    for dtype in ALL_TYPES:
        for op in OPS:
            complaint = check(ctx, operation, dtype, op)
            if complaint:
                wrong.append(f"{operation.__name__} {op} of {dtype}: {complaint}")
    assert not wrong, f"{len(wrong)} combinations:\n" + "\n".join(wrong)


@multirank(1, 2, 3, 4, gloo=False)
def test_all_reduce(ctx):
    check_all(ctx, all_reduce)


@multirank(1, 2, 3, 4, gloo=False)
def test_reduce(ctx):
    check_all(ctx, reduce)


@multirank(1, 2, 3, 4, gloo=False)
def test_reduce_scatter_list(ctx):
    check_all(ctx, reduce_scatter_list)


@multirank(1, 2, 3, 4, gloo=False)
def test_reduce_scatter_tensor(ctx):
    check_all(ctx, reduce_scatter_tensor)


@multirank(2, 3, 4, gloo=False)
def test_all_reduce_of_longer_tensors(ctx):
    """The same kernels over many elements, where another schedule may run."""
    count = 30_011
    for dtype in ALL_TYPES:
        for op in ("SUM", "MAX", "BXOR", "AVG"):
            if allowed(dtype, op) and not refused_by_torch(all_reduce, dtype, op):
                tensor = values(dtype, count, 22, ctx.rank)
                # Averages of integers are computed one by one in Python: fewer are enough.
                tensor = tensor[:5_003] if op == "AVG" else tensor
                dist.all_reduce(tensor, OPS[op], group=ctx.group)
                length = len(tensor)
                assert_reduced(tensor, [values(dtype, count, 22, rank)[:length] for rank in range(ctx.size)], op)


@multirank(1, 2, 3, 4, gloo=False)
def test_every_type_moves_by_collectives(ctx):
    for dtype in ALL_TYPES:
        mine = any_bits(dtype, COUNT, 23, ctx.rank)
        everybody = [any_bits(dtype, COUNT, 23, rank) for rank in range(ctx.size)]

        tensor = mine.clone()
        dist.broadcast(tensor, ctx.size - 1, group=ctx.group)
        assert_same_bits(tensor, everybody[-1])

        outputs = [torch.zeros(COUNT, dtype=torch.uint8).to(dtype) for _ in range(ctx.size)]
        dist.all_gather(outputs, mine, group=ctx.group)
        for output, expected in zip(outputs, everybody, strict=True):
            assert_same_bits(output, expected)

        output = torch.zeros(ctx.size * COUNT, dtype=torch.uint8).to(dtype)
        dist.all_gather_into_tensor(output, mine, group=ctx.group)
        for part, expected in zip(output.split(COUNT), everybody, strict=True):
            assert_same_bits(part, expected)

        outputs = [torch.zeros(COUNT, dtype=torch.uint8).to(dtype) for _ in range(ctx.size)] if ctx.rank == 0 else None
        dist.gather(mine, outputs, 0, group=ctx.group)
        for output, expected in zip(outputs or [], everybody, strict=False):
            assert_same_bits(output, expected)

        output = torch.zeros(COUNT, dtype=torch.uint8).to(dtype)
        dist.scatter(output, everybody if ctx.rank == 0 else None, 0, group=ctx.group)
        assert_same_bits(output, mine)


@multirank(1, 2, 3, 4, gloo=False)
def test_every_type_moves_by_all_to_all(ctx):
    for dtype in ALL_TYPES:
        # bits[source][target]
        bits = [[any_bits(dtype, COUNT, 24, source, to) for to in range(ctx.size)] for source in range(ctx.size)]
        raw = [torch.cat([part.view(torch.uint8) for part in row]).view(dtype) for row in bits]
        output = torch.zeros(ctx.size * COUNT, dtype=torch.uint8).to(dtype)
        dist.all_to_all_single(output, raw[ctx.rank], group=ctx.group)
        for source, part in enumerate(output.split(COUNT)):
            assert_same_bits(part, bits[source][ctx.rank])
        outputs = [torch.zeros(COUNT, dtype=torch.uint8).to(dtype) for _ in range(ctx.size)]
        dist.all_to_all(outputs, bits[ctx.rank], group=ctx.group)
        for source, part in enumerate(outputs):
            assert_same_bits(part, bits[source][ctx.rank])


@multirank(2, 3, 4, gloo=False)
def test_every_type_moves_point_to_point(ctx):
    following, previous = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    for dtype in ALL_TYPES:
        received = torch.zeros(COUNT, dtype=torch.uint8).to(dtype)
        sending = dist.isend(any_bits(dtype, COUNT, 25, ctx.rank), following, group=ctx.group)
        dist.recv(received, previous, group=ctx.group)
        sending.wait()
        assert_same_bits(received, any_bits(dtype, COUNT, 25, previous))
