"""Reads one column of data files, or of a split of a Hugging Face dataset, in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from plm_composer.errors import UserError
from plm_composer.shards.inputs.cleaning import Lengths, first_invalid
from plm_composer.shards.inputs.sources import SourceSummary
from plm_composer.shards.inputs.split import TRAIN
from plm_composer.shards.inputs.tables import Table, TableFiles, explaining, outermost, table_format

COLUMN_GUESSES = ("sequence", "seq", "text", "protein")
VAL_SPLIT_NAMES = ("validation", "valid", "val")
ROWS_PER_BLOCK = 20_000
_SAVED_BY_DATASETS = ("dataset_info.json", "dataset_dict.json")


@dataclass(frozen=True)
class RowBlock:
    """Consecutive rows of a column of strings.

    Attributes:
        name: Name of the dataset and its split, for messages.
        split: ``train`` or ``val``.
        first_row: Number of the first row, from 0 as ``datasets`` counts.
        texts: The values, encoded as UTF-8; a missing one is empty.
    """

    name: str
    split: str
    first_row: int
    texts: list[bytes]

    def sequences(self) -> tuple[bytes, Lengths]:
        """Raw text of all rows, and the number of bytes of each, shape (rows,)."""
        return b"".join(self.texts), np.fromiter(map(len, self.texts), dtype=np.int64, count=len(self.texts))

    def locate_invalid(self) -> tuple[str, bytes]:
        """Dataset and row of the first character that no rule accepts, and the character."""
        for row, text in enumerate(self.texts, self.first_row):
            if character := first_invalid(text):
                return f"{self.name}, row {row}", character
        raise ValueError("every character of the block is valid")


class RowSource:
    """One split of a dataset.

    Args:
        table: The rows of the split.
        name: Name of the dataset and its split, such as ``taylor-joren/uniref50 (train)``.
        column: Column of sequences, ``a.b`` for the field b in a column a; None to guess it.
        split: The split it is read for, ``train`` or ``val``. Part of a training source may go to validation.
        rows_per_block: Number of rows in a block.

    Raises:
        UserError: The column does not exist, or the guess finds none or several.
    """

    size = None

    def __init__(
        self,
        table: Table,
        name: str,
        *,
        column: str | None = None,
        split: str = TRAIN,
        rows_per_block: int = ROWS_PER_BLOCK,
    ) -> None:
        self.name = name
        self.split = split
        names = table.column_names
        if not names:
            raise UserError(f"{name}: has no rows")
        self.column = choose_column(names, column, name)
        head = outermost(self.column, names) or self.column
        self._fields = self.column.removeprefix(head).removeprefix(".").split(".") if head != self.column else []
        self._table = table
        self._rows_per_block = rows_per_block
        self._hash = xxhash.xxh3_128()
        self._bytes = 0

    @property
    def identity(self) -> list[Any]:
        """Name, column and split, and the identity of the table."""
        return [self.name, self.column, self.split, self._table.identity]

    def blocks(self, on_bytes: Callable[[int], object] | None = None) -> Iterator[RowBlock]:
        """Reads the rows.

        Args:
            on_bytes: Called with the number of bytes of text in each block.

        Raises:
            UserError: A value is not text, or the dataset cannot be read.
        """
        self._hash.reset()
        self._bytes = 0
        row = 0
        for values in self._table.batches(self.column, self._rows_per_block):
            texts = [self._encode(value, row + i) for i, value in enumerate(values)]
            text = b"\n".join(texts) + b"\n"
            self._hash.update(text)
            self._bytes += len(text)
            if on_bytes is not None:
                on_bytes(len(text))
            yield RowBlock(self.name, self.split, row, texts)
            row += len(texts)

    def _encode(self, value: Any, row: int) -> bytes:
        for field in self._fields:
            if value is None:
                break
            if not isinstance(value, dict) or field not in value:
                raise UserError(f"{self.name}, row {row}: there is no '{self.column}': no field '{field}'")
            value = value[field]
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            # A list of one text, or of the letters of one.
            value = "".join(value) if len(value) == 1 or all(len(part) == 1 for part in value) else value
        if value is None:
            return b""
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return value.encode("utf-8", "replace")
        if isinstance(value, dict):
            found = f"the fields {', '.join(value)}"
            example = next(iter(value), "")
            raise UserError(
                f"{self.name}, row {row}: column '{self.column}' holds {found}; choose one, such as --column "
                f"{self.column}.{example}"
            )
        found = f"a list of {len(value)} values" if isinstance(value, list) else type(value).__name__
        raise UserError(
            f"{self.name}, row {row}: column '{self.column}' holds {found}, not text; choose another with --column"
        )

    def summary(self) -> SourceSummary:
        """Size and hash of the column's values, one per line, whatever the storage format."""
        return SourceSummary(self.name, self.split, self._bytes, self._hash.hexdigest())


class DatasetTable:
    """A ``Dataset`` or ``IterableDataset`` as a table.

    Args:
        dataset: The dataset.
        name: Name of the dataset, for errors.
    """

    def __init__(self, dataset: Any, name: str) -> None:
        self._dataset, self._name = dataset, name

    @property
    def column_names(self) -> list[str]:
        """Names of the columns; for nested ones the outermost name."""
        if self._dataset.column_names is not None:
            return list(self._dataset.column_names)
        # A stream of JSON or CSV knows its columns only from its first row.
        with explaining(self._name):
            return list(next(iter(self._dataset), []))

    @property
    def identity(self) -> str | None:
        """Fingerprint by ``datasets``; None for a stream, which has none."""
        return getattr(self._dataset, "_fingerprint", None)

    def batches(self, column: str, rows: int) -> Iterator[list[Any]]:
        """Yields the values of one column, ``rows`` at a time."""
        head = outermost(column, self.column_names) or column
        with explaining(self._name):
            for batch in self._dataset.select_columns([head]).iter(batch_size=rows):
                yield batch[head]


def choose_column(names: Sequence[str], column: str | None, name: str) -> str:
    """Checks the chosen column, or guesses it if exactly one column has a usual name.

    Raises:
        UserError: The column does not exist, or the guess finds none or several.
    """
    listed = ", ".join(names)
    if column is not None:
        if outermost(column, names) is None:
            raise UserError(f"{name}: no column '{column}'; there are: {listed}")
        return column
    guesses = [guess for guess in COLUMN_GUESSES if guess in names]
    if len(guesses) != 1:
        raise UserError(f"{name}: which column holds the sequences? Choose one with --column: {listed}")
    return guesses[0]


def load_splits(
    paths: Sequence[str], *, config: str | None = None, revision: str | None = None, streaming: bool = False
) -> dict[str, Table]:
    """Opens a dataset with all its splits.

    Args:
        paths: Name of a dataset on the Hugging Face hub, a folder (of ``save_to_disk`` or of data files), or data
            files (parquet, JSON, JSON lines, CSV, TSV), which make up a split ``train``.
        config: Configuration (subset) of the dataset.
        revision: Branch, tag or commit on the hub.
        streaming: Whether to read a dataset of the hub row by row instead of downloading it first.

    Returns:
        Rows by split.

    Raises:
        UserError: There is no such dataset or file, or it cannot be read.
    """
    name = ", ".join(paths)
    formats = {table_format(path) for path in paths if not Path(path).is_dir()} - {None}
    if formats:
        if len(formats) > 1 or any(table_format(path) is None for path in paths):
            raise UserError(f"{name}: name files of one format: parquet, JSON, CSV or TSV")
        return {TRAIN: TableFiles([Path(path) for path in paths])}
    if len(paths) > 1:
        raise UserError(f"{name}: name one dataset, or data files (parquet, JSON, CSV, TSV)")
    with explaining(name, "cannot be loaded as a dataset"):
        return _load_dataset(paths[0], config, revision, streaming)


def _load_dataset(path: str, config: str | None, revision: str | None, streaming: bool) -> dict[str, Table]:
    # Slow to import, and FASTA does not need it.
    import datasets

    if any(Path(path, marker).is_file() for marker in _SAVED_BY_DATASETS):
        saved = datasets.load_from_disk(path)
        splits = saved if isinstance(saved, dict) else {TRAIN: saved}
        return {key: DatasetTable(part, path) for key, part in splits.items()}
    builder = datasets.load_dataset_builder(path, config, revision=revision)
    files: dict[str, list[str]] = {str(key): list(part) for key, part in (builder.config.data_files or {}).items()}
    ours = files and all(table_format(file) for part in files.values() for file in part)
    if ours and (Path(path).is_dir() or not streaming):
        manager = datasets.DownloadManager()  # leaves local files where they are
        return {
            key: TableFiles([Path(copy) for copy in manager.download(part)], _short_names(path, part))
            for key, part in files.items()
        }
    loaded = datasets.load_dataset(path, config, revision=revision, streaming=streaming)
    return {key: DatasetTable(part, path) for key, part in loaded.items()}


def _short_names(path: str, files: Sequence[str]) -> list[str]:
    """Names of a dataset's files for messages: below the folder or dataset that the user gave."""
    root = str(Path(path).resolve()) if Path(path).is_dir() else path
    return [f"{path}/{file.rpartition(root)[2].lstrip('/')}" if root in file else file for file in files]


def choose_split(splits: dict[str, Table], split: str, name: str) -> Table:
    """Looks up a split.

    Raises:
        UserError: The dataset has no split of this name.
    """
    if split not in splits:
        raise UserError(f"{name}: no split '{split}'; there are: {', '.join(splits)}")
    return splits[split]
