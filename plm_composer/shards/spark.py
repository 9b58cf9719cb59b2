"""Converts FASTA to MDS shards on Spark: the same shards and manifest as on one machine, to the byte.

One task per input reads it in blocks, which Spark spreads over the cluster for cleaning. The driver gets the length and
the hash of each protein, 16 bytes, and decides from them what depends on the order of all proteins: repeats and shard
boundaries. One task per shard then assembles, compresses and writes it.

``streaming``'s ``dataframe_to_mds`` cannot do that: it cuts shards at the ends of Spark's partitions, names folders by
task attempt (a retried task leaves its folder behind), writes no manifest, and takes proteins one by one.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from plm_composer.errors import UserError
from plm_composer.files.mds import SIZE_BYTES
from plm_composer.shards.convert import settings_for
from plm_composer.shards.inputs.cleaning import Lengths
from plm_composer.shards.inputs.fasta import FastaBlock, FastaSource
from plm_composer.shards.inputs.records import ParsedBlock, Records, parse_block
from plm_composer.shards.inputs.sources import SourceSummary
from plm_composer.shards.inputs.split import SPLITS, TRAIN, VAL
from plm_composer.shards.inputs.streams import STDIN, HashedFile, open_input
from plm_composer.shards.output.duplicates import RepeatFilter
from plm_composer.shards.output.finishing import finish
from plm_composer.shards.output.manifest import Manifest, ShardSummary
from plm_composer.shards.output.remote import is_remote
from plm_composer.shards.output.settings import Settings
from plm_composer.shards.output.staging import staged_folder
from plm_composer.shards.output.writing import Shard, ShardCutter, write_shard

BlockKey = tuple[int, int]
"""Number of the input, and of the block in it; sorting by it gives the order of the proteins."""
Input = tuple[int, str, str]
"""Number, path and split."""
_Places = npt.NDArray[np.int64]
_ATTEMPT = ".attempt-"
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class _Failure:
    """A task's ``UserError``, returned rather than raised: Spark would bury an exception in its own traceback."""

    message: str


@dataclass(frozen=True)
class _Plan:
    """For the proteins of one split in a block: which are kept (None: all), and the position of the first."""

    keep: npt.NDArray[np.bool_] | None
    first: int


def convert_fasta_on_spark(
    session: Any,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    val_fraction: float | None = None,
    val_inputs: Sequence[str | Path] = (),
    settings: Settings | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Converts FASTA files to MDS shards on a Spark cluster.

    Args:
        session: The ``SparkSession``. All its nodes must see the inputs and ``out`` at the same path.
        inputs: Files, plain or compressed with gzip.
        out: Folder of the dataset.
        val_fraction: Share of ``inputs`` that goes to validation, see ``convert_fasta``.
        val_inputs: Files of the validation set.
        settings: The other settings that determine the output.
        overwrite: Whether to replace a dataset at ``out``.

    Returns:
        The manifest that was written.

    Raises:
        UserError: An input, the output or an argument is unusable, the disk is full, or the cluster fails.
    """
    from py4j.protocol import Py4JJavaError

    settings = settings_for(settings, val_fraction, has_val=bool(val_inputs))
    paths = [(str(path), VAL) for path in val_inputs] + [(str(path), TRAIN) for path in inputs]
    if is_remote(out):
        raise UserError(f"{out}: a cluster writes to a folder that all its nodes see; copy that to the store")
    for path, split in paths:
        if path == STDIN:
            raise UserError("-: a cluster cannot read standard input; name files")
        FastaSource(path, split)  # raises if the file cannot be opened
    try:
        with staged_folder(Path(out), overwrite=overwrite) as folder:
            return _convert(session.sparkContext, [(i, *path) for i, path in enumerate(paths)], folder, settings)
    except Py4JJavaError as error:
        raise UserError(f"Spark failed: {_cause(str(error.java_exception.getMessage()))}; see its log") from error


def _convert(context: Any, inputs: list[Input], folder: Path, settings: Settings) -> Manifest:
    from pyspark import StorageLevel

    for split in SPLITS:
        (folder / split).mkdir()
    sources = context.parallelize(inputs, len(inputs)).map(_summarise)
    blocks = context.parallelize(inputs, len(inputs)).flatMap(_read)
    parse = partial(parse_block, rules=settings.rules, val_fraction=settings.val_fraction)
    tasks = 2 * context.defaultParallelism
    # Used twice; blocks that do not fit into the cluster's memory go to its disks.
    parsed = blocks.repartition(tasks).mapValues(partial(_try, parse)).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        parsed.count()  # parses all partitions in parallel; the iterator below would parse one after another
        skeletons = dict(parsed.mapValues(_skeleton).toLocalIterator())
        dropped: Counter[str] = Counter()
        plans, starts = _plan(skeletons, settings, any(split == VAL for _, _, split in inputs), dropped)
        del skeletons
        shared = context.broadcast((plans, starts))
        shards = sum(len(places) - 1 for places in starts.values())
        pieces = parsed.flatMap(lambda item: _pieces(*item, *shared.value))
        grouped = pieces.groupByKey(max(1, min(shards, 4 * tasks)), partitionFunc=int)
        written = [_result(shard) for shard in grouped.map(partial(_write, folder, settings.codec)).collect()]
    finally:
        parsed.unpersist()
        for left in folder.glob(f"{_ATTEMPT}*"):
            shutil.rmtree(left)
    written.sort(key=lambda shard: shard.number)
    return finish(folder, written, [_result(source) for source in sources.collect()], dropped, settings)


def _cause(message: str) -> str:
    """The last line of a message that is not part of a trace; for a Python error in a task, the error itself."""
    lines = [line for line in message.splitlines() if line[:1].strip() and not line.startswith("Driver stacktrace")]
    return lines[-1] if lines else "no reason given"


def _try(function: Callable[..., _Value], *arguments: Any) -> _Value | _Failure:
    """Calls a function; returns its error, or an argument that is already a failure, as a ``_Failure``."""
    for argument in arguments:
        if isinstance(argument, _Failure):
            return argument
    try:
        return function(*arguments)
    except UserError as error:
        return _Failure(str(error))
    except OSError as error:
        return _Failure(f"{error.filename}: {error.strerror}")


def _result(value: _Value | _Failure) -> _Value:
    if isinstance(value, _Failure):
        raise UserError(value.message)
    return value


def _summarise(one: Input) -> SourceSummary | _Failure:
    return _try(_hash_input, one)


def _hash_input(one: Input) -> SourceSummary:
    _, path, split = one
    with open_input(path) as raw:
        file = HashedFile(raw)
        for _ in file.chunks():
            pass
    return SourceSummary(Path(path).name, split, file.bytes_read, file.hexdigest())


def _read(one: Input) -> Iterator[tuple[BlockKey, FastaBlock | _Failure]]:
    number, path, split = one
    block_number = 0
    try:
        for block in FastaSource(path, split).blocks():
            yield (number, block_number), block
            block_number += 1
    except UserError as error:
        yield (number, block_number), _Failure(str(error))


def _skeleton(block: ParsedBlock | _Failure) -> ParsedBlock | _Failure:
    """A block without its residues."""
    if isinstance(block, _Failure):
        return block
    bare = {split: Records(b"", records.lengths, records.digests) for split, records in block.records.items()}
    return ParsedBlock(bare, block.dropped)


def _plan(
    skeletons: dict[BlockKey, ParsedBlock | _Failure], settings: Settings, has_val: bool, dropped: Counter[str]
) -> tuple[dict[tuple[BlockKey, str], _Plan], dict[str, _Places]]:
    """Plans repeats and shard boundaries as one machine would, from lengths and hashes in the order of the proteins.

    Returns:
        The plan of each pair of block and split; and for each split the first position of each shard, and its end.
    """
    repeats = RepeatFilter(against_val=has_val, deduplicate=settings.deduplicate)
    cutters = {split: ShardCutter(split, int(settings.shard_size * 2**20)) for split in SPLITS}
    sizes: dict[str, list[int]] = {split: [] for split in SPLITS}
    ends = dict.fromkeys(SPLITS, 0)
    plans = {}
    for key in sorted(skeletons):
        block = _result(skeletons[key])
        dropped.update(block.dropped)
        for split, records in block.records.items():
            keep = repeats.keep(records.digests, is_val=split == VAL, dropped=dropped)
            kept = records.select(keep)
            plans[key, split] = _Plan(None if keep.all() else keep, ends[split])
            ends[split] += len(kept)
            sizes[split] += [len(shard.lengths) for shard in cutters[split].add(kept)]
    for split, cutter in cutters.items():
        sizes[split] += [len(shard.lengths) for shard in cutter.finish()]
    return plans, {split: np.cumsum([0, *sizes[split]]) for split in SPLITS}


def _pieces(
    key: BlockKey,
    block: ParsedBlock,
    plans: dict[tuple[BlockKey, str], _Plan],
    starts: dict[str, _Places],
) -> Iterator[tuple[int, tuple[BlockKey, bytes, Lengths]]]:
    """Cuts a block at shard boundaries; yields the code of each shard, and the block's part of it."""
    for split, records in block.records.items():
        plan = plans[key, split]
        if plan.keep is not None:
            records = records.select(plan.keep)
        bytes_before = np.concatenate([[0], np.cumsum(records.lengths + SIZE_BYTES)])
        at = 0
        while at < len(records):
            number = int(np.searchsorted(starts[split], plan.first + at, side="right")) - 1
            stop = min(int(starts[split][number + 1]) - plan.first, len(records))
            samples = records.samples[int(bytes_before[at]) : int(bytes_before[stop])]
            yield number * len(SPLITS) + SPLITS.index(split), (key, samples, records.lengths[at:stop])
            at = stop


def _write(folder: Path, compression: str | None, shard: tuple[int, Any]) -> ShardSummary | _Failure:
    return _try(_write_pieces, folder, compression, *shard)


def _write_pieces(folder: Path, compression: str | None, code: int, pieces: Any) -> ShardSummary:
    number, split = code // len(SPLITS), SPLITS[code % len(SPLITS)]
    ordered = sorted(pieces, key=lambda piece: piece[0])
    shard = Shard(split, number, [samples for _, samples, _ in ordered], np.concatenate([n for _, _, n in ordered]))
    # Spark may run a task twice at once and kill the slower one: only complete files get their final name.
    with tempfile.TemporaryDirectory(dir=folder, prefix=_ATTEMPT) as attempt:
        Path(attempt, split).mkdir()
        summary = write_shard(shard, Path(attempt), compression)
        for path in Path(attempt, split).iterdir():
            path.rename(folder / split / path.name)
    return summary
