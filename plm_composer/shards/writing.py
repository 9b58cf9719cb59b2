"""Cleaned proteins to MDS shards of a fixed size: cutting them up, and writing each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from plm_composer.shards.cleaning import Records
from plm_composer.shards.manifest import LENGTH_BINS, ShardSummary

COLUMNS = {"sequence": "bytes"}
HASHES = ["xxh64"]
_BYTES_PER_SAMPLE = 8
"""What MDS adds to a sample: its offset in the shard and the size of its only column, 4 bytes each."""


@dataclass(frozen=True)
class Shard:
    """The content of one shard.

    Attributes:
        split: ``train`` or ``val``.
        number: Position in the split, from 0.
        pieces: Residues of all proteins, one after the other, once joined.
        lengths: Residues in each protein, shape (proteins,).
    """

    split: str
    number: int
    pieces: list[bytes]
    lengths: npt.NDArray[np.int64]


class ShardCutter:
    """Collects the proteins of one split and cuts them into shards; how they arrive in portions does not matter.

    Args:
        split: ``train`` or ``val``.
        size_limit: Bytes of a shard before compression. A single protein may exceed it.
    """

    def __init__(self, split: str, size_limit: int) -> None:
        self._split = split
        self._size_limit = size_limit
        self._number = 0
        self._clear()

    def _clear(self) -> None:
        self._pieces: list[bytes] = []
        self._lengths: list[npt.NDArray[np.int64]] = []
        self._size = 0

    def add(self, records: Records) -> Iterator[Shard]:
        """Takes proteins in; yields each shard that they complete."""
        ends = np.cumsum(records.lengths + _BYTES_PER_SAMPLE)
        letter_ends = np.cumsum(records.lengths)
        start = 0
        while start < len(records):
            size_before = int(ends[start - 1]) if start else 0
            stop = int(np.searchsorted(ends, size_before + self._size_limit - self._size, side="right"))
            if stop == start and not self._size:
                stop += 1
            if stop > start:
                first_letter = int(letter_ends[start - 1]) if start else 0
                self._pieces.append(records.residues[first_letter : int(letter_ends[stop - 1])])
                self._lengths.append(records.lengths[start:stop])
                self._size += int(ends[stop - 1]) - size_before
            if stop < len(records):
                yield from self.finish()
            start = stop

    def finish(self) -> Iterator[Shard]:
        """Yields the last shard, unless there is nothing in it."""
        if self._lengths:
            yield Shard(self._split, self._number, self._pieces, np.concatenate(self._lengths))
            self._number += 1
            self._clear()


def write_shard(shard: Shard, folder: Path, compression: str | None) -> ShardSummary:
    """Writes one shard file into ``folder``/split and waits until it is on the disk.

    Args:
        shard: The content.
        folder: The dataset's folder.
        compression: As ``streaming`` names it, such as ``zstd:3``; None for none.

    Raises:
        OSError: The disk is full or fails.
    """
    # Slow to import, and needed by the workers alone.
    from streaming import MDSWriter

    residues = b"".join(shard.pieces)
    bounds = [0, *np.cumsum(shard.lengths).tolist()]
    split_folder = folder / shard.split
    own_folder = split_folder / f"writing.{shard.number:05}"
    # One shard without a limit, flushed by hand: `finish` would add an index, which must come last of all.
    writer = MDSWriter(
        columns=COLUMNS, out=str(own_folder), compression=compression, hashes=HASHES, size_limit=None, max_workers=1
    )
    # `writer.write` for each protein would take longer than the compression.
    sizes = shard.lengths.astype("<u4").tobytes()
    writer.new_samples = [
        sizes[4 * i : 4 * i + 4] + residues[start:stop] for i, (start, stop) in enumerate(pairwise(bounds))
    ]
    try:
        writer.flush_shard()
    finally:
        writer.executor.shutdown(wait=True)
    (entry,) = writer.shards

    stored = entry["zip_data"] or entry["raw_data"]
    written = own_folder / stored["basename"]
    with written.open("rb") as file:
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
    if size != stored["bytes"]:
        raise OSError(None, f"{size} bytes on the disk instead of {stored['bytes']}", str(written))
    for info in (entry["raw_data"], entry["zip_data"]):
        if info:
            info["basename"] = info["basename"].replace("shard.00000.", f"shard.{shard.number:05}.")
    written.rename(split_folder / stored["basename"])
    shutil.rmtree(own_folder)

    letters = np.bincount(np.frombuffer(residues, dtype=np.uint8), minlength=ord("Z") + 1)
    bins = np.searchsorted(LENGTH_BINS, shard.lengths, side="right") - 1
    return ShardSummary(
        split=shard.split,
        entry=entry,
        residues=len(residues),
        min_length=int(shard.lengths.min()),
        max_length=int(shard.lengths.max()),
        length_counts=tuple(np.bincount(bins, minlength=len(LENGTH_BINS)).tolist()),
        letter_counts=tuple(letters[ord("A") :].tolist()),
    )
