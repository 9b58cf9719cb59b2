"""What a run folder says of its run, whatever version wrote it and however far the run has come."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plm_composer.budget.ledger import CATEGORIES, FILE_NAME
from plm_composer.config.merge import flatten, read_resolved
from plm_composer.errors import UserError
from plm_composer.evaluation.results import Result, read_results
from plm_composer.report.series import FLOPS_PER_SECOND, MFU, Metrics, read_metrics
from plm_composer.run_folder import RunFolder

_PROGRESS = {"ba": "batch", "ep": "epoch", "sp": "proteins", "tok": "tokens"}
"""The clock that counts each unit of ``max_duration``."""


@dataclasses.dataclass(frozen=True)
class Ledger:
    """Where the time of a run with a budget went.

    Args:
        budget: Seconds that the run was given.
        entries: Seconds by category, over all starts, in the order of ``CATEGORIES``, then of named evaluations.
        finished: Whether the run has ended.
    """

    budget: float
    entries: Mapping[str, float]
    finished: bool

    @property
    def charged(self) -> float:
        """Seconds of all categories."""
        return sum(self.entries.values())


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, read from its folder.

    Args:
        folder: The folder.
        name: What it is called on the page.
        metrics: Its metrics; columns without rows if it has none yet.
        config: Values of the resolved config by dotted key; empty if it has none yet.
        sources: Which layer set each value; empty in runs of versions that did not record it.
        ledger: Where its time went; None without a budget.
        results: Its evaluations.
        notes: What is missing, a sentence each.
    """

    folder: Path
    name: str
    metrics: Metrics
    config: Mapping[str, Any]
    sources: Mapping[str, str]
    ledger: Ledger | None
    results: tuple[Result, ...]
    notes: tuple[str, ...]

    @property
    def state(self) -> str:
        """``finished``, or how far the run has come."""
        batch = self.metrics.last("batch")
        if batch is None:
            return "no batch yet"
        if self._is_finished():
            return "finished"
        # A run that is going on and one that was killed leave the same files.
        return f"not finished: {batch:,.0f} batches so far"

    def _is_finished(self) -> bool:
        if self.ledger is not None and self.ledger.finished:
            return True
        if self.config.get("budget") is not None:
            planned, batch = self.metrics.last("budget/planned_batches"), self.metrics.last("batch")
            return None not in (planned, batch) and batch >= planned  # type: ignore[operator]
        duration = str(self.config.get("max_duration"))
        for unit, clock in _PROGRESS.items():
            number = duration.removesuffix(unit)
            if duration.endswith(unit) and number.isdigit():
                return (self.metrics.last(clock) or 0) >= int(number)
        return False

    @functools.cached_property
    def final(self) -> Mapping[str, float | None]:
        """The numbers that a run comes to, None where it has none.

        ``loss`` in nats, ``perplexity``, ``accuracy`` of the last validation; ``tokens``; ``seconds`` of training;
        ``tokens_per_second``, the mean; ``mfu``, weighted by time as the mean of tokens a second is; ``flops``; and
        ``memory``, in bytes.
        """
        metrics = self.metrics
        tokens, seconds, memory = (metrics.last(name) for name in ("tokens", "seconds", "memory/peak_mb"))
        return {
            "loss": metrics.last(metrics.loss_name("eval")),
            "perplexity": metrics.last("metrics/eval/perplexity"),
            "accuracy": metrics.last("metrics/eval/accuracy"),
            "tokens": tokens,
            "seconds": seconds,
            "tokens_per_second": tokens / seconds if tokens and seconds else None,
            "mfu": _mean_mfu(metrics),
            "flops": float(metrics.flops[-1]) if metrics.has(FLOPS_PER_SECOND) else None,
            "memory": None if memory is None else 1e6 * memory,
        }


def read_run(folder: Path) -> Run:
    """Reads a run.

    Args:
        folder: The run folder.

    Raises:
        UserError: It is not one, or a file in it cannot be read.
    """
    paths = RunFolder(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    if not paths.metrics.is_file() and not paths.config.is_file():
        raise UserError(f"{folder}: not a run folder: it has neither {paths.metrics.name} nor {paths.config.name}")
    metrics = read_metrics(paths.metrics)
    config = flatten(read_resolved(paths.config)) if paths.config.is_file() else {}
    sources = _read_json(paths.sources)
    ledger = _read_ledger(folder / FILE_NAME)
    name = str(config.get("run_name") or folder.resolve().name)
    notes = tuple(_notes(metrics, config, sources))
    return Run(folder, name, metrics, config, sources, ledger, tuple(read_results(folder)), notes)


def read_runs(folders: list[Path]) -> list[Run]:
    """Reads several runs; those that share a name are called by their folders.

    Args:
        folders: The run folders, each once.

    Raises:
        UserError: One is not a run folder, is named twice, or a file in it cannot be read.
    """
    for index, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:index]]:
            raise UserError(f"{folder}: this run is named twice")
    runs = [read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    return [dataclasses.replace(run, name=str(run.folder)) if names.count(run.name) > 1 else run for run in runs]


def _mean_mfu(metrics: Metrics) -> float | None:
    """The FLOPs of the whole training, by its time and the peak, which follows from the last window."""
    flops, seconds = metrics.last(FLOPS_PER_SECOND), metrics.last("seconds")
    device, share = metrics.last("throughput/device/flops_per_sec"), metrics.last(MFU)
    if not flops or not seconds or not device or not share:
        return None
    peak = device / share * (flops / device)
    return float(metrics.flops[-1]) / seconds / peak


def _notes(metrics: Metrics, config: Mapping[str, Any], sources: Mapping[str, str]) -> list[str]:
    notes = []
    if metrics.unfinished:
        notes.append("The last line of metrics.jsonl was being written, or was cut short by a kill; it is left out.")
    if metrics.skipped:
        notes.append(f"{metrics.skipped} lines of metrics.jsonl could not be read and are left out.")
    if not config:
        notes.append("There is no config.yaml yet.")
    elif not sources:
        notes.append("There is no config_sources.json, so it is not known what set each value of the config.")
    return notes


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read; remove it to leave it out of the report") from error
    return content


def _read_ledger(path: Path) -> Ledger | None:
    content = _read_json(path)
    if not content:
        return None
    try:
        names = dict.fromkeys([*CATEGORIES, *content["entries"]])
        entries = {name: float(content["entries"].get(name, 0)) for name in names}
        return Ledger(float(content["budget"]), entries, bool(content["finished"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a ledger; remove it to leave it out of the report") from error
