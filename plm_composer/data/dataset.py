"""The StreamingDataset of proteins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from streaming import Stream, StreamingDataset

from plm_composer.data.batches import Batch
from plm_composer.data.collate import Collator, Protein
from plm_composer.data.members import draw_member
from plm_composer.data.reading import SEQUENCE_COLUMN
from plm_composer.errors import UserError


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
        validate_hash: Hash against which downloaded shards are checked, or None.
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
        places: list[tuple[str | None, str | None]]
        places = [(s.get("local"), s.get("remote")) for s in streams.values()] if streams else [(local, remote)]
        for place in places:
            _check_place(place[0], place[1], split)
        try:
            super().__init__(
                local=None if streams else local,
                remote=None if streams else remote,
                streams=_make_streams(streams, split, validate_hash) if streams else None,
                split=None if streams else split,
                batch_size=batch_size,
                shuffle=shuffle,
                shuffle_seed=collator.seed,
                validate_hash=validate_hash,
                **arguments,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"cannot read the dataset {_describe(places)}: {_first_line(error)}") from error
        for shard in self.shards:
            if SEQUENCE_COLUMN not in shard.column_names:
                raise UserError(
                    f"the dataset {_describe(places)} has the columns {', '.join(shard.column_names)} but no "
                    f"{SEQUENCE_COLUMN!r}; make it with convert/fasta.py or convert/huggingface.py"
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
        """
        return self._draw(int(sample_id), self._epoch, retry)

    def example(self, sample_id: int, epoch: int = 0) -> Batch:
        """Crops and masks one protein as training does in the given epoch: a batch of one, to look at."""
        return self.collator([self._draw(sample_id, epoch)])

    def _draw(self, sample_id: int, epoch: int, retry: int = 7) -> Protein:
        record = super().get_item(sample_id, retry)[SEQUENCE_COLUMN]
        return Protein(sample_id, epoch, draw_member(record, self.collator.seed, epoch, sample_id))

    def __iter__(self) -> Iterator[Protein]:
        """Iterates over this worker's share of the next epoch.

        Raises:
            RuntimeError: A shard could not be had. (StreamingDataset itself ends the epoch without a word.)
        """
        yield from super().__iter__()
        if self._event.is_set():
            raise RuntimeError("a shard could not be downloaded or failed its check; see the error above")

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


def _make_streams(
    streams: Mapping[str, Mapping[str, Any]], split: str | None, validate_hash: str | None
) -> Sequence[Stream]:
    made = []
    for name, arguments in streams.items():
        try:
            made.append(Stream(**{"split": split, "validate_hash": validate_hash, **arguments}))
        except (TypeError, ValueError) as error:
            raise UserError(f"data.streams.{name}: {_first_line(error)}") from error
    return made


def _describe(places: Sequence[tuple[str | None, str | None]]) -> str:
    return ", ".join(str(remote or local) for local, remote in places)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
