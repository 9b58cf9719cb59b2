"""Python's warnings as one line each, without those of libraries that a user can do nothing about."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path
from typing import TextIO

_PACKAGE = str(Path(__file__).resolve().parent.parent)
_FOR_DEVELOPERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning, ResourceWarning)
_NOISE = re.compile(
    "|".join(
        (
            # Composer, of what has no state, and of what an earlier version of a run did not have.
            r"\w+ is not in the state_dict\. Its state will not be restored",
        )
    )
)
"""Beginnings of warnings that ask for nothing."""


def show_plain_warnings() -> None:
    """Shows warnings as one line on stderr from now on; ``-W`` and ``PYTHONWARNINGS`` bring Python's own form back."""
    if not sys.warnoptions:
        warnings.showwarning = _show


def describe_warning(message: Warning | str, category: type[Warning], filename: str) -> str | None:
    """Writes a warning as one line; None if it says nothing that a user could act upon.

    Args:
        message: The warning.
        category: Its class.
        filename: The file that warns.
    """
    text = " ".join(str(message).split())
    ours = str(Path(filename)).startswith(_PACKAGE)
    if not ours and (issubclass(category, _FOR_DEVELOPERS) or _NOISE.match(text)):
        return None
    return f"warning: {text}"


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Takes the place of ``warnings.showwarning``, whose arguments these are."""
    from plm_composer.terminal.progress import say

    described = describe_warning(message, category, filename)
    if described is not None:
        say(described)
