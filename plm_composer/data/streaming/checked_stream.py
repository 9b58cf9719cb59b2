"""A Stream whose errors name the shard, and which checks shards on the disk against their hashes."""

from __future__ import annotations

import errno
from pathlib import Path

from streaming import Stream
from streaming.base.format import Reader
from streaming.base.hashing import get_hash

from plm_composer.errors import UserError, first_line

_STORED = "the stored shard is not what the converter wrote; see `plm verify`, and copy or convert it again"


class ShardError(UserError):
    """A shard cannot be fetched, or is not what its dataset's index says."""


class CheckedStream(Stream):
    """``streaming.Stream`` checks only downloads; this one also checks files that are already on the disk.

    These are the shards of a local dataset, and files that an earlier run left in the cache of a remote one, perhaps
    half written. A damaged file in a cache is fetched again, once; a dataset's own files are never touched.
    """

    def prepare_shard(self, shard: Reader) -> int:
        """Fetches and unpacks a shard that is missing; compares compressed ones with their hash.

        Returns:
            Change of the cache's size, in bytes.

        Raises:
            ShardError: The shard cannot be fetched, or is damaged.
        """
        try:
            try:
                return int(super().prepare_shard(shard))
            except ValueError:  # a hash that differs
                freed = self.discard(shard)
                if not freed:
                    raise
                return int(super().prepare_shard(shard)) - freed
        except Exception as error:  # each store's client has its own exceptions
            raise ShardError(f"shard {self.name_of(shard)}: {self._explain(error)}") from error

    def is_intact(self, shard: Reader) -> bool:
        """Whether the unpacked shard has the hash in the index; True without ``validate_hash``.

        Raises:
            FileNotFoundError: The unpacked shard is missing.
        """
        if not self.validate_hash:
            return True
        return all(
            get_hash(self.validate_hash, Path(self.local, self.split, raw.basename).read_bytes())
            == raw.hashes[self.validate_hash]
            for raw, _ in shard.file_pairs
        )

    def discard(self, shard: Reader) -> int:
        """Removes those of a shard's files that can be made again, by a download or by unpacking.

        Returns:
            Bytes freed; 0 if nothing could be removed.
        """
        freed = 0
        for raw, packed in shard.file_pairs:
            for info in (raw, packed) if self.remote else (raw,) if packed else ():
                path = Path(self.local, self.split, info.basename)
                if path.exists():
                    freed += path.stat().st_size
                    path.unlink()
        return freed

    def ensure(self, shard: Reader) -> None:
        """Prepares a shard and checks it, for a process that alone uses the folder.

        Raises:
            ShardError: The shard cannot be fetched, or is damaged.
        """
        self.prepare_shard(shard)
        if not self.is_intact(shard):
            if not self.discard(shard):
                raise self.damage(shard)
            self.prepare_shard(shard)

    def damage(self, shard: Reader) -> ShardError:
        """The error for a shard whose bytes differ."""
        return ShardError(f"shard {self.name_of(shard)}: {_STORED}")

    def name_of(self, shard: Reader) -> str:
        """URL or path of a shard."""
        raw, packed = shard.file_pairs[0]
        return "/".join(part for part in (self.remote or self.local, self.split, (packed or raw).basename) if part)

    def _explain(self, error: Exception) -> str:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return f"the disk of {self.local} is full; set data.local to a larger one, or lower data.cache_limit"
        if isinstance(error, ValueError) and "Checksum failure" in str(error):
            return _STORED
        return first_line(error)
