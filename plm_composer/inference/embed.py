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
_FILE_OVERHEAD = 1 << 20
"""Upper bound on the bytes of a file of embeddings in addition to its arrays."""


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Embeddings of proteins, in order: a sequence with one array per protein.

    Args:
        values: Mean embeddings, shape (proteins, hidden_size); or embeddings of the residues of all proteins, end to
            end, shape (residues, hidden_size).
        offsets: Index of each protein's first residue, then the number of residues, (proteins + 1,); None for means.
    """

    values: FloatArray
    offsets: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def __getitem__(self, index: int) -> FloatArray:
        """The embedding of one protein, shape (hidden_size,) or (residues, hidden_size)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self.offsets is None:
            return self.values[index]
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
    """Embeds proteins in the order given, in batches without padding.

    Proteins are never cropped. Rotary positions have no limit, though a model has been trained only on its crop length.

    Args:
        model: The model; it is moved to ``device``.
        proteins: Residues of each protein, in upper case.
        per_residue: Whether to return one vector per residue instead of their mean.
        device: Name of a torch device.
        autocast_dtype: Data type of autocast; None for the model's own precision.
        batch_tokens: Maximum number of tokens in a batch; a longer protein is a batch of its own.
        progress: Whether to draw a progress bar on stderr.

    Returns:
        For each protein the mean embedding of its residues, or with ``per_residue`` all of them, without ``<cls>`` and
        ``<eos>``.
    """
    sequences = [protein.encode() if isinstance(protein, str) else protein for protein in proteins]
    # Longest first: proteins of similar length share a batch, and memory, if too small, runs out at once.
    order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index]))
    results = _allocate([len(protein) for protein in sequences], model.config.hidden_size, per_residue)
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
    """Writes embeddings to a ``.npz`` or ``.safetensors`` file, with the same arrays in both.

    The arrays are ``embeddings``; ``offsets`` for embeddings of residues, as in ``Embeddings``; and ``names``, shape
    (bytes,), the names as lines of UTF-8 text, because in an array of strings each would take the space of the longest.
    ``load_embeddings`` reads the file.

    Args:
        path: The file; its ending chooses the format.
        names: Name of each protein, in order, without line ends.
        embeddings: Result of ``embed``.

    Raises:
        UserError: A name has a line end, or the file cannot be written.
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
    path = path.resolve()  # replaces the target of a link, not the link
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        _WRITERS[path.suffix](partial, arrays)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def load_embeddings(path: Path) -> tuple[list[str], Embeddings]:
    """Reads a file that ``save_embeddings`` wrote.

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
    """Checks that embeddings can be written to a file, before they are computed.

    Args:
        path: The file to write.

    Raises:
        UserError: The ending is unknown, or the folder does not exist or cannot be written.
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
        path: The file to write; its folder exists.
        names: Name of each protein.
        lengths: Number of residues of each protein.
        hidden_size: Width of the model.
        per_residue: Whether each residue has an embedding.

    Raises:
        UserError: The disk has too little space.
    """
    rows = sum(lengths) if per_residue else len(lengths)
    needed = 4 * hidden_size * rows + 8 * len(lengths) + sum(map(len, names)) + _FILE_OVERHEAD
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise UserError(f"{path}: needs {needed / 1e9:.2f} GB, and the disk has {free / 1e9:.2f} GB free")


def _allocate(lengths: Sequence[int], hidden_size: int, per_residue: bool) -> Embeddings:
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
    # numpy.savez leaves its archive open if the disk is full, which prints a traceback when it is collected.
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)  # type: ignore[no-untyped-call]


def _write_safetensors(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    write_safetensors(path, {name: torch.from_numpy(array) for name, array in arrays.items()})


_WRITERS = {".npz": _write_npz, ".safetensors": _write_safetensors}
