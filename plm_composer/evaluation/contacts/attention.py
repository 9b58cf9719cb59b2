"""Contacts from attention: a logistic regression on the attention maps of all layers and heads.

Rao et al. 2021, "Transformer protein language models are unsupervised structure learners": 20 proteins of known
structure suffice to find the heads that attend to contacts.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plm_composer.errors import UserError
from plm_composer.evaluation.contacts.precision import pairs_of
from plm_composer.evaluation.contacts.structures import Structure
from plm_composer.files.atomic import replacing
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place, group_by_tokens, tokenize
from plm_composer.terminal.progress import ProgressBar
from plm_composer.tokenizer import PAD_ID

FloatArray = npt.NDArray[np.float32]
TRAIN_STRUCTURES = 20
"""Number of proteins that the regression is fitted on."""
PENALTY = 0.15
"""The regression's C: the inverse strength of its L1 penalty."""
LEAST_SEPARATION = 6
"""Smallest separation of the pairs that the regression is fitted on."""
_PAIRS_OF_A_BATCH = {"cpu": 1 << 16, "cuda": 1 << 21}
"""Most pairs of residues in a batch, since attention maps take memory by pairs; a longer protein is one of its own.
On a CPU the maps should stay in its caches."""


@dataclasses.dataclass(frozen=True)
class Regression:
    """A logistic regression on symmetrised and corrected attention maps.

    Args:
        weights: Weight of each head of each layer, shape (layers, heads), fp32.
        intercept: The intercept.
        trained_on: Names of the structures that it was fitted on; empty if unknown.
    """

    weights: FloatArray
    intercept: float
    trained_on: tuple[str, ...] = ()

    @property
    def heads_used(self) -> int:
        """Number of heads with a weight; without any, all pairs are equally likely."""
        return int(np.count_nonzero(self.weights))


def regression_of(model: ESM2) -> Regression | None:
    """The regression that a model brings along, such as the published ESM2; None if it has none, or an untrained one.

    Args:
        model: The model.
    """
    if not model.config.contact_head:
        return None
    head = model.contact_head.regression
    weights = head.weight.detach().float().cpu().numpy().reshape(len(model.blocks), -1)
    return Regression(weights, float(head.bias)) if weights.any() else None


def put_regression(model: ESM2, regression: Regression) -> None:
    """Makes a regression the model's own contact head, so that exports and ``predict_contacts`` have it.

    Args:
        model: The model; it is changed.
        regression: The regression.

    Raises:
        UserError: The model has no contact head, or other layers or heads.
    """
    if not model.config.contact_head:
        raise UserError("this model has no contact head (model.contact_head is false), so that none can be put into it")
    check_fit(model, regression)
    with torch.no_grad():
        head = model.contact_head.regression
        head.weight.copy_(torch.from_numpy(regression.weights).reshape(1, -1))
        head.bias.fill_(regression.intercept)


def check_fit(model: ESM2, regression: Regression, source: str = "the regression") -> None:
    """Checks that a regression has a weight for each head of a model.

    Args:
        model: The model.
        regression: The regression.
        source: What the error names.

    Raises:
        UserError: It has not.
    """
    shape = (model.config.num_hidden_layers, model.config.num_attention_heads)
    if regression.weights.shape != shape:
        theirs = " x ".join(map(str, regression.weights.shape))
        raise UserError(
            f"{source}: was fitted on a model of {theirs} (layers x heads), and this one has {shape[0]} x {shape[1]}"
        )


def predict_by_attention(
    model: ESM2, proteins: Sequence[str | bytes], regression: Regression, place: Place = Place()
) -> Iterator[tuple[int, FloatArray]]:
    """Predicts the probability of contact of all pairs of residues.

    Args:
        model: The model; it is moved to ``place.device`` and set to evaluation mode.
        proteins: Residues of each protein, in upper case.
        regression: The regression.
        place: Where to compute; ``batch_tokens`` is not looked at.

    Yields:
        Index of a protein and its probabilities, shape (residues, residues), symmetric; longest proteins first.

    Raises:
        UserError: The regression is that of another model.
    """
    check_fit(model, regression)
    weights = torch.from_numpy(regression.weights).to(place.device)
    for group, batch in _padded_batches(model, proteins, place, "contacts"):
        with torch.inference_mode(), place.autocast():
            logits = torch.zeros((), device=place.device) + regression.intercept
            for layer, maps in enumerate(model.contact_maps(batch)):
                logits = logits + maps.weighted(weights[layer])
            probabilities = logits.sigmoid().float().cpu().numpy()
        for row, index in enumerate(group):
            residues = len(proteins[index])
            yield index, probabilities[row, :residues, :residues]


def fit_regression(model: ESM2, structures: Sequence[Structure], place: Place = Place()) -> Regression:
    """Fits the regression on the pairs of residues of some proteins.

    Args:
        model: The model; it is moved to ``place.device`` and set to evaluation mode.
        structures: The proteins; 20 in Rao et al.
        place: Where to compute the attention maps; the fit runs on the CPU.

    Raises:
        UserError: The structures have no pair in contact at this separation, or all are.
    """
    if not structures:
        raise UserError("there are no training structures")
    pairs = [pairs_of(each.contacts, LEAST_SEPARATION) for each in structures]
    ends = np.cumsum([len(rows) for rows, _ in pairs])
    contacts = np.concatenate([each.contacts[at] for each, at in zip(structures, pairs, strict=True)])
    if not 0 < contacts.sum() < len(contacts):
        raise UserError(
            f"the {len(structures)} training structures have {int(contacts.sum())} pairs in contact of {len(contacts)} "
            f"at a separation of {LEAST_SEPARATION} or more; a regression needs pairs of both kinds"
        )
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    features = np.empty((len(contacts), layers * heads), dtype=np.float32)
    for group, batch in _padded_batches(model, [each.sequence for each in structures], place, "attention maps"):
        with torch.inference_mode(), place.autocast():
            for layer, maps in enumerate(model.contact_maps(batch)):
                for row, index in enumerate(group):
                    rows, columns = (torch.from_numpy(at).to(place.device) for at in pairs[index])
                    kept = maps.at(row, rows, columns).float().cpu().numpy()  # (heads, pairs)
                    at = slice(ends[index] - kept.shape[1], ends[index])
                    features[at, layer * heads : (layer + 1) * heads] = kept.T
    weights, intercept = fit_logistic(features, contacts)
    return Regression(weights.reshape(layers, heads), intercept, tuple(each.name for each in structures))


def fit_logistic(features: FloatArray, contacts: npt.NDArray[np.int8]) -> tuple[FloatArray, float]:
    """Fits a logistic regression with an L1 penalty by liblinear.

    Args:
        features: Shape (pairs, features).
        contacts: 1 for a contact and 0 for none, shape (pairs,).

    Returns:
        Weights, shape (features,), fp32, and the intercept.
    """
    from sklearn.linear_model import LogisticRegression

    # scikit-learn 1.8 renames the penalty.
    renamed = LogisticRegression().get_params().get("penalty") != "l2"
    penalty: dict[str, Any] = {"l1_ratio": 1.0} if renamed else {"penalty": "l1"}
    fitted = LogisticRegression(**penalty, C=PENALTY, solver="liblinear", random_state=0).fit(features, contacts)
    return fitted.coef_[0].astype(np.float32), float(fitted.intercept_[0])


def save_regression(path: Path, regression: Regression) -> None:
    """Writes a regression as JSON: a line a layer, and what it was fitted on.

    Args:
        path: The file.
        regression: The regression.

    Raises:
        UserError: The file cannot be written.
    """
    content: dict[str, Any] = {
        "plm_composer": version("plm-composer"),
        "trained_on": list(regression.trained_on),
        "intercept": regression.intercept,
        "weights": regression.weights.astype(float).tolist(),
    }
    try:
        with replacing(path) as partial:
            partial.write_text(json.dumps(content) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def load_regression(path: Path) -> Regression:
    """Reads a regression that ``save_regression`` wrote.

    Args:
        path: The file.

    Raises:
        UserError: The file cannot be read, or is not one.
    """
    try:
        content = json.loads(path.read_text())
        weights = np.array(content["weights"], dtype=np.float32)
        if weights.ndim != 2 or not np.isfinite(weights).all():
            raise ValueError("weights")
        return Regression(weights, float(content["intercept"]), tuple(map(str, content["trained_on"])))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a regression that plm contacts --save-regression wrote") from error


def _padded_batches(
    model: ESM2, proteins: Sequence[str | bytes], place: Place, description: str
) -> Iterator[tuple[list[int], Tensor]]:
    model.to(place.device).eval()
    tokens = [torch.from_numpy(tokenize(protein)) for protein in proteins]
    squares = [len(each) ** 2 for each in tokens]
    with ProgressBar(total=len(tokens), desc=description, unit=" proteins", disable=not place.progress) as bar:
        for group in group_by_tokens(squares, _PAIRS_OF_A_BATCH[torch.device(place.device).type]):
            rows = [tokens[index] for index in group]
            yield group, torch.nn.utils.rnn.pad_sequence(rows, True, PAD_ID).to(place.device)
            bar.update(len(group))
