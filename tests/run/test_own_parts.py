"""Parts that a user registers: found by name, checked like ours, and imported only where a YAML names the file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from plm_composer import load_model
from plm_composer.config.registry import Registry
from plm_composer.errors import UserError
from plm_composer.run.load import load_config
from plm_composer.run.parts import make_parts
from tests.commands import REPOSITORY, TINY, Run

OWN = """
from composer import Algorithm, Callback, Event
from composer.optim import ComposerScheduler
import torch
from plm_composer import register
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2

@register("callbacks", "greeting")
class Greeting(Callback):
    def __init__(self, word: str, times: int = 1) -> None:
        self.word, self.times = word, times

    def fit_start(self, state, logger) -> None:
        print(self.times * self.word)

@register("algorithms", "halving")
class Halving(Algorithm):
    def match(self, event, state) -> bool:
        return event == Event.FIT_START

    def apply(self, event, state, logger) -> None:
        print("halved")

@register("optimizers", "own_sgd")
class OwnSGD(torch.optim.SGD):
    pass

@register("schedulers", "always_half")
class AlwaysHalf(ComposerScheduler):
    def __call__(self, state, ssr: float = 1.0) -> float:
        return 0.5

@register("models", "wide")
class Wide(ESM2):
    preset = ESM2Config(1, 64, 2, 64)

    def head(self, hidden_states):
        return 2 * super().head(hidden_states)

register("models", "own_size")(ESM2Config(1, 24, 2, 48))
"""
IMPORT = "from plm_composer import register\n"
YAML = """
# A run with parts of its own.
code_paths: [own.py]
model: {name: wide}
data: {fasta: sample, crop_length: 32, num_workers: 0}
optimizer: {name: own_sgd, lr: 0.01}
scheduler: {name: always_half}
callbacks: {greeting: {word: 007, times: 2}, lr_monitor: {}}
algorithms: {halving: {}}
max_duration: 3ba
global_train_batch_size: 4
eval_subset_num_batches: 1
precision: fp32
export: false
progress_bar: false
"""


@pytest.fixture
def own_run(tmp_path: Path) -> Path:
    """A YAML and its Python file, in a folder that is not the working folder."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.py").write_text(OWN)
    (folder / "run.yaml").write_text(YAML)
    return folder / "run.yaml"


@pytest.fixture(autouse=True)
def registries() -> object:
    """Puts the registries back, and forgets the files."""
    before = {section: dict(registry) for section, registry in Registry.of.items()}
    yield
    for section, entries in before.items():
        Registry.of[section].clear()
        Registry.of[section].update(entries)
    for name in [name for name in sys.modules if name.startswith("plm_composer_own_code_")]:
        del sys.modules[name]


def test_a_run_uses_them(own_run: Path, tmp_path: Path, run_command: Run) -> None:
    result = run_command("plm", "train", own_run)
    assert result.returncode == 0, result.stderr
    assert "007007" in result.stdout  # text as it was written, since the class says that it is text
    assert "halved" in result.stdout
    lines = [json.loads(line) for line in (tmp_path / "runs" / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [line["lr-OwnSGD/group0"] for line in lines if "lr-OwnSGD/group0" in line]
    assert rates
    assert set(rates) == {0.005}

    # A checkpoint of a class of one's own is read only where its code may run.
    with pytest.raises(UserError, match=r"its model 'wide' is a class in .*own\.py"):
        load_model(tmp_path / "runs" / "run")
    model = load_model(tmp_path / "runs" / "run", trust=True)
    assert type(model).__name__ == "Wide"


def test_a_checkpoint_of_a_size_of_ones_own_needs_no_trust(own_run: Path, tmp_path: Path, run_command: Run) -> None:
    result = run_command(
        "plm", "train", own_run, "model={name: own_size}", "callbacks.greeting=null", "max_duration=1ba"
    )
    assert result.returncode == 0, result.stderr
    assert load_model(tmp_path / "runs" / "run").config.hidden_size == 24
    evaluated = run_command("plm", "embed", "runs/run", tmp_path / "none.fasta", "--out", "x.npz")
    assert "none.fasta" in evaluated.stderr


def test_nothing_is_imported_that_the_yaml_does_not_name(own_run: Path) -> None:
    (own_run.parent / "other.py").write_text("raise RuntimeError('not asked for')")
    make_parts(load_config(own_run))
    assert "greeting" in Registry.of["callbacks"]
    make_parts(load_config(REPOSITORY / "yamls" / "esm2_small.yaml", [*TINY, "run_name=x"]))


def test_a_size_of_ones_own_is_a_preset(own_run: Path) -> None:
    parts = make_parts(load_config(own_run, ["model={name: own_size, hidden_size: 32}", "export=true"]))
    assert (parts.model.hidden_size, parts.model.num_hidden_layers) == (32, 1)


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["callbacks.greeting.tims=2"], OWN, "callbacks.greeting.tims: there is no such argument"),
        (["callbacks.greeting.times=many"], OWN, "callbacks.greeting.times is 'many'; it must be a whole number"),
        (["callbacks.greting={}"], OWN, "callbacks.greting: there is no 'greting'; did you mean 'greeting'?"),
        (["export=true"], OWN, "export: nothing else can load the model 'wide'"),
        (["code_paths=own.py"], OWN, "command line: code_paths: must be a list; write it in brackets"),
        (["code_paths=[none.py]"], OWN, "code_paths: none.py: there is no such file"),
        (["code_paths=[run.yaml]"], OWN, "code_paths: run.yaml: is no Python file"),
        ([], "x = 1\nraise RuntimeError('broken')", "own.py:2: RuntimeError: broken"),
        ([], "def f(:\n", "own.py:1: SyntaxError"),
        ([], IMPORT + "register('callbacks', 'lr_monitor')(dict)", "callbacks.lr_monitor: this name is taken"),
        ([], IMPORT + "register('callbacks', 'mine')(dict)", "callbacks.mine: 'dict' is no Callback"),
        ([], IMPORT + "register('callback', 'mine')(dict)", "register: there is no 'callback'; did you"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(own_run: Path, overrides: list[str], code: str, message: str) -> None:
    (own_run.parent / "own.py").write_text(code)
    with pytest.raises(UserError) as error:
        make_parts(load_config(own_run, overrides))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
