"""The settings that determine the content of a converted dataset."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from plm_composer.errors import UserError
from plm_composer.files.mds import HASHES
from plm_composer.shards.inputs.cleaning import Rules

DEFAULT_VAL_FRACTION = 0.001
"""One protein in a thousand: 60,000 of UniRef50, which is plenty for a validation loss."""
_ZSTD_LEVELS = range(1, 23)
_MOST_SHARD_MIB = 1024
"""`zstd` compresses less than 2 GiB at once, and a shard may exceed its size by one protein."""


@dataclass(frozen=True)
class Settings:
    """The settings that determine the output.

    Attributes:
        rules: Which records are kept.
        val_fraction: Share of the training sources that goes to validation, 0 to below 1.
        deduplicate: Whether exact repeats of a protein are dropped.
        compression: ``zstd:LEVEL`` or ``none``.
        shard_size: Size of a shard before compression, in MiB, above 0 and at most 1024.
    """

    rules: Rules = field(default_factory=Rules)
    val_fraction: float = DEFAULT_VAL_FRACTION
    deduplicate: bool = False
    compression: str = "zstd:3"
    shard_size: float = 32

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"--val-fraction {self.val_fraction}: must be at least 0 and below 1")
        if not 0 < self.shard_size <= _MOST_SHARD_MIB:
            raise UserError(f"--shard-size {self.shard_size}: must be above 0 and at most {_MOST_SHARD_MIB} MiB")
        if self.compression not in ("none", *(f"zstd:{level}" for level in _ZSTD_LEVELS)):
            raise UserError(f"--compression {self.compression}: must be none, or zstd:1 to zstd:22")

    @property
    def codec(self) -> str | None:
        """The compression as ``streaming`` names it; None for none."""
        return None if self.compression == "none" else self.compression

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, for the manifest."""
        fields = asdict(self)
        return {**fields.pop("rules"), **fields, "hashes": HASHES}
