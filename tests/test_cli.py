"""The ``plm`` command, as a user types it."""

import dataclasses
import json

import h5py
import numpy as np
import pytest
import yaml
from transformers import AutoTokenizer, EsmForMaskedLM
from typer.testing import CliRunner

from plm_composer.cli import app
from plm_composer.model.weights.huggingface_folder import read_config, save_huggingface
from plm_composer.sample import VAL_FASTA
from tests.model.small_models import SMALL, make_model


def plm(*arguments: object):
    """Runs ``plm`` in this process; errors that the user can mend come out as exceptions."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def result_of(*arguments: object) -> dict:
    result = plm(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def test_config_prints_the_resolved_config(repository) -> None:
    path = repository / "yamls" / "esm2_small.yaml"
    printed = yaml.safe_load(plm("config", path, "recipe=bf16", "seed=3").stdout)
    assert (printed["precision"], printed["seed"]) == ("amp_bf16", 3)
    as_json = result_of("config", path, "recipe=bf16", "seed=3")
    del as_json["memory"], as_json["resolved_model"]
    assert as_json == printed


KINDS = ("weights", "gradients", "optimizer", "activations", "working")


def test_config_predicts_memory_at_a_bound_of_tokens(repository) -> None:
    arguments = ("config", repository / "yamls" / "esm2_650m.yaml", "device=cpu")
    fewer, more = (
        result_of(*arguments, f"device_train_microbatch_tokens={tokens}")["memory"] for tokens in (4096, 16384)
    )
    assert (fewer["microbatch_tokens"], more["microbatch_tokens"]) == (4096, 16384)
    assert more["total"] == sum(more[kind] for kind in KINDS)
    assert fewer["weights"] == more["weights"] == more["gradients"] == pytest.approx(4 * 652e6, rel=0.01)
    # The contact head is not trained.
    assert more["optimizer"] == pytest.approx(2 * more["weights"], rel=1e-5)
    assert more["optimizer"] < 2 * more["weights"]
    assert 3 * fewer["activations"] < more["activations"] < 4 * fewer["activations"]
    recomputed = result_of(*arguments, "activation_checkpointing=true")["memory"]
    assert recomputed["activations"] < fewer["activations"] / 2
    printed = plm(*arguments, "device_train_microbatch_tokens=16384").stdout
    assert "\n# memory: " in printed
    assert " GB a process at 16,384 tokens a microbatch: weights 2.6" in printed


def test_config_predicts_memory_of_proteins_at_their_longest(finished_run, repository) -> None:
    arguments = (
        "config",
        repository / "yamls" / "esm2_small.yaml",
        "data.crop_length=100",
        "global_train_batch_size=8",
    )
    assert "with at most 800 tokens a microbatch: " in plm(*arguments).stdout
    assert result_of(*arguments, "device_train_microbatch_size=2")["memory"]["microbatch_tokens"] == 200
    pretrained = result_of(*arguments, f"model.pretrained={finished_run.folder / 'export'}")["memory"]
    scratch = result_of(*arguments)["memory"]
    assert pretrained["weights"] < scratch["weights"] / 10


def test_recipes_lists_each_with_a_line(repository) -> None:
    listed = result_of("recipes", "--folder", repository / "yamls" / "recipes")
    assert {"baseline", "bf16", "unpadded", "fast", "fsdp"} <= set(listed)
    assert all(len(text) > 20 for text in listed.values())


def test_evaluate(finished_run) -> None:
    scores = result_of("evaluate", finished_run.folder, "--data", VAL_FASTA, "--limit", 5)
    assert scores["proteins"] == 5
    assert np.exp(scores["loss"]) == pytest.approx(scores["perplexity"])
    assert "perplexity" in plm("evaluate", finished_run.folder, "--data", VAL_FASTA, "--limit", 5).stdout


def test_export_with_scores(finished_run, tmp_path) -> None:
    short = tmp_path / "short.fasta"
    short.write_text(">a\nMKVLLA\n>b\nACDEFGHIK\n")
    scores = result_of("export", finished_run.folder, tmp_path / "out", "--data", short)
    EsmForMaskedLM.from_pretrained(tmp_path / "out")
    AutoTokenizer.from_pretrained(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| loss | {scores['loss']:.4f} |" in card
    assert "| proteins | 2 |" in card
    assert "global_train_batch_size: 16" in card
    # Again: an export may be replaced, anything else may not.
    result_of("export", finished_run.folder, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("years")
    refused = str(plm("export", finished_run.folder, tmp_path / "mine").exception)
    assert "config.json would be replaced, but was not written by us" in refused
    assert (tmp_path / "mine" / "config.json").read_text() == "years"


def test_export_for_fair_esm(finished_run, tmp_path) -> None:
    result_of("export", finished_run.folder, tmp_path / "out", "--format", "fair-esm")
    assert (tmp_path / "out" / "esm2_model-contact-regression.pt").is_file()
    assert result_of("evaluate", tmp_path / "out" / "esm2_model.pt", "--data", VAL_FASTA, "--limit", 1)["proteins"] == 1
    refused = str(plm("export", finished_run.folder, tmp_path / "other", "--format", "onnx").exception)
    assert refused == "--format: there is no 'onnx'; choose from huggingface, fair-esm"
    save_huggingface(make_model(dataclasses.replace(SMALL, qk_norm=True)), tmp_path / "variant")
    refused = str(plm("export", tmp_path / "variant", tmp_path / "other", "--format", "fair-esm").exception)
    assert "model.qk_norm: fair-esm supports only ESM2's own value; export to Hugging Face instead" in refused
    assert not (tmp_path / "other").exists()


def test_export_goes_where_it_is_told(finished_run, tmp_path, monkeypatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "notes.txt").write_text("years")
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")
    for target in (".", tmp_path / "link", tmp_path / "real"):
        result_of("export", finished_run.folder, target)
        assert read_config(tmp_path / "real").num_hidden_layers == 2
    assert (tmp_path / "real" / "notes.txt").read_text() == "years"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_embed(finished_run, tmp_path) -> None:
    fasta = tmp_path / "a.fasta"
    fasta.write_text(">long one\nMKVLLA\nMKVLLA\n>b\nACD\n")
    summary = result_of("embed", finished_run.folder, fasta, "--out", tmp_path / "e.npz")
    assert summary["proteins"] == 2
    saved = np.load(tmp_path / "e.npz")
    assert bytes(saved["names"]) == b"long one\nb"
    assert saved["embeddings"].shape == (2, 32)
    result_of("embed", finished_run.folder, fasta, "--out", tmp_path / "r.npz", "--per-residue")
    assert np.load(tmp_path / "r.npz")["embeddings"].shape == (15, 32)
    assert np.load(tmp_path / "r.npz")["offsets"].tolist() == [0, 12, 15]
    words = ("--cls", "--layers", "0,-1", "--dtype", "float16", "--window", "5", "--precision", "fp32")
    result_of("embed", finished_run.folder, fasta, "--out", tmp_path / "l.h5", *words)
    with h5py.File(tmp_path / "l.h5") as file:
        assert (file["embeddings"].shape, file["embeddings"].dtype) == ((2, 2, 32), np.float16)
        assert file["layers"][:].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nowhere", "--data", "x.fasta"], "nowhere: there is no such checkpoint"),
        (["evaluate", "{run}", "--data", "x.fasta"], "x.fasta: there is no such FASTA"),
        (["evaluate", "{run}", "--data", "x.fasta", "--precision", "fp8"], "--precision is 'fp8'"),
        (["evaluate", "{run}", "--data", "x.fasta", "--device", "tpu"], "--device is 'tpu'"),
        (["embed", "{run}", "x.fasta", "--out", "e.txt"], "must end in .npz, .safetensors, .h5 or .parquet"),
        (["embed", "{run}", "x.fasta", "--out", "none/e.npz"], "there is no folder none"),
        (["embed", "{run}", "x.fasta", "--out", "e.npz", "--layers", "a"], "--layers is 'a'; give numbers with commas"),
        (["embed", "{run}", "x.fasta", "--out", "e.npz", "--cls", "--per-residue"], "--per-residue and --cls exclude"),
        (["embed", "{run}", "x.fasta", "--out", "e.npz", "--layers", "9"], "the model has no layer 9"),
        (["embed", "{run}", "x.fasta", "--out", "e.npz"], "x.fasta: no such file"),
        (["config", "none.yaml"], "none.yaml: there is no such file"),
        (["recipes", "--folder", "none"], "no such folder of recipes"),
    ],
)
def test_wrong_input_is_one_line(finished_run, arguments: list[str], message: str) -> None:
    result = plm(*(argument.format(run=finished_run.folder) for argument in arguments))
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def test_the_command_exits_with_2_and_no_traceback(run_command) -> None:
    result = run_command("plm", "evaluate", "nowhere", "--data", "x.fasta")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: nowhere: there is no such checkpoint or folder\n"


def test_config_says_which_layer_sets_a_key(repository) -> None:
    path = repository / "yamls" / "cramming_small.yaml"
    printed = plm("config", path, "optimizer.lr=0.01", "--explain", "optimizer.lr").stdout.splitlines()
    assert printed[0] == "optimizer.lr is 0.01"
    assert [line.split()[-1] for line in printed[1:]] == ["0.02", "0.01"]
    assert "recipes/cramming.yaml" in printed[1]
    layers = result_of("config", path, "--explain", "data.crop_length")["layers"]
    assert layers == [{"source": "default", "value": 512}, {"source": str(path), "value": 512}]


def test_config_shows_the_model_that_the_yaml_comes_to(repository) -> None:
    shown = plm("config", "cramming_small").stdout.splitlines()[-2]
    assert shown.startswith("# model: 1,8")
    assert "4 layers, 192 wide, 3 heads of 64" in shown
    assert "qk_norm True" in shown
