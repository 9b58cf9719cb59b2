"""Files of tables, parquet, CSV, TSV and JSON: the values of one column, and nothing else of them.

Other columns may hold what they like, and change it from row to row and from file to file. Text is text: no value
stands for a missing one.
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
"""Of a CSV file that are parsed at once; no row may be longer."""
_ROWS_LOOKED_AT = 100
"""Rows of a JSON file whose keys are its columns."""
_COMPRESSIONS = (".gz", ".bz2", ".zst", ".lz4")


class Table(Protocol):
    """Rows with named columns."""

    @property
    def column_names(self) -> list[str]:
        """The columns, of nested ones the outermost name."""

    @property
    def identity(self) -> Any:
        """Plain values that are others once the table is another, as far as can be told without reading it."""

    def batches(self, column: str, rows: int) -> Iterator[list[Any]]:
        """The values of one column, so many at a time; of a nested one (``a.b``), those of its outermost part."""


class TableFiles:
    """Some files of one format as one table.

    Args:
        paths: The files, in order.
        names: What to call them in errors and to tell their format by, where that is not their path.

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
        """The columns of the first file that has some."""
        return next((names for path, name in self._files if (names := _reader(name)(path, name).columns())), [])

    @property
    def identity(self) -> list[list[Any]]:
        """Place, size and time of each file."""
        found = [(path.resolve(), path.stat()) for path, _ in self._files]
        return [[str(path), status.st_size, status.st_mtime_ns] for path, status in found]

    def batches(self, column: str, rows: int) -> Iterator[list[Any]]:
        """The values of one column, so many at a time.

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
    """The ending that tells a file's format, such as ``.csv``; None where it is none of ours."""
    path = Path(name.lower())
    suffix = Path(path.stem).suffix if path.suffix in _COMPRESSIONS else path.suffix
    return suffix if suffix in _READERS else None


def outermost(column: str, names: Sequence[str]) -> str | None:
    """The column of a table to which a name such as ``sequence.value`` leads; None where there is none."""
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
                    raise UserError(f"{self._name}: no column '{column}', though there is the first part of the name")
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
    """Lines of objects; or one array of objects; or one object with an array of objects in it (UniProt's)."""

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
    """The one array of objects in an object that holds nothing else but numbers and what is empty.

    A record, which may hold an array of objects too, has some text.
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
    # What is no UTF-8 may lie in another column; in a sequence it is refused as any odd character.
    stream = pa.input_stream(str(path), compression="detect")
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")


@contextlib.contextmanager
def explaining(name: str, problem: str = "cannot be read") -> Iterator[None]:
    """Turns what a library finds wrong with an input into one line: each has exceptions of its own.

    Args:
        name: The input.
        problem: What to say of it.

    Raises:
        UserError: Anything was raised.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name}: {problem}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """An exception's message on one line, and no longer than one can read."""
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
