"""Files of embeddings: one writer for each ending, all of which take proteins part by part, and one reader."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from plm_composer.errors import UserError, first_line
from plm_composer.files.atomic import check_writable, is_full, replacing
from plm_composer.inference.embedding.array_files import (
    Array,
    ArrayStream,
    read_safetensors,
    write_npz,
    write_safetensors,
)
from plm_composer.inference.embedding.in_memory import Embeddings
from plm_composer.inference.embedding.request import IntArray

_UNKNOWN = -1
"""Length of a protein of which only its mean is known."""
ARRAYS = ("embeddings", "offsets", "names", "layers")


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a file has to make room for.

    Args:
        proteins: Number of proteins.
        rows: Number of vectors of each layer.
        name_bytes: Bytes of all names, line ends between them included.
        layers: Number of each layer.
        width: Width of the model.
        dtype: Data type of the vectors.
        per_residue: Whether each residue has a vector.
    """

    proteins: int
    rows: int
    name_bytes: int
    layers: tuple[int, ...]
    width: int
    dtype: np.dtype[Any]
    per_residue: bool

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of a row: a vector, or one of each layer."""
        return (self.width,) if len(self.layers) == 1 else (len(self.layers), self.width)

    @property
    def nbytes(self) -> int:
        """Bytes of a file's arrays."""
        return self.dtype.itemsize * self.rows * len(self.layers) * self.width + 8 * self.proteins + self.name_bytes


class Source(Protocol):
    """Embedded proteins that come part by part, as often as a writer asks for them."""

    @property
    def shape(self) -> Shape:
        """The sizes of all parts together."""

    def names(self) -> Iterator[list[str]]:
        """The names of each part's proteins."""

    def lengths(self) -> Iterator[IntArray]:
        """The residues of each part's proteins, (proteins,)."""

    def values(self) -> Iterator[Array]:
        """The vectors of each part, (rows, layers, hidden_size)."""


def _rows(source: Source) -> Iterator[Array]:
    return (values.reshape(len(values), *source.shape.row) for values in source.values())


def _name_bytes(source: Source) -> Iterator[Array]:
    separator = ""
    for names in source.names():
        yield np.frombuffer((separator + "\n".join(names)).encode("utf-8"), dtype=np.uint8)
        separator = "\n"


def _offsets(source: Source) -> Iterator[Array]:
    yield np.zeros(1, dtype=np.int64)
    end = 0
    for lengths in source.lengths():
        ends = end + np.cumsum(lengths, dtype=np.int64)
        end = int(ends[-1]) if len(ends) else end
        yield ends


def _streams(source: Source) -> dict[str, ArrayStream]:
    shape = source.shape
    streams = {
        "embeddings": ArrayStream(shape.dtype, (shape.rows, *shape.row), lambda: _rows(source)),
        "names": ArrayStream(np.dtype(np.uint8), (shape.name_bytes,), lambda: _name_bytes(source)),
    }
    if shape.per_residue:
        streams["offsets"] = ArrayStream(np.dtype(np.int64), (shape.proteins + 1,), lambda: _offsets(source))
    if len(shape.layers) > 1:
        layers = np.array(shape.layers, dtype=np.int64)
        streams["layers"] = ArrayStream(layers.dtype, layers.shape, lambda: iter([layers]))
    return streams


def _write_npz(path: Path, source: Source) -> None:
    write_npz(path, _streams(source))


def _write_safetensors(path: Path, source: Source) -> None:
    write_safetensors(path, _streams(source), {"format": "pt"})


def _write_hdf5(path: Path, source: Source) -> None:
    """The same arrays, but names as text. One data set for all proteins: one for each would be slow."""
    import h5py

    with h5py.File(path, "w") as file:
        for name, stream in _streams(source).items():
            if name == "names":
                continue
            data = file.create_dataset(name, shape=stream.shape, dtype=stream.dtype)
            start = 0
            for piece in stream.pieces():
                data[start : start + len(piece)] = piece
                start += len(piece)
        names = file.create_dataset("names", shape=(source.shape.proteins,), dtype=h5py.string_dtype())
        start = 0
        for part in source.names():
            names[start : start + len(part)] = part
            start += len(part)


def _write_parquet(path: Path, source: Source) -> None:
    """A row for each protein: name, length, and a column of vectors for each layer; a row group for each part."""
    import pyarrow
    import pyarrow.parquet

    shape = source.shape
    vector = pyarrow.list_(pyarrow.from_numpy_dtype(shape.dtype), shape.width)
    column = pyarrow.large_list(vector) if shape.per_residue else vector
    columns = _layer_columns(shape.layers)
    schema = pyarrow.schema([
        ("name", pyarrow.string()), ("length", pyarrow.int64()), *((name, column) for name in columns)
    ])  # fmt: skip
    # Vectors do not repeat, and hardly compress.
    with pyarrow.parquet.ParquetWriter(path, schema, use_dictionary=False, compression="none") as writer:
        for names, lengths, values in zip(source.names(), source.lengths(), source.values(), strict=True):
            cells = []
            for index in range(len(columns)):
                flat = pyarrow.array(np.ascontiguousarray(values[:, index]).reshape(-1))
                vectors = pyarrow.FixedSizeListArray.from_arrays(flat, shape.width)
                if shape.per_residue:
                    ends = np.concatenate([[0], np.cumsum(lengths)])
                    vectors = pyarrow.LargeListArray.from_arrays(pyarrow.array(ends, pyarrow.int64()), vectors)
                cells.append(vectors)
            part = [
                pyarrow.array(names, pyarrow.string()),
                pyarrow.array(lengths, pyarrow.int64(), mask=lengths == _UNKNOWN),
                *cells,
            ]
            writer.write_table(pyarrow.Table.from_arrays(part, schema=schema), row_group_size=max(1, len(names)))


def _layer_columns(layers: Sequence[int]) -> list[str]:
    return ["embedding"] if len(layers) == 1 else [f"embedding_{layer}" for layer in layers]


_WRITERS: dict[str, Callable[[Path, Source], None]] = {
    ".npz": _write_npz,
    ".safetensors": _write_safetensors,
    ".h5": _write_hdf5,
    ".parquet": _write_parquet,
}
ENDINGS = tuple(_WRITERS)
"""Endings of the files that can be written."""
_NO_NUL = (".h5",)
"""Endings of formats whose texts end at a NUL."""


def write_embeddings(path: Path, source: Source) -> None:
    """Writes embeddings to a file, whole or not at all.

    Args:
        path: The file; its ending is one of ``ENDINGS``.
        source: The embeddings.

    Raises:
        UserError: The file cannot be written.
    """
    path = path.resolve()  # replaces the target of a link, not the link
    with telling_of_writes(path), replacing(path) as partial:
        _WRITERS[path.suffix](partial, source)


@contextlib.contextmanager
def telling_of_writes(path: Path) -> Iterator[None]:
    """Turns the error of a failed write into one line.

    Args:
        path: What is written, or the folder it is written to.

    Raises:
        UserError: A write failed.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # of HDF5 either, if the disk is full
        folder = path if path.is_dir() else path.parent
        if is_full(folder, error):
            raise UserError(f"cannot write {path}: No space left on device") from error
        if not isinstance(error, OSError):
            raise
        raise UserError(f"cannot write {path}: {error.strerror or first_line(error)}") from error


def check_name(path: Path, name: str) -> None:
    """Checks that a format can hold a protein's name.

    Args:
        path: The file to write.
        name: The name.

    Raises:
        UserError: It cannot.
    """
    if "\n" in name:
        raise UserError(f"{path}: the name {name!r} has a line end; take it out")
    if "\0" in name and path.suffix in _NO_NUL:
        raise UserError(f"{path}: the name {name!r} has a NUL, which {path.suffix} cannot hold; write another format")


def check_output(path: Path) -> None:
    """Checks that embeddings can be written to a file, before they are computed.

    Args:
        path: The file to write.

    Raises:
        UserError: The ending is unknown, or the folder does not exist or cannot be written.
    """
    if path.suffix not in _WRITERS:
        raise UserError(f"{path}: the file must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    check_writable(path)


@dataclasses.dataclass(frozen=True)
class _InMemory:
    """Embeddings in memory as a source of one part."""

    each_name: Sequence[str]
    embeddings: Embeddings

    @property
    def shape(self) -> Shape:
        values = self._values()
        return Shape(
            proteins=len(self.each_name),
            rows=len(values),
            name_bytes=len("\n".join(self.each_name).encode("utf-8")),
            layers=self.embeddings.layers or (-1,),
            width=values.shape[-1],
            dtype=values.dtype,
            per_residue=self.embeddings.offsets is not None,
        )

    def _values(self) -> Array:
        values = self.embeddings.values
        return values if self.embeddings.layers is not None else values[:, None]

    def names(self) -> Iterator[list[str]]:
        yield list(self.each_name)

    def lengths(self) -> Iterator[IntArray]:
        offsets = self.embeddings.offsets
        yield np.full(len(self.each_name), _UNKNOWN) if offsets is None else np.diff(offsets)

    def values(self) -> Iterator[Array]:
        yield self._values()


def save_embeddings(path: Path, names: Sequence[str], embeddings: Embeddings) -> None:
    """Writes embeddings that are in memory to a file, which ``load_embeddings`` reads.

    Args:
        path: The file; its ending chooses the format (docs/embed.md).
        names: Name of each protein, in order, without line ends.
        embeddings: Result of ``embed``. Where each protein has one vector, Parquet's ``length`` is null.

    Raises:
        UserError: A name has a line end, or the file cannot be written.
    """
    check_output(path)
    for name in names:
        check_name(path, name)
    write_embeddings(path, _InMemory(names, embeddings))


def _read_npz(path: Path) -> dict[str, Array]:
    with np.load(path) as file:
        return dict(file)


def _read_safetensors(path: Path) -> dict[str, Array]:
    return read_safetensors(path, ARRAYS)


def _read_hdf5(path: Path) -> dict[str, Array]:
    import h5py

    with h5py.File(path) as file:
        arrays = {name: file[name][...] for name in ARRAYS if name in file and name != "names"}
        arrays["names"] = np.frombuffer("\n".join(file["names"].asstr()[...]).encode("utf-8"), dtype=np.uint8)
    return arrays


def _read_parquet(path: Path) -> dict[str, Array]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path).combine_chunks()
    columns = [name for name in table.column_names if name not in ("name", "length")]
    vectors, arrays = [], {}
    for name in columns:
        cells = table[name].combine_chunks()
        if not pyarrow.types.is_fixed_size_list(cells.type):
            lengths = np.diff(cells.offsets.to_numpy())
            arrays["offsets"] = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
            cells = cells.flatten()
        vectors.append(cells.flatten().to_numpy(zero_copy_only=False).reshape(-1, cells.type.list_size))
    if len(columns) > 1:
        arrays["layers"] = np.array([int(name.rpartition("_")[2]) for name in columns])
    arrays["embeddings"] = vectors[0] if len(vectors) == 1 else np.stack(vectors, axis=1)
    arrays["names"] = np.frombuffer("\n".join(table["name"].to_pylist()).encode("utf-8"), dtype=np.uint8)
    return arrays


_READERS: dict[str, Callable[[Path], dict[str, Array]]] = {
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".h5": _read_hdf5,
    ".parquet": _read_parquet,
}


def load_embeddings(path: Path) -> tuple[list[str], Embeddings]:
    """Reads a file of embeddings into memory.

    Args:
        path: The file.

    Returns:
        The names and the embeddings.

    Raises:
        UserError: The file's ending is none of ``ENDINGS``.
    """
    if path.suffix not in _READERS:
        raise UserError(f"{path}: the file must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    arrays = _READERS[path.suffix](path)
    names = arrays["names"].tobytes().decode("utf-8").split("\n")
    layers = tuple(arrays["layers"].tolist()) if "layers" in arrays else None
    return names, Embeddings(arrays["embeddings"], arrays.get("offsets"), layers)
