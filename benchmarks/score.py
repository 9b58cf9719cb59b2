"""Scoring an assay, ours against a plain loop over `transformers`: seconds for all mutants.

An assay of single mutants by masked-marginals. The plain loop does what a script does at first: a batch of 32 mutants,
each a copy of the target with its position masked, and all logits. Ours predicts each position once. Both take turns in
one process; the loop runs over a part of its batches, which are all alike, and its time is scaled to all of them.

    python benchmarks/score.py --mutants 5000 --residues 300 --json score.json
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import best_device, timed
from tables import print_table, write_json
from transformers import EsmForMaskedLM

from plm_composer.evaluation.variants.methods import Scorer, score_variants
from plm_composer.evaluation.variants.mutations import Substitution, Variant
from plm_composer.hardware.machine import describe_machine, prepare_cpu
from plm_composer.model.config import PRESETS
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place, prepared, tokenize
from plm_composer.model.weights.huggingface_folder import save_huggingface
from plm_composer.tokenizer import MASK_ID, STANDARD_RESIDUES, VOCABULARY

COLUMNS = {"implementation": "implementation", "seconds": "seconds", "spread": "min to max", "ratio": "over the loop"}


def draw_assay(residues: int, mutants: int) -> tuple[str, list[Variant]]:
    """A target of random residues, and different single mutants of it."""
    generator = np.random.default_rng(0)
    target = "".join(generator.choice(list(STANDARD_RESIDUES), residues))
    singles = [(index, mutant) for index in range(residues) for mutant in STANDARD_RESIDUES if mutant != target[index]]
    chosen = generator.permutation(len(singles))[:mutants]
    return target, [
        Variant(target[:index] + mutant + target[index + 1 :], (Substitution(target[index], index, mutant),))
        for index, mutant in (singles[one] for one in chosen)
    ]


@torch.inference_mode()
def score_plainly(
    model: Any, target: str, variants: Sequence[Variant], device: torch.device, autocast: torch.dtype | None, size: int
) -> np.ndarray[Any, Any]:
    """Masked-marginals by a loop over batches of mutants."""
    tokens = torch.from_numpy(tokenize(target))
    scores = []
    for start in range(0, len(variants), size):
        batch = [variant.substitutions[0] for variant in variants[start : start + size] if variant.substitutions]
        ids = tokens.repeat(len(batch), 1)
        rows, positions = torch.arange(len(batch)), torch.tensor([each.index + 1 for each in batch])
        ids[rows, positions] = MASK_ID
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            logits = model(ids.to(device)).logits
        found = logits[rows, positions].double().log_softmax(-1).cpu()
        mutants, wildtypes = (
            torch.tensor([VOCABULARY.index(getattr(each, name)) for each in batch]) for name in ("mutant", "wildtype")
        )
        scores.append((found[rows, mutants] - found[rows, wildtypes]).numpy())
    return np.concatenate(scores)


def main() -> None:
    """Runs both in turn and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="esm2_8m")
    parser.add_argument("--residues", type=int, default=300)
    parser.add_argument("--mutants", type=int, default=5000)
    parser.add_argument("--batch-size", type=int, default=32, help="mutants of a batch of the plain loop")
    parser.add_argument("--plain-batches", type=int, default=12, help="batches of it that are run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    device = best_device()
    if device.type == "cpu":
        prepare_cpu()
    autocast = torch.bfloat16 if arguments.bf16 else None
    torch.manual_seed(0)
    model = ESM2(PRESETS[arguments.model]).eval()
    target, variants = draw_assay(arguments.residues, arguments.mutants)
    part = variants[: arguments.batch_size * arguments.plain_batches]
    with tempfile.TemporaryDirectory() as folder:
        save_huggingface(model, folder)
        theirs = EsmForMaskedLM.from_pretrained(folder).eval().to(device)
    scorer = Scorer(model, Place(str(device), autocast))
    found: dict[str, Any] = {}

    def run(name: str, work: Callable[[], Any]) -> float:
        def keep() -> None:
            found[name] = work()

        return timed(keep, device)

    plain, ours = [], []

    def score_ours() -> Any:
        with prepared(model, scorer.place):  # as plm score does
            return score_variants(scorer, "masked-marginals", target, variants)

    for turn in range(arguments.rounds + 1):
        loop = run("plain", lambda: score_plainly(theirs, target, part, device, autocast, arguments.batch_size))
        packed = run("ours", score_ours)
        if turn:  # the first round loads kernels
            plain.append(loop * len(variants) / len(part))
            ours.append(packed)
    difference = np.abs(found["plain"] - found["ours"][: len(part)]).max()
    rows = []
    for name, seconds in (("transformers, a loop", plain), ("ours", ours)):
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        ratio = statistics.median(one / other for one, other in zip(plain, seconds, strict=True))
        rows.append(
            {"implementation": name, "seconds": statistics.median(seconds), "spread": spread, "ratio": f"{ratio:.1f}"}
        )
    print(describe_machine())
    print_table(f"{len(variants):,} single mutants of {arguments.residues} residues, {arguments.model}", rows, COLUMNS)
    print(f"largest difference of a score: {difference:.1e}")
    if arguments.json:
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
