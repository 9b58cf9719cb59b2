"""What a run of a study came to: one JSON file a run, made of the run's ``metrics.jsonl``."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plm_composer.errors import UserError
from plm_composer.files.atomic import replacing

_LOSS = "metrics/eval/masked_nll"
_ACCURACY = "metrics/eval/accuracy"


@dataclasses.dataclass(frozen=True)
class Point:
    """One validation of a run.

    Args:
        seconds: Of training up to there; validations are not counted.
        tokens: Trained up to there.
        loss: Validation loss, in nats.
    """

    seconds: float
    tokens: int
    loss: float


@dataclasses.dataclass(frozen=True)
class Training:
    """What ``metrics.jsonl`` says of a run.

    Args:
        batches: Trained.
        tokens: Trained.
        seconds: Of training, those of earlier starts included, validations not.
        accuracy: Of the last validation; None without one.
        curve: The validations in order.
    """

    batches: int
    tokens: int
    seconds: float
    accuracy: float | None
    curve: tuple[Point, ...]


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Args:
        variant: Which.
        seed: Of the run.
        loss: Validation loss of the final model, in nats.
        perplexity: ``exp(loss)``.
        accuracy: Share of right predictions.
        scored_tokens: How many were scored; None where the run's own validation counts, which does not tell.
        set_digest: Says on which set the study's evaluation was; None where the run's own validation counts.
        tokens: Trained.
        batches: Trained.
        seconds: From the start of the run's process to its end, all starts together.
        training_seconds: Of training alone.
        tokens_per_second: ``tokens`` by ``training_seconds``.
        starts: How often the run was started: more than once where it was interrupted.
        machine: Where.
        curve: The run's own validations.
        config: The resolved config.
        config_digest: Of what in it shapes the run.
    """

    variant: str
    seed: int
    loss: float
    perplexity: float
    accuracy: float
    scored_tokens: int | None
    set_digest: str | None
    tokens: int
    batches: int
    seconds: float
    training_seconds: float
    tokens_per_second: float
    starts: int
    machine: str
    curve: tuple[Point, ...]
    config: dict[str, Any]
    config_digest: str


@dataclasses.dataclass(frozen=True)
class Failure:
    """A run that failed.

    Args:
        variant: Which.
        seed: Of the run.
        reason: In one line.
        log: What the run printed.
    """

    variant: str
    seed: int
    reason: str
    log: str


def read_metrics(path: Path) -> Training:
    """Reads the ``metrics.jsonl`` of a run.

    Raises:
        UserError: There is none, or it has no batch.
    """
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; the run wrote no metrics") from error
    except ValueError as error:
        raise UserError(f"{path}: a line is not JSON") from error
    if not lines:
        raise UserError(f"{path}: is empty; the run trained no batch")
    # By batch: a run that is started again when all is trained validates once more.
    validations = {line["batch"]: line for line in lines if line.get(_LOSS) is not None}
    curve = tuple(Point(line["seconds"], line["tokens"], line[_LOSS]) for line in validations.values())
    accuracy = list(validations.values())[-1].get(_ACCURACY) if validations else None
    last = lines[-1]
    return Training(last["batch"], last["tokens"], last["seconds"], accuracy, curve)


def write_result(path: Path, result: RunResult | Failure) -> None:
    """Writes the file whole."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(dataclasses.asdict(result), indent=1) + "\n")


def read_result(path: Path) -> RunResult:
    """Reads what ``write_result`` wrote.

    Raises:
        UserError: It is not that.
    """
    content = _read(path)
    try:
        curve = tuple(Point(**point) for point in content.pop("curve"))
        return RunResult(**content, curve=curve)
    except (KeyError, TypeError) as error:
        raise _not_a_result(path) from error


def read_failure(path: Path) -> Failure:
    """Reads what ``write_result`` wrote of a failed run.

    Raises:
        UserError: It is not that.
    """
    try:
        return Failure(**_read(path))
    except TypeError as error:
        raise _not_a_result(path) from error


def make_result(training: Training, scores: Mapping[str, Any] | None, **known: Any) -> RunResult:
    """Puts a result together.

    Args:
        training: What the run's metrics say.
        scores: The study's evaluation of the final model (``plm_composer.evaluation``'s), or None where the run's own
            last validation counts.
        **known: The other fields of ``RunResult``.

    Raises:
        UserError: Nothing tells the loss.
    """
    if scores is None:
        if not training.curve or training.accuracy is None:
            raise UserError("the run was never validated, or its loss was none")
        scores = {"loss": training.curve[-1].loss, "accuracy": training.accuracy}
    return RunResult(
        loss=scores["loss"],
        perplexity=math.exp(scores["loss"]),
        accuracy=scores["accuracy"],
        scored_tokens=scores.get("scored_tokens"),
        set_digest=scores.get("set_digest"),
        tokens=training.tokens,
        batches=training.batches,
        training_seconds=training.seconds,
        tokens_per_second=training.tokens / training.seconds if training.seconds else 0.0,
        curve=training.curve,
        **known,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise _not_a_result(path) from error
    if not isinstance(content, dict):
        raise _not_a_result(path)
    return content


def _not_a_result(path: Path) -> UserError:
    return UserError(f"{path}: not a result of this version of plm ablate; delete it, and the run is made again")
