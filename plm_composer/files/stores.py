"""Turns the errors of object stores' clients into one-line errors."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from plm_composer.errors import UserError


@contextmanager
def store_errors(remote: str) -> Iterator[None]:
    """Turns any exception into a ``UserError``, since each store's client has its own exceptions.

    Args:
        remote: Address in the store, for the message.

    Raises:
        UserError: The body raised an exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise UserError(
                f"{remote}: the disk here is full; free some space, or set TMPDIR to a larger one"
            ) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{remote}: {reason}; check the address, the credentials and the network") from error
