"""Precision of predicted contacts within a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from composer.utils import dist

from plm_composer.callbacks.scheduled_evaluation import ScheduledEvaluation
from plm_composer.errors import UserError
from plm_composer.evaluation.contacts.evaluate import check_apart, find_regression, score_structures, summarise
from plm_composer.evaluation.contacts.structures import Structure, find_structure_files, read_structure
from plm_composer.evaluation.results import Result
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place

_METHODS = ("attention", "jacobian")
_MAPS_COST = 3
"""Time of a pass that gives attention maps, and of fitting on them, relative to one that gives logits."""
_SUBSTITUTIONS = 19


class Contacts(ScheduledEvaluation):
    """Predicts contacts of proteins with known structures, and logs what ``plm contacts --structures`` prints.

    With ``train_structures``, a regression on attention maps is fitted anew each time; without, contacts come from the
    categorical Jacobian, which takes 19 forward passes a residue.

    Args:
        structures: PDB or mmCIF files, or folders of them, to score on.
        train_structures: Files or folders of other proteins to fit the regression on; None for the Jacobian.
        max_structures: Largest number of proteins to score on; they are drawn.
        train_limit: Largest number of proteins to fit on: 20 in Rao et al. 2021.
        max_residues: Longer proteins are left out.
        seed: Seed of the draw: the same proteins in every evaluation and every run.
        interval: Time between two evaluations; there is always one at the end of training.
        batch_tokens: Maximum number of tokens in a batch.

    Raises:
        UserError: A file cannot be read, or a protein is both fitted on and scored.
    """

    name = "contacts"

    def __init__(
        self,
        structures: Sequence[str],
        train_structures: Sequence[str] | None = None,
        max_structures: int = 20,
        train_limit: int = 20,
        max_residues: int = 512,
        seed: int = 17,
        interval: str | int = "1ep",
        batch_tokens: int = 16384,
    ) -> None:
        super().__init__(interval, batch_tokens)
        for key, value in (("max_structures", max_structures), ("train_limit", train_limit)):
            if value < 1:
                raise UserError(f"callbacks.contacts.{key} is {value}; it must be at least 1")
        self.method = _METHODS[train_structures is None]
        scored = _read(structures, max_residues)
        if not scored:
            raise UserError(
                f"callbacks.contacts.structures: no protein has at most {max_residues} residues; raise max_residues"
            )
        if len(scored) > max_structures:
            chosen = np.random.default_rng(seed).choice(len(scored), max_structures, replace=False)
            scored = [scored[index] for index in sorted(chosen)]
        self.structures = scored
        self.train = _read(train_structures or (), max_residues)[:train_limit]
        check_apart(self.structures, self.train)

    def tokens(self) -> int:
        """Number of tokens that one evaluation sends through the model on the busiest process, nearly."""
        lengths = [len(each.sequence) for each in self._own()]
        if self.method == "jacobian":
            return sum(_SUBSTITUTIONS * length**2 for length in lengths)
        return _MAPS_COST * (sum(lengths) + sum(len(each.sequence) for each in self.train))

    def evaluate(self, model: ESM2, place: Place) -> list[Result]:
        """Fits the regression, and predicts contacts of the structures; each process takes a part of them."""
        regression = find_regression(model, self.method, self.train, place)
        found = dist.all_gather_object(score_structures(model, self._own(), regression, place))
        # Process r has every n-th protein from the r-th on.
        ordered = [found[index % len(found)][index // len(found)] for index in range(len(self.structures))]
        return [summarise("structures", self.method, self.structures, ordered, regression)]

    def _own(self) -> list[Structure]:
        return self.structures[dist.get_global_rank() :: dist.get_world_size()]


def _read(paths: Sequence[str], max_residues: int) -> list[Structure]:
    read = [read_structure(path) for path in find_structure_files([Path(path) for path in paths])]
    return [each for each in read if len(each.sequence) <= max_residues]
