"""Tiny runs inside the test's process, through the project's own ``make_trainer``."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer import Callback, Logger, State, Trainer

from plm_composer.budget.ledger import Ledger
from plm_composer.callbacks import CALLBACKS
from plm_composer.config.schema import TrainConfig
from plm_composer.run.datasets import find_places
from plm_composer.run.load import load_config
from plm_composer.run.parts import make_parts
from plm_composer.run.trainer import make_trainer
from plm_composer.run_folder import RunFolder
from tests.commands import REPOSITORY, TINY

QUIET = (
    *(f"callbacks.{name}=null" for name in ("speed_monitor", "efficiency_monitor", "runtime_estimator", "lr_monitor")),
    "data.val_split=null",
    "export=false",
    "save_folder=null",
)


class BatchWatcher(Callback):
    """Keeps what was trained on, and what it cost, batch by batch."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.counts: list[tuple[int, int]] = []

    def batch_start(self, state: State, logger: Logger) -> None:
        self.batches.append(state.batch)

    def batch_end(self, state: State, logger: Logger) -> None:
        self.losses.append(float(state.total_loss_dict["loss/train/total"]))
        self.counts.append((int(state.timestamp.sample), int(state.timestamp.token)))


@dataclasses.dataclass
class Training:
    """A Trainer and what its watcher sees."""

    trainer: Trainer
    watcher: BatchWatcher

    def fit(self, duration: str | None = None) -> None:
        """Trains on; up to its end, or for a while."""
        self.trainer.fit(duration=duration)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        model = self.trainer.state.model.model
        return {name: value.clone() for name, value in model.state_dict().items()}


def config_of(shards: Path, *overrides: str) -> TrainConfig:
    """The config of a tiny run on some shards; ``overrides`` win."""
    yaml = REPOSITORY / "yamls" / "esm2_small.yaml"
    config = load_config(yaml, [*TINY, *QUIET, f"data.local={shards}", "run_name=small", *overrides])
    config.run_folder = str(shards.parent / "run")
    return config


@contextlib.contextmanager
def small_training(shards: Path, *overrides: str) -> Iterator[Training]:
    """Makes a Trainer, and closes it."""
    CALLBACKS["batch_watcher"] = BatchWatcher
    try:
        config = config_of(shards, "callbacks.batch_watcher={}", *overrides)
        parts = make_parts(config)
        folder = RunFolder(Path(config.run_folder))
        folder.path.mkdir(exist_ok=True)
        ledger = Ledger(None, math.inf, time.time())
        trainer = make_trainer(parts, find_places(config, config.data.local), folder, ledger)
    finally:
        del CALLBACKS["batch_watcher"]
    watcher = next(callback for callback in trainer.state.callbacks if isinstance(callback, BatchWatcher))
    try:
        yield Training(trainer, watcher)
    finally:
        trainer.close()


def resume_from_each_checkpoint(
    shards: Path, folder: Path, *overrides: str, batches: int = 6, interval: int = 3
) -> BatchWatcher:
    """Trains some batches, and from each checkpoint the rest of them again: to the same batches, losses and weights.

    Args:
        shards: The training set.
        folder: For the checkpoints.
        overrides: Of the run.
        batches: Number of batches.
        interval: Batches from one checkpoint to the next.

    Returns:
        What the unbroken training saw.
    """
    overrides = (*overrides, f"max_duration={batches}ba")
    with small_training(shards, *overrides, f"save_interval={interval}ba", f"save_folder={folder}",
                        "data.num_workers=2", "save_num_checkpoints_to_keep=-1") as training:  # fmt: skip
        training.fit()
        unbroken, weights = training.watcher, training.weights
    assert len(unbroken.batches) == batches
    for start in range(interval, batches, interval):
        (checkpoint,) = folder.glob(f"ep*-ba{start}-rank0.pt")
        with small_training(shards, *overrides, f"load_path={checkpoint}") as training:
            training.fit()
            resumed = training.watcher
            assert same_weights(training.weights, weights)
        assert same_batches(resumed.batches, unbroken.batches[start:])
        assert resumed.losses == unbroken.losses[start:]
        assert resumed.counts == unbroken.counts[start:]
    return unbroken


def same_batches(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    """Whether two lists of batches are equal, key by key."""
    return len(one) == len(other) and all(
        a.keys() == b.keys()
        and all(torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else np.array_equal(a[k], b[k]) for k in a)
        for a, b in zip(one, other, strict=True)
    )


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
