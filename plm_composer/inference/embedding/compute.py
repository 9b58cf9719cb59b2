"""From proteins to arrays: windows go through the model in packed batches, and each protein's are put together."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch

from plm_composer.errors import UserError
from plm_composer.inference.embedding.request import CLS, DTYPES, RESIDUES, FloatArray, Request
from plm_composer.inference.embedding.windows import Window, windows_of
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import IntArray, Place, predict_hidden, predict_sums, tokenize

_CLS_RANGE = (0, 1)


def embed_proteins(
    model: ESM2,
    proteins: Sequence[bytes],
    request: Request,
    place: Place,
    on_residues: Callable[[int], object],
) -> FloatArray:
    """Embeds proteins that fit into memory together, and so do their embeddings.

    Args:
        model: The model; it is moved to ``place.device``.
        proteins: Residues of each protein, in upper case.
        request: What is asked of each.
        place: Where to compute.
        on_residues: Called with the number of residues that have just been finished.

    Returns:
        Vectors in the order of the proteins, and for ``residues`` of their residues, (rows, layers, hidden_size).

    Raises:
        UserError: A protein is empty, the model has no such layer, or a value is infinite or not a number; or the
            vector of ``<cls>`` is asked of a causal model, where it is the same for all proteins.
    """
    if request.kind == CLS and model.config.causal:
        raise UserError("--cls: <cls> of a causal model sees no residue; leave it out for the mean over residues")
    if empty := [index for index, protein in enumerate(proteins) if not protein]:
        raise UserError(f"protein {empty[0]} has no residues; leave it out")
    if not proteins:
        return np.empty((0, len(request.layers), model.config.hidden_size), dtype=DTYPES[request.dtype])
    pieces = [
        (owner, each) for owner, protein in enumerate(proteins) for each in windows_of(len(protein), request.window)
    ]
    lengths = np.array([window.stop - window.start + 2 for _, window in pieces])

    def tokens_of(index: int) -> IntArray:
        owner, window = pieces[index]
        return tokenize(proteins[owner][window.start : window.stop])

    gather = _gather_residues if request.kind == RESIDUES else _gather_vectors
    # fp16 rounds what is too large to infinity, which is told below.
    with np.errstate(over="ignore"):
        values = gather(model, proteins, pieces, lengths, tokens_of, request, place, on_residues)
    if not np.isfinite(values).all():
        raise UserError(
            f"an embedding is infinite or not a number in {request.dtype}: "
            + ("ask for --dtype float32" if request.dtype == "float16" else "the model is damaged, or has diverged")
        )
    return values


Pieces = Sequence[tuple[int, Window]]
"""Windows and the index of the protein that each belongs to."""


def _gather_residues(
    model: ESM2,
    proteins: Sequence[bytes],
    pieces: Pieces,
    lengths: IntArray,
    tokens_of: Callable[[int], IntArray],
    request: Request,
    place: Place,
    on_residues: Callable[[int], object],
) -> FloatArray:
    starts = [0, *itertools.accumulate(map(len, proteins))]
    shape = (starts[-1], len(request.layers), model.config.hidden_size)
    values = np.empty(shape, dtype=DTYPES[request.dtype])
    dtype = getattr(torch, request.dtype)
    for index, hidden in predict_hidden(model, lengths, tokens_of, place, request.layers, dtype):
        owner, window = pieces[index]
        first, last = window.kept_start, window.kept_stop
        skipped = 1 - window.start  # <cls> comes first
        values[starts[owner] + first : starts[owner] + last] = hidden[first + skipped : last + skipped].numpy()
        on_residues(last - first)
    return values


def _gather_vectors(
    model: ESM2,
    proteins: Sequence[bytes],
    pieces: Pieces,
    lengths: IntArray,
    tokens_of: Callable[[int], IntArray],
    request: Request,
    place: Place,
    on_residues: Callable[[int], object],
) -> FloatArray:
    if request.kind == CLS:
        ranges = np.array([_CLS_RANGE] * len(pieces))
    else:
        ranges = np.array([(w.kept_start - w.start + 1, w.kept_stop - w.start + 1) for _, w in pieces])
    totals = np.zeros((len(proteins), len(request.layers), model.config.hidden_size), dtype=np.float32)
    counts = np.zeros(len(proteins), dtype=np.float32)
    for index, added in predict_sums(model, lengths, tokens_of, ranges, place, request.layers):
        owner, window = pieces[index]
        totals[owner] += added.numpy()
        counts[owner] += ranges[index, 1] - ranges[index, 0]
        on_residues(window.kept_stop - window.kept_start)
    return (totals / counts[:, None, None]).astype(DTYPES[request.dtype])
