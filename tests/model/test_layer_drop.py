"""Stochastic depth: what it leaves out, what it does in the mean, and that nothing else changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from plm_composer.model.config import ESM2Config
from plm_composer.model.cost import training_flops
from plm_composer.model.esm2 import ESM2
from plm_composer.model.layer_drop import draw_kept, drop_rates, keep_probability
from plm_composer.model.parallelize import parallelize
from tests.model.small_models import SMALL, VARIANTS, close, inputs, make_batch, make_model

LENGTHS = (17, 40, 3, 29)
DROPPING = dataclasses.replace(SMALL, layer_drop=0.6)


def train_logits(model: ESM2, batch: dict[str, Any], seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    logits = model.train()(**inputs(batch))
    return logits[batch["attention_mask"].bool()] if "attention_mask" in batch else logits


def test_rates_grow_in_equal_steps() -> None:
    assert drop_rates(DROPPING) == pytest.approx([0.2, 0.4, 0.6])


@pytest.mark.parametrize("proteins", [1, 2, 3, 50])
def test_draws_have_their_probability_and_leave_one(proteins: int) -> None:
    torch.manual_seed(0)
    draws = torch.stack([draw_kept(DROPPING, proteins) for _ in range(3000)])
    assert draws.any(-1).all()
    expected = [keep_probability(rate, proteins) for rate in drop_rates(DROPPING)]
    close(draws.double().mean((0, 2)), torch.tensor(expected, dtype=torch.float64), 0.03)


# All variants whose blocks look at the layout.
@pytest.mark.parametrize("name", ["layer drop", "alibi", "convolution", "swiglu", "embedding residual"])
def test_packed_equals_padded_and_every_parameter_gets_a_gradient(name: str) -> None:
    model = make_model(dataclasses.replace(SMALL, **VARIANTS[name] | {"layer_drop": 0.9}), torch.float64)
    for seed in range(4):
        results = []
        for form in ("packed", "padded"):
            model.zero_grad(set_to_none=True)
            logits = train_logits(model, make_batch(LENGTHS)[form], seed)
            logits.square().mean().backward()
            results.append([logits, *(p.grad for p in model.parameters() if p.requires_grad)])
        for one, other in zip(*results, strict=True):
            close(one, other, 1e-10)


def test_a_dropped_protein_is_left_alone_and_not_computed() -> None:
    model, batch = make_model(DROPPING, torch.float64).train(), make_batch(LENGTHS)["packed"]
    seen: list[int] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _module, arguments, _out: seen.append(len(arguments[0])))
    torch.manual_seed(5)
    kept = draw_kept(DROPPING, len(LENGTHS))
    assert not kept.all(1).any()
    actual = train_logits(model, batch, seed=5)
    assert seen == (kept * torch.tensor(LENGTHS)).sum(1).tolist()

    # Protein by protein, with the plain model's blocks.
    plain = make_model(SMALL, torch.float64)
    for number, ids in enumerate(batch["input_ids"].split(LENGTHS)):
        layout = plain._layout(ids, None, torch.tensor([0, len(ids)], dtype=torch.int32), len(ids), None)
        x = plain._embed(ids, layout)
        for block, is_kept, rate in zip(plain.blocks, kept[:, number], drop_rates(DROPPING), strict=True):
            if is_kept:
                x = x + (block(x, layout) - x) / keep_probability(rate, len(LENGTHS))
        close(actual.split(LENGTHS)[number], plain.head(plain.final_norm(x)), 1e-10)


def test_one_blocks_mean_is_the_block_without_drops() -> None:
    config = ESM2Config(1, 16, 2, 32, layer_drop=0.5)
    model, copies = make_model(config, torch.float64), 3000
    model.final_norm = torch.nn.Identity()
    ids = torch.tensor([0, 5, 32, 9, 2]).repeat(copies)
    batch = {"cu_seqlens": torch.arange(0, len(ids) + 1, 5, dtype=torch.int32), "max_seqlen": 5}
    with torch.no_grad():
        expected = model.hidden_states(ids, **batch)[:5]
        torch.manual_seed(0)
        mean = model.train().hidden_states(ids, **batch).view(copies, 5, 16).mean(0)
    assert float((mean - expected).norm() / expected.norm()) < 0.03


def test_it_is_off_in_evaluation_and_follows_the_seed_in_training() -> None:
    dropping, plain = make_model(DROPPING), make_model(SMALL)
    batch = make_batch(LENGTHS)["packed"]
    state = torch.get_rng_state()
    assert torch.equal(dropping(**inputs(batch)), plain(**inputs(batch)))
    assert torch.equal(torch.get_rng_state(), state)
    first, again, other = (train_logits(dropping, batch, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("form", ["packed", "padded"])
def test_recomputing_draws_nothing_anew(form: str) -> None:
    gradients = []
    for recomputes in (False, True):
        model = make_model(DROPPING)
        parallelize(model, activation_checkpointing=recomputes)
        train_logits(model, make_batch(LENGTHS)[form], seed=3).square().mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for one, other in zip(*gradients, strict=True):
        close(one, other, 1e-7)


@pytest.mark.parametrize("lengths", [(1,), (5, 0, 4), ()], ids=str)
def test_odd_batches_are_trained(lengths: tuple[int, ...]) -> None:
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    ids = torch.randint(4, 24, (sum(lengths),))
    model = make_model(DROPPING).train()
    for _ in range(5):
        assert model(ids, cu_seqlens=cu_seqlens, max_seqlen=max(lengths, default=0)).isfinite().all()


@pytest.fixture
def plain_attention() -> Iterator[None]:
    with sdpa_kernel(SDPBackend.MATH):
        yield


@pytest.mark.usefixtures("plain_attention")
def test_flops_are_the_mean_of_what_is_computed() -> None:
    model, lengths = make_model(DROPPING).train(), (16,) * 60
    model.attention_backend = "reference"
    batch = make_batch(lengths)["packed"]
    positions = batch["masked_positions"]
    torch.manual_seed(0)
    with FlopCounterMode(display=False) as counter:
        for _ in range(4):
            model(**inputs(batch), positions=positions).sum().backward()
    expected = training_flops(model.config, lengths, len(positions))
    assert counter.get_total_flops() / 4 == pytest.approx(expected, rel=0.08)
