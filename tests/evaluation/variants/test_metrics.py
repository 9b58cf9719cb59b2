"""Metrics are equal to those of the package ``proteingym``, and averages to those of its own script."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import matthews_corrcoef, roc_auc_score

from plm_composer.evaluation.results import Score
from plm_composer.evaluation.variants.metrics import evaluate_assay, ndcg, spearman, spearman_interval, top_recall
from plm_composer.evaluation.variants.summary import AssayScores, summarise


def _their_script() -> ModuleType:
    """Loads the module by its file, because the package's ``__init__`` imports what its wheel does not have."""
    package = importlib.util.find_spec("proteingym")
    assert package is not None and package.submodule_search_locations
    path = Path(package.submodule_search_locations[0]) / "performance_DMS_benchmarks.py"
    spec = importlib.util.spec_from_file_location("performance_DMS_benchmarks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


theirs = _their_script()


def draw(seed: int, mutants: int = 300, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    measured = generator.normal(size=mutants)
    scores = measured + generator.normal(size=mutants)
    return (measured.round(1), scores.round(1)) if ties else (measured, scores)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_equal_to_those_of_the_package(seed: int, ties: bool) -> None:
    measured, scores = draw(seed, ties=ties)
    binary = (measured > 0.3).astype(int)
    found = evaluate_assay(measured, scores, binary)
    frame = pd.DataFrame({"measured": measured, "scores": scores})
    assert found["spearman"].value == pytest.approx(theirs.spearmanr(measured, scores)[0], abs=1e-9)
    assert found["ndcg"].value == pytest.approx(theirs.calc_ndcg(frame.measured, frame.scores), abs=1e-9)
    assert found["top_recall"].value == pytest.approx(theirs.calc_toprecall(measured, scores), abs=1e-9)
    assert found["auc"].value == pytest.approx(roc_auc_score(binary, scores), abs=1e-9)
    above = frame.scores.map(lambda x: 1 if x >= frame.scores.median() else 0)
    assert found["mcc"].value == pytest.approx(matthews_corrcoef(binary, above), abs=1e-9)
    assert found["spearman"].low < found["spearman"].value < found["spearman"].high


def test_what_cannot_be_computed_is_left_out() -> None:
    measured, scores = draw(0)
    assert {"auc", "mcc"}.isdisjoint(evaluate_assay(measured, scores, None))
    assert {"auc", "mcc"}.isdisjoint(evaluate_assay(measured, scores, np.ones(300, dtype=int)))
    assert "ndcg" not in evaluate_assay(measured[:5], scores[:5], None)
    some = (measured > 0).astype(float)
    some[:100] = np.nan
    found = evaluate_assay(measured, scores, some)["auc"].value
    assert found == pytest.approx(roc_auc_score(some[100:], scores[100:]), abs=1e-9)
    constant = np.ones(300)
    assert np.isnan(spearman(measured, constant))
    assert spearman_interval(measured, constant) == (None, None)
    assert np.isnan(ndcg(constant, scores))
    assert top_recall(constant, scores) == pytest.approx(0.1, abs=0.01)


def test_averages_are_those_of_the_leaderboards_script(tmp_path: Path) -> None:
    kinds = ("Activity", "Binding", "Expression", "OrganismalFitness", "Stability")
    depths, taxa = ("Low", "Medium", "High"), ("Human", "Eukaryote", "Prokaryote", "Virus")
    rows, assays = [], []
    for number in range(12):
        name, protein = f"A{number}", f"P{number // 2}"
        measured, scores = draw(number)
        binary = (measured > 0).astype(int)
        table = pd.DataFrame({"mutant": "A1C", "DMS_score": measured, "DMS_score_bin": binary, "ours": scores})
        for folder in ("scores", "assays"):
            (tmp_path / folder).mkdir(exist_ok=True)
            table.to_csv(tmp_path / folder / f"{name}.csv", index=False)
        kind = kinds[number % 5]
        rows.append({
            "DMS_id": name, "DMS_filename": f"{name}.csv", "UniProt_ID": protein, "coarse_selection_type": kind,
            "MSA_Neff_L_category": depths[number % 3], "taxon": taxa[number % 4], "target_seq": "A",
        })  # fmt: skip
        assays.append(AssayScores(name, protein, kind, 300, evaluate_assay(measured, scores, binary)))
    pd.DataFrame(rows).to_csv(tmp_path / "reference.csv", index=False)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_list_zero_shot_substitutions_DMS": {"ours": {"model_type": "PLM"}}})
    )
    (tmp_path / "constants.json").write_text(
        json.dumps({"model_details": {"ours": ""}, "model_references": {"ours": ""}, "clean_names": {}})
    )
    script = tmp_path / "script.py"
    # Fewer samples for its standard errors, which are not compared.
    script.write_text(
        Path(theirs.__file__).read_text().replace("number_assay_reshuffle=10000", "number_assay_reshuffle=5")
    )
    command = [
        sys.executable, str(script), "--input_scoring_files_folder", "scores", "--DMS_data_folder", "assays",
        "--output_performance_file_folder", "out", "--DMS_reference_file_path", "reference.csv",
        "--config_file", "config.json",
    ]  # fmt: skip
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    summary = summarise(assays)
    for theirs_name, ours in {"Spearman": "spearman", "AUC": "auc", "MCC": "mcc", "NDCG": "ndcg", "Top_recall": "top_recall"}.items():  # fmt: skip # noqa: E501
        folder = tmp_path / "out" / theirs_name
        table = pd.read_csv(folder / f"DMS_substitutions_{theirs_name}_Uniprot_Selection_Type_level.csv")
        # The script rounds each assay to three decimals first.
        assert summary.average[ours].value == pytest.approx(table["ours"].iloc[-1], abs=1.5e-3)
        for kind, value in zip(sorted(kinds), table["ours"], strict=False):
            assert summary.by_selection[kind][ours] == pytest.approx(value, abs=1.5e-3)


def test_an_average_of_few_proteins_has_no_interval() -> None:
    one = AssayScores("a", "p", "Activity", 10, {"spearman": Score(0.5)})
    two = AssayScores("b", "q", "Activity", 10, {"spearman": Score(0.7), "auc": Score(0.9)})
    summary = summarise([one, two])
    assert summary.average["spearman"] == Score(pytest.approx(0.6))
    assert summary.average["auc"].value == pytest.approx(0.9)
    many = [AssayScores(str(i), str(i), "Activity", 10, {"spearman": Score(i / 10)}) for i in range(6)]
    interval = summarise(many).average["spearman"]
    assert interval.low is not None and interval.high is not None
    assert 0 <= interval.low < interval.value < interval.high <= 0.5
