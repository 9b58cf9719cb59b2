"""Methods on real structures, and ``plm contacts`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from plm_composer.cli import app
from plm_composer.config.schema import TrainConfig
from plm_composer.errors import UserError
from plm_composer.evaluation.contacts.attention import Regression, save_regression
from plm_composer.evaluation.contacts.evaluate import evaluate_contacts
from plm_composer.evaluation.contacts.structures import Structure, read_structure
from plm_composer.evaluation.results import read_results
from plm_composer.inference.load import load_trained
from plm_composer.model.esm2 import ESM2
from plm_composer.model.weights.huggingface_folder import save_huggingface
from plm_composer.run_folder import RunFolder
from tests.model.small_models import SMALL, make_model

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def structures() -> dict[str, Structure]:
    return {path.name.split(".")[0]: read_structure(path) for path in sorted(DATA.glob("*cif.gz"))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a tiny model, whose contact head is not fitted."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    path.mkdir()
    model = make_model()
    with torch.no_grad():
        model.contact_head.regression.weight.zero_()
    save_huggingface(model, path)
    return path


@pytest.mark.parametrize("method", ["attention", "head", "jacobian"])
def test_methods(method: str, structures: dict[str, Structure]) -> None:
    tested = [structures["1A8O"], structures["3JQH"]]
    if method == "jacobian":  # of many residues it takes long
        tested = [Structure(each.name, each.sequence[:40], each.contacts[:40, :40]) for each in tested]
    train = [structures["1GBT"], structures["4CUP"]] if method == "attention" else []
    result = evaluate_contacts(make_model(), tested, method, train=train)
    assert (result.kind, result.name) == ("contacts", f"structures {method}")
    assert len(result.scores) == 9
    for score in result.scores.values():
        assert score.low is not None and score.high is not None
        assert 0 <= score.low <= score.value <= score.high <= 1
    assert result.settings["structures"] == 2
    assert result.settings["unresolved_residues"] == sum(each.unresolved for each in tested) > 10
    assert result.settings.get("train_structures") == {"attention": 2, "head": 0}.get(method)


def test_what_a_method_lacks_is_told(structures: dict[str, Structure]) -> None:
    model, tested = ESM2(SMALL), [structures["1A8O"]]
    for method, train, message in (
        ("attention", [], "needs training structures"),
        ("attention", tested, "1A8O_A has the sequence of 1A8O_A, a training structure"),
        ("head", [], "no fitted contact head"),
        ("magic", [], "must be attention, head, jacobian"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate_contacts(model, tested, method, train=train)


def plm(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_structures_are_scored_and_the_regression_kept(folder: Path, tmp_path: Path) -> None:
    train = ["--train-structures", DATA / "1A7G.cif.gz", "--train-structures", DATA / "1GBT.bcif.gz"]
    tested = ["--structures", DATA / "4CUP.cif.gz"]
    saved, out = tmp_path / "contacts.json", tmp_path / "out.h5"
    arguments = ["contacts", folder, *tested, *train, "--save-regression", saved, "--out", out, "--json"]
    found = json.loads(plm(*arguments))
    assert found["settings"]["train_structures"] == 2
    (each,) = found["proteins"]
    assert (each["name"], each["length"], each["unresolved"]) == ("4CUP_A", 117, 2)
    assert each["long_precision_at_L"] == found["scores"]["long_precision_at_L"]["value"]
    with h5py.File(out) as file:
        matrix = file["4CUP_A"][()]
    assert matrix.shape == (117, 117)
    again = json.loads(plm("contacts", folder, *tested, "--regression", saved, "--json"))
    assert again["scores"] == found["scores"]


def test_an_export_brings_its_regression_along(folder: Path, tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(SMALL.num_hidden_layers, SMALL.num_attention_heads))
    save_regression(tmp_path / "contacts.json", Regression(weights.astype(np.float32), -1.0))
    tested = ["--structures", DATA / "4CUP.cif.gz", "--json"]
    expected = json.loads(plm("contacts", folder, *tested, "--regression", tmp_path / "contacts.json"))
    plm("export", folder, tmp_path / "export", "--contacts", tmp_path / "contacts.json")
    found = json.loads(plm("contacts", tmp_path / "export", *tested))
    assert found["settings"]["method"] == "head"
    assert found["scores"] == expected["scores"]


def test_proteins_of_a_fasta(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.fasta").write_text(">one of them\nMKTAYIAKQR\n>two\nACD\n")
    printed = plm("contacts", folder, tmp_path / "a.fasta", "--method", "jacobian", "--out", tmp_path / "o.npz")
    assert "proteins          2" in printed
    with np.load(tmp_path / "o.npz") as file:
        assert {name: file[name].shape for name in file} == {"one": (10, 10), "two": (3, 3)}


def test_a_run_folder_keeps_the_result(folder: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.write_config(TrainConfig())
    run.export.mkdir()
    save_huggingface(load_trained(folder).model, run.export)
    printed = plm("contacts", run.path, "--structures", DATA / "1A8O.cif.gz", "--method", "jacobian")
    (result,) = read_results(run.path)
    assert (result.kind, result.name) == ("contacts", "1A8O.cif.gz jacobian")
    assert f"long_precision_at_L     {result.scores['long_precision_at_L'].value:.4f}" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to do"),
        (["x.fasta"], "--out FILE"),
        (["x.fasta", "--out", "x.npz", "--structures", "a"], "not both"),
        (["--structures", "a", "--method", "magic"], "--method is 'magic'; it must be attention, head, jacobian"),
        (["--structures", "a", "--method", "attention"], "needs --train-structures"),
        (["--structures", "a", "--method", "head", "--regression", "r"], "fits no regression"),
        (["--structures", "a", "--save-regression", "r"], "--save-regression needs --train-structures"),
        (["--structures", "a", "--train-structures", "b", "--regression", "r"], "not both"),
        (["--structures", "none.pdb", "--method", "jacobian"], "none.pdb: there is no such structure"),
        (["none.fasta", "--out", "x.npz"], "none.fasta: no such file"),
        (["{fasta}", "--out", "x.txt"], "must end in"),
        (["{fasta}", "--out", "x.npz"], "no fitted contact head"),
        (["{empty}", "--out", "x.npz"], "empty, without a single FASTA record"),
    ],
)
def test_wrong_options_are_one_line(folder: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "a.fasta").write_text(">a\nMKV\n")
    (tmp_path / "empty.fasta").touch()
    files = {"fasta": tmp_path / "a.fasta", "empty": tmp_path / "empty.fasta"}
    with pytest.raises(UserError, match=message) as error:
        plm("contacts", folder, *(each.format(**files) for each in arguments))
    assert "\n" not in str(error.value)
