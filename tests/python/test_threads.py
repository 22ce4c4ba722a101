"""Several threads of a rank: a group each, one group in turns, messages beside collectives, creation beside traffic."""

import threading

import torch
import torch.distributed as dist
from multirank import multirank

TURNS = 100


def in_threads(*functions):
    """Runs each function in a thread of its own; raises the first error."""
    errors = []

    def run(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def summing(ctx, group, count=500):
    def run():
        for turn in range(TURNS):
            tensor = torch.full((count,), float(turn))
            dist.all_reduce(tensor, group=group)
            assert tensor[-1] == turn * ctx.size

    return run


@multirank(2, 4)
def test_a_group_for_each_thread(ctx):
    in_threads(*(summing(ctx, ctx.new_group()) for _ in range(4)))


@multirank(2, 4)
def test_messages_beside_collectives(ctx):
    following, previous = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size

    def talk():
        for turn in range(TURNS):
            received = torch.zeros(50)
            sending = dist.isend(torch.full((50,), float(turn)), following, group=ctx.group, tag=turn)
            dist.recv(received, previous, group=ctx.group, tag=turn)
            sending.wait()
            assert received[0] == turn

    in_threads(talk, summing(ctx, ctx.group))


@multirank(2, 4)
def test_a_waiting_receive_holds_nobody_up(ctx):
    """A thread blocked in a receive, which ends only after the collectives of another thread."""
    following, previous = (ctx.rank + 1) % ctx.size, (ctx.rank - 1) % ctx.size
    received = torch.zeros(1)

    def listen():
        dist.recv(received, previous, group=ctx.group)

    def work():
        summing(ctx, ctx.group)()
        dist.send(torch.full((1,), float(ctx.rank)), following, group=ctx.group)

    in_threads(listen, work)
    assert received[0] == previous


@multirank(2, 4)
def test_one_group_in_turns(ctx):
    """Threads may share a group as long as every rank issues in the same order; they wait outside of their turn."""
    turn = threading.Condition()
    state = {"next": 0}
    workers = 3

    def worker(number):
        for index in range(number, 30, workers):
            with turn:
                turn.wait_for(lambda index=index: state["next"] == index)
                tensor = torch.full((100,), float(index))
                work = dist.all_reduce(tensor, group=ctx.group, async_op=True)
                state["next"] += 1
                turn.notify_all()
            work.wait()
            assert tensor[0] == index * ctx.size

    in_threads(*(lambda number=number: worker(number) for number in range(workers)))


@multirank(2, 4)
def test_groups_are_created_while_others_work(ctx):
    def create():
        for turn in range(5):
            group = dist.new_group(list(range(ctx.size)), use_local_synchronization=False)
            tensor = torch.full((10,), float(turn))
            dist.all_reduce(tensor, group=group)
            assert tensor[0] == turn * ctx.size
            dist.destroy_process_group(group)

    in_threads(create, summing(ctx, ctx.group))


@multirank(2, 4)
def test_one_thread_issues_and_another_waits(ctx):
    pairs = []
    ready = threading.Semaphore(0)

    def issue():
        for turn in range(TURNS):
            tensor = torch.full((300,), float(turn))
            pairs.append((tensor, dist.all_reduce(tensor, group=ctx.group, async_op=True)))
            ready.release()

    def wait():
        for turn in range(TURNS):
            ready.acquire()
            tensor, work = pairs[turn]
            work.wait()
            assert tensor[0] == turn * ctx.size

    in_threads(issue, wait)
