"""Users' own parts: Python files that a YAML names under ``code_paths``."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from plm_composer.errors import UserError, first_line

_PREFIX = "plm_composer_own_code_"


def find_code(paths: Iterable[str], folder: Path) -> list[str]:
    """Finds the files of ``code_paths``.

    Args:
        paths: Entries of ``code_paths``: absolute paths, or paths relative to the YAML's folder or the working folder.
        folder: The YAML's folder.

    Returns:
        Absolute paths.

    Raises:
        UserError: A file is in neither folder, or is not a Python file.
    """
    found = []
    for path in paths:
        place = next((place for place in (folder / path, Path(path)) if place.is_file()), None)
        if place is None:
            raise UserError(f"code_paths: {path}: there is no such file, in {folder} or in the working folder")
        if place.suffix != ".py":
            raise UserError(f"code_paths: {path}: is no Python file; its name must end in .py")
        found.append(str(place.resolve()))
    return found


def load_code(paths: Iterable[str]) -> None:
    """Runs Python files, which register their parts. A process runs each file once.

    Args:
        paths: From ``find_code``.

    Raises:
        UserError: A file does not exist, or raises an exception; the message names the line.
    """
    for path in paths:
        name = f"{_PREFIX}{path}"
        if name in sys.modules:
            continue
        specification = importlib.util.spec_from_file_location(name, path)
        if specification is None or specification.loader is None or not Path(path).is_file():
            raise UserError(f"code_paths: {path}: there is no such Python file")
        module = importlib.util.module_from_spec(specification)
        sys.modules[name] = module
        try:
            specification.loader.exec_module(module)
        except UserError as error:
            del sys.modules[name]
            raise UserError(f"code_paths: {path}: {error}") from error
        except Exception as error:
            del sys.modules[name]
            raise UserError(
                f"code_paths: {_place(error, path)}: {type(error).__name__}: {first_line(error)}"
            ) from error


def _place(error: Exception, path: str) -> str:
    """The user's file, with the line in it that failed."""
    if isinstance(error, SyntaxError):
        return f"{path}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f"{path}:{lines[-1]}" if lines else path
