"""The results page of a study, in Markdown: protocol, table, notes and origin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tabulate import tabulate

from plm_composer.studies.comparison import Difference, Outcome, TimeToLoss, VariantSummary
from plm_composer.studies.results import Failure, RunResult
from plm_composer.studies.schema import Study

_NONE = "-"
_FEW_PAIRS = 2
"""With this few pairs the table marks the interval as uninformative: Student's t has one degree of freedom."""
FEW = "†"
"""Marks an interval of too few pairs."""


def render(
    study: Study,
    summaries: Sequence[VariantSummary],
    results: Sequence[RunResult],
    failures: Sequence[Failure],
    target: float | None = None,
) -> str:
    """Writes the page.

    Args:
        study: The study.
        summaries: One per variant.
        results: The finished runs.
        failures: The failed runs.
        target: The target loss of the summaries, in nats.
    """
    parts = [f"# {study.path.stem}", study.purpose, _protocol(study, results)]
    parts += [make_table(summaries, study.reference, target), _notes(summaries, study.reference, target)]
    parts += [_failed(failures), _overrides(study), _origin(study, results, target)]
    return "\n\n".join(part for part in parts if part) + "\n"


def make_table(summaries: Sequence[VariantSummary], reference: str, target: float | None = None) -> str:
    """Makes the table of variants.

    Args:
        summaries: One per variant.
        reference: Name of the variant that the others are compared with.
        target: Adds the columns of ``TimeToLoss`` for this loss, in nats.
    """
    columns: dict[str, Callable[[Outcome], str]] = {
        "loss, nats": lambda found: f"{found.loss.mean:.4f}",
        "sd": lambda found: _number(found.loss.sd, ".4f"),
        "min to max": lambda found: f"{found.loss.low:.4f} to {found.loss.high:.4f}",
        f"minus {reference}": lambda found: f"{found.difference.mean:+.4f}" if found.difference else _NONE,
        "95 % interval": lambda found: show_interval(found.difference) if found.difference else _NONE,
        "perplexity": lambda found: f"{found.perplexity:.2f}",
        "accuracy": lambda found: f"{found.accuracy:.1%}",
        "tokens": lambda found: f"{found.tokens:,.0f}",
        "tokens/s": lambda found: f"{found.tokens_per_second:,.0f}",
        "seconds": lambda found: _seconds(found.seconds),
    }
    times: dict[str, Callable[[TimeToLoss], str]] = {}
    if target is not None:
        times = {
            f"seconds to {target:g}": lambda found: _reached(found, _seconds(found.seconds)),
            f"tokens to {target:g}": lambda found: _reached(found, _number(found.tokens, ",.0f")),
            f"times as fast as {reference}": lambda found: _number(found.speedup, ".2f"),
        }
    cells = [
        [
            row.variant,
            _seeds(row),
            *(show(row.outcome) if row.outcome else _NONE for show in columns.values()),
            *(show(row.outcome.target) if row.outcome and row.outcome.target else _NONE for show in times.values()),
        ]
        for row in summaries
    ]
    headers = ["variant", "seeds", *columns, *times]
    align = ["left", *["right"] * (len(headers) - 1)]
    return tabulate(cells, headers=headers, tablefmt="github", colalign=align, disable_numparse=True)


def show_interval(difference: Difference) -> str:
    """Formats the 95 % interval, in nats; marks one of two pairs, and shows ``-`` for one pair."""
    if difference.low is None or difference.high is None:
        return _NONE
    return f"{difference.low:+.4f} to {difference.high:+.4f}{FEW if is_marked(difference) else ''}"


def is_marked(difference: Difference) -> bool:
    """Says whether an interval is of so few pairs that it is marked as uninformative."""
    return difference.low is not None and difference.pairs <= _FEW_PAIRS


def _seeds(row: VariantSummary) -> str:
    return f"{row.done}/{row.planned}" + (f", {row.failed} failed" if row.failed else "")


def _reached(found: TimeToLoss, shown: str) -> str:
    return f"{shown} ({found.reached}/{found.runs})" if 0 < found.reached < found.runs else shown


def _seconds(value: float | None) -> str:
    return _number(value, ",.0f" if value is None or value >= 10 else ".1f")


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else format(value, form)


def _protocol(study: Study, results: Sequence[RunResult]) -> str:
    if not results:
        return "No run is finished."
    if study.evaluation is None:
        scored = "Losses are those of each run's last validation."
    else:
        first = results[0]
        scored = (
            f"Losses are the pinned evaluation of each final model on {study.evaluation.data}: "
            f"{first.scored_tokens:,} hidden residues, digest {first.set_digest}."
        )
    limit = "budget" if any(result.config.get("budget") for result in results) else "max_duration"
    return f"{scored} Each run trains for {limit}: {_one_or_each(limit, results)}."


def _one_or_each(key: str, results: Sequence[RunResult]) -> str:
    by_variant = {result.variant: result.config.get(key) for result in results}
    if len(set(by_variant.values())) == 1:
        return str(results[0].config.get(key))
    return ", ".join(f"{value} ({variant})" for variant, value in by_variant.items())


def _notes(summaries: Sequence[VariantSummary], reference: str, target: float | None) -> str:
    lines = [
        f"`minus {reference}`: mean over seeds of the difference to the same seed of {reference} (below 0: better), "
        "with Student's paired interval. tokens/s (training alone) and seconds (whole process) are medians over seeds."
    ]
    if any(row.difference is not None and is_marked(row.difference) for row in summaries):
        lines.append(f"{FEW} of two pairs: uninformative.")
    if target is not None:
        lines.append(
            f"`seconds to {target:g}`, tokens: training until the validation loss first is {target:g} nats, "
            "interpolated; median over seeds."
        )
    return "\n".join(lines)


def _failed(failures: Sequence[Failure]) -> str:
    lines = [f"- {failure.variant}, seed {failure.seed}: {failure.reason} ({failure.log})" for failure in failures]
    return "\n".join(["Failed:", "", *lines]) if lines else ""


def _overrides(study: Study) -> str:
    lines = [f"- {name}: {_code(overrides)}" for name, overrides in study.variants.items()]
    return "\n".join([f"All: `{study.yaml.name}` {_code(study.common)}", "", *lines])


def _code(overrides: Iterable[str]) -> str:
    return f"`{' '.join(overrides)}`" if overrides else "nothing more"


def _origin(study: Study, results: Sequence[RunResult], target: float | None) -> str:
    command = f"plm ablate {study.path}" + (f" --target {target:g}" if target is not None else "")
    machines = sorted({result.machine for result in results})
    lines = [f"Command: `{command}`"]
    lines += [f"Machine: {machine}" for machine in machines]
    if len(machines) > 1:
        lines.append("The runs are from different machines: their times cannot be compared.")
    continued = [f"{result.variant} (seed {result.seed})" for result in results if result.starts > 1]
    if continued:
        lines.append(f"Continued after an interruption, which adds to the seconds: {', '.join(continued)}.")
    return "\n".join(f"{line}  " for line in lines[:-1]) + "\n" + lines[-1] if len(lines) > 1 else lines[0]
