"""Times of algorithms: checked before a run starts, and evaluated in each batch."""

from __future__ import annotations

from composer.core import State, Time
from composer.optim.scheduler import _convert_time

from plm_composer.errors import UserError

_UNITS = "dur (share of max_duration), ep (epochs), ba (batches), sp (proteins) or tok (tokens)"


def check_time(key: str, value: object) -> None:
    """Checks a time string from a YAML.

    Args:
        key: Key of the YAML, for messages.
        value: Value of the key.

    Raises:
        UserError: The value is not a time, not above 0, in seconds, or above ``1dur``.
    """
    try:
        time = Time.from_timestring(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{key} is {value!r}; write a number and a unit: {_UNITS}") from error
    unit = str(time.unit.value)
    if unit not in ("dur", "ep", "ba", "sp", "tok"):
        raise UserError(f"{key} is {value!r}; a resumed run cannot find its place by clock time; use {_UNITS}")
    if time.value <= 0 or (unit == "dur" and time.value > 1):
        raise UserError(f"{key} is {value!r}; it must be above 0{' and at most 1dur' if unit == 'dur' else ''}")


def progress(state: State, end: str) -> float:
    """Share of the time until ``end`` that has passed, from 0 to 1.

    A share of the run (``0.3dur``) is a share of the current ``max_duration``, which may change during a run.

    Args:
        state: State of the Trainer.
        end: A time string, such as ``0.3dur`` or ``500ba``.
    """
    last = _convert_time(end, state)
    now: int = state.timestamp.get(last.unit).value
    return min(1.0, float(now / last.value)) if last.value > 0 else 1.0
