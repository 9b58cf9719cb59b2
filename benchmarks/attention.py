"""One layer's attention, forward and backward, by each kernel that works here, for heads of several sizes.

On a GPU these are our backends, and kernels that none of them uses: torch's by cuDNN, and FlashAttention 3 and 4, which
torch 2.11 puts in the place of its own FlashAttention 2 where their packages are installed. Each is compared with one
call of torch's attention per protein. A last call has other lengths: every batch of a training has, and a kernel that
is made for the lengths is made again.

python benchmarks/attention.py --fasta proteins.fasta.gz --crop 512 --tokens 65536 --head-size 16 24 32 64
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.attention
from machine import best_device, timed
from race import describe
from tables import print_table, write_json
from torch import Tensor
from train_step import DTYPES, draw_proteins

from plm_composer.hardware.machine import describe_machine, prepare_cpu
from plm_composer.model.attention import BACKENDS, FITS, Backend, PackedProteins
from plm_composer.sample import TRAIN_FASTA

COLUMNS = {
    "head_size": "head size",
    "backend": "backend",
    "milliseconds": "ms",
    "spread": "min to max",
    "other_lengths": "ms, first call with other lengths",
    "difference": "difference from the reference",
    "failure": "failed",
}
WARM_UP = 3
FLASH_ATTENTIONS: Any = torch.nn.attention
"""Has functions that put another FlashAttention in the place of torch's; torch 2.7 does not have them."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """A way to compute attention.

    Args:
        name: Said in the table.
        attend: Computes it, as in ``BACKENDS``.
        flash_attention: Name of the FlashAttention that takes the place of torch's; None for torch's own.
    """

    name: str
    attend: Backend
    flash_attention: str | None = None

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Puts ``flash_attention`` in the place of torch's, for as long as the context lasts."""
        if self.flash_attention is None:
            yield
            return
        FLASH_ATTENTIONS.activate_flash_attention_impl(self.flash_attention)
        try:
            yield
        finally:
            FLASH_ATTENTIONS.restore_flash_attention_impl()


class Work(NamedTuple):
    """What attention is computed of.

    Attributes:
        tensors: Scaled queries, keys and values, shape (tokens, heads, head_size) each.
        gradient: Of the result, the same shape.
        proteins: The bounds.
    """

    tensors: Sequence[Tensor]
    gradient: Tensor
    proteins: PackedProteins


def attend_cudnn(query: Tensor, key: Tensor, value: Tensor, proteins: PackedProteins) -> Tensor:
    """Torch's attention by cuDNN, on ``cu_seqlens``."""
    return torch.ops.aten._cudnn_attention_forward(
        query, key, value, None, *proteins.bounds, True, 0.0, proteins.causal, False, scale=1.0
    )[0]


def find_contenders(device: torch.device, dtype: torch.dtype) -> list[Contender]:
    """Our backends that work here, then what else is installed: such a kernel may break the device for later ones."""
    ours = [Contender(fit.backend, BACKENDS[fit.backend]) for fit in FITS if fit.obstacle(device, dtype, False) is None]
    if "flash" not in (each.name for each in ours):
        return ours  # The others need the same GPUs and precisions.
    names: list[str] = getattr(FLASH_ATTENTIONS, "list_flash_attention_impls", list)()
    others = [Contender(f"flash, {name}", BACKENDS["flash"], name) for name in names]
    return [*ours, Contender("cuDNN", attend_cudnn), *filter(is_installed, others)]


def is_installed(contender: Contender) -> bool:
    """Whether the packages that it needs are there; says what is missing."""
    try:
        with contender.in_place():
            return True
    except Exception as error:  # of a package that is missing, or too old, or was built for another torch
        print(f"left out: {contender.name}: {describe(error)}")
        return False


def draw_lengths(fasta: Path, crop: int, tokens: int) -> list[int]:
    """Lengths of real proteins, cropped, up to a number of tokens."""
    lengths: list[int] = []
    for residues in draw_proteins(fasta, 1024):
        lengths.append(min(len(residues) + 2, crop, tokens - sum(lengths)))
        if sum(lengths) == tokens:
            break
    return lengths


def draw_work(lengths: Sequence[int], heads: int, size: int, device: torch.device, dtype: torch.dtype) -> Work:
    """Random queries, keys, values and gradients of proteins of these lengths."""
    cu_seqlens = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)).to(device)
    query, key, value, gradient = torch.randn(4, sum(lengths), heads, size, device=device).to(dtype)
    tensors = [x.detach().requires_grad_() for x in (query * size**-0.5, key, value)]
    return Work(tensors, gradient, PackedProteins(cu_seqlens, max(lengths), heads))


def attend(backend: Backend, work: Work) -> list[Tensor]:
    """Forward and backward: the result, and the gradients of queries, keys and values."""
    query, key, value = work.tensors
    result = backend(query, key, value, work.proteins)
    return [result.detach(), *torch.autograd.grad(result, [query, key, value], work.gradient)]


def largest_difference(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Of the tensors, the largest norm of a difference over the norm of what is expected."""
    pairs = [(one.float(), other.float()) for one, other in zip(actual, expected, strict=True)]
    return max(float((one - other).norm() / other.norm()) for one, other in pairs)


def measure(
    contenders: Sequence[Contender], work: Work, others: Work, device: torch.device, repeats: int
) -> list[dict[str, Any]]:
    """A row for each contender: its times, or why it has none.

    Args:
        contenders: Who takes part.
        work: What is computed.
        others: The same with other lengths.
        device: Where.
        repeats: Times that each computes it after the warm-up.
    """
    expected = attend(BACKENDS["reference"], work)
    rows: list[dict[str, Any]] = [{"backend": contender.name} for contender in contenders]
    milliseconds: list[list[float]] = [[] for _ in contenders]
    turns = [(turn, index) for turn in range(WARM_UP + repeats) for index in range(len(contenders))]
    if device.type == "cuda":  # One after the other there: what breaks the device shall leave the figures before it.
        turns.sort(key=lambda each: each[1])
    for turn, index in turns:
        contender, row = contenders[index], rows[index]
        if "failure" in row:
            continue
        try:
            with contender.in_place():
                if turn == 0:
                    row["difference"] = largest_difference(attend(contender.attend, work), expected)
                taken = timed(functools.partial(attend, contender.attend, work), device)
                if turn == WARM_UP + repeats - 1:
                    row["other_lengths"] = 1e3 * timed(functools.partial(attend, contender.attend, others), device)
        except Exception as error:  # of any package: the others go on, and the table says it
            row["failure"] = describe(error)
            continue
        if turn >= WARM_UP:
            milliseconds[index].append(1e3 * taken)
    for row, values in zip(rows, milliseconds, strict=True):
        if "failure" not in row:
            row["milliseconds"] = statistics.median(values)
            row["spread"] = f"{min(values):.3g} to {max(values):.3g}"
    return rows


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fasta", type=Path, default=TRAIN_FASTA, help="default: the bundled sample, 40 to 512 long")
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--width", type=int, default=768, help="of all heads together")
    parser.add_argument("--head-size", type=int, nargs="+", default=[16, 24, 32, 64])
    parser.add_argument("--precision", choices=list(DTYPES), default="bf16")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the rows there")
    arguments = parser.parse_args()
    device, dtype = best_device(), DTYPES[arguments.precision]
    if device.type == "cpu":
        prepare_cpu()
    print(describe_machine(), flush=True)
    contenders = find_contenders(device, dtype)
    lengths = draw_lengths(arguments.fasta, arguments.crop, arguments.tokens)
    title = f"{arguments.precision}, {len(lengths)} proteins, {sum(lengths):,} tokens, {arguments.width} wide"
    rows: list[dict[str, Any]] = []
    for size in arguments.head_size:
        heads = arguments.width // size
        work = draw_work(lengths, heads, size, device, dtype)
        others = draw_work([lengths[0] - 1, *lengths[1:]], heads, size, device, dtype)
        study = [{"head_size": size, **row} for row in measure(contenders, work, others, device, arguments.repeats)]
        print_table(f"{title}, heads of {size}", study, COLUMNS)
        rows += study
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
