"""Algorithms that would do nothing, or lose something, in a run like this one are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from composer.algorithms.low_precision_layernorm.low_precision_layernorm import LPLayerNorm

from plm_composer.algorithms import ALGORITHMS, COMBINATION_CHECKS
from plm_composer.errors import UserError
from plm_composer.run.parts import make_parts
from tests.algorithms.small_training import config_of, small_training


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("algorithms.low_precision_layernorm={}", "device=cpu"), "low_precision_layernorm does nothing on a CPU"),
        (("algorithms.sam={}", "autoresume=true", "save_folder=x"), "sam: Composer's version saves no optimizer state"),
        (("algorithms.sam={}", "load_path=x.pt"), "sam: Composer's version saves no optimizer state"),
        (("algorithms.ema={}", "fsdp_config={}"), "holds only the first process's part of the average"),
        (("algorithms.sam={}", "fsdp_config={}"), "sam is not supported under FSDP2"),
        (("algorithms.mask_rate_schedule={initial_rate: 0.5, final_rate: 0.1}",), "initial_rate is 0.5"),
        (("algorithms.sequence_length_warmup={start_length: 64}",), "must be below data.crop_length, 64"),
        (("algorithms.batch_size_warmup={initial_share: 3}",), "initial_share is 3"),
        (("algorithms.mask_rate_schedule={initial_rate: much, final_rate: 0.1}",), "algorithms.mask_rate_schedule"),
    ],
)
def test_they_are_one_line(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make_parts(config_of(tmp_path, *overrides))
    assert "\n" not in str(error.value)


# Composer's own shortcomings, from which the refusals follow; where a release mends one, its refusal can go.


def test_sam_still_loses_the_optimizers_state(small_set: Path, tmp_path: Path) -> None:
    with small_training(small_set / "shards", "algorithms.sam={}", f"save_folder={tmp_path}") as training:
        training.fit()
    state = torch.load(tmp_path / "latest-rank0.pt", weights_only=False)["state"]["optimizers"]
    assert not any("exp_avg" in values for optimizer in state.values() for values in optimizer["state"].values())


def test_low_precision_layernorm_still_looks_at_the_trainers_precision(
    small_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(COMBINATION_CHECKS, "low_precision_layernorm")
    overrides = ("algorithms.low_precision_layernorm={}", "precision=amp_bf16")
    with small_training(small_set / "shards", *overrides) as training:
        assert not any(isinstance(module, LPLayerNorm) for module in training.trainer.state.model.modules())


def test_every_algorithm_has_its_card(repository: Path) -> None:
    cards = (repository / "docs" / "algorithms.md").read_text().split("\n## ")[1:]
    found = {card.split("\n", 1)[0]: card for card in cards}
    for name in ALGORITHMS:
        for part in ("Does", "Helps", "Costs", "Effect", "Source"):
            assert f"- **{part}**: " in found[name], (name, part)
