"""Cuts cleaned proteins into MDS shards of a fixed size, and writes each shard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plm_composer.files.mds import (
    MEMBER_SEPARATOR,
    OFFSET_BYTES,
    SIZE_BYTES,
    compress,
    encode_shard,
    file_info,
    index_entry,
)
from plm_composer.shards.inputs.cleaning import Lengths
from plm_composer.shards.inputs.records import Records
from plm_composer.shards.output.manifest import LENGTH_BINS, ShardSummary
from plm_composer.shards.output.staging import write_durably

_COUNTED_AT_ONCE = 1 << 18
"""Pairs of bytes counted at once: they stay in a core's cache when ``np.bincount`` widens each to 8 bytes."""


@dataclass(frozen=True)
class Shard:
    """The content of one shard.

    Attributes:
        split: ``train`` or ``val``.
        number: Position in the split, from 0.
        samples: Runs of encoded proteins, see ``Records``.
        lengths: Number of bytes of each record of all runs, shape (records,).
    """

    split: str
    number: int
    samples: list[bytes]
    lengths: Lengths


class ShardCutter:
    """Collects the proteins of one split and cuts them into shards, whatever the portions in which they arrive.

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
        self._samples: list[bytes] = []
        self._lengths: list[Lengths] = []
        self._size = 0

    def add(self, records: Records) -> Iterator[Shard]:
        """Adds proteins; yields each shard that they complete."""
        sample_ends = np.cumsum(records.lengths + SIZE_BYTES)
        ends = sample_ends + OFFSET_BYTES * np.arange(1, len(records) + 1)
        start = 0
        while start < len(records):
            size_before = int(ends[start - 1]) if start else 0
            stop = int(np.searchsorted(ends, size_before + self._size_limit - self._size, side="right"))
            if stop == start and not self._size:
                stop += 1
            if stop > start:
                first_byte = int(sample_ends[start - 1]) if start else 0
                self._samples.append(records.samples[first_byte : int(sample_ends[stop - 1])])
                self._lengths.append(records.lengths[start:stop])
                self._size += int(ends[stop - 1]) - size_before
            if stop < len(records):
                yield from self.finish()
            start = stop

    def finish(self) -> Iterator[Shard]:
        """Yields the last shard, unless it is empty."""
        if self._lengths:
            shard = Shard(self._split, self._number, self._samples, np.concatenate(self._lengths))
            self._number += 1
            self._clear()
            yield shard


def write_shard(shard: Shard, folder: Path, compression: str | None, done: ShardSummary | None = None) -> ShardSummary:
    """Writes one shard file into ``folder``/split and waits until it is on the disk.

    Args:
        shard: The content.
        folder: The dataset's folder.
        compression: Compression as ``streaming`` names it, such as ``zstd:3``; None for none.
        done: Summary of the shard that an earlier run with this compression wrote here; kept if the content is equal.

    Raises:
        OSError: The disk is full or fails.
    """
    data = encode_shard(shard.samples, shard.lengths, compression)
    if done is not None and _is_stored(done.entry, data, folder / shard.split):
        return done
    stored = compress(data, compression)
    entry = index_entry(shard.number, len(shard.lengths), data, stored, compression)
    path = folder / shard.split / (entry["zip_data"] or entry["raw_data"])["basename"]
    write_durably(path, stored)
    size = path.stat().st_size
    if size != len(stored):
        raise OSError(None, f"{size} bytes on the disk instead of {len(stored)}", str(path))

    samples = memoryview(data)[len(data) - sum(map(len, shard.samples)) :]
    sizes = shard.lengths.astype("<u4").tobytes()
    counts = _count_bytes(samples) - _count_bytes(sizes)
    has_clusters = counts[ord(MEMBER_SEPARATOR)] > 0
    lengths = _member_lengths(samples, shard.lengths) if has_clusters else shard.lengths
    bins = np.searchsorted(LENGTH_BINS, lengths, side="right") - 1
    return ShardSummary(
        split=shard.split,
        number=shard.number,
        entry=entry,
        proteins=len(lengths),
        residues=int(lengths.sum()),
        min_length=int(lengths.min()),
        max_length=int(lengths.max()),
        length_counts=tuple(np.bincount(bins, minlength=len(LENGTH_BINS)).tolist()),
        letter_counts=tuple(counts[ord("A") : ord("Z") + 1].tolist()),
    )


def _is_stored(entry: dict[str, Any], data: bytes, folder: Path) -> bool:
    """Whether a shard has this content, and its file on the disk is intact."""
    raw, stored = entry["raw_data"], entry["zip_data"] or entry["raw_data"]
    path = folder / stored["basename"]
    if raw != file_info(raw["basename"], data) or not path.is_file():
        return False
    return bool(stored == file_info(path.name, path.read_bytes()))


def _member_lengths(samples: memoryview, lengths: Lengths) -> Lengths:
    """Residues in each member of records that are clusters, shape (proteins,)."""
    ends = np.cumsum(lengths + SIZE_BYTES)
    starts = ends - lengths
    separators = np.flatnonzero(np.frombuffer(samples, dtype=np.uint8) == ord(MEMBER_SEPARATOR))
    # The size before each record may contain the separator's byte too.
    separators = separators[separators >= starts[np.searchsorted(ends, separators, side="right")]]
    member_starts = np.sort(np.concatenate([starts, separators + 1]))
    member_lengths: Lengths = np.sort(np.concatenate([ends, separators])) - member_starts
    return member_lengths


def _count_bytes(data: bytes | memoryview) -> Lengths:
    """Number of occurrences of each byte, shape (256,). Counting pairs takes half the time."""
    pairs = np.frombuffer(data, dtype=np.uint16, count=len(data) // 2)
    counts = np.zeros((256, 256), dtype=np.int64)
    for start in range(0, len(pairs), _COUNTED_AT_ONCE):
        counts += np.bincount(pairs[start : start + _COUNTED_AT_ONCE], minlength=1 << 16).reshape(256, 256)
    singles: Lengths = counts.sum(axis=0) + counts.sum(axis=1)
    if len(data) % 2:
        singles[data[-1]] += 1
    return singles
