"""Zero-shot scores, higher for a fitter mutant: four of Meier et al. 2021, and the likelihood of a causal model.

"Language models enable zero-shot prediction of the effects of mutations on protein function", section 3 and table 5.

With T the mutated positions, x the target and y the mutant:

- ``masked-marginals``: the sum over t in T of log p(y_t | x without t) - log p(x_t | x without t). Meier's and
  ProteinGym's scripts mask one position at a time; the paper's formula masks all of T at once (``mask_together``). The
  two are the same for single mutants.
- ``wt-marginals``: the sum over T of log p(y_t | x) - log p(x_t | x), with nothing masked.
- ``mutant-marginals``: the sum over T of log p(y_t | y) - log p(x_t | y).
- ``pll``: the pseudo-log-likelihood of y less that of x, each the sum over all positions i of log p(x_i | x without i).
  It needs no alignment of the two, so it scores insertions and deletions. ProteinGym's script leaves out x, which
  shifts all scores of an assay equally, and the last two residues.

- ``likelihood``, of a causal model alone: log p(y) - log p(x), each the sum over all residues and ``<eos>`` of the
  logarithm of the probability after those before. It scores insertions and deletions. ProteinGym's scripts for ProGen2
  and Tranception score y alone, which shifts all scores of an assay equally, and average both directions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from plm_composer.errors import UserError
from plm_composer.evaluation.likelihood import log_likelihoods
from plm_composer.evaluation.masked_predictions import Request, predict_tokens
from plm_composer.evaluation.pseudo_perplexity import masked_log_likelihoods
from plm_composer.evaluation.variants.mutations import Substitution, Variant
from plm_composer.evaluation.windows import Windowing, make_windowing
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import Place, tokenize
from plm_composer.tokenizer import encode

FloatArray = npt.NDArray[np.float64]
_CAUSAL = "likelihood"
_WITHOUT_ALIGNMENT = ("pll", _CAUSAL)
_VARIANTS_AT_ONCE = 4096
"""Number of mutants whose tokens and predictions are held at once, where each has forward passes of its own."""


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A model and the way in which it scores.

    Args:
        model: The model.
        place: Where to compute.
        windowing: Chooses the pieces of proteins that are longer than a window.
        mask_together: Whether ``masked-marginals`` masks all positions of a multiple mutant at once.
        all_processes: Whether all processes of the run score the same variants, and share the work.
    """

    model: ESM2
    place: Place = dataclasses.field(default_factory=Place)
    windowing: Windowing = dataclasses.field(default_factory=lambda: make_windowing("optimal"))
    mask_together: bool = False
    all_processes: bool = False

    def predict(self, proteins: Sequence[str], requests: Sequence[Request]) -> FloatArray:
        """Log-probabilities of tokens, shape (requests, 33), as ``predict_tokens``."""
        tokens = [tokenize(protein) for protein in proteins]
        return predict_tokens(
            self.model, tokens, requests, self.windowing, self.place, all_processes=self.all_processes
        )

    def pseudo_log_likelihoods(self, proteins: Sequence[str]) -> FloatArray:
        """Pseudo-log-likelihood of each protein, shape (proteins,)."""
        parts = masked_log_likelihoods(
            self.model, proteins, self.windowing, self.place, all_processes=self.all_processes
        )
        return np.array([part.sum() for part in parts])

    def log_likelihoods(self, proteins: Sequence[str]) -> FloatArray:
        """Log-likelihood of each protein under a causal model, shape (proteins,)."""
        parts = log_likelihoods(self.model, proteins, self.windowing, self.place, all_processes=self.all_processes)
        return np.array([part.sum() for part in parts])


Method = Callable[[Scorer, str | None, Sequence[Variant]], FloatArray]


def score_variants(scorer: Scorer, method: str, target: str | None, variants: Sequence[Variant]) -> FloatArray:
    """Scores mutants of a target.

    Args:
        scorer: The model and its settings.
        method: Key of ``METHODS``.
        target: Residues of the target. None if unknown, for ``pll`` and ``likelihood`` alone, which then give the value
            of the mutant.
        variants: The mutants; those with insertions or deletions only for these two.

    Returns:
        Scores, shape (variants,).

    Raises:
        UserError: The method cannot score one of the mutants.
    """
    check_method(method, target, variants)
    check_kind(method, scorer.model.config)
    return METHODS[method](scorer, target, variants) if variants else np.zeros(0)


def check_kind(method: str, config: ESM2Config, name: str = "the method") -> None:
    """Checks that a method is one for a model's kind, masked or causal.

    Args:
        method: Key of ``METHODS``.
        config: The model's config.
        name: What chose the method, for the message.

    Raises:
        UserError: It is not.
    """
    if method == _CAUSAL and config.predicts_next:
        return
    if config.causal or method == _CAUSAL:
        kind = "is causal and fills no masks" if config.causal else "has not learnt to predict the next residue"
        raise UserError(f"{name} is {method!r}, and the model {kind}; use {_CAUSAL if config.causal else 'pll'}")


def default_window(method: str) -> str:
    """Name of the windowing that suits a method."""
    return "preceding" if method == _CAUSAL else "optimal"


def check_method(method: str, target: str | None, variants: Sequence[Variant], name: str = "the assay") -> None:
    """Checks that a method can score mutants, before it does; arguments as for ``score_variants``.

    Raises:
        UserError: There is no such method, or it cannot score one of the mutants. ``name`` says whose.
    """
    if method not in METHODS:
        raise UserError(f"the method is {method!r}; choose from {', '.join(METHODS)}")
    if method in _WITHOUT_ALIGNMENT:
        return
    if target is None:
        raise UserError(f"{name}: {method} needs the target; give it, or use the method pll, or likelihood")
    if any(variant.substitutions is None for variant in variants):
        raise UserError(f"{name}: {method} cannot score insertions and deletions; use the method pll, or likelihood")


def _masked_marginals(scorer: Scorer, target: str | None, variants: Sequence[Variant]) -> FloatArray:
    assert target is not None
    together = scorer.mask_together

    def request_of(variant: Variant, each: Substitution) -> Request:
        masked = [other.index + 1 for other in variant.substitutions or ()] if together else [each.index + 1]
        return Request(0, tuple(sorted(masked)), each.index + 1)

    # Positions are shared by all mutants, but sets of positions are as many as mutants.
    chunks = _chunks(variants) if together else [variants]
    return np.concatenate([_sum_ratios(scorer, [target], chunk, request_of) for chunk in chunks])


def _wildtype_marginals(scorer: Scorer, target: str | None, variants: Sequence[Variant]) -> FloatArray:
    assert target is not None
    return _sum_ratios(scorer, [target], variants, lambda _, each: Request(0, (), each.index + 1))


def _mutant_marginals(scorer: Scorer, target: str | None, variants: Sequence[Variant]) -> FloatArray:
    del target
    scores = []
    for chunk in _chunks(variants):
        index = {variant: number for number, variant in enumerate(dict.fromkeys(chunk))}
        proteins = [variant.sequence for variant in index]

        def request_of(variant: Variant, each: Substitution, index: dict[Variant, int] = index) -> Request:
            return Request(index[variant], (), each.index + 1)

        scores.append(_sum_ratios(scorer, proteins, chunk, request_of))
    return np.concatenate(scores)


def _pseudo_log_likelihood(scorer: Scorer, target: str | None, variants: Sequence[Variant]) -> FloatArray:
    return _differences(scorer.pseudo_log_likelihoods, target, variants)


def _likelihood(scorer: Scorer, target: str | None, variants: Sequence[Variant]) -> FloatArray:
    return _differences(scorer.log_likelihoods, target, variants)


def _differences(
    value_of: Callable[[Sequence[str]], FloatArray], target: str | None, variants: Sequence[Variant]
) -> FloatArray:
    """The value of each mutant, less that of the target if it is known; each protein is computed once."""
    unique = list(dict.fromkeys(variant.sequence for variant in variants))
    proteins = unique if target is None else list(dict.fromkeys([target, *unique]))
    values = value_of(proteins)
    own = dict(zip(proteins, values, strict=True))
    return np.array([own[variant.sequence] for variant in variants]) - (0.0 if target is None else own[target])


METHODS: dict[str, Method] = {
    "masked-marginals": _masked_marginals,
    "wt-marginals": _wildtype_marginals,
    "mutant-marginals": _mutant_marginals,
    "pll": _pseudo_log_likelihood,
    "likelihood": _likelihood,
}
"""The scores by name."""


def _sum_ratios(
    scorer: Scorer,
    proteins: Sequence[str],
    variants: Sequence[Variant],
    request_of: Callable[[Variant, Substitution], Request],
) -> FloatArray:
    """Sums log p(mutant) - log p(wild type) over each variant's substitutions; equal requests are predicted once."""
    rows: dict[Request, int] = {}
    owners, predicted, mutants, wildtypes = [], [], [], []
    for owner, variant in enumerate(variants):
        for each in variant.substitutions or ():
            request = request_of(variant, each)
            owners.append(owner)
            predicted.append(rows.setdefault(request, len(rows)))
            mutants.append(each.mutant)
            wildtypes.append(each.wildtype)
    scores = np.zeros(len(variants))
    if not rows:
        return scores
    table = scorer.predict(proteins, list(rows))
    ratios = table[predicted, _ids(mutants)] - table[predicted, _ids(wildtypes)]
    np.add.at(scores, owners, ratios)
    return scores


def _ids(residues: Sequence[str]) -> npt.NDArray[np.uint8]:
    return encode("".join(residues).encode())


def _chunks(variants: Sequence[Variant]) -> Iterator[Sequence[Variant]]:
    for start in range(0, len(variants), _VARIANTS_AT_ONCE):
        yield variants[start : start + _VARIANTS_AT_ONCE]
