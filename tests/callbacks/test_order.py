"""The order of callbacks does not depend on the order in which they are made."""

from __future__ import annotations

import random
from pathlib import Path

from composer import Callback
from composer.callbacks import CheckpointSaver, LRMonitor

from plm_composer.callbacks.batch_seed import BatchSeed
from plm_composer.callbacks.budget import Budget
from plm_composer.callbacks.efficiency_monitor import EfficiencyMonitor
from plm_composer.callbacks.ema import AveragedCheckpoints
from plm_composer.callbacks.loss_guard import LossGuard
from plm_composer.callbacks.order import in_order
from plm_composer.callbacks.preemption import Preemption
from plm_composer.callbacks.schedule_free import AveragedWeights
from plm_composer.checkpoints.run_record import RunRecord
from plm_composer.checkpoints.saver import WholeCheckpointSaver
from tests.algorithms.small_training import small_training

ORDER = (
    LossGuard, Budget, BatchSeed, AveragedWeights, Preemption, LRMonitor, EfficiencyMonitor, RunRecord,
    AveragedCheckpoints, WholeCheckpointSaver,
)  # fmt: skip


def test_any_order_becomes_the_same() -> None:
    # Without their constructors: the order is one of classes.
    callbacks: list[Callback] = [kind.__new__(kind) for kind in ORDER]
    shuffled = callbacks.copy()
    for seed in range(5):
        random.Random(seed).shuffle(shuffled)
        placed = [type(callback) for callback in in_order(shuffled)]
        named = [kind for kind in map(type, shuffled) if kind in (LRMonitor, EfficiencyMonitor)]
        assert placed == [*ORDER[:5], *named, *ORDER[7:]]


def test_a_run_has_them_in_this_order(small_set: Path, tmp_path: Path) -> None:
    overrides = (f"save_folder={tmp_path}", "callbacks.lr_monitor={}", "algorithms.ema={}")
    with small_training(small_set / "shards", *overrides) as training:
        kinds = [type(callback) for callback in training.trainer.state.callbacks]
    ours = [kind for kind in kinds if kind in ORDER]
    assert ours == [kind for kind in ORDER if kind not in (Budget, AveragedWeights, EfficiencyMonitor)]
    # Composer's own, of an object store, come last, where they are appended.
    assert issubclass(ours[-1], CheckpointSaver)
