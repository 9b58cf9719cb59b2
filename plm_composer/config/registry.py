"""The names that a section of a YAML may use: from a name and arguments to a checked component."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

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


class Registry(dict[str, Any]):
    """What a section of a YAML may name: a class by each name, or what a section needs to know of a class.

    Args:
        section: The section, such as ``callbacks``.
        entries: Name to entry.
        base: Base class of the classes that users may add.
        entry_of: Makes the entry of a class that a user adds; None where the class itself is the entry.
    """

    of: ClassVar[dict[str, Registry]] = {}
    """The registry of each section."""

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
        """Adds a user's class.

        Args:
            name: Its name in YAMLs.
            part: A subclass of ``base``, or an instance where ``base`` has instances for entries.

        Raises:
            UserError: The name is taken, or the class is of another kind.
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
    """A class that a YAML names, with arguments that fit its signature; made when it is needed.

    Attributes:
        key: Where it stands in the YAML, such as ``callbacks.lr_monitor``.
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
            **given: Arguments that the YAML does not set; its own win.

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
        section: Its key.
        entries: Name to arguments; None switches one off.
        registry: Name to class.
        refused: Names that are known not to work, with the reason.

    Returns:
        What is switched on, in the section's order.

    Raises:
        UserError: A name or an argument is unknown, or an argument of another type.
    """
    components = []
    for name, arguments in entries.items():
        target = look_up(f"{section}.{name}", name, registry, refused)
        if arguments is not None:
            check_arguments(f"{section}.{name}", target, arguments)
            components.append(Component(f"{section}.{name}", target, arguments))
    return components


def split_name(section: str, entries: Mapping[str, Any], registry: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Splits a section such as ``optimizer`` into what its ``name`` names and its arguments.

    Args:
        section: Its key.
        entries: ``name`` and arguments.
        registry: Name to entry.

    Raises:
        UserError: There is no name, or an unknown one.
    """
    arguments = dict(entries)
    name = arguments.pop("name", None)
    if name is None:
        raise UserError(f"{section}.name is missing; choose from {', '.join(registry)}")
    return look_up(f"{section}.name", name, registry), arguments


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
        # Whatever a library's constructor finds wrong with a user's arguments is the user's to put right.
        raise UserError(f"{key}: {first_line(error)}") from error
