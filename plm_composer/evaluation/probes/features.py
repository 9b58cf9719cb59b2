"""What a probe sees of a protein: a language model's hidden states, or composition and length alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place, predict_hidden, tokenize
from plm_composer.tokenizer import STANDARD_IDS, encode

FloatArray = npt.NDArray[np.float32]
Features = Callable[[Sequence[str]], Iterator[tuple[int, FloatArray]]]
"""Yields the index of each protein and its features: (1, features) for the protein, or (residues, features)."""

WINDOW = 7
"""Number of residues on either side that the baseline of a residue sees."""


def embeddings_of(model: ESM2, layer: int, per_residue: bool, place: Place = Place()) -> Features:
    """Hidden states of a layer, or their mean over the residues.

    Args:
        model: The model; it is moved to ``place.device`` and set to evaluation mode.
        layer: As for ``predict_hidden``.
        per_residue: Whether each residue has features.
        place: Where to compute.
    """

    def features(sequences: Sequence[str]) -> Iterator[tuple[int, FloatArray]]:
        lengths = [len(sequence) + 2 for sequence in sequences]
        for index, hidden in predict_hidden(model, lengths, lambda at: tokenize(sequences[at]), place, (layer,)):
            residues = hidden[1:-1, 0]
            yield index, (residues if per_residue else residues.mean(0, keepdim=True)).numpy()

    return features


def baseline_of(per_residue: bool) -> Features:
    """What needs no language model: amino-acid composition and length; for a residue also its neighbourhood.

    Args:
        per_residue: Whether each residue has features: the composition and length of its protein, and which amino acids
            are in the window of ``2 * WINDOW + 1`` residues around it.
    """

    def features(sequences: Sequence[str]) -> Iterator[tuple[int, FloatArray]]:
        for index, sequence in enumerate(sequences):
            kinds = encode(sequence.encode())[:, None] == np.arange(STANDARD_IDS.start, STANDARD_IDS.stop)
            whole = np.append(kinds.mean(0), [len(sequence), np.log(len(sequence))])[None]
            if per_residue:
                padded = np.pad(kinds, ((WINDOW, WINDOW), (0, 0)))
                windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * WINDOW + 1, axis=0)
                near = windows.reshape(len(sequence), -1)
                whole = np.concatenate([near, np.broadcast_to(whole, (len(sequence), whole.shape[1]))], axis=1)
            yield index, whole.astype(np.float32)

    return features
