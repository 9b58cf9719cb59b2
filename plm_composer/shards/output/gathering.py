"""Gathers the members of each cluster, however far apart they are in the input, by a bucket sort on the disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from plm_composer.errors import UserError
from plm_composer.files.mds import MEMBER_SEPARATOR, SIZE_BYTES, encode_samples
from plm_composer.shards.inputs.cleaning import cut
from plm_composer.shards.inputs.records import Records
from plm_composer.shards.inputs.split import SPLITS

BUFFER_BYTES = 64 << 20
"""Bytes of residues in memory before they go to the disk."""
MAX_CLUSTER_BYTES = 256 << 20
"""Bytes that the record of a cluster may have."""
_BUCKET_BITS = 10
"""First bits of a cluster's key, its bucket: 100 GB of proteins make 1,024 of 100 MB, one in memory at a time."""
_ROW = np.dtype([("key", "<u8"), ("length", "<u4"), ("leads", "?")])
_Rows = npt.NDArray[np.void]


def gather(
    portions: Iterable[tuple[str, Records]], folder: Path, buffer_bytes: int | None = None
) -> Iterator[tuple[str, Records]]:
    """Makes one record of each cluster: its members joined by ``MEMBER_SEPARATOR``, the representative first.

    Members are in the order of the input, clusters in the order of their keys. The output depends on nothing else.

    Args:
        portions: Pairs of a split and proteins of it, which have a ``membership``.
        folder: Folder for temporary files beyond ``buffer_bytes``. It must not exist, holds all residues uncompressed
            meanwhile, and is removed at the end.
        buffer_bytes: Bytes of residues in memory at once. Default: ``BUFFER_BYTES``.

    Yields:
        Pairs of a split and records of it; all of training first.

    Raises:
        UserError: A cluster has more than ``MAX_CLUSTER_BYTES``.
    """
    gatherers = {split: _Gatherer(folder / split, buffer_bytes or BUFFER_BYTES) for split in SPLITS}
    for split, records in portions:
        gatherers[split].add(records)
    for split, gatherer in gatherers.items():
        for records in gatherer.finish():
            yield split, records
    if folder.exists():
        folder.rmdir()


class _Gatherer:
    """Gathers the clusters of one split."""

    def __init__(self, folder: Path, buffer_bytes: int) -> None:
        self._folder = folder
        self._buffer_bytes = buffer_bytes
        self._rows: list[_Rows] = []
        self._proteins: list[bytes] = []
        self._bytes = 0

    def add(self, records: Records) -> None:
        """Adds proteins."""
        assert records.membership is not None, "proteins without clusters cannot be gathered"
        rows = np.empty(len(records), dtype=_ROW)
        rows["key"], rows["length"] = records.membership.keys, records.lengths
        rows["leads"] = records.membership.leads
        self._rows.append(rows)
        self._proteins += [sample[SIZE_BYTES:] for sample in cut(records.samples, records.lengths + SIZE_BYTES)]
        self._bytes += len(records.samples)
        if self._bytes > self._buffer_bytes:
            self._spill()

    def finish(self) -> Iterator[Records]:
        """Yields the records, some clusters at a time."""
        if not self._folder.exists():
            if self._proteins:
                yield _join(np.concatenate(self._rows), self._proteins)
            return
        if self._proteins:
            self._spill()
        for path in sorted(self._folder.glob("*.rows")):
            residues = path.with_suffix(".residues")
            rows = np.fromfile(path, dtype=_ROW)
            yield _join(rows, cut(residues.read_bytes(), rows["length"].astype(np.int64)))
            path.unlink()
            residues.unlink()
        self._folder.rmdir()

    def _spill(self) -> None:
        """Appends the proteins in memory to the buckets, which are in the order of the keys."""
        self._folder.mkdir(parents=True, exist_ok=True)
        rows = np.concatenate(self._rows)
        buckets = (rows["key"] >> np.uint64(64 - _BUCKET_BITS)).astype(np.int64)
        order = np.argsort(buckets, kind="stable")
        names, starts = np.unique(buckets[order], return_index=True)
        for name, chosen in zip(names.tolist(), np.split(order, starts[1:]), strict=True):
            with (self._folder / f"{name:04}.rows").open("ab") as file:
                file.write(rows[chosen].tobytes())
            with (self._folder / f"{name:04}.residues").open("ab") as file:
                file.write(b"".join([self._proteins[i] for i in chosen.tolist()]))
        self._rows, self._proteins, self._bytes = [], [], 0


def _join(rows: _Rows, proteins: list[bytes]) -> Records:
    order = np.lexsort((~rows["leads"], rows["key"]))  # stable: other members keep the order of the input
    keys, starts = np.unique(rows["key"][order], return_index=True)
    ends = np.append(starts[1:], len(order))
    ordered = [proteins[i] for i in order.tolist()]
    values = [
        MEMBER_SEPARATOR.join(ordered[start:end]) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
    lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
    largest = int(lengths.argmax())
    if lengths[largest] > MAX_CLUSTER_BYTES:
        raise UserError(
            f"a cluster of {ends[largest] - starts[largest]:,} proteins has {lengths[largest]:,} residues, more than "
            f"{MAX_CLUSTER_BYTES >> 20} MiB; make smaller clusters, or choose --cluster-members apart"
        )
    return Records(encode_samples(values, lengths), lengths, keys)
