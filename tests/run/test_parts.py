"""A config becomes parts once, and what was checked is what trains."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plm_composer.algorithms.ema import ExponentialMovingAverage
from plm_composer.data.collate import Collator
from plm_composer.errors import UserError
from plm_composer.hardware.sharding import ShardingConfig
from plm_composer.optim.linear_schedules import LinearWithWarmupAndHoldScheduler
from plm_composer.run.memory import predict_memory
from plm_composer.run.parts import Parts, make_parts
from tests.algorithms.small_training import config_of, small_training


def counting(counts: Counter[str], name: str, function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def counted(self: Any, *arguments: Any, **options: Any) -> None:
        counts[name] += 1
        function(self, *arguments, **options)

    return counted


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each kind of part has been made."""
    counts: Counter[str] = Counter()
    monkeypatch.setattr(Collator, "__post_init__", counting(counts, "collator", Collator.__post_init__))
    for kind in (ExponentialMovingAverage, LinearWithWarmupAndHoldScheduler, ShardingConfig):
        monkeypatch.setattr(kind, "__init__", counting(counts, kind.__name__, kind.__init__))
    return counts


SCHEDULE = "scheduler={name: linear_with_warmup_and_hold, t_warmup: 2ba}"


def test_a_training_makes_each_part_once(small_set: Path, counts: Counter[str]) -> None:
    with small_training(small_set / "shards", "algorithms.ema={}", SCHEDULE) as training:
        training.fit("2ba")
    del counts["ShardingConfig"]
    # Curricula keep a collator of their own until they are bound; there is none here.
    assert counts == {"collator": 1, "ExponentialMovingAverage": 1, "LinearWithWarmupAndHoldScheduler": 1}


def test_a_prediction_of_memory_makes_each_part_once(small_set: Path, counts: Counter[str]) -> None:
    config = config_of(small_set / "shards", "fsdp_config={}", SCHEDULE)
    assert predict_memory(make_parts(config)).memory.total > 0
    assert counts == {"collator": 1, "ShardingConfig": 1, "LinearWithWarmupAndHoldScheduler": 1}


def test_parts_cannot_be_changed(small_set: Path) -> None:
    parts = make_parts(config_of(small_set / "shards"))
    assert isinstance(parts, Parts)
    with pytest.raises(dataclasses.FrozenInstanceError):
        parts.device = "gpu"  # type: ignore[misc]


def test_what_an_evaluation_reads_is_missed_before_the_data(tmp_path: Path) -> None:
    config = config_of(tmp_path / "no_shards", f"callbacks.proteingym.folder={tmp_path / 'no_assays'}")
    with pytest.raises(UserError, match="no_assays: there is no such assay"):
        make_parts(config)
