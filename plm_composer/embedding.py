"""Embeddings of proteins: the last layer's hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file
from tqdm import tqdm

from plm_composer.data.batches import pack
from plm_composer.errors import UserError
from plm_composer.model.esm2 import ESM2
from plm_composer.tokenizer import CLS_BYTE, EOS_BYTE, encode

FloatArray = npt.NDArray[np.float32]


def embed(
    model: ESM2,
    proteins: Sequence[bytes],
    *,
    per_residue: bool = False,
    device: str = "cpu",
    autocast_dtype: torch.dtype | None = None,
    batch_tokens: int = 16384,
    progress: bool = False,
) -> list[FloatArray]:
    """Embeds proteins, in batches without padding, in the order given.

    Proteins run whole, however long: rotary positions have no end, though a model has seen only its crop length.

    Args:
        model: The model; it is moved to ``device``.
        proteins: Residues of each, upper case.
        per_residue: One vector for each residue instead of their mean.
        device: A torch device.
        autocast_dtype: Precision of the matrix products; None for the model's own.
        batch_tokens: Most tokens of a batch; a longer protein is a batch of its own.
        progress: Whether to draw a progress bar on stderr.

    Returns:
        For each protein, shape (hidden_size,), or (residues, hidden_size) with ``per_residue``; ``<cls>`` and
        ``<eos>`` are left out.
    """
    # Longest first: batches hold proteins of like length, and memory runs out at once if it does.
    order = sorted(range(len(proteins)), key=lambda index: -len(proteins[index]))
    results: list[FloatArray] = [np.empty(0, dtype=np.float32)] * len(proteins)
    model = model.to(device).eval()
    device_type = torch.device(device).type
    with torch.inference_mode(), tqdm(total=len(proteins), desc="embed", unit="protein", disable=not progress) as bar:
        for group in _group(order, proteins, batch_tokens):
            lengths = np.array([len(proteins[index]) + 2 for index in group])
            token_ids = encode(b"".join(CLS_BYTE + proteins[i] + EOS_BYTE for i in group)).astype(np.int64)
            batch = pack(token_ids, token_ids, lengths)
            with torch.autocast(device_type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
                hidden = model.hidden_states(
                    batch["input_ids"].to(device),
                    cu_seqlens=batch["cu_seqlens"].to(device),
                    max_seqlen=batch["max_seqlen"],
                )
            for index, piece in zip(group, torch.split(hidden.float().cpu(), lengths.tolist()), strict=True):
                residues = piece[1:-1]
                results[index] = (residues if per_residue else residues.mean(0)).numpy()
            bar.update(len(group))
    return results


def save_embeddings(path: Path, names: Sequence[str], embeddings: Sequence[FloatArray]) -> None:
    """Writes embeddings, by the file's ending.

    ``.npz``: with per-residue embeddings one array for each protein, named by its position (``0``, ``1``, ...), with
    means one matrix ``embeddings``; and ``names``. ``.safetensors``: the same, the names joined by line ends in its
    metadata.

    Args:
        path: The file.
        names: Name of each protein, in order.
        embeddings: As ``embed`` returns them.

    Raises:
        UserError: The ending is unknown or the file cannot be written.
    """
    if embeddings and embeddings[0].ndim == 1:
        arrays = {"embeddings": np.stack(embeddings)}
    else:
        arrays = {str(index): np.ascontiguousarray(embedding) for index, embedding in enumerate(embeddings)}
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        _WRITERS[path.suffix](partial, names, arrays)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def check_output(path: Path) -> None:
    """Checks that embeddings can be written there, before hours are spent on them.

    Raises:
        UserError: The ending is unknown, or there is no such folder.
    """
    if path.suffix not in _WRITERS:
        raise UserError(f"{path}: the file must end in {' or '.join(_WRITERS)}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}")


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


def _write_npz(path: Path, names: Sequence[str], arrays: dict[str, FloatArray]) -> None:
    np.savez(path, allow_pickle=False, names=np.array(names, dtype=np.str_), **arrays)


def _write_safetensors(path: Path, names: Sequence[str], arrays: dict[str, FloatArray]) -> None:
    save_file(arrays, path, metadata={"names": "\n".join(names)})


_WRITERS = {".npz": _write_npz, ".safetensors": _write_safetensors}
