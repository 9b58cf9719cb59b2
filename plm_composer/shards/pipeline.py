"""The conversion: sources -> cleaned proteins -> shards and manifest; all or nothing, and the same on any threads."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from plm_composer.errors import UserError
from plm_composer.shards.inputs.clusters import ClusterTable
from plm_composer.shards.inputs.records import ParsedBlock, Records, parse_block
from plm_composer.shards.inputs.sources import Source
from plm_composer.shards.inputs.split import SPLITS, VAL
from plm_composer.shards.output.duplicates import RepeatFilter
from plm_composer.shards.output.finishing import finish
from plm_composer.shards.output.gathering import gather
from plm_composer.shards.output.journal import Journal
from plm_composer.shards.output.manifest import Manifest, ShardSummary
from plm_composer.shards.output.remote import connect, is_remote, upload
from plm_composer.shards.output.settings import Settings
from plm_composer.shards.output.staging import staged_folder
from plm_composer.shards.output.writing import Shard, ShardCutter, write_shard
from plm_composer.shards.parallel import available_cores, ordered_map
from plm_composer.shards.progress import Progress

_GATHERING = ".gathering"
_MOST_DEFAULT_PROCESSES = 16


def run(
    sources: Sequence[Source],
    out: str | Path,
    *,
    settings: Settings,
    clusters: ClusterTable | None = None,
    processes: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Manifest:
    """Converts sources to MDS shards in a folder or an object store.

    Args:
        sources: The inputs, those for validation first.
        out: Folder or URL of the dataset.
        settings: The settings that determine the output.
        clusters: Clusters that the split keeps whole; the sources' blocks must then be ``NamedBlock``s.
        processes: Number of threads that compress and write shards; 1 starts none. Default: one per core, 16 at
            most. The output does not depend on it.
        overwrite: Whether to replace a dataset at ``out``.
        progress: Whether to report progress on stderr.

    Returns:
        The manifest that was written.

    Raises:
        UserError: An input, the output or an argument is unusable, or the disk is full.
    """
    if processes is None:
        processes = min(available_cores(), _MOST_DEFAULT_PROCESSES)
    if processes < 1:
        raise UserError(f"--processes {processes}: must be 1 or more")
    if not is_remote(out):
        return _run_local(sources, Path(out), settings, clusters, processes, overwrite, progress)
    with tempfile.TemporaryDirectory(prefix="plm-composer-") as scratch:
        folder = Path(scratch, "dataset")
        uploader = connect(str(out), folder, overwrite=overwrite)
        manifest = _run_local(sources, folder, settings, clusters, processes, overwrite, progress)
        upload(uploader, str(out), folder, (lambda name: _say(f"uploaded {name}")) if progress else None)
        return manifest


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _run_local(
    sources: Sequence[Source],
    out: Path,
    settings: Settings,
    clusters: ClusterTable | None,
    processes: int,
    overwrite: bool,
    progress: bool,
) -> Manifest:
    sizes = [source.size for source in sources]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    journal = Journal(_fingerprint(sources, settings, clusters), _say if progress else None)
    with staged_folder(out, overwrite=overwrite, keep_leftovers=journal.resume) as folder:
        journal.start()
        meter = Progress(total, shown=progress)
        try:
            manifest = _write_dataset(sources, folder, settings, clusters, processes, meter, journal)
        finally:
            meter.close()
        journal.finish()
    meter.report()
    return manifest


def _write_dataset(
    sources: Sequence[Source],
    folder: Path,
    settings: Settings,
    clusters: ClusterTable | None,
    processes: int,
    meter: Progress,
    journal: Journal,
) -> Manifest:
    for split in SPLITS:
        (folder / split).mkdir(exist_ok=True)
    dropped: Counter[str] = Counter()
    parse = partial(parse_block, rules=settings.rules, val_fraction=settings.val_fraction, clusters=clusters)

    def write(shard: Shard) -> ShardSummary:
        return write_shard(shard, folder, settings.codec, journal.find(shard.split, shard.number))

    blocks = (block for source in sources for block in source.blocks(meter.add_bytes))
    portions = _drop_repeats(map(parse, blocks), sources, settings, dropped, meter)
    together = clusters is not None and clusters.members == "together"
    if together:
        portions = gather(portions, folder / _GATHERING)
    shards = _cut(portions, settings)
    written = []
    for shard in ordered_map(write, shards, processes):
        journal.add(shard)
        written.append(shard)

    return finish(
        folder,
        written,
        [source.summary() for source in sources],
        dropped,
        settings,
        None if clusters is None else clusters.summary(),
    )


def _drop_repeats(
    blocks: Iterable[ParsedBlock],
    sources: Sequence[Source],
    settings: Settings,
    dropped: Counter[str],
    meter: Progress,
) -> Iterator[tuple[str, Records]]:
    """Drops repeats and training proteins that are in validation; yields pairs of a split and its proteins."""
    repeats = RepeatFilter(against_val=any(source.split == VAL for source in sources), deduplicate=settings.deduplicate)
    for block in blocks:
        dropped.update(block.dropped)
        for split, records in block.records.items():
            kept = records.select(repeats.keep(records.digests, is_val=split == VAL, dropped=dropped))
            meter.add_proteins(len(kept))
            yield split, kept


def _cut(portions: Iterable[tuple[str, Records]], settings: Settings) -> Iterator[Shard]:
    cutters = {split: ShardCutter(split, int(settings.shard_size * 2**20)) for split in SPLITS}
    for split, records in portions:
        yield from cutters[split].add(records)
    for cutter in cutters.values():
        yield from cutter.finish()


def _fingerprint(sources: Sequence[Source], settings: Settings, clusters: ClusterTable | None) -> dict[str, Any]:
    """Everything that determines the output; an interrupted conversion continues only if it is unchanged."""
    return {
        "version": version("plm-composer"),
        **settings.to_dict(),
        "clusters": None if clusters is None else asdict(clusters.summary()),
        "inputs": [source.identity for source in sources],
    }
