"""Attention over proteins packed into one row, and the table that chooses its kernel.

Every backend expects queries that are already scaled by ``head_size ** -0.5``, because ESM2 scales before it rotates.
There is no dropout, and a protein attends only to itself; in a causal model, a token only to itself and earlier ones.
``torch.compile`` captures every backend but the reference in its graph. GPU backends read no tensor's values, so the
host does not wait.
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
from plm_composer.model.efficient_attention import attend_packed
from plm_composer.model.protein_groups import groups_of
from plm_composer.model.tiled_attention import attend_tiled, count_saved_scores


class PackedProteins:
    """Boundaries of the proteins in a packed batch, shared by all layers.

    Args:
        cu_seqlens: Index of each protein's first token, then the number of tokens, shape (proteins + 1,), int32.
        max_seqlen: Upper bound on the length of the longest protein.
        heads: Number of attention heads.
        slopes: ALiBi's slopes, shape (heads,); None for a model without ALiBi.
        causal: Whether a token attends only to itself and to earlier tokens of its protein.

    Attributes:
        saved_scores: Number of scores that the forward pass saves for the backward pass on a CPU; 0 on a GPU.
        multiplies_bf16: Whether the CPU has instructions that multiply bf16.
    """

    def __init__(
        self, cu_seqlens: Tensor, max_seqlen: int, heads: int, slopes: Tensor | None = None, causal: bool = False
    ) -> None:
        self.cu_seqlens, self.max_seqlen, self.slopes, self.causal = cu_seqlens, max_seqlen, slopes, causal
        self.multiplies_bf16 = multiplies_bf16("cpu")
        on_cpu = cu_seqlens.device.type == "cpu"
        self.saved_scores = count_saved_scores(groups_of(cu_seqlens, heads), heads) if on_cpu else 0

    @property
    def bounds(self) -> tuple[Tensor, Tensor, int, int]:
        """Arguments of variable-length kernels: the bounds of queries and of keys, then the longest of each."""
        return self.cu_seqlens, self.cu_seqlens, self.max_seqlen, self.max_seqlen


Backend = Callable[[Tensor, Tensor, Tensor, PackedProteins], Tensor]
"""Attends within each protein: (scaled queries, keys, values, bounds) to a result of the queries' shape,
(tokens, heads, head_size)."""


@torch.compiler.disable
def attend_reference(query: Tensor, key: Tensor, value: Tensor, proteins: PackedProteins) -> Tensor:
    """Calls torch's attention once per protein: slow, but simple. Tests compare the other backends with it."""
    slopes, results = proteins.slopes, []
    for start, end in itertools.pairwise(proteins.cu_seqlens.tolist()):
        if end == start:
            continue
        # (1, heads, length, head_size): torch has no fused attention for three dimensions.
        queries, keys, values = (x[start:end].transpose(0, 1)[None] for x in (query, key, value))
        bias = None if slopes is None else alibi_bias(slopes, end - start).to(query.dtype)
        if proteins.causal:
            bias = hide_later(bias, end - start, query)
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=1.0)
        results.append(attended[0].transpose(0, 1))
    return torch.cat(results) if results else value


def hide_later(bias: Tensor | None, length: int, like: Tensor) -> Tensor:
    """Adds a causal mask to a bias on scores: minus infinity where a key comes after its query.

    Args:
        bias: The bias, shape (..., length, length); None for none.
        length: Number of tokens.
        like: A tensor of the mask's data type and device.

    Returns:
        Shape of ``bias``, or (length, length).
    """
    later = torch.full((length, length), float("-inf"), dtype=like.dtype, device=like.device).triu(1)
    return later if bias is None else bias + later


def attend_on_cpu(query: Tensor, key: Tensor, value: Tensor, proteins: PackedProteins) -> Tensor:
    """For CPUs: the tiled attention of ``tiled_attention.py``, because torch's fused kernel has a slow bf16 backward.

    If the processor multiplies bf16, all bf16 products are bf16, as in other unfused implementations. Otherwise bf16 is
    computed in fp32. Without gradients, torch's kernel is faster for wider dtypes; it runs on the same groups.
    """
    working = query.dtype
    if working == torch.float16 or (working == torch.bfloat16 and not proteins.multiplies_bf16):
        working = torch.float32
    slopes = None if proteins.slopes is None else proteins.slopes.to(working)
    tensors = (query.to(working), key.to(working), value.to(working), proteins.cu_seqlens, slopes)
    if working != torch.bfloat16 and not torch.is_grad_enabled():
        return _attend_groups(*tensors, proteins.causal).to(query.dtype)
    return attend_tiled(*tensors, proteins.causal, proteins.saved_scores).to(query.dtype)


@torch.library.custom_op("plm_composer::grouped_attention", mutates_args=(), device_types="cpu")
def _attend_groups(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, slopes: Tensor | None, causal: bool
) -> Tensor:
    """Calls torch's attention once per group of proteins, without gradients."""
    result = torch.empty_like(query, memory_format=torch.contiguous_format)
    with torch.autocast("cpu", enabled=False):
        for each in groups_of(cu_seqlens, query.shape[1]):
            # Each (proteins, heads, length, head_size): torch has no fused attention for three dimensions.
            queries, keys, values = (each.split(x).transpose(1, 2) for x in (query, key, value))
            bias = None if slopes is None else alibi_bias(slopes, each.length)[None]
            if causal and bias is not None:
                bias = hide_later(bias, each.length, query)
            # Padding comes last, so that a causal mask hides it from every token.
            if each.padding is not None and not causal:
                hidden = torch.zeros(each.padding.shape, dtype=query.dtype).masked_fill_(each.padding, float("-inf"))
                bias = hidden[:, None, None, :] if bias is None else bias + hidden[:, None, None, :]
            attended = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=bias, is_causal=causal and bias is None, scale=1.0
            )
            each.put(result, attended.flatten(0, 1))
    return result


@_attend_groups.register_fake
def _(query: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


def attend_flash(query: Tensor, key: Tensor, value: Tensor, proteins: PackedProteins) -> Tensor:
    """For GPUs, fp16 and bf16: the FlashAttention kernels that torch ships (Dao 2023), on ``cu_seqlens``.

    Newer versions of torch expose them as ``torch.nn.attention.varlen``, which takes a tenth longer in eager mode
    (docs/performance.md). ALiBi is not supported, because torch's backward pass takes no slopes.
    """
    size = query.shape[-1]
    query, key, value = (_widened(x, _FLASH_MULTIPLE) for x in (query, key, value))
    result = torch.ops.aten._flash_attention_forward(
        query, key, value, *proteins.bounds, 0.0, proteins.causal, False, scale=1.0
    )[0]
    return result[..., :size]


def attend_efficient(query: Tensor, key: Tensor, value: Tensor, proteins: PackedProteins) -> Tensor:
    """For GPUs, fp32: the memory-efficient kernels that torch ships, on ``cu_seqlens``: ``efficient_attention.py``.

    ALiBi is not supported, because these kernels take no bias together with ``cu_seqlens``.
    """
    size = query.shape[-1]
    query, key, value = (_widened(x, _EFFICIENT_MULTIPLE) for x in (query, key, value))
    result = attend_packed(query, key, value, proteins.cu_seqlens, proteins.max_seqlen, proteins.causal)
    return result[..., :size]


def attend_flash_attn(query: Tensor, key: Tensor, value: Tensor, proteins: PackedProteins) -> Tensor:
    """The package ``flash-attn`` (FlashAttention 2): fp16 and bf16; the only GPU kernel here with ALiBi."""
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]

    slopes = None if proteins.slopes is None else proteins.slopes.float()
    # Without a causal mask, its ALiBi is symmetric.
    return flash_attn_varlen_func(
        query, key, value, *proteins.bounds, softmax_scale=1.0, causal=proteins.causal, alibi_slopes=slopes
    )


def attend_flash_attn_3(query: Tensor, key: Tensor, value: Tensor, proteins: PackedProteins) -> Tensor:
    """The package ``flash_attn_interface`` (FlashAttention 3, Shah et al. 2024), for Hopper GPUs."""
    from flash_attn_interface import flash_attn_varlen_func  # type: ignore[import-not-found]

    result = flash_attn_varlen_func(query, key, value, *proteins.bounds, softmax_scale=1.0, causal=proteins.causal)
    return result[0] if isinstance(result, tuple) else result  # older versions return the log-sum-exp too


_FLASH_MULTIPLE, _EFFICIENT_MULTIPLE = 8, 8
"""Head sizes must be multiples of these."""

BACKENDS: dict[str, Backend] = {
    "reference": attend_reference,
    "cpu": attend_on_cpu,
    "flash": attend_flash,
    "efficient": attend_efficient,
    "flash_attn": attend_flash_attn,
    "flash_attn_3": attend_flash_attn_3,
}
"""Backends by their ``attention_backend`` name."""

_HALF = (torch.float16, torch.bfloat16)
_ANY = (torch.float64, torch.float32, *_HALF)


@dataclasses.dataclass(frozen=True)
class Fit:
    """The conditions under which a backend works.

    Args:
        backend: Name in ``BACKENDS``.
        device: Device type, ``cpu`` or ``cuda``; None for any.
        dtypes: Data types of queries that it accepts.
        alibi: Whether it supports ALiBi.
        capability: Minimum compute capability of a GPU, (major, minor).
        package: Module that must be installed; None for none.
        by_default: Whether it may be chosen without being named.
        widest_head: Largest head size that it accepts; None for any.
    """

    backend: str
    device: str | None
    dtypes: tuple[torch.dtype, ...] = _ANY
    alibi: bool = True
    capability: tuple[int, int] = (0, 0)
    package: str | None = None
    by_default: bool = True
    widest_head: int | None = None

    def obstacle(
        self, device: torch.device, dtype: torch.dtype, alibi: bool, head_size: int | None = None
    ) -> str | None:
        """Says why the backend cannot be used; None if it can.

        Args:
            device: Device of the queries.
            dtype: Data type of the queries.
            alibi: Whether the model uses ALiBi.
            head_size: Size of the heads; None for one that every backend accepts.
        """
        if self.device is not None and device.type != self.device:
            return f"it works on {'CPUs' if self.device == 'cpu' else 'GPUs'} only"
        if dtype not in self.dtypes:
            return f"it does not compute in {str(dtype).removeprefix('torch.')}"
        if alibi and not self.alibi:
            return "it has no ALiBi"
        if head_size is not None and self.widest_head is not None and head_size > self.widest_head:
            return f"its heads have at most {self.widest_head} channels, not {head_size}"
        if self.package is not None and not _is_installed(self.package):
            return f"there is no package {self.package}"
        if device.type == "cuda" and _capability(device) < self.capability:
            return f"the GPU is too old: its compute capability is below {'.'.join(map(str, self.capability))}"
        return None


_FLASH_HEADS = 256
"""Largest head size of FlashAttention, in all its versions."""

FITS = (
    Fit("cpu", "cpu"),
    # On one H100, heads of 32 and 64 (docs/performance.md): a sixth of the time of torch's nested tensors, half that of
    # FlexAttention, and a tenth less than torch.nn.attention.varlen. Heads of other sizes were not timed on their own.
    Fit("flash", "cuda", _HALF, alibi=False, capability=(8, 0), widest_head=_FLASH_HEADS),
    Fit("flash_attn", "cuda", _HALF, capability=(8, 0), package="flash_attn", widest_head=_FLASH_HEADS),
    # Only on request: it has not been measured, and it pads heads below 64.
    Fit(
        "flash_attn_3",
        "cuda",
        _HALF,
        alibi=False,
        capability=(9, 0),
        package="flash_attn_interface",
        by_default=False,
        widest_head=_FLASH_HEADS,
    ),
    Fit("efficient", "cuda", (torch.float32, *_HALF), alibi=False),
    Fit("reference", None),
)
"""Backends in order of preference: the first that works is chosen, unless ``by_default`` is false."""


def choose_backend(
    device: torch.device,
    dtype: torch.dtype,
    alibi: bool = False,
    wanted: str | None = None,
    head_size: int | None = None,
) -> str:
    """Chooses an attention backend.

    Args:
        device: Device of the queries.
        dtype: Data type of the queries.
        alibi: Whether the model uses ALiBi.
        wanted: Name in ``BACKENDS`` to insist on; None for the first in ``FITS`` that works.
        head_size: Size of the heads; None for one that every backend accepts.

    Raises:
        UserError: The wanted backend does not work here.
    """
    if wanted is None:
        fits = (each for each in FITS if each.by_default and each.obstacle(device, dtype, alibi, head_size) is None)
        backend = next(fits).backend
        if backend == "reference" and device.type == "cuda":
            reason = "ALiBi on a GPU needs the package flash_attn and bf16" if alibi else "no kernel supports fp64"
            warnings.warn(f"attention is slow here, one call per protein: {reason}", stacklevel=2)
        return backend
    obstacle = next(each for each in FITS if each.backend == wanted).obstacle(device, dtype, alibi, head_size)
    if obstacle is not None:
        raise UserError(f"attention_backend is {wanted!r}, but {obstacle}; leave it out to use one that works")
    return wanted


def installed_packages() -> tuple[str, ...]:
    """Names of the packages of attention kernels that are installed."""
    return tuple(each.package for each in FITS if each.package is not None and _is_installed(each.package))


@functools.cache
def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    # Without a driver no kernel runs, but their output shapes can still be computed.
    return torch.cuda.get_device_capability(device) if torch.cuda.is_available() else (9, 0)


def _widened(x: Tensor, multiple: int) -> Tensor:
    """Pads heads with zeros. This changes no score, because queries are already scaled."""
    rest = -x.shape[-1] % multiple
    return F.pad(x, (0, rest)) if rest else x
