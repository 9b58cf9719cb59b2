"""The pipeline: sources -> cleaned proteins -> shards and manifest, all or nothing, the same for any parallelism."""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from plm_composer.errors import UserError
from plm_composer.shards.cleaning import Rules
from plm_composer.shards.clusters import ClusterTable
from plm_composer.shards.duplicates import DigestSet
from plm_composer.shards.gathering import gather
from plm_composer.shards.manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    Manifest,
    ShardSummary,
    SourceSummary,
    summarise,
    summarise_split,
)
from plm_composer.shards.mds import COLUMNS, HASHES
from plm_composer.shards.parallel import available_cores, ordered_map
from plm_composer.shards.progress import Progress
from plm_composer.shards.records import SPLITS, TRAIN, VAL, Block, ParsedBlock, Records, parse_block
from plm_composer.shards.remote import connect, is_remote, upload
from plm_composer.shards.staging import staged_folder, write_durably
from plm_composer.shards.writing import Shard, ShardCutter, write_shard

DEFAULT_VAL_FRACTION = 0.001
"""One protein in a thousand: 60,000 of UniRef50, which is plenty for a validation loss."""
_GATHERING = ".gathering"
_MOST_DEFAULT_PROCESSES = 16
_ZSTD_LEVELS = range(1, 23)
_MOST_SHARD_MIB = 1024
"""`zstd` compresses less than 2 GiB at once, and a shard may be larger than asked for by one protein."""


class Source(Protocol):
    """Where proteins come from: an input that is read once."""

    @property
    def split(self) -> str:
        """``train`` or ``val``."""

    @property
    def size(self) -> int | None:
        """Bytes to read, if known."""

    def blocks(self, on_bytes: Callable[[int], object]) -> Iterator[Block]:
        """Reads the input; reports bytes as they are read."""

    def summary(self) -> SourceSummary:
        """What was read."""


@dataclass(frozen=True)
class Settings:
    """What decides the content of the output.

    Attributes:
        rules: Which records are kept.
        val_fraction: Share of the training sources that goes to validation, 0 to below 1.
        deduplicate: Whether exact repeats of a protein are dropped.
        compression: ``zstd:LEVEL`` or ``none``.
        shard_size: MiB of a shard before compression.
    """

    rules: Rules = field(default_factory=Rules)
    val_fraction: float = DEFAULT_VAL_FRACTION
    deduplicate: bool = False
    compression: str = "zstd:3"
    shard_size: float = 32

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"--val-fraction {self.val_fraction}: must be at least 0 and below 1")
        if not 0 < self.shard_size <= _MOST_SHARD_MIB:
            raise UserError(f"--shard-size {self.shard_size}: must be above 0 and at most {_MOST_SHARD_MIB} MiB")
        if self.compression not in ("none", *(f"zstd:{level}" for level in _ZSTD_LEVELS)):
            raise UserError(f"--compression {self.compression}: must be none, or zstd:1 to zstd:22")


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
        sources: Inputs, those for validation first.
        out: Folder or URL of the dataset.
        settings: What decides the output.
        clusters: Clusters of which none is torn apart; the sources' blocks must have names then.
        processes: Shards compressed and written at once, on a thread each; with 1, no thread is started. By default
            one for each core, 16 at most. The output does not depend on it.
        overwrite: Whether to replace a dataset at ``out``.
        progress: Whether to report on stderr.

    Returns:
        The manifest that was written.

    Raises:
        UserError: Whatever the user can mend: an input, the output, an argument, the disk.
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
        upload(uploader, str(out), folder, _print_name if progress else _be_silent)
        return manifest


def _print_name(name: str) -> None:
    print(f"uploaded {name}", file=sys.stderr)


def _be_silent(_: str) -> None:
    pass


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
    with staged_folder(out, overwrite=overwrite) as folder:
        meter = Progress(total, shown=progress)
        try:
            manifest = _write_dataset(sources, folder, settings, clusters, processes, meter)
        finally:
            meter.close()
        _check(folder, manifest)
    meter.report()
    return manifest


def _write_dataset(
    sources: Sequence[Source],
    folder: Path,
    settings: Settings,
    clusters: ClusterTable | None,
    processes: int,
    meter: Progress,
) -> Manifest:
    for split in SPLITS:
        (folder / split).mkdir()
    dropped: Counter[str] = Counter()
    parse = partial(
        parse_block, rules=settings.rules, val_threshold=int(settings.val_fraction * 2**64), clusters=clusters
    )
    write = partial(
        write_shard, folder=folder, compression=None if settings.compression == "none" else settings.compression
    )
    blocks = (block for source in sources for block in source.blocks(meter.add_bytes))
    portions = _drop_repeats(map(parse, blocks), sources, settings, dropped, meter)
    together = clusters is not None and clusters.members == "together"
    if together:
        portions = gather(portions, folder / _GATHERING)
    shards = _cut(portions, settings)
    written = list(ordered_map(write, shards, processes))

    by_split = {split: [shard for shard in written if shard.split == split] for split in SPLITS}
    _require_proteins(by_split, sources, settings, dropped)
    for split, summaries in by_split.items():
        if summaries:
            index = {"version": 2, "shards": [shard.entry for shard in summaries]}
            write_durably(folder / split / INDEX_NAME, json.dumps(index, sort_keys=True).encode())
        else:
            (folder / split).rmdir()
    manifest = summarise(
        {split: summarise_split(summaries, of_clusters=together) for split, summaries in by_split.items() if summaries},
        [source.summary() for source in sources],
        dropped,
        COLUMNS,
        {**asdict(settings.rules), **{k: v for k, v in vars(settings).items() if k != "rules"}, "hashes": HASHES},
        None if clusters is None else clusters.summary(),
    )
    write_durably(folder / MANIFEST_NAME, manifest.to_json().encode())
    return manifest


def _drop_repeats(
    blocks: Iterable[ParsedBlock],
    sources: Sequence[Source],
    settings: Settings,
    dropped: Counter[str],
    meter: Progress,
) -> Iterator[tuple[str, Records]]:
    """Drops what only the order of all proteins can tell; yields splits and proteins of them."""
    has_val_source = any(source.split == VAL for source in sources)
    seen, in_val = DigestSet(), DigestSet()
    for block in blocks:
        dropped.update(block.dropped)
        for split, records in block.records.items():
            if has_val_source and split == TRAIN:
                leaked = in_val.contains(records.digests)
                dropped["in_validation"] += int(leaked.sum())
                records = records.select(~leaked)
            elif has_val_source:
                in_val.add(records.digests)
            if settings.deduplicate:
                new = seen.add(records.digests)
                dropped["duplicate"] += int((~new).sum())
                records = records.select(new)
            meter.add_proteins(len(records))
            yield split, records


def _cut(portions: Iterable[tuple[str, Records]], settings: Settings) -> Iterator[Shard]:
    cutters = {split: ShardCutter(split, int(settings.shard_size * 2**20)) for split in SPLITS}
    for split, records in portions:
        yield from cutters[split].add(records)
    for cutter in cutters.values():
        yield from cutter.finish()


def _require_proteins(
    by_split: dict[str, list[ShardSummary]], sources: Sequence[Source], settings: Settings, dropped: Counter[str]
) -> None:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(dropped.items()) if count) or "none"
    if not by_split[TRAIN]:
        raise UserError(f"no proteins are left to train on (dropped: {reasons})")
    if not by_split[VAL] and any(source.split == VAL for source in sources):
        raise UserError(f"no proteins are left to validate on (dropped: {reasons})")
    if not by_split[VAL] and settings.val_fraction:
        total = sum(shard.proteins for shard in by_split[TRAIN])
        raise UserError(
            f"none of the {total:,} proteins falls into validation; raise --val-fraction "
            f"(now {settings.val_fraction:g}), or set it to 0 for no validation set"
        )


def _check(folder: Path, manifest: Manifest) -> None:
    """Reads the written indexes back and compares counts and file sizes.

    Raises:
        OSError: What is on the disk is not what was written.
    """
    for split, summary in manifest.splits.items():
        path = folder / split / INDEX_NAME
        entries: list[dict[str, Any]] = json.loads(path.read_text())["shards"]
        stored = [entry["zip_data"] or entry["raw_data"] for entry in entries]
        sizes = [(path.parent / info["basename"]).stat().st_size for info in stored]
        if sum(entry["samples"] for entry in entries) != summary.samples or sizes != [i["bytes"] for i in stored]:
            raise OSError(None, "what was written does not read back", str(path))
