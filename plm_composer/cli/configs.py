"""``plm config``, ``plm recipes`` and ``plm init``: YAMLs and recipes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from plm_composer.cli.options import AsJson, print_result


def init(
    folder: Annotated[Path, typer.Argument(help="Where `yamls/` is made.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Copy the bundled YAMLs and recipes, to be changed."""
    from plm_composer.config.bundled import copy_yamls

    written = copy_yamls(folder)
    if as_json:
        print(json.dumps({"files": [str(path) for path in written]}))
    else:
        print(f"{len(written)} files written to {folder / 'yamls'}; plm train {folder / 'yamls'}/esm2_small.yaml")


def config(
    yaml: Annotated[str, typer.Argument(help="The run's YAML, or the name of a bundled one.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, and recipe=NAME.")] = None,
    explain: Annotated[str | None, typer.Option(metavar="KEY", help="Only say which layer sets this key.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a YAML with its recipes and overrides, print the resolved config, and predict the memory it takes."""
    from plm_composer.config.bundled import find_yaml
    from plm_composer.config.merge import explain_key, to_yaml
    from plm_composer.run.load import load_config

    path = find_yaml(yaml)
    resolved = load_config(path, overrides or [])
    if explain is not None:
        _print_layers(explain, explain_key(path, overrides or [], explain), as_json)
        return
    from plm_composer.model.cost import describe_model
    from plm_composer.run.automatic import choose, wants_choice
    from plm_composer.run.memory import predict_memory
    from plm_composer.run.parts import make_parts

    if wants_choice(resolved):
        resolved = choose(resolved)
    parts = make_parts(resolved)
    predicted = predict_memory(parts)
    if as_json:
        model, memory = parts.model.to_mapping(), predicted.to_mapping()
        print(json.dumps({**dataclasses.asdict(resolved), "resolved_model": model, "memory": memory}))
    else:
        # Comments, so that the output stays a YAML file.
        print(f"{to_yaml(resolved)}# {describe_model(parts.model)}\n# {predicted.describe()}")


def _print_layers(key: str, layers: list[tuple[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"key": key, "layers": [{"source": source, "value": value} for source, value in layers]}))
        return
    print(f"{key} is {json.dumps(layers[-1][1])}")
    width = max(len(source) for source, _ in layers)
    for source, value in layers:
        print(f"  {source:<{width}}  {json.dumps(value)}")


def recipes(
    folder: Annotated[Path | None, typer.Option(help="Default: recipes, yamls/recipes, and the bundled ones.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the speed-up recipes, one line each."""
    from plm_composer.config.recipe_search import describe_recipes, recipe_folders

    found = describe_recipes(recipe_folders() if folder is None else [folder])
    print_result(found, as_json)
