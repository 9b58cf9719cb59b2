"""2,000 YAMLs with something wrong in them: each is a checked config or one line, never another exception."""

from __future__ import annotations

import copy
import errno
import random
import string
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from plm_composer.config.schema import TrainConfig
from plm_composer.errors import UserError
from plm_composer.model.config import ESM2Config
from plm_composer.run import automatic
from plm_composer.run.amount import Amount
from plm_composer.run.automatic import choose, wants_choice
from plm_composer.run.load import load_config
from plm_composer.run.parts import make_parts
from plm_composer.run.step_timing import Speed, random_batch

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore:FSDP2")]

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 3, 1e30, -0.5, float("nan"), float("inf"), 10**30, "", " ", "x", "1ep", "10ba", "-3ba",
    "0dur", "2dur", "1e3", "${run_name}", "${nothing}", "${", "é\u0000", "../..", "/", "s3://", "null", [], [1], [[]],
    {}, {"name": "adamw"}, {"name": None}, {"a": {"b": 1}}, {1: 2}, {None: 1}, "a" * 10_000,
]  # fmt: skip
"""What stands where something else should."""


def _paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(node, dict):
        for key, value in node.items():
            found += _paths(value, (*path, key))
    return found


def _change_values(text: str, generator: random.Random) -> str:
    content = yaml.safe_load(text)
    for _ in range(generator.randint(1, 3)):
        paths = _paths(content)
        if not paths:
            break
        *parents, last = generator.choice(paths)
        node = content
        for key in parents:
            node = node[key]
        action = generator.random()
        if action < 0.7:
            # A copy: the next change may go into it, and into itself.
            node[last] = copy.deepcopy(generator.choice(VALUES))
        elif action < 0.85:
            del node[last]
        else:
            node["".join(generator.choices(string.ascii_lowercase, k=4))] = node.pop(last)
    return yaml.safe_dump(content, allow_unicode=True)


def _change_bytes(text: str, generator: random.Random) -> str:
    characters = list(text)
    for _ in range(generator.randint(1, 6)):
        where = generator.randrange(len(characters))
        action = generator.randrange(3)
        if action == 0:
            characters[where] = generator.choice(string.printable)
        elif action == 1:
            del characters[where]
        else:
            characters.insert(where, generator.choice(":{}[]#&*!|>'\"%@`-\t\n\x00é"))
    return "".join(characters)


def _check(path: Path) -> None:
    """Does what a start does before it reads data."""
    config = load_config(path)
    if wants_choice(config):
        config = choose(config)
    make_parts(config)


def test_no_yaml_ends_in_another_exception(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def steady(config: TrainConfig, _model: ESM2Config, amount: Amount, _device: torch.device) -> Speed:
        random_batch(config, amount, 1)
        return Speed(1e5, 1e11)

    monkeypatch.setattr(automatic, "measure", steady)
    texts = [path.read_text() for path in sorted((repository / "yamls").glob("*.yaml"))]
    path = tmp_path / "fuzzed.yaml"
    refused = 0
    for seed in range(2_000):
        generator = random.Random(seed)
        change = generator.choice([_change_values, _change_bytes])
        path.write_text(change(generator.choice(texts), generator))
        try:
            _check(path)
        except OSError as error:
            # A name that no file can have, of which every command says so (plm_composer.errors.run_command).
            assert error.errno == errno.ENAMETOOLONG, f"seed {seed}: {error}"
        except UserError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1, f"seed {seed}: {error}"
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}\n{path.read_text()}")
    assert refused > 500
