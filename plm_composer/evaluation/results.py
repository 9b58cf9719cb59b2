"""Results of evaluations, kept in the run folder: ``evaluations/KIND-NAME.json``, from which reports read them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

from plm_composer.errors import UserError
from plm_composer.files.atomic import replacing

FOLDER = "evaluations"


@dataclasses.dataclass(frozen=True)
class Score:
    """One number of an evaluation.

    Args:
        value: The number.
        low: Lower end of its 95 % interval; None if none was computed.
        high: Upper end of its 95 % interval; None if none was computed.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """An evaluation of a model.

    Args:
        kind: What was evaluated, such as ``variants``, ``contacts`` or ``probe``.
        name: The data that it was evaluated on, such as the name of an assay.
        scores: Numbers by name, such as ``spearman``.
        settings: How it was evaluated, such as the method and the number of proteins.
    """

    kind: str
    name: str
    scores: Mapping[str, Score]
    settings: Mapping[str, str | int | float | bool | None] = dataclasses.field(default_factory=dict)


def write_result(run_folder: Path, result: Result) -> Path:
    """Writes a result into a run folder, in place of an earlier one of this kind and name.

    Args:
        run_folder: The run's folder.
        result: The result.

    Returns:
        The file.

    Raises:
        UserError: The file cannot be written.
    """
    name = re.sub(r"[^\w.-]+", "_", f"{result.kind}-{result.name}")
    path = run_folder / FOLDER / f"{name}.json"
    try:
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(json.dumps(dataclasses.asdict(result), indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def read_results(run_folder: Path) -> list[Result]:
    """Reads all results of a run folder, sorted by kind and name.

    Args:
        run_folder: The run's folder.

    Raises:
        UserError: A file cannot be read.
    """
    results = []
    for path in sorted((run_folder / FOLDER).glob("*.json")):
        try:
            content = json.loads(path.read_text())
            scores = {name: Score(**score) for name, score in content.pop("scores").items()}
            results.append(Result(scores=scores, **content))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a result of an evaluation; remove it, or evaluate again") from error
    return results
