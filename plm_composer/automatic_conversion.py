"""A run that is given a FASTA converts it itself, once."""

from __future__ import annotations

import time
from pathlib import Path

from composer.utils import dist

from plm_composer.errors import UserError
from plm_composer.sample import TRAIN_FASTA, VAL_FASTA
from plm_composer.schema import DataConfig
from plm_composer.shards.convert import convert_fasta
from plm_composer.shards.manifest import read_manifest

BUNDLED_SAMPLE = "sample"
"""What ``data.fasta`` says for the proteins that come with the package."""


def prepare_shards(data: DataConfig, progress: bool = True) -> str | None:
    """Converts ``data.fasta`` where its shards are not there yet; the other processes of the node wait.

    Args:
        data: The config's ``data``.
        progress: Whether to draw a progress bar.

    Returns:
        The folder of the shards: ``data.local``, or ``data/<name of the FASTA>`` where only the FASTA is given.

    Raises:
        UserError: The conversion failed, or the folder holds the shards of other proteins.
    """
    if data.fasta is None:
        if data.val_fasta is not None:
            raise UserError("data.val_fasta belongs to data.fasta, which is missing; shards have their own val split")
        return data.local
    bundled = data.fasta == BUNDLED_SAMPLE
    train, val = ([TRAIN_FASTA], [VAL_FASTA]) if bundled else ([Path(data.fasta)], [])
    if data.val_fasta is not None:
        val = [Path(data.val_fasta)]
    out = Path(data.local or f"data/{data.fasta if bundled else train[0].name.split('.')[0]}")
    published = out / "manifest.json"
    if dist.get_local_rank() == 0 and not published.exists():
        # The sample takes seconds; starting worker processes would take longer.
        convert_fasta(train, out, val_inputs=val, processes=1 if bundled else None, progress=progress)
    # A collective would give up after dist_timeout; UniRef50 takes longer. If rank 0 fails, the launcher ends us.
    while not published.exists():
        time.sleep(0.2)
    _check_source(out, [*train, *val])
    return str(out)


def _check_source(out: Path, inputs: list[Path]) -> None:
    made_from = {source.name: source.bytes for source in read_manifest(out).sources}
    for path in inputs:
        size = path.stat().st_size if path.exists() else made_from.get(path.name)
        if made_from.get(path.name) != size or size is None:
            raise UserError(
                f"{out} holds the shards of other proteins than {path}; name another folder with data.local, or "
                "convert it again with convert/fasta.py --overwrite"
            )
