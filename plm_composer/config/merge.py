"""Merges a YAML, recipes and overrides into one validated config."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, KeyValidationError, OmegaConfBaseException

from plm_composer.config.bundled import BUNDLED_YAMLS
from plm_composer.config.credentials import refuse_credentials, texts
from plm_composer.config.own_code import find_code
from plm_composer.config.recipe_search import find_recipe, recipe_folders
from plm_composer.config.registry import suggestion
from plm_composer.config.schema import TrainConfig
from plm_composer.config.written_text import (
    Written,
    merge_written,
    restore_text,
    schema_hint,
    written_in,
    written_on_command_line,
)
from plm_composer.errors import UserError, first_line

REPLACED_BY_NAME = ("model", "optimizer", "scheduler")
"""Sections that a layer replaces as a whole if it sets another ``name`` (or ``pretrained`` model) than the layers below
it, because the arguments of one class rarely fit another."""
SIZES_OF_A_MODEL = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
"""All that another ``model.name`` replaces: fields of a variant, such as a recipe's ``qk_norm``, fit every size."""

DATA_SOURCES = ("fasta", "val_fasta", "local", "remote", "streams")
"""Keys of ``data`` that say where proteins come from. A layer that sets one resets those that it does not set."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """A YAML, a recipe or the command line: one layer of a config.

    Args:
        source: The path of the file, or ``command line``; for messages.
        content: The layer's keys and values.
        written: The layer's unquoted values, as they were written.
        recipe: The name or path by which a YAML or the command line names this recipe; None for other layers.
    """

    source: str
    content: DictConfig
    written: Written
    recipe: str | None = None

    @property
    def label(self) -> str:
        """What a reader calls it: ``recipe NAME``, ``command line``, or the YAML, a bundled one without its folder."""
        if self.recipe is not None:
            return f"recipe {self.recipe}"
        bundled = Path(self.source).is_relative_to(BUNDLED_YAMLS)
        return str(Path("yamls") / Path(self.source).relative_to(BUNDLED_YAMLS)) if bundled else self.source


HintOf = Callable[[DictConfig, tuple[str, ...]], tuple[Any, tuple[str, ...]]]


def merge_config(path: str | Path, arguments: Sequence[str], hint_of: HintOf) -> TrainConfig:
    """Merges a run's layers, and checks every key and type.

    Args:
        path: The run's YAML.
        arguments: Overrides, as for ``read_layers``.
        hint_of: Function that finds the annotation of a named part's argument. It may run the config's ``code_paths``.

    Returns:
        The config, with interpolations resolved and ``run_name`` set.

    Raises:
        UserError: A file cannot be read, a key is unknown, a value has the wrong type or is a secret.
    """
    path = Path(path)
    layers = read_layers(path, arguments)
    merged, written = OmegaConf.structured(TrainConfig), Written()
    for layer in layers:
        merged = _merge(merged, layer.content, layer.source)
        written = merge_written(written, layer.content, layer.written)
    with _explaining(str(path)):
        if merged.code_paths:
            merged.code_paths = find_code(merged.code_paths, path.parent)
        restore_text(merged, written, functools.partial(_hint_at, merged, hint_of))
    names = [layer.recipe for layer in layers if layer.recipe is not None]
    if merged.run_name is None:
        merged.run_name = "-".join([path.stem, *(Path(name).stem for name in names)])
    merged.recipe = ",".join(names) or None
    return _resolve(merged, str(path))


def read_layers(path: Path, arguments: Sequence[str] = ()) -> list[Layer]:
    """Reads the layers of a run's config, in order: the values of a layer win over those of the layers before it.

    First come the recipes that the YAML names, then the YAML, then the recipes that the command line names, and last
    the other overrides.

    Args:
        path: The run's YAML. Recipes are looked for in ``recipes/`` beside it, then in ``recipe_folders``.
        arguments: ``key=value`` overrides, with dots for nesting; ``recipe=a,b`` names recipes.

    Raises:
        UserError: A file cannot be read, or an argument is not an override.
    """
    base = _read_yaml(path)
    overrides = _parse_overrides(arguments)
    with _explaining(overrides.source):
        if overrides.content.get("budget") is not None and "max_duration" in overrides.content:
            raise UserError("command line: budget takes the place of max_duration; give one of them")
    folders = recipe_folders(path)
    return [*_read_recipes(base, folders), base, *_read_recipes(overrides, folders), overrides]


def explain_key(path: Path, arguments: Sequence[str], key: str) -> list[tuple[str, Any]]:
    """Lists the layers that set or change a key.

    Args:
        path: The run's YAML.
        arguments: Overrides, as for ``read_layers``.
        key: The key of a value, such as ``optimizer.lr``, or of a section.

    Returns:
        The source and the value of each of these layers; the last value is the one that holds. If the key has a
        default, it comes first, with the source ``default``.

    Raises:
        UserError: As for ``merge_config``; or nothing sets the key.
    """
    merged = OmegaConf.structured(TrainConfig)
    found: list[tuple[str, Any]] = []
    value: Any = _select(merged, key)
    if value is not _NOTHING:
        found.append(("default", value))
    for layer in read_layers(path, arguments):
        merged = _merge(merged, layer.content, layer.source)
        before, value = value, _select(merged, key)
        # A layer that names another optimizer, for example, removes the arguments of the earlier one.
        if value != before or _select(layer.content, key) is not _NOTHING:
            found.append((layer.source, None if value is _NOTHING else value))
    if not found:
        outer, _, name = key.rpartition(".")
        section = _select(merged, outer) if outer else OmegaConf.to_container(merged)
        known = map(str, section) if isinstance(section, dict) else ()
        raise UserError(f"--explain {key}: nothing sets it; {suggestion(name, known)}")
    return found


def find_sources(path: Path, arguments: Sequence[str]) -> dict[str, str]:
    """Says of every value of a config which layer set it last: what ``explain_key`` ends with, for all keys.

    Args:
        path: The run's YAML.
        arguments: As for ``read_layers``.

    Returns:
        ``default``, ``yamls/NAME.yaml``, ``recipe NAME`` or ``command line``, by key such as ``optimizer.lr``. A list
        is one value, and so is a section without keys.

    Raises:
        UserError: As for ``merge_config``.
    """
    merged = OmegaConf.structured(TrainConfig)
    values = flatten(_plain(merged))
    sources = dict.fromkeys(values, "default")
    for layer in read_layers(path, arguments):
        merged = _merge(merged, layer.content, layer.source)
        before, values, given = values, flatten(_plain(merged)), flatten(_plain(layer.content))
        sources = {
            key: layer.label if key in given or key not in before or before[key] != value else sources[key]
            for key, value in values.items()
        }
    return sources


def differing_keys(one: TrainConfig, other: TrainConfig) -> list[str]:
    """Keys, such as ``optimizer.lr``, whose values two configs do not share, of the second one."""
    before, after = (flatten(dataclasses.asdict(config)) for config in (one, other))
    return [key for key, value in after.items() if key not in before or before[key] != value]


def flatten(content: Mapping[str, Any], outer: str = "") -> dict[str, Any]:
    """The values of nested sections by their dotted keys; a list is one value, and so is an empty section.

    Args:
        content: A config as plain values.
        outer: The key of the section that it is, ending in a dot.
    """
    values: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            values |= flatten(value, f"{outer}{key}.")
        else:
            values[f"{outer}{key}"] = value
    return values


_NOTHING = object()


def _select(config: DictConfig, key: str) -> Any:
    """The value of a key, with interpolations unresolved; ``_NOTHING`` if the key is absent."""
    node: Any = OmegaConf.to_container(config)
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return _NOTHING
        node = node[part]
    return node


def parse_config(content: Mapping[str, Any], source: str) -> TrainConfig:
    """Checks a resolved config, such as the one in a checkpoint.

    Args:
        content: Nested keys and values.
        source: The file that the config comes from, for messages.

    Raises:
        UserError: A key is unknown, or a value has the wrong type or contains an interpolation.
    """
    for key, text in texts(content):
        if "${" in text:  # OmegaConf would resolve it, with this machine's environment.
            raise UserError(f"{source}: {key} is {text!r}, and the config of a run that has started has no references")
    return _resolve(_merge(OmegaConf.structured(TrainConfig), OmegaConf.create(dict(content)), source), source)


def read_schema(path: Path, schema: type) -> dict[str, Any]:
    """Reads a YAML that has a schema of its own, such as a study, and checks every key and type.

    Args:
        path: The file.
        schema: A dataclass that OmegaConf accepts. The default of its required keys is ``omegaconf.MISSING``.

    Returns:
        Key to plain value, for all keys of the schema; interpolations are not resolved.

    Raises:
        UserError: The file cannot be read, a key is unknown or missing, or a value has the wrong type.
    """
    layer = _read_yaml(path)
    with _explaining(str(path)):
        merged = OmegaConf.merge(OmegaConf.structured(schema), layer.content)
        assert isinstance(merged, DictConfig)
        written = merge_written({}, layer.content, layer.written)
        restore_text(merged, written, functools.partial(schema_hint, schema))
    plain = _plain(merged)
    _refuse_zero_bytes(plain, str(path))
    for key, text in texts(plain):
        if text == MISSING:
            raise UserError(f"{path}: {key}: the key is missing")
    return plain


def to_yaml(config: TrainConfig) -> str:
    """Writes a config as YAML text, as ``plm config`` prints it and a run's ``config.yaml`` holds it."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def read_resolved(path: Path) -> dict[str, Any]:
    """Reads the ``config.yaml`` of a run as a plain dict.

    Raises:
        UserError: The file cannot be read.
    """
    return _plain(_read_yaml(path).content)


def _resolve(merged: DictConfig, source: str) -> TrainConfig:
    try:
        refuse_credentials(_plain(merged), os.environ, source)
        OmegaConf.resolve(merged)
        refuse_credentials(_plain(merged), os.environ, source)
        _refuse_zero_bytes(_plain(merged), source)
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(_explain(error, source)) from error
    assert isinstance(config, TrainConfig)
    return config


def _refuse_zero_bytes(content: Mapping[str, Any], source: str) -> None:
    """Refuses texts with a zero byte, on which every function that opens a file fails in its own way."""
    for key, text in texts(content):
        if "\0" in text:
            raise UserError(f"{source}: {key} is {text!r}; leave out the zero byte")


def _plain(merged: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(merged)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _read_recipes(layer: Layer, folders: Sequence[Path]) -> list[Layer]:
    """Reads the recipes that a layer names, in their order."""
    if OmegaConf.is_interpolation(layer.content, "recipe"):
        raise UserError(f"{layer.source}: recipe: names or paths are needed, and no reference, joined by commas")
    recipes = layer.content.get("recipe")
    if recipes is None:
        return []
    if isinstance(recipes, DictConfig | ListConfig):
        raise UserError(f"recipe is {recipes!r}; give names or paths joined by commas")
    text = recipes if isinstance(recipes, str) else layer.written.get(("recipe",), str(recipes))
    names = [name.strip() for name in text.split(",") if name.strip()]
    return [dataclasses.replace(_read_yaml(find_recipe(name, folders)), recipe=name) for name in names]


def _hint_at(merged: DictConfig, hint_of: HintOf, path: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """The annotation of a key, from the schema or from the part that a section names, and the path below it."""
    hint, rest = schema_hint(TrainConfig, path)
    return (hint, rest) if hint is None or not rest else hint_of(merged, path)


def _read_yaml(path: Path) -> Layer:
    try:
        text = path.read_text(encoding="utf-8")
        loaded = OmegaConf.load(io.StringIO(text))
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{where}: not valid YAML: {problem}") from error
    except OmegaConfBaseException as error:
        raise UserError(_explain(error, str(path))) from error
    if not isinstance(loaded, DictConfig):
        raise UserError(f"{path}: must hold keys and values, not a list")
    return Layer(str(path), _spell_out(loaded), written_in(text))


def _parse_overrides(arguments: Sequence[str]) -> Layer:
    for argument in arguments:
        if "=" not in argument or not argument.split("=", 1)[0].strip(". "):
            raise UserError(f"command line: {argument!r} is not an override; write key=value")
    # As in a YAML, where the section has the name alone.
    arguments = [re.sub(r"^model=(?!null$)(?=\w)", "model.name=", argument) for argument in arguments]
    try:
        content = OmegaConf.from_dotlist(list(arguments))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(f"command line: an override cannot be read: {first_line(error)}") from error
    return Layer("command line", content, written_on_command_line(arguments))


def _spell_out(content: DictConfig) -> DictConfig:
    """Turns ``model: NAME``, short for a section with the name alone, into that section."""
    if not OmegaConf.is_interpolation(content, "model") and isinstance(content.get("model"), str):
        content["model"] = {"name": content["model"]}
    return content


def _merge(merged: DictConfig, layer: DictConfig, source: str) -> DictConfig:
    with _explaining(source):
        _reset_what_is_replaced(merged, layer)
        return OmegaConf.merge(merged, layer)  # type: ignore[return-value]


@contextlib.contextmanager
def _explaining(source: str) -> Iterator[None]:
    """Turns OmegaConf's errors about a layer into a ``UserError``."""
    try:
        yield
    except OmegaConfBaseException as error:
        raise UserError(_explain(error, source)) from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: {first_line(error)}") from error


def _reset_what_is_replaced(merged: DictConfig, layer: DictConfig) -> None:
    for section in REPLACED_BY_NAME:
        given = layer.get(section)
        if not isinstance(given, DictConfig):
            continue
        before, now = _identity(merged[section]), _identity(given)
        if before is not None and now is not None and now != before:
            kept = section == "model" and before[0] == now[0] == "name"
            variant = {key: value for key, value in merged[section].items() if key not in SIZES_OF_A_MODEL}
            merged[section] = variant if kept else {}
    if "max_duration" in layer and "budget" not in layer:
        merged.budget = None
    given = layer.get("data")
    if isinstance(given, DictConfig) and any(key in given for key in DATA_SOURCES):
        for key in DATA_SOURCES:
            if not (key == "local" and "remote" in given and "local" not in given):
                merged.data[key] = None


def _identity(section: DictConfig) -> tuple[str, Any] | None:
    """The ``name`` or ``pretrained`` that a section sets; None if it sets only arguments."""
    key = "pretrained" if "pretrained" in section else "name"
    return None if section.get(key) is None else (key, section[key])


def _explain(error: OmegaConfBaseException, source: str) -> str:
    """Describes an error of OmegaConf in one line."""
    key = str(error.full_key or error.key or "")
    if not key:
        return f"{source}: {first_line(error)}"
    name = key.rsplit(".", 1)[-1]
    schema = error.object_type
    known = [field.name for field in dataclasses.fields(schema)] if dataclasses.is_dataclass(schema) else []
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and name not in known:
        return f"{source}: {key}: there is no such key; {suggestion(name, known)}"
    if isinstance(error, KeyValidationError):
        return f"{source}: {key}: YAML reads this name as a number, date or the like; write it in quotes"
    if "is not a ListConfig" in str(error):
        return f"{source}: {key}: must be a list; write it in brackets, such as [a, b]"
    return f"{source}: {key}: {first_line(error)}"
