"""Frozen layers learn nothing more, the others do, and a resume changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from plm_composer.algorithms.layer_freezing import LayerFreezing
from plm_composer.errors import UserError
from plm_composer.run.parts import make_parts
from tests.algorithms.small_training import config_of, same_weights, small_training

FREEZING = "algorithms.layer_freezing={freeze_start: 0.3dur, freeze_level: 1.0}"
MODEL = ("model.num_hidden_layers=4", "save_interval=1ba", "save_num_checkpoints_to_keep=-1")


@pytest.mark.parametrize(
    "optimizer",
    ["{name: adamw, lr: 0.001, weight_decay: 0.1}", "{name: decoupled_adamw, lr: 0.001, weight_decay: 0.1}"],
)
def test_what_is_frozen_stays_and_a_resume_changes_nothing(small_set: Path, tmp_path: Path, optimizer: str) -> None:
    overrides = (FREEZING, *MODEL, f"optimizer={optimizer}")
    shards = small_set / "shards"
    with small_training(shards, *overrides, f"save_folder={tmp_path}") as training:
        training.fit()
        end, losses = training.weights, training.watcher.losses
    saved = {
        batch: torch.load(tmp_path / f"ep0-ba{batch}-rank0.pt", weights_only=False)["state"]["model"]
        for batch in range(1, 7)
    }

    def changed(before: int, module: str) -> bool:
        name = f"model.{module}.weight"
        return not torch.equal(saved[before][name], saved[before + 1][name])

    # Composer sets the learning rate a batch late, so that the warm-up keeps it at 0 for two.
    for before, frozen in ((2, 0), (3, 1), (4, 2), (5, 3)):
        assert changed(before, "embedding") == (frozen == 0)
        for block in range(4):
            assert changed(before, f"blocks.{block}.attention.qkv") == (block >= frozen), (before, block)
        assert changed(before, "lm_head.dense")
    with small_training(shards, *overrides, f"load_path={tmp_path / 'ep0-ba4-rank0.pt'}") as training:
        training.fit()
        assert training.watcher.losses == losses[4:]
        assert same_weights(training.weights, end)


def test_the_number_grows_to_the_level() -> None:
    algorithm = LayerFreezing("0.5dur", 0.5)
    assert [algorithm.frozen_blocks(elapsed, 12) for elapsed in (0, 0.5, 0.75, 1.0)] == [0, 0, 3, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"freeze_start": "1dur"}, "freeze_start is '1dur'"),
        ({"freeze_start": "5ba"}, "freeze_start is '5ba'"),
        ({"freeze_level": 0}, "freeze_level is 0"),
    ],
)
def test_impossible_values_are_one_line(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LayerFreezing(**arguments)


def test_sharded_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="layer_freezing is not supported under FSDP2"):
        make_parts(config_of(tmp_path, FREEZING, "fsdp_config={}"))
