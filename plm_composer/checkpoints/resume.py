"""What happens to checkpoints before a run: there is a place for them, and a whole one to continue from."""

from __future__ import annotations

import sys
from pathlib import Path

from composer.utils import format_name_with_dist

from plm_composer.checkpoints.local import mend_latest
from plm_composer.checkpoints.names import LATEST
from plm_composer.checkpoints.stores import StoredFolder, mend_stored_latest
from plm_composer.config.schema import TrainConfig
from plm_composer.errors import UserError


def prepare_checkpoints(config: TrainConfig, export: Path, metrics: Path) -> None:
    """Makes sure that stores of checkpoints can be used, and that autoresume finds a whole one.

    Where that is not the latest, it says so on stderr. Composer alone would end with a traceback where the latest is
    damaged, and start from nothing where it is gone.
    Called by rank 0 alone.

    Args:
        config: The run's config.
        export: The run's exported model; it need not exist.
        metrics: The run's metrics file; it need not exist.

    Raises:
        UserError: There are checkpoints, and none is whole; or there is a trained model, and no checkpoint; or the
            store of the checkpoints cannot be read or written.
    """
    if config.load_path is not None and "://" in config.load_path:
        StoredFolder(config.load_path)  # which says in one line why a store cannot be read
    if config.save_folder is None:
        return
    place = format_name_with_dist(config.save_folder, str(config.run_name))
    stored = StoredFolder(place) if "://" in place else None
    if stored is not None:
        stored.check_writable()
    if not config.autoresume:
        return
    if stored is not None:
        message, nothing = mend_stored_latest(stored), stored.is_empty()
    else:
        message, nothing = mend_latest(Path(place)), not Path(place, LATEST).exists()
    if message is None and nothing:
        if export.is_dir():
            raise UserError(
                f"{place}: there is no checkpoint to continue from, and {export} has a trained model; "
                "put one back, or start over with autoresume=false save_overwrite=true"
            )
        if metrics.exists():
            message = f"{place}: the earlier start left no checkpoint; training starts from its beginning"
    if message is not None:
        print(f"autoresume: {message}", file=sys.stderr)


def forget_downloaded(config: TrainConfig) -> None:
    """Removes the checkpoint that an earlier start downloaded to continue from.

    Composer would take it for the latest, however far the run has come since. Called by one process of each node.

    Args:
        config: The run's.
    """
    if config.save_folder is not None and "://" in config.save_folder:
        # Composer's name for it: the address, taken for a path.
        Path(format_name_with_dist(config.save_folder, str(config.run_name)), LATEST).unlink(missing_ok=True)
