"""Results of a study's runs: one JSON file per run, made from the run's ``metrics.jsonl``."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plm_composer.errors import UserError
from plm_composer.files.atomic import replacing
from plm_composer.model.config import CAUSAL_LOSS, MASKED_LOSS

_LOSSES = (f"metrics/eval/{MASKED_LOSS}", f"metrics/eval/{CAUSAL_LOSS}")
_ACCURACY = "metrics/eval/accuracy"


@dataclasses.dataclass(frozen=True)
class Point:
    """One validation of a run.

    Args:
        seconds: Training time so far, without validations.
        tokens: Number of tokens trained so far.
        loss: Validation loss, in nats.
    """

    seconds: float
    tokens: int
    loss: float


@dataclasses.dataclass(frozen=True)
class Training:
    """Contents of a run's ``metrics.jsonl``.

    Args:
        batches: Number of batches trained.
        tokens: Number of tokens trained.
        seconds: Training time over all starts, without validations.
        accuracy: Accuracy of the last validation, 0 to 1; None without a validation.
        curve: The validations in order.
    """

    batches: int
    tokens: int
    seconds: float
    accuracy: float | None
    curve: tuple[Point, ...]


@dataclasses.dataclass(frozen=True)
class RunResult:
    """Result of a finished run.

    Args:
        variant: Name of the variant.
        seed: Seed of the run.
        loss: Loss of the final model, in nats.
        perplexity: ``exp(loss)``.
        accuracy: Share of correct predictions, 0 to 1.
        scored_tokens: Number of scored tokens; None if the loss is of the run's own validation, which does not log it.
        set_digest: Digest of the study's evaluation set; None if the loss is of the run's own validation.
        tokens: Number of tokens trained.
        batches: Number of batches trained.
        seconds: Time from start to exit of the run's process, summed over all starts.
        training_seconds: Time of training alone.
        tokens_per_second: ``tokens`` divided by ``training_seconds``.
        starts: Number of starts; above 1 if the run was interrupted.
        machine: Description of the machine.
        curve: The run's own validations, in order.
        config: The resolved config.
        config_digest: Digest of the part of the config that affects training.
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
        variant: Name of the variant.
        seed: Seed of the run.
        reason: The error, in one line.
        log: Path of the run's log.
    """

    variant: str
    seed: int
    reason: str
    log: str


def read_metrics(path: Path) -> Training:
    """Reads the ``metrics.jsonl`` of a run.

    Raises:
        UserError: The file is missing, is not JSON, or holds no batch.
    """
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; the run wrote no metrics") from error
    except ValueError as error:
        raise UserError(f"{path}: a line is not JSON") from error
    if not lines:
        raise UserError(f"{path}: the file is empty; the run trained no batch")
    # By batch, since a run that is started again after its last batch repeats its validation.
    validations = {line["batch"]: (line, loss) for line in lines if (loss := _loss_of(line)) is not None}
    curve = tuple(Point(line["seconds"], line["tokens"], loss) for line, loss in validations.values())
    accuracy = list(validations.values())[-1][0].get(_ACCURACY) if validations else None
    last = lines[-1]
    return Training(last["batch"], last["tokens"], last["seconds"], accuracy, curve)


def write_result(path: Path, result: RunResult | Failure) -> None:
    """Writes a result or failure atomically."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(dataclasses.asdict(result), indent=1) + "\n")


def read_result(path: Path) -> RunResult:
    """Reads a result that ``write_result`` wrote.

    Raises:
        UserError: The file is not such a result.
    """
    content = _read(path)
    try:
        curve = tuple(Point(**point) for point in content.pop("curve"))
        return RunResult(**content, curve=curve)
    except (KeyError, TypeError) as error:
        raise _not_a_result(path) from error


def read_failure(path: Path) -> Failure:
    """Reads a failure that ``write_result`` wrote.

    Raises:
        UserError: The file is not such a failure.
    """
    try:
        return Failure(**_read(path))
    except TypeError as error:
        raise _not_a_result(path) from error


def make_result(training: Training, scores: Mapping[str, Any] | None, **known: Any) -> RunResult:
    """Makes a result from a run's metrics and scores.

    Args:
        training: The run's metrics.
        scores: Fields of ``plm_composer.evaluation.evaluate.Evaluation`` for the final model; None to take the run's
            own last validation.
        **known: The other fields of ``RunResult``.

    Raises:
        UserError: There is neither an evaluation nor a validation.
    """
    if scores is None:
        if not training.curve or training.accuracy is None:
            raise UserError("the run logged no validation loss")
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
    return UserError(f"{path}: not a result of this version of plm ablate; delete it to run this seed again")


def _loss_of(line: Mapping[str, Any]) -> float | None:
    return next((line[name] for name in _LOSSES if line.get(name) is not None), None)
