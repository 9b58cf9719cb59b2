"""Times of algorithms: checked before a run starts, and asked anew in each batch."""

from __future__ import annotations

from composer.core import State, Time
from composer.optim.scheduler import _convert_time

from plm_composer.errors import UserError

_UNITS = "dur (share of max_duration), ep (epochs), ba (batches), sp (proteins) or tok (tokens)"


def check_time(key: str, value: object) -> None:
    """Checks a time string from a YAML.

    Args:
        key: Where it stands, for messages.
        value: What stands there.

    Raises:
        UserError: It is no time, not above 0, in seconds, or beyond the end of every run.
    """
    try:
        time = Time.from_timestring(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{key} is {value!r}; write a number and a unit: {_UNITS}") from error
    unit = str(time.unit.value)
    if unit not in ("dur", "ep", "ba", "sp", "tok"):
        raise UserError(f"{key} is {value!r}; a resumed run would not find its place by the clock, use {_UNITS}")
    if time.value <= 0 or (unit == "dur" and time.value > 1):
        raise UserError(f"{key} is {value!r}; it must be above 0{' and at most 1dur' if unit == 'dur' else ''}")


def progress(state: State, end: str) -> float:
    """Share of the time until ``end`` that has passed, from 0 to 1.

    A share of the run (``0.3dur``) is taken of the ``max_duration`` of the moment, which may be planned anew while a
    run lasts.

    Args:
        state: The Trainer's.
        end: A time string.
    """
    last = _convert_time(end, state)
    now: int = state.timestamp.get(last.unit).value
    return min(1.0, float(now / last.value)) if last.value > 0 else 1.0
