"""``plm_composer.contacts``: contacts between residues, for proteins that are in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from plm_composer.evaluation.contacts.attention import TRAIN_STRUCTURES
from plm_composer.evaluation.contacts.evaluate import find_regression, predict_contacts
from plm_composer.evaluation.contacts.structures import find_structure_files, read_structure
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place

FloatArray = npt.NDArray[np.float32]


def contacts(
    model: ESM2,
    proteins: Sequence[bytes | str],
    *,
    method: str | None = None,
    train_structures: Sequence[str | Path] = (),
    device: str = "cpu",
    autocast_dtype: torch.dtype | None = None,
    batch_tokens: int = 16384,
    progress: bool = False,
) -> list[FloatArray]:
    """Predicts which residues of proteins touch one another.

    Args:
        model: The model; it is moved to ``device``.
        proteins: Residues of each protein, in upper case.
        method: ``attention`` (a regression on attention maps that is fitted on ``train_structures``; Rao et al. 2021),
            ``head`` (the regression that the model has) or ``jacobian`` (needs neither; Zhang et al. 2024). Default:
            ``attention`` with ``train_structures``, otherwise ``head``.
        train_structures: PDB, mmCIF or BinaryCIF files, or folders of them; the first 20 count.
        device: Name of a torch device.
        autocast_dtype: Data type of autocast; None for the model's own precision.
        batch_tokens: Maximum number of tokens in a batch; a longer protein is a batch of its own.
        progress: Whether to draw a progress bar on stderr.

    Returns:
        For each protein, in order, a score for each pair of residues, shape (residues, residues), symmetric:
        probabilities, but for ``jacobian`` scores without a unit.

    Raises:
        UserError: There is no such method, it lacks something, or a structure cannot be read.
    """
    place = Place(device, autocast_dtype, batch_tokens, progress)
    files = find_structure_files([Path(path) for path in train_structures])[:TRAIN_STRUCTURES]
    train = [read_structure(path, None) for path in files]
    regression = find_regression(model, method or ("attention" if train else "head"), train, place)
    found = dict(predict_contacts(model, proteins, regression, place))
    return [found[index] for index in range(len(proteins))]
