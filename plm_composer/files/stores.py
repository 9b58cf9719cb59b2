"""Errors of object stores, whose clients each have their own."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from plm_composer.errors import UserError


@contextmanager
def store_errors(remote: str) -> Iterator[None]:
    """Every store's client has its own exceptions; here they all mean that the user has to act.

    Args:
        remote: The address, for the message.

    Raises:
        UserError: Something was raised.
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
