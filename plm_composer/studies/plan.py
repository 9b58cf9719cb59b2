"""Plans the runs of a study: makes and checks their configs, and compares them with those of stored results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plm_composer.config.merge import parse_config, read_resolved
from plm_composer.config.schema import TrainConfig
from plm_composer.errors import UserError
from plm_composer.run.automatic import provisional, with_choice_of
from plm_composer.run.load import load_config
from plm_composer.run.parts import make_parts
from plm_composer.run_folder import RunFolder
from plm_composer.studies.results import Failure, RunResult, read_failure, read_result
from plm_composer.studies.schema import Study

_SHAPES_NO_RUN = (
    "recipe", "run_name", "run_folder", "save_folder", "autoresume", "save_overwrite", "progress_bar",
    "log_to_console", "console_log_interval", "report",
)  # fmt: skip
"""Keys that do not affect training: paths, logging, the report, and ``recipe``, whose values are already merged."""


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One run of a study.

    Args:
        variant: Name of the variant.
        seed: Seed of the run.
        folder: The run folder.
        arguments: Command-line arguments of the training.
        config: The config that the arguments resolve to.
    """

    variant: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]
    config: TrainConfig

    @property
    def name(self) -> str:
        """Name for messages."""
        return f"{self.variant}, seed {self.seed}"

    @property
    def result(self) -> Path:
        """File that exists once the run is finished."""
        return self.folder / "result.json"

    @property
    def failure(self) -> Path:
        """File that exists if the run failed."""
        return self.folder / "failure.json"

    @property
    def log(self) -> Path:
        """Output of the run, over all starts."""
        return self.folder / "log.txt"

    @property
    def starts(self) -> Path:
        """Times at which the run was started and ended."""
        return self.folder / "starts.json"


def plan_runs(study: Study, chosen: Sequence[tuple[int, str]]) -> list[PlannedRun]:
    """Makes the configs of runs.

    Args:
        study: The study.
        chosen: Pairs of seed and variant, from ``Study.choose``.

    Raises:
        UserError: A key is unknown or a value has the wrong type; the message names the study file and the variant.
    """
    # Loaded one by one, so that an error names its place.
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
    """Checks everything that can be checked before a run starts.

    Raises:
        UserError: The first error, with study file, variant and key.
    """
    seen: dict[tuple[int, str], str] = {}
    losses: dict[str, str] = {}
    for run in runs:
        place = f"{study.path}: variants.{run.variant}"
        try:
            parts = make_parts(provisional(run.config))
            _check_data(run.config)
            _check_outcome(study, run)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        other = seen.setdefault((run.seed, config_digest(run.config)), run.variant)
        if other != run.variant:
            raise UserError(f"{place}: is the same run as {other}; its overrides change nothing")
        losses.setdefault(parts.model.loss_name, run.variant)
        if len(losses) > 1:
            (first, one), (second, other) = losses.items()
            raise UserError(
                f"{study.path}: variants.{one} has {first} and variants.{other} {second}, which cannot be compared; "
                "make a study of each"
            )


def changes(run: PlannedRun, result: RunResult, set_digest: str | None) -> str | None:
    """Compares the config and evaluation set of a stored result with the present ones.

    Args:
        run: The run as planned now.
        result: The stored result.
        set_digest: Digest of the study's present evaluation set; None without an evaluation.

    Returns:
        The first difference, in words; None if there is none.
    """
    if result.set_digest != set_digest:
        return "it was evaluated on another set"
    return _difference(result.config, run)


def refuse_changed(study: Study, run: PlannedRun, set_digest: str | None) -> None:
    """Refuses a finished or interrupted run whose config has changed since.

    Raises:
        UserError: The variant has changed; the message says how, and what to do.
    """
    started = RunFolder(run.folder).config
    if run.result.exists():
        change = changes(run, read_result(run.result), set_digest)
    elif RunFolder(run.folder).checkpoints.exists() and started.exists():
        before = read_resolved(started)
        # The started one has numbers for what this one leaves open.
        change = _difference(before, dataclasses.replace(run, config=with_choice_of(run.config, before)))
    else:
        return
    if change is not None:
        raise UserError(
            f"{study.path}: variants.{run.variant}: has changed since {run.folder} was made: {change}; start over with "
            f"--rerun {run.variant}, or give the changed one another name"
        )


def collect(study: Study) -> tuple[list[RunResult], list[Failure]]:
    """Reads the stored results and failures of a study, in the order of its variants and seeds.

    Raises:
        UserError: A file is not a valid result, or two results were evaluated on different sets.
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
                "evaluated on different sets, so their losses cannot be compared; run one of them again with --rerun"
            )
    return results, failures


def config_digest(config: TrainConfig) -> str:
    """Hashes the part of a config that affects training."""
    text = json.dumps(_shaping(dataclasses.asdict(config)), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _difference(before: Mapping[str, Any], run: PlannedRun) -> str | None:
    try:
        # Fills in keys that are newer than the stored config.
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
    """Catches a mistyped folder before the first run."""
    data = config.data
    if data.local and not (data.fasta or data.remote or data.streams):
        split = Path(data.local, data.train_split)
        if not split.is_dir():
            raise UserError(f"data.local: there is no folder {split}")


def _check_outcome(study: Study, run: PlannedRun) -> None:
    """Refuses runs that would leave nothing to compare after training."""
    config = run.config
    if study.evaluation is None and config.data.val_split is None:
        raise UserError("data.val_split is null, and the study has no evaluation; set one of them")
    if study.evaluation is not None and not config.export and config.save_folder is None:
        raise UserError("the evaluation needs the final model; leave out export=false or save_folder=null")
    if config.save_folder not in (None, str(RunFolder(run.folder).checkpoints)):
        raise UserError(f"save_folder is {config.save_folder}; all runs would share it: leave it out, or set null")
