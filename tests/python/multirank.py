"""Tests that run on several ranks at once: the decorator, and what such a test is given.

    @multirank(1, 2, 4)
    def test_sum(ctx):
        tensor = torch.tensor([ctx.rank])
        dist.all_reduce(tensor, group=ctx.group)
        assert tensor.item() == sum(range(ctx.size))

pytest shows one item for each number of ranks, `test_sum[np4]`. All tests for one number of ranks run in one launch,
one after another (see launches.py), each with a group of its own. The ranks also share a Store that the pytest process
hosts, so that what a test says about its ranks does not depend on the backend under test.

Environment: RMPI_TEST_RANKS=2,4 restricts the numbers of ranks; RMPI_TEST_REPEAT=20 runs each test that often in a row;
RMPI_TEST_BACKEND=gloo runs the tests on Gloo, to tell a wrong test from a wrong backend; RMPI_TEST_NODES=separate makes
each rank think that it is alone on its node; RMPI_TEST_NODES=aabb, a letter for each rank, that ranks of one letter
share a node.
"""

import json
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Multirank:
    """What `@multirank` says about a test."""

    sizes: tuple[int, ...]
    # Seconds for one run of the test, on all ranks.
    limit: float
    # False: Gloo cannot do this, so the test says nothing about itself there.
    gloo: bool


def multirank(*sizes, limit=60.0, gloo=True):
    """Marks `def test_x(ctx)` as a test that runs on each of these numbers of ranks."""

    def mark(function):
        function.multirank = Multirank(sizes or (2, 4), limit, gloo)
        return function

    return mark


class Context:
    """What a multi-rank test is given, on each rank."""

    # An operation that never ends raises after this time, with the backend's own message.
    OPERATION_TIMEOUT = timedelta(seconds=40)

    def __init__(self, store, rank, size, backend):
        self.store = store
        self.rank = rank
        self.size = size
        self.backend = backend
        self._exchanges = 0
        self._groups = []
        self._align_group_names()
        # A group of all ranks that only this test uses.
        self.group = self.new_group()

    def _align_group_names(self):
        """torch names groups by a counter, which differs between ranks once only some of them created a group."""
        from torch.distributed.distributed_c10d import _world

        _world.group_count = max(self.exchange(_world.group_count))

    def new_group(self, ranks=None, timeout=OPERATION_TIMEOUT, **options):
        """`dist.new_group`, destroyed after the test."""
        import torch.distributed as dist

        group = dist.new_group(ranks, timeout=timeout, **options)
        if group is not dist.GroupMember.NON_GROUP_MEMBER:
            self._groups.append(group)
        return group

    def close(self):
        """Destroys the groups of the test."""
        import torch.distributed as dist

        for group in reversed(self._groups):
            if group in dist.distributed_c10d._world.pg_map:
                dist.destroy_process_group(group)
        self._groups.clear()

    def exchange(self, value=None):
        """Every rank's value, by rank, through the Store. Returns when all ranks have called it."""
        self._exchanges += 1
        key = f"exchange/{self._exchanges}"
        self.store.set(f"{key}/{self.rank}", json.dumps(value))
        return [json.loads(self.store.get(f"{key}/{rank}")) for rank in range(self.size)]

    def same(self, value):
        """Fails unless every rank has the same value; returns it."""
        values = self.exchange(value)
        assert all(other == values[0] for other in values), f"the ranks differ: {values}"
        return value

    def error_of(self, function, *arguments, **options):
        """The exception that a call raises, of one and the same class on all ranks; fails where it does not raise."""
        error = None
        try:
            result = function(*arguments, **options)
            if hasattr(result, "wait"):
                result.wait()
        except Exception as raised:
            error = raised
        classes = self.exchange(None if error is None else type(error).__name__)
        assert None not in classes, f"no error on some rank: {classes}"
        assert len(set(classes)) == 1, f"the class of the error differs by rank: {classes}; here: {error}"
        return error
