"""Contacts of proteins: from attention against fair-esm, by the Jacobian against one batch a position, and the fit.

python benchmarks/contacts.py --length 256 --proteins 8
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from esm.model.esm2 import ESM2 as FairESM2
from machine import best_device, memory_mb, timed
from tables import print_table, write_json

from plm_composer.evaluation.contacts.attention import Regression, fit_logistic, predict_by_attention
from plm_composer.evaluation.contacts.jacobian import predict_by_jacobian, score_pairs
from plm_composer.hardware.machine import describe_machine, prepare_cpu
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place, tokenize
from plm_composer.tokenizer import STANDARD_RESIDUES

COLUMNS = {
    "method": "method",
    "implementation": "implementation",
    "seconds": "s",
    "spread": "min to max",
    "ratio": "speed against the other",
    "memory_mb": "MB more",
}
SIZES = {"8M": (6, 320, 20, 1280), "35M": (12, 480, 20, 1920), "150M": (30, 640, 20, 2560)}
"""Layers, width, heads and feed-forward width of the published models."""


def jacobian_by_position(model: Any, protein: str, device: torch.device) -> None:
    """The published way: a padded batch of 20 substitutions for each position."""
    tokens = torch.from_numpy(tokenize(protein)).to(device)
    jacobian = np.empty((len(protein), 20, len(protein), 20), dtype=np.float32)
    for position in range(len(protein)):
        batch = tokens.repeat(20, 1)
        batch[:, position + 1] = torch.arange(4, 24, device=device)
        jacobian[position] = model(batch)["logits"][:, 1:-1, 4:24].float().cpu().numpy()
    score_pairs(jacobian)


def compare(method: str, works: dict[str, Callable[[], object]], repeats: int) -> list[dict[str, Any]]:
    """A row for each way to do the same, in turn; each way is warmed up once."""
    device = best_device()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            with torch.inference_mode():
                taken = timed(work, device)
            if turn:
                seconds[name].append(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return [
        {
            "method": method,
            "implementation": name,
            "seconds": medians[name],
            "spread": f"{min(values):.3g} to {max(values):.3g}",
            "ratio": max(medians.values()) / medians[name],
        }
        for name, values in seconds.items()
    ]


def measure_fit(pairs: int, features: int) -> dict[str, Any]:
    """Time and memory of the regression, on random features of which one counts."""
    rng = np.random.default_rng(0)
    values = rng.normal(scale=0.01, size=(pairs, features)).astype(np.float32)
    contacts = (values[:, 0] + rng.normal(scale=0.01, size=pairs) > 0.03).astype(np.int8)
    before = memory_mb(torch.device("cpu"))
    taken = timed(lambda: fit_logistic(values, contacts), torch.device("cpu"))
    name = f"{pairs:,} pairs, {features} heads"
    more = memory_mb(torch.device("cpu")) - before
    return {"method": "fit", "implementation": name, "seconds": taken, "memory_mb": more}


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=list(SIZES), default="8M", help="of a model with random weights")
    parser.add_argument("--length", type=int, default=256, help="of the longest protein; the others are shorter")
    parser.add_argument("--proteins", type=int, default=8)
    parser.add_argument("--jacobian-length", type=int, default=64)
    parser.add_argument("--fit-pairs", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the rows there")
    arguments = parser.parse_args()
    device = best_device()
    if device.type == "cpu":
        prepare_cpu()
    print(describe_machine(), flush=True)
    layers, width, heads, inner = SIZES[arguments.size]
    ours = ESM2(ESM2Config(layers, width, heads, inner)).to(device).eval()
    theirs = FairESM2(layers, width, heads).to(device).eval()
    rng = np.random.default_rng(0)
    lengths = np.linspace(arguments.length, arguments.length // 2, arguments.proteins, dtype=int)
    proteins = ["".join(rng.choice(list(STANDARD_RESIDUES), length)) for length in lengths]
    regression = Regression(rng.normal(size=(layers, heads)).astype(np.float32), 0.0)
    place = Place(device=device.type)
    short = proteins[0][: arguments.jacobian_length]
    rows = compare(
        "attention",
        {
            "fair-esm, one by one": lambda: [
                theirs.predict_contacts(torch.from_numpy(tokenize(each))[None].to(device)).cpu() for each in proteins
            ],
            "ours": lambda: list(predict_by_attention(ours, proteins, regression, place)),
        },
        arguments.repeats,
    )
    rows += compare(
        f"Jacobian of {len(short)} residues",
        {
            "fair-esm, a batch a position": lambda: jacobian_by_position(theirs, short, device),
            "ours": lambda: list(predict_by_jacobian(ours, [short], place)),
        },
        arguments.repeats,
    )
    if arguments.fit_pairs:
        rows.append(measure_fit(arguments.fit_pairs, layers * heads))
    print_table(
        f"ESM2-{arguments.size}, {arguments.proteins} proteins of up to {arguments.length} residues", rows, COLUMNS
    )
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
