"""What a training process takes, over what ``plm config`` would predict: a shortened 650M, on a CPU.

Each row is a process of its own that does two steps. It is measured twice: where the C library returns freed memory at
once, so that the process holds its tensors and little else, and as our training runs, which has it keep freed memory.

    python benchmarks/memory.py --tokens 2048 6000 --json memory.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import print_table, write_json

from plm_composer.data.batches import Batch, pack
from plm_composer.hardware.machine import describe_machine, prepare_cpu
from plm_composer.hardware.precision import multiplies_bf16
from plm_composer.model.composer_model import ESM2ComposerModel
from plm_composer.model.config import PRESETS, ESM2Config
from plm_composer.model.cost import Workload, predict
from plm_composer.model.esm2 import ESM2
from plm_composer.model.parallelize import parallelize
from plm_composer.tokenizer import IGNORE_INDEX, STANDARD_IDS

COLUMNS = {
    "implementation": "implementation",
    "tokens": "tokens",
    "precision": "precision",
    "checkpointing": "checkpointing",
    "predicted_mb": "predicted, MB",
    "returned": "freed memory returned, over it",
    "kept": "as training runs, over it",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """What a process trains: a 650M of ``layers`` blocks on proteins of ``crop`` tokens, ``tokens`` in all."""

    layers: int
    tokens: int
    crop: int
    bf16: bool
    checkpointing: bool

    @property
    def config(self) -> ESM2Config:
        """The model."""
        return dataclasses.replace(PRESETS["esm2_650m"], num_hidden_layers=self.layers)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each protein."""
        rest = self.tokens % self.crop
        return [self.crop] * (self.tokens // self.crop) + [rest] * bool(rest)

    def predicted(self) -> int:
        """Bytes."""
        return predict(self.config, Workload(self.lengths, bf16=self.bf16, checkpointing=self.checkpointing)).total

    def measure(self, keep: bool) -> int:
        """Bytes by which a process of its own grows."""
        environment = dict(os.environ)
        if not keep:
            environment["MALLOC_MMAP_THRESHOLD_"] = str(1 << 20)
        command = [sys.executable, __file__, "--measure", json.dumps([dataclasses.asdict(self), keep])]
        return int(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)


def _resident(line: str) -> int:
    # Not `getrusage`: a process starts with the maximum of the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{line}:")[1].split()[0]) * 1024


def _batch(lengths: list[int]) -> Batch:
    random = np.random.default_rng(0)
    ids = random.integers(STANDARD_IDS.start, STANDARD_IDS.stop, sum(lengths))
    return pack(ids, np.where(random.random(len(ids)) < 0.15, ids, IGNORE_INDEX), np.array(lengths))


def train_two_steps(case: Case, keep: bool) -> int:
    """Trains in this process, which must be fresh; a small step makes the optimizer's states, then the one to measure.

    Returns:
        Bytes by which it grew at its peak.
    """
    if keep:
        prepare_cpu()
    torch.mm(torch.rand(9, 9), torch.rand(9, 9))
    before = _resident("VmRSS")
    model = ESM2(case.config)
    parallelize(model, activation_checkpointing=case.checkpointing)
    trained = ESM2ComposerModel(model, torch.bfloat16 if case.bf16 else None)
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    for lengths in ([9], case.lengths):
        batch = _batch(lengths)
        optimizer.zero_grad()
        torch.autograd.backward(trained.loss(trained(batch), batch))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return _resident("VmHWM") - before


def make_row(case: Case) -> dict[str, Any]:
    """One case, measured twice."""
    predicted = case.predicted()
    return {
        "implementation": "ours",
        "precision": "bf16" if case.bf16 else "fp32",
        **dataclasses.asdict(case),
        "checkpointing": "yes" if case.checkpointing else "no",
        "predicted_mb": predicted / 1e6,
        "returned": case.measure(keep=False) / predicted,
        "kept": case.measure(keep=True) / predicted,
    }


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 6000])
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        case, keep = json.loads(arguments.measure)
        print(train_two_steps(Case(**case), keep))
        return

    print(describe_machine())
    bf16 = multiplies_bf16("cpu")
    rows = [
        make_row(Case(arguments.layers, tokens, arguments.crop, bf16, checkpointing))
        for tokens in arguments.tokens
        for checkpointing in (False, True)
    ]
    print_table(f"650M shortened to {arguments.layers} layers, crop {arguments.crop}", rows, COLUMNS)
    write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
