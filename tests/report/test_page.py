"""The page, read as its reader reads it, and compared with the files that it is made of."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from plm_composer.budget.ledger import open_ledger
from plm_composer.cli import app
from plm_composer.errors import UserError
from plm_composer.evaluation.results import Result, Score, write_result
from plm_composer.model.config import ESM2Config
from plm_composer.model.cost import training_flops
from plm_composer.report.page import write_report
from plm_composer.report.runs import read_run
from tests.commands import TINY, run_here
from tests.report.conftest import MARKUP
from tests.report.pages import Page

SECTIONS = {"headline", "loss", "efficiency", "time", "evaluations", "config"}


def copy_of(run: Path, tmp_path: Path, name: str = "run") -> Path:
    """The files of a run that a report reads, to be changed."""
    folder = tmp_path / name
    folder.mkdir()
    for file in run.iterdir():
        if file.is_file() and file.name != "report.html":
            shutil.copy(file, folder)
    return folder


def page_of(tmp_path: Path, *runs: Path) -> Page:
    return Page(write_report(runs, tmp_path / "page.html"))


def last_values(run: Path) -> dict[str, float]:
    merged: dict[str, float] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        merged |= json.loads(line)
    return merged


def test_a_run_ends_with_a_report(measured_run) -> None:
    page = Page(measured_run / "report.html")
    assert set(page.text) >= SECTIONS
    last = last_values(measured_run)
    headline = " ".join(page.text["headline"].split())
    assert f"Validation loss {last['metrics/eval/masked_nll']:.4f} nats" in headline
    assert f"Perplexity {last['metrics/eval/perplexity']:.2f}" in headline
    assert f"Tokens {last['tokens']:,} " in headline
    assert f"Training time {last['seconds']:.1f} s" in headline
    assert "finished" in page.text[""]
    # Loss against tokens, time and FLOPs; accuracy, learning rate, throughput, MFU, memory and waiting.
    assert (page.charts["loss"], page.charts["efficiency"]) == (3, 6)
    assert "notes" not in page.text
    for label in ("tokens trained", "training time, seconds", "model FLOPs", "loss, nats per predicted token", "train"):
        assert label in page.labels
    assert f"validation {last['metrics/eval/masked_nll']:.3f}" in page.labels


def test_the_validations_are_those_of_the_metrics(measured_run) -> None:
    lines = map(json.loads, (measured_run / "metrics.jsonl").read_text().splitlines())
    losses = {line["batch"]: line["metrics/eval/masked_nll"] for line in lines if "metrics/eval/masked_nll" in line}
    rows = Page(measured_run / "report.html").rows["loss"][1:]
    assert [(row[0], row[4]) for row in rows] == [(str(batch), f"{loss:.4f}") for batch, loss in losses.items()]


def test_every_value_of_the_config_says_what_set_it(measured_run) -> None:
    rows = {row[0]: row[1:] for row in Page(measured_run / "report.html").rows["config"]}
    assert rows["model.hidden_size"] == ["32", "command line"]
    assert rows["data.batch_format"] == ["unpadded", "recipe unpadded"]
    assert rows["optimizer.name"] == ["adamw", "yamls/esm2_small.yaml"]
    assert rows["dist_timeout"] == ["600.0", "default"]
    assert rows["run_name"] == [MARKUP, "command line"]


def test_names_are_text_and_no_markup(measured_run) -> None:
    page = Page(measured_run / "report.html")
    assert MARKUP in page.text[""]
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == 0
    # In the headline alone, for numbers.
    assert page.tags["b"] == 6


def test_flops_are_the_cost_models(measured_run) -> None:
    run = read_run(measured_run)
    model = ESM2Config(2, 32, 4, 128)
    tokens = int(run.metrics.last("tokens"))
    # All proteins in the smallest pieces and nothing masked, or all as long as a crop and all masked.
    least = training_flops(model, [1] * tokens, 0)
    most = training_flops(model, [64] * math.ceil(tokens / 64), tokens)
    assert least < run.final["flops"] < most
    # The window's FLOPs per token, over all tokens, with the lag of a window of two batches.
    rates = [run.metrics.column(name) for name in ("throughput/flops_per_sec", "throughput/tokens_per_sec")]
    assert run.final["flops"] == pytest.approx(np.nanmean(rates[0] / rates[1]) * tokens, rel=0.02)
    assert 0 < run.final["mfu"] < 1


def test_the_ledger_and_evaluations_are_shown(measured_run, tmp_path) -> None:
    folder = copy_of(measured_run, tmp_path)
    ledger = open_ledger(folder, 90.0, False, time.time() - 50)
    ledger.charge("training")
    ledger.finish()
    write_result(folder, Result("variants", "<assay>", {"spearman": Score(0.412, 0.35, 0.47), "auc": Score(0.7)}))
    write_result(folder, Result("contacts", "x", {"precision": Score(0.2, 0.1, 0.3)}, {"proteins": 150}))
    page = page_of(tmp_path, folder)
    assert page.rows["time"] == [["start-up", "50.0 s", "100 %"]]
    assert "50.0 s, 56 % of the budget of 90.0 s" in " ".join(page.text["time"].split())
    assert [row[:3] for row in page.rows["evaluations"] if row[0] != "data"] == [
        ["xproteins 150", "0.200", "0.100 to 0.300"],
        ["<assay>", "0.412", "0.350 to 0.470"],
        ["<assay>", "0.700", ""],
    ]


def test_runs_are_compared(measured_run, finished_run, tmp_path) -> None:
    for folder, score in ((measured_run, 0.3), (finished_run.folder, 0.4)):
        copied = copy_of(folder, tmp_path, folder.name)
        write_result(copied, Result("variants", "assay", {"spearman": Score(score, score - 0.1, score + 0.1)}))
    page = page_of(tmp_path, tmp_path / measured_run.name, tmp_path / finished_run.folder.name)
    assert set(page.text) >= SECTIONS
    header, *rows = page.rows["headline"]
    losses = [last_values(run)["metrics/eval/masked_nll"] for run in (measured_run, finished_run.folder)]
    assert [row[header.index("Validation loss, nats")] for row in rows] == [f"{loss:.4f}" for loss in losses]
    assert [row[0].splitlines()[0] for row in rows] == [f"{MARKUP}finished", "esm2_smallfinished"]
    differences = {row[0]: row[1:] for row in page.rows["differences"]}
    assert differences["max_duration"] == ["8ba", "6ba"]
    assert differences["recipe"] == ["unpadded", "null"]
    assert "run_name" not in differences
    assert "seed" not in differences
    assert [row[2] for row in page.rows["evaluations"]] == ["spearman", "0.300", "0.400"]
    # The other run is shorter than its monitor's window, which is told instead of drawn.
    assert "esm2_small: Throughput was not logged." in page.text["notes"]
    assert (page.charts["loss"], page.charts["efficiency"]) == (3, 6)


def test_what_was_not_logged_is_told_and_leaves_no_empty_axes(finished_run, tmp_path) -> None:
    page = page_of(tmp_path, finished_run.folder)
    assert (page.charts["loss"], page.charts["efficiency"]) == (2, 4)
    for note in (
        "Loss against FLOPs is not drawn",
        "Throughput is not drawn: it was not logged.",
        "Model FLOPs utilisation (MFU) is not drawn",
    ):
        assert note in page.text["notes"]


def test_a_run_that_goes_on(measured_run, tmp_path) -> None:
    folder = copy_of(measured_run, tmp_path)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:3]) + lines[3][:50])
    page = page_of(tmp_path, folder)
    assert "not finished: 3 batches so far" in page.text[""]
    assert "The last line of metrics.jsonl" in page.text["notes"]
    assert "There was no validation." in page.text["notes"]
    (folder / "metrics.jsonl").write_text("")
    page = page_of(tmp_path, folder)
    assert "no batch yet" in page.text[""]
    assert "No loss has been logged yet." in page.text["notes"]
    assert page.tags["svg"] == 0
    (folder / "metrics.jsonl").unlink()
    assert "no batch yet" in page_of(tmp_path, folder).text[""]


def test_runs_of_versions_that_kept_no_sources(measured_run, tmp_path) -> None:
    folder = copy_of(measured_run, tmp_path)
    (folder / "config_sources.json").unlink()
    page = page_of(tmp_path, folder)
    assert "it is not known what set each value" in page.text["notes"]
    assert ["model.hidden_size", "32", "not recorded"] in page.rows["config"]
    (folder / "config.yaml").unlink()
    assert "There is no config.yaml yet." in page_of(tmp_path, folder).text["notes"]


def plm(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_replaces_reports_and_nothing_else(measured_run, tmp_path) -> None:
    out = tmp_path / "report.html"
    for _ in range(2):
        result = plm("report", measured_run, "--out", out, "--json")
        assert json.loads(result.stdout) == {"out": str(out), "runs": [str(measured_run)]}
    (tmp_path / "notes.html").write_text("<html>years</html>")
    with pytest.raises(UserError, match="is there already and no report"):
        write_report([measured_run], tmp_path / "notes.html")
    assert (tmp_path / "notes.html").read_text() == "<html>years</html>"


@pytest.mark.parametrize(
    ("runs", "out", "message"),
    [
        (["{tmp}/none"], "x.html", "none: there is no such folder"),
        (["{tmp}"], "x.html", "not a run folder: it has neither metrics.jsonl nor config.yaml"),
        (["{run}", "{run}/."], "x.html", "this run is named twice"),
        (["{run}"], "none/x.html", "none/x.html: there is no folder"),
        (["{run}"], ".", "is a folder; name a file"),
        (["{run}"], "/proc/x.html", "cannot write /proc/x.html"),
    ],
)
def test_what_cannot_be_done_is_one_line(measured_run, tmp_path, runs, out, message) -> None:
    result = plm("report", *(run.format(run=measured_run, tmp=tmp_path) for run in runs), "--out", tmp_path / out)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ledger.json", "{", "ledger.json: cannot be read"),
        ("ledger.json", '{"budget": 1}', "ledger.json: not a ledger"),
        ("config_sources.json", "[1]", "config_sources.json: cannot be read"),
        ("config.yaml", "a: [", "config.yaml:2: not valid YAML"),
        ("evaluations/x.json", "{}", "x.json: not a result of an evaluation"),
    ],
)
def test_a_damaged_file_is_named(measured_run, tmp_path, name, content, message) -> None:
    folder = copy_of(measured_run, tmp_path)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_run(folder)


def test_a_report_that_fails_is_a_warning_and_report_false_writes_none(tmp_path) -> None:
    """The run ends as without: its file's place is taken by somebody's own."""
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "report.html").write_text("mine")
    command = ("plm", "train", "esm2_small", *TINY, "max_duration=1ba", "export=false", "save_folder=null")
    failed = run_here(tmp_path, *command, "run_name=x")
    assert failed.returncode == 0
    (warning,) = [line for line in failed.stderr.splitlines() if "report" in line]
    assert warning.startswith("warning: no report.html: ")
    assert "is there already and no report" in warning
    assert "report" not in failed.stdout
    assert (tmp_path / "runs" / "x" / "report.html").read_text() == "mine"
    without = run_here(tmp_path, *command, "run_name=y", "report=false")
    assert without.returncode == 0
    assert "report" not in without.stdout
    assert not (tmp_path / "runs" / "y" / "report.html").exists()
