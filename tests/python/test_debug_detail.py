"""TORCH_DISTRIBUTED_DEBUG=DETAIL: torch wraps the backend, and compares each collective over Gloo beforehand."""

from scripts import run, run_well

DETAIL = {"TORCH_DISTRIBUTED_DEBUG": "DETAIL", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def test_what_the_wrapper_forwards(tmp_path):
    ended = run_well(
        tmp_path,
        """
        import warnings

        import torch
        import torch.distributed as dist
        from torch.nn.parallel import DistributedDataParallel

        # torch 2.14 has a new name for reduce_scatter_tensor, that 2.13 has not.
        warnings.filterwarnings("ignore", ".*reduce_scatter_tensor", FutureWarning)
        CPU = torch.device("cpu")
        dist.init_process_group("rmpi", init_method="mpi://")
        group, rank, size = dist.group.WORLD, dist.get_rank(), dist.get_world_size()
        assert "Wrapper" in type(group._get_backend(CPU)).__name__

        tensor = torch.full((5,), float(rank))
        dist.all_reduce(tensor)
        assert tensor.tolist() == [1.0] * 5
        gathered = [torch.zeros(2) for _ in range(size)]
        dist.all_gather(gathered, torch.full((2,), float(rank)))
        assert [part[0].item() for part in gathered] == [0.0, 1.0]
        output = torch.zeros(1)
        dist.reduce_scatter_tensor(output, torch.arange(2.0))
        assert output.item() == 2.0 * rank
        swapped = torch.zeros(2)
        dist.all_to_all_single(swapped, torch.full((2,), float(rank)))
        assert swapped.tolist() == [0.0, 1.0]
        for work in dist.batch_isend_irecv(
            [dist.P2POp(dist.isend, torch.full((1,), float(rank)), 1 - rank), dist.P2POp(dist.irecv, output, 1 - rank)]
        ):
            work.wait()
        assert output.item() == 1 - rank
        objects = [None] * size
        dist.all_gather_object(objects, {"rank": rank})
        assert objects == [{"rank": 0}, {"rank": 1}]
        if not torch.__version__.startswith(("2.13.", "2.14.")):
            with dist.distributed_c10d._time_estimator(group, CPU) as estimate:
                dist.all_reduce(tensor)
            assert estimate.estimated_time > 0

        torch.manual_seed(0)
        model = DistributedDataParallel(torch.nn.Linear(3, 2))
        model(torch.full((4, 3), float(rank))).sum().backward()
        gradients = [torch.zeros_like(model.module.weight.grad) for _ in range(size)]
        dist.all_gather(gradients, model.module.weight.grad)
        assert torch.equal(*gradients)

        part = dist.new_group([rank], use_local_synchronization=True)
        dist.all_reduce(tensor, group=part)
        dist.monitored_barrier()
        print("DONE", flush=True)
        dist.destroy_process_group()
        """,
        env=DETAIL,
    )
    assert len(ended.printed("DONE")) == 2


def test_a_mismatch_is_an_error_on_every_rank(tmp_path):
    ended = run(
        tmp_path,
        """
        import torch
        import torch.distributed as dist

        dist.init_process_group("rmpi", init_method="mpi://")
        try:
            if dist.get_rank() == 0:
                dist.all_reduce(torch.ones(3))
            else:
                dist.broadcast(torch.ones(3), 0)
        except RuntimeError as error:
            print("RAISED", "mismatch" in str(error), flush=True)
        """,
        env=DETAIL,
    )
    assert ended.printed("RAISED") == ["True"] * 2, ended.output
