"""``plm score`` and ``plm perplexity``, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from plm_composer.cli import app
from plm_composer.errors import UserError
from plm_composer.evaluation.results import read_results
from plm_composer.model.weights.huggingface_folder import save_huggingface
from tests.evaluation.plain_loop import PlainLoop, ratio, small_model

TARGET = "MKTAYIAKQR"
ASSAY = "mutant,mutated_sequence,DMS_score,note\nK2W,MWTAYIAKQR,0.10,a\nK2A:R10G,MATAYIAKQG,-1,\nQ9L,MKTAYIAKLR,2,c\n"


def plm(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_huggingface(small_model(), folder)
    return folder


@pytest.fixture
def assay(tmp_path: Path) -> Path:
    path = tmp_path / "TOY_Me_2026.csv"
    path.write_text(ASSAY)
    return path


def test_scores_stand_beside_the_rows_as_they_were_written(model: Path, assay: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    result = plm("score", model, assay, "--out", out)
    assert result.exit_code == 0, result.output
    assert "TOY_Me_2026" in result.stdout and "Spearman" in result.stdout
    written = pd.read_csv(out, dtype=str, keep_default_na=False)
    assert written.drop(columns="score").to_csv(index=False) == ASSAY
    loop = PlainLoop(small_model(), tmp_path / "plain")
    wanted = ratio(loop.masked(TARGET, 1), "K", "W")
    assert float(written["score"][0]) == pytest.approx(wanted, abs=1e-5)
    metrics = pd.read_csv(tmp_path / "scores.metrics.csv")
    assert list(metrics["assay"]) == ["TOY_Me_2026"] and list(metrics["mutants"]) == [3]


def test_several_assays_are_averaged_as_the_leaderboard_does(model: Path, assay: Path, tmp_path: Path) -> None:
    other = tmp_path / "OTHER.csv"
    other.write_text(ASSAY)
    reference = tmp_path / "reference.csv"
    row = "{0}.csv,{0},{1},{2},Activity\n"
    lines = "DMS_filename,DMS_id,UniProt_ID,target_seq,coarse_selection_type\n"
    reference.write_text(lines + row.format("TOY_Me_2026", "P1", TARGET) + row.format("OTHER", "P2", TARGET))
    out = tmp_path / "scores.csv"
    result = plm("score", model, assay, other, "--reference", reference, "--method", "pll", "--out", out, "--json")
    found = json.loads(result.stdout)
    each = [one["scores"]["spearman"]["value"] for one in found["assays"]]
    assert found["average"]["spearman"]["value"] == pytest.approx(np.mean(each))
    assert list(pd.read_csv(out)["assay"]) == ["TOY_Me_2026"] * 3 + ["OTHER"] * 3
    plm("score", model, assay, other, "--method", "wt-marginals", "--out", tmp_path / "folder")
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [
        "OTHER.csv", "TOY_Me_2026.csv", "metrics.csv"
    ]  # fmt: skip


def test_a_result_is_kept_in_the_run_folder(model: Path, assay: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("# The resolved config of a run, written by plm-composer.\n")
    (run / "export").symlink_to(model)
    assert plm("score", run, assay, "--method", "wt-marginals").exit_code == 0
    one, average = read_results(run)
    assert (average.kind, average.name) == ("variants", "average of 1 assay (wt-marginals, optimal, fp32)")
    assert average.settings == {"method": "wt-marginals", "window": "optimal", "precision": "fp32", "mutants": 3}
    assert one.name.startswith("TOY_Me_2026 (") and "spearman" in one.scores


def test_a_scan_is_a_matrix(model: Path, tmp_path: Path) -> None:
    fasta = tmp_path / "two.fasta"
    fasta.write_text(f">first one\n{TARGET}\n>second\nGGA\n")
    assert plm("score", model, "--scan", fasta, "--out", tmp_path / "scan.csv").exit_code == 0
    assert plm("score", model, "--scan", fasta, "--out", tmp_path / "scan.npz").exit_code == 0
    table, arrays = pd.read_csv(tmp_path / "scan.csv"), np.load(tmp_path / "scan.npz")
    assert list(table["residue"]) == list(f"{TARGET}GGA") and list(table["position"][-3:]) == [1, 2, 3]
    assert list(arrays) == ["first", "second"] == list(dict.fromkeys(table["protein"]))
    np.testing.assert_allclose(table[list("ACDEFGHIKLMNPQRSTVWY")][:10], arrays["first"], atol=1e-12)
    assert table["K"][1] == 0 and table["W"][1] != 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name assays to score, or a FASTA with --scan"),
        (("{assay}", "--scan", "x.fasta"), "not both"),
        (("--scan", "x.fasta"), "--scan needs --out"),
        (("--scan", "{fasta}", "--out", "x.txt"), r"x\.txt: the file must end in"),
        (("--scan", "{fasta}", "--out", "{fasta}.npz"), "two proteins are named 'one'"),
        (("{assay}", "--method", "esm1v"), "--method is 'esm1v'; choose from masked-marginals, wt-marginals"),
        (("{assay}", "--out", "x.tsv"), r"x\.tsv: name a file that ends in \.csv, or a folder"),
        (("{assay}", "--out", "{assay}"), "is an input, and is not replaced"),
        (("{assay}", "{assay}"), "two assays are named TOY_Me_2026"),
        (("{scored}", "--out", "x.csv"), "has a column 'score' already; rename it"),
        (("{unmeasured}",), "no assay has a column DMS_score"),
        (("{unmeasured}", "--sequence", "M" * 300), "line 2: K2W, but residue 2 of the target is M"),
        (("{assay}", "--method", "pll", "--mask-together"), "--mask-together belongs to --method masked-marginals"),
        (("{assay}", "--window", "best"), "--window is 'best'; choose from optimal, sliding, preceding, none"),
        (("{assay}", "--sequence", "no.fasta"), "neither residues nor a file"),
        (("{assay}", "--sequence", "MKTAYIAKQ"), "line 3: position 10 lies outside the target"),
        (("nowhere",), "nowhere: there is no such assay"),
        (("{assay}", "--out", "nowhere/scores.csv"), "nowhere/scores.csv: there is no folder nowhere"),
        (("{assay}", "--reference", "none.csv"), "none.csv: cannot be read as CSV"),
    ],
)
def test_what_is_wrong_is_one_line(model: Path, assay: Path, arguments: tuple[str, ...], message: str) -> None:
    fasta = assay.with_suffix(".fasta")
    fasta.write_text(f">one\n{TARGET}\n>one again\n{TARGET}\n")
    scored, unmeasured = assay.with_name("scored.csv"), assay.with_name("unmeasured.csv")
    scored.write_text("mutant,mutated_sequence,score\nK2W,MWTAYIAKQR,1\n")
    unmeasured.write_text("mutant,mutated_sequence\nK2W,MWTAYIAKQR\n")
    paths = {"assay": assay, "fasta": fasta, "scored": scored, "unmeasured": unmeasured}
    with pytest.raises(UserError, match=message):
        plm("score", model, *(argument.format(**paths) for argument in arguments))
    assert assay.read_text() == ASSAY


def test_perplexities_are_printed_and_written(model: Path, tmp_path: Path) -> None:
    fasta = tmp_path / "two.fasta"
    fasta.write_text(f">first\n{TARGET}\n>second\nGGA\n")
    out = tmp_path / "perplexities.csv"
    found = json.loads(plm("perplexity", model, fasta, "--out", out, "--json").stdout)
    loop = PlainLoop(small_model(), tmp_path / "plain")
    total = loop.pll(TARGET) + loop.pll("GGA")
    assert found["pseudo"] == pytest.approx(np.exp(-total / 13), rel=1e-5)
    table = pd.read_csv(out)
    assert list(table["protein"]) == ["first", "second"] and list(table["residues"]) == [10, 3]
    quick = json.loads(plm("perplexity", model, fasta, "--one-pass", "--json").stdout)
    assert "pseudo" not in quick and quick["unmasked"] == pytest.approx(found["unmasked"])
    fasta.write_text("")
    with pytest.raises(UserError, match="without a single FASTA record"):
        plm("perplexity", model, fasta)
