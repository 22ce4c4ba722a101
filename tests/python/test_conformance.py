"""A quick part of PyTorch's own distributed tests; `make conformance` runs all of them on 2, 3 and 4 ranks."""

import conformance
import pytest

# What our own tests say least about: how torch's test suite uses a backend.
PART = (
    r"^test_(all_reduce_coalesced_full_group|all_to_all_(full_group|group)|all_gather_object_subgroup"
    r"|barrier_timeout_full_group|backend_full_group|ddp_control_flow_same_across_ranks|ddp_comm_hook_logging"
    r"|isend_torch_profiler|monitored_barrier_.*|reduce_scatter_tensor_.*|send_recv_any_source.*"
    r"|undefined_grad_parity_unused_parameters)$"
)


def test_a_part_on_2_ranks(tmp_path):
    harness = conformance.folder()
    if harness is None:
        pytest.skip("unavailable: no conformance harness beside the checkout, and TORCH_RMPI_CONFORMANCE is not set")
    result = conformance.run(harness, tmp_path / "w2.log", 2, pattern=PART, limit=240)
    problems = result.problems()
    assert not problems, "\n".join([*problems, result.output])
