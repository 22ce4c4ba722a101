"""What is read from the environments of the launchers, and when a world of one process is refused."""

from __future__ import annotations

import pytest
from torch_rmpi import _launcher_env

OPENMPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_RANK": "3",
    "PMIX_NAMESPACE": "prterun-host-1@1",
}
HYDRA = {"PMI_SIZE": "4", "PMI_RANK": "3", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
SRUN = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
FLUX = {"FLUX_JOB_SIZE": "4", "FLUX_TASK_RANK": "3", "FLUX_TASK_LOCAL_ID": "1"}


@pytest.mark.parametrize(
    ("environ", "name", "local_size"),
    [
        (OPENMPI, "OpenMPI's mpirun", 2),
        (HYDRA, "the mpiexec of MPICH, Intel MPI or Cray", 2),
        (SRUN, "srun", None),
        (TORCHRUN, "torchrun", 2),
        (FLUX, "flux run", None),
    ],
)
def test_place_of_a_rank(environ: dict[str, str], name: str, local_size: int | None) -> None:
    launch = _launcher_env.detect(environ)
    assert launch is not None
    assert (launch.launcher.name, launch.rank, launch.size) == (name, 3, 4)
    assert (launch.local_rank, launch.local_size) == (1, local_size)


def test_no_launcher() -> None:
    assert _launcher_env.detect({}) is None
    _launcher_env.require_no_singletons(1, {})


def test_a_batch_script_is_no_launcher() -> None:
    assert _launcher_env.detect({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}) is None


def test_the_innermost_launcher_counts() -> None:
    single = {**SRUN, "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}
    _launcher_env.require_no_singletons(1, single)


def test_values_that_are_no_numbers_are_ignored() -> None:
    assert _launcher_env.detect({"PMI_SIZE": "four", "PMI_RANK": "0"}) is None


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        (OPENMPI, "OpenMPI's mpirun started this process (OMPI_COMM_WORLD_RANK=3, OMPI_COMM_WORLD_SIZE=4)"),
        (HYDRA, "belongs to another MPI"),
        (SRUN, "srun --mpi=pmix"),
        (TORCHRUN, "torchrun starts no MPI"),
        ({"PMIX_NAMESPACE": "x", "PMIX_RANK": "2"}, "a PMIx launcher"),
        ({"RANK": "0", "WORLD_SIZE": "4"}, "a launcher that sets RANK and WORLD_SIZE"),
    ],
)
def test_singletons_are_refused(environ: dict[str, str], told: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        _launcher_env.require_no_singletons(1, environ)
    assert told in str(caught.value)
    assert "python -m torch_rmpi.run -n " in str(caught.value)


def test_a_world_that_is_large_enough_is_accepted() -> None:
    _launcher_env.require_no_singletons(4, OPENMPI)
    _launcher_env.require_world(4, 4, {})
    _launcher_env.require_world(2, 4, TORCHRUN)


def test_a_group_larger_than_the_world_is_refused() -> None:
    with pytest.raises(RuntimeError, match="torchrun starts no MPI"):
        _launcher_env.require_world(4, 1, TORCHRUN)
    with pytest.raises(RuntimeError, match="no launcher's variables are set"):
        _launcher_env.require_world(4, 1, {})


def test_a_rank_forgets_what_was_said_of_the_process_that_ran_its_launcher() -> None:
    within_torchrun = {**TORCHRUN, **OPENMPI, "MASTER_ADDR": "host", "TORCHELASTIC_RESTART_COUNT": "1"}
    _launcher_env.forget_outer(within_torchrun)
    assert within_torchrun == {**OPENMPI, "TORCHELASTIC_RESTART_COUNT": "1"}
    launch = _launcher_env.detect(within_torchrun)
    assert launch is not None
    assert (launch.rank, launch.local_rank) == (3, 1)
    # Some clusters set them for each of their containers.
    container = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "host", **HYDRA}
    _launcher_env.forget_outer(container)
    assert container == {"MASTER_ADDR": "host", **HYDRA}
