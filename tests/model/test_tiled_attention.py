"""The CPU's attention whatever its tiles, whatever it keeps, and however large the scores are."""

from __future__ import annotations

import pytest
import torch
from small_models import close
from torch import Tensor

from plm_composer.model import tiled_attention
from plm_composer.model.attention import packed_attention
from plm_composer.model.tiled_attention import kept_scores

LENGTHS = (5, 90, 17, 1, 64, 2, 130, 33, 33)
CU_SEQLENS = torch.tensor([0, *LENGTHS]).cumsum(0).int()


def make(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, *others = torch.randn((4, sum(LENGTHS), 3, 8), generator=generator, dtype=torch.float64)
    return [x.to(dtype) for x in (scale * query, *others)]


def run(backend: str, tensors: list[Tensor]) -> list[Tensor]:
    query, key, value = (x.clone().requires_grad_() for x in tensors[:3])
    result = packed_attention(query, key, value, CU_SEQLENS, max(LENGTHS), backend)
    result.backward(tensors[3])
    return [result.detach(), *(x.grad for x in (query, key, value) if x.grad is not None)]


@pytest.mark.parametrize("kept", [0, 30_000, 1 << 30])
@pytest.mark.parametrize("tile", [1, 5000, 1 << 20])
@pytest.mark.parametrize("scale", [0.3, 300.0], ids=["small scores", "large scores"])
def test_it_equals_the_reference(tile: int, kept: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled_attention, "TILE", tile)
    monkeypatch.setattr(tiled_attention, "KEPT", kept)
    tensors = make(scale=scale)
    for one, other in zip(run("cpu", tensors), run("reference", tensors), strict=True):
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


@pytest.mark.parametrize("kept", [0, 30_000, 1 << 30])
def test_it_keeps_what_it_says(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled_attention, "KEPT", kept)
    query, key, value = (x.clone().requires_grad_() for x in make()[:3])
    saved: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = packed_attention(query, key, value, CU_SEQLENS, max(LENGTHS), "cpu")
    given = 4 * result.numel()  # query, key, value, result
    assert sum(saved.values()) - given == kept_scores(3, LENGTHS) <= kept
    with torch.no_grad():
        close(packed_attention(query, key, value, CU_SEQLENS, max(LENGTHS), "cpu"), result, 1e-12)
