"""Errors that a user can put right: one line on stderr and exit code 2, never a traceback."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import ClassVar, NoReturn

from plm_composer.terminal.plain_warnings import show_plain_warnings

EXIT_CODE = 2
_INTERRUPTED = 128 + signal.SIGINT
_SECONDS_FOR_RANK_ZERO = 5.0


class UserError(Exception):
    """Bad input. The message is one line: the file, key or line, what is wrong, what to do."""

    code: ClassVar[int] = EXIT_CODE
    """The exit code of a command that it ends."""
    ends_at_once: ClassVar[bool] = False
    """Whether the command then ends without the interpreter's own end, which may not come."""


def first_line(error: BaseException) -> str:
    """What a library's error says first, for a message of one line; its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Runs a command's ``main`` and exits: 0 (or what it returns), or 2 with one line on a ``UserError``.

    Args:
        main: The command. Returns an exit code or None for success.
    """
    show_plain_warnings()
    try:
        code = main()
        sys.stdout.flush()
    except UserError as error:
        _leave_it_to_rank_zero()
        print(f"error: {_one_line(error)}", file=sys.stderr)
        code = error.code
        if error.ends_at_once:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = _INTERRUPTED
    except SystemExit as error:
        if _is_interruption(error):
            print("interrupted", file=sys.stderr)
        raise
    except BrokenPipeError:
        # The reader of our stdout left (`plm ... | head`); keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        _leave_it_to_rank_zero()
        name = str(error.filename or "")
        print(f"error: no file can have a name as long as {name[:60]}...; check the paths given", file=sys.stderr)
        code = UserError.code
    sys.exit(code)


def _is_interruption(error: SystemExit) -> bool:
    """Whether an exit is what Typer, or Composer's signal handler, makes of Ctrl-C; a command's own says why itself."""
    asked = error.__context__ if hasattr(error.__context__, "exit_code") else None
    return error.code == _INTERRUPTED and (asked is None or isinstance(asked.__cause__, KeyboardInterrupt))


def _leave_it_to_rank_zero() -> None:
    """Waits, on other ranks, for the launcher to end this process because rank 0 has failed too.

    Otherwise the launcher would print the same error again for every rank, below lines of its own.
    """
    if int(os.environ.get("RANK", 0)) > 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_SECONDS_FOR_RANK_ZERO)


def _one_line(error: UserError) -> str:
    """Torch hands on what a loader's process raised with its traceback before it: the message stands last."""
    *traceback, message = str(error).strip().splitlines() or [type(error).__name__]
    return message.partition(": ")[2] if traceback else message
