"""Text as it was written: what YAML takes for a number, a date or a truth, where a key wants text.

``run_name: 61e7890`` is infinity to YAML, ``2024_11_03`` a whole number and ``off`` false.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from plm_composer.config.argument_types import hints_of, is_text

Path = tuple[str, ...]
"""Keys, and numbers in lists, from the outermost to a value."""
Written = dict[Path, str]
"""The values that are no text to YAML, as they were written."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""As OmegaConf has it: the two do not accept the same files."""
_WHOLE_NUMBER = re.compile(r"[+-]?[\d_]+")


def written_in(text: str) -> Written:
    """Finds every value of a YAML that stands there without quotes.

    Args:
        text: A YAML that can be read.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return dict(_plain_scalars(node, loader)) if node is not None else {}
    finally:
        loader.dispose()


def written_on_command_line(arguments: Sequence[str]) -> Written:
    """As ``written_in``, of ``key=value`` overrides, of which the last one counts."""
    found: Written = {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        path = tuple(part for part in re.split(r"[.\[\]]+", key) if part)
        _forget(found, path)
        found |= {(*path, *inner): text for inner, text in written_in(value).items()}
    return found


def merge_written(before: Written, layer: DictConfig, written: Written) -> Written:
    """What is known of the values after a layer was merged over others.

    Args:
        before: What was known.
        layer: The layer.
        written: Its own.
    """
    after = dict(before)
    for path, value in _leaves(layer):
        _forget(after, path)
        if not isinstance(value, str) and value is not None and path in written:
            after[path] = written[path]
    return after


def restore_text(merged: DictConfig, written: Written, hint_at: Callable[[Path], tuple[Any, Path]]) -> None:
    """Puts text as it was written where a key wants text.

    Args:
        merged: The config, changed in place.
        written: What is known of its values.
        hint_at: Says which annotation belongs to a path: that of its beginning, and what is left of the path.
    """
    for path, text in written.items():
        *parents, last = path
        node: Any = merged
        for key in parents:
            node = _child(node, key)
        present = _child(node, last)
        if present is None:
            continue  # reset by a later layer
        hint, rest = hint_at(path)
        if hint is None:
            continue
        # A time in epochs or a number with a unit; not the 45,000 seconds that YAML makes of 12:30:00.
        number_or_text = {int, str} <= set(typing.get_args(hint)) and not rest
        if is_text(hint, rest) or (number_or_text and not _WHOLE_NUMBER.fullmatch(text)):
            node[int(last) if isinstance(node, ListConfig) else last] = text


def schema_hint(schema: type, path: Path) -> tuple[Any, Path]:
    """The annotation of a field of nested dataclasses, and what is left of the path below it."""
    hint = hints_of(schema).get(path[0])
    if dataclasses.is_dataclass(hint) and len(path) > 1:
        assert isinstance(hint, type)
        return schema_hint(hint, path[1:])
    return hint, path[1:]


def _plain_scalars(node: yaml.Node, loader: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield from _plain_scalars(value, loader, (*path, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _plain_scalars(value, loader, (*path, str(index)))
    elif isinstance(node, yaml.ScalarNode) and not node.style:
        yield path, node.value


def _leaves(node: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The values of a layer; before those of a list comes the list, which replaces one that was there."""
    if isinstance(node, DictConfig | ListConfig):
        node = OmegaConf.to_container(node)
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, (*path, str(key)))
    elif isinstance(node, list):
        yield path, None
        for index, value in enumerate(node):
            yield from _leaves(value, (*path, str(index)))
    else:
        yield path, node


def _forget(written: Written, path: Path) -> None:
    for known in [known for known in written if known[: len(path)] == path]:
        del written[known]


def _child(node: Any, key: str) -> Any:
    if isinstance(node, ListConfig):
        return node[int(key)] if int(key) < len(node) else None
    if isinstance(node, DictConfig) and key in node and not OmegaConf.is_interpolation(node, key):
        return node[key]
    return None
