"""Reads and writes durations such as ``1h30min``."""

from __future__ import annotations

from plm_composer.errors import UserError


def parse_duration(key: str, value: str) -> float:
    """Reads a duration such as ``24h``, ``90min``, ``1h30min`` or ``300s``.

    Args:
        key: Key of the value, for messages.
        value: A duration with a unit, as ``pandas.Timedelta`` reads it.

    Returns:
        Seconds, above 0.

    Raises:
        UserError: The value is not a duration above 0, or has no unit.
    """
    import pandas  # Imported here: it takes half a second, and most runs have no budget.

    try:
        if value.strip().replace(".", "", 1).isdigit():  # pandas would read nanoseconds
            raise ValueError
        seconds = float(pandas.Timedelta(value).total_seconds())
    except (ValueError, OverflowError):
        raise UserError(f"{key} is {value!r}; write a duration such as 24h, 90min, 1h30min or 300s") from None
    if not seconds > 0:  # NaT included
        raise UserError(f"{key} is {value!r}; it must be above 0 seconds")
    return seconds


def describe_duration(seconds: float) -> str:
    """Formats seconds, such as ``1 h 02 min 03.4 s``.

    Args:
        seconds: Duration in seconds, at least 0.
    """
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours} h {minutes:02d} min {rest:04.1f} s"
    return f"{minutes} min {rest:04.1f} s" if minutes else f"{rest:.1f} s"
