"""Hugging Face ``datasets`` as a source: one column of one split, as blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from plm_composer.errors import UserError
from plm_composer.shards.cleaning import Lengths, first_invalid
from plm_composer.shards.manifest import SourceSummary
from plm_composer.shards.records import TRAIN

COLUMN_GUESSES = ("sequence", "seq", "text", "protein")
VAL_SPLIT_NAMES = ("validation", "valid", "val")
ROWS_PER_BLOCK = 20_000
_FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv"}
_SAVED_BY_DATASETS = ("dataset_info.json", "dataset_dict.json")


@dataclass(frozen=True)
class RowBlock:
    """Some rows of a column of strings.

    Attributes:
        name: The dataset and its split, for messages.
        split: ``train`` or ``val``.
        first_row: Number of the first row, from 0 as ``datasets`` counts.
        texts: The values, encoded as UTF-8; a missing one is empty.
    """

    name: str
    split: str
    first_row: int
    texts: list[bytes]

    def sequences(self) -> tuple[bytes, Lengths]:
        """The raw text of all rows, and the bytes of each, shape (rows,)."""
        return b"".join(self.texts), np.fromiter(map(len, self.texts), dtype=np.int64, count=len(self.texts))

    def locate_invalid(self) -> tuple[str, bytes]:
        """The first character that no rule accepts, and where it is."""
        for row, text in enumerate(self.texts, self.first_row):
            if character := first_invalid(text):
                return f"{self.name}, row {row}", character
        raise ValueError("every character of the block is valid")


class RowSource:
    """One split of a dataset.

    Args:
        dataset: A ``Dataset`` or ``IterableDataset``.
        name: Its name and split, such as ``taylor-joren/uniref50 (train)``.
        column: The column of sequences; None to guess it.
        split: The split it feeds, ``train`` or ``val``. Part of a training source may go to validation by hash.
        rows_per_block: Rows in a block.

    Raises:
        UserError: There is no such column, or none or several that could be it.
    """

    size = None

    def __init__(
        self,
        dataset: Any,
        name: str,
        *,
        column: str | None = None,
        split: str = TRAIN,
        rows_per_block: int = ROWS_PER_BLOCK,
    ) -> None:
        self.name = name
        self.split = split
        self.column = choose_column(_column_names(dataset, name), column, name)
        self._dataset = dataset.select_columns([self.column])
        self._rows_per_block = rows_per_block
        self._hash = xxhash.xxh3_128()
        self._bytes = 0

    @property
    def identity(self) -> list[Any]:
        """Name, column, split and ``datasets``' own fingerprint, which a stream has not."""
        return [self.name, self.column, self.split, getattr(self._dataset, "_fingerprint", None)]

    def blocks(self, on_bytes: Callable[[int], object] = lambda _: None) -> Iterator[RowBlock]:
        """Reads the rows.

        Args:
            on_bytes: Called with the bytes of text of each block.

        Raises:
            UserError: A value is no text, or the dataset cannot be read.
        """
        self._hash.reset()
        self._bytes = 0
        row = 0
        batches = self._dataset.iter(batch_size=self._rows_per_block)
        while batch := self._next(batches):
            texts = [self._encode(value, row + i) for i, value in enumerate(batch[self.column])]
            text = b"\n".join(texts) + b"\n"
            self._hash.update(text)
            self._bytes += len(text)
            on_bytes(len(text))
            yield RowBlock(self.name, self.split, row, texts)
            row += len(texts)

    def _next(self, batches: Iterator[dict[str, list[Any]]]) -> dict[str, list[Any]] | None:
        try:
            return next(batches, None)
        except Exception as error:
            # Readers of parquet, JSON and CSV, and the network below them, each have exceptions of their own.
            raise UserError(f"{self.name}: cannot be read: {one_line(error)}") from error

    def _encode(self, value: Any, row: int) -> bytes:
        if value is None:
            return b""
        if not isinstance(value, str):
            raise UserError(
                f"{self.name}, row {row}: column '{self.column}' holds {type(value).__name__}, not text; "
                "choose another with --column"
            )
        return value.encode("utf-8", "replace")

    def summary(self) -> SourceSummary:
        """What was read: size and hash of the column's values, one a line, however the dataset is stored."""
        return SourceSummary(self.name, self.split, self._bytes, self._hash.hexdigest())


def one_line(error: BaseException) -> str:
    """An exception's message on one line, and no longer than one can read."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _column_names(dataset: Any, name: str) -> list[str]:
    if dataset.column_names is not None:
        return list(dataset.column_names)
    # A stream of JSON or CSV knows its columns only from its first row.
    try:
        first = next(iter(dataset), None)
    except Exception as error:
        raise UserError(f"{name}: cannot be read: {one_line(error)}") from error
    if first is None:
        raise UserError(f"{name}: has no rows")
    return list(first)


def choose_column(names: Sequence[str], column: str | None, name: str) -> str:
    """Checks the chosen column, or guesses it if there is exactly one that could be it.

    Raises:
        UserError: There is no such column, or none or several that could be it.
    """
    listed = ", ".join(names)
    if column is not None:
        if column not in names:
            raise UserError(f"{name}: no column '{column}'; there are: {listed}")
        return column
    guesses = [guess for guess in COLUMN_GUESSES if guess in names]
    if len(guesses) != 1:
        raise UserError(f"{name}: which column holds the sequences? Choose one with --column: {listed}")
    return guesses[0]


def load_splits(
    paths: Sequence[str], *, config: str | None = None, revision: str | None = None, streaming: bool = False
) -> dict[str, Any]:
    """Opens a dataset with all its splits.

    Args:
        paths: Name of a dataset on the Hugging Face hub, a folder (of ``save_to_disk`` or of data files), or data
            files (parquet, JSON, JSON lines, CSV, TSV), which make up a split ``train``.
        config: Configuration (subset) of the dataset.
        revision: Branch, tag or commit on the hub.
        streaming: Whether to read row by row instead of preparing a local copy first.

    Returns:
        ``Dataset`` or ``IterableDataset`` by split.

    Raises:
        UserError: There is no such dataset or file, or it cannot be read.
    """
    # Slow to import, and not needed for FASTA.
    import datasets

    name = ", ".join(paths)
    path = Path(paths[0])
    files = [path for path in map(Path, paths) if path.suffix.lower() in _FORMATS]
    try:
        if len(paths) == 1 and any((path / marker).is_file() for marker in _SAVED_BY_DATASETS):
            saved = datasets.load_from_disk(str(path))
            splits = saved if isinstance(saved, dict) else {TRAIN: saved}
            return {key: part.to_iterable_dataset() if streaming else part for key, part in splits.items()}
        if files:
            if len(files) != len(paths) or len({_FORMATS[path.suffix.lower()] for path in files}) != 1:
                raise UserError(f"{name}: name files of one format: {', '.join(_FORMATS)}")
            missing = [path for path in files if not path.is_file()]
            if missing:
                raise UserError(f"{missing[0]}: no such file")
            options = {"sep": "\t"} if files[0].suffix.lower() == ".tsv" else {}
            return dict(
                datasets.load_dataset(
                    _FORMATS[files[0].suffix.lower()],
                    data_files={TRAIN: [str(path) for path in files]},
                    streaming=streaming,
                    **options,
                )
            )
        if len(paths) > 1:
            raise UserError(f"{name}: name one dataset, or data files ({', '.join(_FORMATS)})")
        return dict(datasets.load_dataset(paths[0], config, revision=revision, streaming=streaming))
    except UserError:
        raise
    except Exception as error:
        # The hub, its client and each file format have exceptions of their own; all of them are about the input.
        cause = error.__cause__ if error.__cause__ is not None and "generating the dataset" in str(error) else error
        raise UserError(f"{name}: cannot be loaded as a dataset: {one_line(cause)}") from error


def choose_split(splits: dict[str, Any], split: str, name: str) -> Any:
    """Looks up a split.

    Raises:
        UserError: There is none of this name.
    """
    if split not in splits:
        raise UserError(f"{name}: no split '{split}'; there are: {', '.join(splits)}")
    return splits[split]
