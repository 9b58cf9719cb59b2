"""Reads a whole split once, in order, for an evaluation; it needs none of StreamingDataset's machinery."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from streaming.base.world import World

from plm_composer.data.members import first_member
from plm_composer.data.streaming.checked_stream import CheckedStream
from plm_composer.errors import UserError, first_line

SEQUENCE_COLUMN = "sequence"


def read_split(places: Sequence[Mapping[str, Any]], split: str | None, limit: int | None = None) -> list[bytes]:
    """Reads proteins, shard by shard, in the order of the dataset.

    Args:
        places: Datasets, read one after another, as arguments of ``streaming.Stream``: ``local`` or ``remote`` or both,
            and optionally ``download_retry``, ``download_timeout`` and ``validate_hash`` (default: the dataset's own).
        split: Subfolder of each dataset; None for none.
        limit: Largest number of proteins; None for all.

    Returns:
        The residues of each protein; of a record that is a cluster, those of its representative.

    Raises:
        UserError: A dataset or a shard is missing or damaged, or does not hold proteins.
    """
    return list(itertools.islice(itertools.chain.from_iterable(_read(place, split) for place in places), limit))


def _read(place: Mapping[str, Any], split: str | None) -> Iterator[bytes]:
    name = str(place.get("remote") or place.get("local"))
    if split:
        name = f"{name}/{split}"
    try:
        stream = CheckedStream(**place, split=split)
        stream.apply_default(
            {"split": split, "download_retry": 2, "download_timeout": 60, "validate_hash": None, "keep_zip": False}
        )
        for shard in stream.get_shards(World.detect(), allow_unsafe_types=False):
            if SEQUENCE_COLUMN not in shard.column_names:
                columns = ", ".join(shard.column_names)
                raise UserError(f"{name} has the columns {columns} but no {SEQUENCE_COLUMN!r}; make it with convert/")
            if "validate_hash" not in place:
                stream.validate_hash = next(iter(shard.file_pairs[0][0].hashes), None)
            stream.ensure(shard)
            for index in range(shard.size):
                yield first_member(shard[index][SEQUENCE_COLUMN])
    except UserError:
        raise
    except Exception as error:  # each store's client has its own exceptions
        raise UserError(f"cannot read the dataset {name}: {first_line(error)}") from error
