"""Compares values of a YAML with the type annotations of the class or function that takes them."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

_NAMES = {float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "null"}


def hints_of(target: Any) -> dict[str, Any]:
    """The annotation of each argument of a class or function; empty if an annotation cannot be resolved."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError):
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a YAML fits an annotation. A list may stand for a tuple, a whole number for a float.

    Args:
        value: The value, as read from the YAML.
        hint: The annotation.
    """
    if any(isinstance(part, bool) for part in _parts(value)) and not _mentions(hint, (bool, Any, object)):
        return False  # Python counts a bool as an int
    return any(_has_type(form, hint) for form in (value, _shallow_tuple(value), _tuples(value)))


def is_text(hint: Any, path: Sequence[str] = ()) -> bool:
    """Whether a key takes text, so that a number, a date or a boolean there is kept as it was written.

    Args:
        hint: The annotation of an argument. Classes of a library beside ``str`` do not count: a YAML cannot write them.
        path: Keys and list indices that lead from the argument down to the value; empty for the argument itself.
    """
    options = _options(hint)
    if not path:
        return str in options and not {int, float, bool} & set(options)
    inner = [typing.get_args(option)[-1:] for option in options if _is_container(option)]
    return any(is_text(found[0], path[1:]) for found in inner if found)


def describe(hint: Any) -> str:
    """An annotation in words, such as ``a number or null``."""
    words = [_describe_one(option) for option in _options(hint)]
    return " or ".join(dict.fromkeys(word for word in words if word)) or "something else"


def _describe_one(hint: Any) -> str:
    if hint in _NAMES:
        return _NAMES[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)} such as {[0.5] * len(arguments)}" if arguments else "a list"
    if _is_container(hint):
        return "keys and values" if _is_mapping(origin) else f"a list of {describe(arguments[0]).removeprefix('a ')}s"
    return ""  # a class of a library: a YAML cannot write it


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _is_container(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, (Mapping, Sequence)) and bool(typing.get_args(hint))


def _is_mapping(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _mentions(hint: Any, wanted: tuple[Any, ...]) -> bool:
    return hint in wanted or any(_mentions(part, wanted) for part in typing.get_args(hint))


def _parts(value: Any) -> Iterator[Any]:
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for child in children:
        yield from _parts(child)
    if not isinstance(value, Mapping | list | tuple):
        yield value


def _has_type(value: Any, hint: Any) -> bool:
    try:
        check_type(value, hint, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError:
        return False
    return True


def _shallow_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
