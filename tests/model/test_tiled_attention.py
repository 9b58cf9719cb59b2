"""The CPU's attention whatever its tiles, whatever it saves, and however large the scores are."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from plm_composer.model import protein_groups, tiled_attention
from plm_composer.model.protein_groups import group, groups_of
from plm_composer.model.tiled_attention import count_saved_scores
from tests.model.small_models import attend, close

LENGTHS = (5, 90, 17, 1, 64, 2, 130, 33, 33)
CU_SEQLENS = torch.tensor([0, *LENGTHS]).cumsum(0).int()
CAUSAL = pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])


def make(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, *others = torch.randn((4, sum(LENGTHS), 3, 8), generator=generator, dtype=torch.float64)
    return [x.to(dtype) for x in (scale * query, *others)]


def run(backend: str, tensors: list[Tensor], causal: bool = False) -> list[Tensor]:
    query, key, value = (x.clone().requires_grad_() for x in tensors[:3])
    result = attend(backend, query, key, value, CU_SEQLENS, max(LENGTHS), causal=causal)
    result.backward(tensors[3])
    return [result.detach(), *(x.grad for x in (query, key, value) if x.grad is not None)]


@CAUSAL
@pytest.mark.parametrize("limit", [0, 30_000, 1 << 30])
@pytest.mark.parametrize("tile", [1, 5000, 1 << 20])
@pytest.mark.parametrize("scale", [0.3, 300.0], ids=["small scores", "large scores"])
def test_it_equals_the_reference(
    tile: int, limit: int, scale: float, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protein_groups, "TILE", tile)
    monkeypatch.setattr(tiled_attention, "SAVED_SCORES_LIMIT", limit)
    tensors = make(scale=scale)
    for one, other in zip(run("cpu", tensors, causal), run("reference", tensors, causal), strict=True):
        close(one, other, 1e-12 * scale)


def test_large_scores_overflow_in_no_precision() -> None:
    expected = run("reference", make(scale=300.0))
    for one, other in zip(run("cpu", make(torch.float32, scale=300.0)), expected, strict=True):
        assert float((one.double() - other).norm() / other.norm()) < 1e-3
    # bf16 leaves no digit behind the point of such scores, so there is no right result to compare with.
    assert all(bool(one.isfinite().all()) for one in run("cpu", make(torch.bfloat16, scale=300.0)))


def test_a_nan_is_not_hidden() -> None:
    tensors = make()
    tensors[0][7] = torch.nan
    assert run("cpu", tensors)[0][7].isnan().all()


@pytest.mark.parametrize("limit", [0, 30_000, 1 << 30])
def test_it_saves_what_it_says(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled_attention, "SAVED_SCORES_LIMIT", limit)
    query, key, value = (x.clone().requires_grad_() for x in make()[:3])
    saved: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        if x.is_floating_point():  # and not the proteins' bounds
            saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = attend("cpu", query, key, value, CU_SEQLENS, max(LENGTHS))
    given = 4 * result.numel()  # query, key, value, result
    assert sum(saved.values()) - given == count_saved_scores(groups_of(CU_SEQLENS, 3), 3) <= limit
    with torch.no_grad():
        close(attend("cpu", query, key, value, CU_SEQLENS, max(LENGTHS)), result, 1e-12)


TINY = (3, 9, 8, 12, 7, 1, 15, 10, 8, 8, 40, 37, 9, 11, 2)
"""Peptides, of which some attend together, filled up and not."""


def bounds_of(lengths: tuple[int, ...]) -> list[tuple[int, int]]:
    edges = [0, *itertools.accumulate(lengths)]
    return list(itertools.pairwise(edges))


def run_tiny(backend: str, tensors: list[Tensor], slopes: Tensor | None = None, causal: bool = False) -> list[Tensor]:
    query, key, value = (x.clone().requires_grad_() for x in tensors[:3])
    cu_seqlens = torch.tensor([0, *TINY]).cumsum(0).int()
    result = attend(backend, query, key, value, cu_seqlens, max(TINY), slopes, causal=causal)
    result.backward(tensors[3])
    return [result.detach(), *(x.grad for x in (query, key, value) if x.grad is not None)]


def make_tiny() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn((4, sum(TINY), 3, 8), generator=generator, dtype=torch.float64))


@CAUSAL
@pytest.mark.parametrize("limit", [0, 1000, 1 << 30])
@pytest.mark.parametrize("slopes", [None, torch.tensor([0.5, 0.25, 0.1], dtype=torch.float64)], ids=["", "alibi"])
def test_peptides_together_equal_the_reference(
    slopes: Tensor | None, limit: int, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiled_attention, "SAVED_SCORES_LIMIT", limit)
    assert len(group(bounds_of(TINY), 3, protein_groups.TILE)) < len(TINY) / 2
    tensors = make_tiny()
    found, expected = (run_tiny(backend, tensors, slopes, causal) for backend in ("cpu", "reference"))
    for one, other in zip(found, expected, strict=True):
        close(one, other, 1e-12)


@pytest.mark.parametrize("slopes", [None, torch.tensor([0.5, 0.25, 0.1], dtype=torch.float64)], ids=["", "alibi"])
@CAUSAL
@torch.no_grad()
def test_peptides_together_equal_the_reference_without_gradients(slopes: Tensor | None, causal: bool) -> None:
    cu_seqlens = torch.tensor([0, *TINY]).cumsum(0).int()
    one, other = (
        attend(backend, *make_tiny()[:3], cu_seqlens, max(TINY), slopes, causal=causal)
        for backend in ("cpu", "reference")
    )
    close(one, other, 1e-12)


def test_a_nan_stays_in_its_protein() -> None:
    clean = run_tiny("cpu", make_tiny())
    tensors = make_tiny()
    start, end = bounds_of(TINY)[1]
    for tensor in tensors:
        tensor[start:end] = torch.nan
    for one, other in zip(run_tiny("cpu", tensors), clean, strict=True):
        assert one[start:end].isnan().all()
        assert torch.equal(torch.cat([one[:start], one[end:]]), torch.cat([other[:start], other[end:]]))
