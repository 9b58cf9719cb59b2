"""The StreamingDataset of proteins, which raises an error on every process if a shard cannot be read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch.distributed
from streaming import StreamingDataset
from streaming.base.constant import CACHE_FILELOCK
from streaming.base.dataset import _Iterator
from streaming.base.world import World

from plm_composer.data.batches import Batch
from plm_composer.data.collate import Collator, Protein
from plm_composer.data.members import draw_member
from plm_composer.data.streaming.checked_stream import CheckedStream, ShardError
from plm_composer.data.streaming.leftovers import one_at_a_time, remove_leftovers
from plm_composer.data.streaming.node_failure import FAILED, NodeFailure
from plm_composer.data.streaming.reading import SEQUENCE_COLUMN
from plm_composer.data.streaming.shard_retry import ensure_intact
from plm_composer.errors import UserError, first_line


class StreamingProteinDataset(StreamingDataset):
    """Streams whole proteins from MDS shards.

    An item is a ``Protein``. The DataLoader takes ``collate`` as its ``collate_fn``, which crops and masks a whole
    batch at once: much cheaper than protein by protein. Crops and masks are a pure function of (seed, epoch,
    sample_id, position), whatever the number of workers and ranks.

    Args:
        collator: Makes batches from proteins; its seed is also the seed of the shuffle.
        local: Folder of the shards, or cache of ``remote``.
        remote: Address to stream from: ``s3://``, ``gs://``, ``hf://``, ... or a folder.
        split: Subfolder of ``local`` and ``remote``; None for none.
        streams: Several datasets instead of one, by name, each with the arguments of ``streaming.Stream``
            (``local``, ``remote``, and one of ``proportion``, ``repeat`` or ``choose`` as its weight).
        batch_size: Number of proteins in one device's batch.
        shuffle: Whether to shuffle, differently in each epoch.
        validate_hash: Hash by which shards, local ones too, are checked before they are read; None for no check.
        **arguments: Further arguments of ``streaming.StreamingDataset``, such as ``cache_limit``.

    Raises:
        UserError: The dataset is missing or unreadable, or does not hold proteins.
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
        except Exception as error:  # each store's client has its own exceptions
            raise UserError(f"cannot read the dataset {_describe(named)}: {first_line(error)}") from error
        self._check_shards(_describe(named), validate_hash)
        # The file for failures lies beside streaming's lock file, and is named like it.
        lock = Path(self._cache_filelock_path)
        message_file = lock.with_name(lock.name.replace(CACHE_FILELOCK, "failure"))
        if World.detect().is_local_leader:
            message_file.unlink(missing_ok=True)
        self._node_failure = NodeFailure(self._shard_states, message_file)

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
                    "again with hashes, or set data.validate_hash=null, which leaves damage unnoticed"
                )

    @property
    def collate(self) -> Collator:
        """The ``collate_fn`` for a DataLoader over this dataset."""
        return self.collator

    def get_item(self, sample_id: int, retry: int = 7) -> Protein:
        """Reads one protein, whole and unmasked.

        Args:
            sample_id: Index of the protein in the dataset.
            retry: Number of times to download a shard again that was evicted.

        Raises:
            ShardError: The protein's shard cannot be fetched, or is damaged.
        """
        shard_id = int(self.spanner[sample_id][0])
        if shard_id not in self._checked:
            ensure_intact(self, shard_id, self._node_failure)
            self._checked.add(shard_id)
        return self._draw(int(sample_id), self._epoch, retry)

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        """Fetches a shard; on failure, marks it as failed for all processes on the node.

        Args:
            shard_id: Index of the shard.
            blocking: Whether to wait while another process fetches it.

        Raises:
            ShardError: The shard cannot be fetched.
        """
        try:
            super().prepare_shard(shard_id, blocking)
        except Exception as error:
            if self._cache_filelock.is_locked:
                self._cache_filelock.release()
            # If another process reported first, streaming's error only says that it does not know the state.
            if self._shard_states[shard_id] != FAILED:
                self._node_failure.report(shard_id, first_line(error))
            raise ShardError(self._node_failure.message()) from error

    def example(self, sample_id: int, epoch: int = 0) -> Batch:
        """Makes a batch of one protein, cropped and masked as in training in the given epoch, for inspection."""
        return self.collator([self._draw(sample_id, epoch)])

    def _draw(self, sample_id: int, epoch: int, retry: int = 7) -> Protein:
        record = super().get_item(sample_id, retry)[SEQUENCE_COLUMN]
        return Protein(sample_id, epoch, draw_member(record, self.collator.seed, epoch, sample_id))

    def __iter__(self) -> Iterator[Protein]:
        """Iterates over this worker's share of the next epoch.

        Raises:
            ShardError: A shard could not be fetched. (StreamingDataset itself ends the epoch silently.)
        """
        # Replaces the event of StreamingDataset.__iter__, which creates one only `if not hasattr(self, '_event')`.
        self._event = self._node_failure
        try:
            yield from super().__iter__()
        except RuntimeError as error:
            if self._node_failure.message() is None:
                raise
            # streaming's own error only says that some thread failed.
            raise ShardError(self._node_failure.message()) from error
        if (message := self._node_failure.message()) is not None:
            raise ShardError(message)
        if self._event.is_set():
            raise RuntimeError("a thread that reads ahead failed; see the error above")

    # At the end of an epoch streaming waits until two of its three threads have exited. A thread that raised never
    # reports its exit, and threads of other processes never see the failure, so we report it for them.
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
        """Stops the other threads. A ShardError is already reported to all processes, and is not logged again here."""
        if isinstance(future.exception(), ShardError):
            self._event.set()
        else:
            super().on_exception(future)

    def _resume_incr_epoch(self) -> tuple[int, int]:
        # Only here does a worker learn its epoch, on which crops and masks depend.
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
    """Removes what killed runs left in shared memory, before any process of this node picks a free name there."""
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
