"""Registries of the names that sections of a YAML may use, and checks of the arguments that the YAML gives to them."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from plm_composer.config.argument_types import describe, fits, hints_of
from plm_composer.errors import UserError, first_line


def suggestion(name: str, known: Iterable[str]) -> str:
    """Suggests the known name that is nearest to an unknown one, or lists all known names if none is near.

    Args:
        name: The unknown name.
        known: The known names.
    """
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else f"choose from {', '.join(known) or '(none)'}"


class Registry(dict[str, Any]):
    """The names that a section of a YAML may use, each with its entry: a class, or a description of one.

    Args:
        section: Name of the section, such as ``callbacks``.
        entries: Name to entry.
        base: Base class of the classes that users may add, or several.
        entry_of: Function that makes the entry of a class that a user adds; None if the class itself is the entry.
    """

    of: ClassVar[dict[str, Registry]] = {}
    """Section to registry."""

    def __init__(
        self,
        section: str,
        entries: Mapping[str, Any],
        base: type | tuple[type, ...],
        entry_of: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(entries)
        self.section, self.base, self.entry_of = section, base, entry_of
        Registry.of[section] = self

    def add(self, name: str, part: Any) -> None:
        """Adds a part of a user's.

        Args:
            name: The part's name in YAMLs.
            part: A subclass of ``base``, or an instance of it.

        Raises:
            UserError: The name is taken, or the part is neither.
        """
        if name in self:
            raise UserError(f"{self.section}.{name}: this name is taken; choose another")
        if not (isinstance(part, type) and issubclass(part, self.base)) and not isinstance(part, self.base):
            bases = self.base if isinstance(self.base, tuple) else (self.base,)
            wanted = " or ".join(base.__name__ for base in bases)
            raise UserError(f"{self.section}.{name}: {getattr(part, '__name__', part)!r} is no {wanted}")
        self[name] = part if self.entry_of is None else self.entry_of(part)


@dataclasses.dataclass(frozen=True)
class Component:
    """A class that a YAML names, with arguments that fit its signature. ``make`` creates the object.

    Attributes:
        key: The component's key in the YAML, such as ``callbacks.lr_monitor``.
        target: The class.
        arguments: Name to value, as in the YAML.
    """

    key: str
    target: Any
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name in the YAML."""
        return self.key.rpartition(".")[2]

    def make(self, **given: Any) -> Any:
        """Makes the object.

        Args:
            **given: Further arguments, used where the YAML does not set them.

        Raises:
            UserError: The class refuses its arguments.
        """
        return build(self.key, self.target, {**given, **self.arguments})


def parse_section(
    section: str,
    entries: Mapping[str, Mapping[str, Any] | None],
    registry: Mapping[str, Any],
    refused: Mapping[str, str] | None = None,
) -> list[Component]:
    """Checks the names and arguments of a section such as ``callbacks``.

    Args:
        section: The section's key.
        entries: Name to arguments; None in place of arguments switches a component off.
        registry: Name to class.
        refused: Name to reason, for components that are known not to work.

    Returns:
        The components that are switched on, in the section's order.

    Raises:
        UserError: A name or an argument is unknown, or an argument has the wrong type.
    """
    components = []
    for name, arguments in entries.items():
        target = look_up(f"{section}.{name}", name, registry, refused)
        if arguments is not None:
            check_arguments(f"{section}.{name}", target, arguments)
            components.append(Component(f"{section}.{name}", target, arguments))
    return components


def split_name(section: str, entries: Mapping[str, Any], registry: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Splits a section such as ``optimizer`` into the registry's entry for its ``name``, and its arguments.

    Args:
        section: The section's key.
        entries: The section's ``name`` and arguments.
        registry: Name to entry.

    Raises:
        UserError: The name is missing or unknown.
    """
    arguments = dict(entries)
    name = arguments.pop("name", None)
    if name is None:
        raise UserError(f"{section}.name is missing; choose from {', '.join(registry)}")
    return look_up(f"{section}.name", name, registry), arguments


def look_up(key: str, name: Any, registry: Mapping[str, Any], refused: Mapping[str, str] | None = None) -> Any:
    """Finds the entry of a name in a registry.

    Args:
        key: The key in the YAML that holds the name, for messages.
        name: The name, as in the YAML.
        registry: Name to entry.
        refused: Name to reason, for names that are known not to work.

    Raises:
        UserError: The name is not text, is unknown, or is refused.
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
        key: The key in the YAML that holds the arguments, for messages.
        target: The class.
        arguments: Name to value, as in the YAML.
        given: Names of arguments that our code adds, such as an optimizer's ``params``.
        only_named: Whether to refuse arguments that the class takes as ``**kwargs``, for a class that ignores those.

    Raises:
        UserError: An argument is unknown or has the wrong type, or a required one is missing.
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
        key: The component's key in the YAML, for messages.
        target: The class.
        arguments: Name to value, as in the YAML.
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
        # A library's constructor may raise any exception when it refuses a user's arguments.
        raise UserError(f"{key}: {first_line(error)}") from error
