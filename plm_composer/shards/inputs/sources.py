"""Where proteins come from, and what the manifest says of it."""

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
    """Where proteins come from: an input that is read once."""

    @property
    def split(self) -> str:
        """``train`` or ``val``."""

    @property
    def size(self) -> int | None:
        """Bytes to read, if known."""

    @property
    def identity(self) -> list[Any]:
        """Plain values that are others once the input is another, as far as can be told without reading it."""

    def blocks(self, on_bytes: Callable[[int], object]) -> Iterator[Block]:
        """Reads the input; reports bytes as they are read."""

    def summary(self) -> SourceSummary:
        """What was read."""
