"""Two processes over gloo: every optimizer trains under DDP and FSDP2 as on one process, and resumes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from composer.distributed.prepare_distributed import parallelize_composer_model
from composer.utils.parallelism import FSDP2Config
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.nn.parallel import DistributedDataParallel

from plm_composer.hardware.fsdp_on_gloo import correct_fsdp_on_cpus
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.optim.schedule_free import averaged_weights
from tests.gloo import spawn_on_cpus
from tests.optim.tiny_training import tiny_batch, tiny_model, tiny_optimizer, train

WORLD = 2
STEPS = 3
SHARDED = ["lion", "muon", "schedule_free_adamw", "stable_adamw"]
CASES = [
    *((name, way) for name in SHARDED for way in ("ddp", "fsdp2", "resumed")),
    ("soap", "ddp"),
    ("normuon", "ddp"),
]
FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def sharded(name: str) -> tuple[ESM2ComposerModel, torch.optim.Optimizer]:
    model = tiny_model()
    optimizer = tiny_optimizer(name, model)
    parallelize_composer_model(model, optimizer, FSDP2Config())
    return model, optimizer


def under_ddp(name: str, rank: int) -> ESM2ComposerModel:
    model = tiny_model()
    train(DistributedDataParallel(model), tiny_optimizer(name, model), range(STEPS), rank, core=model)
    return model


def under_fsdp2(name: str, rank: int) -> ESM2ComposerModel:
    """Evaluates between two steps, which must not be felt."""
    model, optimizer = sharded(name)
    train(model, optimizer, range(STEPS - 1), rank)
    with averaged_weights(model, optimizer), torch.no_grad():
        model(tiny_batch(0))
    train(model, optimizer, range(STEPS - 1, STEPS), rank)
    return model


def resumed_under_fsdp2(name: str, rank: int) -> ESM2ComposerModel:
    """Through whole state dicts, as Composer saves and loads them."""
    model, optimizer = sharded(name)
    train(model, optimizer, range(STEPS - 1), rank)
    weights, state = get_model_state_dict(model, options=FULL), get_optimizer_state_dict(model, optimizer, options=FULL)
    model, optimizer = sharded(name)
    load = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, weights, options=load)
    set_optimizer_state_dict(model, optimizer, state, options=load)
    train(model, optimizer, range(STEPS - 1, STEPS), rank)
    return model


WAYS: dict[str, Any] = {"ddp": under_ddp, "fsdp2": under_fsdp2, "resumed": resumed_under_fsdp2}


def work(rank: int, folder: Path) -> None:
    correct_fsdp_on_cpus()
    for name, way in CASES:
        weights = get_model_state_dict(WAYS[way](name, rank), options=FULL)
        if rank == 0:
            torch.save(weights, folder / f"{name}-{way}.pt")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes trained, started once."""
    folder = tmp_path_factory.mktemp("trained")
    spawn_on_cpus(work, folder, WORLD)
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the processes have it: Muon multiplies in bf16, whose sums depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def on_one_process(name: str) -> ESM2ComposerModel:
    model = tiny_model()
    optimizer = tiny_optimizer(name, model)
    for step in range(STEPS):
        for rank in range(WORLD):
            batch = tiny_batch(step, rank)
            (model.loss(model(batch), batch) / WORLD).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize(("name", "way"), CASES)
def test_two_processes_train_as_one(name: str, way: str, trained: Path, one_thread: None) -> None:
    actual, before = torch.load(trained / f"{name}-{way}.pt"), tiny_model().state_dict()
    for key, value in on_one_process(name).state_dict().items():
        torch.testing.assert_close(actual[key], value, rtol=0, atol=1e-5)
        assert torch.equal(value, before[key]) == ("contact_head" in key), key
