"""The statistics of a study: spread over seeds, and differences to the reference, paired by seed."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

from scipy import stats

from plm_composer.studies.results import Failure, RunResult
from plm_composer.studies.schema import Study
from plm_composer.studies.time_to_loss import first_reached

_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Spread:
    """Losses of a variant over its seeds.

    Args:
        mean: In nats, as all.
        sd: Standard deviation of the sample; None for one seed.
        low: Smallest.
        high: Largest.
    """

    mean: float
    sd: float | None
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """Losses of a variant minus the reference's, seed by seed.

    Args:
        mean: In nats; below 0 the variant is better.
        low: Lower end of the 95 % interval of Student's paired t; None for one pair.
        high: Upper end.
        pairs: Seeds that both have.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int


@dataclasses.dataclass(frozen=True)
class TimeToLoss:
    """When the runs of a variant first reached a loss.

    Args:
        loss: In nats.
        seconds: Of training, median of the runs that reached it; None where none did.
        tokens: The same.
        reached: Runs that reached it.
        runs: All runs.
        speedup: The reference's seconds by the variant's, median of the seeds where both reached it; None for none.
    """

    loss: float
    seconds: float | None
    tokens: float | None
    reached: int
    runs: int
    speedup: float | None


@dataclasses.dataclass(frozen=True)
class VariantSummary:
    """What the runs of a variant came to; numbers are None where none is done.

    Args:
        variant: Which.
        planned: Runs of the study.
        done: Runs that are done.
        failed: Runs that failed.
        loss: Over seeds.
        difference: To the reference; None for itself, or where no seed is done by both.
        perplexity: ``exp`` of the loss, mean over seeds.
        accuracy: Mean.
        tokens: Trained, mean.
        tokens_per_second: Of training, median.
        seconds: Of the process, median.
        target: Where one was asked for.
    """

    variant: str
    planned: int
    done: int
    failed: int
    loss: Spread | None = None
    difference: Difference | None = None
    perplexity: float | None = None
    accuracy: float | None = None
    tokens: float | None = None
    tokens_per_second: float | None = None
    seconds: float | None = None
    target: TimeToLoss | None = None


def summarise(
    study: Study, results: Sequence[RunResult], failures: Sequence[Failure], target: float | None = None
) -> list[VariantSummary]:
    """Summarises a study.

    Args:
        study: The study.
        results: Of the runs that are done.
        failures: Of those that failed.
        target: A loss, in nats, whose time is asked for.

    Returns:
        A summary of each variant, in the study's order.
    """
    by_variant = {name: [result for result in results if result.variant == name] for name in study.variants}
    reference = by_variant[study.reference]
    summaries = []
    for name, runs in by_variant.items():
        empty = VariantSummary(
            variant=name,
            planned=len(study.seeds),
            done=len(runs),
            failed=sum(failure.variant == name for failure in failures),
        )
        if not runs:
            summaries.append(empty)
            continue
        summaries.append(
            dataclasses.replace(
                empty,
                loss=spread([run.loss for run in runs]),
                difference=None if name == study.reference else compare(runs, reference),
                perplexity=statistics.fmean(run.perplexity for run in runs),
                accuracy=statistics.fmean(run.accuracy for run in runs),
                tokens=statistics.fmean(run.tokens for run in runs),
                tokens_per_second=statistics.median(run.tokens_per_second for run in runs),
                seconds=statistics.median(run.seconds for run in runs),
                target=None if target is None else time_to_loss(runs, reference, target),
            )
        )
    return summaries


def spread(losses: Sequence[float]) -> Spread:
    """Mean and spread of losses, one or more."""
    sd = statistics.stdev(losses) if len(losses) > 1 else None
    return Spread(statistics.fmean(losses), sd, min(losses), max(losses))


def compare(runs: Sequence[RunResult], reference: Sequence[RunResult]) -> Difference | None:
    """Compares the losses of two variants, paired by seed: what a seed does to both cancels out.

    Args:
        runs: Of a variant.
        reference: Of the other.

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
    """Says when runs first reached a loss, and how much sooner than the reference's.

    Args:
        runs: Of a variant; one or more.
        reference: Of the reference.
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
