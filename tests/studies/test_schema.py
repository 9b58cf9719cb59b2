"""The study file: its keys, and errors of one line."""

import pytest

from plm_composer.errors import UserError
from plm_composer.studies.schema import load_study
from tests.studies.fake_runs import write_study


def test_paths_are_relative_to_the_file_and_the_rest_has_defaults(tmp_path) -> None:
    path = write_study(tmp_path, yaml="../run.yaml", evaluation={"data": "val.fasta", "limit": 3})
    path.write_text("# Why.\n# And how.\n\n" + path.read_text())
    study = load_study(path)
    assert study.purpose == "Why.\nAnd how."
    assert study.yaml == tmp_path / "../run.yaml"
    assert (study.evaluation.data, study.evaluation.limit) == (str(tmp_path / "val.fasta"), 3)
    assert study.out == tmp_path / "study"
    assert study.reference == "plain"
    assert load_study(write_study(tmp_path, out="results")).out == tmp_path / "results"
    assert load_study(write_study(tmp_path, evaluation={"data": "s3://a/b"})).evaluation.data == "s3://a/b"


def test_all_variants_of_a_seed_run_before_the_next(tmp_path) -> None:
    study = load_study(write_study(tmp_path, seeds=[2, 1], variants={"b": [], "a": ["seq=1"], "c": []}))
    assert study.choose() == [(2, "b"), (2, "a"), (2, "c"), (1, "b"), (1, "a"), (1, "c")]
    assert study.choose(["c", "a"], [1]) == [(1, "a"), (1, "c")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [1]}, "study.yaml: seed: there is no such key; did you mean 'seeds'?"),
        ({"evaluation": {"dta": "x"}}, "study.yaml: evaluation.dta: there is no such key; did you mean 'data'?"),
        ({"evaluation": {"limit": 3}}, "study.yaml: evaluation.data: the key is missing"),
        ({"evaluation": {"data": "x", "limit": 0}}, "study.yaml: evaluation.limit is 0"),
        ({"yaml": None}, "study.yaml: yaml: the key is missing"),
        ({"seeds": [1, "x"]}, "study.yaml: seeds[1]: "),
        ({"seeds": []}, "study.yaml: seeds are []; give at least one"),
        ({"seeds": [1, 1]}, "study.yaml: seeds are [1, 1]; give at least one, and each once"),
        ({"variants": {}}, "study.yaml: variants: name at least one"),
        ({"variants": {"a/b": []}}, "study.yaml: variants.a/b: a name may hold letters"),
        ({"variants": {801010: []}}, "study.yaml: variants.801010: YAML reads this name as a number"),
        ({"variants": {"a": "recipe=fast"}}, "study.yaml: variants.a: "),
        ({"variants": {"a": ["seed=3"]}}, "study.yaml: variants.a: seed is set by the study"),
        ({"variants": {"a": ["run_name=x"]}}, "study.yaml: variants.a: run_name is set by the study"),
        ({"common": ["run_folder=x"]}, "study.yaml: common: run_folder is set by the study"),
        ({"reference": "fats"}, "study.yaml: reference: there is no variant 'fats'; did you mean 'fast'?"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, changes, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_study(write_study(tmp_path, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_choices_are_refused(tmp_path) -> None:
    study = load_study(write_study(tmp_path))
    with pytest.raises(UserError, match=r"--only: .* no variant 'fats'; did you mean 'fast'"):
        study.choose(["fats"])
    with pytest.raises(UserError, match=r"--seeds: .* no seed 3; choose from 1, 2"):
        study.choose(seeds=[3])
