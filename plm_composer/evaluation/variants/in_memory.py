"""``plm_composer.score`` and ``plm_composer.scan``: effects of mutations, for a protein that is in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from plm_composer.errors import UserError
from plm_composer.evaluation.variants.methods import Scorer, default_window, score_variants
from plm_composer.evaluation.variants.mutations import parse_mutant, place_mutant
from plm_composer.evaluation.variants.scan import scan_protein
from plm_composer.evaluation.windows import make_windowing
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place, prepared

FloatArray = npt.NDArray[np.float64]


def score(
    model: ESM2,
    protein: bytes | str,
    mutants: Sequence[str],
    *,
    method: str = "masked-marginals",
    offset: int = 1,
    device: str = "cpu",
    autocast_dtype: torch.dtype | None = None,
    batch_tokens: int = 16384,
    progress: bool = False,
) -> FloatArray:
    """Scores mutants of a protein without training on them (Meier et al. 2021): ``score(model, protein, ["A30Q"])``.

    Args:
        model: The model; it is moved to ``device``.
        protein: Residues of the unmutated protein, in upper case.
        mutants: Substitutions such as ``A30Q``, several joined by colons: ``A30Q:K42E``.
        method: ``masked-marginals``, ``wt-marginals``, ``mutant-marginals``, ``pll``; ``likelihood`` (causal).
        offset: Number of the protein's first residue in ``mutants``.
        device: Name of a torch device.
        autocast_dtype: Data type of autocast; None for the model's own precision.
        batch_tokens: Maximum number of tokens in a batch; a longer protein is a batch of its own.
        progress: Whether to draw a progress bar on stderr.

    Returns:
        Log-ratios of probabilities, in nats, shape (mutants,); higher for a fitter mutant, 0 for the protein itself.

    Raises:
        UserError: There is no such method, or a mutant does not fit the protein.
    """
    target = _residues_of(protein)
    names = [f"mutant {number}" for number in range(1, len(mutants) + 1)]
    variants = [
        place_mutant(target, parse_mutant(mutant, name), offset, name)
        for mutant, name in zip(mutants, names, strict=True)
    ]
    place = Place(device, autocast_dtype, batch_tokens, progress)
    with prepared(model, place):
        return score_variants(Scorer(model, place, make_windowing(default_window(method))), method, target, variants)


def scan(
    model: ESM2,
    protein: bytes | str,
    *,
    method: str = "masked-marginals",
    device: str = "cpu",
    autocast_dtype: torch.dtype | None = None,
    batch_tokens: int = 16384,
    progress: bool = False,
) -> FloatArray:
    """Scores every substitution at every position of a protein: a deep mutational scan in silico.

    Args:
        model: The model; it is moved to ``device``.
        protein: Residues of the unmutated protein, in upper case.
        method: As for ``score``.
        device: Name of a torch device.
        autocast_dtype: Data type of autocast; None for the model's own precision.
        batch_tokens: Maximum number of tokens in a batch; a longer protein is a batch of its own.
        progress: Whether to draw a progress bar on stderr.

    Returns:
        Scores as those of ``score``, shape (residues, 20), columns in the order ``ACDEFGHIKLMNPQRSTVWY``; 0 where the
        residue stays.

    Raises:
        UserError: There is no such method, or the protein has no residues.
    """
    target = _residues_of(protein)
    place = Place(device, autocast_dtype, batch_tokens, progress)
    with prepared(model, place):
        return scan_protein(Scorer(model, place, make_windowing(default_window(method))), method, target)


def _residues_of(protein: bytes | str) -> str:
    if not protein:
        raise UserError("the protein to mutate has no residues")
    return protein.decode() if isinstance(protein, bytes) else protein
