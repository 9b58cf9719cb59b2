"""Causal models: nothing later is seen, and loss and gradients are those of a plain loop over proteins."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from plm_composer.data.collate import Collator, Protein
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.model.config import ESM2Config
from plm_composer.model.cost import training_flops
from plm_composer.model.esm2 import ESM2
from plm_composer.model.growing_layout import GrowingLayout
from plm_composer.model.predict import bounds_of
from tests.model.small_models import SMALL, randomise

VARIANTS = {
    "rotary": {},
    "alibi": {"position_embedding_type": "alibi"},
    "convolution": {"short_convolution": 5},
    "cramming": {"short_convolution": 5, "qk_norm": True, "normalization": "rmsnorm", "qkv_bias": False},
}
LENGTHS = (17, 40, 3, 29, 160)


def make_causal(fields: dict[str, object], dtype: torch.dtype = torch.float64) -> ESM2:
    model = ESM2(dataclasses.replace(SMALL, causal=True, token_dropout=False, **fields)).to(dtype)
    randomise(model)
    return model


def packed(lengths: tuple[int, ...] = LENGTHS) -> dict[str, object]:
    generator = np.random.default_rng(0)
    letters = np.frombuffer(b"LAGVSERTIDPKQNFYMHWC", dtype=np.uint8)
    proteins = [Protein(number, 0, letters[generator.integers(0, 20, length)].tobytes())
                for number, length in enumerate(lengths)]  # fmt: skip
    return Collator(objective="causal", crop_length=150)(proteins)


def plain_loss(model: ESM2, batch: dict) -> torch.Tensor:
    """Attention as a loop over proteins, heads and tokens' own predecessors, written out."""
    config, total, count = model.config, 0.0, 0
    for start, end in itertools.pairwise(batch["cu_seqlens"].tolist()):
        ids = batch["input_ids"][start:end]
        length = end - start
        x = model.embedding(ids)
        position = torch.arange(length, dtype=torch.float64)
        for block in model.blocks:
            normed = block.attention_norm(x)
            if block.convolution is not None:
                weight, reach = block.convolution.weight[:, 0], config.short_convolution // 2
                shifted = normed
                for distance in range(reach + 1):
                    before = F.pad(normed, (0, 0, distance, 0))[:length]
                    shifted = shifted + before * weight[:, reach - distance]
                normed = shifted
            attention = block.attention
            qkv = attention.qkv(normed).view(length, 3, config.num_attention_heads, config.head_size)
            heads = []
            for head in range(config.num_attention_heads):
                query, key, value = qkv[:, 0, head], qkv[:, 1, head], qkv[:, 2, head]
                if config.qk_norm:
                    query, key = attention.query_norm(query), attention.key_norm(key)
                if config.position_embedding_type == "rotary":
                    half = config.head_size // 2
                    inverse = 1.0 / 10_000 ** (torch.arange(0, config.head_size, 2).float() / config.head_size)
                    angle = position[:, None] * inverse.double()
                    query, key = (
                        torch.cat((z[:, :half] * angle.cos() - z[:, half:] * angle.sin(),
                                   z[:, half:] * angle.cos() + z[:, :half] * angle.sin()), -1)
                        for z in (query, key)
                    )  # fmt: skip
                rows = []
                for row in range(length):
                    scores = key[: row + 1] @ query[row] * config.head_size**-0.5
                    if config.position_embedding_type == "alibi":
                        slope = 2.0 ** (-8 * (head + 1) / config.num_attention_heads)
                        scores = scores - slope * (row - position[: row + 1])
                    rows.append(scores.softmax(-1) @ value[: row + 1])
                heads.append(torch.stack(rows))
            x = x + attention.out(torch.cat(heads, -1))
            x = x + block.feed_forward(block.feed_forward_norm(x))
        logits = model.head(model.final_norm(x))
        labels = batch["labels"][start:end]
        total = total + F.cross_entropy(logits, labels, reduction="sum", ignore_index=-100)
        count += int((labels != -100).sum())
    return total / count


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_and_gradients_are_those_of_a_plain_loop(name: str) -> None:
    model, batch = make_causal(VARIANTS[name]), packed()
    wrapped = ESM2ComposerModel(model).train()
    loss = wrapped.loss(wrapped(batch), batch)
    loss.backward()
    found = {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    expected = plain_loss(model, batch)
    expected.backward()
    assert float(loss) == pytest.approx(float(expected), abs=1e-10)
    for key, value in model.named_parameters():
        if value.requires_grad:
            torch.testing.assert_close(found[key], value.grad, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("form", ["packed", "padded"])
def test_nothing_later_is_seen(name: str, form: str) -> None:
    model = make_causal(VARIANTS[name], torch.float32).eval()
    ids = torch.randint(4, 24, (60,), generator=torch.Generator().manual_seed(1))
    other = ids.clone()
    other[40:] = (other[40:] - 3) % 20 + 4

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        if form == "padded":
            return model(tokens[None])[0]
        return model(tokens, cu_seqlens=bounds_of([60]), max_seqlen=60, lengths=[60])

    with torch.inference_mode():
        before, after = logits(ids), logits(other)
    torch.testing.assert_close(before[:40], after[:40], atol=1e-6, rtol=0)
    assert not torch.allclose(before[40:], after[40:], atol=1e-3)


@pytest.mark.parametrize("name", VARIANTS)
def test_growing_is_the_whole_at_once(name: str) -> None:
    model = make_causal(VARIANTS[name]).eval()
    ids = torch.randint(4, 24, (3, 30), generator=torch.Generator().manual_seed(2))
    layout = GrowingLayout(3, model.config, torch.float64, torch.device("cpu"))
    with torch.inference_mode():
        pieces = [model.grow(piece, layout) for piece in ids.split((7, 1, 1, 12, 9), dim=1)]
        torch.testing.assert_close(torch.cat(pieces, 1), model(ids), atol=1e-10, rtol=0)


def test_a_causal_model_costs_half_the_attention() -> None:
    both, causal = (ESM2Config(1, 64, 1, 64, causal=causal) for causal in (False, True))
    saved = training_flops(both, [1000], 0) - training_flops(causal, [1000], 0)
    assert saved == 3 * 4 * 64 * (1000 * 1000 - 1000 * 1001 // 2)
