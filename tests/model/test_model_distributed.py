"""Two processes over gloo: DDP and Composer's FSDP2 train the model as one process does."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from composer.core import Precision
from composer.distributed import prepare_distributed
from composer.distributed.prepare_distributed import parallelize_composer_model
from composer.utils.parallelism import FSDP2Config
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.nn.parallel import DistributedDataParallel

from plm_composer.hardware.fsdp_on_gloo import correct_fsdp_on_cpus
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.model.parallelize import parallelize
from tests.gloo import spawn_on_cpus
from tests.model.small_models import SMALL, make_batch, make_model

WORLD = 2


@dataclasses.dataclass(frozen=True)
class Way:
    """How two processes train."""

    shards: bool = False
    recomputes: bool = False
    compiles: bool = False
    bf16: bool = False


WAYS = {
    "ddp": Way(),
    "ddp, compiled": Way(compiles=True),
    "fsdp2": Way(shards=True),
    "fsdp2, recomputing": Way(shards=True, recomputes=True),
    "fsdp2, compiled, recomputing": Way(shards=True, recomputes=True, compiles=True),
    # What is computed again must have the precision of what was computed first.
    "fsdp2, bf16, recomputing": Way(shards=True, recomputes=True, bf16=True),
}
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
    "residuals": dataclasses.replace(SMALL, value_residual=True, embedding_residual=True, causal=True),
}


def distribute(model: ESM2ComposerModel, optimizer: torch.optim.Optimizer, way: Way) -> nn.Module:
    compiled = {"backend": "aot_eager", "fullgraph": True} if way.compiles else None
    parallelize(model.model, activation_checkpointing=way.recomputes, compile_arguments=compiled)
    if not way.shards:
        return DistributedDataParallel(model)
    precision = Precision.AMP_BF16 if way.bf16 else Precision.FP32
    # Composer refuses bf16 on CPUs; FSDP2 casts there as it does on a GPU.
    prepare_distributed._validate_precision = lambda *_: None
    parallelize_composer_model(model, optimizer, FSDP2Config(), precision)
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
    correct_fsdp_on_cpus()
    for way, name in itertools.product(WAYS, MODELS):
        model = ESM2ComposerModel(make_model(MODELS[name]), torch.bfloat16 if WAYS[way].bf16 else None).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        parallel = distribute(model, optimizer, WAYS[way])
        steps(parallel, optimizer, [rank], parts=1)
        state_dict = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if rank == 0:
            torch.save(state_dict, folder / f"{way} {name}.pt")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two processes trained each way, started once: most of the time goes into importing torch."""
    folder = tmp_path_factory.mktemp("trained")
    spawn_on_cpus(work, folder, WORLD)
    return folder


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_train_as_one(way: str, name: str, trained: Path) -> None:
    bf16 = WAYS[way].bf16
    model = ESM2ComposerModel(make_model(MODELS[name]), torch.bfloat16 if bf16 else None).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    steps(model, torch.optim.SGD(model.parameters(), lr=0.1), [0, 1], parts=WORLD)
    actual = torch.load(trained / f"{way} {name}.pt")
    assert actual.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(actual[key], value, rtol=0, atol=5e-3 if bf16 else 1e-6)
        assert torch.equal(value, before[key]) == ("contact_head" in key), key
