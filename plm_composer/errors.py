"""Errors that a user can put right: one line on stderr and exit code 2, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

EXIT_CODE = 2


class UserError(Exception):
    """Bad input. The message is one line: the file, key or line, what is wrong, what to do."""


def first_line(error: BaseException) -> str:
    """What a library's error says first, for a message of one line; its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Runs a command's ``main`` and exits: 0 (or what it returns), or 2 with one line on a ``UserError``.

    Args:
        main: The command. Returns an exit code or None for success.
    """
    try:
        code = main()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        code = EXIT_CODE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # The reader of our stdout left (`plm ... | head`); keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code)


def _one_line(error: UserError) -> str:
    """Torch hands on what a loader's process raised with its traceback before it: the message stands last."""
    *traceback, message = str(error).strip().splitlines() or [type(error).__name__]
    return message.partition(": ")[2] if traceback else message
