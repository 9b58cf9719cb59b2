"""Building algorithms, optimizers, schedulers, callbacks and loggers from their names in a YAML."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from plm_composer.config.argument_types import describe, fits, hints_of
from plm_composer.errors import UserError, first_line


def suggestion(name: str, known: Iterable[str]) -> str:
    """Says which name is nearest, and which ones there are.

    Args:
        name: What was given.
        known: The right ones.
    """
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else f"choose from {', '.join(known) or '(none)'}"


def look_up(key: str, name: Any, registry: Mapping[str, Any], refused: Mapping[str, str] | None = None) -> Any:
    """Finds a component's class by its name.

    Args:
        key: Where the name stands in the YAML, for messages.
        name: The name.
        registry: Name to class.
        refused: Names that are known not to work, with the reason.

    Raises:
        UserError: The name is unknown, or refused.
    """
    if not isinstance(name, str):
        raise UserError(f"{key}: {name!r} is no name; choose from {', '.join(registry)}")
    if name in (refused or {}):
        raise UserError(f"{key}: {name!r} is refused: {(refused or {})[name]}")
    if name not in registry:
        raise UserError(f"{key}: there is no {name!r}; {suggestion(str(name), registry)}")
    return registry[name]


def check_arguments(
    key: str, target: Any, arguments: Mapping[str, Any], given: Iterable[str] = (), only_named: bool = False
) -> None:
    """Checks arguments against a class's signature.

    Args:
        key: Where the arguments stand in the YAML, for messages.
        target: The class.
        arguments: Name to value, as in the YAML.
        given: Arguments that our code adds, such as an optimizer's parameters.
        only_named: Refuse what the signature does not name, where the class would take it and do nothing with it.

    Raises:
        UserError: An argument is unknown or of another type, or a required one is missing.
    """
    parameters = dict(inspect.signature(target).parameters)
    given = set(given)
    named = {
        name
        for name, parameter in parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and name not in given
    }
    accepts_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()) and bool(named)
    accepts_any = accepts_any and not only_named
    for name in arguments:
        if name not in named and not accepts_any:
            raise UserError(f"{key}.{name}: there is no such argument; {suggestion(name, named)}")
    hints = hints_of(target)
    for name, value in arguments.items():
        if name in hints and not fits(value, hints[name]):
            raise UserError(f"{key}.{name} is {value!r}; it must be {describe(hints[name])}")
    for name in named:
        if parameters[name].default is inspect.Parameter.empty and name not in arguments:
            raise UserError(f"{key}.{name}: the argument is missing")


def build(key: str, target: Any, arguments: Mapping[str, Any], **given: Any) -> Any:
    """Checks the arguments and makes the component.

    Args:
        key: Where the component stands in the YAML, for messages.
        target: The class.
        arguments: From the YAML.
        **given: Arguments that our code adds.

    Raises:
        UserError: The arguments do not fit, or the class refuses them.
    """
    check_arguments(key, target, arguments, given)
    try:
        return target(**given, **arguments)
    except UserError:
        raise
    except Exception as error:
        # Whatever a library's constructor finds wrong with a user's arguments is the user's to mend.
        raise UserError(f"{key}: {first_line(error)}") from error
