"""Checks a dataset against its manifest: reads and unpacks every shard and compares it with its hashes."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash
import zstd

from plm_composer.errors import UserError
from plm_composer.shards.output.manifest import INDEX_NAME, MANIFEST_NAME, Manifest, digest_of_shards, read_manifest
from plm_composer.shards.output.remote import download, is_remote
from plm_composer.shards.parallel import available_cores, ordered_map

_DOWNLOADS_AT_ONCE = 8


@dataclass(frozen=True)
class Damage:
    """A file that differs from the manifest or an index, and how."""

    file: str
    problem: str


@dataclass(frozen=True)
class Verification:
    """The result of a check.

    Args:
        digest: Digest of the dataset, from its manifest.
        shards: Number of shards.
        proteins: Number of proteins.
        damaged: The damaged files; empty if there are none.
    """

    digest: str
    shards: int
    proteins: int
    damaged: list[Damage]

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Task:
    """One shard: its path in the dataset, and its entry in the index."""

    name: str
    entry: Mapping[str, Any]


class _Unavailable(Exception):
    """A file cannot be read. The message says why."""


def verify(data: str, on_shard: Callable[[str], object] | None = None) -> Verification:
    """Compares a dataset with its manifest.

    A remote dataset is downloaded shard by shard and not kept.

    Args:
        data: Folder or URL of the dataset.
        on_shard: Called with the name of each shard that has been read.

    Returns:
        The damaged files, and what was checked.

    Raises:
        UserError: There is no dataset, no manifest, or the store cannot be reached.
    """
    with _fetcher(data) as fetch:
        manifest = _manifest(data, fetch)
        tasks: list[_Task] = []
        damaged: list[Damage] = []
        for split, summary in manifest.splits.items():
            name = f"{split}/{INDEX_NAME}"
            try:
                entries = json.loads(fetch(name).read_bytes())["shards"]
                digest = digest_of_shards(entries)
                tasks += [_Task(f"{split}/{_stored(entry)['basename']}", entry) for entry in entries]
            except _Unavailable as error:
                damaged.append(Damage(name, str(error)))
            except (ValueError, KeyError, TypeError, AttributeError):
                damaged.append(Damage(name, "is not an index of shards"))
            else:
                if digest != summary.digest:
                    damaged.append(Damage(name, f"is not the index that {MANIFEST_NAME} was written for"))

        def check(task: _Task) -> Damage | None:
            problem = _problem(task, fetch, keep=not is_remote(data))
            if on_shard is not None:
                on_shard(task.name)
            return Damage(task.name, problem) if problem else None

        threads = _DOWNLOADS_AT_ONCE if is_remote(data) else available_cores()
        damaged += [found for found in ordered_map(check, tasks, threads) if found]
    proteins = sum(summary.proteins for summary in manifest.splits.values())
    return Verification(manifest.digest, len(tasks), proteins, damaged)


def _stored(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    stored: Mapping[str, Any] = entry["zip_data"] or entry["raw_data"]
    return stored


def _problem(task: _Task, fetch: Callable[[str], Path], *, keep: bool) -> str | None:
    try:
        path = fetch(task.name)
    except _Unavailable as error:
        return str(error)
    content = path.read_bytes()
    if not keep:
        path.unlink()
    raw, packed = task.entry["raw_data"], task.entry["zip_data"]
    if packed and (problem := _difference(content, packed)):
        return problem
    if packed:
        content = zstd.decompress(content)
        unpacked = path.with_name(raw["basename"])
        # Training reads an unpacked copy beside the stored shard in place of the shard.
        if unpacked.exists() and _difference(unpacked.read_bytes(), raw):
            return f"its unpacked copy {raw['basename']} is damaged; remove it, and it is unpacked again"
    return _difference(content, raw)


def _difference(content: bytes, info: Mapping[str, Any]) -> str | None:
    if len(content) != info["bytes"]:
        return f"has {len(content):,} bytes instead of {info['bytes']:,}"
    expected = info["hashes"].get("xxh64")
    if expected is not None and xxhash.xxh64_hexdigest(content) != expected:
        return "is not what was written: its hash differs"
    return None


def _manifest(data: str, fetch: Callable[[str], Path]) -> Manifest:
    try:
        return read_manifest(fetch(MANIFEST_NAME).parent)
    except _Unavailable as error:
        raise UserError(f"{data}: {MANIFEST_NAME} {error}; is this a dataset that the converter wrote?") from None


@contextlib.contextmanager
def _fetcher(data: str) -> Iterator[Callable[[str], Path]]:
    """Gives a function from a file's name to its local path; it downloads if needed, and may raise ``_Unavailable``."""
    if not is_remote(data):

        def find(name: str) -> Path:
            path = Path(data, name)
            if not path.is_file():
                raise _Unavailable("is missing")
            return path

        yield find
        return
    with tempfile.TemporaryDirectory() as folder:

        def fetch(name: str) -> Path:
            path = Path(folder, name)
            try:
                download(f"{data.rstrip('/')}/{name}", path)
            except UserError as error:
                raise _Unavailable(f"cannot be fetched: {error}") from error
            return path

        yield fetch
