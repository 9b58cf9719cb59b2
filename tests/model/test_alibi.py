"""ALiBi in every attention, against a dense matrix and the slopes of others."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from plm_composer.model import protein_groups, tiled_attention
from plm_composer.model.alibi import alibi_slopes
from plm_composer.model.batch_layouts import PaddedLayout, RecordingLayout
from tests.model.small_models import SMALL, attend, close

LENGTHS = (5, 90, 17, 1, 64)
CU_SEQLENS = torch.tensor([0, *LENGTHS]).cumsum(0).int()


def make(dtype: torch.dtype = torch.float64, heads: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn((4, sum(LENGTHS), heads, 8), generator=generator, dtype=torch.float64).to(dtype))


def dense(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Press et al.'s formula, number by number, for one protein."""
    length, heads, _ = query.shape
    scores = torch.einsum("ihd,jhd->hij", query, key)
    slopes = alibi_slopes(heads, dtype=query.dtype)
    for head, i, j in itertools.product(range(heads), range(length), range(length)):
        scores[head, i, j] = scores[head, i, j] - slopes[head] * abs(i - j)
    return torch.einsum("hij,jhd->ihd", scores.softmax(-1), value)


def run(backend: str, tensors: list[Tensor]) -> list[Tensor]:
    query, key, value = (x.clone().requires_grad_() for x in tensors[:3])
    slopes = alibi_slopes(query.shape[1], dtype=torch.promote_types(query.dtype, torch.float32))
    result = attend(backend, query, key, value, CU_SEQLENS, max(LENGTHS), slopes)
    result.backward(tensors[3])
    return [result.detach(), *(x.grad for x in (query, key, value) if x.grad is not None)]


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 8, 12, 20, 40])
def test_slopes_are_those_of_others(heads: int) -> None:
    theirs = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)
    close(alibi_slopes(heads), theirs[:, 0, 1], 1e-7)


@torch.no_grad()
def test_reference_is_the_formula() -> None:
    *tensors, _ = make(heads=3)
    result = attend("reference", *tensors, CU_SEQLENS, max(LENGTHS), alibi_slopes(3, dtype=torch.float64))
    for start, end in ((0, 5), (95, 112), (112, 113)):
        close(result[start:end], dense(*(x[start:end] for x in tensors)), 1e-12)


@pytest.mark.parametrize("limit", [0, 30_000, 1 << 30])
@pytest.mark.parametrize("tile", [1, 5000, 1 << 20])
def test_tiled_equals_reference(tile: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protein_groups, "TILE", tile)
    monkeypatch.setattr(tiled_attention, "SAVED_SCORES_LIMIT", limit)
    for one, other in zip(run("cpu", make()), run("reference", make()), strict=True):
        close(one, other, 1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)], ids=str)
def test_tiled_in_other_precisions(dtype: torch.dtype, tolerance: float) -> None:
    for one, other in zip(run("cpu", make(dtype)), run("reference", [x.double() for x in make(dtype)]), strict=True):
        assert one.dtype == dtype
        size = max(1.0, float(other.abs().max()))
        close(one.double() / size, other / size, tolerance)


@pytest.mark.parametrize("recording", [False, True])
@torch.no_grad()
def test_padded_equals_packed(recording: bool) -> None:
    *tensors, _ = make()
    slopes = alibi_slopes(6, dtype=torch.float64)
    is_token = pad_sequence([torch.ones(n, dtype=torch.bool) for n in LENGTHS], batch_first=True)
    config = dataclasses.replace(SMALL, position_embedding_type="alibi", num_attention_heads=6, attention_head_size=8)
    layout = (RecordingLayout if recording else PaddedLayout)(is_token, config, torch.float64)
    padded = (pad_sequence(x.split(LENGTHS), batch_first=True) for x in tensors)
    expected = attend("cpu", *tensors, CU_SEQLENS, max(LENGTHS), slopes)
    close(layout.attend(*padded)[is_token], expected, 1e-12)
