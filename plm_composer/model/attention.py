"""Attention over proteins packed into one row, and the table that chooses its kernel.

Every backend takes queries that are scaled by ``head_size ** -0.5`` already: ESM2 scales before it rotates. There is no
dropout and no causal mask, and a protein only ever sees itself. All but the reference stay in a graph that
``torch.compile`` captures, and none of those for GPUs looks at a value of a tensor: the host does not wait.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_composer.errors import UserError
from plm_composer.hardware.precision import multiplies_bf16
from plm_composer.model.alibi import alibi_bias
from plm_composer.model.protein_groups import groups_of
from plm_composer.model.tiled_attention import attend_tiled, kept_scores


class PackedProteins:
    """Where the proteins of a packed batch lie, for all layers.

    Args:
        cu_seqlens: Where each protein begins, and where the last one ends, shape (proteins + 1,), int32.
        max_seqlen: At least the length of the longest protein.
        heads: Attention heads.
        slopes: Those of ALiBi, shape (heads,); None for a model without.

    Attributes:
        kept_scores: On CPUs, how many scores the forward pass keeps for the backward pass.
        multiplies_bf16: Whether the CPU does.
    """

    def __init__(self, cu_seqlens: Tensor, max_seqlen: int, heads: int, slopes: Tensor | None = None) -> None:
        self.cu_seqlens, self.max_seqlen, self.slopes = cu_seqlens, max_seqlen, slopes
        self.multiplies_bf16 = multiplies_bf16("cpu")
        self.kept_scores = kept_scores(groups_of(cu_seqlens, heads), heads) if cu_seqlens.device.type == "cpu" else 0

    @property
    def bounds(self) -> tuple[Tensor, Tensor, int, int]:
        """What variable-length kernels want: the bounds of queries and of keys, and the longest of either."""
        return self.cu_seqlens, self.cu_seqlens, self.max_seqlen, self.max_seqlen


Backend = Callable[[Tensor, Tensor, Tensor, PackedProteins], Tensor]
"""A way to attend within each protein: scaled queries, keys and values of shape (tokens, heads, head_size), to a result
of that shape."""


@torch.compiler.disable
def attend_reference(query: Tensor, key: Tensor, value: Tensor, proteins: PackedProteins) -> Tensor:
    """One call of torch's attention per protein: slow, and right. The other backends are held against it."""
    slopes, results = proteins.slopes, []
    for start, end in itertools.pairwise(proteins.cu_seqlens.tolist()):
        if end == start:
            continue
        # (1, heads, length, head_size): torch has no fused attention for three dimensions.
        queries, keys, values = (x[start:end].transpose(0, 1)[None] for x in (query, key, value))
        bias = None if slopes is None else alibi_bias(slopes, end - start).to(query.dtype)
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=1.0)
        results.append(attended[0].transpose(0, 1))
    return torch.cat(results) if results else value


def attend_on_cpu(query: Tensor, key: Tensor, value: Tensor, proteins: PackedProteins) -> Tensor:
    """For CPUs: the tiled attention of ``tiled_attention.py``; torch's fused kernel has a slow bf16 backward.

    In bf16, where the processor multiplies it, all products are bf16, as they are in the unfused attention of others.
    Elsewhere bf16 is computed in fp32. Where no gradient is wanted, torch's kernel is the faster one for wider
    dtypes, on the same groups.
    """
    working = query.dtype
    if working == torch.float16 or (working == torch.bfloat16 and not proteins.multiplies_bf16):
        working = torch.float32
    slopes = None if proteins.slopes is None else proteins.slopes.to(working)
    tensors = (query.to(working), key.to(working), value.to(working), proteins.cu_seqlens, slopes)
    if working != torch.bfloat16 and not torch.is_grad_enabled():
        inferred: Tensor = _attend_groups(*tensors).to(query.dtype)
        return inferred
    return attend_tiled(*tensors, proteins.kept_scores).to(query.dtype)


@torch.library.custom_op("plm_composer::grouped_attention", mutates_args=(), device_types="cpu")
def _attend_groups(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, slopes: Tensor | None) -> Tensor:
    """One call of torch's attention for each group of proteins, without gradients."""
    result = torch.empty_like(query, memory_format=torch.contiguous_format)
    with torch.autocast("cpu", enabled=False):
        for each in groups_of(cu_seqlens, query.shape[1]):
            # Each (proteins, heads, length, head_size): torch has no fused attention for three dimensions.
            queries, keys, values = (each.split(x).transpose(1, 2) for x in (query, key, value))
            bias = None if slopes is None else alibi_bias(slopes, each.length)[None]
            if each.padding is not None:
                hidden = torch.zeros(each.padding.shape, dtype=query.dtype).masked_fill_(each.padding, float("-inf"))
                bias = hidden[:, None, None, :] if bias is None else bias + hidden[:, None, None, :]
            attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=1.0)
            each.put(result, attended.flatten(0, 1))
    return result


@_attend_groups.register_fake
def _(query: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


def attend_flash(query: Tensor, key: Tensor, value: Tensor, proteins: PackedProteins) -> Tensor:
    """For GPUs, fp16 and bf16: the FlashAttention kernels that torch brings along (Dao 2023), on ``cu_seqlens``.

    They are called below ``torch.nn.attention.varlen``, which newer torches have for them: in eager mode that takes a
    tenth longer (docs/performance.md). They have no ALiBi here, since torch's backward pass has no place for slopes.
    """
    size = query.shape[-1]
    rows = (_widened(x, _FLASH_MULTIPLE) for x in (query, key, value))
    result: Tensor = torch.ops.aten._flash_attention_forward(*rows, *proteins.bounds, 0.0, False, False, scale=1.0)[0]
    return result[..., :size]


def attend_efficient(query: Tensor, key: Tensor, value: Tensor, proteins: PackedProteins) -> Tensor:
    """For GPUs, fp32: the memory-efficient kernels that torch brings along (Rabe and Staats 2021), on ``cu_seqlens``.

    They have no ALiBi, for which there is no place beside ``cu_seqlens``.
    """
    size = query.shape[-1]
    rows = (_widened(x, _EFFICIENT_MULTIPLE)[None] for x in (query, key, value))
    result: Tensor = torch.ops.aten._efficient_attention_forward(
        *rows, None, *proteins.bounds, 0.0, _NO_CAUSAL_MASK, torch.is_grad_enabled(), scale=1.0
    )[0]
    return result[0, ..., :size]


def attend_flash_attn(query: Tensor, key: Tensor, value: Tensor, proteins: PackedProteins) -> Tensor:
    """The package ``flash-attn`` (FlashAttention 2): fp16 and bf16; the one that computes ALiBi."""
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]

    slopes = None if proteins.slopes is None else proteins.slopes.float()
    # Without a causal mask, its ALiBi is the symmetric one.
    result: Tensor = flash_attn_varlen_func(query, key, value, *proteins.bounds, softmax_scale=1.0, alibi_slopes=slopes)
    return result


def attend_flash_attn_3(query: Tensor, key: Tensor, value: Tensor, proteins: PackedProteins) -> Tensor:
    """The package ``flash_attn_interface`` (FlashAttention 3, Shah et al. 2024), for Hopper's cards."""
    from flash_attn_interface import flash_attn_varlen_func  # type: ignore[import-not-found]

    result = flash_attn_varlen_func(query, key, value, *proteins.bounds, softmax_scale=1.0)
    attended: Tensor = result[0] if isinstance(result, tuple) else result  # older ones add the logarithms of sums
    return attended


_FLASH_MULTIPLE, _EFFICIENT_MULTIPLE = 8, 8
"""What these kernels want head sizes to be multiples of."""
_NO_CAUSAL_MASK = 0

BACKENDS: dict[str, Backend] = {
    "reference": attend_reference,
    "cpu": attend_on_cpu,
    "flash": attend_flash,
    "efficient": attend_efficient,
    "flash_attn": attend_flash_attn,
    "flash_attn_3": attend_flash_attn_3,
}
"""What ``attention_backend`` may name."""

_HALF = (torch.float16, torch.bfloat16)
_ANY = (torch.float64, torch.float32, *_HALF)


@dataclasses.dataclass(frozen=True)
class Fit:
    """Where a backend works.

    Args:
        backend: Its name.
        device: Type of device; None for any.
        dtypes: What queries may be kept in.
        alibi: Whether it computes ALiBi.
        capability: Least compute capability of a GPU.
        package: Module that must be there.
        by_default: Whether it is chosen where nothing is asked for.
    """

    backend: str
    device: str | None
    dtypes: tuple[torch.dtype, ...] = _ANY
    alibi: bool = True
    capability: tuple[int, int] = (0, 0)
    package: str | None = None
    by_default: bool = True

    def obstacle(self, device: torch.device, dtype: torch.dtype, alibi: bool) -> str | None:
        """Says why it does not work for queries of this dtype on this device, with ALiBi or without; None if it does.

        Args:
            device: Where queries are.
            dtype: What they are kept in.
            alibi: Whether the model has slopes.
        """
        if self.device is not None and device.type != self.device:
            return f"it works on {'CPUs' if self.device == 'cpu' else 'GPUs'} only"
        if dtype not in self.dtypes:
            return f"it does not compute in {str(dtype).removeprefix('torch.')}"
        if alibi and not self.alibi:
            return "it has no ALiBi"
        if self.package is not None and not _is_installed(self.package):
            return f"there is no package {self.package}"
        if device.type == "cuda" and _capability(device) < self.capability:
            return f"the GPU is too old: its compute capability is below {'.'.join(map(str, self.capability))}"
        return None


FITS = (
    Fit("cpu", "cpu"),
    # Of one H100, heads of 32 and 64 (docs/performance.md): a sixth of the time of torch's nested tensors, half that of
    # FlexAttention, and a tenth less than torch.nn.attention.varlen.
    Fit("flash", "cuda", _HALF, alibi=False, capability=(8, 0)),
    Fit("flash_attn", "cuda", _HALF, capability=(8, 0), package="flash_attn"),
    # Not measured, and heads below 64 are filled up: it has to be asked for.
    Fit(
        "flash_attn_3", "cuda", _HALF, alibi=False, capability=(9, 0), package="flash_attn_interface", by_default=False
    ),
    Fit("efficient", "cuda", (torch.float32, *_HALF), alibi=False),
    Fit("reference", None),
)
"""The choice of a kernel: the first that works and stands here by default."""


def choose_backend(device: torch.device, dtype: torch.dtype, alibi: bool = False, wanted: str | None = None) -> str:
    """Chooses an attention backend.

    Args:
        device: Where queries are.
        dtype: What they are kept in.
        alibi: Whether the model has ALiBi's slopes.
        wanted: A name in ``BACKENDS`` that must be taken; None for the first in ``FITS`` that works.

    Raises:
        UserError: The wanted one does not work here.
    """
    if wanted is None:
        fits = (each for each in FITS if each.by_default and each.obstacle(device, dtype, alibi) is None)
        backend = next(fits).backend
        if backend == "reference" and device.type == "cuda":
            reason = "ALiBi on a GPU needs the package flash_attn, and bf16" if alibi else "there is no kernel for fp64"
            warnings.warn(f"attention is slow here, one call a protein: {reason}", stacklevel=2)
        return backend
    obstacle = next(each for each in FITS if each.backend == wanted).obstacle(device, dtype, alibi)
    if obstacle is not None:
        raise UserError(f"attention_backend is {wanted!r}, but {obstacle}; leave it out for one that works")
    return wanted


@functools.cache
def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    # Without a driver there are no kernels either, but their shapes can be asked for.
    return torch.cuda.get_device_capability(device) if torch.cuda.is_available() else (9, 0)


def _widened(x: Tensor, multiple: int) -> Tensor:
    """Heads filled up with zeros, which change no score: queries are scaled beforehand."""
    rest = -x.shape[-1] % multiple
    return F.pad(x, (0, rest)) if rest else x
