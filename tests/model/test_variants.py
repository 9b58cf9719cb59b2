"""Every variant of the architecture: the same for packed and padded batches, counted right, and what its paper says."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from plm_composer.errors import UserError
from plm_composer.model.config import ESM2Config
from plm_composer.model.cost import parameter_count, training_flops
from plm_composer.model.esm2 import ESM2, ESM2FeedForward
from plm_composer.model.parallelize import parallelize
from tests.model.small_models import SMALL, VARIANTS, close, inputs, make_batch, make_model


def variant(name: str, **changes: Any) -> ESM2Config:
    return dataclasses.replace(SMALL, **VARIANTS[name] | changes)


def results(model: ESM2, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Logits of the real tokens, and the gradients of something of them."""
    model.zero_grad()
    logits = model(**inputs(batch)).double()
    if "attention_mask" in batch:
        logits = logits[batch["attention_mask"].bool()]
    (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)).mean().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def same_results(one: ESM2, other: ESM2, forms: tuple[str, str], tolerance: float) -> None:
    batch = make_batch()
    (logits, gradients), (expected_logits, expected) = (
        results(model, batch[form]) for model, form in zip((one, other), forms, strict=True)
    )
    close(logits, expected_logits, tolerance)
    for name, gradient in gradients.items():
        assert gradient is not None, name
        close(gradient, expected[name], tolerance)


@pytest.mark.parametrize("name", VARIANTS)
def test_packed_equals_padded_and_every_parameter_learns(name: str) -> None:
    model = make_model(variant(name), torch.float64)
    same_results(model, model, ("packed", "padded"), 1e-10)


@pytest.mark.parametrize("form", ["packed", "padded"])
@pytest.mark.parametrize("name", VARIANTS)
def test_bf16_autocast_is_close(name: str, form: str) -> None:
    model, batch = make_model(variant(name)), make_batch()[form]
    expected, _ = results(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, gradients = results(model, batch)
    assert (actual - expected).norm() / expected.norm() < 0.03
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("name", VARIANTS)
def test_recomputing_changes_nothing(name: str) -> None:
    plain, recomputing = make_model(variant(name)), make_model(variant(name))
    parallelize(recomputing, activation_checkpointing=True)
    same_results(recomputing, plain, ("packed", "packed"), 1e-6)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_a_protein_does_not_see_its_neighbours(name: str) -> None:
    model, packed = make_model(variant(name)), inputs(make_batch((17, 40, 23))["packed"])
    before = model(**packed)[17:57]
    ids = packed["input_ids"].clone()
    ids[:17], ids[57:] = 5, 6
    assert torch.equal(model(**{**packed, "input_ids": ids})[17:57], before)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("lengths", [(1,), (1, 1, 2), (5, 0, 4)])
@torch.no_grad()
def test_odd_lengths_stay_finite(name: str, lengths: tuple[int, ...]) -> None:
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    ids = torch.randint(4, 24, (sum(lengths),))
    assert make_model(variant(name))(ids, cu_seqlens=cu_seqlens, max_seqlen=max(lengths)).isfinite().all()


@pytest.mark.parametrize("name", VARIANTS)
def test_costs_are_those_of_the_model(name: str) -> None:
    # What is dropped in the mean is a matter of test_layer_drop.py.
    model, lengths = make_model(variant(name, layer_drop=0.0)), (64, 100, 37)
    assert parameter_count(model.config) == sum(p.numel() for p in model.parameters())
    model.attention_backend = "reference"
    batch = make_batch(lengths)["packed"]
    positions = batch["masked_positions"]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**inputs(batch), positions=positions).sum().backward()
    # The reference computes all pairs of a causal model, too.
    expected = training_flops(dataclasses.replace(model.config, causal=False), lengths, len(positions))
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_contacts_come_from_the_attention_of_the_variant(name: str) -> None:
    model, padded = make_model(variant(name), torch.float64), inputs(make_batch((40,))["padded"])
    contacts = model.predict_contacts(**padded)
    assert contacts.isfinite().all()
    assert contacts.std() > 0


def test_a_config_of_another_kind_keeps_the_blocks_keys() -> None:
    """The names that a checkpoint is read by."""
    names = {name for name, _ in ESM2(variant("qk_norm")).blocks[0].named_parameters()}
    assert names - {name for name, _ in ESM2(SMALL).blocks[0].named_parameters()} == {
        "attention.query_norm.weight",
        "attention.key_norm.weight",
    }
    with torch.device("meta"):
        bare = ESM2(variant("no biases"))
    assert {name for name, _ in bare.named_parameters() if name.endswith("bias")} == {
        "lm_head.bias",
        "lm_head.dense.bias",
        "lm_head.norm.bias",
        "contact_head.regression.bias",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feed_forward": "geglu"}, "feed_forward: there is no 'geglu'; choose from gelu, swiglu"),
        ({"normalization": 3}, "normalization: 3 must be of type str"),
        ({"attention_head_size": 7}, "attention_head_size: 7 must be at least 2, and even for rotary"),
        ({"attention_head_size": 0}, "attention_head_size: 0 must be at least 2"),
        ({"position_embedding_type": "absolute"}, "position_embedding_type: there is no 'absolute'"),
        ({"position_embedding_type": "alibi", "hidden_size": 33}, "hidden_size: 33 .* make it a multiple of 4"),
        ({"attention_head_size": 1.5}, "attention_head_size: 1.5 must be of type int or null"),
        ({"short_convolution": 4}, "short_convolution: 4 must be an odd number"),
        ({"short_convolution": -1}, "short_convolution: -1 must be an odd number"),
        ({"layer_drop": 1.0}, "layer_drop: 1.0 must be at least 0 and below 1"),
        ({"layer_drop": 0.1, "value_residual": True}, "layer_drop: with value_residual no protein may skip a block"),
        ({"z_loss": -1e-4}, "z_loss: -0.0001 must be at least 0"),
        ({"residual_scale": 0}, "residual_scale: 0 must be above 0"),
        ({"embedding_scale": math.nan}, "embedding_scale: nan must be above 0"),
    ],
)
def test_impossible_variants_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_swiglu_is_that_of_llama() -> None:
    config = variant("swiglu", intermediate_bias=False, output_bias=False)
    ours = ESM2FeedForward(config)
    theirs = LlamaMLP(LlamaConfig(hidden_size=32, intermediate_size=84, hidden_act="silu"))
    with torch.no_grad():
        gate, value = ours.up.weight.chunk(2)
        for mine, weight in ((theirs.gate_proj, gate), (theirs.up_proj, value), (theirs.down_proj, ours.down.weight)):
            mine.weight.copy_(weight)
    x = torch.randn(11, 32)
    close(ours(x), theirs(x), 1e-6)


def test_rmsnorm_is_that_of_llama_wherever_esm2_has_a_norm_but_in_the_head() -> None:
    model = make_model(variant("rmsnorm"))
    norms = {name: module for name, module in model.named_modules() if name.endswith("norm")}
    for name, norm in norms.items():
        assert isinstance(norm, nn.LayerNorm if name.startswith("lm_head") else nn.RMSNorm), name
    theirs = LlamaRMSNorm(32, eps=SMALL.layer_norm_eps)
    theirs.weight = model.final_norm.weight
    x = torch.randn(11, 32)
    close(model.final_norm(x), theirs(x), 1e-6)


def test_queries_and_keys_are_normalised_before_they_are_turned() -> None:
    model = make_model(variant("qk_norm"), torch.float64)
    attention = model.blocks[0].attention
    seen: dict[str, Tensor] = {}
    layout = model._layout(torch.full((9,), 5), None, torch.tensor([0, 9], dtype=torch.int32), 9, None)
    layout.attend = lambda q, k, v: seen.update(query=q, key=k) or v
    x = torch.randn(9, 32, dtype=torch.float64)
    attention(x, layout)
    query, key, _ = attention.qkv(x).view(9, 3, 4, 8).unbind(1)
    for name, raw, norm, scale in (
        ("query", query, attention.query_norm, 8**-0.5),
        ("key", key, attention.key_norm, 1),
    ):
        centred = raw - raw.mean(-1, keepdim=True)
        expected = centred / (raw.var(-1, correction=0, keepdim=True) + 1e-5).sqrt() * norm.weight
        close(seen[name], layout.rotate(expected * scale), 1e-12)


@torch.no_grad()
def test_later_blocks_mix_the_first_ones_values_into_theirs() -> None:
    """Zhou et al. 2024: V = (1 - w) V + w V_1."""
    model = make_model(variant("value residual"), torch.float64)
    layout = model._layout(torch.full((9,), 5), None, torch.tensor([0, 9], dtype=torch.int32), 9, None)
    seen: list[Tensor] = []
    layout.attend = lambda q, k, v: seen.append(v) or v
    x, own = torch.randn(9, 32, dtype=torch.float64), []
    for block in model.blocks:
        own.append(block.attention.qkv(x).view(9, 3, 4, 8)[:, 2])
        block.attention(x, layout)
    close(seen[0], own[0], 0)
    for block, found, value in zip(model.blocks[1:], seen[1:], own[1:], strict=True):
        weight = block.attention.value_weight
        close(found, (1 - weight) * value + weight * own[0], 1e-12)
    assert all(float(block.attention.value_weight) == 0.5 for block in ESM2(variant("value residual")).blocks[1:])


@torch.no_grad()
def test_blocks_begin_with_a_mixture_of_stream_and_embedding() -> None:
    model, batch = make_model(variant("embedding residual"), torch.float64), inputs(make_batch()["packed"])
    plain = make_model(SMALL, torch.float64)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.endswith("stream_weights")})
    states = plain.layer_states(batch["input_ids"], [0], **{k: v for k, v in batch.items() if k != "input_ids"})
    layout = plain._layout(batch["input_ids"], None, batch["cu_seqlens"], batch["max_seqlen"], None)
    x = embedded = states[0]
    for block, mixing in zip(plain.blocks, model.blocks, strict=True):
        stream, weight = mixing.stream_weights
        x = block(stream * x + weight * embedded, layout)
    close(model.hidden_states(**batch), plain.final_norm(x), 1e-12)
    new = ESM2(variant("embedding residual"))
    assert all(block.stream_weights.tolist() == [1.0, 0.0] for block in new.blocks)


@torch.no_grad()
def test_scales_multiply_embeddings_and_updates() -> None:
    model = make_model(variant("scales"), torch.float64)
    packed = inputs(make_batch()["packed"])
    hidden = model.hidden_states(**packed)
    folded = make_model(dataclasses.replace(SMALL, token_dropout_mask_rate=0.25), torch.float64)
    folded.embedding.weight.mul_(3.0)
    for block in folded.blocks:
        for layer in (block.attention.out, block.feed_forward.down):
            layer.weight.mul_(0.4)
            layer.bias.mul_(0.4)
    close(hidden, folded.hidden_states(**packed), 1e-12)


def test_the_scaled_start_divides_what_writes_to_the_residual_stream() -> None:
    models = []
    for config in (SMALL, variant("scaled start")):
        torch.manual_seed(3)
        models.append(ESM2(config).state_dict())
    for name, value in models[0].items():
        scaled = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
        close(models[1][name], value / math.sqrt(6) if scaled else value, 1e-8)


def test_attention_of_wide_heads_is_torchs() -> None:
    model = make_model(variant("wide heads"), torch.float64)
    attention = model.blocks[0].attention
    layout = model._layout(torch.full((9,), 5), None, torch.tensor([0, 9], dtype=torch.int32), 9, None)
    x = torch.randn(9, 32, dtype=torch.float64)
    query, key, value = attention.qkv(x).view(9, 3, 4, 10).unbind(1)
    query, key, value = (y.transpose(0, 1) for y in (layout.rotate(query), layout.rotate(key), value))
    expected = F.scaled_dot_product_attention(query, key, value).transpose(0, 1).reshape(9, 40)
    close(attention(x, layout), attention.out(expected), 1e-12)
