"""Random operations on random groups for as long as is asked for, each result checked; nothing may grow.

python -m torch_rmpi.run -n 4 tests/python/soak.py [--minutes 30] [--seed 1]

All ranks draw the same operations from the seed; each waits for what is asynchronous in an order of its own. Fails if a
result is wrong, an operation raises, or memory, threads or descriptors grow.
"""

import argparse
import ctypes
import gc
import random
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

CPU = torch.device("cpu")
DTYPES = (
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.complex64,
)
LONGEST = 1 << 20
# Operations that are under way at a time, at most.
PENDING = 8
GROUPS = 6
# Rounds between two looks at what the process has.
ROUNDS = 50
# By how much the least of the last third of the run may be above that of the second. What is allocated may grow by what
# torch remembers of each group; what is resident also has the pieces that tensors leave in the pools; what is
# shared has the tensors of the groups that there happen to be.
SLACK_KIB = {"KiB allocated": 2 << 10, "KiB resident": 64 << 10, "KiB shared": 8 << 10}


class AllocatorInformation(ctypes.Structure):
    """glibc's `struct mallinfo2`: bytes, but for the counts, of all arenas."""

    NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES.split()]


def content(count, dtype, number, rank):
    """What `rank` has in operation `number`: small integers, so that sums are exact in every type."""
    return ((torch.arange(count) * (rank + 1) + number) % 7).to(dtype)


class Soak:
    def __init__(self, seed):
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.shared, self.own = random.Random(seed), random.Random(seed * 1000 + self.rank + 1)
        self.number = 0
        self.counts = {}
        self.pending = []
        self.groups = [(list(range(self.size)), dist.group.WORLD)]

    # One operation: returns its Work, or None if it has ended, and a check of its outcome.

    def data(self, count, dtype, group, rank=None):
        value = content(count, dtype, self.number, self.rank if rank is None else rank)
        if count and self.shared.random() < 0.3:
            mapped = group._get_backend(CPU).allocate_tensor(count, dtype=dtype, device=CPU)
            return mapped.copy_(value)
        return value

    def all_reduce(self, group, members, count, dtype, asynchronous):
        op = self.shared.choice(("SUM", "MAX") if not dtype.is_complex else ("SUM",))
        tensor = self.data(count, dtype, group)
        inputs = torch.stack([content(count, dtype, self.number, rank) for rank in members])
        expected = inputs.sum(0).to(dtype) if op == "SUM" else inputs.amax(0)
        work = dist.all_reduce(tensor, getattr(dist.ReduceOp, op), group=group, async_op=asynchronous)
        return work, lambda: torch.equal(tensor, expected)

    def broadcast(self, group, members, count, dtype, asynchronous):
        root = self.shared.choice(members)
        tensor, expected = self.data(count, dtype, group), content(count, dtype, self.number, root)
        work = dist.broadcast(tensor, root, group=group, async_op=asynchronous)
        return work, lambda: torch.equal(tensor, expected)

    def reduce(self, group, members, count, dtype, asynchronous):
        root = self.shared.choice(members)
        tensor = self.data(count, dtype, group)
        expected = torch.stack([content(count, dtype, self.number, rank) for rank in members]).sum(0).to(dtype)
        work = dist.reduce(tensor, root, group=group, async_op=asynchronous)
        return work, lambda: self.rank != root or torch.equal(tensor, expected)

    def all_gather(self, group, members, count, dtype, asynchronous):
        output = torch.empty(count * len(members), dtype=dtype)
        expected = torch.cat([content(count, dtype, self.number, rank) for rank in members])
        work = dist.all_gather_into_tensor(output, self.data(count, dtype, group), group=group, async_op=asynchronous)
        return work, lambda: torch.equal(output, expected)

    def reduce_scatter(self, group, members, count, dtype, asynchronous):
        output, place = torch.empty(count, dtype=dtype), members.index(self.rank)
        whole = [content(count * len(members), dtype, self.number, rank) for rank in members]
        expected = torch.stack(whole).sum(0).to(dtype)[place * count : (place + 1) * count]
        data = self.data(count * len(members), dtype, group)
        work = dist.reduce_scatter_tensor(output, data, group=group, async_op=asynchronous)
        return work, lambda: torch.equal(output, expected)

    def all_to_all(self, group, members, count, dtype, asynchronous):
        lengths = [[self.shared.randrange(count + 1) for _ in members] for _ in members]
        place = members.index(self.rank)
        received = [lengths[sender][place] for sender in range(len(members))]
        output = torch.empty(sum(received), dtype=dtype)
        parts = []
        for sender, rank in enumerate(members):
            begin = sum(lengths[sender][:place])
            whole = content(sum(lengths[sender]), dtype, self.number, rank)
            parts.append(whole[begin : begin + lengths[sender][place]])
        data = self.data(sum(lengths[place]), dtype, group)
        work = dist.all_to_all_single(output, data, received, lengths[place], group=group, async_op=asynchronous)
        return work, lambda: torch.equal(output, torch.cat(parts))

    def gather_and_scatter(self, group, members, count, dtype, asynchronous):
        root = self.shared.choice(members)
        gathered = [torch.empty(count, dtype=dtype) for _ in members] if self.rank == root else None
        dist.gather(self.data(count, dtype, group), gathered, root, group=group)
        expected = [content(count, dtype, self.number, rank) for rank in members]
        right = gathered is None or all(map(torch.equal, gathered, expected))
        output = torch.empty(count, dtype=dtype)
        work = dist.scatter(output, gathered, root, group=group, async_op=asynchronous)
        return work, lambda: right and torch.equal(output, expected[members.index(self.rank)])

    def ring(self, group, members, count, dtype, asynchronous):
        place = members.index(self.rank)
        after, before = members[(place + 1) % len(members)], members[place - 1]
        output, data = torch.empty(count, dtype=dtype), self.data(count, dtype, group)
        operations = [
            dist.P2POp(dist.isend, data, after, group, tag=self.number % 1000),
            dist.P2POp(dist.irecv, output, before, group, tag=self.number % 1000),
        ]
        works = dist.batch_isend_irecv(operations)
        if not asynchronous:
            for work in works:
                work.wait()
            works = []
        expected = content(count, dtype, self.number, before)
        return works, lambda: data is not None and torch.equal(output, expected)

    def window(self, group, members, count, dtype, asynchronous):
        place, size = members.index(self.rank), len(members)
        tensor = self.data(count, dtype, group)
        window = dist._new_window(tensor, group)
        work = window.put(content(count, dtype, self.number + 1, self.rank), (place + 1) % size, 0, asynchronous)
        window.signal((place + 1) % size, False)
        window.wait_signal((place - 1) % size, False)
        right = torch.equal(tensor, content(count, dtype, self.number + 1, members[place - 1]))
        work.wait()
        window.tensor_deregister()
        return None, lambda: right

    def barrier(self, group, members, count, dtype, asynchronous):
        return dist.barrier(group, async_op=asynchronous), lambda: True

    def objects(self, group, members, count, dtype, asynchronous):
        gathered = [None] * len(members)
        dist.all_gather_object(gathered, {"rank": self.rank, "number": self.number}, group=group)
        expected = [{"rank": rank, "number": self.number} for rank in members]
        return None, lambda: gathered == expected

    OPERATIONS = (
        (all_reduce, 6),
        (broadcast, 3),
        (reduce, 2),
        (all_gather, 3),
        (reduce_scatter, 3),
        (all_to_all, 3),
        (gather_and_scatter, 2),
        (ring, 4),
        (barrier, 1),
        (objects, 1),
        (window, 1),
    )

    def step(self):
        """One operation, on a group that this rank may not be in."""
        self.number += 1
        members, group = self.shared.choice(self.groups)
        operation = self.shared.choices(*zip(*self.OPERATIONS, strict=True))[0]
        dtype, asynchronous = self.shared.choice(DTYPES), self.shared.random() < 0.5
        count = int(2 ** self.shared.uniform(0, LONGEST.bit_length() - 1)) // len(members) + 1
        state = self.shared.getstate()
        if group is not None:
            work, check = operation(self, group, members, count, dtype, asynchronous)
            name = operation.__name__
            self.counts[name] = self.counts.get(name, 0) + 1
            works = [work] if isinstance(work, dist.Work) else work or []
            self.pending.append((works, check, f"operation {self.number}: {name} of {count} {dtype} in {members}"))
        # What an operation has drawn, a rank that is not in it has not.
        self.shared.setstate(state)
        self.shared.random()
        while len(self.pending) > self.own.randrange(PENDING):
            self.finish(self.pending.pop(self.own.randrange(len(self.pending))))

    def finish(self, entry):
        works, check, name = entry
        for work in works:
            work.wait()
        if not check():
            raise AssertionError(f"rank {self.rank}: the result of {name} is wrong")

    def change_groups(self):
        """Ends one, if there are many, and makes another one."""
        self.finish_all()
        if len(self.groups) >= GROUPS:
            _, group = self.groups.pop(self.shared.randrange(1, len(self.groups)))
            if group is not None:
                dist.destroy_process_group(group)
        members = sorted(self.shared.sample(range(self.size), self.shared.randint(1, self.size)))
        group = dist.new_group(members, timeout=timedelta(seconds=120))
        self.groups.append((members, group if self.rank in members else None))

    def finish_all(self):
        while self.pending:
            self.finish(self.pending.pop())


def status():
    """What this process has."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    allocator = ctypes.CDLL(None).mallinfo2
    allocator.restype = AllocatorInformation
    information = allocator()
    return {
        "KiB allocated": (information.uordblks + information.hblkhd) >> 10,
        "KiB resident": int(lines["RssAnon"].split()[0]),
        "KiB shared": int(lines["RssShmem"].split()[0]),
        "threads": int(lines["Threads"]),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
    }


def growth(seen):
    """The least that there was in each third of the run, in words, and what has grown from the second to the last."""
    third = len(seen) // 3
    if third < 2:
        return "nothing", ["the run was too short to tell whether anything grows"]
    words, grown = [], []
    for name in seen[0]:
        values = [look[name] for look in seen]
        first, middle, last = min(values[:third]), min(values[third : 2 * third]), min(values[2 * third :])
        words.append(f"{name} {first}, {middle}, {last}")
        if last > middle + SLACK_KIB.get(name, 0):
            grown.append(name)
    return "; ".join(words), grown


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("rmpi", init_method="mpi://", timeout=timedelta(seconds=120))
    soak, seen, begun = Soak(options.seed), [], time.monotonic()
    goes_on = torch.ones(1)
    while goes_on.item():
        soak.change_groups()
        for _ in range(ROUNDS):
            soak.step()
        soak.finish_all()
        gc.collect()
        seen.append(status())
        # Rank 0's clock.
        goes_on.fill_(time.monotonic() - begun < 60 * options.minutes)
        dist.broadcast(goes_on, 0)
    least, grown = growth(seen)
    print(
        f"rank {soak.rank}: {sum(soak.counts.values())} operations, all right ({soak.counts}); least in each third: "
        f"{least}" + "".join(f"; GROWN: {what}" for what in grown),
        flush=True,
    )
    dist.barrier()
    dist.destroy_process_group()
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
