"""A CheckpointSaver with which a kill or a full disk never costs an existing checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from composer import Logger, State
from composer.callbacks import CheckpointSaver
from composer.utils import checkpoint, dist

from plm_composer.callbacks.order import Position
from plm_composer.checkpoints.local_folder import find_checkpoints
from plm_composer.checkpoints.names import CHECKPOINT_NAME, FILENAME, LATEST, LATEST_FILENAME
from plm_composer.errors import UserError
from plm_composer.files.atomic import FULL_DISK, PARTIAL, is_full, replacing


class WholeCheckpointSaver(CheckpointSaver):
    """Saves as Composer does, into a local folder, with three differences.

    A checkpoint gets its name when all of it is on the disk, and only then is an older one removed. A full disk is
    reported in one line. A resumed run counts the checkpoints that it finds, so that ``num_checkpoints_to_keep`` holds
    however often a run is stopped, and removes partial files. Sharded checkpoints are written by torch, which writes
    ``.metadata`` last.

    Args:
        folder: Folder of checkpoints.
        takes_over: Whether the checkpoints in it were saved by an earlier start of this run.
        **arguments: Other arguments of ``CheckpointSaver``.
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
        """Takes over the checkpoints of an earlier start; the one that this start resumed from is removed last."""
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
        # Do not count a checkpoint that is being rewritten, nor one that was deleted by hand.
        self.saved_checkpoints = [
            other for other in self.saved_checkpoints if Path(other).exists() and not _is_same(other, name)
        ]
        if _is_sharded(state):
            # .metadata marks the shards as complete; that of an earlier start must go before they are rewritten.
            if dist.get_global_rank() == 0:
                Path(name).with_name(".metadata").unlink(missing_ok=True)
            dist.barrier()
        with _writing_whole():
            super()._save_checkpoint(state, logger)


@contextlib.contextmanager
def _writing_whole() -> Iterator[None]:
    """Makes Composer write through ``replacing``, by patching its function; it offers no other way."""
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
                # torch's writer hides the cause. Check the disk now, before the partial file is removed.
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
