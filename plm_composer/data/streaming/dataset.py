"""The StreamingDataset of proteins."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch.distributed
from streaming import StreamingDataset
from streaming.base.constant import CACHE_FILELOCK
from streaming.base.dataset import _Iterator, _ShardState
from streaming.base.world import World

from plm_composer.data.batches import Batch
from plm_composer.data.collate import Collator, Protein
from plm_composer.data.members import draw_member
from plm_composer.data.streaming.checked_stream import CheckedStream, ShardError
from plm_composer.data.streaming.leftovers import one_at_a_time, remove_leftovers
from plm_composer.data.streaming.node_failure import FAILED, NodeFailure
from plm_composer.data.streaming.reading import SEQUENCE_COLUMN
from plm_composer.errors import UserError, first_line

_CHECKS = 8
"""How often a shard is had again that is evicted before it can be read."""


class StreamingProteinDataset(StreamingDataset):
    """Streams proteins from MDS shards and crops and masks them.

    An item is a ``Protein``; ``collate`` makes a batch from several, and belongs into the DataLoader as its
    ``collate_fn``: cropping and masking a whole batch at once is much cheaper than protein by protein. Crops and
    masks are a pure function of (seed, epoch, sample_id, position), whatever the number of workers and ranks.

    Args:
        collator: How proteins become batches; its seed also shuffles.
        local: Folder with the shards, or the cache of ``remote``.
        remote: Where to stream from: ``s3://``, ``gs://``, ``hf://``, ... or a folder.
        split: Subfolder of ``local`` and ``remote``.
        streams: Several datasets instead of one, by name, each with the arguments of ``streaming.Stream``
            (``local``, ``remote``, and one of ``proportion``, ``repeat`` or ``choose`` as its weight).
        batch_size: Proteins of one device's batch.
        shuffle: Whether to shuffle, anew in each epoch.
        validate_hash: Hash against which shards are checked before they are read, local ones too, or None.
        **arguments: Further arguments of ``streaming.StreamingDataset``, such as ``cache_limit``.

    Raises:
        UserError: There is no dataset, or it is not one of proteins.
    """

    def __init__(
        self,
        collator: Collator,
        *,
        local: str | None = None,
        remote: str | None = None,
        split: str | None = None,
        streams: Mapping[str, Mapping[str, Any]] | None = None,
        batch_size: int | None = None,
        shuffle: bool = False,
        validate_hash: str | None = "xxh64",
        **arguments: Any,
    ) -> None:
        self.collator = collator
        self._epoch = 0
        self._checked: set[int] = set()
        named = streams or {"": {"local": local, "remote": remote}}
        for place in named.values():
            _check_place(place.get("local"), place.get("remote"), split)
        try:
            with _registration():
                super().__init__(
                    streams=_make_streams(named, split, validate_hash),
                    batch_size=batch_size,
                    shuffle=shuffle,
                    shuffle_seed=collator.seed,
                    **arguments,
                )
        except UserError:
            raise
        except Exception as error:  # every store's client has its own
            raise UserError(f"cannot read the dataset {_describe(named)}: {first_line(error)}") from error
        self._check_shards(_describe(named), validate_hash)
        # Beside streaming's own files of this dataset, by the same rule for names.
        lock = Path(self._cache_filelock_path)
        report = lock.with_name(lock.name.replace(CACHE_FILELOCK, "failure"))
        if World.detect().is_local_leader:
            report.unlink(missing_ok=True)
        self._node_failure = NodeFailure(self._shard_states, report)

    def _check_shards(self, name: str, validate_hash: str | None) -> None:
        for shard in self.shards:
            if SEQUENCE_COLUMN not in shard.column_names:
                raise UserError(
                    f"the dataset {name} has the columns {', '.join(shard.column_names)} but no "
                    f"{SEQUENCE_COLUMN!r}; make it with convert/fasta.py or convert/huggingface.py"
                )
            hashes = shard.file_pairs[0][0].hashes
            if validate_hash and validate_hash not in hashes:
                raise UserError(
                    f"the dataset {name} has no {validate_hash} hashes but {', '.join(hashes) or 'none'}; write it "
                    "again with hashes, or set data.validate_hash=null and have damage go unnoticed"
                )

    @property
    def collate(self) -> Collator:
        """The ``collate_fn`` for a DataLoader over this dataset."""
        return self.collator

    def get_item(self, sample_id: int, retry: int = 7) -> Protein:
        """Reads one protein, whole and unmasked, with its coordinates.

        Args:
            sample_id: Index in the dataset.
            retry: How often to download a shard that is gone again.

        Raises:
            ShardError: Its shard cannot be had, or is damaged.
        """
        shard_id = int(self.spanner[sample_id][0])
        if shard_id not in self._checked:
            self._check_shard(shard_id)
        return self._draw(int(sample_id), self._epoch, retry)

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        """Has a shard there, and tells all processes of the node if it cannot be had.

        Args:
            shard_id: Which.
            blocking: Whether to wait where another process is fetching it.

        Raises:
            ShardError: It cannot be had.
        """
        try:
            super().prepare_shard(shard_id, blocking)
        except Exception as error:
            if self._cache_filelock.is_locked:
                self._cache_filelock.release()
            # Where another process told first, streaming only finds a state that it does not know.
            if self._shard_states[shard_id] != FAILED:
                self._node_failure.tell(shard_id, first_line(error))
            raise ShardError(self._node_failure.message()) from error

    def _check_shard(self, shard_id: int) -> None:
        """Compares a shard with its hash, once in each process, and replaces a damaged copy."""
        stream, shard = self.streams[self.stream_per_shard[shard_id]], self.shards[shard_id]
        for _ in range(_CHECKS):
            self.prepare_shard(shard_id)
            try:
                if stream.is_intact(shard):
                    self._checked.add(shard_id)
                    return
            except FileNotFoundError:  # evicted since
                continue
            self._discard(shard_id)
        raise ShardError(f"shard {self._name_of(shard_id)}: is gone as soon as it is there; raise data.cache_limit")

    def _discard(self, shard_id: int) -> None:
        stream, shard = self.streams[self.stream_per_shard[shard_id]], self.shards[shard_id]
        with self._cache_filelock:
            # Another process may have been here, or be at it.
            if self._shard_states[shard_id] != _ShardState.LOCAL or stream.is_intact(shard):
                return
            freed = stream.discard(shard)
            if not freed:
                damage = stream.damage(shard)
                self._node_failure.tell(shard_id, str(damage))
                raise damage
            self.cache_usage -= freed
            self._shard_states[shard_id] = _ShardState.REMOTE

    def _name_of(self, shard_id: int) -> str:
        name: str = self.streams[self.stream_per_shard[shard_id]].name_of(self.shards[shard_id])
        return name

    def example(self, sample_id: int, epoch: int = 0) -> Batch:
        """Crops and masks one protein as training does in the given epoch: a batch of one, to look at."""
        return self.collator([self._draw(sample_id, epoch)])

    def _draw(self, sample_id: int, epoch: int, retry: int = 7) -> Protein:
        record = super().get_item(sample_id, retry)[SEQUENCE_COLUMN]
        return Protein(sample_id, epoch, draw_member(record, self.collator.seed, epoch, sample_id))

    def __iter__(self) -> Iterator[Protein]:
        """Iterates over this worker's share of the next epoch.

        Raises:
            ShardError: A shard could not be had. (StreamingDataset itself ends the epoch without a word.)
        """
        self._event = self._node_failure
        try:
            yield from super().__iter__()
        except RuntimeError as error:
            if self._node_failure.message() is None:
                raise
            raise ShardError(self._node_failure.message()) from error  # it only says that some thread failed
        if (message := self._node_failure.message()) is not None:
            raise ShardError(message)
        if self._event.is_set():
            raise RuntimeError("a thread that reads ahead failed; see the error above")

    # The end of an epoch waits for two of its three threads to say that they left; one that raised has not, and where
    # another process failed, the others do not notice.
    def _prepare_thread(self, it: _Iterator) -> None:
        try:
            super()._prepare_thread(it)
        except Exception:
            it.on_exit()
            raise

    def _ready_thread(self, it: _Iterator) -> None:
        try:
            super()._ready_thread(it)
        except Exception:
            it.on_exit()
            raise

    def _each_sample_id(self, it: _Iterator) -> Iterator[int]:
        yield from super()._each_sample_id(it)
        if self._event.is_set():
            it.non_blocking_exit()

    def on_exception(self, future: Future[None]) -> None:
        """Has the other threads stop; what is told to all already need not be told in a background thread's log."""
        if isinstance(future.exception(), ShardError):
            self._event.set()
        else:
            super().on_exception(future)

    def _resume_incr_epoch(self) -> tuple[int, int]:
        # The one place where each worker learns which epoch it is in; crops and masks depend on it.
        epoch, sample_in_epoch = super()._resume_incr_epoch()
        self._epoch = epoch
        return epoch, sample_in_epoch


def _check_place(local: str | None, remote: str | None, split: str | None) -> None:
    if remote is not None and "://" in remote:
        return
    folder = remote or local
    if folder is None:
        raise UserError("data names no dataset; set data.local, data.remote, data.streams or data.fasta")
    index = Path(folder, split or "", "index.json")
    if not index.is_file():
        raise UserError(f"there is no dataset: {index} is missing; make it with convert/fasta.py, or set data.local")


@contextlib.contextmanager
def _registration() -> Iterator[None]:
    """Clears what killed runs left, before any process of this node looks for a free name."""
    with contextlib.ExitStack() as stack:
        if World.detect().is_local_leader:
            stack.enter_context(one_at_a_time())
            remove_leftovers()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        yield


def _make_streams(
    streams: Mapping[str, Mapping[str, Any]], split: str | None, validate_hash: str | None
) -> Sequence[CheckedStream]:
    made = []
    for name, arguments in streams.items():
        try:
            made.append(CheckedStream(**{"split": split, "validate_hash": validate_hash, **arguments}))
        except (TypeError, ValueError) as error:
            raise UserError(f"data.streams.{name}: {first_line(error)}") from error
    return made


def _describe(places: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(str(place.get("remote") or place.get("local")) for place in places.values())
