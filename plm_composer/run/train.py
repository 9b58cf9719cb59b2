"""Trains a run, from its config to the exported model."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from composer import Trainer
from composer.utils import dist, get_device
from torch._dynamo.exc import TorchDynamoException

from plm_composer.algorithms.ema import use_averages
from plm_composer.budget.ledger import Ledger, open_ledger, process_start
from plm_composer.callbacks import preemption
from plm_composer.callbacks.scheduled_evaluation import ScheduledEvaluation
from plm_composer.checkpoints.best import BestCheckpointSaver
from plm_composer.checkpoints.loading import check_progress, loading_checkpoint
from plm_composer.checkpoints.names import LATEST
from plm_composer.checkpoints.resume import forget_downloaded, prepare_checkpoints
from plm_composer.checkpoints.uploads import explaining_failed_uploads
from plm_composer.config.merge import differing_keys
from plm_composer.config.schema import TrainConfig
from plm_composer.data.streaming.workers import explain_killed_workers
from plm_composer.errors import UserError, first_line
from plm_composer.evaluation.results import write_result
from plm_composer.hardware.machine import check_device
from plm_composer.hardware.processes import explaining_lost_processes
from plm_composer.inference.export import check_export, export_run
from plm_composer.loggers.training_progress import closing_bars
from plm_composer.model.config import CAUSAL_LOSS, MASKED_LOSS
from plm_composer.model.weights.huggingface_folder import loader, read_config
from plm_composer.optim.schedule_free import averaged_weights
from plm_composer.run.automatic import choose, wants_choice
from plm_composer.run.conversion import prepare_shards
from plm_composer.run.datasets import Places, find_places
from plm_composer.run.parts import Parts, make_parts
from plm_composer.run.trainer import make_trainer
from plm_composer.run_folder import RunFolder, prepare_run_folder

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        folder: The run folder.
        scores: Metrics of the pinned evaluation, name to value; empty if nothing was evaluated.
        stopped_at: The batch at which SIGTERM ended the training and a checkpoint was saved; None if SIGTERM did not.
    """

    folder: Path
    scores: Mapping[str, float]
    stopped_at: int | None = None

    @property
    def exit_code(self) -> int:
        """0; ``preemption.EXIT_CODE`` after SIGTERM, so that a scheduler restarts the run."""
        return 0 if self.stopped_at is None else preemption.EXIT_CODE


def train(config: TrainConfig, sources: Mapping[str, str] | None = None, started: float | None = None) -> Outcome:
    """Trains as the config says, evaluates, exports the model, and prints the scores and where the files are.

    Args:
        config: From ``plm_composer.run.load.load_config``.
        sources: From ``plm_composer.config.merge.find_sources``, for the report; None where nobody knows.
        started: Time from which a budget counts, in seconds since the epoch; None for the start of the process.

    Raises:
        UserError: Something in the config or the data is wrong.
    """
    if wants_choice(config):
        check_device("device", config.device)
        _start_processes(config)
        spent = time.time() - (started or process_start())
        given, config = config, _on_rank_zero(lambda: choose(config, spent))
        sources = sources and {**sources, **dict.fromkeys(differing_keys(given, config), "auto")}
    parts = make_parts(config)
    _start_processes(config)
    folder = _on_rank_zero(lambda: _claim_folder(config))
    ledger = _open_ledger(parts, folder, started)
    _on_rank_zero(lambda: prepare_checkpoints(config, folder.export, folder.metrics))
    if dist.get_local_rank() == 0:
        forget_downloaded(config)
    trainer = _start(parts, _find_data(config, ledger), folder, ledger, sources)
    with (
        folder.explain_full_disk(),
        explain_killed_workers(),
        explaining_lost_processes(),
        explaining_failed_uploads(config.save_folder),
        closing_bars(trainer.logger.destinations),
    ):
        _fit(trainer)
        stopped_at = preemption.stopped_at(trainer.state.callbacks)
        if stopped_at is not None:
            return _stop(trainer, folder, ledger, stopped_at)
        with ledger.charging("checkpoints"):
            _keep_best(trainer)
        scores = _validation_scores(trainer)
        _keep_results(trainer, folder)
        with ledger.charging("export"):
            if config.export:
                _export(trainer, config, folder, scores)
            reported = config.report and dist.get_global_rank() == 0 and _report(folder, ledger)
    ledger.charge("exit")
    trainer.close()
    if dist.get_global_rank() == 0:
        print(describe_result(folder, scores, reported))
        if config.budget is not None:
            print(f"\n{ledger.summary()}")
    ledger.finish()
    return Outcome(folder.path, scores)


def _start_processes(config: TrainConfig) -> None:
    dist.initialize_dist(get_device(config.device), timeout=config.dist_timeout)


def _claim_folder(config: TrainConfig) -> RunFolder:
    folder = RunFolder(Path(config.run_folder))
    if config.export:  # first, so that a refused run removes no checkpoints of an earlier one
        check_export(folder.export)
    prepare_run_folder(config)
    return folder


def _open_ledger(parts: Parts, folder: RunFolder, started: float | None) -> Ledger:
    resumes = parts.config.autoresume
    ledger = _on_rank_zero(lambda: open_ledger(folder.path, parts.budget, resumes, started or process_start()))
    return ledger if dist.get_global_rank() == 0 else dataclasses.replace(ledger, path=None)


def _find_data(config: TrainConfig, ledger: Ledger) -> Places:
    with ledger.charging("conversion"):
        local = prepare_shards(config.data, config.progress_bar)
    return _on_rank_zero(lambda: find_places(config, local))


def _start(
    parts: Parts, places: Places, folder: RunFolder, ledger: Ledger, sources: Mapping[str, str] | None
) -> Trainer:
    """Makes the Trainer, which loads the checkpoint to start from, and writes ``config.yaml`` once that has worked."""
    config = parts.config
    with loading_checkpoint(config, parts.saves_shards):
        trainer = make_trainer(parts, places, folder, ledger)
    check_progress(config, trainer.state)
    _on_rank_zero(lambda: folder.write_config(config, sources))
    return trainer


def _fit(trainer: Trainer) -> None:
    """Trains to the end. If the run has already reached its end, only evaluates."""
    state = trainer.state
    assert state.max_duration is not None
    if state.timestamp < state.max_duration:
        with _explaining_compilation():
            trainer.fit()
    elif state.evaluators:
        trainer.eval()


@contextlib.contextmanager
def _explaining_compilation() -> Iterator[None]:
    try:
        yield
    except TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)
        reason = " ".join(str(cause).split("\n\n")[0].split())
        raise UserError(f"compile_config: torch cannot compile here; set compile_config=null ({reason})") from error


def _stop(trainer: Trainer, folder: RunFolder, ledger: Ledger, batch: int) -> Outcome:
    """Ends a run that SIGTERM has stopped."""
    trainer.close()
    ledger.write()
    preemption.ignore_signals()
    if dist.get_global_rank() == 0:
        print(f"stopped by SIGTERM, saved at batch {batch}; continue with autoresume=true", file=sys.stderr)
    return Outcome(folder.path, {}, stopped_at=batch)


def _validation_scores(trainer: Trainer) -> dict[str, float]:
    return {
        name: float(metric.compute())
        for metrics in trainer.state.eval_metrics.values()
        for name, metric in metrics.items()
    }


def _keep_best(trainer: Trainer) -> None:
    """Saves the final checkpoint as the best one if the last validation says so."""
    for callback in trainer.state.callbacks:
        if isinstance(callback, BestCheckpointSaver):
            use_averages(trainer.state.algorithms, trainer.state)
            callback.save_if_due(trainer.state, trainer.logger)


def _keep_results(trainer: Trainer, folder: RunFolder) -> None:
    """Writes what scheduled evaluations found last into the run folder."""
    if dist.get_global_rank() > 0:
        return
    for callback in trainer.state.callbacks:
        if isinstance(callback, ScheduledEvaluation):
            for result in callback.results:
                write_result(folder.path, result)


def _export(trainer: Trainer, config: TrainConfig, folder: RunFolder, scores: Mapping[str, float]) -> None:
    """Writes the Hugging Face folder, with the averaged weights if the run averages them."""
    state = trainer.state
    use_averages(state.algorithms, state)
    model = getattr(state.model, "module", state.model)  # inside DDP
    with averaged_weights(model, state.optimizers[0]):
        export_run(model.model, config, folder.export, scores)


def _report(folder: RunFolder, ledger: Ledger) -> bool:
    """Writes ``report.html``, or says why not: the run has its results by now, and nothing here may fail it."""
    try:
        # Here, since a run may do without, and then needs neither matplotlib nor jinja2.
        from plm_composer.report.page import write_report

        ledger.write()
        write_report([folder.path], folder.report)
    except Exception as error:
        print(f"warning: no {folder.report.name}: {first_line(error)}", file=sys.stderr)
        return False
    return True


def describe_result(folder: RunFolder, scores: Mapping[str, float], reported: bool = False) -> str:
    """Describes the result of a run: its validation scores, the paths of its files, and commands that use them.

    Args:
        folder: The run folder.
        scores: Metrics of the pinned evaluation, name to value; empty if nothing was evaluated.
        reported: Whether the run has written its report.
    """
    lines = []
    loss = scores.get(MASKED_LOSS, scores.get(CAUSAL_LOSS))
    if loss is not None:
        perplexity, accuracy = scores["perplexity"], scores["accuracy"]
        lines += [f"validation loss {loss:.4f} nats, perplexity {perplexity:.2f}, accuracy {accuracy:.1%}", ""]
    lines += [f"{'metrics':<12}{folder.metrics}"]
    lines += [f"{'report':<12}{folder.report}"] if reported else []
    lines += [f"{'checkpoint':<12}{folder.latest}"] if folder.latest.exists() else []
    lines += [f"{'best':<12}{folder.best / LATEST}"] if (folder.best / LATEST).exists() else []
    if folder.export.is_dir():
        config = read_config(folder.export)
        lines += [
            f"{'model':<12}{folder.export}  (loads with {loader(config)})",
            "",
            "next:",
            f"  plm evaluate {folder.export} --data PROTEINS.fasta",
            f"  plm embed {folder.export} PROTEINS.fasta --out embeddings.npz",
        ]
        lines += [f"  plm sample {folder.export} --count 10"] if config.causal else []
    return "\n".join(lines)


def _on_rank_zero(work: Callable[[], T]) -> T:
    """Runs a function on rank 0. All ranks return its result, or raise its ``UserError``."""
    outcome: list[Any] = [None, None]
    if dist.get_global_rank() == 0:
        try:
            outcome[0] = work()
        except UserError as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise UserError(outcome[1])
    result: T = outcome[0]
    return result
