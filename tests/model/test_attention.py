"""Every attention backend against one call of torch's attention per protein."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from plm_composer.errors import UserError
from plm_composer.model import attention
from plm_composer.model.attention import BACKENDS, FITS, choose_backend
from tests.model.small_models import attend, close

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
    result = attend(backend, query, key, value, cu_seqlens, longest)
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
    fit = next(each for each in FITS if each.backend == backend)
    if obstacle := fit.obstacle(torch.device(device), dtype, alibi=False):
        pytest.skip(f"{backend}: {obstacle}")
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
        assert attend(backend, *tensors[:3], cu_seqlens, 130).shape == tensors[0].shape


def test_cpu_backend_keeps_fp32_under_autocast() -> None:
    tensors, cu_seqlens = make(LENGTHS["many"], "cpu", torch.float32)
    expected = attend("reference", *tensors[:3], cu_seqlens, 130)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close(attend("cpu", *tensors[:3], cu_seqlens, 130), expected, 1e-5)


def test_cpu_backend_passes_gradcheck() -> None:
    tensors, cu_seqlens = make((3, 5, 1), "cpu", torch.float64, size=4)
    arguments = [x.requires_grad_() for x in tensors[:3]]
    assert torch.autograd.gradcheck(lambda *x: attend("cpu", *x, cu_seqlens, 5), arguments)


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, int], tuple[str, ...]], None]:
    """Pretends a GPU of some compute capability, and packages."""

    def pretend(capability: tuple[int, int], packages: tuple[str, ...]) -> None:
        monkeypatch.setattr(attention, "_capability", lambda _device: capability)
        monkeypatch.setattr(attention, "_is_installed", packages.__contains__)

    return pretend


@pytest.mark.parametrize(
    ("device", "dtype", "alibi", "capability", "packages", "expected"),
    [
        (CPU, torch.bfloat16, False, (0, 0), (), "cpu"),
        (CPU, torch.float64, True, (0, 0), ("flash_attn",), "cpu"),
        (CUDA, torch.bfloat16, False, (9, 0), (), "flash"),
        (CUDA, torch.bfloat16, False, (9, 0), ("flash_attn", "flash_attn_interface"), "flash"),
        (CUDA, torch.float16, False, (7, 5), (), "efficient"),
        (CUDA, torch.float32, False, (9, 0), (), "efficient"),
        (CUDA, torch.float64, False, (9, 0), (), "reference"),
        (CUDA, torch.bfloat16, True, (8, 0), ("flash_attn",), "flash_attn"),
        (CUDA, torch.bfloat16, True, (8, 0), (), "reference"),
        (CUDA, torch.float32, True, (9, 0), ("flash_attn",), "reference"),
        (torch.device("mps"), torch.float32, False, (0, 0), (), "reference"),
    ],
    ids=str,
)
def test_choice_of_backend(
    card: Callable[[tuple[int, int], tuple[str, ...]], None],
    device: torch.device,
    dtype: torch.dtype,
    alibi: bool,
    capability: tuple[int, int],
    packages: tuple[str, ...],
    expected: str,
) -> None:
    card(capability, packages)
    slow = expected == "reference" and device == CUDA
    with pytest.warns(UserWarning, match="attention is slow here") if slow else contextlib.nullcontext():
        assert choose_backend(device, dtype, alibi) == expected


@pytest.mark.parametrize(
    ("backend", "device", "dtype", "alibi", "reason"),
    [
        ("flash", CPU, torch.bfloat16, False, "it works on GPUs only"),
        ("cpu", CUDA, torch.bfloat16, False, "it works on CPUs only"),
        ("flash", CUDA, torch.float32, False, "it does not compute in float32"),
        ("flash", CUDA, torch.bfloat16, True, "it has no ALiBi"),
        ("flash_attn", CUDA, torch.bfloat16, True, "there is no package flash_attn"),
        ("flash_attn_3", CUDA, torch.bfloat16, False, "its compute capability is below 9.0"),
    ],
)
def test_a_backend_that_does_not_work_is_refused(
    card: Callable[[tuple[int, int], tuple[str, ...]], None],
    backend: str,
    device: torch.device,
    dtype: torch.dtype,
    alibi: bool,
    reason: str,
) -> None:
    card((8, 6), ("flash_attn_interface",))
    with pytest.raises(UserError, match=f"attention_backend is '{backend}', but .*{reason}"):
        choose_backend(device, dtype, alibi, wanted=backend)


def test_the_table_has_every_backend() -> None:
    assert {each.backend for each in FITS} == BACKENDS.keys()
