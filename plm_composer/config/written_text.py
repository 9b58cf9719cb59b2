"""Keeps a value as it was written if its key takes text but YAML reads a number, a date or a boolean.

YAML reads ``run_name: 61e7890`` as infinity, ``2024_11_03`` as a whole number and ``off`` as false.
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
"""Keys and list indices that lead from the top of a config to a value."""
Written = dict[Path, str]
"""The path of each unquoted value, and the value as it was written."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The loader that OmegaConf uses: the two classes do not accept the same files."""
_WHOLE_NUMBER = re.compile(r"[+-]?[\d_]+")


def written_in(text: str) -> Written:
    """Finds every value of a YAML that is written without quotes.

    Args:
        text: The text of a valid YAML.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return dict(_plain_scalars(node, loader)) if node is not None else {}
    finally:
        loader.dispose()


def written_on_command_line(arguments: Sequence[str]) -> Written:
    """As ``written_in``, for ``key=value`` overrides; if a key is set twice, the last value counts."""
    found: Written = {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        path = tuple(part for part in re.split(r"[.\[\]]+", key) if part)
        _forget(found, path)
        found |= {(*path, *inner): text for inner, text in written_in(value).items()}
    return found


def merge_written(before: Written, layer: DictConfig, written: Written) -> Written:
    """Merges the written values of a layer over those of the layers before it.

    Args:
        before: The written values of the layers before it.
        layer: The layer's keys and values.
        written: The written values of the layer.
    """
    after = dict(before)
    for path, value in _leaves(layer):
        _forget(after, path)
        if not isinstance(value, str) and value is not None and path in written:
            after[path] = written[path]
    return after


def restore_text(merged: DictConfig, written: Written, hint_at: Callable[[Path], tuple[Any, Path]]) -> None:
    """Replaces values of a config by what was written, where a key takes text.

    Args:
        merged: The config, changed in place.
        written: The written values of the config.
        hint_at: Function: path -> the annotation of the part it leads to, and the rest of the path below that part.
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
        # Such a key takes a count or a time with a unit. YAML would read 12:30:00 as the number 45,000.
        number_or_text = {int, str} <= set(typing.get_args(hint)) and not rest
        if is_text(hint, rest) or (number_or_text and not _WHOLE_NUMBER.fullmatch(text)):
            node[int(last) if isinstance(node, ListConfig) else last] = text


def schema_hint(schema: type, path: Path) -> tuple[Any, Path]:
    """The annotation of a field of nested dataclasses, and the rest of the path below that field."""
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
    """The values of a layer. A list itself comes before its values, as None, because it replaces an earlier list."""
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
