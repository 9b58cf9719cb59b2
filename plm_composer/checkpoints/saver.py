"""Composer's CheckpointSaver, writing so that a kill or a full disk costs no checkpoint that is already there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from composer import Logger, State
from composer.callbacks import CheckpointSaver
from composer.utils import checkpoint, dist

from plm_composer.callbacks.order import Position
from plm_composer.checkpoints.local import find_checkpoints
from plm_composer.checkpoints.names import CHECKPOINT_NAME, FILENAME, LATEST, LATEST_FILENAME
from plm_composer.errors import UserError
from plm_composer.files.atomic import FULL_DISK, PARTIAL, is_full, replacing


class WholeCheckpointSaver(CheckpointSaver):
    """Saves as Composer does, into a local folder, with three differences.

    A checkpoint gets its name when all of it is on the disk, and only then is an older one removed. A full disk is
    one line. A resumed run counts the checkpoints that it finds, so that ``num_checkpoints_to_keep`` holds however
    often a run is stopped, and clears away what was half-written. A sharded checkpoint is written by torch, which puts
    its ``.metadata`` last.

    Args:
        folder: Where checkpoints lie.
        takes_over: Whether those in it are this run's, saved by an earlier start.
        **arguments: Others of ``CheckpointSaver``.
    """

    position = Position.SAVER

    def __init__(self, folder: str, takes_over: bool, **arguments: Any) -> None:
        self.takes_over = takes_over
        super().__init__(
            folder,
            filename=FILENAME,
            remote_file_name=str(Path(folder) / FILENAME),
            latest_filename=LATEST_FILENAME,
            latest_remote_file_name=str(Path(folder) / LATEST_FILENAME),
            **arguments,
        )

    def fit_start(self, state: State, logger: Logger) -> None:
        """Takes over what an earlier start left; the one that this start continues from is removed last."""
        super().fit_start(state, logger)
        if dist.get_global_rank() != 0 or not self.takes_over:
            return
        folder = Path(self.filename.format(state)).parent
        for leftover in folder.glob(f"{PARTIAL}*"):
            if CHECKPOINT_NAME.fullmatch(leftover.name.removeprefix(PARTIAL)):
                leftover.unlink()
        kept = [file for file in reversed(find_checkpoints(folder)) if file.is_dir() == _is_sharded(state)]
        kept.sort(key=lambda file: file == (folder / LATEST).resolve())
        self.saved_checkpoints = [str(file / "__0_0.distcp" if file.is_dir() else file) for file in kept]

    def _save_checkpoint(self, state: State, logger: Logger) -> None:
        name = checkpoint.get_save_filename(state, self.filename.format(state, keep_placeholders=True))
        # What is written anew must not count as old; what somebody has removed need not be.
        self.saved_checkpoints = [
            other for other in self.saved_checkpoints if Path(other).exists() and not _is_same(other, name)
        ]
        if _is_sharded(state):
            # Its presence says that the shards are whole; an earlier start may have left it where they now change.
            if dist.get_global_rank() == 0:
                Path(name).with_name(".metadata").unlink(missing_ok=True)
            dist.barrier()
        with _writing_whole():
            super()._save_checkpoint(state, logger)


@contextlib.contextmanager
def _writing_whole() -> Iterator[None]:
    """Has Composer write through ``replacing``; there is no other way in than its function's name."""
    write = checkpoint._write_checkpoint_file

    def write_whole(state_dict: dict[str, Any], filename: str) -> None:
        _write(write, state_dict, Path(filename))

    checkpoint._write_checkpoint_file = write_whole
    try:
        yield
    finally:
        checkpoint._write_checkpoint_file = write


def _write(write: Callable[[dict[str, Any], str], None], state_dict: dict[str, Any], path: Path) -> None:
    full = False
    try:
        with replacing(path) as partial:
            try:
                write(state_dict, str(partial))
            except (OSError, RuntimeError) as error:
                # torch's writer hides the cause; now, before the half that was written is gone, the disk shows it.
                full = is_full(path.parent, error)
                raise
    except (OSError, RuntimeError) as error:
        if full or is_full(path.parent, error):
            raise UserError(FULL_DISK.format(path)) from error
        raise


def _is_sharded(state: State) -> bool:
    return bool(state.fsdp_sharded_state_dict_enabled)


def _is_same(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()
