"""Every attention backend against one call of torch's attention per protein."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from plm_composer.errors import UserError
from plm_composer.model import attention, efficient_attention
from plm_composer.model.attention import BACKENDS, FITS, PackedProteins, choose_backend
from tests.model.small_models import attend, close

LENGTHS = {
    "one": (33,),
    "shortest": (1,),
    "short": (1, 2, 1),
    "many": (5, 90, 17, 1, 64, 2, 130, 33, 33),
    "empty among them": (4, 0, 7),
}
CAUSAL = pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def make(lengths: tuple[int, ...], device: str, dtype: torch.dtype, size: int = 16) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (4, sum(lengths), 3, size)
    values = torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)
    return list(values), torch.tensor([0, *lengths]).cumsum(0).int().to(device)


def run(backend: str, tensors: list[Tensor], cu_seqlens: Tensor, longest: int, causal: bool = False) -> list[Tensor]:
    query, key, value = (x.detach().clone().requires_grad_() for x in tensors[:3])
    result = attend(backend, query, key, value, cu_seqlens, longest, causal=causal)
    assert result.shape == query.shape
    assert result.dtype == query.dtype
    result.backward(tensors[3])
    return [result.detach(), *(x.grad for x in (query, key, value) if x.grad is not None)]


@CAUSAL
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("backend", sorted(BACKENDS.keys() - {"reference"}))
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)], ids=str
)
def test_backend_equals_reference(
    backend: str, name: str, device: str, dtype: torch.dtype, tolerance: float, causal: bool
) -> None:
    fit = next(each for each in FITS if each.backend == backend)
    if obstacle := fit.obstacle(torch.device(device), dtype, alibi=False):
        pytest.skip(f"{backend}: {obstacle}")
    tensors, cu_seqlens = make(LENGTHS[name], device, dtype)
    actual = run(backend, tensors, cu_seqlens, max(LENGTHS[name]), causal)
    expected = run("reference", [x.double() for x in tensors], cu_seqlens, max(LENGTHS[name]), causal)
    assert len(actual) == 4
    for one, other in zip(actual, expected, strict=True):
        size = max(1.0, float(other.abs().max()))
        close(one.double() / size, other / size, tolerance)


@pytest.mark.parametrize("backend", ["flash", "efficient"])
@pytest.mark.parametrize("size", [16, 10])
def test_kernels_of_gpus_take_what_they_are_given(backend: str, size: int) -> None:
    """On the ``meta`` device torch checks arguments and shapes without any kernel."""
    tensors, cu_seqlens = make(LENGTHS["many"], "meta", torch.bfloat16, size)
    assert {result.shape for result in run(backend, tensors, cu_seqlens, 130)} == {tensors[0].shape}


class Listening(TorchDispatchMode):
    """Notes what an operator is called with.

    Args:
        operator: The operator.
    """

    def __init__(self, operator: Any) -> None:
        super().__init__()
        self.operator = operator
        self.calls: list[dict[str, Any]] = []

    def __torch_dispatch__(self, function: Any, kinds: Any, arguments: Any = (), named: Any = None) -> Any:
        if function is self.operator:
            names = [each.name for each in function._schema.arguments]
            self.calls.append(dict(zip(names, arguments, strict=False)))
        return function(*arguments, **(named or {}))


@CAUSAL
@pytest.mark.parametrize(
    ("backend", "operator", "argument"),
    [
        ("flash", torch.ops.aten._flash_attention_forward.default, "is_causal"),
        ("efficient", torch.ops.plm_composer.efficient_attention.default, "causal"),
    ],
    ids=["flash", "efficient"],
)
def test_kernels_of_gpus_are_told_what_is_causal(backend: str, operator: Any, argument: str, causal: bool) -> None:
    tensors, cu_seqlens = make(LENGTHS["many"], "meta", torch.bfloat16)
    with Listening(operator) as listening:
        attend(backend, *tensors[:3], cu_seqlens, 130, causal=causal)
    assert [call[argument] for call in listening.calls] == [causal]


@CAUSAL
@pytest.mark.parametrize(
    ("backend", "package"), [("flash_attn", "flash_attn"), ("flash_attn_3", "flash_attn_interface")]
)
def test_packages_are_told_what_is_causal(
    backend: str, package: str, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def kernel(query: Tensor, *_: Any, **arguments: Any) -> Tensor:
        calls.append(arguments["causal"])
        return query

    monkeypatch.setitem(sys.modules, package, types.SimpleNamespace(flash_attn_varlen_func=kernel))
    tensors, cu_seqlens = make(LENGTHS["many"], "cpu", torch.bfloat16)
    attend(backend, *tensors[:3], cu_seqlens, 130, causal=causal)
    assert calls == [causal]


@CAUSAL
@pytest.mark.parametrize("backend", ["flash", "efficient"])
def test_kernels_of_gpus_are_captured_without_a_break(backend: str, causal: bool) -> None:
    torch._dynamo.reset()
    tensors, cu_seqlens = make(LENGTHS["many"], "meta", torch.bfloat16, size=10)
    captured = torch.compile(BACKENDS[backend], backend="aot_eager", fullgraph=True)
    query, key, value = (x.clone().requires_grad_() for x in tensors[:3])
    result = captured(query, key, value, PackedProteins(cu_seqlens, 130, 3, causal=causal))
    result.backward(tensors[3])
    assert result.shape == query.grad.shape == key.grad.shape == value.grad.shape == tensors[0].shape


@CAUSAL
def test_the_gradient_of_efficient_attention_asks_for_what_torchs_own_does(
    causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, cu_seqlens = make(LENGTHS["many"], "meta", torch.float32)
    operator = torch.ops.aten._efficient_attention_backward.default
    query, key, value = (x[None].requires_grad_() for x in tensors[:3])
    result, *saved = torch.ops.aten._efficient_attention_forward(
        query, key, value, None, cu_seqlens, cu_seqlens, 130, 130, 0.0, int(causal), True, scale=1.0
    )[:4]
    with Listening(torch.ops.aten._efficient_attention_forward.default) as forward:
        efficient_attention._forward._init_fn(*tensors[:3], cu_seqlens, 130, causal, True)
    assert forward.calls[0]["custom_mask_type"] == causal
    # Torch computes its shapes with an argument too few.
    with Listening(operator) as theirs, contextlib.suppress(TypeError):
        result.backward(tensors[3][None])

    def listen(*arguments: Any, **named: Any) -> tuple[Tensor, ...]:
        ours.append(dict(zip([each.name for each in operator._schema.arguments], arguments, strict=False)) | named)
        return query, key, value, query

    ours: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.ops.aten, "_efficient_attention_backward", listen)
    backward = efficient_attention._backward._init_fn
    backward(tensors[3], query[0], key[0], value[0], result[0], *saved, cu_seqlens, 130, causal)

    def shapes(call: dict[str, Any]) -> dict[str, Any]:
        return {name: x.shape if isinstance(x, Tensor) else x for name, x in call.items() if name != "scale"}

    assert shapes(ours[0]) == shapes(theirs.calls[0])
    assert ours[0]["scale"] == 1.0


def test_cpu_backend_keeps_fp32_under_autocast() -> None:
    tensors, cu_seqlens = make(LENGTHS["many"], "cpu", torch.float32)
    expected = attend("reference", *tensors[:3], cu_seqlens, 130)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close(attend("cpu", *tensors[:3], cu_seqlens, 130), expected, 1e-5)


@CAUSAL
def test_cpu_backend_passes_gradcheck(causal: bool) -> None:
    tensors, cu_seqlens = make((3, 5, 1), "cpu", torch.float64, size=4)
    arguments = [x.requires_grad_() for x in tensors[:3]]
    assert torch.autograd.gradcheck(lambda *x: attend("cpu", *x, cu_seqlens, 5, causal=causal), arguments)


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


def test_heads_that_are_too_wide_for_a_kernel_go_to_another(
    card: Callable[[tuple[int, int], tuple[str, ...]], None],
) -> None:
    card((9, 0), ())
    assert choose_backend(CUDA, torch.bfloat16, head_size=256) == "flash"
    assert choose_backend(CUDA, torch.bfloat16, head_size=264) == "efficient"
    with pytest.raises(UserError, match="'flash', but its heads have at most 256 channels, not 264"):
        choose_backend(CUDA, torch.bfloat16, wanted="flash", head_size=264)


def test_the_table_has_every_backend() -> None:
    assert {each.backend for each in FITS} == BACKENDS.keys()
