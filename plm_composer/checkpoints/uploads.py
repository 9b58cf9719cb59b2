"""Uploads of checkpoints to an object store, which Composer makes in other processes."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterable, Iterator

from composer import Callback
from composer.callbacks import CheckpointSaver

from plm_composer.errors import UserError, first_line

_UPLOADER = "composer/utils/remote_uploader.py"
"""The file in which Composer raises what went wrong in another process."""


def watch_uploads(callbacks: Iterable[Callback]) -> None:
    """Lets savers to a store ask every second whether a checkpoint has arrived, before they write ``latest``.

    Composer asks every 30 seconds, and a run waits for it at its end.

    Args:
        callbacks: Those of a Trainer.
    """
    for callback in callbacks:
        if isinstance(callback, CheckpointSaver):
            callback._symlink_upload_wait_before_next_try_in_seconds = 1.0


@contextlib.contextmanager
def explaining_failed_uploads(save_folder: str | None) -> Iterator[None]:
    """Makes one line of the failure of an upload, after Composer's retries.

    Args:
        save_folder: Folder of the checkpoints, local or in a store; None if there are none.

    Raises:
        UserError: A checkpoint could not be uploaded.
    """
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if not any(frame.filename.endswith(_UPLOADER) for frame in frames):
            raise
        raise UserError(
            f"{save_folder}: a checkpoint could not be uploaded ({first_line(error)}); check the store and the "
            "network, and continue with autoresume=true"
        ) from error
