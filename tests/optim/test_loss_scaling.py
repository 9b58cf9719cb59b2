"""A scaled loss, as Composer has it for ``precision: amp_fp16``.

Composer refuses that precision without a GPU. These are its calls, with torch's scaler for CPUs.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.optim.optimizers import OPTIMIZERS
from tests.optim.tiny_training import tiny_batch, tiny_model, tiny_optimizer


def train(
    model: ESM2ComposerModel,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    number: int,
    *,
    overflows: bool = False,
) -> None:
    batch = tiny_batch(number)
    scaler.scale(model.loss(model(batch), batch)).backward()
    if overflows:
        gradient = model.model.embedding.weight.grad
        assert gradient is not None
        gradient[5] = math.inf
    scaler.unscale_(optimizer)  # before gradients are clipped
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


def weights_of(model: ESM2ComposerModel) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def are_equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


@pytest.mark.parametrize(
    ("name", "others"), [*((name, {}) for name in OPTIMIZERS), ("adam", {"fused": True}), ("adamw", {"fused": True})]
)
def test_a_step_with_infinite_gradients_is_skipped(name: str, others: dict[str, Any]) -> None:
    model = tiny_model()
    optimizer = tiny_optimizer(name, model, **others)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    train(model, optimizer, scaler, 0)
    assert scaler.get_scale() == 1024
    before = weights_of(model)
    train(model, optimizer, scaler, 1, overflows=True)
    assert scaler.get_scale() == 512
    assert are_equal(before, weights_of(model))
    train(model, optimizer, scaler, 2)
    assert scaler.get_scale() == 512
    after = weights_of(model)
    assert not are_equal(before, after)
    assert all(bool(weight.isfinite().all()) for weight in after)


def test_the_scale_falls_until_the_gradients_fit_into_fp16() -> None:
    model = tiny_model()
    model.autocast_dtype = torch.float16
    optimizer = tiny_optimizer("adamw", model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before, scales = weights_of(model), []
    for number in range(40):
        train(model, optimizer, scaler, number)
        scales.append(scaler.get_scale())
    after = weights_of(model)
    assert scales[0] == 2.0**39
    assert scales[-1] > 1 and len(set(scales)) < len(scales)  # some steps were taken
    assert not are_equal(before, after)
    assert all(bool(weight.isfinite().all()) for weight in after)
