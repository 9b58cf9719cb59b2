"""The page of a study."""

import dataclasses

from plm_composer.studies.comparison import summarise
from plm_composer.studies.results import Failure
from plm_composer.studies.schema import load_study
from plm_composer.studies.table import render
from tests.studies.fake_runs import result, write_study


def cells(page: str, variant: str) -> dict[str, str]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    return next(dict(zip(rows[0], row, strict=True)) for row in rows if row[0] == variant)


def test_the_page_shows_the_protocol_and_the_results(tmp_path) -> None:
    path = write_study(tmp_path, seeds=[1, 2, 3])
    path.write_text("# Does a rate help?\n" + path.read_text())
    study = load_study(path)
    results = [result("plain", seed, 3.0 + seed / 100) for seed in (1, 2, 3)]
    results += [result("fast", seed, 2.9 + seed / 50) for seed in (1, 2)]
    failures = [Failure("fast", 3, "exit code 2: error: loss is NaN", "log.txt")]
    page = render(study, summarise(study, results, failures, 3.0), results, failures, 3.0)
    assert page.startswith("# study\n\nDoes a rate help?\n")
    plain, fast = cells(page, "plain"), cells(page, "fast")
    assert (plain["seeds"], plain["loss, nats"], plain["sd"]) == ("3/3", "3.0200", "0.0100")
    assert (plain["min to max"], plain["minus plain"], plain["95 % interval"]) == ("3.0100 to 3.0300", "-", "-")
    assert (fast["seeds"], fast["minus plain"]) == ("2/3, 1 failed", "-0.0850")
    assert fast["95 % interval"].endswith("†")
    assert "† of two pairs: uninformative." in page
    assert (plain["seconds to 3"], fast["seconds to 3"]) == ("-", "1.9")
    assert fast["times as fast as plain"] == "-"
    for text in (
        "max_duration: 4ba", "Machine: a machine", f"Command: `plm ablate {path} --target 3`",
        "- fast: `optimizer.lr=1e-3`", "- fast, seed 3: exit code 2: error: loss is NaN (log.txt)",
    ):  # fmt: skip
        assert text in page


def test_one_seed_has_no_interval_and_some_runs_no_time(tmp_path) -> None:
    study = load_study(write_study(tmp_path))
    results = [result("plain", 1, 3.0), result("fast", 1, 2.9), result("fast", 2, 3.5)]
    page = render(study, summarise(study, results, [], 3.1), results, [], 3.1)
    fast = cells(page, "fast")
    assert (fast["minus plain"], fast["95 % interval"]) == ("-0.1000", "-")
    assert fast["seconds to 3.1"] == "1.8 (1/2)"
    assert "†" not in page


def test_machines_that_differ_are_named(tmp_path) -> None:
    study = load_study(write_study(tmp_path))
    results = [result("plain", 1, 3.0), dataclasses.replace(result("fast", 1, 2.9), machine="another")]
    page = render(study, summarise(study, results, []), results, [])
    assert "Machine: another" in page
    assert "their times cannot be compared" in page


def test_a_study_without_results_has_a_page(tmp_path) -> None:
    study = load_study(write_study(tmp_path))
    assert "No run is finished." in render(study, summarise(study, [], []), [], [])
