"""How much a run's data hold, before they are converted or downloaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from isal import igzip

from plm_composer.config.schema import DataConfig
from plm_composer.errors import UserError
from plm_composer.run.conversion import BUNDLED_SAMPLE
from plm_composer.sample import TRAIN_FASTA
from plm_composer.shards.inputs.streams import open_input
from plm_composer.shards.output.manifest import MANIFEST_NAME, read_manifest

_SAMPLED = 8 << 20
"""Characters of a FASTA that are counted; the rest is taken to be like them."""


@dataclasses.dataclass(frozen=True)
class Amount:
    """Proteins of a training set.

    Attributes:
        proteins: Number of proteins; infinite if nobody knows.
        length: Mean number of residues.
    """

    proteins: float
    length: float

    def tokens(self, crop_length: int) -> float:
        """Number of tokens of an epoch, in crops of at most ``crop_length`` tokens of a protein of mean length."""
        return self.proteins * min(self.length + 2, crop_length)


UNKNOWN = Amount(float("inf"), 300.0)
"""What streams from elsewhere is taken to hold: enough. UniRef50's proteins have 300 residues on average."""


def estimate_amount(data: DataConfig) -> Amount:
    """Finds how much the training set holds: from the manifest of shards, or from the first proteins of a FASTA.

    Args:
        data: The config's ``data``.

    Raises:
        UserError: A file cannot be read.
    """
    if data.local is not None and Path(data.local, MANIFEST_NAME).is_file():
        split = read_manifest(Path(data.local)).splits.get(data.train_split)
        return UNKNOWN if split is None else Amount(split.samples, split.mean_length)
    if data.fasta is None:
        return UNKNOWN
    return _sample(TRAIN_FASTA if data.fasta == BUNDLED_SAMPLE else Path(data.fasta))


def _sample(path: Path) -> Amount:
    with open_input(str(path)) as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            text = (igzip.IGzipFile(fileobj=raw) if compressed else raw).read(_SAMPLED)
        except (OSError, EOFError) as error:
            raise UserError(f"{path}: cannot be read: {error}") from error
        share = raw.tell() / max(1, path.stat().st_size)
    lines = text.split(b"\n")
    headers = sum(line.startswith(b">") for line in lines)
    if not headers:
        return UNKNOWN  # the conversion says what is wrong with it
    residues = sum(len(line) for line in lines if not line.startswith(b">"))
    return Amount(headers / max(share, 1e-9), residues / headers)
