"""Reads the values of one column from parquet, CSV, TSV and JSON files.

Other columns are ignored, so that their types may change from row to row and from file to file. No text is taken for a
missing value.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from plm_composer.errors import UserError

_BLOCK_BYTES = 16 << 20
"""Bytes of a CSV file that are parsed at once; no row may be longer."""
_ROWS_LOOKED_AT = 100
"""Number of first rows of a JSON file whose keys are its columns."""
_COMPRESSIONS = (".gz", ".bz2", ".zst", ".lz4")


class Table(Protocol):
    """Rows with named columns."""

    @property
    def column_names(self) -> list[str]:
        """Names of the columns; for nested ones the outermost name."""

    @property
    def identity(self) -> Any:
        """Plain values that change if the table changes, as far as that shows without reading it."""

    def batches(self, column: str, rows: int) -> Iterator[list[Any]]:
        """Yields a column's values, ``rows`` at a time; for a nested column (``a.b``) those of its outermost part."""


class TableFiles:
    """Several files of one format as one table.

    Args:
        paths: The files, in order.
        names: Names of the files for errors, whose endings give the format. Default: the paths.

    Raises:
        UserError: A file is missing or its format unknown.
    """

    def __init__(self, paths: Sequence[Path], names: Sequence[str] | None = None) -> None:
        self._files = [(path, name) for path, name in zip(paths, names or list(map(str, paths)), strict=True)]
        for path, name in self._files:
            if table_format(name) is None:
                raise UserError(f"{name}: must end in {', '.join(_READERS)}")
            if not path.is_file():
                raise UserError(f"{name}: no such file")

    @property
    def column_names(self) -> list[str]:
        """The columns of the first file that is not empty."""
        return next((names for path, name in self._files if (names := _reader(name)(path, name).columns())), [])

    @property
    def identity(self) -> list[list[Any]]:
        """Path, size and modification time of each file."""
        found = [(path.resolve(), path.stat()) for path, _ in self._files]
        return [[str(path), status.st_size, status.st_mtime_ns] for path, status in found]

    def batches(self, column: str, rows: int) -> Iterator[list[Any]]:
        """Yields the values of one column, ``rows`` at a time.

        Raises:
            UserError: A file cannot be read, or has no such column.
        """
        for path, name in self._files:
            reader = _reader(name)(path, name)
            columns = reader.columns()
            if columns and outermost(column, columns) is None:
                raise UserError(f"{name}: no column '{column}'; there are: {', '.join(columns)}")
            if columns:
                yield from reader.batches(column, rows)


def table_format(name: str) -> str | None:
    """The ending that gives a file's format, such as ``.csv``; None if the format is not supported."""
    path = Path(name.lower())
    suffix = Path(path.stem).suffix if path.suffix in _COMPRESSIONS else path.suffix
    return suffix if suffix in _READERS else None


def outermost(column: str, names: Sequence[str]) -> str | None:
    """The column of a table that a name such as ``sequence.value`` begins with; None if there is none."""
    parts = column.split(".")
    heads = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((head for head in heads if head in names), None)


class _Parquet:
    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name

    def columns(self) -> list[str]:
        return list(self._open().schema_arrow.names)

    def batches(self, column: str, rows: int) -> Iterator[list[Any]]:
        file = self._open()
        with explaining(self._name):
            for batch in file.iter_batches(batch_size=rows, columns=[column]):
                if not batch.num_columns:
                    raise UserError(f"{self._name}: no column '{column}', only the first part of the name")
                yield batch.column(0).to_pylist()

    def _open(self) -> Any:
        with explaining(self._name):
            return pyarrow.parquet.ParquetFile(self._path)


class _Csv:
    delimiter = ","

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name

    def columns(self) -> list[str]:
        with explaining(self._name), _open_text(self._path) as file:
            return next(csv.reader(file, delimiter=self.delimiter), [])

    def batches(self, column: str, rows: int) -> Iterator[list[Any]]:
        with explaining(self._name), pa.input_stream(str(self._path), compression="detect") as file:
            reader = pyarrow.csv.open_csv(
                file,
                read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES),
                parse_options=pyarrow.csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(
                    include_columns=[column], column_types={column: pa.string()}, strings_can_be_null=False
                ),
            )
            for block in reader:
                for batch in pa.Table.from_batches([block]).to_batches(max_chunksize=rows):
                    yield batch.column(0).to_pylist()


class _Tsv(_Csv):
    delimiter = "\t"


class _Json:
    """One object per line, one array of objects, or one object that holds an array of objects (UniProt's)."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name

    def columns(self) -> list[str]:
        rows = itertools.islice(self._rows(), _ROWS_LOOKED_AT)
        return list(dict.fromkeys(key for row in rows for key in row))

    def batches(self, column: str, rows: int) -> Iterator[list[Any]]:
        name = outermost(column, self.columns()) or column
        values = (row.get(name) for row in self._rows())
        while batch := list(itertools.islice(values, rows)):
            yield batch

    def _rows(self) -> Iterator[dict[str, Any]]:
        with explaining(self._name), _open_text(self._path) as file:
            lines = ((number, line) for number, line in enumerate(file, 1) if not line.isspace())
            first = next(lines, None)
            if first is None:
                return
            second = next(lines, None)
            if second is None or not _is_object(first[1]):
                rest = "" if second is None else second[1] + "".join(line for _, line in lines)
                yield from _rows_of(self._parse(first[1] + rest, None), self._name)
                return
            for number, line in itertools.chain([first, second], lines):
                yield _as_row(self._parse(line, number), f"{self._name}, line {number}")

    def _parse(self, text: str, line: int | None) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            place = self._name if line is None else f"{self._name}, line {line}"
            raise UserError(f"{place}: not valid JSON: {error}") from None


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _rows_of(document: Any, name: str) -> Iterator[dict[str, Any]]:
    rows = document if isinstance(document, list) else _table_in(document) or [document]
    return (_as_row(row, name) for row in rows)


def _table_in(document: Any) -> list[Any] | None:
    """Finds the array of objects in an object that otherwise holds only numbers and empty values.

    A record may hold an array of objects too, but it also holds text.
    """
    values = [value for value in document.values() if value] if isinstance(document, dict) else []
    others = [value for value in values if not isinstance(value, int | float)]
    if len(others) == 1 and isinstance(others[0], list) and all(isinstance(row, dict) for row in others[0]):
        return others[0]
    return None


def _as_row(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{place}: holds {type(value).__name__}, not an object with named values")
    return value


def _open_text(path: Path) -> io.TextIOWrapper:
    # Bytes that are not UTF-8 may be in another column; in a sequence they are refused like any invalid character.
    stream = pa.input_stream(str(path), compression="detect")
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")


@contextlib.contextmanager
def explaining(name: str, problem: str = "cannot be read") -> Iterator[None]:
    """Turns any exception into a one-line ``UserError``, since each library has its own exceptions.

    Args:
        name: Name of the input, for the message.
        problem: The problem, for the message.

    Raises:
        UserError: The body raised an exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name}: {problem}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """An exception's message on one line, at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


_READERS: dict[str, Callable[[Path, str], Any]] = {
    ".parquet": _Parquet,
    ".csv": _Csv,
    ".tsv": _Tsv,
    ".json": _Json,
    ".jsonl": _Json,
}


def _reader(name: str) -> Callable[[Path, str], Any]:
    return _READERS[table_format(name) or ""]
