"""Sharded gradients over gloo are means, as over NCCL."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from plm_composer.hardware.fsdp_on_gloo import correct_fsdp_on_cpus
from tests.gloo import spawn_on_cpus

MESHES = {"fsdp": ((2,), ("shard",)), "hsdp": ((2, 1), ("replicate", "shard"))}
WORLD = 2


def gradient_of(kind: str) -> torch.Tensor:
    shape, names = MESHES[kind]
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    fully_shard(model, mesh=init_device_mesh("cpu", shape, mesh_dim_names=names))
    for _ in range(2):  # accumulated, as over two microbatches
        model(torch.full((1, 4), float(dist.get_rank() + 1))).sum().backward()
    gradient = model[0].weight.grad
    assert isinstance(gradient, DTensor)
    return gradient.full_tensor()


def work(rank: int, folder: Path) -> None:
    results = {"before": gradient_of("fsdp")}
    correct_fsdp_on_cpus()
    results |= {kind: gradient_of(kind) for kind in MESHES}
    if rank == 0:
        torch.save(results, folder / "result.pt")


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("gradients")
    spawn_on_cpus(work, folder, WORLD)
    return torch.load(folder / "result.pt")


@pytest.mark.parametrize("kind", MESHES)
def test_gradients_of_two_ranks_are_averaged(gradients, kind: str) -> None:
    # Inputs of 1 and 2: the mean over ranks is 1.5, twice.
    torch.testing.assert_close(gradients[kind], torch.full((4, 4), 3.0))


def test_torch_itself_adds_them_up_until_it_was_mended(gradients) -> None:
    """plm_composer/hardware/fsdp_on_gloo.py can go with torch 2.7."""
    is_mended = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)
    torch.testing.assert_close(gradients["before"], torch.full((4, 4), 3.0 if is_mended else 6.0))
