"""Before a run: checks that checkpoints can be written, and that autoresume finds an intact one."""

from __future__ import annotations

import sys
from pathlib import Path

from composer.utils import format_name_with_dist

from plm_composer.checkpoints.local_folder import repair_latest
from plm_composer.checkpoints.names import LATEST
from plm_composer.checkpoints.stored_folder import StoredFolder, repair_stored_latest
from plm_composer.config.schema import TrainConfig
from plm_composer.errors import UserError


def prepare_checkpoints(config: TrainConfig, export: Path, metrics: Path) -> None:
    """Checks that the stores of checkpoints can be used, and that autoresume finds an intact checkpoint.

    If that is not the latest, a line on stderr says so. Composer alone would end with a traceback if the latest is
    damaged, and start from nothing if it is missing. Called by rank 0 only.

    Args:
        config: The run's config.
        export: Folder of the run's exported model; it need not exist.
        metrics: The run's metrics file; it need not exist.

    Raises:
        UserError: There are checkpoints, but none is intact; or there is a trained model, but no checkpoint; or the
            store of the checkpoints cannot be read or written.
    """
    if config.load_path is not None and "://" in config.load_path:
        StoredFolder(config.load_path)  # raises a UserError if the store cannot be read
    if config.save_folder is None:
        return
    place = format_name_with_dist(config.save_folder, str(config.run_name))
    stored = StoredFolder(place) if "://" in place else None
    if stored is not None:
        stored.check_writable()
    if not config.autoresume:
        return
    message = repair_latest(Path(place)) if stored is None else repair_stored_latest(stored)
    if message is None and not holds_checkpoints(place):
        if export.is_dir():
            raise UserError(
                f"{place}: there is no checkpoint to continue from, and {export} has a trained model; "
                "put one back, or start over with autoresume=false save_overwrite=true"
            )
        if metrics.exists():
            message = f"{place}: the earlier start left no checkpoint; training starts from its beginning"
    if message is not None:
        print(f"autoresume: {message}", file=sys.stderr)


def holds_checkpoints(place: str) -> bool:
    """Whether a folder or an object store holds checkpoints of an earlier start.

    Args:
        place: ``save_folder``, with its name filled in.
    """
    return not StoredFolder(place).is_empty() if "://" in place else Path(place, LATEST).exists()


def forget_downloaded(config: TrainConfig) -> None:
    """Removes the checkpoint that an earlier start downloaded to resume from.

    Composer would take it for the latest, even if the run has trained further since. Called by one process per node.

    Args:
        config: The run's config.
    """
    if config.save_folder is not None and "://" in config.save_folder:
        # Composer uses the address as a local path.
        Path(format_name_with_dist(config.save_folder, str(config.run_name)), LATEST).unlink(missing_ok=True)
