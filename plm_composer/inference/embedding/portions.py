"""Cuts a stream of proteins into portions that fit into memory, the same ones each time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator

import xxhash

from plm_composer.inference.embedding.request import RESIDUES, Request


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Most of a portion; a single protein may have more.

    Args:
        proteins: Proteins.
        residues: Residues: some batches' worth to sort by length, and minutes of work to lose, not hours.
        output_bytes: Bytes of its embeddings.
    """

    proteins: int = 4096
    residues: int = 1 << 18
    output_bytes: int = 128 << 20


DEFAULT_BOUNDS = Bounds()


@dataclasses.dataclass(frozen=True)
class Portion:
    """Consecutive proteins of a FASTA.

    Args:
        index: Number of the portion, from 0.
        names: Header of each protein.
        proteins: Residues of each.
    """

    index: int
    names: list[str]
    proteins: list[bytes]

    @property
    def residues(self) -> int:
        """Residues of all of its proteins."""
        return sum(map(len, self.proteins))

    @functools.cached_property
    def digest(self) -> str:
        """xxh3 128-bit hash of names and residues."""
        state = xxhash.xxh3_128()
        for name, protein in zip(self.names, self.proteins, strict=True):
            text = name.encode("utf-8")
            state.update(b"%d %d " % (len(text), len(protein)) + text + protein)
        return state.hexdigest()


def portions_of(
    records: Iterable[tuple[str, bytes]], request: Request, width: int, bounds: Bounds = DEFAULT_BOUNDS
) -> Iterator[Portion]:
    """Cuts proteins into portions.

    Args:
        records: Header and residues of each protein.
        request: What is asked of each.
        width: Width of the model.
        bounds: Most of a portion.
    """
    most_residues = bounds.residues
    if request.kind == RESIDUES:
        most_residues = min(most_residues, bounds.output_bytes // request.row_bytes(width))
    most_proteins = max(1, min(bounds.proteins, bounds.output_bytes // request.row_bytes(width)))
    index, residues = 0, 0
    names: list[str] = []
    proteins: list[bytes] = []
    for name, protein in records:
        if names and (len(names) == most_proteins or residues + len(protein) > most_residues):
            yield Portion(index, names, proteins)
            index, residues, names, proteins = index + 1, 0, [], []
        names.append(name)
        proteins.append(protein)
        residues += len(protein)
    if names:
        yield Portion(index, names, proteins)
