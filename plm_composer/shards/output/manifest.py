"""The manifest of a converted dataset: inputs, outputs, and dropped records."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xxhash

from plm_composer.errors import UserError
from plm_composer.shards.inputs.clusters import ClusterSummary
from plm_composer.shards.inputs.sources import SourceSummary

MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.json"
FORMAT_VERSION = 1

LENGTH_BINS = (1, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192, 16384, 32768)
"""First length, in residues, of each bin of the length histogram; the last bin has no end."""


@dataclass(frozen=True)
class ShardSummary:
    """A shard that was written.

    Attributes:
        split: ``train`` or ``val``.
        number: Position in the split, from 0.
        entry: Its entry in ``index.json``.
        proteins: Number of proteins; more than samples if these are clusters.
        residues: Number of residues.
        min_length: Length of the shortest protein, in residues.
        max_length: Length of the longest protein, in residues.
        length_counts: Number of proteins in each of ``LENGTH_BINS``.
        letter_counts: Number of each letter A to Z.
    """

    split: str
    number: int
    entry: dict[str, Any]
    proteins: int
    residues: int
    min_length: int
    max_length: int
    length_counts: tuple[int, ...]
    letter_counts: tuple[int, ...]


@dataclass(frozen=True)
class SplitSummary:
    """A split: counts, lengths in residues, composition, digest of its shards, and number of clusters."""

    proteins: int
    residues: int
    shards: int
    bytes: int
    min_length: int
    mean_length: float
    max_length: int
    length_histogram: list[dict[str, int | None]]
    composition: dict[str, int]
    digest: str
    clusters: int | None = None
    """Number of samples if each holds the members of one cluster; None if each is one protein."""

    @property
    def samples(self) -> int:
        """Number of samples in the shards: clusters, or proteins."""
        return self.proteins if self.clusters is None else self.clusters


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``.

    Attributes:
        format_version: Version of this layout.
        tool: Program and version that wrote it.
        digest: Hash over the hashes of all shards: equal for equal proteins in equal order, format and shard size.
        columns: MDS columns.
        settings: Arguments that determine the output.
        sources: Inputs in the order in which they were read.
        splits: ``train``, and ``val`` if there is one.
        dropped: Number of dropped records by reason.
        clusters: The list of clusters that decided the split; None without one.
    """

    format_version: int
    tool: str
    digest: str
    columns: dict[str, str]
    settings: dict[str, Any]
    sources: list[SourceSummary]
    splits: dict[str, SplitSummary]
    dropped: dict[str, int]
    clusters: ClusterSummary | None = None

    def to_json(self) -> str:
        """The manifest as JSON, with a line end."""
        return json.dumps(asdict(self), indent=2) + "\n"


def _digest(parts: Sequence[str]) -> str:
    return xxhash.xxh3_128_hexdigest("\n".join(parts).encode())


def digest_of_shards(entries: Sequence[Mapping[str, Any]]) -> str:
    """The digest of a split, from the entries of its ``index.json``: over the hashes of its shards in their order."""
    return _digest([f"{name}:{h}" for entry in entries for name, h in entry["raw_data"]["hashes"].items()])


def summarise_split(shards: Sequence[ShardSummary], *, of_clusters: bool = False) -> SplitSummary:
    """Adds up the shards of one split.

    Args:
        shards: Shards of the split, in order; at least one.
        of_clusters: Whether each sample holds the members of a cluster.
    """
    proteins = sum(shard.proteins for shard in shards)
    residues = sum(shard.residues for shard in shards)
    ends = [start - 1 for start in LENGTH_BINS[1:]] + [None]
    counts = [sum(column) for column in zip(*(shard.length_counts for shard in shards), strict=True)]
    letters = [sum(column) for column in zip(*(shard.letter_counts for shard in shards), strict=True)]
    return SplitSummary(
        proteins=proteins,
        residues=residues,
        shards=len(shards),
        bytes=sum((shard.entry["zip_data"] or shard.entry["raw_data"])["bytes"] for shard in shards),
        min_length=min(shard.min_length for shard in shards),
        mean_length=round(residues / proteins, 3),
        max_length=max(shard.max_length for shard in shards),
        length_histogram=[
            {"from": start, "to": end, "proteins": count}
            for start, end, count in zip(LENGTH_BINS, ends, counts, strict=True)
        ],
        composition={chr(ord("A") + i): count for i, count in enumerate(letters) if count},
        digest=digest_of_shards([shard.entry for shard in shards]),
        clusters=sum(shard.entry["samples"] for shard in shards) if of_clusters else None,
    )


def summarise(
    splits: dict[str, SplitSummary],
    sources: Sequence[SourceSummary],
    dropped: Counter[str],
    columns: dict[str, str],
    settings: dict[str, Any],
    clusters: ClusterSummary | None = None,
) -> Manifest:
    """Makes the manifest."""
    return Manifest(
        format_version=FORMAT_VERSION,
        tool=f"plm-composer {version('plm-composer')}",
        digest=_digest([f"{name}:{split.digest}" for name, split in splits.items()]),
        columns=columns,
        settings=settings,
        sources=list(sources),
        splits=splits,
        dropped={reason: count for reason, count in sorted(dropped.items()) if count},
        clusters=clusters,
    )


def read_manifest(folder: str | Path) -> Manifest:
    """Reads the manifest of a converted dataset.

    Args:
        folder: The folder that holds ``manifest.json`` beside ``train/``.

    Raises:
        UserError: It is missing, or not a manifest of the converter.
    """
    path = Path(folder) / MANIFEST_NAME
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["format_version"] != FORMAT_VERSION:
            raise UserError(f"{path}: format version {fields['format_version']}; this program reads {FORMAT_VERSION}")
        fields["sources"] = [SourceSummary(**source) for source in fields["sources"]]
        fields["splits"] = {name: SplitSummary(**split) for name, split in fields["splits"].items()}
        if fields.get("clusters") is not None:
            fields["clusters"] = ClusterSummary(**fields["clusters"])
        return Manifest(**fields)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; is this a folder that the converter wrote?") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a manifest of the converter ({error}); convert again") from None
