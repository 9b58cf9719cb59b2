"""Muon: which parameters it takes, and what it does to them."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_optimizer
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.optim.muon import Muon, muon_groups
from tests.optim.tiny_training import tiny_model, tiny_optimizer


def test_hidden_matrices_are_muons_and_the_rest_is_adamws() -> None:
    model = ESM2(ESM2Config(1, 32, 4, 64, tie_word_embeddings=False))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    hidden, fused, tables, vectors = (
        {names[id(p)] for p in group["params"]} for group in muon_groups(model, {"weight_decay": 0.1, "adamw_wd": 0.2})
    )
    assert hidden == {
        "blocks.0.attention.out.weight",
        "blocks.0.feed_forward.up.weight",
        "blocks.0.feed_forward.down.weight",
        "lm_head.dense.weight",
    }
    assert fused == {"blocks.0.attention.qkv.weight"}
    assert tables == {"embedding.weight", "decoder.weight"}
    assert all(name.endswith("bias") or "norm" in name for name in vectors)
    assert hidden | fused | tables | vectors == {name for name in names.values() if "contact_head" not in name}


def test_a_gate_is_two_matrices_and_a_convolution_is_none() -> None:
    model = ESM2(ESM2Config(1, 32, 4, 64, feed_forward="swiglu", short_convolution=3))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = muon_groups(model, {})
    fused = {group["fused"]: {names[id(p)] for p in group["params"]} for group in groups if "fused" in group}
    assert fused == {3: {"blocks.0.attention.qkv.weight"}, 2: {"blocks.0.feed_forward.up.weight"}}
    muon = {names[id(p)] for group in groups if group["use_muon"] for p in group["params"]}
    assert "blocks.0.convolution.weight" not in muon
    assert sum(len(group["params"]) for group in groups) == len([p for p in model.parameters() if p.requires_grad])


def test_what_the_run_freezes_is_left_out() -> None:
    model = ESM2(ESM2Config(1, 32, 4, 64))
    model.blocks.requires_grad_(False)
    assert [sum(p.numel() for p in group["params"]) for group in muon_groups(model, {})] == [
        32 * 32,
        33 * 32,
        2 * 32 + 3 * 32 + 33,
    ]


@pytest.mark.parametrize("adjusted", [False, True])
def test_query_key_and_value_are_orthogonalised_each_on_its_own(adjusted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    wholes = [torch.randn(96, 32, generator=generator) for _ in range(2)]
    gradients = [torch.randn(96, 32, generator=generator) for _ in range(2)]
    # Keys far smaller than the others: as one matrix, they would hardly move.
    for gradient in gradients:
        gradient[32:64] *= 1e-3
    arguments = {"lr": 0.1, "weight_decay": 0.1, "use_adjusted_lr": adjusted}

    def step(kind: type[torch.optim.Optimizer], weights: list[Tensor], grads: list[Tensor], **group: object) -> Tensor:
        parameters = [nn.Parameter(weight.clone()) for weight in weights]
        for parameter, gradient in zip(parameters, grads, strict=True):
            parameter.grad = gradient.clone()
        kind([{"params": parameters, "use_muon": True, **group}], **arguments).step()
        return torch.cat([parameter.detach() for parameter in parameters])

    fused = step(Muon, wholes, gradients, fused=3)
    parts, part_gradients = ([piece for x in tensors for piece in x.chunk(3)] for tensors in (wholes, gradients))
    torch.testing.assert_close(fused, step(pytorch_optimizer.Muon, parts, part_gradients), rtol=0, atol=1e-3)
    moved = (fused - 0.99 * torch.cat(wholes)).chunk(6)
    # The polar factor of 32 by 32 has the norm sqrt(32); five iterations come near it.
    expected = 0.1 * 32**0.5 * (0.2 * 32**0.5 if adjusted else 1.0)
    for part in moved:
        assert part.norm() == pytest.approx(expected, rel=0.25)


def test_the_update_has_singular_values_near_one() -> None:
    model = tiny_model()
    optimizer = tiny_optimizer("muon", model, lr=1.0, weight_decay=0.0)
    matrix = model.model.blocks[0].attention.out.weight
    before = matrix.detach().clone()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    gradient = matrix.grad.clone()
    optimizer.step()
    update = before - matrix.detach()
    left, _, right = torch.linalg.svd(gradient)
    diagonal = left.T @ update @ right.T  # The polar factor of the gradient has the identity here.
    torch.testing.assert_close(diagonal, torch.diag(diagonal.diagonal()), rtol=0, atol=0.1)
    assert diagonal.diagonal().min() > 0.3 and diagonal.diagonal().max() < 1.3


def test_a_step_takes_few_operations_whatever_the_depth() -> None:
    def count(layers: int) -> int:
        model = ESM2(ESM2Config(layers, 32, 4, 64, qk_norm=True, short_convolution=3)).to("meta")
        optimizer = Muon(muon_groups(model, {}), lr=0.02)
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        optimizer.step()
        with _CountingMode() as counted:
            optimizer.step()
        return counted.operations

    # Matrices of one shape are orthogonalised together; of each layer alone, three parts become one weight again.
    assert count(12) - count(2) <= 2 * 10
    assert count(2) < 150


class _CountingMode(TorchDispatchMode):
    """Counts operations, views aside: on a GPU, a kernel or a few each."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += not function.is_view
        return function(*args, **(kwargs or {}))


def test_everything_else_steps_as_torchs_adamw() -> None:
    model, reference = tiny_model(), tiny_model()
    optimizer = tiny_optimizer("muon", model, adamw_lr=0.01, adamw_betas=(0.9, 0.98), adamw_wd=0.1, adamw_eps=1e-8)
    theirs = torch.optim.AdamW(
        [
            {"params": group["params"], "weight_decay": group["weight_decay"]}
            for group in muon_groups(reference, {"adamw_wd": 0.1})
            if not group["use_muon"]
        ],
        lr=0.01,
        betas=(0.9, 0.98),
    )
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        for ours, other in zip(model.parameters(), reference.parameters(), strict=True):
            ours.grad = torch.randn(ours.shape, generator=generator)
            other.grad = ours.grad.clone()
        optimizer.step()
        theirs.step()
    ours_by_name = dict(model.named_parameters())
    for group in theirs.param_groups:
        for name, parameter in reference.named_parameters():
            if any(parameter is other for other in group["params"]):
                torch.testing.assert_close(ours_by_name[name], parameter, rtol=1e-5, atol=1e-6)
