"""Records the finished shards of a conversion, so that an interrupted one can continue."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plm_composer.files.atomic import sync
from plm_composer.shards.inputs.split import SPLITS
from plm_composer.shards.output.manifest import ShardSummary
from plm_composer.shards.output.staging import LOCK_NAME

JOURNAL_NAME = ".journal"


class Journal:
    """A file of JSON lines in the staging folder: the fingerprint, then each shard once it is on the disk.

    Args:
        fingerprint: Everything that determines the output, as plain JSON values by name. Only a conversion with the
            same fingerprint is continued.
        say: Called with each line for the user; None for none.
    """

    def __init__(self, fingerprint: Mapping[str, Any], say: Callable[[str], object] | None = None) -> None:
        self._fingerprint = dict(fingerprint)
        self._say = say
        self._path: Path | None = None
        self._finished: dict[tuple[str, int], ShardSummary] = {}
        self._used = 0

    def resume(self, folder: Path) -> bool:
        """Reads the journal of an interrupted conversion, if ``folder`` has one, and removes files of no use.

        Returns:
            Whether the conversion can continue with the rest of the files in ``folder``.
        """
        self._path = folder / JOURNAL_NAME
        try:
            lines = _read_lines(self._path)
            finished = [_shard_summary(fields) for fields in lines[1:]]
        except (ValueError, TypeError):
            self._report(f"starting over: {self._path} is damaged")
            return False
        if not lines:
            return False
        differences = [key for key, value in self._fingerprint.items() if lines[0].get(key) != value]
        if differences:
            self._report(f"starting over: the interrupted conversion in {folder} had other {', '.join(differences)}")
            return False
        self._finished = {(shard.split, shard.number): shard for shard in finished}
        for path in folder.iterdir():
            if path.is_dir() and path.name not in SPLITS:
                shutil.rmtree(path)
            elif path.is_file() and path.name not in (LOCK_NAME, JOURNAL_NAME):
                path.unlink()
        self._report(f"continuing the interrupted conversion in {folder}: {len(self._finished)} shards are done")
        return True

    def find(self, split: str, number: int) -> ShardSummary | None:
        """Summary of a shard that the interrupted conversion finished; None if it did not."""
        return self._finished.get((split, number))

    def add(self, shard: ShardSummary) -> None:
        """Records a shard that is on the disk."""
        if self.find(shard.split, shard.number) == shard:
            self._used += 1
        else:
            self._append(asdict(shard))

    def start(self) -> None:
        """Starts a new journal, unless ``resume`` found one."""
        if self._path is not None and not self._path.exists():
            self._append(self._fingerprint)

    def finish(self) -> None:
        """Removes the journal."""
        assert self._path is not None
        self._path.unlink()
        changed = len(self._finished) - self._used
        if changed:
            self._report(
                f"{changed} of {len(self._finished)} shards of the interrupted conversion differed and were made again"
            )

    def _report(self, line: str) -> None:
        if self._say is not None:
            self._say(line)

    def _append(self, fields: dict[str, Any]) -> None:
        assert self._path is not None
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(fields) + "\n")
        sync(self._path)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads the lines, and cuts off a partial one that a killed process left at the end."""
    if not path.exists():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    os.truncate(path, len(whole))
    return [json.loads(line) for line in whole.splitlines()]


def _shard_summary(fields: dict[str, Any]) -> ShardSummary:
    tuples = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    return ShardSummary(**{**fields, **tuples})
