"""Two processes over gloo: DDP and Composer's FSDP2 train the model as one process does."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from composer.distributed.prepare_distributed import parallelize_composer_model
from composer.utils.parallelism import FSDP2Config
from small_models import SMALL, make_batch, make_model
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.nn.parallel import DistributedDataParallel

from plm_composer.model.composer_model import ESM2ComposerModel

WORLD = 2
WAYS = ["ddp", "fsdp2", "fsdp2 recomputing"]
MODELS = {
    "esm2": SMALL,
    "variant": dataclasses.replace(
        SMALL,
        feed_forward="swiglu",
        position_embedding_type="alibi",
        normalization="rmsnorm",
        qk_norm=True,
        short_convolution=3,
        output_bias=False,
        attention_head_size=10,
        layer_drop=0.8,
        z_loss=0.01,
    ),
}


def parallelize(model: ESM2ComposerModel, optimizer: torch.optim.Optimizer, way: str) -> nn.Module:
    if way == "ddp":
        return DistributedDataParallel(model)
    parallelize_composer_model(model, optimizer, FSDP2Config(activation_checkpointing=way == "fsdp2 recomputing"))
    return model


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, ranks: list[int], parts: int) -> None:
    for step in range(2):
        # All batches have as many masked tokens, so that the mean over ranks is the mean over tokens.
        batches = [make_batch((20, 9), seed=0)["packed"] for _ in ranks]
        for rank, batch in zip(ranks, batches, strict=True):
            batch["labels"] = torch.where(batch["labels"] == -100, -100, 4 + (batch["labels"] + step + rank) % 20)
            torch.manual_seed(10 * step + rank)
            core = model.module if isinstance(model, DistributedDataParallel) else model
            (core.loss(model(batch), batch) / parts).backward()
        optimizer.step()
        optimizer.zero_grad()


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    for way, name in itertools.product(WAYS, MODELS):
        model = ESM2ComposerModel(make_model(MODELS[name])).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        parallel = parallelize(model, optimizer, way)
        # torch 2.7 over gloo adds gradients up where FSDP2 asks for their mean. This fails when torch mends it.
        steps(parallel, optimizer, [rank], parts=1 if way == "ddp" else WORLD)
        state_dict = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if rank == 0:
            torch.save(state_dict, folder / f"{way} {name}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two processes trained each way, started once: most of the time goes into importing torch."""
    folder = tmp_path_factory.mktemp("trained")
    torch.multiprocessing.spawn(work, args=(folder,), nprocs=WORLD)
    return folder


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_train_as_one(way: str, name: str, trained: Path) -> None:
    model = ESM2ComposerModel(make_model(MODELS[name])).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    steps(model, torch.optim.SGD(model.parameters(), lr=0.1), [0, 1], parts=WORLD)
    actual = torch.load(trained / f"{way} {name}.pt")
    assert actual.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(actual[key], value, rtol=0, atol=1e-6)
        assert torch.equal(value, before[key]) == ("contact_head" in key), key
