"""Retries damaged shards: checks a shard before it is first read, and fetches or unpacks it again if it is damaged."""

from __future__ import annotations

from streaming import StreamingDataset
from streaming.base.dataset import _ShardState

from plm_composer.data.streaming.checked_stream import ShardError
from plm_composer.data.streaming.node_failure import NodeFailure

_ATTEMPTS = 8
"""How many times a shard is fetched that is evicted or damaged before it is read."""


def ensure_intact(dataset: StreamingDataset, shard_id: int, failure: NodeFailure) -> None:
    """Fetches a shard if it is missing, compares it with its hash, and replaces a damaged copy.

    Args:
        dataset: The dataset, whose streams are ``CheckedStream``s.
        shard_id: Index of the shard.
        failure: Where a shard that cannot be repaired is reported.

    Raises:
        ShardError: The shard cannot be fetched, is damaged at its source, or is evicted each time.
    """
    stream, shard = dataset.streams[dataset.stream_per_shard[shard_id]], dataset.shards[shard_id]
    for _ in range(_ATTEMPTS):
        dataset.prepare_shard(shard_id)
        try:
            if stream.is_intact(shard):
                return
        except FileNotFoundError:  # evicted meanwhile
            continue
        _discard_damaged(dataset, shard_id, failure)
    raise ShardError(f"shard {stream.name_of(shard)}: is evicted before it can be read; raise data.cache_limit")


def _discard_damaged(dataset: StreamingDataset, shard_id: int, failure: NodeFailure) -> None:
    stream, shard = dataset.streams[dataset.stream_per_shard[shard_id]], dataset.shards[shard_id]
    with dataset._cache_filelock:
        # Another process may have discarded it, or be fetching it again.
        if dataset._shard_states[shard_id] != _ShardState.LOCAL or stream.is_intact(shard):
            return
        freed = stream.discard(shard)
        if not freed:
            damage = stream.damage(shard)
            failure.report(shard_id, str(damage))
            raise damage
        dataset.cache_usage -= freed
        dataset._shard_states[shard_id] = _ShardState.REMOTE
