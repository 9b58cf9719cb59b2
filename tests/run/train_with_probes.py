"""``train.py`` with callbacks that tests look through; ``--without-batch-seed`` before the YAML leaves ours out."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import torch
from composer import Callback, Logger, State
from composer.utils import dist

from plm_composer.callbacks import CALLBACKS
from plm_composer.data.batches import count_proteins, split
from plm_composer.errors import run_command
from plm_composer.run import trainer
from plm_composer.run.load import load_config
from plm_composer.run.train import train


class BatchRecorder(Callback):
    """Appends a line for each batch that a process trains: which proteins, cropped and masked how."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def batch_start(self, state: State, logger: Logger) -> None:
        proteins = []
        for protein in split(state.batch, 1):
            content = protein["input_ids"].numpy().tobytes() + protein["labels"].numpy().tobytes()
            proteins.append(hashlib.sha256(content).hexdigest()[:16])
        assert len(proteins) == count_proteins(state.batch)
        rank = dist.get_global_rank()
        line = {"batch": int(state.timestamp.batch) + 1, "rank": rank, "proteins": proteins}
        with (self.folder / f"rank{rank}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


class Dropout(Callback):
    """Gives the model a layer that draws random numbers in training: dropout after each LayerNorm."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def init(self, state: State, logger: Logger) -> None:
        def drop(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.dropout(output, self.rate, training=module.training)

        norms = [module for module in state.model.modules() if isinstance(module, torch.nn.LayerNorm)]
        assert norms
        for norm in norms:
            norm.register_forward_hook(drop)


class Stall(Callback):
    """Never ends a batch, as where a disk or another machine hangs; makes a file when it has come to that."""

    def __init__(self, batch: int, sign: str) -> None:
        self.batch, self.sign = batch, Path(sign)

    def batch_end(self, state: State, logger: Logger) -> None:
        if state.timestamp.batch == self.batch:
            self.sign.touch()
            while True:
                time.sleep(0.01)


CALLBACKS["batch_recorder"] = BatchRecorder
CALLBACKS["dropout"] = Dropout
CALLBACKS["stall"] = Stall


def main() -> int | None:
    arguments = sys.argv[1:]
    if arguments[0] == "--without-batch-seed":
        trainer.BatchSeed = lambda seed: Callback()
        arguments = arguments[1:]
    return train(load_config(arguments[0], arguments[1:])).exit_code


if __name__ == "__main__":
    run_command(main)
