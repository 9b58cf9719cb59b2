"""Reads clusters of similar proteins, as MMseqs2 lists them, and looks up the cluster of each protein."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import xxhash

from plm_composer.errors import UserError
from plm_composer.shards.inputs.streams import CorruptStream, HashedFile, decompress, open_input, unify_line_ends

Keys = npt.NDArray[np.uint64]
"""64-bit hashes (XXH3) of names of clusters or proteins."""
Unlisted = Literal["error", "alone"]
Members = Literal["apart", "together"]

_LINES_AT_ONCE = 1 << 20
_SEPARATORS = b"\t\n"
_ALL_BUT_SEPARATORS = bytes(sorted(set(range(256)) - set(_SEPARATORS)))


@dataclass(frozen=True)
class ClusterSummary:
    """The list of clusters of a conversion: its file, the number of its lines, and the options for it."""

    name: str
    bytes: int
    xxh3_128: str
    pairs: int
    unlisted: str
    members: str


@dataclass(frozen=True)
class Membership:
    """The clusters of some proteins.

    Attributes:
        keys: Hash of the name of each protein's cluster, shape (proteins,).
        leads: Whether each protein is its cluster's representative, shape (proteins,).
        listed: Whether each protein is in the list, shape (proteins,).
    """

    keys: Keys
    leads: npt.NDArray[np.bool_]
    listed: npt.NDArray[np.bool_]

    def select(self, mask: npt.NDArray[np.bool_]) -> Membership:
        """The clusters of the proteins for which ``mask``, shape (proteins,), is true."""
        return Membership(self.keys[mask], self.leads[mask], self.listed[mask])


class ClusterTable:
    """A list of clusters: in each line a cluster's representative, a tab, and one member.

    It keeps no names, only their 64-bit hashes: 16 bytes per line, and twice that while it is sorted.

    Args:
        path: The file, as ``mmseqs createtsv`` or ``easy-cluster`` writes it, plain or compressed with gzip.
        unlisted: For a protein that is not in the list, ``error`` stops the conversion, and ``alone`` makes it a
            cluster of its own (shared by equal sequences).
        members: How the members of a cluster are stored: ``apart``, one record each, or ``together`` in one record.

    Raises:
        UserError: The file is unreadable, a line is not two names and a tab, or a protein is in two clusters.
    """

    def __init__(self, path: str | Path, unlisted: Unlisted = "error", members: Members = "apart") -> None:
        self.path = str(path)
        self.unlisted: Unlisted = unlisted
        self.members: Members = members
        self._file: HashedFile | None = None
        # These grow in place, by an eighth; a list of small arrays would leave as much memory again on the heap.
        all_keys, all_members = array("Q"), array("Q")
        for _, keys, names in self._pairs():
            all_keys.frombytes(_hashes(keys).tobytes())
            all_members.frombytes(_hashes(names).tobytes())
        if not all_members:
            raise UserError(f"{self.path}: empty, without a single cluster")
        order = np.argsort(np.frombuffer(all_members, dtype=np.uint64))
        self._members = np.frombuffer(all_members, dtype=np.uint64)[order]
        del all_members
        self._keys = np.frombuffer(all_keys, dtype=np.uint64)[order]
        del all_keys, order
        self._check()

    def membership(self, ids: Sequence[bytes], digests: Keys) -> Membership:
        """Looks up the clusters of proteins.

        The name of a protein is the first word of its header or, if that is not listed, the text between its first
        two bars: MMseqs2 shortens ``sp|P69905|HBA_HUMAN`` to ``P69905``.

        Args:
            ids: The first word of each header.
            digests: Hash of each protein's residues, shape (proteins,): its cluster's key if it is not listed.
        """
        hashes = _hashes(ids)
        keys, found = self._find(hashes)
        barred = np.array([i for i in np.flatnonzero(~found).tolist() if b"|" in ids[i]], dtype=np.intp)
        if len(barred):
            hashes[barred] = _hashes([ids[i].split(b"|", 2)[1] for i in barred.tolist()])
            keys[barred], found[barred] = self._find(hashes[barred])
        keys = np.where(found, keys, digests)
        return Membership(keys, ~found | (hashes == keys), found)

    def summary(self) -> ClusterSummary:
        """Summary of the list. Its name has no folders, so that two machines write the same manifest."""
        assert self._file is not None
        return ClusterSummary(
            Path(self.path).name,
            self._file.bytes_read,
            self._file.hexdigest(),
            len(self._members),
            self.unlisted,
            self.members,
        )

    def _find(self, hashes: Keys) -> tuple[Keys, npt.NDArray[np.bool_]]:
        places = np.minimum(np.searchsorted(self._members, hashes), len(self._members) - 1)
        return self._keys[places], self._members[places] == hashes

    def _check(self) -> None:
        """Refuses a protein in two clusters, as member of two or as member of one and representative of another."""
        twice = np.flatnonzero((self._members[1:] == self._members[:-1]) & (self._keys[1:] != self._keys[:-1]))
        if len(twice):
            self._refuse_second_cluster(int(self._members[twice[0]]))
        for start in range(0, len(self._keys), _LINES_AT_ONCE):
            keys = np.unique(self._keys[start : start + _LINES_AT_ONCE])  # sorted keys are found ten times as fast
            keys_of_keys, found = self._find(keys)
            astray = np.flatnonzero(found & (keys_of_keys != keys))
            if len(astray):
                self._refuse_second_cluster(int(keys[astray[0]]))

    def _refuse_second_cluster(self, protein: int) -> None:
        """Reads the file again to find the line numbers, which are not stored."""
        first: tuple[int, bytes] | None = None
        for line, keys, members in self._pairs():
            for number, (key, member) in enumerate(zip(keys, members, strict=True), line):
                hashes = {xxhash.xxh3_64_intdigest(name): name for name in (key, member)}
                if protein not in hashes:
                    continue
                if first is None:
                    first = number, key
                elif first[1] != key:
                    raise UserError(
                        f"{self.path}, line {number}: {_shown(hashes[protein])} is in the cluster of {_shown(key)}, "
                        f"but in line {first[0]} in that of {_shown(first[1])}; give it one cluster"
                    )
        raise UserError(f"{self.path}: changed while it was read; try again")

    def _pairs(self) -> Iterator[tuple[int, list[bytes], list[bytes]]]:
        """Yields for each block the number of its first line, and its two columns."""
        line, rest = 1, b""
        with open_input(self.path) as file:
            self._file = HashedFile(file)
            try:
                must_be_gzip = self.path.lower().endswith(".gz")
                for chunk in unify_line_ends(decompress(self._file.chunks(), must_be_gzip=must_be_gzip)):
                    text, end, tail = (rest + chunk).rpartition(b"\n")
                    rest = tail
                    if end:
                        yield line, *self._columns(text + end, line)
                        line += text.count(b"\n") + 1
            except CorruptStream as error:
                raise UserError(f"{self.path}: {error}") from None
            except OSError as error:
                raise UserError(f"{self.path}: cannot be read: {error.strerror}") from None
        if rest:
            yield line, *self._columns(rest + b"\n", line)

    def _columns(self, text: bytes, line: int) -> tuple[list[bytes], list[bytes]]:
        names = text[:-1].replace(b"\n", b"\t").split(b"\t")
        lines = text.count(b"\n")
        if text.translate(None, _ALL_BUT_SEPARATORS) != _SEPARATORS * lines or not all(names):
            for number, row in enumerate(text[:-1].split(b"\n"), line):
                columns = row.split(b"\t")
                if len(columns) != 2 or not all(columns):
                    raise UserError(
                        f"{self.path}, line {number}: {_shown(row)}: expected a representative, a tab and a member"
                    )
        return names[::2], names[1::2]


def _hashes(names: Sequence[bytes]) -> Keys:
    return np.fromiter(map(xxhash.xxh3_64_intdigest, names), dtype=np.uint64, count=len(names))


def _shown(name: bytes) -> str:
    return ascii(name[:60])[1:]
