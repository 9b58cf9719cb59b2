"""Two processes over gloo: under DDP and FSDP2 blocks are compiled without a break, and once for all batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from composer.core import Precision
from composer.distributed.prepare_distributed import parallelize_composer_model
from composer.utils.parallelism import FSDP2Config
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from plm_composer.hardware.fsdp_on_gloo import correct_fsdp_on_cpus
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.model.config import ESM2Config
from plm_composer.model.parallelize import parallelize
from tests.gloo import spawn_on_cpus
from tests.model.small_models import make_batch, make_model

WORLD = 2
LARGE = ESM2Config(num_hidden_layers=2, hidden_size=256, num_attention_heads=4, intermediate_size=1024)
"""A block has 3 MB of parameters, and DDP's first bucket has room for one."""
BATCHES = [(17, 40), (9, 31, 22), (50,), (3, 4, 5, 6), (30, 30)]
WAYS = {"ddp": 1, "fsdp2": 2}
"""Most graphs that each way may compile, all of them by the second batch."""


def distribute(model: ESM2ComposerModel, optimizer: torch.optim.Optimizer, way: str) -> nn.Module:
    if way == "ddp":
        return DistributedDataParallel(model)
    parallelize_composer_model(model, optimizer, FSDP2Config(), Precision.FP32)
    return model


def count_graphs(way: str, rank: int) -> int:
    """Trains, and counts what torch has compiled."""
    torch._dynamo.reset()
    graphs = []

    def capture(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    model = ESM2ComposerModel(make_model(LARGE)).train()
    parallelize(model.model, compile_arguments={"backend": capture, "fullgraph": True})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parallel = distribute(model, optimizer, way)
    for number, lengths in enumerate(BATCHES):
        batch = make_batch(lengths, seed=rank)["packed"]
        with torch._dynamo.config.patch(error_on_recompile=number >= 2):
            model.loss(parallel(batch), batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return len(graphs)


def work(rank: int, folder: Path) -> None:
    correct_fsdp_on_cpus()
    for way in WAYS:
        (folder / f"{way}-{rank}").write_text(str(count_graphs(way, rank)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what two processes compiled each way, started once."""
    folder = tmp_path_factory.mktemp("compiled")
    spawn_on_cpus(work, folder, WORLD)
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_compile_a_block_whole_and_only_at_the_start(way: str, trained: Path) -> None:
    graphs = [int((trained / f"{way}-{rank}").read_text()) for rank in range(WORLD)]
    assert all(1 <= number <= WAYS[way] for number in graphs), graphs
