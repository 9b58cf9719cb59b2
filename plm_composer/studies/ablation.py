"""Runs a study from its file to its table and plot; the one module that joins the parts of this package."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from plm_composer.errors import UserError
from plm_composer.evaluation.evaluate import evaluate, read_proteins
from plm_composer.evaluation.pinned import set_digest
from plm_composer.files.atomic import replacing
from plm_composer.hardware.machine import describe_machine, prepare_cpu
from plm_composer.inference.load import load_trained
from plm_composer.run.conversion import prepare_shards
from plm_composer.run_folder import RunFolder
from plm_composer.studies.comparison import VariantSummary, summarise
from plm_composer.studies.launching import ProcessLauncher, ending_on_signals, only_study
from plm_composer.studies.plan import PlannedRun, changes, check_runs, collect, plan_runs, refuse_changed
from plm_composer.studies.plot import draw
from plm_composer.studies.results import Failure, RunResult
from plm_composer.studies.runner import Launcher, Say, forget, load_warning, run_all
from plm_composer.studies.schema import Study, load_study
from plm_composer.studies.table import render


@dataclasses.dataclass(frozen=True)
class Report:
    """The results of a study.

    Args:
        study: The study.
        summaries: One per variant.
        results: The finished runs.
        failures: The failed runs.
        text: The results page, in Markdown.
        files: The written files.
    """

    study: Study
    summaries: list[VariantSummary]
    results: list[RunResult]
    failures: list[Failure]
    text: str
    files: list[Path]

    def to_mapping(self) -> dict[str, Any]:
        """Makes a mapping for JSON; leaves out the configs of the runs."""
        runs = [dataclasses.asdict(dataclasses.replace(result, config={})) for result in self.results]
        for run in runs:
            del run["config"]
        return {
            "study": str(self.study.path),
            "reference": self.study.reference,
            "variants": [summary.to_mapping() for summary in self.summaries],
            "runs": runs,
            "failures": [dataclasses.asdict(failure) for failure in self.failures],
            "files": [str(path) for path in self.files],
        }


def run_study(
    path: Path,
    say: Say,
    *,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
    rerun: Sequence[str] = (),
    target: float | None = None,
    launch: Launcher | None = None,
) -> Report:
    """Runs the unfinished runs of a study and summarises it.

    Args:
        path: The study file.
        say: Prints progress for the user.
        only: Variants to run; empty for all.
        seeds: Seeds to run; empty for all.
        rerun: Variants whose existing runs are deleted and run again.
        target: Adds the time to this loss, in nats.
        launch: Trains a run; default: in a process of its own.

    Raises:
        UserError: The study is invalid, a variant has changed since its results were made, or another study is
            running in the folder.
    """
    study = load_study(path)
    study.check_variants(rerun, "--rerun")
    chosen = study.choose(only, seeds)
    if idle := set(rerun) - {variant for _, variant in chosen}:
        raise UserError(f"--rerun: {sorted(idle)[0]} is not among the variants of --only")
    runs = plan_runs(study, chosen)
    check_runs(study, runs)
    proteins = _read_evaluation(study)
    digest = None if proteins is None else set_digest(proteins)
    with only_study(study.out) as lock:
        for run in runs:
            if run.variant not in rerun:
                refuse_changed(study, run, digest)
        for run in runs:
            if run.variant in rerun:
                forget(run)
        todo = [run for run in runs if not run.result.exists()]
        _prepare_data(todo, say)
        if todo and (warning := load_warning()):
            say(warning)
        score = None if proteins is None else functools.partial(_score, proteins=proteins)
        with ending_on_signals():
            run_all(runs, launch or ProcessLauncher(lock), score, say, describe_machine())
    return _report(study, say, target)


def summarise_study(path: Path, say: Say, target: float | None = None) -> Report:
    """Summarises the finished runs of a study, without running anything.

    Args:
        path: The study file.
        say: Prints warnings for the user.
        target: Adds the time to this loss, in nats.

    Raises:
        UserError: The study file or a result is invalid.
    """
    return _report(load_study(path), say, target)


def _report(study: Study, say: Say, target: float | None) -> Report:
    results, failures = collect(study)
    _warn_of_changes(study, results, say)
    summaries = summarise(study, results, failures, target)
    text = render(study, summaries, results, failures, target)
    study.out.mkdir(parents=True, exist_ok=True)
    page = study.out / "results.md"
    with replacing(page) as partial:
        partial.write_text(text)
    files = [page]
    plots = [study.out / "results.png", study.out / "results.svg"]
    if draw(study, summaries, results, plots):
        files += plots
    return Report(study, summaries, results, failures, text, files)


def _warn_of_changes(study: Study, results: Sequence[RunResult], say: Say) -> None:
    """Warns that stored results, which stay on the page, do not belong to the present config of their variant."""
    planned = {(run.variant, run.seed): run for run in plan_runs(study, study.choose())}
    warned: set[str] = set()
    for result in results:
        change = changes(planned[result.variant, result.seed], result, result.set_digest)
        if change is not None and result.variant not in warned:
            warned.add(result.variant)
            say(f"warning: variants.{result.variant}: has changed since its results were made: {change}")


def _read_evaluation(study: Study) -> list[bytes] | None:
    if study.evaluation is None:
        return None
    try:
        return read_proteins(study.evaluation.data, study.evaluation.limit)
    except UserError as error:
        raise UserError(f"{study.path}: evaluation.data: {error}") from error


def _prepare_data(runs: Sequence[PlannedRun], say: Say) -> None:
    """Converts FASTA files before the first run, so that no run's time includes the conversion."""
    wanted = {(run.config.data.fasta, run.config.data.local): run.config.data for run in runs if run.config.data.fasta}
    for data in wanted.values():
        say(f"shards of {data.fasta}: {prepare_shards(data, progress=False)}")


def _score(folder: Path, proteins: Sequence[bytes]) -> Mapping[str, Any]:
    """Runs the pinned evaluation, in fp32, on the run's export or, without one, on its last checkpoint."""
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        prepare_cpu()
    export = RunFolder(folder).export
    model = load_trained(export if export.is_dir() else folder).model
    try:
        return dataclasses.asdict(evaluate(model, proteins, device="cuda" if on_gpu else "cpu"))
    finally:
        if on_gpu:
            torch.cuda.empty_cache()  # Frees memory for the next run's process.
