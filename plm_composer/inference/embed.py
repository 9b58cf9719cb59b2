"""Embeddings of proteins: the last layer's hidden states."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from plm_composer.data.batches import pack
from plm_composer.errors import UserError
from plm_composer.files.safetensors import write_safetensors
from plm_composer.model.esm2 import ESM2
from plm_composer.tokenizer import CLS_BYTE, EOS_BYTE, encode

FloatArray = npt.NDArray[np.float32]
_ROOM = 1 << 20
"""Bytes of a file of embeddings beside the arrays."""


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Embeddings of proteins, in their order; a sequence of one array for each.

    Args:
        values: Shape (proteins, hidden_size); or (residues, hidden_size), those of all proteins one after the other.
        offsets: Where each protein's residues begin, and where the last one's end, (proteins + 1,); None for means.
    """

    values: FloatArray
    offsets: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def __getitem__(self, index: int) -> FloatArray:
        """One protein's: shape (hidden_size,), or (residues, hidden_size)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self.offsets is None:
            mean: FloatArray = self.values[index]
            return mean
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[FloatArray]:
        return (self[index] for index in range(len(self)))


def embed(
    model: ESM2,
    proteins: Sequence[bytes | str],
    *,
    per_residue: bool = False,
    device: str = "cpu",
    autocast_dtype: torch.dtype | None = None,
    batch_tokens: int = 16384,
    progress: bool = False,
) -> Embeddings:
    """Embeds proteins, in batches without padding, in the order given.

    Proteins run whole, however long: rotary positions have no end, though a model has seen only its crop length.

    Args:
        model: The model; it is moved to ``device``.
        proteins: Residues of each protein, in upper case.
        per_residue: One vector for each residue instead of their mean.
        device: A torch device.
        autocast_dtype: Precision of the matrix products; None for the model's own.
        batch_tokens: Most tokens of a batch; a longer protein is a batch of its own.
        progress: Whether to draw a progress bar on stderr.

    Returns:
        For each protein the mean over its residues, or with ``per_residue`` all of them; ``<cls>`` and ``<eos>`` are
        left out.
    """
    sequences = [protein.encode() if isinstance(protein, str) else protein for protein in proteins]
    # Longest first: batches hold proteins of like length, and memory runs out at once if it does.
    order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index]))
    results = _make_room([len(protein) for protein in sequences], model.config.hidden_size, per_residue)
    model = model.to(device).eval()
    device_type = torch.device(device).type
    with torch.inference_mode(), tqdm(total=len(sequences), desc="embed", unit="protein", disable=not progress) as bar:
        for group in _group(order, sequences, batch_tokens):
            lengths = np.array([len(sequences[index]) + 2 for index in group])
            token_ids = encode(b"".join(CLS_BYTE + sequences[i] + EOS_BYTE for i in group)).astype(np.int64)
            batch = pack(token_ids, token_ids, lengths)
            with torch.autocast(device_type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
                hidden = model.hidden_states(
                    batch["input_ids"].to(device),
                    cu_seqlens=batch["cu_seqlens"].to(device),
                    max_seqlen=batch["max_seqlen"],
                )
            for index, piece in zip(group, torch.split(hidden.float().cpu(), lengths.tolist()), strict=True):
                residues = piece[1:-1]
                results[index][:] = (residues if per_residue else residues.mean(0)).numpy()
            bar.update(len(group))
    return results


def save_embeddings(path: Path, names: Sequence[str], embeddings: Embeddings) -> None:
    """Writes embeddings, by the file's ending: ``.npz`` or ``.safetensors``, with the same arrays in both.

    ``embeddings`` and, of residues, ``offsets``, as in ``Embeddings``; and ``names``, the names as UTF-8 text, a line
    each, shape (bytes,): an array of strings would give each the length of the longest. ``load_embeddings`` reads it.

    Args:
        path: The file.
        names: Name of each protein, in order, without line ends.
        embeddings: From ``embed``.

    Raises:
        UserError: The ending is unknown or the file cannot be written.
    """
    if odd := next((name for name in names if "\n" in name), None):
        raise UserError(f"{path}: the name {odd!r} has a line end; take it out")
    text = "\n".join(names).encode("utf-8")
    arrays: dict[str, npt.NDArray[Any]] = {
        "embeddings": embeddings.values,
        "names": np.frombuffer(text, dtype=np.uint8).copy(),
    }
    if embeddings.offsets is not None:
        arrays["offsets"] = embeddings.offsets
    path = path.resolve()  # what a link points to is replaced, not the link
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        _WRITERS[path.suffix](partial, arrays)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def load_embeddings(path: Path) -> tuple[list[str], Embeddings]:
    """Reads what ``save_embeddings`` wrote.

    Args:
        path: The file.

    Returns:
        The names and the embeddings.
    """
    if path.suffix == ".npz":
        with np.load(path) as file:
            arrays = dict(file)
    else:
        from safetensors.numpy import load_file

        arrays = load_file(path)
    names = arrays["names"].tobytes().decode("utf-8").split("\n")
    return names, Embeddings(arrays["embeddings"], arrays.get("offsets"))


def check_output(path: Path) -> None:
    """Checks that embeddings can be written there, before the work.

    Args:
        path: The file to be written.

    Raises:
        UserError: The ending is unknown, there is no such folder, or it cannot be written.
    """
    if path.suffix not in _WRITERS:
        raise UserError(f"{path}: the file must end in {' or '.join(_WRITERS)}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def check_space(path: Path, names: Sequence[str], lengths: Sequence[int], hidden_size: int, per_residue: bool) -> None:
    """Checks that the disk has room for embeddings, before they are computed.

    Args:
        path: The file to be written; its folder exists.
        names: Name of each protein.
        lengths: Residues of each.
        hidden_size: The model's.
        per_residue: Whether each residue has a vector.

    Raises:
        UserError: It has not.
    """
    rows = sum(lengths) if per_residue else len(lengths)
    needed = 4 * hidden_size * rows + 8 * len(lengths) + sum(map(len, names)) + _ROOM
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise UserError(f"{path}: needs {needed / 1e9:.2f} GB, and the disk has {free / 1e9:.2f} GB free")


def _make_room(lengths: Sequence[int], hidden_size: int, per_residue: bool) -> Embeddings:
    if not per_residue:
        return Embeddings(np.empty((len(lengths), hidden_size), dtype=np.float32))
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Embeddings(np.empty((offsets[-1], hidden_size), dtype=np.float32), offsets)


def _group(order: Sequence[int], proteins: Sequence[bytes], batch_tokens: int) -> Iterator[list[int]]:
    group: list[int] = []
    tokens = 0
    for index in order:
        length = len(proteins[index]) + 2
        if group and tokens + length > batch_tokens:
            yield group
            group, tokens = [], 0
        group.append(index)
        tokens += length
    if group:
        yield group


def _write_npz(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    # As numpy.savez, which leaves its archive open where the disk is full, for a traceback when it is collected.
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)  # type: ignore[no-untyped-call]


def _write_safetensors(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    write_safetensors(path, {name: torch.from_numpy(array) for name, array in arrays.items()})


_WRITERS = {".npz": _write_npz, ".safetensors": _write_safetensors}
