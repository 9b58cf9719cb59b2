"""Finishes a conversion: writes the indexes and the manifest of the shards."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plm_composer.errors import UserError
from plm_composer.files.mds import COLUMNS
from plm_composer.shards.inputs.clusters import ClusterSummary
from plm_composer.shards.inputs.sources import SourceSummary
from plm_composer.shards.inputs.split import SPLITS, TRAIN, VAL
from plm_composer.shards.output.manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    Manifest,
    ShardSummary,
    summarise,
    summarise_split,
)
from plm_composer.shards.output.settings import Settings
from plm_composer.shards.output.staging import write_durably


class NoValidationProteins(UserError):
    """No protein's hash falls into validation.

    Args:
        proteins: Number of proteins.
        fraction: Share that should go to validation, above 0 and below 1.
    """

    def __init__(self, proteins: int, fraction: float) -> None:
        self.proteins, self.fraction = proteins, fraction
        super().__init__(
            f"none of the {proteins:,} proteins falls into validation; raise --val-fraction (now {fraction:g}), or set "
            "it to 0 for no validation set"
        )


def finish(
    folder: Path,
    written: Sequence[ShardSummary],
    sources: Sequence[SourceSummary],
    dropped: Counter[str],
    settings: Settings,
    clusters: ClusterSummary | None = None,
) -> Manifest:
    """Writes the indexes and the manifest, removes other files beside the shards, and reads the indexes back.

    Args:
        folder: The dataset, with a subfolder for each split.
        written: The shards, those of a split in order.
        sources: Summaries of the inputs, in order.
        dropped: Number of dropped records by reason.
        settings: The settings that determined the output.
        clusters: Summary of the list of clusters; None without one.

    Raises:
        UserError: A split has no proteins.
        OSError: The disk is full or fails.
    """
    by_split = {split: [shard for shard in written if shard.split == split] for split in SPLITS}
    _require_proteins(by_split, sources, settings, dropped)
    for split, summaries in by_split.items():
        if summaries:
            index = {"version": 2, "shards": [shard.entry for shard in summaries]}
            _remove_others(folder / split, summaries)
            write_durably(folder / split / INDEX_NAME, json.dumps(index, sort_keys=True).encode())
        else:
            shutil.rmtree(folder / split)
    of_clusters = clusters is not None and clusters.members == "together"
    manifest = summarise(
        {
            split: summarise_split(summaries, of_clusters=of_clusters)
            for split, summaries in by_split.items()
            if summaries
        },
        sources,
        dropped,
        COLUMNS,
        settings.to_dict(),
        clusters,
    )
    write_durably(folder / MANIFEST_NAME, manifest.to_json().encode())
    _check(folder, manifest)
    return manifest


def _require_proteins(
    by_split: dict[str, list[ShardSummary]], sources: Sequence[SourceSummary], settings: Settings, dropped: Counter[str]
) -> None:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(dropped.items()) if count) or "none"
    if not by_split[TRAIN]:
        raise UserError(f"no proteins are left to train on (dropped: {reasons})")
    if not by_split[VAL] and any(source.split == VAL for source in sources):
        raise UserError(f"no proteins are left to validate on (dropped: {reasons})")
    if not by_split[VAL] and settings.val_fraction:
        total = sum(shard.proteins for shard in by_split[TRAIN])
        raise NoValidationProteins(total, settings.val_fraction)


def _remove_others(folder: Path, shards: Sequence[ShardSummary]) -> None:
    """Removes extra shards, which an interrupted conversion of a longer input left."""
    names = {(shard.entry["zip_data"] or shard.entry["raw_data"])["basename"] for shard in shards}
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


def _check(folder: Path, manifest: Manifest) -> None:
    """Reads the written indexes back and compares counts and file sizes.

    Raises:
        OSError: The files on the disk are not what was written.
    """
    for split, summary in manifest.splits.items():
        path = folder / split / INDEX_NAME
        entries: list[dict[str, Any]] = json.loads(path.read_text())["shards"]
        stored = [entry["zip_data"] or entry["raw_data"] for entry in entries]
        sizes = [(path.parent / info["basename"]).stat().st_size for info in stored]
        if sum(entry["samples"] for entry in entries) != summary.samples or sizes != [i["bytes"] for i in stored]:
            raise OSError(None, "the files read back differ from what was written", str(path))
