"""Stochastic weight averaging: the mean of the last weights, exact across a resume, refused where it fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from plm_composer.algorithms.swa import StochasticWeightAveraging
from plm_composer.errors import UserError
from plm_composer.run.parts import make_parts
from tests.algorithms.small_training import config_of, same_weights, small_training

SWA = "algorithms.swa={update_interval: 1ba, swa_start: 0.5dur, swa_end: 1dur}"


def test_the_weights_become_the_mean_and_a_resume_changes_nothing(small_set: Path, tmp_path: Path) -> None:
    shards = small_set / "shards"
    with small_training(
        shards, SWA, f"save_folder={tmp_path}", "save_num_checkpoints_to_keep=-1", "save_interval=1ba"
    ) as training:
        training.fit()
        unbroken = training.weights
    expected = [
        torch.load(tmp_path / f"ep0-ba{batch}-rank0.pt", weights_only=False)["state"]["model"]["model.embedding.weight"]
        for batch in (3, 4, 5)
    ]
    # The sixth is what the average replaces.
    with small_training(shards, f"load_path={tmp_path / 'ep0-ba5-rank0.pt'}") as training:
        training.fit()
        expected.append(training.weights["embedding.weight"])
    torch.testing.assert_close(unbroken["embedding.weight"], torch.stack(expected).mean(0))
    with small_training(shards, SWA, f"load_path={tmp_path / 'ep0-ba4-rank0.pt'}") as training:
        training.fit()
        assert same_weights(training.weights, unbroken)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"update_interval": "1ep"}, "update_interval is '1ep'; write it like 100ba"),
        ({"update_interval": "1ba", "swa_start": "1ep"}, "swa_start is '1ep'"),
    ],
)
def test_impossible_values_are_one_line(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        StochasticWeightAveraging(**arguments)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("fsdp_config={}",), "swa: Composer's version fails under FSDP2"),
        (("algorithms.ema={}",), "swa replaces the weights"),
    ],
)
def test_it_is_refused_where_it_fails(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_parts(config_of(tmp_path, SWA, *overrides))


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("composer.utils.dist.get_world_size", lambda: 2)
    with pytest.raises(UserError, match="cannot be resumed on several processes"):
        make_parts(config_of(tmp_path, SWA))
