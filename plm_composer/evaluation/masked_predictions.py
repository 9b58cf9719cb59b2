"""What a model predicts for positions of proteins of which some are masked: the basis of every zero-shot score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from composer.utils import dist

from plm_composer.evaluation.windows import Windowing
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place, Query, predict_logits, tokenize
from plm_composer.tokenizer import MASK_ID, VOCABULARY

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
_REQUESTS_AT_ONCE = 100_000
"""Number of predictions whose 33 probabilities are held at once: 26 MB."""


class Request(NamedTuple):
    """One prediction.

    Attributes:
        protein: Index of the protein.
        masked: Indices of its tokens to replace by ``<mask>``.
        position: Index of the token to predict.
    """

    protein: int
    masked: tuple[int, ...]
    position: int


class _Pass(NamedTuple):
    """One piece of one protein, with one choice of masks: the input of one forward pass."""

    protein: int
    masked: tuple[int, ...]
    start: int
    end: int


def predict_tokens(
    model: ESM2,
    proteins: Sequence[IntArray],
    requests: Sequence[Request],
    windowing: Windowing,
    place: Place = Place(),
    *,
    description: str = "score",
    all_processes: bool = False,
) -> FloatArray:
    """Predicts tokens. Requests that see the same piece of a protein under the same masks share its forward pass.

    Args:
        model: The model.
        proteins: Tokens of each protein, ``<cls>`` and ``<eos>`` included, shape (length,) each.
        requests: What to predict.
        windowing: Chooses the pieces in which a position of a long protein is predicted.
        place: Where to compute.
        description: Label of the progress bar.
        all_processes: Whether all processes of the run call this with the same requests, and share the work; each gets
            all results.

    Returns:
        Log-probabilities of the 33 tokens, averaged over the windows by their weights, shape (requests, 33).
    """
    passes: dict[_Pass, list[tuple[int, float]]] = {}
    weights = np.zeros(len(requests))
    for index, request in enumerate(requests):
        for window in windowing(request.position, len(proteins[request.protein])):
            key = _Pass(request.protein, request.masked, window.start, window.end)
            passes.setdefault(key, []).append((index, window.weight))
            weights[index] += window.weight
    keys = list(passes)
    if all_processes:
        keys = keys[dist.get_global_rank() :: dist.get_world_size()]

    def query_of(index: int) -> Query:
        key = keys[index]
        tokens = proteins[key.protein][key.start : key.end].copy()
        tokens[[position - key.start for position in key.masked if key.start <= position < key.end]] = MASK_ID
        return Query(tokens, np.array([requests[row].position - key.start for row, _ in passes[key]]))

    table = np.zeros((len(requests), len(VOCABULARY)))
    lengths = [key.end - key.start for key in keys]
    for index, logits in predict_logits(model, lengths, query_of, place, description):
        found = logits.double().log_softmax(-1).numpy()
        for (row, weight), values in zip(passes[keys[index]], found, strict=True):
            table[row] += weight * values
    if all_processes and dist.get_world_size() > 1:
        shared = torch.from_numpy(table).to(place.device)
        dist.all_reduce(shared)
        table = shared.cpu().numpy()
    return table / weights[:, None]


def mask_none(protein: int, positions: Iterable[int]) -> list[Request]:
    """Requests that predict each position with nothing masked; arguments as for ``mask_each``."""
    return [Request(protein, (), position) for position in positions]


def mask_each(protein: int, positions: Iterable[int]) -> list[Request]:
    """Requests that predict each position with this position alone masked.

    Args:
        protein: Index of the protein.
        positions: Indices of its tokens.
    """
    return [Request(protein, (position,), position) for position in positions]


def own_log_probabilities(
    model: ESM2,
    proteins: Sequence[bytes | str],
    requests_of: Callable[[int, Iterable[int]], list[Request]],
    windowing: Windowing,
    place: Place = Place(),
    *,
    ahead: int = 0,
    description: str = "score",
    all_processes: bool = False,
) -> Iterator[FloatArray]:
    """Computes the log-probabilities of the tokens that proteins have, a bounded number at a time.

    Args:
        model: The model.
        proteins: Residues of each protein, in upper case, at least one.
        requests_of: Makes the requests for some positions of a protein from its index and these positions.
        windowing: Chooses the pieces of long proteins.
        place: Where to compute.
        ahead: 0 if a prediction is of its own position, which then are those of the residues; 1 if it is of the next
            one, as that of a causal model, and ``<eos>`` is predicted too.
        description: Label of the progress bar.
        all_processes: As for ``predict_tokens``.

    Yields:
        For each protein, in order, shape (residues + ``ahead``,).
    """
    for group in _groups(proteins):
        tokens = [tokenize(protein) for protein in group]
        requests = [each for i, ids in enumerate(tokens) for each in requests_of(i, range(1 - ahead, len(ids) - 1))]
        table = predict_tokens(
            model, tokens, requests, windowing, place, description=description, all_processes=all_processes
        )
        own = np.array([tokens[request.protein][request.position + ahead] for request in requests])
        found = table[np.arange(len(requests)), own]
        ends = np.cumsum([len(ids) - 2 + ahead for ids in tokens])
        yield from np.split(found, ends[:-1])


def _groups(proteins: Sequence[bytes | str]) -> Iterator[list[bytes | str]]:
    group: list[bytes | str] = []
    residues = 0
    for protein in proteins:
        if group and residues + len(protein) > _REQUESTS_AT_ONCE:
            yield group
            group, residues = [], 0
        group.append(protein)
        residues += len(protein)
    if group:
        yield group
