"""Packages that only studies need: the extra ``studies``."""

from __future__ import annotations

from importlib.util import find_spec

from plm_composer.errors import UserError

_PACKAGES = ("matplotlib", "scipy", "tabulate")


def require_extras() -> None:
    """Checks, before hours of training, that the packages for the table and the plot are installed.

    Raises:
        UserError: A package is missing.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"studies need {', '.join(missing)}: make install-studies, or pip install 'plm-composer[studies]'"
        )
