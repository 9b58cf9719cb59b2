"""A study from its file to its results: order, restarts, failures, changes; and one study that really trains."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from plm_composer.cli import app
from plm_composer.errors import UserError
from plm_composer.sample import VAL_FASTA
from plm_composer.studies.ablation import run_study, summarise_study
from plm_composer.studies.launching import only_study
from tests.commands import TINY
from tests.studies.fake_runs import FakeLauncher, write_study


def run(path, launch=None, **options):
    said: list[str] = []
    return run_study(path, said.append, launch=launch or FakeLauncher(), **options), said


def test_runs_are_interleaved_and_done_ones_are_skipped(tmp_path) -> None:
    path = write_study(tmp_path)
    launch = FakeLauncher()
    report, _ = run(path, launch, seeds=[1])
    assert launch.launched == [("plain-seed1", False), ("fast-seed1", False)]
    assert [row.done for row in report.summaries] == [1, 1]
    launch = FakeLauncher()
    report, said = run(path, launch)
    assert launch.launched == [("plain-seed2", False), ("fast-seed2", False)]
    assert "[1/4] plain, seed 1: done before" in said
    assert [(row.planned, row.done) for row in report.summaries] == [(2, 2), (2, 2)]
    stored = json.loads((tmp_path / "study" / "runs" / "fast-seed2" / "result.json").read_text())
    assert stored["loss"] == pytest.approx(2.8)
    assert (stored["tokens"], stored["batches"], stored["training_seconds"]) == (400, 4, 6.0)
    assert stored["tokens_per_second"] == pytest.approx(400 / 6)
    assert stored["config"]["optimizer"]["lr"] == 1e-3
    assert stored["config"]["seed"] == 2
    assert [point["tokens"] for point in stored["curve"]] == [200, 400]
    assert all(found.exists() for found in report.files)


def test_an_interrupted_run_continues_from_its_checkpoint_or_else_starts_again(tmp_path) -> None:
    path = write_study(tmp_path)

    class Interrupted(FakeLauncher):
        def __call__(self, run, arguments) -> int:
            super().__call__(run, arguments)
            if run.variant == "fast":
                (run.folder / "checkpoints").mkdir()
                (run.folder / "checkpoints" / "ep0-ba2-rank0.pt").write_text("")
                raise KeyboardInterrupt
            return 0

    with pytest.raises(KeyboardInterrupt):
        run(path, Interrupted())
    half = tmp_path / "study" / "runs" / "plain-seed2"
    half.mkdir()
    (half / "metrics.jsonl").write_text("{}\n")
    (half / "log.txt").write_text("")
    launch = FakeLauncher()
    report, _ = run(path, launch)
    assert launch.launched == [("fast-seed1", True), ("plain-seed2", False), ("fast-seed2", False)]
    assert {(result.variant, result.seed): result.starts for result in report.results}["fast", 1] == 2
    assert "Continued after an interruption" in report.text


def test_a_folder_with_other_files_is_not_deleted(tmp_path) -> None:
    path = write_study(tmp_path)
    other = tmp_path / "study" / "runs" / "plain-seed1"
    other.mkdir(parents=True)
    (other / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="plain-seed1: holds files that are not of a run"):
        run(path, FakeLauncher())
    assert (other / "thesis.tex").read_text() == "precious"


def test_a_failed_run_stops_no_other_and_is_tried_again(tmp_path) -> None:
    path = write_study(tmp_path)
    launch = FakeLauncher(fails=["fast-seed1"])
    report, _ = run(path, launch)
    assert len(launch.launched) == 4
    (failure,) = report.failures
    assert (failure.variant, failure.seed, failure.reason) == ("fast", 1, "exit code 2: error: loss is NaN")
    assert "1/2, 1 failed" in report.text
    assert "runs/fast-seed1/log.txt" in report.text
    again = FakeLauncher()
    report, _ = run(path, again)
    assert again.launched == [("fast-seed1", False)]
    assert not report.failures


def test_a_changed_variant_is_refused_before_anything_runs(tmp_path) -> None:
    run(write_study(tmp_path), seeds=[1])
    path = write_study(tmp_path, variants={"plain": [], "fast": ["optimizer.lr=2e-3"]})
    launch = FakeLauncher()
    with pytest.raises(UserError) as caught:
        run(path, launch)
    assert "study.yaml: variants.fast: has changed since" in str(caught.value)
    assert "optimizer.lr was 0.001 and is 0.002" in str(caught.value)
    assert "--rerun fast" in str(caught.value)
    assert launch.launched == []
    said: list[str] = []
    summarise_study(path, said.append)
    assert "variants.fast: has changed" in said[0]
    run(path, launch, rerun=["fast"])
    assert launch.launched == [("fast-seed1", False), ("plain-seed2", False), ("fast-seed2", False)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {"plain": [], "fast": ["optimizr.lr=1"]}}, "variants.fast: optimizr: there is no such key"),
        (
            {"variants": {"plain": [], "fast": ["optimizer.learn=1"]}},
            "variants.fast: optimizer.learn: there is no such",
        ),
        ({"variants": {"plain": [], "same": []}}, "variants.same: is the same run as plain"),
        ({"variants": {"plain": [], "fast": ["data.local=nowhere"]}}, "variants.fast: data.local: there is no folder"),
        ({"variants": {"plain": ["data.val_split=null"]}}, "variants.plain: data.val_split is null"),
        (
            {"variants": {"plain": [], "causal": ["objective=causal"]}},
            "variants.plain has masked_nll and variants.causal residue_nll, which cannot be compared",
        ),
        ({"variants": {"plain": ["model=auto", "budget=null"]}}, "variants.plain: auto needs a budget"),
        ({"variants": {"plain": ["save_folder=x"]}}, "variants.plain: save_folder is x; all runs would share it"),
        ({"common": ["max_duratoin=1ba"]}, "common: max_duratoin: there is no such key; did you mean 'max_duration'"),
        ({"yaml": "none.yaml"}, "yaml: "),
        ({"evaluation": {"data": "none.fasta"}}, "evaluation.data: "),
    ],
)
def test_everything_is_checked_before_the_first_run(tmp_path, changes, message: str) -> None:
    launch = FakeLauncher()
    with pytest.raises(UserError) as caught:
        run(write_study(tmp_path, **changes), launch)
    assert f"study.yaml: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert launch.launched == []


def test_two_studies_do_not_share_a_folder(tmp_path) -> None:
    path = write_study(tmp_path)
    with (
        only_study(tmp_path / "study"),
        pytest.raises(UserError, match="another plm ablate, or a run that it started, is still running there"),
    ):
        run(path)
    run(path)


def test_the_command_refuses_what_would_do_nothing(tmp_path) -> None:
    path = str(write_study(tmp_path))
    for arguments, message in (
        (["--summarize", "--only", "fast"], "--summarize runs nothing"),
        (["--seeds", "1,x"], "--seeds is '1,x'"),
        (["--only", "plain", "--rerun", "fast"], "--rerun: fast is not among"),
    ):
        result = CliRunner().invoke(app, ["ablate", path, *arguments])
        assert message in str(result.exception)


def test_a_real_study(tmp_path, small_set, repository) -> None:
    common = [*TINY, f"data.local={small_set / 'shards'}"]
    path = write_study(
        tmp_path, common=common, seeds=[1], evaluation={"data": str(VAL_FASTA), "limit": 5},
        variants={"low": ["optimizer.lr=1e-4"], "high": ["optimizer.lr=2e-3"]},
    )  # fmt: skip
    result = CliRunner().invoke(app, ["ablate", str(path), "--json", "--target", "3.4"])
    assert result.exit_code == 0, (result.output, result.exception)
    report = json.loads(result.stdout)
    low, high = report["variants"]
    assert high["loss"]["mean"] < low["loss"]["mean"]
    assert high["difference"]["mean"] == pytest.approx(high["loss"]["mean"] - low["loss"]["mean"])
    first, second = report["runs"]
    assert first["scored_tokens"] == second["scored_tokens"] > 0
    assert first["set_digest"] == second["set_digest"]
    assert [len(found["curve"]) for found in report["runs"]] == [2, 2]
    assert first["seconds"] > first["training_seconds"] > 0
    folder = tmp_path / "study" / "runs" / "high-seed1"
    assert yaml.safe_load((folder / "config.yaml").read_text())["optimizer"]["lr"] == 2e-3
    assert "validation loss" in (folder / "log.txt").read_text()
    summary = CliRunner().invoke(app, ["ablate", str(path), "--summarize"])
    assert summary.exit_code == 0
    assert f"{high['loss']['mean']:.4f}" in summary.stdout
    assert (tmp_path / "study" / "results.md").read_text().strip() == summary.stdout.strip()
