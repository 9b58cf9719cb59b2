"""The host never asks a GPU for a value between two batches.

Tensors without values stand for those of a GPU: whatever reads one back raises an error. There are two kinds. Fake
ones on a pretended ``cuda`` device take the way that a GPU's take, but torch's autograd wants a real one; so what comes
after the forward pass runs on the device ``meta``.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from plm_composer.data.batches import Batch, count_tokens, split_by_tokens
from plm_composer.model import batch_layouts
from plm_composer.model.composer_model import ESM2ComposerModel, Prediction
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.parallelize import parallelize
from plm_composer.optim.optimizers import OPTIMIZERS
from tests.model.small_models import SMALL, VARIANTS, make_batch

TORCH = tuple(map(int, torch.__version__.split(".")[:2]))
# Draws of the host, which this mode takes for values of tensors.
PRETENDED = ["esm2", *(name for name in VARIANTS if name != "layer drop" and "alibi" not in name)]


@pytest.fixture(autouse=True)
def bf16_by_default() -> Iterator[None]:
    """There is no autocast for either kind."""
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def flash_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device ``meta`` has neither a backend nor an autocast."""
    monkeypatch.setattr(batch_layouts, "choose_backend", lambda *_: "flash")
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _device: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def make(config: ESM2Config, device: str) -> ESM2ComposerModel:
    with torch.device(device):
        return ESM2ComposerModel(ESM2(config)).train()


def send(batch: Batch, device: str) -> Batch:
    """What Composer does with a microbatch."""
    return {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


def look_at(model: ESM2ComposerModel, batch: Batch, outputs: Prediction) -> None:
    """What is counted and logged of a microbatch."""
    for metric in model.get_metrics(is_train=True).values():
        model.update_metric(batch, outputs, metric.to(outputs.logits.device))
    assert model.flops_per_batch(batch) > 0
    assert count_tokens(batch)["loss_generating"] > 0


@pytest.mark.skipif(TORCH < (2, 11), reason="older torches cannot pretend a GPU")
@pytest.mark.parametrize("form", ["packed", "padded"])
@pytest.mark.parametrize("name", PRETENDED)
def test_a_forward_pass_reads_nothing_back(name: str, form: str) -> None:
    batches = split_by_tokens(make_batch((20, 7, 30, 12))[form], 60)
    assert len(batches) > 1
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = make(dataclasses.replace(SMALL, **VARIANTS.get(name, {})), "cuda")
        for batch in batches:
            sent = send(batch, "cuda")
            outputs = model(sent)
            assert model.loss(outputs, sent).device.type == "cuda"
            look_at(model, sent, outputs)


@pytest.mark.usefixtures("flash_everywhere")
@pytest.mark.parametrize("recomputes", [False, True], ids=["", "recomputing"])
@pytest.mark.parametrize("name", PRETENDED)
def test_a_microbatch_reads_nothing_back(name: str, recomputes: bool) -> None:
    model = make(dataclasses.replace(SMALL, **VARIANTS.get(name, {})), "meta")
    parallelize(model.model, activation_checkpointing=recomputes)
    for batch in split_by_tokens(make_batch((20, 7, 30, 12))["packed"], 60):
        sent = send(batch, "meta")
        outputs = model(sent)
        model.loss(outputs, sent).backward()
        look_at(model, sent, outputs)
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.usefixtures("flash_everywhere")
# Composer's own reads the number of steps of each parameter (docs/optimizers.md).
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "decoupled_adamw"])
def test_a_step_reads_nothing_back(name: str) -> None:
    kind, batch = OPTIMIZERS[name], send(make_batch((20, 7, 30, 12))["packed"], "meta")
    model = make(SMALL, "meta")
    arguments = {"lr": 1e-3}
    optimizer = kind.target(kind.groups(model, arguments), **arguments)
    for _ in range(3):
        model.loss(model(batch), batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # as Composer's GradientClipping
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("read", [Tensor.item, bool, Tensor.cpu, Tensor.nonzero, lambda x: x[x > 0]])
def test_a_read_back_is_noticed(read: Callable[[Tensor], Any]) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        read(torch.ones((1,), device="meta"))
    if TORCH >= (2, 11) and read is not Tensor.cpu:  # which copies no value that does not exist
        with FakeTensorMode(), pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            read(torch.ones((1,), device="cuda"))
