"""Every attention backend against one call of torch's attention per protein."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from small_models import close
from torch import Tensor

from plm_composer.errors import UserError
from plm_composer.model.alibi import alibi_slopes
from plm_composer.model.attention import BACKENDS, choose_backend, packed_attention

LENGTHS = {
    "one": (33,),
    "shortest": (1,),
    "short": (1, 2, 1),
    "many": (5, 90, 17, 1, 64, 2, 130, 33, 33),
    "empty among them": (4, 0, 7),
}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def make(lengths: tuple[int, ...], device: str, dtype: torch.dtype, size: int = 16) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (4, sum(lengths), 3, size)
    values = torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)
    return list(values), torch.tensor([0, *lengths]).cumsum(0).int().to(device)


def run(backend: str, tensors: list[Tensor], cu_seqlens: Tensor, longest: int) -> list[Tensor]:
    query, key, value = (x.detach().clone().requires_grad_() for x in tensors[:3])
    result = packed_attention(query, key, value, cu_seqlens, longest, backend)
    assert result.shape == query.shape
    assert result.dtype == query.dtype
    result.backward(tensors[3])
    return [result.detach(), *(x.grad for x in (query, key, value) if x.grad is not None)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("backend", sorted(BACKENDS.keys() - {"reference"}))
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)], ids=str
)
def test_backend_equals_reference(backend: str, name: str, device: str, dtype: torch.dtype, tolerance: float) -> None:
    if backend == "flash_attn" and not (device == "cuda" and importlib.util.find_spec("flash_attn")):
        pytest.skip("flash-attn and a GPU are needed")
    if backend in ("flash", "flash_attn") and dtype != torch.bfloat16:
        pytest.skip("flash attention knows no such precision")
    if backend in ("flash", "efficient") and (device != "cuda" or dtype == torch.float64):
        pytest.skip("torch's variable-length kernels need a GPU and know no fp64")
    if backend == "cpu" and device != "cpu":
        pytest.skip("a CPU backend")
    tensors, cu_seqlens = make(LENGTHS[name], device, dtype)
    actual = run(backend, tensors, cu_seqlens, max(LENGTHS[name]))
    expected = run("reference", [x.double() for x in tensors], cu_seqlens, max(LENGTHS[name]))
    assert len(actual) == 4
    for one, other in zip(actual, expected, strict=True):
        size = max(1.0, float(other.abs().max()))
        close(one.double() / size, other / size, tolerance)


@pytest.mark.parametrize("backend", ["flash", "efficient"])
@pytest.mark.parametrize("size", [16, 10])
def test_kernels_of_gpus_take_what_they_are_given(backend: str, size: int) -> None:
    """On the ``meta`` device torch checks arguments and shapes without any kernel."""
    tensors, _ = make(LENGTHS["many"], "cpu", torch.bfloat16, size)
    tensors = [x.to("meta") for x in tensors]
    cu_seqlens = torch.empty(len(LENGTHS["many"]) + 1, dtype=torch.int32, device="meta")
    if backend == "flash":
        assert {result.shape for result in run(backend, tensors, cu_seqlens, 130)} == {tensors[0].shape}
    else:  # of whose backward pass torch 2.7 has no shapes
        assert packed_attention(*tensors[:3], cu_seqlens, 130, backend).shape == tensors[0].shape


def test_cpu_backend_keeps_fp32_under_autocast() -> None:
    tensors, cu_seqlens = make(LENGTHS["many"], "cpu", torch.float32)
    expected = packed_attention(*tensors[:3], cu_seqlens, 130, "reference")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close(packed_attention(*tensors[:3], cu_seqlens, 130, "cpu"), expected, 1e-5)


@pytest.mark.parametrize("backend", ["flash", "efficient"])
def test_kernels_without_alibi_refuse_it(backend: str) -> None:
    tensors, cu_seqlens = make(LENGTHS["many"], "cpu", torch.float32)
    with pytest.raises(UserError, match=f"'{backend}' knows no ALiBi"):
        packed_attention(*tensors[:3], cu_seqlens, 130, backend, alibi_slopes(3))


def test_cpu_backend_passes_gradcheck() -> None:
    tensors, cu_seqlens = make((3, 5, 1), "cpu", torch.float64, size=4)
    arguments = [x.requires_grad_() for x in tensors[:3]]
    assert torch.autograd.gradcheck(lambda *x: packed_attention(*x, cu_seqlens, 5, "cpu"), arguments)


def test_choice_of_backend() -> None:
    assert choose_backend(torch.device("cpu"), torch.bfloat16) == "cpu"
    assert choose_backend(torch.device("cuda"), torch.float32) == "efficient"
    assert choose_backend(torch.device("cuda"), torch.bfloat16) == "flash"
    assert choose_backend(torch.device("cuda"), torch.float64) == "reference"
    assert choose_backend(torch.device("cuda"), torch.float32, alibi=True) == "reference"
    assert choose_backend(torch.device("mps"), torch.float32) == "reference"
