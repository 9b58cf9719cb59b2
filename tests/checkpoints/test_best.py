"""The best checkpoint stays when later ones are worse, over resumes too."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from plm_composer.checkpoints.best import BestCheckpointSaver, check_keep_best
from plm_composer.errors import UserError
from plm_composer.inference.load import load_trained
from tests.commands import REPOSITORY, TINY, run_here

WORSENING = ("optimizer.lr=0.4", "max_duration=8ba", "eval_interval=2ba", "algorithms.gradient_clipping=null")


def train(scratch: Path, shards: Path, *overrides: str) -> None:
    result = run_here(
        scratch, "train.py", REPOSITORY / "yamls" / "esm2_small.yaml", *TINY, f"data.local={shards}",
        "keep_best=metrics/eval/masked_nll", *overrides,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def validations(folder: Path) -> dict[int, float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {line["batch"]: line["metrics/eval/masked_nll"] for line in lines if "metrics/eval/masked_nll" in line}


def best_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "best").iterdir())


def test_the_best_is_kept(tmp_path: Path, small_set: Path) -> None:
    train(tmp_path, small_set / "shards", "run_name=worsening", *WORSENING)
    folder = tmp_path / "runs" / "worsening"
    losses = validations(folder)
    best = min(losses, key=losses.__getitem__)
    assert best < 8, losses
    assert best_of(folder) == [f"ep0-ba{best}-rank0.pt", "latest-rank0.pt"]
    assert load_trained(folder / "best").source == folder / "best" / f"ep0-ba{best}-rank0.pt"


def test_the_last_may_be_the_best_and_a_resume_knows_it(tmp_path: Path, small_set: Path) -> None:
    shards = small_set / "shards"
    train(tmp_path, shards, "run_name=resumed", "max_duration=5ba", "eval_interval=2ba", "autoresume=true")
    folder = tmp_path / "runs" / "resumed"
    assert best_of(folder) == ["ep0-ba5-rank0.pt", "latest-rank0.pt"]
    train(tmp_path, shards, "run_name=resumed", "max_duration=8ba", "eval_interval=2ba", "autoresume=true")
    losses = validations(folder)
    best = min(losses, key=losses.__getitem__)
    assert best_of(folder) == [f"ep0-ba{best}-rank0.pt", "latest-rank0.pt"]


def test_the_best_score_is_part_of_a_checkpoint(tmp_path: Path) -> None:
    saver, resumed = (BestCheckpointSaver(str(tmp_path), "metrics/eval/accuracy", False) for _ in range(2))

    def due(to: BestCheckpointSaver, accuracy: float) -> bool:
        to.eval_end(SimpleNamespace(eval_metric_values={"accuracy": torch.tensor(accuracy)}), None)
        return to.save_interval(None, None)

    assert due(saver, 0.5)
    resumed.load_state_dict(saver.state_dict())
    assert not due(resumed, 0.4)
    assert due(resumed, 0.6)
    # Another score than before has no best yet.
    other = BestCheckpointSaver(str(tmp_path), "metrics/eval/masked_nll", False)
    other.load_state_dict({**saver.state_dict(), "best": 0.5})
    assert math.isnan(other.best)


def test_a_replaced_run_leaves_no_best(tmp_path: Path, small_set: Path) -> None:
    train(tmp_path, small_set / "shards", "run_name=replaced", "max_duration=4ba", "eval_interval=2ba")
    train(tmp_path, small_set / "shards", "run_name=replaced", "max_duration=2ba", "eval_interval=2ba",
          "save_overwrite=true")  # fmt: skip
    assert best_of(tmp_path / "runs" / "replaced") == ["ep0-ba2-rank0.pt", "latest-rank0.pt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("masked_nll", "masked_nll", True), "keep_best is 'masked_nll'; choose from metrics/eval/masked_nll"),
        (("metrics/eval/masked_nll", "residue_nll", True), "choose from metrics/eval/residue_nll"),
        (("metrics/eval/accuracy", "masked_nll", False), "keep_best needs a validation set"),
    ],
)
def test_what_cannot_be_kept(arguments: tuple[str, str, bool], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_keep_best(*arguments)
