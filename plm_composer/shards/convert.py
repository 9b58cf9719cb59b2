"""The converter's two entry points: FASTA files and Hugging Face datasets to MDS shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from plm_composer.errors import UserError
from plm_composer.shards.inputs.clusters import ClusterTable, Members, Unlisted
from plm_composer.shards.inputs.fasta import FastaSource
from plm_composer.shards.inputs.split import TRAIN, VAL
from plm_composer.shards.output.manifest import Manifest
from plm_composer.shards.output.settings import Settings
from plm_composer.shards.pipeline import run


def convert_fasta(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    val_fraction: float | None = None,
    val_inputs: Sequence[str | Path] = (),
    clusters: str | Path | None = None,
    unlisted: Unlisted | None = None,
    cluster_members: Members | None = None,
    settings: Settings | None = None,
    processes: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Manifest:
    """Converts FASTA files to MDS shards.

    Args:
        inputs: Files, plain or compressed with gzip; ``-`` is standard input.
        out: Folder or URL of the dataset.
        val_fraction: Share of ``inputs`` that goes to validation, 0 to below 1, chosen by hash of the sequence.
            Default: that of ``settings``, or 0 with ``val_inputs``.
        val_inputs: Files of the validation set. Their proteins are left out of training.
        clusters: File of clusters (representative, tab, member in each line). The split keeps clusters whole: the
            hash of the representative's name decides for all members.
        unlisted: How to treat a protein in no cluster, see ``ClusterTable``. Default: ``error``.
        cluster_members: ``apart`` (default) stores each member of a cluster as a record; ``together`` stores a
            cluster as one record, of which training draws one member in each epoch.
        settings: The other settings that determine the output.
        processes: Number of threads that compress and write shards. Default: one per core, 16 at most.
        overwrite: Whether to replace a dataset at ``out``.
        progress: Whether to report progress on stderr.

    Returns:
        The manifest that was written.

    Raises:
        UserError: An input, the output or an argument is unusable, or the disk is full.
    """
    if val_inputs and val_fraction:
        raise UserError("--val and --val-fraction: choose one, a given validation set or a share of the input")
    for option, value in (("--unlisted", unlisted), ("--cluster-members", cluster_members)):
        if clusters is None and value is not None:
            raise UserError(f"{option}: there are no clusters; give them with --clusters")
    if val_inputs and clusters is not None and cluster_members != "together":
        raise UserError(
            "--val and --clusters: the validation set is given, so the clusters have no effect; leave one out, or "
            "choose --cluster-members together"
        )
    sources = [FastaSource(path, VAL) for path in val_inputs] + [FastaSource(path, TRAIN) for path in inputs]
    return run(
        sources,
        out,
        settings=settings_for(settings, val_fraction, has_val=bool(val_inputs)),
        clusters=None if clusters is None else ClusterTable(clusters, unlisted or "error", cluster_members or "apart"),
        processes=processes,
        overwrite=overwrite,
        progress=progress,
    )


def convert_huggingface(
    paths: Sequence[str],
    out: str | Path,
    *,
    column: str | None = None,
    split: str = TRAIN,
    val_split: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    val_fraction: float | None = None,
    settings: Settings | None = None,
    processes: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Manifest:
    """Converts a dataset of Hugging Face ``datasets`` to MDS shards.

    Args:
        paths: Name on the hub, a folder, or data files, see ``load_splits``.
        out: Folder or URL of the dataset.
        column: Column of sequences. Default: the only one with a usual name (``COLUMN_GUESSES``).
        split: Split to train on.
        val_split: Split to use as the validation set. Default: the dataset's own, if it has one and ``val_fraction``
            is not given.
        config: Configuration (subset) of the dataset.
        revision: Branch, tag or commit on the hub.
        streaming: Whether to read a dataset of the hub row by row instead of downloading it first.
        val_fraction: Share of ``split`` that goes to validation, 0 to below 1, chosen by hash of the sequence.
        settings: The other settings that determine the output.
        processes: Number of threads that compress and write shards. Default: one per core, 16 at most.
        overwrite: Whether to replace a dataset at ``out``.
        progress: Whether to report progress on stderr.

    Returns:
        The manifest that was written.

    Raises:
        UserError: The dataset, the output or an argument is unusable, or the disk is full.
    """
    # Slow to import, and FASTA does not need it.
    from plm_composer.shards.inputs.rows import VAL_SPLIT_NAMES, RowSource, choose_split, load_splits

    if val_split is not None and val_fraction:
        raise UserError("--val-split and --val-fraction: choose one, a given split or a share of the training split")
    splits = load_splits(paths, config=config, revision=revision, streaming=streaming)
    name = ", ".join(Path(path).name if Path(path).exists() else path for path in paths)
    if val_split is None and val_fraction is None:
        val_split = next((key for key in VAL_SPLIT_NAMES if key in splits and key != split), None)
    wanted = [(VAL, val_split), (TRAIN, split)] if val_split else [(TRAIN, split)]
    sources = [
        RowSource(choose_split(splits, key, name), f"{name} ({key})", column=column, split=role) for role, key in wanted
    ]
    return run(
        sources,
        out,
        settings=settings_for(settings, val_fraction, has_val=bool(val_split)),
        processes=processes,
        overwrite=overwrite,
        progress=progress,
    )


def settings_for(settings: Settings | None, val_fraction: float | None, *, has_val: bool) -> Settings:
    """Sets the validation fraction: the given one, else 0 if there is a validation set, else the settings' own."""
    settings = settings or Settings()
    if val_fraction is None:
        val_fraction = 0.0 if has_val else settings.val_fraction
    return replace(settings, val_fraction=val_fraction)
