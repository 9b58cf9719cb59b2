"""Zero-shot effects of mutations within a training: ProteinGym's assays, or a part of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from composer.utils import dist

from plm_composer.callbacks.scheduled_evaluation import ScheduledEvaluation
from plm_composer.errors import UserError
from plm_composer.evaluation.results import Result
from plm_composer.evaluation.variants.assays import Assay, find_assays, read_assay, read_reference
from plm_composer.evaluation.variants.evaluate import compare_assay, draw_mutants, score_assay, to_results
from plm_composer.evaluation.variants.methods import METHODS, Scorer, check_kind, check_method, default_window
from plm_composer.evaluation.variants.summary import summarise
from plm_composer.evaluation.windows import WINDOW_TOKENS, make_windowing
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place


class ProteinGym(ScheduledEvaluation):
    """Scores mutants of some assays, and logs the metrics of ``plm score``: ``metrics/proteingym/spearman`` and others.

    Args:
        folder: Folder of assays, ProteinGym's own CSVs.
        reference: ProteinGym's file of assays; None where the CSVs have whole sequences, from which targets are found.
        assays: Names of assays, with or without ``.csv``; None to draw some.
        max_assays: Largest number of assays, if they are drawn.
        max_mutants: Largest number of mutants of an assay; they are drawn.
        method: Key of ``METHODS``. ``wt-marginals`` takes one forward pass an assay, ``masked-marginals`` one for each
            mutated position, ``pll`` one for each residue of each mutant. A causal model has ``likelihood``, one for
            each mutant.
        seed: Seed of the draws: the same assays and mutants in every evaluation and every run.
        interval: Time between two evaluations; there is always one at the end of training.
        batch_tokens: Maximum number of tokens in a batch.
    """

    name = "proteingym"

    def __init__(
        self,
        folder: str,
        reference: str | None = None,
        assays: Sequence[str] | None = None,
        max_assays: int = 5,
        max_mutants: int = 500,
        method: str = "wt-marginals",
        seed: int = 17,
        interval: str | int = "1ep",
        batch_tokens: int = 16384,
    ) -> None:
        super().__init__(interval, batch_tokens)
        for key, value in (("max_assays", max_assays), ("max_mutants", max_mutants)):
            if value < 1:
                raise UserError(f"callbacks.proteingym.{key} is {value}; it must be at least 1")
        if method not in METHODS:
            raise UserError(f"callbacks.proteingym.method is {method!r}; choose from {', '.join(METHODS)}")
        self.method = method
        self._label = f"{method}, in training"
        known = None if reference is None else read_reference(Path(reference))
        paths = _choose(find_assays([Path(folder)]), assays, max_assays, seed)
        whole = [read_assay(path, known) for path in paths]
        for path, assay in zip(paths, whole, strict=True):
            if assay.measured is None:
                raise UserError(f"{path}: has no column DMS_score, with which callbacks.proteingym compares scores")
        for assay in whole:
            check_method(method, assay.target, assay.variants, f"callbacks.proteingym: {assay.name}")
        self.assays: list[Assay] = [draw_mutants(assay, max_mutants, seed) for assay in whole]

    def tokens(self) -> int:
        """Number of tokens that one evaluation sends through the model on the busiest process, nearly."""
        return -(-sum(_count_tokens(self.method, assay) for assay in self.assays) // dist.get_world_size())

    def check(self, config: ESM2Config) -> None:
        """Checks that the method is one for a model of this kind."""
        check_kind(self.method, config, "callbacks.proteingym.method")

    def evaluate(self, model: ESM2, place: Place) -> list[Result]:
        """Scores the mutants and compares them with what was measured."""
        scorer = Scorer(model, place, make_windowing(default_window(self.method)), all_processes=True)
        compared = [compare_assay(assay, score_assay(scorer, self.method, assay)) for assay in self.assays]
        scored = [each for each in compared if each is not None]
        return to_results(self._label, scored, summarise(scored), {"method": self.method}) if scored else []

    def metrics(self, results: Sequence[Result]) -> dict[str, float]:
        """The averages by name, and ``spearman of ASSAY``."""
        average, *assays = results
        averages = {name: score.value for name, score in average.scores.items()}
        suffix = f" ({self._label})"
        correlations = {each.name.removesuffix(suffix): each.scores.get("spearman") for each in assays}
        return averages | {f"spearman of {name}": score.value for name, score in correlations.items() if score}


def _choose(paths: list[Path], names: Sequence[str] | None, limit: int, seed: int) -> list[Path]:
    if names is None:
        if len(paths) <= limit:
            return paths
        return [paths[index] for index in sorted(np.random.default_rng(seed).choice(len(paths), limit, replace=False))]
    known = {path.stem: path for path in paths}
    wanted = [name.removesuffix(".csv") for name in names]
    if not wanted or len(set(wanted)) < len(wanted):
        raise UserError("callbacks.proteingym.assays: name at least one assay, and each once; or null to draw some")
    for name in wanted:
        if name not in known:
            raise UserError(f"callbacks.proteingym.assays: there is no {name}.csv in {paths[0].parent}")
    return [known[name] for name in wanted]


def _count_tokens(method: str, assay: Assay) -> int:
    length = min(len(assay.target or assay.variants[0].sequence) + 2, WINDOW_TOKENS)
    positions = {each.index for variant in assay.variants for each in variant.substitutions or ()}
    passes = {
        "wt-marginals": 1 if len(assay.target or "") + 2 <= WINDOW_TOKENS else len(positions),
        "masked-marginals": len(positions),
        "mutant-marginals": len(assay.variants),
        "pll": (len(assay.variants) + 1) * length,
        "likelihood": len(assay.variants) + 1,
    }
    return length * passes[method]
