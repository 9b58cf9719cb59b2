"""Objectives, weights of the loss and residuals on two processes: the losses are those of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import REPOSITORY, TINY, run_here, run_in

CHANGES = {
    "mixed, weighted, spans, residuals; DDP": (
        "objective=mixed",
        "loss_weighting=sqrt",
        "data.mask_span_length=2",
        "model.value_residual=true",
        "model.embedding_residual=true",
    ),
    "diffusion, residuals, recomputing; FSDP2": (
        "objective=diffusion",
        "data={mask_rate: 1.0, mask_token_fraction: 1.0, random_token_fraction: 0.0}",
        "model.value_residual=true",
        "model.embedding_residual=true",
        "device_train_microbatch_tokens=150",
        "activation_checkpointing=true",
        "recipe=fsdp",
    ),
}


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss/train/total"] for line in lines if "loss/train/total" in line]


@pytest.mark.parametrize(
    "name", [name if "DDP" in name else pytest.param(name, marks=pytest.mark.slow) for name in CHANGES]
)
def test_two_processes_have_the_losses_of_one(small_set: Path, tmp_path: Path, name: str) -> None:
    data = f"data.local={small_set / 'shards'}"
    fixed = (REPOSITORY / "yamls" / "esm2_small.yaml", *TINY, data, "data.val_split=null", "export=false",
             "report=false", "save_folder=null", *CHANGES[name])  # fmt: skip
    one = run_here(tmp_path, "train.py", *fixed, "run_name=one")
    assert one.returncode == 0, one.stderr
    two = run_in(tmp_path, "composer", "-n", "2", REPOSITORY / "train.py", *fixed, "run_name=two")
    assert two.returncode == 0, two.stdout + two.stderr
    expected = losses(tmp_path / "runs" / "one")
    assert len(expected) == 6
    assert losses(tmp_path / "runs" / "two") == pytest.approx(expected, abs=3e-5)
