"""What a training shows of itself while it runs, from the metrics that it logs."""

from __future__ import annotations

from collections.abc import Mapping

from plm_composer.terminal.progress_line import Detail, describe_amount

LOSS = "loss/train/total"
TOKENS_PER_SECOND = "throughput/tokens_per_sec"
MFU = "throughput/device/mfu"
SECONDS_LEFT_OF_BUDGET = "budget/seconds_left"
TIME_LEFT = "time/remaining_estimate"
SECONDS_OF_UNIT = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0}
"""Seconds of the units in which Composer's RuntimeEstimator may log ``TIME_LEFT``."""

_SCORES = {
    "masked_nll": "loss {:.4f} nats",
    "residue_nll": "loss {:.4f} nats",
    "perplexity": "perplexity {:.2f}",
    "accuracy": "accuracy {:.1%}",
}
"""The scores of the pinned evaluation, as they are shown."""


def describe_position(position: float, total: float, unit: str) -> str:
    """Says where a training is, such as ``315/700``, or ``1.4/10 ep`` where it is not counted in batches.

    Args:
        position: Where it is.
        total: Where it ends.
        unit: Unit of both, as Composer abbreviates it.
    """
    if unit == "ba":
        return f"{position:.0f}/{total:.0f}"
    done = f"{position:.2f}" if unit == "ep" else describe_amount(position)
    return f"{done}/{describe_amount(total)} {unit}"


def seconds_left(metrics: Mapping[str, float], time_unit: str) -> float | None:
    """Finds how long a training still takes, in seconds: of its budget, or by its speed; None if nobody knows.

    Args:
        metrics: The latest metrics, name to value.
        time_unit: Unit of ``TIME_LEFT``, in ``SECONDS_OF_UNIT``.
    """
    if SECONDS_LEFT_OF_BUDGET in metrics:
        return metrics[SECONDS_LEFT_OF_BUDGET]
    return metrics[TIME_LEFT] * SECONDS_OF_UNIT[time_unit] if TIME_LEFT in metrics else None


def describe_training(position: str, metrics: Mapping[str, float], time: str | None) -> list[Detail]:
    """Lists what stands beside a training's bar; what no metric tells is left out.

    Args:
        position: From ``describe_position``.
        metrics: The latest metrics, name to value.
        time: The time that is left, or was taken; None if nobody knows.
    """
    details = [Detail(position, 4)]
    if LOSS in metrics:
        details.append(Detail(f"loss {metrics[LOSS]:.3f}"))
    if TOKENS_PER_SECOND in metrics:
        details.append(Detail(f"{describe_amount(metrics[TOKENS_PER_SECOND])} tok/s", 2))
    if MFU in metrics:
        details.append(Detail(f"MFU {metrics[MFU]:.0%}", 3))
    if time is not None:
        details.append(Detail(time, 1))
    return details


def describe_evaluation(name: str, position: str, scores: Mapping[str, float]) -> str:
    """Describes an evaluation within a training in one line.

    Args:
        name: Name of what is evaluated on.
        position: From ``describe_position``.
        scores: Score name to value.
    """
    texts = [_SCORES.get(score, score + " {:.4f}").format(value) for score, value in scores.items()]
    return f"{name} at {position}: {', '.join(texts)}"
