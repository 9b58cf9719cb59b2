"""Encodes the MDS format for one column of bytes: samples, shard files and their entries in the index.

``streaming``'s ``MDSWriter`` writes the same bytes, but encodes sample by sample and imports torch, which takes longer
than the conversion of a million proteins.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
import zstd

COLUMNS = {"sequence": "bytes"}
HASHES = ["xxh64"]
SIZE_BYTES = 4
"""Bytes of the number of residues, which precedes the residues of each sample."""
OFFSET_BYTES = 4
"""Bytes of a sample's offset at the head of a shard."""
MEMBER_SEPARATOR = b"\n"
"""Separates the members of a record that is a cluster; it is not a residue."""
_UINT32 = np.dtype("<u4")


def encode_samples(values: Iterable[bytes], lengths: npt.NDArray[np.int64]) -> bytes:
    """Encodes samples of one column of bytes.

    Args:
        values: The value of each sample.
        lengths: Number of bytes of each value, shape (samples,).

    Returns:
        The samples, one after the other: each the size of its value as uint32, little-endian, and the value.
    """
    parts = [b""] * (2 * len(lengths))
    parts[::2] = lengths.astype(_UINT32).view(np.dtype(f"V{SIZE_BYTES}")).tolist()
    parts[1::2] = values
    return b"".join(parts)


def encode_shard(samples: Sequence[bytes], lengths: npt.NDArray[np.int64], compression: str | None) -> bytes:
    """Makes the content of a shard file, before compression, from samples.

    Args:
        samples: Runs of whole samples, as ``encode_samples`` makes them.
        lengths: Number of bytes of the value of each sample of all runs, shape (samples,).
        compression: Compression as ``streaming`` names it, such as ``zstd:3``; None for none. It is only recorded.
    """
    config = json.dumps(
        {
            **_config(compression),
            "column_names": list(COLUMNS),
            "column_encodings": list(COLUMNS.values()),
            "column_sizes": [None] * len(COLUMNS),
        },
        sort_keys=True,
    ).encode()
    count = len(lengths)
    offsets = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(lengths + SIZE_BYTES, out=offsets[1:])
    offsets += _UINT32.itemsize + OFFSET_BYTES * (count + 1) + len(config)
    head = _UINT32.type(count).tobytes() + offsets.astype(_UINT32).tobytes() + config
    return b"".join([head, *samples])


def compress(data: bytes, compression: str | None) -> bytes:
    """Compresses a shard file as ``streaming`` does.

    Args:
        data: Content of the shard file.
        compression: ``zstd:LEVEL``, or None for none.
    """
    if compression is None:
        return data
    # One thread: several shards are compressed at once, not parts of one. Any number gives the same result.
    compressed: bytes = zstd.compress(data, int(compression.removeprefix("zstd:")), 1)
    return compressed


def index_entry(number: int, samples: int, data: bytes, stored: bytes, compression: str | None) -> dict[str, Any]:
    """A shard's entry in ``index.json``.

    Args:
        number: Position of the shard, from 0.
        samples: Number of samples.
        data: Content before compression.
        stored: Content on the disk.
        compression: ``zstd:LEVEL``, or None for none.
    """
    name = f"shard.{number:05}.mds"
    return {
        "samples": samples,
        "raw_data": file_info(name, data),
        "zip_data": file_info(f"{name}.zstd", stored) if compression else None,
        **_config(compression),
        "column_names": list(COLUMNS),
        "column_encodings": list(COLUMNS.values()),
        "column_sizes": [None] * len(COLUMNS),
    }


def _config(compression: str | None) -> dict[str, Any]:
    return {"version": 2, "format": "mds", "compression": compression, "hashes": HASHES, "size_limit": None}


def file_info(name: str, data: bytes) -> dict[str, Any]:
    """Name, size and hash of a file, for the index."""
    return {"basename": name, "bytes": len(data), "hashes": {"xxh64": xxhash.xxh64_hexdigest(data)}}
