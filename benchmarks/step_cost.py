"""What a step of a study's variants costs, over one of its reference: steps on the same proteins, taken in turn.

Whole runs of equal time compare badly where other work bends the machine's speed from minute to minute. Runs of equal
steps, times what a step of each costs, do not; this tells what it costs. Every step is forward, backward, clipping and
update: what algorithms and curricula cost is not in it.

    python benchmarks/step_cost.py benchmarks/studies/cramming_defaults.yaml --fasta proteins.fasta.gz
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from machine import best_device, send, timed
from tables import print_table, write_json
from train_step import draw_proteins, take_step

from plm_composer.config.schema import TrainConfig
from plm_composer.data.collate import Protein
from plm_composer.errors import run_command
from plm_composer.hardware.machine import describe_machine, prepare_cpu
from plm_composer.run.parts import make_parts
from plm_composer.run.trainer import make_model
from plm_composer.sample import TRAIN_FASTA
from plm_composer.studies.plan import plan_runs
from plm_composer.studies.schema import load_study

COLUMNS = {
    "variant": "variant",
    "milliseconds": "milliseconds a step",
    "ratio": "over the reference",
    "spread": "middle half",
}


def prepare(config: TrainConfig, proteins: Sequence[bytes], device: torch.device) -> Callable[[int], None]:
    """Makes a variant's model, optimizer and batches; what it returns does one step on a batch of that number."""
    torch.manual_seed(0)
    parts = make_parts(config)
    model = make_model(parts).to(device)
    precision = "bf16" if parts.precision == "amp_bf16" else "fp32"
    step = functools.partial(take_step, model, parts.optimizer.make(model), precision, model.loss)
    collate, size = parts.collator, parts.proteins
    numbered = [Protein(index, 0, residues) for index, residues in enumerate(proteins)]
    batches = [send(collate(numbered[start : start + size]), device) for start in range(0, len(numbered), size)]

    def numbered_step(turn: int) -> None:
        step(batches[turn % len(batches)])

    return numbered_step


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--proteins", type=int, default=64, help="different ones, in batches of each variant's size")
    parser.add_argument("--repeats", type=int, default=24, help="steps timed for each variant")
    parser.add_argument("--warm-up", type=int, default=4, help="steps before them")
    parser.add_argument("--fasta", type=Path, default=TRAIN_FASTA, help="default: the bundled sample")
    parser.add_argument("--json", type=Path, help="write the rows there")
    arguments = parser.parse_args()

    study, device = load_study(arguments.study), best_device()
    runs = plan_runs(study, [(study.seeds[0], variant) for variant in study.variants])
    proteins = draw_proteins(arguments.fasta, arguments.proteins)
    if device.type == "cpu":
        prepare_cpu()  # as a training does
    print(describe_machine())
    steps = {run.variant: prepare(run.config, proteins, device) for run in runs}
    seconds: dict[str, list[float]] = {variant: [] for variant in steps}
    for turn in range(arguments.warm_up + arguments.repeats):
        for variant, step in steps.items():
            taken = timed(lambda step=step, turn=turn: step(turn), device)  # type: ignore[misc]
            if turn >= arguments.warm_up:
                seconds[variant].append(taken)
    rows = [make_row(variant, taken, seconds[study.reference]) for variant, taken in seconds.items()]
    print_table(f"{study.path.name}: a step, {arguments.repeats} of each in turn", rows, COLUMNS)
    write_json(arguments.json, rows)


def make_row(variant: str, seconds: Sequence[float], reference: Sequence[float]) -> dict[str, Any]:
    """Medians; the ratio is that of steps of one turn, which the machine was equally fast in."""
    ratios = [one / other for one, other in zip(seconds, reference, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "variant": variant,
        "milliseconds": 1e3 * statistics.median(seconds),
        "ratio": statistics.median(ratios),
        "spread": f"{low:.3f} to {high:.3f}",
    }


if __name__ == "__main__":
    run_command(main)
