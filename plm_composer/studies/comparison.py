"""Statistics of a study: spread over seeds, and differences to the reference, paired by seed."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from scipy import stats

from plm_composer.studies.results import Failure, RunResult
from plm_composer.studies.schema import Study
from plm_composer.studies.time_to_loss import first_reached

_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Spread:
    """Losses of a variant over its seeds, in nats.

    Args:
        mean: Mean over seeds.
        sd: Standard deviation of the sample; None for one seed.
        low: Smallest loss.
        high: Largest loss.
    """

    mean: float
    sd: float | None
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """Losses of a variant minus the losses of the reference with the same seeds, in nats.

    Args:
        mean: Mean over pairs; below 0 the variant is better.
        low: Lower end of the 95 % interval of Student's paired t; None for one pair.
        high: Upper end of that interval; None for one pair.
        pairs: Number of seeds that both variants finished, at least 1.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int


@dataclasses.dataclass(frozen=True)
class TimeToLoss:
    """When the runs of a variant first reached a loss.

    Args:
        loss: The loss, in nats.
        seconds: Training time until then, median of the runs that reached it; None if no run did.
        tokens: Tokens trained until then, median of the runs that reached it; None if no run did.
        reached: Number of runs that reached it.
        runs: Number of finished runs.
        speedup: Seconds of the reference divided by seconds of the variant, median of the seeds where both reached
            it; None if there is no such seed.
    """

    loss: float
    seconds: float | None
    tokens: float | None
    reached: int
    runs: int
    speedup: float | None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Results of the finished runs of a variant.

    Args:
        loss: Loss over seeds.
        difference: Difference to the reference; None for the reference itself, and without a seed that both finished.
        perplexity: ``exp(loss)``, mean over seeds.
        accuracy: Share of correct predictions, 0 to 1, mean over seeds.
        tokens: Tokens trained, mean over seeds.
        tokens_per_second: Tokens by seconds of training alone, median over seeds.
        seconds: Time of the run's process from start to exit, median over seeds.
        target: Time to the target loss; None if no target was given.
    """

    loss: Spread
    difference: Difference | None
    perplexity: float
    accuracy: float
    tokens: float
    tokens_per_second: float
    seconds: float
    target: TimeToLoss | None


@dataclasses.dataclass(frozen=True)
class VariantSummary:
    """Summary of a variant.

    Args:
        variant: Name of the variant.
        planned: Number of runs in the study.
        done: Number of finished runs.
        failed: Number of failed runs.
        outcome: Results of the finished runs; None if there is none.
    """

    variant: str
    planned: int
    done: int
    failed: int
    outcome: Outcome | None

    @property
    def difference(self) -> Difference | None:
        """Difference to the reference, if there is one."""
        return None if self.outcome is None else self.outcome.difference

    def to_mapping(self) -> dict[str, Any]:
        """Makes one flat mapping for JSON, with the same keys for every variant."""
        empty = dict.fromkeys(field.name for field in dataclasses.fields(Outcome))
        content = dataclasses.asdict(self)
        return content | (content.pop("outcome") or empty)


def summarise(
    study: Study, results: Sequence[RunResult], failures: Sequence[Failure], target: float | None = None
) -> list[VariantSummary]:
    """Summarises a study.

    Args:
        study: The study.
        results: The finished runs.
        failures: The failed runs.
        target: Adds the time to this loss, in nats.

    Returns:
        One summary per variant, in the order of the study.
    """
    by_variant = {name: [result for result in results if result.variant == name] for name in study.variants}
    reference = by_variant[study.reference]
    return [
        VariantSummary(
            variant=name,
            planned=len(study.seeds),
            done=len(runs),
            failed=sum(failure.variant == name for failure in failures),
            outcome=_summarise_runs(runs, reference, target) if runs else None,
        )
        for name, runs in by_variant.items()
    ]


def spread(losses: Sequence[float]) -> Spread:
    """Summarises one or more losses."""
    sd = statistics.stdev(losses) if len(losses) > 1 else None
    return Spread(statistics.fmean(losses), sd, min(losses), max(losses))


def compare(runs: Sequence[RunResult], reference: Sequence[RunResult]) -> Difference | None:
    """Compares the losses of two variants, paired by seed: an effect of the seed on both cancels out.

    Args:
        runs: Runs of a variant.
        reference: Runs of the reference.

    Returns:
        The mean difference and the interval of Student's paired t; None without a common seed.
    """
    losses = {run.seed: run.loss for run in reference}
    differences = [run.loss - losses[run.seed] for run in runs if run.seed in losses]
    if not differences:
        return None
    mean, pairs = statistics.fmean(differences), len(differences)
    if pairs == 1:
        return Difference(mean, None, None, pairs)
    error = statistics.stdev(differences) / pairs**0.5
    reach = float(stats.t.ppf((1 + _CONFIDENCE) / 2, pairs - 1)) * error
    return Difference(mean, mean - reach, mean + reach, pairs)


def time_to_loss(runs: Sequence[RunResult], reference: Sequence[RunResult], target: float) -> TimeToLoss:
    """Finds when runs first reached a loss, and how much sooner than the reference.

    Args:
        runs: Runs of a variant, at least one.
        reference: Runs of the reference.
        target: The loss, in nats.
    """
    reached = {run.seed: place for run in runs if (place := first_reached(run.curve, target))}
    others = {run.seed: place for run in reference if (place := first_reached(run.curve, target))}
    ratios = [others[seed].seconds / place.seconds for seed, place in reached.items() if seed in others]
    return TimeToLoss(
        loss=target,
        seconds=statistics.median(place.seconds for place in reached.values()) if reached else None,
        tokens=statistics.median(place.tokens for place in reached.values()) if reached else None,
        reached=len(reached),
        runs=len(runs),
        speedup=statistics.median(ratios) if ratios else None,
    )


def _summarise_runs(runs: Sequence[RunResult], reference: Sequence[RunResult], target: float | None) -> Outcome:
    return Outcome(
        loss=spread([run.loss for run in runs]),
        difference=None if runs is reference else compare(runs, reference),
        perplexity=statistics.fmean(run.perplexity for run in runs),
        accuracy=statistics.fmean(run.accuracy for run in runs),
        tokens=statistics.fmean(run.tokens for run in runs),
        tokens_per_second=statistics.median(run.tokens_per_second for run in runs),
        seconds=statistics.median(run.seconds for run in runs),
        target=None if target is None else time_to_loss(runs, reference, target),
    )
