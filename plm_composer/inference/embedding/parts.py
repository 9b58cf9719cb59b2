"""Finished parts of a file of embeddings, in a folder beside it, from which an interrupted command continues.

``NAME.parts/manifest.json`` says what is computed; ``000000.safetensors`` and so on hold the embeddings, names and
lengths of a portion of the FASTA each, and a hash of that portion. Each appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from filelock import FileLock, Timeout

from plm_composer.errors import UserError
from plm_composer.files.atomic import replacing
from plm_composer.inference.embedding.array_files import Array, read_safetensors, whole, write_safetensors
from plm_composer.inference.embedding.formats import Shape, telling_of_writes
from plm_composer.inference.embedding.portions import Portion
from plm_composer.inference.embedding.request import IntArray
from plm_composer.model.esm2 import ESM2

_SUFFIX = ".safetensors"
_DIGEST = "portion"


def digest_of(model: ESM2) -> str:
    """xxh3 128-bit hash of a model's class, config and weights."""
    state = xxhash.xxh3_128(f"{type(model).__qualname__} {model.config}".encode())
    for name, tensor in model.state_dict().items():
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(np.ascontiguousarray(tensor.cpu().numpy()).reshape(-1).view(np.uint8).data)
    return state.hexdigest()


class PartFolder:
    """The parts of one file.

    Args:
        out: The file that the parts become.
    """

    def __init__(self, out: Path) -> None:
        out = out.resolve()
        self.path = out.with_name(out.name + ".parts")
        self._manifest = self.path / "manifest.json"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other commands away; without a finished part, the folder goes again.

        Raises:
            UserError: Another command writes these parts, or the folder cannot be made.
        """
        with telling_of_writes(self.path):
            self.path.mkdir(exist_ok=True)
        lock = FileLock(self.path / "lock")
        with telling_of_writes(self.path):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise UserError(f"{self.path}: another process is writing there; wait for it, or end it") from None
        try:
            yield
        finally:
            lock.release()
            if not self.finished():
                self.remove()

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Continues with what the folder holds, or begins.

        Args:
            settings: What the parts depend on, in plain values, by what a user would call it.

        Raises:
            UserError: The folder holds parts that depend on something else, or cannot be written.
        """
        found = self._read_manifest()
        if found is None:
            if self.finished():
                raise UserError(f"{self.path}: has no readable manifest.json; remove the folder to start again")
            with telling_of_writes(self.path), replacing(self._manifest) as partial:
                partial.write_text(json.dumps(settings, indent=1) + "\n")
            return
        changed = [key for key in settings.keys() | found.keys() if settings.get(key) != found.get(key)]
        if changed:
            raise self._other(", ".join(sorted(changed)))

    def _read_manifest(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self._manifest.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _other(self, what: str) -> UserError:
        return UserError(
            f"{self.path}: holds parts made with another {what}; give what they were made with to continue, or remove "
            "the folder to start again"
        )

    def finished(self) -> list[int]:
        """Indices of the portions that are done."""
        return sorted(int(path.stem) for path in self.path.glob(f"[0-9]*{_SUFFIX}"))

    def _part(self, index: int) -> Path:
        return self.path / f"{index:06d}{_SUFFIX}"

    def has(self, portion: Portion) -> bool:
        """Whether a portion is done.

        Raises:
            UserError: The FASTA had other proteins there, or the part is damaged.
        """
        path = self._part(portion.index)
        if not path.exists():
            return False
        if _metadata(path).get(_DIGEST) != portion.digest:
            raise self._other(f"FASTA (it differs from the {portion.index + 1}. part on)")
        return True

    def check_end(self, count: int) -> None:
        """Checks that no part comes after the end of the FASTA.

        Args:
            count: Number of portions of the FASTA.

        Raises:
            UserError: One does: the FASTA was longer.
        """
        if any(index >= count for index in self.finished()):
            raise self._other("FASTA (it was longer)")

    def write(self, portion: Portion, values: Array) -> None:
        """Writes a portion's part.

        Args:
            portion: The portion.
            values: Its vectors, (rows, layers, hidden_size).

        Raises:
            UserError: It cannot be written.
        """
        names = "\n".join(portion.names).encode("utf-8")
        arrays = {
            "embeddings": whole(values),
            "lengths": whole(np.array([len(protein) for protein in portion.proteins], dtype=np.int64)),
            "names": whole(np.frombuffer(names, dtype=np.uint8)),
        }
        try:
            with telling_of_writes(self.path), replacing(self._part(portion.index)) as partial:
                write_safetensors(partial, arrays, {_DIGEST: portion.digest})
        except UserError as error:
            raise UserError(f"{error}; the same command continues once it can") from error

    def remove(self) -> None:
        """Removes the folder and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: is damaged; remove it, and the same command makes it again") from error


class Parts:
    """All parts of a file, as a source for ``formats.write_embeddings``.

    Args:
        folder: The parts.
        layers: Number of each layer.
        per_residue: Whether each residue has a vector.
    """

    def __init__(self, folder: PartFolder, layers: tuple[int, ...], per_residue: bool) -> None:
        self._paths = [folder.path / f"{index:06d}{_SUFFIX}" for index in folder.finished()]
        self.shape = self._measure(layers, per_residue)

    def _measure(self, layers: tuple[int, ...], per_residue: bool) -> Shape:
        from safetensors import safe_open

        proteins, rows, name_bytes, width = 0, 0, -1, 0
        dtype: np.dtype[Any] = np.dtype(np.float32)
        for path in self._paths:
            with safe_open(path, "np") as file:
                vectors = file.get_slice("embeddings")
                rows += vectors.get_shape()[0]
                width = vectors.get_shape()[2]
                dtype = np.dtype({"F16": np.float16, "F32": np.float32}[vectors.get_dtype()])
                proteins += file.get_slice("lengths").get_shape()[0]
                name_bytes += file.get_slice("names").get_shape()[0] + 1
        return Shape(proteins, rows, max(0, name_bytes), layers, width, dtype, per_residue)

    def names(self) -> Iterator[list[str]]:
        """The names of each part's proteins."""
        return (each.tobytes().decode("utf-8").split("\n") for each in self._arrays("names"))

    def lengths(self) -> Iterator[IntArray]:
        """The residues of each part's proteins."""
        return self._arrays("lengths")

    def values(self) -> Iterator[Array]:
        """The vectors of each part."""
        return self._arrays("embeddings")

    def _arrays(self, name: str) -> Iterator[Array]:
        return (read_safetensors(path, [name])[name] for path in self._paths)
