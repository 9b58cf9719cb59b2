"""``plm_composer.embed``: embeddings of proteins that are in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from plm_composer.inference.embedding.compute import embed_proteins
from plm_composer.inference.embedding.request import RESIDUES, FloatArray, IntArray, Request, kind_of
from plm_composer.inference.embedding.windows import DEFAULT_WINDOW
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place, prepared
from plm_composer.terminal.progress import ProgressBar


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Embeddings of proteins, in order: a sequence with one array per protein.

    Args:
        values: A vector for each protein, (proteins, hidden_size), or for each residue of all proteins, end to end,
            (residues, hidden_size); of several layers, (..., layers, hidden_size).
        offsets: Index of each protein's first residue, then the number of residues, (proteins + 1,); None where each
            protein has one vector.
        layers: Number of each layer, 0 for the embedding; None for one layer alone.
    """

    values: FloatArray
    offsets: IntArray | None = None
    layers: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    def __getitem__(self, index: int) -> FloatArray:
        """The embedding of one protein, shape (hidden_size,) or (residues, hidden_size); layers before hidden_size."""
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
    cls: bool = False,
    layers: Sequence[int] = (-1,),
    dtype: str = "float32",
    window: int = DEFAULT_WINDOW,
    device: str = "cpu",
    autocast_dtype: torch.dtype | None = None,
    batch_tokens: int = 16384,
    progress: bool = False,
) -> Embeddings:
    """Embeds proteins in the order given, in batches without padding.

    Args:
        model: The model; it is moved to ``device``.
        proteins: Residues of each protein, in upper case.
        per_residue: Whether to return one vector per residue instead of their mean.
        cls: Whether to return the vector of ``<cls>`` instead of the mean.
        layers: Numbers of layers: 0 is the embedding, -1 the last layer, after the final norm.
        dtype: ``float32`` or ``float16``, of the result.
        window: Most residues that the model sees at once: a longer protein goes through it in windows that overlap,
            each residue's vector comes from the window where it is furthest from an edge, and that of ``<cls>`` is the
            mean over windows. 0 for no limit.
        device: Name of a torch device.
        autocast_dtype: Data type of autocast; None for the model's own precision.
        batch_tokens: Maximum number of tokens in a batch; a longer protein is a batch of its own.
        progress: Whether to draw a progress bar on stderr.

    Returns:
        For each protein the mean embedding of its residues, or with ``per_residue`` all of them, without ``<cls>`` and
        ``<eos>``.

    Raises:
        UserError: An argument is impossible.
    """
    kind = kind_of(per_residue, cls)
    request = Request(kind, tuple(layers), dtype, window).of_model(model.config.num_hidden_layers)
    sequences = [protein.encode() if isinstance(protein, str) else protein for protein in proteins]
    lengths = [len(each) for each in sequences]
    place = Place(device, autocast_dtype, batch_tokens)
    with (
        prepared(model, place),
        ProgressBar(total=sum(lengths), desc="embed", unit=" residues", unit_scale=True, disable=not progress) as bar,
    ):
        values = embed_proteins(model, sequences, request, place, bar.update)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]) if kind == RESIDUES else None
    if len(request.layers) == 1:
        return Embeddings(values[:, 0], offsets)
    return Embeddings(values, offsets, request.layers)
