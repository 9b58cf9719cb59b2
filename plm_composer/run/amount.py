"""How much a run's data hold, before they are converted or downloaded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from isal import igzip

from plm_composer.config.schema import DataConfig
from plm_composer.run.conversion import BUNDLED_SAMPLE, shards_folder
from plm_composer.sample import TRAIN_FASTA
from plm_composer.shards.inputs.streams import GZIP_ERROR, STDIN, open_input
from plm_composer.shards.output.manifest import MANIFEST_NAME, read_manifest

_SAMPLED = 8 << 20
"""Characters of a FASTA that are counted; the rest is taken to be like them."""


@dataclasses.dataclass(frozen=True)
class Amount:
    """Proteins of a training set.

    Attributes:
        proteins: Number of proteins; infinite if nobody knows.
        length: Mean number of residues.
        crop: Mean number of tokens of a crop.
    """

    proteins: float
    length: float
    crop: float

    @property
    def tokens(self) -> float:
        """Number of tokens of an epoch."""
        return self.proteins * self.crop


def estimate_amount(data: DataConfig) -> Amount:
    """Finds how much the training set holds: from the manifest of shards, or from the first proteins of a FASTA.

    Args:
        data: The config's ``data``.

    Raises:
        UserError: A file cannot be read.
    """
    shards = _local_shards(data)
    if shards is not None and (shards / MANIFEST_NAME).is_file():
        split = read_manifest(shards).splits.get(data.train_split)
        if split is not None:
            # The longest bins have no end, and exceed any crop.
            bins = [((each["from"] or 0) + (each["to"] or each["from"] or 0)) / 2 for each in split.length_histogram]
            counts = [each["proteins"] or 0 for each in split.length_histogram]
            return Amount(split.samples, split.mean_length, _mean_crop(bins, counts, data.crop_length))
    if data.fasta is not None:
        path = TRAIN_FASTA if data.fasta == BUNDLED_SAMPLE else Path(data.fasta)
        # What is read from a pipe is gone for the conversion.
        if (path.is_file() or not path.exists()) and data.fasta != STDIN:
            return _sample(path, data.crop_length) or unknown_amount(data.crop_length)
    return unknown_amount(data.crop_length)


def _local_shards(data: DataConfig) -> Path | None:
    """The folder that holds the shards, or will; None if they are elsewhere."""
    if data.fasta is not None:
        return shards_folder(data.fasta, data.local)
    return Path(data.local) if data.local else None


def unknown_amount(crop_length: int) -> Amount:
    """What streams from elsewhere is taken to hold: enough. UniRef50's proteins have 300 residues on average."""
    return Amount(math.inf, 300.0, min(302.0, crop_length))


def _mean_crop(lengths: Sequence[float], counts: Sequence[int], crop_length: int) -> float:
    return float(np.average(np.minimum(np.add(lengths, 2), crop_length), weights=counts))


def _sample(path: Path, crop_length: int) -> Amount | None:
    """Counts the first proteins of a FASTA; None if there are none: the conversion says what is wrong."""
    with open_input(str(path)) as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            text = (igzip.IGzipFile(fileobj=raw) if compressed else raw).read(_SAMPLED)
        except (OSError, EOFError, GZIP_ERROR):
            return None
        share = raw.tell() / max(1, path.stat().st_size)
    records = (b"\n" + text).split(b"\n>")[1:]
    if not records:
        return None
    lengths = [sum(map(len, record.split(b"\n")[1:])) for record in records]
    crop = _mean_crop(lengths, [1] * len(lengths), crop_length)
    return Amount(len(lengths) / max(share, 1e-9), sum(lengths) / len(lengths), crop)
