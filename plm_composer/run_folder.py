"""The folder of a run: ``config.yaml``, ``metrics.jsonl``, ``checkpoints/``, ``export/`` and ``report.html``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from plm_composer.checkpoints.names import CHECKPOINT_FILE, LATEST, SHARD_FILE
from plm_composer.config.merge import read_resolved, to_yaml
from plm_composer.config.schema import TrainConfig
from plm_composer.errors import UserError
from plm_composer.evaluation.results import FOLDER as EVALUATIONS
from plm_composer.files.atomic import FULL_DISK, is_full, replacing
from plm_composer.files.owned import remove_files

_DEFINES_THE_RUN = (
    "seed", "model", "objective", "causal_share", "optimizer", "scheduler", "algorithms", "global_train_batch_size",
    "loss_weighting",
)  # fmt: skip
_DEFINES_THE_DATA = (
    "batch_format", "crop_length", "crop_keeps_ends", "mask_rate", "mask_token_fraction", "random_token_fraction",
    "mask_span_length", "shuffle", "shuffle_algo", "shuffle_block_size",
)  # fmt: skip
_HEADER = "# The resolved config of a run, written by plm-composer.\n"
"""First line of ``config.yaml``, which distinguishes it from a user's file of the same name."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths of the parts of a run.

    Args:
        path: The folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def sources(self) -> Path:
        """Which layer set each value of the config, as one JSON object."""
        return self.path / "config_sources.json"

    @property
    def metrics(self) -> Path:
        """The metrics, one JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Composer's checkpoints, unless ``save_folder`` is set."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation score, if ``keep_best`` is set."""
        return self.path / "best"

    @property
    def latest(self) -> Path:
        """The link to the latest checkpoint."""
        return self.checkpoints / LATEST

    @property
    def export(self) -> Path:
        """The final model as a Hugging Face folder."""
        return self.path / "export"

    @property
    def report(self) -> Path:
        """The page that shows the run."""
        return self.path / "report.html"

    @contextlib.contextmanager
    def explain_full_disk(self) -> Iterator[None]:
        """Context that reports a full disk, for which writers, above all torch's, raise many kinds of errors.

        Raises:
            UserError: The code inside failed and the disk is full.
        """
        try:
            yield
        except (OSError, RuntimeError) as error:
            # Only rank 0's node is sure to have the folder.
            if self.path.exists() and is_full(self.path, error):
                raise UserError(FULL_DISK.format(self.path)) from error
            raise

    def holds_a_run(self) -> bool:
        """Whether the folder holds a checkpoint, an exported model or metrics."""
        parts = any(folder.is_dir() and any(folder.iterdir()) for folder in (self.checkpoints, self.export))
        return parts or (self.metrics.is_file() and self.metrics.stat().st_size > 0)

    def write_config(self, config: TrainConfig, sources: Mapping[str, str] | None = None) -> None:
        """Writes ``config.yaml`` and what set its values, once the checkpoint is loaded. Called by rank 0 only.

        Args:
            config: The run's config.
            sources: From ``plm_composer.config.merge.find_sources``; None where nobody knows.

        Raises:
            UserError: A file cannot be written.
        """
        path = self.config
        try:
            with replacing(path) as partial:
                partial.write_text(_HEADER + to_yaml(config))
            path = self.sources
            if sources is None:
                path.unlink(missing_ok=True)
            else:
                with replacing(path) as partial:
                    partial.write_text(json.dumps(sources, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"run_folder: cannot write {path}: {error.strerror}") from error


def prepare_run_folder(config: TrainConfig) -> RunFolder:
    """Creates the run folder. Called by rank 0 only.

    Args:
        config: The run's config.

    Raises:
        UserError: The folder holds an earlier run, and the config neither continues nor replaces it, or continues it
            with another model, data or optimizer; or it holds files that a run would overwrite but did not write.
    """
    folder = RunFolder(Path(config.run_folder))
    check_owned(folder)
    if folder.holds_a_run():
        if config.autoresume:
            _check_same_run(config, folder)
        elif config.save_overwrite:
            _remove_run(folder)
        else:
            raise UserError(
                f"{folder.path} holds an earlier run; continue it with autoresume=true, replace it with "
                "save_overwrite=true, or choose another run_name="
            )
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.path):
            pass
    except OSError as error:
        raise UserError(f"run_folder: cannot write {folder.path}: {error.strerror}") from error
    return folder


def check_owned(folder: RunFolder) -> None:
    """Refuses a folder with files that have the names of a run's files but were not written by a run.

    Args:
        folder: The folder; it need not exist.

    Raises:
        UserError: There is such a file.
    """
    taken = None
    if folder.config.is_file() and not _is_ours(folder.config, lambda line: line == _HEADER):
        # Runs of versions without this header are recognised by their checkpoints.
        taken = folder.config if not folder.latest.exists() else None
    if folder.metrics.is_file() and not _is_ours(folder.metrics, _is_metrics):
        taken = folder.metrics
    if taken is not None:
        raise UserError(f"run_folder: {taken} was not written by a run; move it away, or choose another run_folder=")


def _is_ours(path: Path, judge: Callable[[str], bool]) -> bool:
    try:
        with path.open(errors="replace") as file:
            first = file.readline()
    except OSError:  # for example without permission to read
        return False
    return not first or judge(first)


def _is_metrics(line: str) -> bool:
    try:
        return set(json.loads(line)) >= {"batch", "epoch", "proteins", "tokens", "seconds"}
    except (ValueError, TypeError):
        return not line.endswith("\n")  # cut short by a kill


def _remove_run(folder: RunFolder) -> None:
    """Removes the files of a run, and no others."""
    remove_files(folder.export)
    # Of the earlier model, so that no report shows them as the new one's.
    for path in (folder.metrics, folder.report, *(folder.path / EVALUATIONS).glob("*.json")):
        path.unlink(missing_ok=True)
    kept = [each for each in (folder.checkpoints, folder.best) if each.is_dir()]
    for path in (path for each in kept for path in list(each.iterdir())):
        if not CHECKPOINT_FILE.fullmatch(path.name):
            continue
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif all(SHARD_FILE.fullmatch(part.name) for part in path.iterdir()):
            shutil.rmtree(path)


def _check_same_run(config: TrainConfig, folder: RunFolder) -> None:
    if not folder.config.is_file():
        return
    # A run of an earlier version knew fewer keys: it had their defaults.
    defaults, now = dataclasses.asdict(TrainConfig()), dataclasses.asdict(config)
    before = {**defaults, **read_resolved(folder.config)}
    data_before = {**defaults["data"], **before["data"]}
    pairs: list[tuple[str, Any, Any]] = [(key, before[key], now[key]) for key in _DEFINES_THE_RUN]
    pairs += [(f"data.{key}", data_before[key], now["data"][key]) for key in _DEFINES_THE_DATA]
    for key, old, new in pairs:
        if old != new:
            raise UserError(
                f"autoresume: {folder.config} was started with {key}={old!r} and this run has {new!r}; resume with "
                "the same, or choose another run_name="
            )
