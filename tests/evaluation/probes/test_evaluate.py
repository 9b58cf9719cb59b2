"""Probes of a tiny model: what its embeddings hold is found, and ``plm probe`` as a user types it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from plm_composer.cli import app
from plm_composer.config.schema import TrainConfig
from plm_composer.errors import UserError
from plm_composer.evaluation.probes.evaluate import run_probe
from plm_composer.evaluation.probes.features import WINDOW, baseline_of, embeddings_of
from plm_composer.evaluation.probes.tables import ProbeData
from plm_composer.evaluation.results import read_results
from plm_composer.model.esm2 import ESM2
from plm_composer.model.predict import tokenize
from plm_composer.model.weights.huggingface_folder import save_huggingface
from plm_composer.run_folder import RunFolder
from tests.model.small_models import SMALL, make_model

LETTERS = list("ACDEFGHIKLMNPQRSTVWY")


def _proteins(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(LETTERS, rng.integers(5, 25))) for _ in range(count)]


@pytest.fixture(scope="module")
def model() -> ESM2:
    return make_model()


def _hidden(model: ESM2, sequence: str) -> np.ndarray:
    with torch.no_grad():
        return model.hidden_states(torch.from_numpy(tokenize(sequence))[None])[0, 1:-1].numpy()


def _data(kind: str, sequences: list[str], targets: list, validation: int = 0) -> ProbeData:
    order = np.arange(len(sequences))
    cut = len(sequences) * 2 // 3
    parts = {"train": order[: cut - validation], "validation": order[cut - validation : cut], "test": order[cut:]}
    return ProbeData(kind, order + 1, sequences, targets, **parts)


def test_features_are_hidden_states_without_the_special_tokens(model: ESM2) -> None:
    sequences = ["MKV", "ACDEFGH", "W"]
    means, each = (dict(embeddings_of(model, -1, per_residue)(sequences)) for per_residue in (False, True))
    for index, sequence in enumerate(sequences):
        np.testing.assert_allclose(each[index], _hidden(model, sequence), atol=1e-5)
        np.testing.assert_allclose(means[index][0], _hidden(model, sequence).mean(0), atol=1e-5)


def test_the_baseline_by_hand() -> None:
    ((_, whole),) = baseline_of(False)(["LLAX"])  # the vocabulary begins with L, A; X is none of the 20
    assert whole.shape == (1, 22)
    np.testing.assert_allclose(whole[0, [0, 1, 20, 21]], [0.5, 0.25, 4, np.log(4)], rtol=1e-6)
    ((_, each),) = baseline_of(True)(["LLAX"])
    assert each.shape == (4, 20 * (2 * WINDOW + 1) + 22)
    windows = each[:, :-22].reshape(4, 20, 2 * WINDOW + 1)
    assert windows[2, 1, WINDOW] == windows[2, 0, WINDOW - 1] == windows[2, 0, WINDOW - 2] == 1
    assert windows[2].sum() == 3
    np.testing.assert_array_equal(each[:, -22:], whole.repeat(4, 0))


@pytest.mark.parametrize("validation", [0, 20])
def test_a_number_that_the_embedding_holds_is_found(model: ESM2, validation: int) -> None:
    sequences = _proteins(200)
    direction = np.random.default_rng(1).normal(size=SMALL.hidden_size)
    targets = [float(_hidden(model, each).mean(0) @ direction) for each in sequences]
    outcome = run_probe(model, _data("regression", sequences, targets, validation), name="planted")
    scores = outcome.result.scores
    assert scores["r2"].value > 0.95 > scores["baseline_r2"].value
    assert outcome.result.settings["validation"] == validation
    assert len(outcome.predictions) == len(outcome.baseline) == outcome.result.settings["test"]


def test_a_number_that_composition_holds_is_found_by_the_baseline(model: ESM2) -> None:
    sequences = _proteins(200)
    data = _data("regression", sequences, [each.count("W") / len(each) for each in sequences])
    assert run_probe(model, data).result.scores["baseline_r2"].value > 0.95


def test_other_layers(model: ESM2) -> None:
    sequences = _proteins(100)
    data = _data("classes", sequences, ["long" if len(each) > 15 else "short" for each in sequences])
    outcome = run_probe(model, data, layer=1)
    assert outcome.result.settings["layer"] == 1
    assert outcome.result.scores["baseline_accuracy"].value > 0.9
    assert set(outcome.predictions) <= {"long", "short"}
    with pytest.raises(UserError, match="layer 7"):
        run_probe(model, data, layer=7)


def test_a_letter_for_each_residue(model: ESM2) -> None:
    sequences = _proteins(60)
    targets = ["".join("H" if letter in "AELMQKRH" else "C" for letter in each) for each in sequences]
    outcome = run_probe(model, _data("residues", sequences, targets), layer=0, train_residues=400)
    assert outcome.result.scores["accuracy"].value > 0.9
    assert [len(each) for each in outcome.predictions] == [len(each) for each in sequences[40:]]
    # The window holds the residue itself.
    assert outcome.result.scores["baseline_accuracy"].value > 0.9


def test_too_little_to_learn_from_is_told(model: ESM2) -> None:
    with pytest.raises(UserError, match="4 training proteins are too few"):
        run_probe(model, _data("regression", _proteins(6), [1.0] * 6))
    with pytest.raises(UserError, match="one class only"):
        run_probe(model, _data("classes", _proteins(30), ["a"] * 20 + ["b"] * 10))


def plm(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command(model: ESM2, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.export.mkdir(parents=True)
    run.write_config(TrainConfig())
    save_huggingface(model, run.export)
    lines = [f"{each},{len(each) + 0.5},{'test' if at > 50 else 'train'}" for at, each in enumerate(_proteins(80))]
    (tmp_path / "lengths.csv").write_text("\n".join(["sequence,target,set", *lines]))
    arguments = ["probe", run.path, tmp_path / "lengths.csv", "--target", "target", "--out", tmp_path / "out.csv"]
    found = json.loads(plm(*arguments, "--json"))
    assert found["scores"]["baseline_r2"]["value"] > 0.95
    (result,) = read_results(run.path)
    assert (result.kind, result.name) == ("probe", "lengths target")
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == list(range(52, 81))
    baseline = [float(row["baseline"]) for row in rows]
    np.testing.assert_allclose(baseline, [float(row["target"]) for row in rows], atol=3)
    assert "baseline_r2        0.9" in plm(*arguments)

    for wrong, message in (
        (["--out", tmp_path / "none" / "x.csv"], "there is no folder"),
        (["--target", "none"], "no column 'none'"),
    ):
        with pytest.raises(UserError, match=message):
            plm(*arguments, *wrong)
    with pytest.raises(UserError, match="cannot be written"):
        plm(*arguments, "--out", "/proc/x.csv")
