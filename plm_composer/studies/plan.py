"""The runs of a study: their configs, checked before the first starts, and whether stored results are theirs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plm_composer.config.merge import load_config, parse_config, read_resolved
from plm_composer.config.schema import TrainConfig
from plm_composer.errors import UserError
from plm_composer.run.checks import check_config
from plm_composer.run_folder import RunFolder
from plm_composer.studies.results import Failure, RunResult, read_failure, read_result
from plm_composer.studies.schema import Study

_SHAPES_NO_RUN = (
    "recipe", "run_name", "run_folder", "save_folder", "autoresume", "save_overwrite", "progress_bar",
    "log_to_console", "console_log_interval",
)  # fmt: skip
"""Keys that say where a run lies and what it prints; ``recipe`` names what the other keys hold."""


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a study.

    Args:
        variant: Which.
        seed: Of the run.
        folder: The run's.
        arguments: Of ``train.py``.
        config: What they come to.
    """

    variant: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]
    config: TrainConfig

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.variant}, seed {self.seed}"

    @property
    def result(self) -> Path:
        """There when the run is done."""
        return self.folder / "result.json"

    @property
    def failure(self) -> Path:
        """There where the run failed."""
        return self.folder / "failure.json"

    @property
    def log(self) -> Path:
        """What the run printed, all starts together."""
        return self.folder / "log.txt"

    @property
    def starts(self) -> Path:
        """When the run was started and ended."""
        return self.folder / "starts.json"


def plan_runs(study: Study, chosen: Sequence[tuple[int, str]]) -> list[PlannedRun]:
    """Makes the configs of runs.

    Args:
        study: The study.
        chosen: Seeds and variants, from ``Study.choose``.

    Raises:
        UserError: A key is unknown or a value has the wrong type; names the study file and the variant.
    """
    # One by one, so that a message names the place.
    _load(study, "yaml", ())
    _load(study, "common", study.common)
    runs = []
    for seed, variant in chosen:
        folder = study.runs / f"{variant}-seed{seed}"
        overrides = (
            "progress_bar=false", *study.common, *study.variants[variant], f"run_name={folder.name}",
            f"run_folder={folder}", f"seed={seed}",
        )  # fmt: skip
        config = _load(study, f"variants.{variant}", overrides)
        runs.append(PlannedRun(variant, seed, folder, (str(study.yaml), *overrides), config))
    return runs


def check_runs(study: Study, runs: Iterable[PlannedRun]) -> None:
    """Checks all that can be checked before a run starts.

    Raises:
        UserError: The first thing that is wrong, with study file, variant and key.
    """
    seen: dict[tuple[int, str], str] = {}
    for run in runs:
        place = f"{study.path}: variants.{run.variant}"
        try:
            check_config(run.config)
            _check_data(run.config)
            _check_outcome(study, run)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        other = seen.setdefault((run.seed, config_digest(run.config)), run.variant)
        if other != run.variant:
            raise UserError(f"{place}: is the same run as {other}; nothing that its overrides say differs")


def changes(run: PlannedRun, result: RunResult, set_digest: str | None) -> str | None:
    """Says how a stored result differs from what the run would give now.

    Args:
        run: As it is planned now.
        result: The stored one.
        set_digest: Of the set that the study evaluates on now.

    Returns:
        The first difference, in words; None where there is none.
    """
    if result.set_digest != set_digest:
        return "it was evaluated on another set"
    return _difference(result.config, run)


def refuse_changed(study: Study, run: PlannedRun, set_digest: str | None) -> None:
    """Refuses to take a finished or half run for one of the study whose config has changed since.

    Raises:
        UserError: The variant has changed; says how, and what to do.
    """
    started = RunFolder(run.folder).config
    if run.result.exists():
        change = changes(run, read_result(run.result), set_digest)
    elif RunFolder(run.folder).checkpoints.exists() and started.exists():
        change = _difference(read_resolved(started), run)
    else:
        return
    if change is not None:
        raise UserError(
            f"{study.path}: variants.{run.variant}: has changed since {run.folder} was made: {change}; start over with "
            f"--rerun {run.variant}, or give the changed one another name"
        )


def collect(study: Study) -> tuple[list[RunResult], list[Failure]]:
    """Reads what is there of all variants and seeds of the study, in their order.

    Raises:
        UserError: A file is no result, or two results were evaluated on different sets.
    """
    results, failures = [], []
    for variant in study.variants:
        for seed in study.seeds:
            folder = study.runs / f"{variant}-seed{seed}"
            if (folder / "result.json").exists():
                results.append(read_result(folder / "result.json"))
            elif (folder / "failure.json").exists():
                failures.append(read_failure(folder / "failure.json"))
    for result in results:
        first = results[0]
        if result.set_digest != first.set_digest:
            raise UserError(
                f"{study.path}: {first.variant} (seed {first.seed}) and {result.variant} (seed {result.seed}) were "
                "evaluated on different sets, and their losses do not compare; make one of them again with --rerun"
            )
    return results, failures


def config_digest(config: TrainConfig) -> str:
    """Digest of all that shapes a run."""
    text = json.dumps(_shaping(dataclasses.asdict(config)), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _difference(before: Mapping[str, Any], run: PlannedRun) -> str | None:
    try:
        # Which fills in what keys are new since.
        stored = parse_config(before, str(run.folder))
    except UserError as error:
        return str(error)
    return _first_difference(_shaping(dataclasses.asdict(stored)), _shaping(dataclasses.asdict(run.config)))


def _shaping(config: Mapping[str, Any]) -> dict[str, Any]:
    shaping = {key: value for key, value in config.items() if key not in _SHAPES_NO_RUN}
    return {**shaping, "saves": config["save_folder"] is not None}


def _first_difference(before: Any, now: Any, key: str = "") -> str | None:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in {**before, **now}:
            inside = f"{key}.{name}" if key else str(name)
            if found := _first_difference(before.get(name), now.get(name), inside):
                return found
        return None
    return None if before == now else f"{key} was {before!r} and is {now!r}"


def _load(study: Study, place: str, overrides: Sequence[str]) -> TrainConfig:
    try:
        return load_config(study.yaml, overrides)
    except UserError as error:
        message = str(error).removeprefix("command line: ")
        raise UserError(f"{study.path}: {place}: {message}") from error


def _check_data(config: TrainConfig) -> None:
    """A folder that a typo names would else be found out by every run for itself."""
    data = config.data
    if data.local and not (data.fasta or data.remote or data.streams):
        split = Path(data.local, data.train_split)
        if not split.is_dir():
            raise UserError(f"data.local: there is no folder {split}")


def _check_outcome(study: Study, run: PlannedRun) -> None:
    """Refuses runs that would train, and then leave nothing to compare."""
    config = run.config
    if study.evaluation is None and config.data.val_split is None:
        raise UserError("data.val_split is null, and the study has no evaluation; name one of them")
    if study.evaluation is not None and not config.export and config.save_folder is None:
        raise UserError("the evaluation needs the final model; leave out export=false or save_folder=null")
    if config.save_folder not in (None, str(RunFolder(run.folder).checkpoints)):
        raise UserError(f"save_folder is {config.save_folder}; all runs would share it: leave it out, or say null")
