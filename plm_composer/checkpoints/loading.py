"""Starts a run from a checkpoint: its own, or the one that ``load_path`` names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import yaml
from composer import State
from composer.core.time import TimeUnit, ensure_time
from composer.utils.file_helpers import is_tar
from torch.distributed.checkpoint.api import CheckpointException

from plm_composer.checkpoints.names import LATEST
from plm_composer.checkpoints.run_record import RunRecord
from plm_composer.config.schema import TrainConfig
from plm_composer.errors import UserError, first_line
from plm_composer.files.weights_only import plain_values_only


@contextlib.contextmanager
def loading_checkpoint(config: TrainConfig, sharded: bool) -> Iterator[None]:
    """Context for creating the Trainer, which loads the checkpoint: refuses code in it, and explains failures.

    Args:
        config: A checked config.
        sharded: Whether the run's checkpoints are sharded; Composer loads only checkpoints of the same kind.

    Raises:
        UserError: The checkpoint is of the other kind, contains code, is damaged, or does not fit the model.
    """
    key, path = _find(config)
    _check_kind(key, path, sharded, config.load_trust)
    try:
        with plain_values_only(f"{key}: {path}", config.load_trust):
            yield
    except CheckpointException as error:  # torch made it a BaseException
        cause = next((cause for cause, _ in error.failures.values()), error)
        raise UserError(f"{key}: cannot load {path}: {first_line(cause)}") from error
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise UserError(f"{key}: {path} does not fit the model: {str(error).splitlines()[-1].strip()}") from error


def check_progress(config: TrainConfig, state: State) -> None:
    """Checks that the loaded checkpoint has not trained for longer than the config says.

    A finished run may be started again with the same config: nothing is left to train, and its records stay true.

    Args:
        config: A checked config.
        state: The Trainer's state, after loading.

    Raises:
        UserError: Nothing is left to train, and the run's records would give a wrong duration.
    """
    record = next(callback for callback in state.callbacks if isinstance(callback, RunRecord))
    if record.loaded is None or config.budget is not None or config.load_weights_only:
        return
    key, path = _find(config)
    before = yaml.safe_load(record.loaded)
    same = (str(before["max_duration"]), before.get("budget")) == (str(config.max_duration), config.budget)
    own = config.autoresume and before.get("run_name") == config.run_name
    wanted = ensure_time(config.max_duration, "ep")
    done = state.timestamp.get(wanted.unit)
    within = done == wanted and wanted.unit == TimeUnit.EPOCH and state.timestamp.batch_in_epoch > 0
    if (not same and (done > wanted or within)) if own else done >= wanted:
        trained = f"more than {done.to_timestring()}" if within else done.to_timestring()
        raise UserError(
            f"{key}: {path} has trained {trained}, and max_duration is {config.max_duration}; give a longer one, or "
            "choose another run_name="
        )


def _find(config: TrainConfig) -> tuple[str, str]:
    """The key that asks for a checkpoint, and the checkpoint's path. Composer prefers the run's own checkpoint."""
    latest = Path(str(config.save_folder), LATEST)
    if config.autoresume and latest.exists():
        return "autoresume", str(latest.resolve())
    # If neither is set, Composer may still resume from a remote checkpoint.
    return ("autoresume", str(latest)) if config.load_path is None else ("load_path", config.load_path)


def _check_kind(key: str, path: str, sharded: bool, trust: bool) -> None:
    if Path(path).is_dir() and not Path(path, ".metadata").is_file():
        raise UserError(f"{key}: {path} is a folder, but not a sharded checkpoint; name a checkpoint in it")
    if Path(path).is_dir() and not sharded:
        raise UserError(
            f"{key}: {path} is a sharded checkpoint; load it into a sharded run, with recipe=fsdp and "
            "fsdp_config.state_dict_type=sharded, on any number of processes"
        )
    if Path(path).is_file() and sharded:
        raise UserError(
            f"{key}: {path} is a checkpoint in one file, and this run's are sharded; "
            "load it with fsdp_config.state_dict_type=full"
        )
    if is_tar(path) and not trust:
        raise UserError(
            f"{key}: {path}: an archive may write files anywhere; unpack it yourself and name the .pt in it"
        )
