"""A study's page: what was compared, on what, and the table of what it came to, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tabulate import tabulate

from plm_composer.studies.comparison import Difference, VariantSummary
from plm_composer.studies.results import Failure, RunResult
from plm_composer.studies.schema import Study

_NONE = "-"
_FEW_PAIRS = 2
"""Pairs from which an interval is shown, and says next to nothing: Student's t has one degree of freedom."""
_FEW = "†"


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
        summaries: One a variant.
        results: Of the runs that are done.
        failures: Of those that failed.
        target: The loss of the summaries' ``target``.
    """
    parts = [f"# {study.path.stem}", study.purpose, _protocol(study, results)]
    parts += [make_table(summaries, study.reference, target), _notes(summaries, study.reference, target)]
    parts += [_failed(failures), _overrides(study), _origin(study, results, target)]
    return "\n\n".join(part for part in parts if part) + "\n"


def make_table(summaries: Sequence[VariantSummary], reference: str, target: float | None = None) -> str:
    """Makes the table of variants.

    Args:
        summaries: One a variant.
        reference: The variant that the others are compared with.
        target: Adds the columns of ``TimeToLoss`` where it is given.
    """
    columns: dict[str, Callable[[VariantSummary], str]] = {
        "variant": lambda row: row.variant,
        "seeds": _seeds,
        "loss, nats": lambda row: _number(getattr(row.loss, "mean", None), ".4f"),
        "sd": lambda row: _number(getattr(row.loss, "sd", None), ".4f"),
        "min to max": lambda row: f"{row.loss.low:.4f} to {row.loss.high:.4f}" if row.loss else _NONE,
        f"minus {reference}": lambda row: _number(getattr(row.difference, "mean", None), "+.4f"),
        "95 % interval": lambda row: _interval(row.difference),
        "perplexity": lambda row: _number(row.perplexity, ".2f"),
        "accuracy": lambda row: _number(row.accuracy, ".1%"),
        "tokens": lambda row: _number(row.tokens, ",.0f"),
        "tokens/s": lambda row: _number(row.tokens_per_second, ",.0f"),
        "seconds": lambda row: _seconds(row.seconds),
    }
    if target is not None:
        columns |= {
            f"seconds to {target:g}": lambda row: _reached(row, _seconds(getattr(row.target, "seconds", None))),
            f"tokens to {target:g}": lambda row: _reached(row, _number(getattr(row.target, "tokens", None), ",.0f")),
            f"times as fast as {reference}": lambda row: _number(getattr(row.target, "speedup", None), ".2f"),
        }
    cells = [[show(row) for show in columns.values()] for row in summaries]
    align = ["left", *["right"] * (len(columns) - 1)]
    return tabulate(cells, headers=list(columns), tablefmt="github", colalign=align, disable_numparse=True)


def _seeds(row: VariantSummary) -> str:
    return f"{row.done}/{row.planned}" + (f", {row.failed} failed" if row.failed else "")


def _interval(difference: Difference | None) -> str:
    if difference is None or difference.low is None:
        return _NONE
    mark = _FEW if difference.pairs <= _FEW_PAIRS else ""
    return f"{difference.low:+.4f} to {difference.high:+.4f}{mark}"


def _reached(row: VariantSummary, shown: str) -> str:
    some = row.target is not None and 0 < row.target.reached < row.target.runs
    return f"{shown} ({row.target.reached}/{row.target.runs})" if some and row.target else shown


def _seconds(value: float | None) -> str:
    return _number(value, ",.0f" if value is None or value >= 10 else ".1f")


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else format(value, form)


def _protocol(study: Study, results: Sequence[RunResult]) -> str:
    if not results:
        return "No run is done."
    if study.evaluation is None:
        scored = "Losses are the last validation of each run."
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
        f"`minus {reference}`: mean over seeds of the difference to the same seed of {reference}, below 0 better, and "
        "Student's paired interval. tokens/s and seconds are medians: of training alone, and of the whole process."
    ]
    if any(row.difference is not None and row.difference.pairs == _FEW_PAIRS for row in summaries):
        lines.append(f"{_FEW} of two pairs: says next to nothing.")
    if target is not None:
        lines.append(
            f"`seconds to {target:g}`, tokens: of training until a validation of the run first is at {target:g} nats, "
            "interpolated; the median."
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
        lines.append("Runs of different machines: their times do not compare.")
    continued = [f"{result.variant} (seed {result.seed})" for result in results if result.starts > 1]
    if continued:
        lines.append(f"Continued after an interruption, which adds to their seconds: {', '.join(continued)}.")
    return "\n".join(f"{line}  " for line in lines[:-1]) + "\n" + lines[-1] if len(lines) > 1 else lines[0]
