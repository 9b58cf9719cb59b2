"""One layer's attention, forward and backward, by each backend that works here, for heads of several sizes.

python benchmarks/attention.py --fasta proteins.fasta.gz --crop 512 --tokens 65536 --head-size 16 24 32 64
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import best_device, timed
from tables import print_table, write_json
from train_step import DTYPES, draw_proteins

from plm_composer.hardware.machine import describe_machine, prepare_cpu
from plm_composer.model.attention import BACKENDS, FITS, PackedProteins
from plm_composer.sample import TRAIN_FASTA

COLUMNS = {"head_size": "head size", "backend": "backend", "milliseconds": "ms", "spread": "min to max"}
WARM_UP = 3


def draw_lengths(fasta: Path, crop: int, tokens: int) -> list[int]:
    """Lengths of real proteins, cropped, up to a number of tokens."""
    lengths: list[int] = []
    for residues in draw_proteins(fasta, 1024):
        lengths.append(min(len(residues) + 2, crop, tokens - sum(lengths)))
        if sum(lengths) == tokens:
            break
    return lengths


def attend(backend: str, tensors: Sequence[torch.Tensor], gradient: torch.Tensor, proteins: PackedProteins) -> None:
    """Forward and backward."""
    query, key, value = tensors
    torch.autograd.backward(BACKENDS[backend](query, key, value, proteins), gradient)
    for tensor in tensors:
        tensor.grad = None


def measure(size: int, width: int, lengths: Sequence[int], dtype: torch.dtype, repeats: int) -> list[dict[str, Any]]:
    """A row for each backend that works for heads of this size, in turn."""
    device, heads = best_device(), width // size
    cu_seqlens = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)).to(device)
    proteins = PackedProteins(cu_seqlens, max(lengths), heads)
    query, key, value, gradient = torch.randn(4, sum(lengths), heads, size, device=device).to(dtype)
    tensors = [x.detach().requires_grad_() for x in (query * size**-0.5, key, value)]
    seconds: dict[str, list[float]] = {fit.backend: [] for fit in FITS if fit.obstacle(device, dtype, False) is None}
    for turn in range(WARM_UP + repeats):
        for backend in seconds:
            taken = timed(functools.partial(attend, backend, tensors, gradient, proteins), device)
            if turn >= WARM_UP:
                seconds[backend].append(1e3 * taken)
    return [
        {
            "head_size": size,
            "backend": backend,
            "milliseconds": statistics.median(values),
            "spread": f"{min(values):.3g} to {max(values):.3g}",
        }
        for backend, values in seconds.items()
    ]


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
    if best_device().type == "cpu":
        prepare_cpu()
    print(describe_machine(), flush=True)
    lengths = draw_lengths(arguments.fasta, arguments.crop, arguments.tokens)
    rows: list[dict[str, Any]] = []
    for size in arguments.head_size:
        rows += measure(size, arguments.width, lengths, DTYPES[arguments.precision], arguments.repeats)
    title = f"{arguments.precision}, {len(lengths)} proteins, {sum(lengths):,} tokens, {arguments.width} wide"
    print_table(title, rows, COLUMNS)
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
