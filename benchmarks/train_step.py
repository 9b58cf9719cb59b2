"""Full training steps of ESM2, ours against the others: real tokens a second, memory, share of the machine's peak.

Every implementation sees the same proteins, crops and masks, has the same shape and the same fused AdamW; a step is
forward, backward, clipping and update. Each runs in a process of its own. On a CPU they step one at a time and in turn,
so that a machine that slows down slows all of them down; on a GPU one ends before the next begins, since their memory
would not fit side by side, and one that runs out of it gets half the batch, until it fits. One that fails in any other
way says so in its row. Batches lie on the device before the clock starts, and no loss is read while it runs. Medians
are reported, and the first step, in which torch compiles.

    python benchmarks/train_step.py --crop 512 1022 --fasta proteins.fasta.gz --json train_step.json
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.core import Precision
from machine import best_device, memory_mb, send, timed
from peers import PEERS
from race import Outcome, race, race_alone
from tables import print_table, write_json
from torch import Tensor, nn

from plm_composer.data.batches import Batch, count_positions, count_tokens
from plm_composer.data.collate import Protein
from plm_composer.hardware.machine import describe_machine, matmul_peak, prepare_cpu
from plm_composer.hardware.peaks import datasheet_peak
from plm_composer.model.config import PRESETS
from plm_composer.model.cost import training_flops
from plm_composer.run.load import load_config
from plm_composer.run.parts import Parts, make_parts
from plm_composer.run.trainer import make_model
from plm_composer.sample import TRAIN_FASTA
from plm_composer.shards.inputs.fasta import read_fasta

YAML = Path(__file__).parent.parent / "yamls" / "esm2_small.yaml"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PRECISIONS = {"fp32": Precision.FP32, "bf16": Precision.AMP_BF16}
OURS = {
    "ours: baseline": ("fp32", ("recipe=baseline",)),
    "ours: unpadded": ("fp32", ("recipe=unpadded", "precision=fp32")),
    "ours: fast": ("bf16", ("recipe=fast", "precision=amp_bf16", "compile_config=null")),
    "ours: fast, compiled": ("bf16", ("recipe=fast", "precision=amp_bf16", "compile_config={}")),
}
"""Our recipes for one device, each in one precision."""
CANDIDATES = {
    "autotuned": "{mode: max-autotune-no-cudagraphs}",
    "cooperative": "{options: {triton.cooperative_reductions: true}}",
}
"""Ways to compile that are not the default: products of Triton's, with what follows them in the same kernel, where they
are faster than cuBLAS's; and sums of biases' gradients in the kernels that make what they add up."""
OURS |= {
    f"ours: fast, {name}": ("bf16", ("recipe=fast", "precision=amp_bf16", f"compile_config={arguments}"))
    for name, arguments in CANDIDATES.items()
}
COLUMNS = {
    "implementation": "implementation",
    "precision": "precision",
    "batch_size": "proteins a batch",
    "real_tokens_per_second": "real tokens/s",
    "spread": "min to max",
    "first_step_seconds": "first step, s",
    "padded_tokens_per_second": "with padding",
    "peak_memory_mb": "peak memory, MB",
    "mfu": "MFU",
    "datasheet_mfu": "MFU of the datasheet's",
    "ratio": "over the best peer",
    "ratio_to_fp32": "over it in fp32",
    "failure": "failed",
}


@dataclasses.dataclass(frozen=True)
class Contender:
    """One implementation in one precision."""

    implementation: str
    precision: str
    model: str
    crop: int
    proteins: tuple[bytes, ...]
    batch_size: int
    overrides: tuple[str, ...]

    @property
    def is_ours(self) -> bool:
        """Whether it is one of our recipes."""
        return self.implementation in OURS

    @functools.cached_property
    def parts(self) -> Parts:
        """The run whose batches it gets: for the others padded to the longest protein, as their collators do."""
        fixed = (f"model={{name: {self.model}}}", f"data.crop_length={self.crop}", "data.mask_rate=0.15")
        return make_parts(load_config(YAML, [*fixed, *self.overrides]))

    def batches(self) -> list[Batch]:
        """The batches, the same proteins with the same masks for everyone."""
        numbered = [Protein(index, 0, residues) for index, residues in enumerate(self.proteins)]
        starts = range(0, len(numbered), self.batch_size)
        return [self.parts.collator(numbered[start : start + self.batch_size]) for start in starts]

    def with_batch_size(self, size: int) -> Contender:
        """The same with batches of another size, of the same proteins."""
        return dataclasses.replace(self, batch_size=size)

    def start(self) -> Callable[[int], dict[str, Any]]:
        """Makes model, optimizer and batches; what it returns does a step on one of them and tells what that took."""
        device = best_device()
        step = self.prepare(device)
        batches = self.batches()
        sent = [send(batch, device) for batch in batches]
        before = memory_mb(device)

        def measure(turn: int) -> dict[str, Any]:
            batch, there = batches[turn % len(batches)], sent[turn % len(batches)]
            losses: list[Tensor] = []
            seconds = timed(lambda: losses.append(step(there)), device)
            tokens = count_tokens(batch)
            return {
                "seconds": seconds,
                "loss": float(losses[0]),
                "tokens": tokens["total"],
                "positions": count_positions(batch),
                "flops": training_flops(self.parts.model, batch["lengths"].tolist(), tokens["loss_generating"]),
                "memory": memory_mb(device) - (0 if device.type == "cuda" else before),
            }

        return measure

    def prepare(self, device: torch.device) -> Callable[[Batch], Tensor]:
        """Makes model and optimizer; what it returns does one step on a batch and gives the loss."""
        torch.manual_seed(0)
        if self.is_ours:
            if device.type == "cpu":
                prepare_cpu()  # as our training does
            ours = make_model(self.parts).to(device)
            return functools.partial(take_step, ours, self.parts.optimizer.make(ours), self.precision, ours.loss)
        peer = PEERS[self.implementation](self.parts.model).to(device)
        optimizer = torch.optim.AdamW(peer.parameters(), lr=4e-4, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        return functools.partial(take_step, peer, optimizer, self.precision, None)


def take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    precision: str,
    loss_of: Callable[[Any, Batch], Tensor] | None,
    batch: Batch,
) -> Tensor:
    """Forward, backward, clipping and update; returns the loss, which nobody has waited for.

    Args:
        model: Of ours, or a peer.
        optimizer: The model's.
        precision: A name in ``DTYPES``.
        loss_of: Makes the loss of outputs and batch; None where the outputs are the loss.
        batch: On the model's device.
    """
    model.train()
    optimizer.zero_grad()
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        outputs = model(batch)
        loss = outputs if loss_of is None else loss_of(outputs, batch)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach()


def make_row(
    contender: Contender, outcome: Outcome, peak: float, datasheet: float | None, wanted: int
) -> dict[str, Any]:
    """Medians over the steps, or why there are none.

    Args:
        contender: As it was measured.
        outcome: What it did.
        peak: Measured FLOP/s of dense products in its precision.
        datasheet: What the maker says of the GPU, FLOP/s.
        wanted: Proteins of the batch that was asked for.
    """
    row = {key: getattr(contender, key) for key in ("implementation", "precision", "model", "crop")}
    steps = outcome.steps
    if outcome.failure is not None:
        return {**row, "failure": outcome.failure}
    rates = [step["flops"] / step["seconds"] for step in steps]
    if contender.batch_size < wanted:
        row["batch_size"] = f"{contender.batch_size}: {2 * contender.batch_size} run out of memory"
    speeds = [step["tokens"] / step["seconds"] for step in steps]
    return {
        **row,
        "real_tokens_per_second": statistics.median(speeds),
        "spread": f"{min(speeds):,.0f} to {max(speeds):,.0f}",
        "first_step_seconds": outcome.first["seconds"] if outcome.first else None,
        "padded_tokens_per_second": statistics.median(step["positions"] / step["seconds"] for step in steps),
        "peak_memory_mb": max(step["memory"] for step in steps),
        "mfu": statistics.median(rates) / peak,
        "datasheet_mfu": statistics.median(rates) / datasheet if datasheet else None,
        "last_loss": steps[-1]["loss"],
    }


def measure(
    field: Sequence[Contender], device: torch.device, warm_up: int, repeats: int
) -> Iterator[tuple[Contender, Outcome]]:
    """Each contender as it was measured, and what it did: on a GPU as soon as it is done."""
    if device.type == "cuda":
        for contender in field:
            yield race_alone(contender, warm_up, repeats)
    else:
        yield from zip(field, race(field, warm_up, repeats), strict=True)


def summary_of(row: dict[str, Any]) -> str:
    """A row in one line, for those who wait for the table, and in case it never comes."""
    what = row.get("failure") or f"{row['real_tokens_per_second']:,.0f} real tokens/s, MFU {row['mfu']:.1%}"
    return f"{row['implementation']}, {row['precision']}: {what}"


def add_ratios(rows: Sequence[dict[str, Any]]) -> None:
    """How many times the best peer of its own precision each of ours is, and the best peer in fp32."""
    best: dict[str, float] = {}
    for row in rows:
        if row["implementation"] in PEERS and "mfu" in row:
            best[row["precision"]] = max(best.get(row["precision"], 0.0), row["real_tokens_per_second"])
    for row in rows:
        if row["implementation"] in OURS and "mfu" in row:
            for key, precision in (("ratio", row["precision"]), ("ratio_to_fp32", "fp32")):
                if precision in best:
                    row[key] = row["real_tokens_per_second"] / best[precision]


def contenders(arguments: argparse.Namespace, crop: int, proteins: Sequence[bytes]) -> Iterator[Contender]:
    """Everyone who runs, ours last."""
    shape = PRESETS[arguments.model]
    named = [(name, precision, ("data.batch_format=padded",)) for precision in arguments.precision for name in PEERS]
    named += [(name, precision, overrides) for name, (precision, overrides) in OURS.items()]  # type: ignore[misc]
    for name, precision, overrides in named:
        if name == "fair-esm" and shape.intermediate_size != 4 * shape.hidden_size:
            continue  # It has no such model.
        if "compiled" in name and not arguments.compile:
            continue
        if name.rpartition(", ")[2] in CANDIDATES and not arguments.candidates:
            continue
        if "flash-attn" in name and not (torch.cuda.is_available() and find_spec("flash_attn") and precision == "bf16"):
            continue
        if precision in arguments.precision and any(part in name for part in arguments.implementation):
            yield Contender(name, precision, arguments.model, crop, tuple(proteins), arguments.proteins, overrides)


def draw_proteins(fasta: Path, count: int) -> list[bytes]:
    """Proteins from all over a file, the same each time."""
    everything = [residues for _, residues in read_fasta(fasta)]
    chosen = np.random.default_rng(0).choice(len(everything), count, replace=False)
    return [everything[index] for index in chosen]


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=list(PRESETS), default="esm2_8m")
    parser.add_argument("--crop", type=int, nargs="+", default=[512])
    parser.add_argument("--proteins", type=int, default=16, help="proteins of one batch")
    parser.add_argument("--batches", type=int, default=3, help="different batches, used in turn")
    parser.add_argument("--repeats", type=int, default=6, help="steps timed for each implementation")
    parser.add_argument("--warm-up", type=int, help="steps before them; default: each batch once")
    parser.add_argument("--precision", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--implementation", nargs="+", default=[""], help="only those whose names contain one of these")
    parser.add_argument("--compile", action="store_true", help="ours and transformers with torch.compile, too")
    parser.add_argument("--candidates", action="store_true", help="ours compiled in other ways, which may take minutes")
    parser.add_argument("--fasta", type=Path, default=TRAIN_FASTA, help="default: the bundled sample, 40 to 512 long")
    parser.add_argument("--json", type=Path, help="write the rows there")
    arguments = parser.parse_args()
    warm_up = arguments.batches if arguments.warm_up is None else arguments.warm_up

    device = best_device()
    print(describe_machine())
    peaks = {precision: matmul_peak(device, DTYPES[precision]) for precision in arguments.precision}
    print(", ".join(f"{name} matmul peak {peak / 1e12:.3g} TFLOP/s" for name, peak in peaks.items()), flush=True)
    on_gpu = device.type == "cuda"
    datasheets = {name: datasheet_peak(PRECISIONS[name]) if on_gpu else None for name in arguments.precision}
    proteins = draw_proteins(arguments.fasta, arguments.proteins * arguments.batches)
    rows: list[dict[str, Any]] = []
    for crop in arguments.crop:
        field = list(contenders(arguments, crop, proteins))
        study = []
        for one, outcome in measure(field, device, warm_up, arguments.repeats):
            row = make_row(one, outcome, peaks[one.precision], datasheets[one.precision], arguments.proteins)
            print(summary_of(row), flush=True)
            study.append(row)
        add_ratios(study)
        mean = np.mean([min(len(residues) + 2, crop) for residues in proteins])
        title = f"{arguments.model}, crop {crop}, {arguments.proteins} proteins a batch, {mean:.0f} tokens on average"
        print_table(title, study, COLUMNS)
        rows += study
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
