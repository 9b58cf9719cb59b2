"""Executes the runs of a study one after another: skips finished runs and continues after failures."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from plm_composer.checkpoints.local_folder import find_checkpoints
from plm_composer.errors import UserError
from plm_composer.files.atomic import replacing
from plm_composer.run_folder import RunFolder
from plm_composer.studies.plan import PlannedRun, config_digest
from plm_composer.studies.results import Failure, RunResult, make_result, read_metrics, write_result

Launcher = Callable[[PlannedRun, Sequence[str]], int]
"""Trains with these command-line arguments, writes all output to the run's log and returns the exit code."""
Scorer = Callable[[Path], Mapping[str, Any]]
"""Scores the final model of a run folder; returns the fields of ``plm_composer.evaluation.evaluate.Evaluation``."""
Say = Callable[[str], None]

_BUSY = 0.5
"""Load average above which another process is using the machine."""


def run_all(
    runs: Sequence[PlannedRun], launch: Launcher, score: Scorer | None, say: Say, machine: str = ""
) -> list[Failure]:
    """Executes the unfinished runs, one after another.

    Args:
        runs: The runs, in order.
        launch: Trains a run.
        score: Scores the final model; None to take the run's own last validation.
        say: Prints progress for the user.
        machine: Description of the machine, stored with the results.

    Returns:
        The runs that failed.
    """
    failures = []
    for index, run in enumerate(runs, 1):
        place = f"[{index}/{len(runs)}] {run.name}"
        if run.result.exists():
            say(f"{place}: done before")
            continue
        continued = prepare(run)
        say(f"{place}: {'continued' if continued else 'started'}")
        outcome = _run(run, continued, launch, score, machine)
        write_result(run.failure if isinstance(outcome, Failure) else run.result, outcome)
        if isinstance(outcome, Failure):
            failures.append(outcome)
            say(f"{place}: failed: {outcome.reason}; see {outcome.log}")
        else:
            say(f"{place}: loss {outcome.loss:.4f} nats, {outcome.tokens:,} tokens, {outcome.seconds:,.0f} s")
    return failures


def prepare(run: PlannedRun) -> bool:
    """Makes the run folder; first deletes what an interrupted run without a checkpoint left.

    Returns:
        Whether the run has a checkpoint to continue from.
    """
    continued = bool(find_checkpoints(RunFolder(run.folder).checkpoints))
    if not continued:
        forget(run)
    run.folder.mkdir(parents=True, exist_ok=True)
    run.failure.unlink(missing_ok=True)
    return continued


def forget(run: PlannedRun) -> None:
    """Deletes the folder of a run.

    Raises:
        UserError: The folder holds something other than a run.
    """
    if not run.folder.exists():
        return
    if any(run.folder.iterdir()) and not (run.log.exists() or run.starts.exists()):
        raise UserError(f"{run.folder}: holds files that are not of a run; move them away")
    shutil.rmtree(run.folder)


def load_warning() -> str | None:
    """Makes a warning if other processes use the machine, which distorts the timings."""
    load = os.getloadavg()[0]
    if load < _BUSY:
        return None
    return f"warning: the machine is busy (load {load:.1f} over the last minute), which distorts the times of the runs"


def _run(run: PlannedRun, continued: bool, launch: Launcher, score: Scorer | None, machine: str) -> RunResult | Failure:
    with _recorded_start(run):
        code = launch(run, (*run.arguments, f"autoresume={str(continued).lower()}"))
    try:
        if code != 0:
            raise UserError(f"exit code {code}: {_last_line(run.log)}")
        training = read_metrics(RunFolder(run.folder).metrics)
        starts, seconds = _count_starts(run)
        return make_result(
            training,
            None if score is None else score(run.folder),
            variant=run.variant,
            seed=run.seed,
            seconds=seconds,
            starts=starts,
            machine=machine,
            config=dataclasses.asdict(run.config),
            config_digest=config_digest(run.config),
        )
    except UserError as error:
        return Failure(run.variant, run.seed, str(error), str(run.log))


@contextlib.contextmanager
def _recorded_start(run: PlannedRun) -> Iterator[None]:
    """Stores when the run's process started and ended, even if an exception ends the study."""
    starts = [*_read_starts(run), {"began": time.time(), "ended": None}]
    _write_starts(run, starts)
    try:
        yield
    finally:
        starts[-1]["ended"] = time.time()
        _write_starts(run, starts)


def _count_starts(run: PlannedRun) -> tuple[int, float]:
    """Counts the starts of a run and sums their seconds."""
    starts = _read_starts(run)
    return len(starts), sum(start["ended"] - start["began"] for start in starts)


def _read_starts(run: PlannedRun) -> list[dict[str, Any]]:
    if not run.starts.exists():
        return []
    starts: list[dict[str, Any]] = json.loads(run.starts.read_text())
    for start in starts:
        if start["ended"] is None:
            # Killed with the study; the last write to a log stands in for its end.
            files = [path for path in (RunFolder(run.folder).metrics, run.log) if path.exists()]
            start["ended"] = max([start["began"], *(path.stat().st_mtime for path in files)])
    return starts


def _write_starts(run: PlannedRun, starts: Sequence[Mapping[str, Any]]) -> None:
    with replacing(run.starts) as partial:
        partial.write_text(json.dumps(starts))


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
