"""What is evaluated, saved and exported is the average of the weights, computed here a second time."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from composer import Callback, Logger, State

from plm_composer.algorithms.ema import ExponentialMovingAverage
from plm_composer.callbacks import CALLBACKS
from plm_composer.callbacks.preemption import EXIT_CODE
from plm_composer.errors import UserError
from plm_composer.evaluation.evaluate import evaluate, read_proteins
from plm_composer.inference.load import load_trained
from plm_composer.run.train import train
from tests.algorithms.small_training import config_of, same_weights, small_training

SMOOTHING = 0.6
EMA = f"algorithms.ema={{smoothing: {SMOOTHING}}}"
Weights = dict[str, torch.Tensor]


class Averager(Callback):
    """Averages the trained weights by itself, and may send SIGTERM to its own process."""

    def __init__(self, signal_at: int = -1) -> None:
        self.signal_at = signal_at
        self.averages: dict[int, Weights] = {}
        INSTANCES.append(self)

    def batch_end(self, state: State, logger: Logger) -> None:
        batch = int(state.timestamp.batch)
        weights = {name: value.clone() for name, value in state.model.model.state_dict().items()}
        last = self.averages.get(batch - 1, weights)
        self.averages[batch] = {
            name: SMOOTHING * last[name] + (1 - SMOOTHING) * value for name, value in weights.items()
        }
        if batch == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)


INSTANCES: list[Averager] = []


def run(small_set: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> tuple[int, Averager]:
    monkeypatch.setitem(CALLBACKS, "averager", Averager)
    config = config_of(
        small_set / "shards", EMA, "data.val_split=val", "export=true",
        "eval_subset_num_batches=-1", f"save_folder={folder}/checkpoints", "callbacks.averager={}", *overrides,
    )  # fmt: skip
    config.run_folder = str(folder)
    before = signal.getsignal(signal.SIGTERM)
    try:
        code = train(config).exit_code
    finally:
        signal.signal(signal.SIGTERM, before)
    return code, INSTANCES.pop()


def close(one: Weights, other: Weights) -> bool:
    return all(torch.allclose(one[name], other[name], atol=1e-6) for name in other)


def differ(one: Weights, other: Weights) -> bool:
    return not torch.allclose(one["lm_head.dense.weight"], other["lm_head.dense.weight"], atol=1e-5)


# The last evaluation comes after the last checkpoint, or at its end of training; an epoch may end there too.
@pytest.mark.parametrize(("duration", "save_interval"), [("6ba", "4ba"), ("1ep", "10ba")])
def test_evaluation_checkpoint_and_export_are_the_average(
    small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, duration: str, save_interval: str
) -> None:
    code, averager = run(
        small_set, tmp_path, monkeypatch, f"max_duration={duration}", f"save_interval={save_interval}",
        "save_num_checkpoints_to_keep=-1",
    )  # fmt: skip
    assert code == 0
    average = averager.averages[max(averager.averages)]
    exported = load_trained(tmp_path / "export").model
    saved = load_trained(tmp_path).model
    assert close(exported.state_dict(), average)
    assert same_weights(exported.state_dict(), saved.state_dict())
    number = int(save_interval.removesuffix("ba"))
    earlier = load_trained(tmp_path / "checkpoints" / f"ep0-ba{number}-rank0.pt")
    assert close(earlier.model.state_dict(), averager.averages[number])
    assert differ(earlier.model.state_dict(), average)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [line["metrics/eval/masked_nll"] for line in lines if "metrics/eval/masked_nll" in line]
    assert logged[-1] == pytest.approx(evaluate(saved, read_proteins(str(small_set / "shards"))).loss, abs=1e-5)


def test_a_checkpoint_that_a_signal_asks_for_is_the_average(
    small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, averager = run(
        small_set,
        tmp_path,
        monkeypatch,
        "callbacks.averager={signal_at: 3}",
        "save_interval=100ba",
        "preemption_grace=1e6",
    )
    assert code == EXIT_CODE
    assert close(load_trained(tmp_path).model.state_dict(), averager.averages[3])


def test_a_resume_is_the_unbroken_run(small_set: Path, tmp_path: Path) -> None:
    ema = "algorithms.ema={half_life: 3ba, ema_start: 0.5dur}"
    shards = small_set / "shards"

    def end(training: Any) -> tuple[Weights, list[Weights]]:
        (algorithm,) = (a for a in training.trainer.state.algorithms if isinstance(a, ExponentialMovingAverage))
        trained = training.weights
        averages = {name.removeprefix("model."): value for name, value in algorithm.ema_model.named_parameters()}
        return trained, averages

    with small_training(shards, ema, f"save_folder={tmp_path}", "save_num_checkpoints_to_keep=-1") as training:
        training.fit()
        unbroken, losses = end(training), training.watcher.losses
    # As two processes would have saved it: DDP prefixes names.
    path = tmp_path / "ep0-ba4-rank0.pt"
    content = torch.load(path, weights_only=False)
    (ema_state,) = (state for name, state in content["state"]["algorithms"] if "Average" in name)
    for kind, named in ema_state["ema_model"].items():
        ema_state["ema_model"][kind] = {f"module.{name}": value for name, value in named.items()}
    torch.save(content, path)
    for batch in (2, 4):
        other = tmp_path / f"from{batch}"
        with small_training(
            shards, ema, f"load_path={tmp_path / f'ep0-ba{batch}-rank0.pt'}", f"save_folder={other}"
        ) as training:
            training.fit()
            assert training.watcher.losses == losses[batch:]
            assert all(same_weights(*pair) for pair in zip(end(training), unbroken, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"half_life": "1ep"}, "half_life is '1ep'; give batches"),
        ({"update_interval": "0ba"}, "update_interval is '0ba'"),
        ({"half_life": "10ba", "smoothing": 0.9}, "exclude each other"),
        ({"smoothing": 1.0}, "smoothing is 1.0"),
    ],
)
def test_impossible_values_are_one_line(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ExponentialMovingAverage(**arguments)
