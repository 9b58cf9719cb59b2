"""The interface of a conversion's inputs, and their summary in the manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from plm_composer.shards.inputs.records import Block


@dataclass(frozen=True)
class SourceSummary:
    """An input: name, the split it was read for, its size in bytes and the xxh3 128-bit hash of its bytes."""

    name: str
    split: str
    bytes: int
    xxh3_128: str


class Source(Protocol):
    """An input of a conversion, which is read once."""

    @property
    def split(self) -> str:
        """``train`` or ``val``."""

    @property
    def size(self) -> int | None:
        """Number of bytes to read; None if unknown."""

    @property
    def identity(self) -> list[Any]:
        """Plain values that change if the input changes, as far as that shows without reading it."""

    def blocks(self, on_bytes: Callable[[int], object]) -> Iterator[Block]:
        """Yields the records in blocks; calls ``on_bytes`` with the number of bytes of each read."""

    def summary(self) -> SourceSummary:
        """Name, size and hash of what was read."""
