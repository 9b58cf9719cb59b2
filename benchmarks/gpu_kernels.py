"""Where a compiled block's time goes on a GPU, on a machine without one: its kernels, and the memory that each moves.

Beside matrix products and attention, a GPU's time for a block is that of moving memory. Inductor fuses the block for an
H100 that is pretended (``pretended_gpu.py``); nothing is run. A pass is a token's hidden state in bf16, read or written
once. The milliseconds are those of the memory alone: products and attention take longer.

    python benchmarks/gpu_kernels.py yamls/cramming.yaml recipe=cramming
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretended_gpu import Kernel, block_kernels
from tables import print_table, write_json

from plm_composer.errors import run_command
from plm_composer.run.load import load_config
from plm_composer.run.parts import make_parts

BANDWIDTH = 3.35e12
"""Bytes per second of an H100 SXM's memory (NVIDIA's datasheet)."""
BF16 = 2
COLUMNS = {
    "direction": "pass of training",
    "kind": "kernel",
    "operations": "of",
    "passes": "passes over memory",
    "milliseconds": "ms, at least",
}


def make_row(
    direction: str, kernels: Sequence[Kernel], what: tuple[str, str], tokens: int, width: int
) -> dict[str, Any]:
    """What some kernels move.

    Args:
        direction: ``forward`` or ``backward``.
        kernels: The kernels.
        what: Their kind, and their operations.
        tokens: Tokens of the batch.
        width: Size of a hidden state.
    """
    moved = sum(kernel.bytes for kernel in kernels)
    kind, operations = what
    return {
        "direction": direction,
        "kind": kind,
        "operations": operations,
        "passes": moved / (BF16 * tokens * width),
        "milliseconds": 1e3 * moved / BANDWIDTH,
    }


def main() -> None:
    """Reads the arguments, compiles, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("yaml", type=Path)
    parser.add_argument("overrides", nargs="*", help="of the run, as for train.py; only the model counts")
    parser.add_argument("--tokens", type=int, default=65536, help="of a microbatch, a multiple of 256")
    parser.add_argument("--json", type=Path, help="write the rows there")
    arguments = parser.parse_args()

    config = make_parts(load_config(arguments.yaml, arguments.overrides)).model
    rows = []
    for direction, kernels in zip(("forward", "backward"), block_kernels(config, arguments.tokens), strict=True):
        size = (arguments.tokens, config.hidden_size)
        rows += [make_row(direction, [each], (each.kind, ", ".join(each.operations)), *size) for each in kernels]
        fused = [each for each in kernels if each.kind == "fused"]
        rows.append(make_row(direction, fused, ("all fused", f"{len(fused)} kernels"), *size))
    print_table(f"a block of {config.hidden_size}, {arguments.tokens:,} tokens, bf16", rows, COLUMNS)
    write_json(arguments.json, rows)


if __name__ == "__main__":
    run_command(main)
