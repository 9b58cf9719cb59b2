"""Gives each version of a remote dataset a cache folder of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash

from plm_composer.shards.output.manifest import INDEX_NAME
from plm_composer.shards.output.remote import download


def cache_places(
    places: Sequence[Mapping[str, Any]],
    splits: Sequence[str | None],
    *,
    download_retry: int = 2,
    download_timeout: float = 60.0,
) -> list[dict[str, Any]]:
    """Gives each remote dataset a cache folder that is named by a hash of the dataset's content.

    streaming trusts its cache: of a dataset that was replaced in the store, it would read the old shards, or some old
    and some new.

    Args:
        places: Datasets, each as arguments of ``streaming.Stream``: ``local`` or ``remote`` or both.
        splits: The splits that will be read. Their indexes, which hold the hashes of all shards, are hashed.
        download_retry: Number of attempts to download an index.
        download_timeout: Seconds to wait for an answer.

    Returns:
        The datasets, with ``local`` set to ``<local>/<hash>`` for each that has a ``remote``; by default, as in
        streaming, ``local`` is in the system's temporary folder.

    Raises:
        UserError: A remote dataset cannot be read.
    """
    return [
        {**place, "local": str(_cache_of(place, splits, download_retry, download_timeout))}
        if place.get("remote")
        else dict(place)
        for place in places
    ]


def _cache_of(place: Mapping[str, Any], splits: Sequence[str | None], attempts: int, timeout: float) -> Path:
    remote = str(place["remote"])
    content = xxhash.xxh3_64()
    for split in splits:
        content.update(_fetch("/".join(part for part in (remote, split, INDEX_NAME) if part), attempts, timeout))
    default = Path(tempfile.gettempdir(), "plm_composer_shards")
    return Path(place.get("local") or default, content.hexdigest())


def _fetch(url: str, attempts: int, timeout: float) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, INDEX_NAME)
        download(url, path, attempts=attempts, timeout=timeout)
        return path.read_bytes()
