"""The convolution along packed proteins, against torch's on each protein alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from plm_composer.model.convolution import DepthwiseConvolution, convolve_in_graph, find_edges
from plm_composer.model.esm2 import ESM2
from tests.model.small_models import SMALL, close, inputs, make_batch

Convolve = Callable[[Tensor, Tensor, list[int]], Tensor]
LENGTHS = [7, 1, 0, 2, 3, 20, 1, 1, 0]


def make(width: int, lengths: list[int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sum(lengths), 6, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, width, generator=generator, dtype=torch.float64)
    return x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()


def ours(x: Tensor, weight: Tensor, lengths: list[int]) -> Tensor:
    ends = torch.tensor(lengths).cumsum(0)
    edges = find_edges(ends - torch.tensor(lengths), ends, len(x), weight.shape[1] // 2)
    return DepthwiseConvolution.apply(x, weight, edges)


def in_graph(x: Tensor, weight: Tensor, lengths: list[int]) -> Tensor:
    before = torch.cat([torch.arange(length) for length in lengths])
    after = torch.cat([torch.arange(length).flip(0) for length in lengths])
    return convolve_in_graph(x, weight, before, after)


def one_by_one(x: Tensor, weight: Tensor, lengths: list[int]) -> Tensor:
    """Torch's own, protein by protein."""
    pieces = [piece for piece in x.split(lengths) if len(piece)]
    arguments = {"padding": weight.shape[1] // 2, "groups": len(weight)}
    return torch.cat([F.conv1d(piece.t()[None], weight[:, None], **arguments)[0].t() for piece in pieces])


@pytest.mark.parametrize("width", [1, 3, 5, 9])
@pytest.mark.parametrize("lengths", [LENGTHS, [1], [30]], ids=str)
@pytest.mark.parametrize("convolve", [ours, in_graph])
def test_it_is_torchs_for_each_protein(convolve: Convolve, width: int, lengths: list[int]) -> None:
    results = []
    for function in (convolve, one_by_one):
        x, weight = make(width, lengths)
        result = function(x, weight, lengths)
        (result * torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)).sum().backward()
        results.append((result, x.grad, weight.grad))
    for one, other in zip(*results, strict=True):
        close(one, other, 1e-12)


def test_it_passes_gradcheck() -> None:
    assert torch.autograd.gradcheck(lambda x, weight: ours(x, weight, [4, 1, 3]), make(5, [4, 1, 3]))


def test_bf16_is_close_and_a_nan_stays_in_its_protein() -> None:
    x, weight = make(5, LENGTHS, torch.bfloat16)
    expected = one_by_one(x.double(), weight.double(), LENGTHS)
    assert float((ours(x, weight, LENGTHS).double() - expected).norm() / expected.norm()) < 0.01
    with torch.no_grad():
        x[8] = torch.nan
        is_nan = ours(x, weight, LENGTHS).isnan().any(-1)
    assert is_nan.nonzero().flatten().tolist() == [8, 9]


def test_a_new_model_is_the_one_without_and_learns_its_weights() -> None:
    models = []
    for width in (0, 3):
        torch.manual_seed(0)
        models.append(ESM2(dataclasses.replace(SMALL, short_convolution=width)))
    packed = inputs(make_batch()["packed"])
    logits = [model(**packed) for model in models]
    assert torch.equal(*logits)
    logits[1].square().sum().backward()
    assert all(bool(block.convolution.weight.grad.any()) for block in models[1].blocks)
